"""Time to the first answer token: from a stored index, against the full text of the same passages.

    python benchmarks/first_token.py

The latent side counts everything: embedding the question, searching the index, reading the stored
latents, and the prompt. The text side is given the same five passages for nothing and counts the
prompt alone, once as this library reads it and once as transformers does, on the same weights with
its fused attention. Same precision, same process, in turn; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine, spread
from texts import passages_of

from openclara import Clara, LatentIndex
from openclara.model.base import choose_device, choose_dtype, find_base, load_lm
from openclara.model.generator import Decoding
from openclara.types import CompressedDocument, Document

QUESTION = "Which of these buildings was finished first, and who designed it?"
ONE_TOKEN = Decoding(max_new_tokens=1)


def main() -> None:
    """Build an index of real and filler documents, ask in both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n-memory", type=int, default=16)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    clara = Clara.load(options.model, n_memory=options.n_memory)
    documents = passages_of_tokens(clara, options.tokens, options.k)
    with tempfile.TemporaryDirectory() as folder:
        index = LatentIndex.open(Path(folder) / "bench.idx", clara.latent_spec)
        index.add(clara.compress(documents))
        index.add(filler(clara, options.documents - len(documents)))
        plain = PlainReader(clara)
        times: dict[str, list[float]] = {"latents": [], "text": [], "text_transformers": []}
        tokens = {}
        for number in range(options.rounds + 2):
            answer = clara.ask(QUESTION, index, k=options.k, mode="hybrid", decoding=ONE_TOKEN)
            text = clara.ask(QUESTION, documents=documents, context="text", decoding=ONE_TOKEN)
            tokens = {"latents": answer.usage.prompt_tokens, "text": text.usage.prompt_tokens}
            plain_ms = plain.first_token_ms(tokens["text"])
            if number < 2:
                continue  # the first rounds pay for merging and warming up
            times["latents"].append(answer.usage.first_token_ms)
            times["text"].append(text.usage.first_token_ms - text.usage.search_ms)
            times["text_transformers"].append(plain_ms)
        index.close()
    result: dict[str, Any] = {
        "machine": machine(),
        "documents": options.documents,
        "k": options.k,
        "passage_tokens": options.tokens,
        "n_memory": clara.latent_spec.n_memory,
        "prompt_tokens": tokens,
        "first_token_ms": {name: spread(values) for name, values in times.items()},
        "ratio": {
            name: spread([a / b for a, b in zip(times[name], times["latents"], strict=True)])
            for name in ("text", "text_transformers")
        },
    }
    print(json.dumps(result, indent=2))


class PlainReader:
    """The base as transformers loads it, told only to compute the last position's logits."""

    def __init__(self, clara: Clara) -> None:
        device = choose_device()
        self.lm = load_lm(find_base(clara.card.base), device=device, dtype=choose_dtype(device))
        self.lm.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def first_token_ms(self, n_tokens: int) -> float:
        """Milliseconds for a prompt of so many tokens; which ones they are makes no difference."""
        ids_BT = torch.arange(100, 100 + n_tokens, device=self.lm.device).unsqueeze(0)
        started = time.perf_counter()
        self.lm(input_ids=ids_BT, use_cache=True, logits_to_keep=1).logits.argmax(-1).item()
        return (time.perf_counter() - started) * 1000


def passages_of_tokens(clara: Clara, n_tokens: int, count: int) -> list[Document]:
    """Passages cut to exactly so many tokens."""
    made = []
    for document in passages_of(n_tokens, count):
        spans = clara.tokenizer.offsets([document.text])[0]
        made.append(Document(id=document.id, text=document.text[: spans[n_tokens - 1][1]].strip()))
    return made


def filler(clara: Clara, count: int) -> list[CompressedDocument]:
    """Documents with made-up latents: they cost the search what real ones would."""
    spec = clara.latent_spec
    chooser = torch.Generator().manual_seed(0)
    documents = passages_of(60, count)
    return [
        CompressedDocument(
            document,
            tuple(clara.chunk(document)),
            torch.randn(1, spec.n_memory, spec.width, generator=chooser),
        )
        for document in documents
    ]


if __name__ == "__main__":
    main()
