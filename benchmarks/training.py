"""Three choices in the training step, each against what it replaces, forward and backward.

    python benchmarks/training.py

`attention`: grouped matrix products against torch's fused kernel. `rowwise`: packed rows of
different lengths one by one against the fused kernel on padded rows. `low_rank`: base and adapter
in one fused function against the plain composition. Shapes are those of
the default base; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import torch
from machine import machine, spread
from torch import Tensor, nn

from openclara.model.attention import grouped_attention
from openclara.model.lowrank import low_rank_linear
from openclara.model.rowwise import rowwise_attention

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Time each pair in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    pairs = {
        "attention": attention(dtype),
        "rowwise": rowwise(dtype),
        "low_rank": low_rank(dtype),
    }
    result: dict[str, Any] = {"machine": machine(), "dtype": options.dtype}
    for name, (ours, theirs) in pairs.items():
        ours_ms, theirs_ms = [], []
        for number in range(options.rounds + 2):
            first, second = milliseconds(ours), milliseconds(theirs)
            if number >= 2:
                ours_ms.append(first)
                theirs_ms.append(second)
        result[name] = {
            "ours_ms": spread(ours_ms),
            "replaced_ms": spread(theirs_ms),
            "ratio": spread([b / a for a, b in zip(ours_ms, theirs_ms, strict=True)]),
        }
    print(json.dumps(result, indent=2))


def milliseconds(forward: Callable[[], Tensor]) -> float:
    """Of one forward and backward pass."""
    started = time.perf_counter()
    y = forward()
    y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
    return (time.perf_counter() - started) * 1000


def attention(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """8 texts of 256 tokens, 9 query heads and 3 key heads of width 64."""
    query = torch.randn(8, 9, 256, 64, dtype=dtype, requires_grad=True)
    key, value = (torch.randn(8, 3, 256, 64, dtype=dtype, requires_grad=True) for _ in range(2))
    layer = nn.Module()

    def ours() -> Tensor:
        return grouped_attention(layer, query, key, value, None)[0]

    def fused() -> Tensor:
        return nn.functional.scaled_dot_product_attention(
            query, key.repeat_interleave(3, 1), value.repeat_interleave(3, 1), is_causal=True
        )

    return ours, fused


def rowwise(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """8 texts of 75 to 250 tokens, 9 query heads and 3 key heads of width 64."""
    lengths_B = torch.arange(75, 251, 25)
    longest = int(lengths_B.max())
    real_BT = torch.arange(longest) < lengths_B.unsqueeze(1)
    n = int(lengths_B.sum())
    query = torch.randn(n, 9, 64, dtype=dtype, requires_grad=True)
    key, value = (torch.randn(n, 3, 64, dtype=dtype, requires_grad=True) for _ in range(2))

    def ours() -> Tensor:
        return rowwise_attention(query, key, value, real_BT, real_BT, 64**-0.5)

    def padded(packed: Tensor) -> Tensor:
        rows = nn.utils.rnn.pad_sequence(
            list(torch.split(packed, lengths_B.tolist())), batch_first=True
        )
        return rows.transpose(1, 2)

    def fused() -> Tensor:
        values = nn.functional.scaled_dot_product_attention(
            padded(query), padded(key), padded(value), is_causal=True, enable_gqa=True
        )
        return values.transpose(1, 2)[real_BT].flatten(1)

    return ours, fused


def low_rank(dtype: torch.dtype) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """2,048 positions through a 576 -> 1,536 layer with rank 16."""
    x = torch.randn(2048, 576, dtype=dtype, requires_grad=True)
    weight = torch.randn(1536, 576, dtype=dtype)
    down = torch.randn(16, 576, requires_grad=True)
    up = torch.randn(1536, 16, requires_grad=True)

    def ours() -> Tensor:
        return low_rank_linear(x, weight, None, down, up, 2.0)

    def plain() -> Tensor:
        return x @ weight.t() + (x @ down.to(dtype).t()) @ up.to(dtype).t() * 2.0

    return ours, plain


if __name__ == "__main__":
    main()
