"""The losses as pure functions: two of the paper, and one of its supervised baseline.

Legend: L labelled positions, V vocabulary, R texts, D width, B questions, N candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def answer_loss(logits_LV: Tensor, targets_L: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled positions (paper, L_CE), in nats, float32."""
    return torch.nn.functional.cross_entropy(logits_LV.float(), targets_L)


def alignment_loss(text_mean_RD: Tensor, memory_mean_RD: Tensor) -> Tensor:
    """Mean over texts and dimensions of (mean text state - mean memory state)^2 (paper, L_MSE)."""
    return (text_mean_RD.float() - memory_mean_RD.float()).square().mean()


def ranking_loss(scores_BN: Tensor, relevant_BN: Tensor, *, temperature: float) -> Tensor:
    """Mean over questions of -log of the share that a softmax gives to each relevant candidate.

    InfoNCE (van den Oord et al. 2018) with several positives: each is contrasted with the
    candidates that are not relevant, never with another positive.

    Args:
        scores_BN: (B, N) cosines.
        relevant_BN: (B, N) true where a candidate holds the answer; one at least in each row.
        temperature: Divides the scores.
    """
    z_BN = scores_BN.float() / temperature
    others_B1 = z_BN.masked_fill(relevant_BN, -torch.inf).logsumexp(1, keepdim=True)
    losses_BN = torch.logaddexp(z_BN, others_B1) - z_BN
    return (losses_BN.masked_fill(~relevant_BN, 0.0).sum(1) / relevant_BN.sum(1)).mean()
