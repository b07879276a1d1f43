"""The two losses of the paper as pure functions.

Legend: L labelled positions, V vocabulary, R texts, D width.
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
