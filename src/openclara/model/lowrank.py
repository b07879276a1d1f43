"""A linear layer plus a low-rank delta, fused forward and backward.

The plain composition `base(x) + up(down(x)) * scale` writes three tensors of the layer's full
output size forward and as many backward; on a CPU these passes over memory cost as much as the
products themselves (`benchmarks/training.py` prints the ratio). Here the delta is accumulated into
the base's own product. Legend: T positions, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LowRankLinear(torch.autograd.Function):
    """`x @ (W + scale * up @ down).T + bias`, without gradient for W and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        down_RI: Tensor,
        up_OR: Tensor,
        scale: float,
    ) -> Tensor:
        """Products in the dtype of `x`; the adapter's float32 masters are rounded to it."""
        x_TI = x.reshape(-1, x.shape[-1])
        down_RI, up_OR = down_RI.to(x.dtype), up_OR.to(x.dtype)
        y_TO = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
        hidden_TR = x_TI @ down_RI.t()
        y_TO.addmm_(hidden_TR, up_OR.t(), alpha=scale)
        ctx.save_for_backward(x_TI, weight_OI, down_RI, up_OR, hidden_TR)
        ctx.scale, ctx.shape = scale, x.shape
        return y_TO.view(*x.shape[:-1], weight_OI.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, down and up; the base stays frozen."""
        x_TI, weight_OI, down_RI, up_OR, hidden_TR = ctx.saved_tensors
        dy_TO = gradients[0].reshape(-1, up_OR.shape[0])
        dhidden_TR = (dy_TO @ up_OR) * ctx.scale
        dx = None
        if ctx.needs_input_grad[0]:
            dx_TI = dy_TO @ weight_OI
            dx = dx_TI.addmm_(dhidden_TR, down_RI).view(ctx.shape)
        if not ctx.needs_input_grad[3]:
            return dx, None, None, None, None, None
        ddown_RI = (dhidden_TR.t() @ x_TI).float()
        dup_OR = (dy_TO.t() @ hidden_TR).float() * ctx.scale
        return dx, None, None, ddown_RI, dup_OR, None


def low_rank_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
) -> Tensor:
    """Typed front of `LowRankLinear`."""
    y: Tensor = LowRankLinear.apply(x, weight, bias, down, up, scale)  # type: ignore[no-untyped-call]
    return y
