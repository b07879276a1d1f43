"""A small evaluation: four houses, their builders, a corpus with passages nobody asks about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from openclara.config import EvalConfig

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("Utzon", "Moore", "Lovelace", "Noether", "Turing", "Curie", "Darwin", "Euler")


def passage_of(number: int) -> dict:
    # Short enough for the tiny model to hold it in one stretch.
    return {"title": f"House {number}", "text": f"Number {number} is by {NAMES[number]}."}


def write_task(folder: Path, *, n_questions: int = 8) -> None:
    rows = []
    for i in range(n_questions):
        documents = [{**passage_of((i + j) % 8), "gold": j == 2} for j in range(5)]
        rows.append(
            {
                "id": f"q{i}",
                "question": f"Who built number {(i + 2) % 8}?",
                "answers": [NAMES[(i + 2) % 8], "somebody"],
                "documents": documents,
            }
        )
    (folder / "houses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = [{"id": str(i), **passage_of(i)} for i in range(8)]
    corpus += [{"id": f"x{i}", "title": "", "text": f"A river runs {i} miles."} for i in range(12)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))


def recipe_of(folder: Path, model: Path | str, **changes) -> EvalConfig:
    latents = {"model": str(model), "n_memory": 4}
    tree = {
        "output": folder / "out",
        "data_root": folder,
        "k": 2,
        "n_candidates": 4,
        "max_new_tokens": 6,
        "batch": 3,
        "device": "cpu",
        "precision": "fp32",
        "reference": "full text",
        "tasks": [{"name": "houses", "records": "houses.jsonl", "corpus": "corpus.jsonl"}],
        "rankers": [
            {"kind": "random", "name": "random"},
            {"kind": "bm25", "name": "BM25"},
            {"kind": "gold", "name": "gold"},
            {"kind": "latent", "name": "reasoner", **latents},
            {"kind": "hybrid", "name": "hybrid", **latents},
        ],
        "systems": [
            {"reader": "none", "name": "closed book", "model": str(model)},
            {"reader": "text", "name": "full text", "ranker": "BM25", "model": str(model)},
            {
                "reader": "text",
                "name": "sentences",
                "ranker": "BM25",
                "model": str(model),
                "adapters": False,
                "shorten": "sentences",
            },
            {"reader": "latents", "name": "latents", "ranker": "reasoner", **latents},
        ],
        "fidelity": {"model": str(model), "n_memory": [2, 4], "passages": 3},
    }
    return EvalConfig.model_validate({**tree, **changes})
