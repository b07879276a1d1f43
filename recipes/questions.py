"""Ask questions of plain passages by rules, for recipes/further/read.toml.

    python recipes/questions.py --data-root data

Draws passages of Wikipedia from the training data, leaves out those that stand in an evaluation
set (they are known by how they begin), writes the rest to `runs/passages.jsonl` and has
`openclara synthesize recipes/questions.toml` ask. Takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSAGES = Path("runs/passages.jsonl")
"""As recipes/questions.toml names it."""
SEED = 0
BEGINNING = 120
"""Characters by which passages are told apart."""


def main() -> None:
    """Draw, write, ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--limit", type=int, default=15_000, help="passages to ask about")
    options = parser.parse_args()
    evaluated = {
        beginning(document["text"])
        for path in sorted((options.data_root / "eval").glob("*.jsonl.gz"))
        if ".corpus." not in path.name
        for row in rows(path)
        for document in row["documents"]
    }
    passages = [
        {"title": row["title"], "text": row["text"]}
        for row in rows(options.data_root / "train" / "passages.jsonl.gz")
        if row["source"].startswith("wikipedia") and beginning(row["text"]) not in evaluated
    ]
    random.Random(SEED).shuffle(passages)
    PASSAGES.parent.mkdir(parents=True, exist_ok=True)
    with PASSAGES.open("w", encoding="utf-8") as file:
        for number, passage in enumerate(passages[: options.limit]):
            file.write(json.dumps({"id": str(number), **passage}, ensure_ascii=False) + "\n")
    recipe = Path(__file__).with_suffix(".toml")
    command = [sys.executable, "-m", "openclara", "synthesize", str(recipe)]
    sys.exit(subprocess.run(command, check=False).returncode)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a packed file of JSON Lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def beginning(text: str) -> str:
    """How a passage begins, blanks aside."""
    return " ".join(text.split())[:BEGINNING]


if __name__ == "__main__":
    main()
