"""Where in its text a latent stands, written into the latent itself.

Anchored memory tokens are numbered by salience, and a prompt needs their latents in the order of
the text. Two coordinates of each latent hold its rank there as an angle, so that order goes
wherever latents go: into any store, at any prefix, without the text. The pair has the same length
in every latent and a question's is zero, so no comparison is tilted by it; before a generator
reads, it is zeroed as well.

Legend: R and N texts, M memory tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PLACE = 2
"""The first coordinates of a latent, which hold its place."""

LENGTH = 0.2
"""Of the pair as it would be spliced; the embeddings of many bases have 0.14 as root mean square.
Long enough that eight-bit rounding keeps the order of several hundred latents."""

ARC = 1.8 * math.pi
"""Angle from the first place to the last. Not the whole circle: rounding must not make the last
first."""


def write_places(
    latents_RMD: Tensor, ranks_RM: Tensor, *, n_places: int, latent_gain: float
) -> Tensor:
    """Latents with their places in them.

    Args:
        latents_RMD: (R, M, D) latents.
        ranks_RM: (R, M) ranks in the text, from 0 to below `n_places`.
        n_places: Memory tokens of the table, in use or not.
        latent_gain: Factor on latents as they are spliced.
    """
    angle_RM = ARC * ((ranks_RM.float() + 0.5) / n_places - 0.5)
    pair_RM2 = torch.stack([angle_RM.cos(), angle_RM.sin()], dim=-1) * (LENGTH / latent_gain)
    return torch.cat([pair_RM2.to(latents_RMD.dtype), latents_RMD[..., PLACE:]], dim=-1)


def without_places(latents: Tensor) -> Tensor:
    """(..., D) latents with zero where a place would be."""
    return torch.nn.functional.pad(latents[..., PLACE:], (PLACE, 0))


def places(latents: Tensor) -> Tensor:
    """(...) angles of (..., D) latents: they ascend with the order of the text."""
    pair = latents[..., :PLACE].detach().float()
    return torch.atan2(pair[..., 1], pair[..., 0])


def in_text_order(latents_NMD: Tensor) -> Tensor:
    """(N, M, D) latents, each text's in the order of the text, places zeroed."""
    order_NM = places(latents_NMD).argsort(dim=1, stable=True)
    index_NMD = order_NM.unsqueeze(-1).expand_as(latents_NMD)
    return without_places(latents_NMD.gather(1, index_NMD))
