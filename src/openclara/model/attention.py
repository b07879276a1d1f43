"""Grouped attention by matrix products, for short sequences on a CPU.

torch's fused CPU attention handles bf16 at a fraction of the machine's matrix speed; with chunks
of a few hundred tokens the score matrix is small, and two batched products are several times
faster forward and backward (`benchmarks/training.py` prints the ratio). Query heads of one group
share a product, so keys and values are never repeated.

Legend: B rows, H query heads, G query heads per key head, K key heads, T query positions,
S key positions, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grouped_matmul"
MAX_POSITIONS = 2048
"""Above this many key positions the score matrix costs more memory than it saves time."""

MIN_BLOCK, MAX_BLOCKS = 64, 4
"""Causal queries are taken in blocks, each against the keys up to its end alone."""


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in the calling convention of transformers.

    Args:
        module: The attention layer; only handed on.
        query: (B, H, T, D).
        key: (B, K, S, D).
        value: (B, K, S, D).
        attention_mask: (B or 1, 1, T, S) boolean or additive; None means causal.
        scaling: Factor on the scores; `D ** -0.5` if None.
        dropout: Must be zero, as it is in every base used here; else the fused kernel is used.
        **kwargs: What transformers passes besides; only handed on.

    Returns:
        (B, T, H, D) attended values, and None in place of the attention weights.
    """
    n_query, n_keys, width = query.shape[2], key.shape[2], query.shape[3]
    small = n_keys <= MAX_POSITIONS and dropout == 0.0 and query.device.type == "cpu"
    if not small or _fused_is_faster(query):
        fused: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return fused
    scale = width**-0.5 if scaling is None else scaling
    n_blocks = min(MAX_BLOCKS, n_query // MIN_BLOCK) if attention_mask is None else 1
    if n_query != n_keys or n_blocks < 2:
        return _attend(query * scale, key, value, attention_mask), None
    # Causal from the first key on: a block of queries need not see the keys after it.
    ends = [n_query * (block + 1) // n_blocks for block in range(n_blocks)]
    blocks = [
        _attend(query[:, :, start:end] * scale, key[:, :, :end], value[:, :, :end], None)
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return torch.cat(blocks, dim=1), None


def _fused_is_faster(query: Tensor) -> bool:
    # With AMX torch's kernel packs its tiles forward, but not backward (measured: 2 times faster
    # forward, 2 times slower in all).
    forward_only = not (torch.is_grad_enabled() and query.requires_grad)
    return forward_only and query.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, H, D) from a scaled query; without a mask the last query sees the last key."""
    n_rows, n_heads, n_query, width = query.shape
    n_key_heads, n_keys = key.shape[1], key.shape[2]
    groups = n_heads // n_key_heads
    query = query.reshape(n_rows * n_key_heads, groups * n_query, width)
    key = key.reshape(n_rows * n_key_heads, n_keys, width)
    value = value.reshape(n_rows * n_key_heads, n_keys, width)
    scores = torch.bmm(query, key.transpose(1, 2))
    bias = _bias(mask, n_query, n_keys, scores)
    if bias is not None:
        # In place: the product's own value is not needed at backward.
        scores.view(n_rows, n_heads, n_query, n_keys).add_(bias)
    attended = torch.bmm(torch.softmax(scores, dim=-1), value)
    return attended.view(n_rows, n_heads, n_query, width).transpose(1, 2)


def _bias(mask: Tensor | None, n_query: int, n_keys: int, like: Tensor) -> Tensor | None:
    if mask is None:
        if n_query == 1:
            return None
        rows = torch.arange(n_keys - n_query, n_keys).unsqueeze(1)
        mask = torch.arange(n_keys) <= rows
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    # A finite floor: a row that may see nothing (left padding) must not become NaN.
    floor = torch.finfo(like.dtype).min / 2
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill_(~mask, floor)


def register() -> None:
    """Make the implementation known to transformers under `NAME`."""
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
