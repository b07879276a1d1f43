"""Search time and index size by number of documents and quantisation, on made-up latents.

    python benchmarks/search.py

Times `LatentIndex.search` for one question in each mode, k = 5; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from machine import machine, spread
from texts import passages_of

from openclara import LatentIndex, LatentSpec
from openclara.index.layout import Quantization
from openclara.types import Chunk, CompressedDocument, Mode, Score

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = get_args(Mode)


def main() -> None:
    """Build an index of each kind and search it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--n-memory", type=int, default=16)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--score", default="late", choices=get_args(Score))
    options = parser.parse_args()
    spec = LatentSpec(
        "made-up", "made-up", options.n_memory, options.width, 256, score=options.score
    )
    rows = [
        one(spec, count, quantization, options.rounds)
        for count in options.documents
        for quantization in get_args(Quantization)
    ]
    print(json.dumps({"machine": machine(), "spec": str(spec), "rows": rows}, indent=2))


def one(spec: LatentSpec, count: int, quantization: Quantization, rounds: int) -> dict[str, Any]:
    """Build one index, search it, weigh it."""
    with tempfile.TemporaryDirectory() as folder:
        index = LatentIndex.open(Path(folder) / "i", spec, quantization=quantization)
        started = time.perf_counter()
        index.add(made_up(spec, count))
        add_s = time.perf_counter() - started
        question = "Who designed the opera house?"
        latents = torch.randn(1, spec.n_memory, spec.width)
        times: dict[str, list[float]] = {mode: [] for mode in MODES}
        for number in range(rounds + 1):
            for mode in MODES:
                started = time.perf_counter()
                index.search([question], latents, k=5, mode=mode)
                if number:
                    times[mode].append((time.perf_counter() - started) * 1000)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        info = index.info()
        index.close()
    return {
        "documents": count,
        "quantization": quantization,
        "bytes_per_document": size / count,
        "latent_bytes_per_document": info.latent_bytes / count,
        "add_documents_per_s": count / add_s,
        "search_ms": {mode: spread(values) for mode, values in times.items()},
    }


def made_up(spec: LatentSpec, count: int) -> Iterator[CompressedDocument]:
    """Real texts with random latents."""
    chooser = torch.Generator().manual_seed(0)
    for document in passages_of(100, count):
        latents = torch.randn(1, spec.n_memory, spec.width, generator=chooser)
        yield CompressedDocument(document, (Chunk(0, len(document.text), 128),), latents)


if __name__ == "__main__":
    main()
