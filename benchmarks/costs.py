"""What a corpus costs: bytes, hours, search, and how many questions pay for compressing it.

    python benchmarks/costs.py                                  the tables of docs/scale.md
    python benchmarks/costs.py --passages 21e6 --base 7b        one case
    python benchmarks/costs.py --gpu-tflops 989 --utilisation 0.4 --gpus 8

Measured, from benchmarks/results: documents compressed in a second, first token from latents and
from text. Everything about other machines and other bases is reckoned from these by the count of
products: 2 x parameters x positions. The rate of a GPU is an assumption, peak times utilisation; no
GPU was measured.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

PASSAGE = 256
"""Tokens of a passage, as many as the model reads at once."""

QUESTION = 40
"""Tokens of a question with the template around it."""

K = 5
"""Passages that a question is answered from."""

BITS = {"bf16": 16.0, "int8": 8.25, "int4": 4.5}
"""Of a latent's number, with its share of a group's scale (groups of 64 and of 32)."""

SIZES = (10_000, 100_000, 1_000_000, 21_000_000, 100_000_000, 1_000_000_000)


@dataclass(frozen=True, slots=True)
class Base:
    """What of a base model costs depend on.

    Attributes:
        parameters: That take part in each position: all but the embedding table.
        width: Of a latent.
    """

    parameters: float
    width: int


BASES = {"135m": Base(106.2e6, 576), "7b": Base(7.11e9, 4096)}
"""SmolLM2-135M and Mistral-7B, the base of the published weights."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Products a second while texts are read."""

    name: str
    flops: float


def main() -> None:
    """Print tables, or one case."""
    options = _options()
    cpu = measured_machine()
    gpu = Machine(
        f"{options.gpus} x {options.gpu_tflops:g} TFLOP/s at {options.utilisation:.0%}",
        options.gpus * options.gpu_tflops * 1e12 * options.utilisation,
    )
    sizes = SIZES if options.passages is None else (int(options.passages),)
    bases = BASES if options.base is None else {options.base: BASES[options.base]}
    lines = []
    for name, base in bases.items():
        lines += [f"**{name}**, {base.width} numbers a latent", ""]
        lines += [*stored(base, sizes), "", *compressed(base, sizes, cpu, gpu), ""]
    lines += break_even(cpu)
    print("\n".join(lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=float)
    parser.add_argument("--base", choices=sorted(BASES))
    parser.add_argument("--gpu-tflops", type=float, default=989.0, help="peak of one, bf16")
    parser.add_argument("--utilisation", type=float, default=0.4)
    parser.add_argument("--gpus", type=int, default=1)
    return parser.parse_args()


def read(name: str) -> Any:
    """One benchmark's output."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def reading_flops(base: Base, positions: float) -> float:
    """Products and sums of one pass over so many positions, attention left out."""
    return 2 * base.parameters * positions


def measured_machine() -> Machine:
    """The machine of the compression benchmark, by what it did."""
    compress = read("compress")
    per_s = compress["passages"]["180 words"]["documents_per_s"]["openclara"]["median"]
    machine = compress["machine"]
    positions = PASSAGE + compress["n_memory"]
    name = f"{machine['threads']} cores as measured"
    return Machine(name, per_s * reading_flops(BASES["135m"], positions))


def stored(base: Base, sizes: tuple[int, ...]) -> list[str]:
    """Bytes of latents by rate and quantisation."""
    rates = (4, 16, 64)
    head = [f"{rate}x {bits}" for rate in rates for bits in BITS]
    lines = ["| passages | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for size in sizes:
        cells = [
            unit(size * (PASSAGE // rate) * base.width * bits / 8)
            for rate in rates
            for bits in BITS.values()
        ]
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    return lines


def compressed(base: Base, sizes: tuple[int, ...], cpu: Machine, gpu: Machine) -> list[str]:
    """Hours to compress, once, at 16x."""
    lines = [f"| passages | {cpu.name} | {gpu.name} |", "|---|---|---|"]
    for size in sizes:
        work = size * reading_flops(base, PASSAGE + PASSAGE / 16)
        lines.append(f"| {size:,} | {hours(work / cpu.flops)} | {hours(work / gpu.flops)} |")
    return lines


def break_even(cpu: Machine) -> list[str]:
    """Questions to each document from which compressing it has cost less than reading it.

    Compressing N documents costs N passes over a passage and its memory tokens; each question then
    saves the difference of two prompts, but pays for its own pass through the reasoner. Decoding
    is the same but for the shorter cache, which is left out.
    """
    lines = ["| questions for each document to break even | 4x | 16x | 64x |", "|---|---|---|---|"]
    cells = []
    for rate in (4, 16, 64):
        latents = PASSAGE / rate
        saved = K * (PASSAGE - latents) - QUESTION
        cells.append(f"{(PASSAGE + latents) / saved:.2f}")
    lines.append("| by positions read, any base | " + " | ".join(cells) + " |")
    times = read("first_token")["first_token_ms"]
    saved_ms = times["text"]["median"] - times["latents"]["median"]
    cost_ms = 1000 * reading_flops(BASES["135m"], PASSAGE + 16) / cpu.flops
    lines.append(
        f"| 135m on {cpu.name}: {cost_ms:.0f} ms to compress a passage, {saved_ms:.0f} ms sooner "
        f"the first token | | {cost_ms / saved_ms:.2f} | |"
    )
    return lines


def unit(n_bytes: float) -> str:
    """Bytes in a unit that leaves few digits."""
    for name in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {name}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} PB"


def hours(seconds: float) -> str:
    """Seconds, hours or days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"


if __name__ == "__main__":
    main()
