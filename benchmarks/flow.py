"""Does anything flow through the latents: answer loss with the right passage and with another.

    python benchmarks/flow.py recipes/compress.toml --data-root data

Takes the held-out single passages of a recipe, first question each, and prints the mean answer
loss in nats per token from the latents of the question's own passage, from those of another
passage, and the paired difference, with 95 % bootstrap intervals over questions; as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from machine import machine

from openclara import Clara
from openclara.config import RunConfig, read_recipe
from openclara.data.batches import prompt_batch, text_batch
from openclara.evaluation.metrics import interval
from openclara.training.examples import load_examples
from openclara.training.losses import answer_loss

if TYPE_CHECKING:
    from openclara.training.examples import Example


def main() -> None:
    """Measure at each rate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n-memory", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    recipe = read_recipe(RunConfig, options.recipe, {"data_root": options.data_root})
    clara = Clara.load(options.model)
    held_out = load_examples(recipe, clara.tokenizer).held_out
    asked = [example for example in held_out if example.is_question][: options.limit]
    rates = {}
    for n_memory in options.n_memory:
        own = [loss(clara, e, e.texts[0], n_memory) for e in asked]
        others = [*asked[1:], asked[0]]
        other = [loss(clara, e, o.texts[0], n_memory) for e, o in zip(asked, others, strict=True)]
        rates[n_memory] = {
            "own": interval(own),
            "another": interval(other),
            "difference": interval([b - a for a, b in zip(own, other, strict=True)]),
        }
    result = {"machine": machine(), "model": options.model, "n": len(asked), "rates": rates}
    print(json.dumps(result, indent=2))


@torch.inference_mode()
def loss(clara: Clara, example: Example, text: list[int], n_memory: int) -> float:
    """Mean loss of the first answer, given the latents of a text."""
    tokenizer, chat, model = clara.tokenizer, clara.tokenizer.chat, clara.model
    batch = text_batch([text], n_memory=n_memory, bos=tokenizer.bos, eos=tokenizer.eos)
    latents_RMD = model.encode(batch, "compressor").latents_RMD
    question, answer = example.turns[0]
    prompt = prompt_batch(
        [
            [
                (chat.before_background, False),
                (chat.background(1, n_memory), False),
                (chat.question(question), False),
                ((*answer, *chat.after_answer[:1]), True),
            ]
        ]
    )
    logits_LV, targets_L = model.answer_logits(prompt, model.in_reading_order(latents_RMD))
    return float(answer_loss(logits_LV, targets_L))


if __name__ == "__main__":
    main()
