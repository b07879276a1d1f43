"""What a text reader makes of the tokens that memory tokens carry, before any latent is learned.

    python benchmarks/picks.py recipes/baselines/text.toml --data-root data

Takes the held-out records of a recipe, first question each, and prints the mean loss of the answer
in nats per token when `--reader` reads the passages as text, the passages cut to their first
tokens, or as many tokens as the memory tokens of `--model` carry, in the order of the text; with
95 % bootstrap intervals over questions, differences paired, as JSON. No latent is involved.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from machine import machine

from openclara import Clara
from openclara.config import RunConfig, read_recipe
from openclara.data.batches import prompt_batch, text_batch
from openclara.evaluation.metrics import interval
from openclara.training.examples import Example, load_examples
from openclara.training.losses import answer_loss

DOCUMENTS = 5


def main() -> None:
    """Measure at each number of tokens, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--reader", default="runs/baselines/text")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, nargs="*", default=[16, 32, 64])
    options = parser.parse_args()
    recipe = read_recipe(RunConfig, options.recipe, {"data_root": options.data_root})
    reader, model = Clara.load(options.reader), Clara.load(options.model)
    held_out = load_examples(recipe, reader.tokenizer).held_out
    asked = [example for example in held_out if example.is_question]
    shown = [documents(example) for example in asked]

    def losses(cut: int | None, carried: int | None) -> list[float]:
        found = []
        for example, texts in zip(asked, shown, strict=True):
            read = [text[:cut] for text in texts]
            if carried is not None:
                read = [carried_tokens(model, text, carried) for text in texts]
            found.append(loss(reader, example, read))
        return found

    counts = {}
    for n_tokens in options.tokens:
        first, carried = losses(n_tokens, None), losses(None, n_tokens)
        counts[n_tokens] = {
            "first": interval(first),
            "carried": interval(carried),
            "carried_over_first": interval([b - a for a, b in zip(first, carried, strict=True)]),
        }
    result = {
        "machine": machine(),
        "reader": options.reader,
        "model": options.model,
        "n": len(asked),
        "whole": interval(losses(None, None)),
        "nothing": interval(losses(0, None)),
        "tokens": counts,
    }
    print(json.dumps(result, indent=2))


def documents(example: Example) -> list[list[int]]:
    """Up to five documents, the gold ones among others, in the same order for every side."""
    rng = random.Random(0)
    gold = list(example.gold[:DOCUMENTS])
    others = [at for at in range(len(example.texts)) if at not in gold]
    rng.shuffle(others)
    shown = gold + others[: DOCUMENTS - len(gold)]
    rng.shuffle(shown)
    return [example.texts[at] for at in shown]


@torch.inference_mode()
def carried_tokens(clara: Clara, text: list[int], n_memory: int) -> list[int]:
    """The tokens that the memory tokens carry, in the order of the text."""
    tokenizer = clara.tokenizer
    batch = text_batch([text], n_memory=n_memory, bos=tokenizer.bos, eos=tokenizer.eos)
    model = clara.model
    states_RTD = model.text_states(batch)
    anchors = model.memory.anchors(batch.ids_RT, batch.text_lengths_R, n_memory, states_RTD)
    framed = batch.ids_RT[0].tolist()
    return [framed[at] for at in sorted(set(anchors.at_RM[0].tolist())) if at > 0]


@torch.inference_mode()
def loss(clara: Clara, example: Example, texts: list[list[int]]) -> float:
    """Mean loss of the first answer, given texts."""
    chat = clara.tokenizer.chat
    question, answer = example.turns[0]
    prompt = prompt_batch(
        [
            [
                (chat.before_background, False),
                (chat.text_background(texts), False),
                (chat.question(question), False),
                ((*answer, *chat.after_answer[:1]), True),
            ]
        ]
    )
    return float(answer_loss(*clara.model.answer_logits(prompt, None)))


if __name__ == "__main__":
    main()
