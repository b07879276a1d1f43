"""How well each way of searching finds the passages that answer a question.

    python benchmarks/retrieval.py

Indexes the bundled passages in a temporary folder and searches for every bundled question. Recall@k
is the fraction of a question's gold passages, one or two, among the first k hits, so that Recall@1
of a question with two is at most a half; printed as JSON are its means with 95 % bootstrap
intervals over questions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from machine import machine

from openclara import Clara, LatentIndex
from openclara.corpus import passages, questions
from openclara.evaluation.metrics import interval
from openclara.types import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara import Hit
    from openclara.corpus import CorpusQuestion

CUTOFFS = (1, 5)


def main() -> None:
    """Index, search in every mode, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n-memory", type=int)
    options = parser.parse_args()
    clara = Clara.load(options.model, n_memory=options.n_memory)
    asked = questions()
    with (
        tempfile.TemporaryDirectory() as folder,
        LatentIndex.open(Path(folder) / "i", clara.latent_spec) as index,
    ):
        index.add(clara.compress(passages()))
        n_passages = len(index)
        modes = {mode: recalls(clara, index, asked, mode) for mode in get_args(Mode)}
    result = {
        "machine": machine(),
        "model": options.model,
        "n_memory": clara.latent_spec.n_memory,
        "passages": n_passages,
        "n": len(asked),
        "modes": modes,
    }
    print(json.dumps(result, indent=2))


def recalls(
    clara: Clara, index: LatentIndex, asked: Sequence[CorpusQuestion], mode: Mode
) -> dict[str, Any]:
    """Mean, low and high of Recall@k for each cutoff."""
    found = clara.search([one.question for one in asked], index, k=max(CUTOFFS), mode=mode)
    pairs = list(zip(asked, found, strict=True))
    return {
        f"recall@{k}": interval([recall(one, hits[:k]) for one, hits in pairs]) for k in CUTOFFS
    }


def recall(one: CorpusQuestion, hits: Sequence[Hit]) -> float:
    """Fraction of the gold passages among the hits."""
    gold = set(one.passages)
    return len(gold & {hit.document.id for hit in hits}) / len(gold)


if __name__ == "__main__":
    main()
