"""What a model answers from nothing, from latents, and from the full text, on one record file.

    python benchmarks/answers.py data/eval/squad.jsonl.gz --limit 500

Each question is asked on its own gold passages, so retrieval plays no part. The same generator
answers in every row; `base, full text` is the base without any adapter. Prints a table and, with
--json, everything that is in it; predictions go to --predictions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openclara import Clara, Document
from openclara.data.records import read_records
from openclara.evaluation.metrics import best, cover_match, exact_match, f1, interval
from openclara.model.generator import Decoding

if TYPE_CHECKING:
    from openclara.data.records import Record
    from openclara.types import Context

BATCH = 16
MAX_NEW_TOKENS = 24


def main() -> None:
    """Ask, score, print."""
    options = _options()
    records = list(islice(read_records(options.records), options.limit))
    clara = Clara.load(options.model, precision=options.precision)
    rates = options.n_memory or sorted({clara.card.default_n_memory, clara.card.n_memory})
    systems: dict[str, dict[str, Any]] = {"closed book": {"context": "none"}}
    for n_memory in rates:
        systems[f"latents, {clara.card.doc_max_length / n_memory:g}x"] = {"n_memory": n_memory}
    systems["full text"] = {"context": "text"}
    systems["base, full text"] = {"context": "text", "base": True}
    rows: dict[str, Any] = {}
    predictions: dict[str, list[str]] = {}
    for name, how in systems.items():
        started = time.perf_counter()
        texts, prompt_tokens = answered(clara, records, **how)
        predictions[name] = texts
        rows[name] = _score(records, texts) | {
            "prompt_tokens": sum(prompt_tokens) / len(prompt_tokens),
            "seconds": time.perf_counter() - started,
        }
        print(f"{name}: F1 {rows[name]['f1'][0]:.4f}", file=sys.stderr)
    closed = rows["closed book"]["per_question_f1"]
    for row in rows.values():
        paired = [a - b for a, b in zip(row["per_question_f1"], closed, strict=True)]
        row["f1_over_closed_book"] = interval(paired)
    for row in rows.values():
        del row["per_question_f1"]
    if options.predictions:
        _write_predictions(options.predictions, records, predictions)
    result = {
        "records": options.records.name,
        "n": len(records),
        "model": options.model,
        "max_new_tokens": MAX_NEW_TOKENS,
        "systems": rows,
    }
    print(json.dumps(result, indent=2) if options.json else _table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--n-memory", type=int, nargs="*")
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _documents(record: Record) -> list[Document]:
    gold = [passage for passage in record.passages if passage.gold] or list(record.passages)
    return [Document(id=str(i), text=p.text, title=p.title) for i, p in enumerate(gold)]


def answered(
    clara: Clara,
    records: list[Record],
    *,
    context: Context = "latents",
    n_memory: int | None = None,
    base: bool = False,
) -> tuple[list[str], list[int]]:
    """Greedy answers in batches of like prompts, and the length of each prompt."""
    hits = [
        clara.read(
            [] if context == "none" else _documents(record),
            n_memory=n_memory,
            with_latents=context == "latents",
        )
        for record in records
    ]
    texts, prompt_tokens = [""] * len(records), [0] * len(records)
    order = sorted(range(len(records)), key=lambda i: sum(hit.n_tokens for hit in hits[i]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        answers = clara.answer(
            [records[i].pairs[0].question for i in batch],
            [hits[i] for i in batch],
            context=context,
            role=None if base else "generator",
            decoding=Decoding(max_new_tokens=MAX_NEW_TOKENS),
        )
        for i, answer in zip(batch, answers, strict=True):
            texts[i], prompt_tokens[i] = answer.text, answer.usage.prompt_tokens
    return texts, prompt_tokens


def _score(records: list[Record], texts: list[str]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for name, metric in (("f1", f1), ("em", exact_match), ("cover", cover_match)):
        values = [
            best(metric, text, record.pairs[0].answers)
            for record, text in zip(records, texts, strict=True)
        ]
        scores[name] = interval(values)
        if name == "f1":
            scores["per_question_f1"] = values
    return scores


def _write_predictions(
    path: Path, records: list[Record], predictions: dict[str, list[str]]
) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i, record in enumerate(records):
            line = {
                "id": record.id,
                "question": record.pairs[0].question,
                "answers": record.pairs[0].answers,
                "predictions": {name: texts[i] for name, texts in predictions.items()},
            }
            file.write(json.dumps(line) + "\n")


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['records']}, first {result['n']}, gold passages given, model {result['model']}; "
        "per cent, 95 % bootstrap intervals",
        "",
        "| answered from | F1 | over closed book | EM | cover-EM | prompt tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["systems"].items():
        cells = [_percent(row[key]) for key in ("f1", "f1_over_closed_book", "em", "cover")]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['prompt_tokens']:.0f} |")
    return "\n".join(lines)


def _percent(value: Any) -> str:
    mean, low, high = (100 * part for part in value)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
