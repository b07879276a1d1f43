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

from machine import machine
from picks import carried_tokens

from openclara import Clara
from openclara.cli.demo import holds
from openclara.corpus import passages, questions
from openclara.data.records import framed
from openclara.model.generator import Decoding

if TYPE_CHECKING:
    from openclara import Document
    from openclara.corpus import CorpusQuestion
    from openclara.types import Context

BATCH = 16
MAX_NEW_TOKENS = 24


def main() -> None:
    """Answer from the text once and from latents at each rate, count, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n-memory", type=int, nargs="*", default=[64])
    options = parser.parse_args()
    clara = Clara.load(options.model)
    documents = {document.id: document for document in passages()}
    asked = [(one, documents[one.passages[0]]) for one in questions() if len(one.passages) == 1]
    rates = {}
    for n_memory in options.n_memory:
        right = answered(clara, asked, "latents", n_memory)
        carried = [is_carried(clara, one, document, n_memory) for one, document in asked]
        both = list(zip(carried, right, strict=True))
        rates[n_memory] = {
            "carried": sum(carried),
            "right": sum(right),
            "right of carried": sum(c and r for c, r in both),
            "right of not carried": sum(r and not c for c, r in both),
        }
    text = sum(answered(clara, asked, "text", None))
    result = {"machine": machine(), "model": options.model, "n": len(asked), "rates": rates}
    print(json.dumps({**result, "right from the full text": text}, indent=2))


def answered(
    clara: Clara,
    asked: list[tuple[CorpusQuestion, Document]],
    context: Context,
    n_memory: int | None,
) -> list[bool]:
    """Whether each answer holds an accepted one."""
    right = []
    for first in range(0, len(asked), BATCH):
        batch = asked[first : first + BATCH]
        hits = [
            clara.read([document], n_memory=n_memory, with_latents=context == "latents")
            for _, document in batch
        ]
        answers = clara.answer(
            [one.question for one, _ in batch],
            hits,
            context=context,
            decoding=Decoding(max_new_tokens=MAX_NEW_TOKENS),
        )
        right += [holds(a.text, one.answers) for a, (one, _) in zip(answers, batch, strict=True)]
    return right


def is_carried(clara: Clara, asked: CorpusQuestion, document: Document, n_memory: int) -> bool:
    """Whether the tokens of an accepted answer follow one another among those carried."""
    text = framed(document.title, document.text)
    ids, *answers = clara.tokenizer.encode([text, *(f" {answer}" for answer in asked.answers)])
    carried = carried_tokens(clara, ids, n_memory)
    return any(
        carried[at : at + len(answer)] == answer
        for answer in answers
        for at in range(len(carried) - len(answer) + 1)
    )


if __name__ == "__main__":
    main()
