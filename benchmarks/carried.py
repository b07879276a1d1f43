"""Do answers come from what the memory tokens carry: the bundled questions, gold passage given.

    python benchmarks/carried.py --n-memory 16 64

For each question on one passage: whether an accepted answer stands among the tokens that the memory
tokens carry, whether the answer from the latents holds an accepted one, and whether that of the
same generator from the full text does. Prints counts as JSON. Right is what `openclara demo` calls
right.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from answers import answered
from machine import machine
from picks import carried_tokens

from openclara import Clara
from openclara.cli.demo import holds
from openclara.corpus import passages, questions
from openclara.data.records import Pair, Passage, Record

if TYPE_CHECKING:
    from openclara import Document
    from openclara.corpus import CorpusQuestion
    from openclara.types import Context


def main() -> None:
    """Answer from the text once and from latents at each rate, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n-memory", type=int, nargs="*", default=[64])
    options = parser.parse_args()
    clara = Clara.load(options.model)
    documents = {document.id: document for document in passages()}
    asked = [
        record(one, documents[one.passages[0]]) for one in questions() if len(one.passages) == 1
    ]
    rates = {}
    for n_memory in options.n_memory:
        right = right_ones(clara, asked, n_memory=n_memory)
        carried = [is_carried(clara, one, n_memory) for one in asked]
        both = list(zip(carried, right, strict=True))
        rates[n_memory] = {
            "carried": sum(carried),
            "right": sum(right),
            "right of carried": sum(c and r for c, r in both),
            "right of not carried": sum(r and not c for c, r in both),
        }
    text = sum(right_ones(clara, asked, context="text"))
    result = {"machine": machine(), "model": options.model, "n": len(asked), "rates": rates}
    print(json.dumps({**result, "right from the full text": text}, indent=2))


def record(asked: CorpusQuestion, passage: Document) -> Record:
    """A bundled question on one passage as the records of other files are."""
    gold = Passage(passage.text, passage.title, gold=True)
    return Record(asked.id, (gold,), (Pair(asked.question, tuple(asked.answers)),))


def right_ones(
    clara: Clara,
    asked: list[Record],
    *,
    context: Context = "latents",
    n_memory: int | None = None,
) -> list[bool]:
    """Whether each answer holds an accepted one."""
    texts, _ = answered(clara, asked, context=context, n_memory=n_memory)
    return [holds(text, one.pairs[0].answers) for text, one in zip(texts, asked, strict=True)]


def is_carried(clara: Clara, asked: Record, n_memory: int) -> bool:
    """Whether the tokens of an accepted answer follow one another among those carried."""
    answers = [f" {answer}" for answer in asked.pairs[0].answers]
    ids, *wanted = clara.tokenizer.encode([asked.passages[0].full_text, *answers])
    carried = carried_tokens(clara, ids, n_memory)
    return any(
        carried[at : at + len(answer)] == answer
        for answer in wanted
        for at in range(len(carried) - len(answer) + 1)
    )


if __name__ == "__main__":
    main()
