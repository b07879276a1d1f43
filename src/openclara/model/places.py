"""Where in its text a latent stands, written into the latent itself.

Anchored memory tokens are numbered by salience, and a prompt needs their latents in the order of
the text. Two coordinates of each latent hold its place there as an angle, so it goes wherever
latents go: into any store, at any prefix, without the text. The pair has the same length in every
latent and a question's is zero, so no comparison is tilted by it; before a generator reads, it is
zeroed as well.

A generator is told the places by its rotary positions: latents of neighbouring tokens stand side by
side, others further apart. Without that it cannot tell "West Florida" from "west" and, a sentence
later, "Florida" (`docs/experiments.md` has what it brings).

Legend: R and N texts, M memory tokens, S latents of all texts, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PLACE = 2
"""The first coordinates of a latent, which hold its place."""

LENGTH = 0.2
"""Of the pair as it would be spliced; the embeddings of many bases have 0.14 as root mean square.
Long enough that eight-bit rounding changes a step among 256 places by one at most."""
STANDARD_LENGTH = 3.0
"""Of the pair where the coordinates of a latent are in spreads from their mean."""

ARC = 1.8 * math.pi
"""Angle from the first place to the last. Not the whole circle: rounding must not make the last
first."""

FURTHEST = 5
"""Most positions from one latent to the next: a wider gap tells no more (measured)."""


def write_places(latents_RMD: Tensor, places_RM: Tensor, *, n_places: int, length: float) -> Tensor:
    """Latents with their places in them.

    Args:
        latents_RMD: (R, M, D) latents.
        places_RM: (R, M) places in the text, from 0 to below `n_places`.
        n_places: Places of the longest text.
        length: Of the pair.
    """
    angle_RM = ARC * ((places_RM.float() + 0.5) / n_places - 0.5)
    pair_RM2 = torch.stack([angle_RM.cos(), angle_RM.sin()], dim=-1) * length
    return torch.cat([pair_RM2.to(latents_RMD.dtype), latents_RMD[..., PLACE:]], dim=-1)


def without_places(latents: Tensor) -> Tensor:
    """(..., D) latents with zero where a place would be."""
    return torch.nn.functional.pad(latents[..., PLACE:], (PLACE, 0))


def angles(latents: Tensor) -> Tensor:
    """(...) angles of (..., D) latents: they ascend with the order of the text."""
    pair = latents[..., :PLACE].detach().float()
    return torch.atan2(pair[..., 1], pair[..., 0])


def in_text_order(latents_NMD: Tensor) -> Tensor:
    """(N, M, D) latents, each text's in the order of the text."""
    order_NM = angles(latents_NMD).argsort(dim=1, stable=True)
    return latents_NMD.gather(1, order_NM.unsqueeze(-1).expand_as(latents_NMD))


def steps(latents_SD: Tensor, *, n_places: int) -> Tensor:
    """(S,) positions from one latent to the next, from 1 to `FURTHEST`; what the first has is 1.

    Args:
        latents_SD: (S, D) latents with their places, each text's in its order.
        n_places: As they were written with.
    """
    place_S = angles(latents_SD) * (n_places / ARC)
    return place_S.diff(prepend=place_S[:1]).round().long().clamp(1, FURTHEST)
