"""Scores of many chunks, estimated from their codes."""

# N chunks, M memory tokens, B bytes of a code, K bits of it, V vectors of a question

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import Tensor

    from openclara.types import Score

BLOCK_CHUNKS = 256
"""Chunks compared at once: their bits, a byte each, stay in a core's cache."""


def estimates(
    blocks: list[npt.NDArray[np.uint8]], asked_KV: Tensor, score: Score
) -> npt.NDArray[np.int32]:
    """Sums that are in the order of the scores, nearly.

    Args:
        blocks: (M, N, B) codes of N chunks each, M the same in all.
        asked_KV: int8, what `asked_codes` returned, the first 8 * B of its rows.
        score: `late` adds up the best of each vector's M products; `flat` the products of the m-th
            vector with the m-th latent.

    Returns:
        For each chunk of all blocks, one after the other.
    """
    found = np.empty(sum(block.shape[1] for block in blocks), dtype=np.int32)
    sums, end = torch.from_numpy(found), 0
    multiply = _integers if _integers_are_quick() else _floats
    for block in blocks:
        n_memory, n_chunks, _ = block.shape
        start, end = end, end + n_chunks
        bits = np.unpackbits(block.reshape(-1)).view(np.int8).reshape(-1, len(asked_KV))
        products_MNV = multiply(torch.from_numpy(bits), asked_KV).view(n_memory, n_chunks, -1)
        late = score == "late"
        kept_NV = products_MNV.amax(0) if late else products_MNV.diagonal(dim1=0, dim2=2)
        torch.sum(kept_NV, 1, dtype=torch.int32, out=sums[start:end])
    return found


def _integers(bits_NK: Tensor, asked_KV: Tensor) -> Tensor:
    # The only product of int8 that torch has; without it `_floats` would do.
    products_NV: Tensor = torch._int_mm(bits_NK, asked_KV)
    return products_NV


def _floats(bits_NK: Tensor, asked_KV: Tensor) -> Tensor:
    # Whole numbers below 2**24: the same as those of integers.
    return (bits_NK.float() @ asked_KV.float()).int()


@cache
def _integers_are_quick() -> bool:
    """Whether this processor has instructions for int8; without them float32 is far quicker."""
    bits_NK = torch.ones(2048, 192, dtype=torch.int8)
    asked_KV = torch.ones(192, 16, dtype=torch.int8)
    return _quickest(_integers, bits_NK, asked_KV) < _quickest(_floats, bits_NK, asked_KV)


def _quickest(
    multiply: Callable[[Tensor, Tensor], Tensor], bits_NK: Tensor, asked_KV: Tensor
) -> float:
    """Seconds of the quickest of a few: the first ones load code, and others use the machine."""
    spent = []
    for _ in range(5):
        started = time.perf_counter()
        multiply(bits_NK, asked_KV)
        spent.append(time.perf_counter() - started)
    return min(spent)
