"""How many passages the generator should answer from, by questions that no training run read.

    python benchmarks/top_k.py data/train/single.jsonl.gz data/train/multi.jsonl.gz

Takes the records of training files that recipes hold out, puts the passages of all of them into one
index, and asks each question with the k best passages of a search as `openclara ask` searches.
Prints F1 and the part of answers that hold an accepted one, in percent, for records with one gold
passage and with several apart, with 95 % bootstrap intervals over questions; differences to five
passages are paired. JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import machine
from tqdm import tqdm

from openclara import Clara, Document, LatentIndex
from openclara.config import RuntimeConfig
from openclara.data.records import read_records
from openclara.evaluation.metrics import best, cover_match, f1, interval
from openclara.model.generator import Decoding
from openclara.training.examples import is_held_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openclara.data.records import Record

COMPARED_WITH = 5
SOURCES = ("squad-train", "squadshifts-wiki", "nq-uda", "popqa", "2wiki", "hotpotqa", "musique")
"""What the recipes of the default model train on."""
MAX_NEW_TOKENS = 24


def main() -> None:
    """Index, ask with each k, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--k", type=int, nargs="*", default=[1, 2, 3, COMPARED_WITH])
    parser.add_argument("--limit", type=int, default=100, help="questions of each file")
    parser.add_argument("--sources", nargs="*", default=SOURCES, help="beginnings of their names")
    options = parser.parse_args()
    clara = Clara.load(options.model)
    sources = tuple(options.sources)
    records = [
        record
        for file in options.files
        for record in islice(held_out(file, sources), options.limit)
    ]
    with tempfile.TemporaryDirectory() as folder:
        index = LatentIndex.open(Path(folder) / "index", clara.latent_spec)
        documents = passages(records)
        index.add(clara.compress(tqdm(documents, "passages", disable=None)))
        texts = {k: answers(clara, index, records, k) for k in options.k}
        index.close()
    kinds: dict[str, Callable[[Record], bool]] = {
        "one gold passage": lambda record: n_gold(record) == 1,
        "several": lambda record: n_gold(record) > 1,
        "all": lambda record: True,
    }
    result: dict[str, Any] = {
        "machine": machine(),
        "model": options.model,
        "n_memory": clara.card.default_n_memory,
        "passages": len(documents),
    }
    for kind, wanted in kinds.items():
        positions = [at for at, record in enumerate(records) if wanted(record)]
        result[kind] = {"n": len(positions)}
        for name, score in (("f1", f1), ("holds_answer", cover_match)):
            per_k = {
                k: [100 * best(score, own[at], records[at].pairs[0].answers) for at in positions]
                for k, own in texts.items()
            }
            result[kind][name] = {
                k: {
                    "mean": interval(values),
                    f"over_{COMPARED_WITH}": interval(
                        [a - b for a, b in zip(values, per_k[COMPARED_WITH], strict=True)]
                    ),
                }
                for k, values in per_k.items()
            }
    print(json.dumps(result, indent=2))


def held_out(file: Path, sources: tuple[str, ...]) -> Iterator[Record]:
    """Records with questions that every recipe keeps out of training."""
    part = RuntimeConfig().held_out
    for record in read_records(file):
        if record.source.startswith(sources) and record.pairs and is_held_out(record, part):
            yield record


def n_gold(record: Record) -> int:
    """Passages that a record's answer needs."""
    return sum(passage.gold for passage in record.passages)


def passages(records: list[Record]) -> list[Document]:
    """The passages of all records, each once."""
    unique = {passage.full_text: passage for record in records for passage in record.passages}
    return [
        Document(str(at), passage.text, passage.title) for at, passage in enumerate(unique.values())
    ]


def answers(clara: Clara, index: LatentIndex, records: list[Record], k: int) -> list[str]:
    """One answer for the first question of each record."""
    decoding = Decoding(max_new_tokens=MAX_NEW_TOKENS)
    asked = [record.pairs[0].question for record in records]
    found = []
    for start in tqdm(range(0, len(asked), 8), f"k = {k}", disable=None):
        batch = clara.ask(asked[start : start + 8], index, k=k, decoding=decoding)
        found += [answer.text for answer in batch]
    return found


if __name__ == "__main__":
    main()
