"""Scores of many chunks, estimated from their codes."""

# N chunks, M memory tokens, B bytes of a code, K bits of it, V vectors of a question,
# C values of a byte

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import embedding_bag

if TYPE_CHECKING:
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
    late = score == "late"
    if _integers_are_quick():
        products = _by_integers(asked_KV)
    else:
        products = _by_tables(asked_KV) if late else _by_floats(asked_KV)
    for block in blocks:
        n_memory, n_chunks, n_bytes = block.shape
        start, end = end, end + n_chunks
        products_MNV = products(block.reshape(-1, n_bytes)).view(n_memory, n_chunks, -1)
        kept_NV = products_MNV.amax(0) if late else products_MNV.diagonal(dim1=0, dim2=2)
        torch.sum(kept_NV, 1, dtype=torch.int32, out=sums[start:end])
    return found


Products = Callable[["npt.NDArray[np.uint8]"], "Tensor"]
"""From (N, B) codes to (N, V) products with a question's vectors, whole numbers below 2**24: the
same ones in each of the three ways."""


def _by_integers(asked_KV: Tensor) -> Products:
    def products(codes_NB: npt.NDArray[np.uint8]) -> Tensor:
        bits_NK = torch.from_numpy(np.unpackbits(codes_NB, axis=1)).view(torch.int8)
        # The only product of int8 that torch has.
        products_NV: Tensor = torch._int_mm(bits_NK, asked_KV)
        return products_NV

    return products


def _by_floats(asked_KV: Tensor) -> Products:
    floats_KV = asked_KV.float()

    def products(codes_NB: npt.NDArray[np.uint8]) -> Tensor:
        products_NV: Tensor = torch.from_numpy(np.unpackbits(codes_NB, axis=1)).float() @ floats_KV
        return products_NV

    return products


def _by_tables(asked_KV: Tensor) -> Products:
    """Each byte looks its products up; a product of matrices with few columns is slower.

    On two cores of an AMD EPYC without int8 instructions, 131,072 codes of 72 bytes and 11 vectors:
    45 ms against 228.
    """
    bits_CK = torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1))
    floats_BKV = asked_KV.float().view(-1, 8, asked_KV.shape[1])
    table_TV = (bits_CK.float() @ floats_BKV).flatten(0, 1)
    starts_B = torch.arange(len(floats_BKV), dtype=torch.int32) * 256

    def products(codes_NB: npt.NDArray[np.uint8]) -> Tensor:
        places_NB = torch.from_numpy(codes_NB).int() + starts_B
        return embedding_bag(places_NB, table_TV, mode="sum")

    return products


@cache
def _integers_are_quick() -> bool:
    """Whether this processor has instructions for int8; without them tables are far quicker."""
    codes_NB = np.full((2048, 24), 85, dtype=np.uint8)
    asked_KV = torch.ones(192, 16, dtype=torch.int8)
    integers, tables = _by_integers(asked_KV), _by_tables(asked_KV)
    return _quickest(integers, codes_NB) < _quickest(tables, codes_NB)


def _quickest(products: Products, codes_NB: npt.NDArray[np.uint8]) -> float:
    """Seconds of the quickest of a few: the first ones load code, and others use the machine."""
    spent = []
    for _ in range(5):
        started = time.perf_counter()
        products(codes_NB)
        spent.append(time.perf_counter() - started)
    return min(spent)
