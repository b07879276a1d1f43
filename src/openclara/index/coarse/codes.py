"""Signs of rotated latents: one bit a dimension, nearly in the order of the cosines.

The share of bits in which two vectors differ estimates their angle (Charikar 2002, "Similarity
estimation techniques from rounding algorithms"). The rotation spreads a few strong dimensions over
all bits; it is made of permutations, signs and Hadamard blocks, so it is the same on every machine.
"""

# N rows, M memory tokens, D width, V vectors, B bytes of a code

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from openclara.types import LatentSpec, Score

SCHEME = "signs-1"
"""Recorded with every graph: codes of another scheme cannot be compared."""

ROUNDS = 2


def vectors_per_chunk(spec: LatentSpec) -> int:
    """Codes of a chunk: one for each latent under a late score, one of all under a flat score."""
    return spec.n_memory if spec.score == "late" else 1


def bits(spec: LatentSpec) -> int:
    """Bits of a code, filled up to whole bytes."""
    dimensions = spec.width if spec.score == "late" else spec.n_memory * spec.width
    return -(-dimensions // 8) * 8


def codes(latents_NMD: Tensor, score: Score) -> npt.NDArray[np.uint8]:
    """Codes of some chunks, or of one question's latents.

    Args:
        latents_NMD: (N, M, D) float32.
        score: What they will be compared by.

    Returns:
        (N * M, B) under a late score, (N, B) under a flat one.
    """
    rotated_NMD = latents_NMD @ rotation(latents_NMD.shape[-1])
    rotated_VD = rotated_NMD.flatten(0, 1) if score == "late" else rotated_NMD.flatten(1)
    return np.packbits((rotated_VD > 0).numpy(), axis=1)


@lru_cache(maxsize=2)
def rotation(width: int) -> Tensor:
    """(D, D) orthogonal matrix, always the same one for a width."""
    block = width & -width
    matrix_DD = torch.eye(width)
    # The legacy generator is the one whose stream NumPy promises never to change.
    stream = np.random.RandomState(width)
    for _ in range(ROUNDS):
        order = torch.from_numpy(stream.permutation(width))
        signs = torch.from_numpy(stream.randint(0, 2, width) * 2.0 - 1.0).float()
        mixed = (matrix_DD[:, order] * signs).view(width, -1, block)
        matrix_DD = (mixed @ _hadamard(block)).reshape(width, width)
    return matrix_DD


def _hadamard(size: int) -> Tensor:
    """(size, size) orthonormal, size a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    scaled: Tensor = matrix / size**0.5
    return scaled
