"""What `openclara adapt` gains in a domain the default model has not seen.

    python benchmarks/adaptation.py data/train/single.jsonl.gz --source policyqa

Passages are split by title (of PolicyQA: by web site). Records are synthesised from one part;
people's own questions about the other part are asked before and after. Each question's candidates
are its passage and others of the same title, so that finding it takes more than the topic. Other
options than its own are those of `openclara adapt`. Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openclara.cli.app import run
from openclara.data.records import read_records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.data.records import Passage, Record

N_CANDIDATES = 10


def main() -> int:
    """Split, adapt, print."""
    options, more = _options()
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        record for record in read_records(options.records) if record.source == options.source
    ]
    if not records:
        print(f"{options.records} has no record of source {options.source}", file=sys.stderr)
        return 1
    seen = [r for r in records if not _held_out(r.passages[0].title, options.held_out)]
    unseen = [r for r in records if _held_out(r.passages[0].title, options.held_out)]
    _write_corpus(folder / "corpus.jsonl", seen, options.documents)
    _write_questions(folder / "questions.jsonl", unseen, options.questions)
    return run(
        [
            "adapt",
            str(folder / "corpus.jsonl"),
            "--output",
            str(folder / "adapted"),
            "--questions",
            str(folder / "questions.jsonl"),
            "--eval-limit",
            str(options.questions),
            "--json",
            *more,
        ]
    )


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--source", default="policyqa")
    parser.add_argument("--output", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--held-out", type=float, default=0.3, help="part of the titles")
    parser.add_argument("--documents", type=int, default=1000, help="passages to learn from")
    parser.add_argument("--questions", type=int, default=400, help="asked before and after")
    return parser.parse_known_args()


def _held_out(title: str, part: float) -> bool:
    digest = hashlib.sha256(title.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < part


def _write_corpus(path: Path, records: Sequence[Record], limit: int) -> None:
    passages = list({r.passages[0].full_text: r.passages[0] for r in records}.values())
    chosen = random.Random(0).sample(passages, min(limit, len(passages)))
    rows = [
        {"id": f"{at:05d}", "title": one.title, "text": one.text} for at, one in enumerate(chosen)
    ]
    _write(path, rows)


def _write_questions(path: Path, records: Sequence[Record], limit: int) -> None:
    by_title: dict[str, dict[str, Passage]] = {}
    for record in records:
        passage = record.passages[0]
        by_title.setdefault(passage.title, {})[passage.full_text] = passage
    everything = {text: one for own in by_title.values() for text, one in own.items()}
    dice = random.Random(0)
    rows = []
    # Of several questions with one id, as for passages that occur twice, one is asked.
    own = list({record.id: record for record in records}.values())
    for record in dice.sample(own, min(limit, len(own))):
        gold = record.passages[0]
        near = [one for text, one in by_title[gold.title].items() if text != gold.full_text]
        dice.shuffle(near)
        near = near[: N_CANDIDATES - 1]
        known = {gold.full_text, *(one.full_text for one in near)}
        far = [one for text, one in everything.items() if text not in known]
        candidates = [gold, *near, *dice.sample(far, min(len(far), N_CANDIDATES - 1 - len(near)))]
        dice.shuffle(candidates)
        rows.append(
            {
                "id": record.id,
                "question": record.pairs[0].question,
                "answers": list(record.pairs[0].answers),
                "documents": [
                    {"title": one.title, "text": one.text, "gold": one is gold}
                    for one in candidates
                ],
            }
        )
    _write(path, rows)


def _write(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
