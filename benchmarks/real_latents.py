"""Latents of real passages and questions by the default model, for `scale.py`.

    python benchmarks/real_latents.py PASSAGES QUESTIONS OUT.safetensors

PASSAGES are JSON Lines with title and text, QUESTIONS with question and documents (both may be
gzipped). Of each question its first document is compressed too, so that answers are there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from openclara import Clara, Document

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """Compress and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("passages", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n-passages", type=int, default=4500)
    parser.add_argument("--n-questions", type=int, default=500)
    parser.add_argument(
        "--n-memory", type=int, help="memory tokens; as many as the model's card says"
    )
    options = parser.parse_args()
    chooser = random.Random(0)
    asked = list(records(options.questions))
    chooser.shuffle(asked)
    asked = [row for row in asked if len(row["documents"][0]["text"]) > 80][: options.n_questions]
    passages = list(records(options.passages))
    chooser.shuffle(passages)
    golds = [row["documents"][0] for row in asked]
    documents = [
        Document(str(number), row["text"][:1000], row["title"])
        for number, row in enumerate([*golds, *passages[: options.n_passages]])
    ]
    clara = Clara.load(n_memory=options.n_memory)
    questions_QPD = clara.reason([row["question"] for row in asked])
    # The first stretch of each: one row a document.
    latents_NMD = torch.cat([item.latents[:1] for item in clara.compress(documents)])
    tensors = {"documents": latents_NMD.bfloat16(), "questions": questions_QPD.float()}
    save_file(tensors, options.out)


def records(path: Path) -> Iterator[Any]:
    """Lines of a JSON Lines file."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
