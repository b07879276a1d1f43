"""The loss of people's answers under two models, paired: finer than F1 where few are right.

    python benchmarks/answer_loss.py QUESTIONS smollm2-135m runs/adaptation/adapted/instruct

QUESTIONS is the `questions.jsonl` that `benchmarks/adaptation.py` leaves in its folder. Each is
asked from the latents of its gold passage, and from those of another question's: the loss of the
first answer in nats per token. A model that only learned the manner of the answers gains alike with
either; what it gains more with the right one came through the latents. Prints JSON, with 95 %
bootstrap intervals over questions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flow import loss
from machine import machine

from openclara import Clara
from openclara.data.records import read_records
from openclara.evaluation.metrics import interval
from openclara.training.examples import Example


def main() -> None:
    """Ask both models, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", type=Path)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--n-memory", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--limit", type=int, default=300)
    options = parser.parse_args()
    models = {side: Clara.load(getattr(options, side)) for side in ("before", "after")}
    asked = examples(options.questions, models["before"], options.limit)
    rates = {}
    for n_memory in options.n_memory:
        right, wrong = (
            {
                side: [
                    loss(clara, one, asked[(at + shift) % len(asked)].texts[0], n_memory)
                    for at, one in enumerate(asked)
                ]
                for side, clara in models.items()
            }
            for shift in (0, 1)
        )
        gains = [
            [a - b for a, b in zip(losses["after"], losses["before"], strict=True)]
            for losses in (right, wrong)
        ]
        rates[n_memory] = {
            "right_passage": {side: interval(losses) for side, losses in right.items()},
            "wrong_passage": {side: interval(losses) for side, losses in wrong.items()},
            "change_with_the_right": interval(gains[0]),
            "change_with_another": interval(gains[1]),
            "change_through_the_latents": interval(
                [a - b for a, b in zip(*gains, strict=True)],
            ),
        }
    result = {"machine": machine(), "n": len(asked), "models": [options.before, options.after]}
    print(json.dumps(result | {"rates": rates}, indent=2))


def examples(path: Path, clara: Clara, limit: int) -> list[Example]:
    """Questions with their gold passage, as token ids, cut as documents are when compressed."""
    tokenizer, longest = clara.tokenizer, clara.card.doc_max_length
    found: list[Example] = []
    for record in read_records(path):
        gold = next((one for one in record.passages if one.gold), None)
        if gold is None or len(found) == limit:
            continue
        pair = record.pairs[0]
        text, question, answer = tokenizer.encode([gold.full_text, pair.question, pair.answers[0]])
        found.append(Example((text[:longest],), (0,), ((question, answer),), True, held_out=True))
    return found


if __name__ == "__main__":
    main()
