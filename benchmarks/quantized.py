"""Packed linear layers on a CPU: memory, and the time of each way to multiply with them.

    python benchmarks/quantized.py [--size 4096] [--positions 1 40 1024] [--json FILE]

Times are processor seconds of one thread, the least of several, so that other work on the machine
weighs little. `used` marks the way that the layer takes for so many positions.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openclara.model.quantized import FEW_POSITIONS, linear_bytes, quantized

if TYPE_CHECKING:
    from collections.abc import Callable

    from openclara.model.quantized import Bits

REPEATS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs of the layer")
    parser.add_argument("--positions", type=int, nargs="+", default=[1, 8, 40, 256, 1024])
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32):
            rows += measured(asked.size, asked.positions, dtype)
    for row in rows:
        print(json.dumps(row))
    if asked.json:
        result = {"size": asked.size, "torch": torch.__version__, "rows": rows}
        asked.json.write_text(json.dumps(result, indent=2) + "\n")


def measured(size: int, positions: list[int], dtype: torch.dtype) -> list[dict[str, Any]]:
    """A row for each width of weights and number of positions."""
    weight_OI = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) * 0.02
    whole = weight_OI.to(dtype)
    rows = []
    widths: tuple[Bits, ...] = (8, 4)
    for bits in widths:
        layer = quantized(weight_OI, None, bits=bits, dtype=dtype)
        n_bytes = linear_bytes(size, size, bits=bits, dtype=dtype)
        for n in positions:
            x_TI = torch.randn(n, size).to(dtype)
            packed = None
            if dtype == torch.bfloat16 or n <= 1:
                packed = milliseconds(partial(layer.packed_product, x_TI))
            few = dtype == torch.bfloat16 and n <= FEW_POSITIONS[bits]
            rows.append(
                {
                    "dtype": str(dtype).removeprefix("torch."),
                    "bits": bits,
                    "positions": n,
                    "bytes": n_bytes,
                    "whole_bytes": whole.nbytes,
                    "whole_ms": milliseconds(partial(torch.mm, x_TI, whole.t())),
                    "packed_ms": packed,
                    "blocks_ms": milliseconds(partial(layer.block_product, x_TI)),
                    "used": "packed" if few else "blocks",
                }
            )
    return rows


def milliseconds(work: Callable[[], object]) -> float | None:
    """Least processor time of several runs; None where torch cannot do it."""
    taken = []
    try:
        work()
        for _ in range(REPEATS):
            started = time.process_time()
            work()
            taken.append(time.process_time() - started)
    except (AttributeError, RuntimeError):
        return None
    return round(min(taken) * 1e3, 3)


if __name__ == "__main__":
    main()
