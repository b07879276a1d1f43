"""Time to the first answer token: from a stored index, against the full text of the same passages.

    python benchmarks/first_token.py

The latent side counts everything: embedding the question, searching the index, reading the stored
latents, and the prompt. The text side is given the same five passages for nothing and counts the
prompt alone. Same base, same precision, same process, in turn; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import machine, spread
from texts import passages_of

from openclara import Clara, LatentIndex
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
        latent_ms, text_ms, ratios, latent_tokens, text_tokens = [], [], [], 0, 0
        for number in range(options.rounds + 2):
            answer = clara.ask(QUESTION, index, k=options.k, mode="hybrid", decoding=ONE_TOKEN)
            text = clara.ask(QUESTION, documents=documents, context="text", decoding=ONE_TOKEN)
            latent_tokens, text_tokens = answer.usage.prompt_tokens, text.usage.prompt_tokens
            if number < 2:
                continue  # the first rounds pay for merging and warming up
            latent_ms.append(answer.usage.first_token_ms)
            text_ms.append(text.usage.first_token_ms - text.usage.search_ms)
            ratios.append(text_ms[-1] / latent_ms[-1])
        index.close()
    result: dict[str, Any] = {
        "machine": machine(),
        "documents": options.documents,
        "k": options.k,
        "passage_tokens": options.tokens,
        "n_memory": clara.latent_spec.n_memory,
        "prompt_tokens": {"latents": latent_tokens, "text": text_tokens},
        "first_token_ms": {"latents": spread(latent_ms), "text": spread(text_ms)},
        "ratio": spread(ratios),
    }
    print(json.dumps(result, indent=2))


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
