"""Signs of rotated latents: one bit a dimension, enough to order chunks nearly by their scores.

A latent's signs times the question's own values estimate their product (Dong et al. 2008,
"Asymmetric distance estimation with sketches"). The rotation spreads a few strong dimensions over
all bits; it is made of permutations, signs and Hadamard blocks, so it is the same on every machine,
and nothing is trained: what is added later has codes as good as what was there first.
"""

# N rows, M memory tokens, D width, V vectors of a question, B bytes of a code, K bits of a code

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import pad

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from openclara.types import LatentSpec

SCHEME = "lists-1"
"""Recorded with every segment: one of another scheme is made anew."""

HEAD_BYTES = 24
"""Under a flat score so much of each latent's code is compared first, for all chunks."""

ROUNDS = 2


def code_bytes(spec: LatentSpec) -> int:
    """B: one bit a dimension, filled up to whole bytes."""
    return -(-spec.width // 8)


def head_bytes(spec: LatentSpec) -> int:
    """How much of a latent's code is compared first."""
    return min(HEAD_BYTES, code_bytes(spec))


def codes(latents_NMD: Tensor) -> npt.NDArray[np.uint8]:
    """(N, M, B) signs of some chunks' latents, (N, M, D) float32."""
    rotated_NMD = latents_NMD @ rotation(latents_NMD.shape[-1])
    return np.packbits((rotated_NMD > 0).numpy(), axis=-1)


def asked_codes(vectors_VD: Tensor) -> Tensor:
    """(K, V) int8 of a question's vectors, whose products with bits are in the order of cosines.

    One scale for all of them, so that products of different vectors can be added.
    """
    rotated_VD = vectors_VD @ rotation(vectors_VD.shape[-1])
    scaled_VD = rotated_VD * (127 / rotated_VD.abs().max().clamp(min=1e-30))
    filled_VK = pad(scaled_VD.round().to(torch.int8), (0, -vectors_VD.shape[-1] % 8))
    return filled_VK.T.contiguous()


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
