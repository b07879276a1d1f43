"""Straight-through top-k: hard choices forward, soft gradients backward (paper, section 3.3).

Legend: B questions, N candidate documents, K chosen documents.
"""

from __future__ import annotations

import torch
from torch import Tensor

TAKEN_EPSILON = 1e-8
"""Keeps log(1 - taken) finite; an item already taken is penalised by 18.4 nats, not excluded."""


def straight_through_topk(scores_BN: Tensor, *, k: int, temperature: float = 0.02) -> Tensor:
    """Weights that choose the k best documents, one slot after the other.

    The forward value is exactly one-hot, by descending score; the gradient is that of a softmax
    per slot: `p_j = softmax(z + log(1 - taken + 1e-8))`, `z = scores / temperature`,
    `W = hard + (p - stopgrad(p))` (paper, algorithm 1).

    Args:
        scores_BN: (B, N) scores, for example cosines.
        k: Slots, at most N.
        temperature: Divides the scores; clamped to 1e-6 from below.

    Returns:
        (B, k, N) float32 weights.
    """
    z_BN = scores_BN.float() / max(temperature, 1e-6)
    chosen_BK = torch.topk(z_BN, k, dim=1).indices
    hard_BKN = torch.zeros(*chosen_BK.shape, z_BN.shape[1], device=z_BN.device)
    hard_BKN.scatter_(2, chosen_BK.unsqueeze(-1), 1.0)
    # What earlier slots took: an exclusive cumulative sum over the slots.
    taken_BKN = (hard_BKN.cumsum(1) - hard_BKN).clamp(max=1.0)
    soft_BKN = torch.softmax(z_BN.unsqueeze(1) + torch.log(1.0 - taken_BKN + TAKEN_EPSILON), dim=-1)
    # The bracket is exactly zero in floating point, so the forward value stays one-hot.
    return hard_BKN + (soft_BKN - soft_BKN.detach())


def select(weights_BKN: Tensor, latents_BNMD: Tensor) -> Tensor:
    """Latents of the chosen documents, in order of choice.

    Args:
        weights_BKN: Weights from `straight_through_topk`.
        latents_BNMD: (B, N, M, D) latents of the candidates.

    Returns:
        (B, k, M, D) latents in the dtype of the candidates.
    """
    chosen = torch.einsum("bkn,bnmd->bkmd", weights_BKN, latents_BNMD.float())
    return chosen.to(latents_BNMD.dtype)
