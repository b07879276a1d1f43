"""Causal attention of packed rows for training on a CPU, one row after the other.

A batch of documents pads the shorter ones, and what attention costs grows with the square of the
longest. A row alone has no padding, and its scores stay in the caches from the first product to the
last (`benchmarks/training.py` prints the ratio).

Legend: M queries and N keys of all rows, B rows, Q queries and T keys of one, H query heads, K key
heads, G query heads for each key head, W head width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator


def rowwise_attention(
    query_MHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    asked_BQ: Tensor,
    real_BT: Tensor,
    scale: float,
) -> Tensor:
    """(M, H * W) attended values.

    The last query of a row sees all its keys, the one before all but the last, and so on.

    Args:
        query_MHW: (M, H, W) queries of all rows, one row after the other.
        key_NKW: (N, K, W) keys, likewise.
        value_NKW: (N, K, W) values.
        asked_BQ: (B, Q) false at the padding of rows of queries, which is not among the M.
        real_BT: (B, T) false at the padding of rows of keys.
        scale: Factor on the scores.
    """
    attended_MHW: Tensor
    attended_MHW, _ = _forward(query_MHW, key_NKW, value_NKW, asked_BQ, real_BT, scale)
    return attended_MHW.flatten(1)


@torch.library.custom_op("openclara::rowwise_attention", mutates_args=())
def _forward(
    query_MHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    asked_BQ: Tensor,
    real_BT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(M, H, W) attended values, and the shares of positions in the room of `_shares`."""
    n_heads, n_groups = query_MHW.shape[1], key_NKW.shape[1]
    attended_MHW, shares_MHT = _room(query_MHW), _shares(query_MHW, real_BT)
    after_TT = _after(real_BT.shape[1], query_MHW.dtype)
    for asked, rows in _rows(asked_BQ, real_BT):
        n_asked, n = asked.stop - asked.start, rows.stop - rows.start
        query_KGW = _by_group(query_MHW[asked] * scale, n_groups)
        key_KTW, value_KTW = (one[rows].transpose(0, 1) for one in (key_NKW, value_NKW))
        scores_KGT = torch.bmm(query_KGW, key_KTW.transpose(1, 2))
        scores_KGT.view(n_heads, n_asked, n).add_(after_TT[n - n_asked : n, :n])
        shares_KGT = _of_row(shares_MHT[asked], n_groups, n)
        torch.softmax(scores_KGT, -1, out=shares_KGT)
        attended_KGW = torch.bmm(shares_KGT, value_KTW)
        attended_MHW[asked] = attended_KGW.view(n_heads, n_asked, -1).transpose(0, 1)
    return attended_MHW, shares_MHT


@_forward.register_fake
def _(
    query_MHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    asked_BQ: Tensor,
    real_BT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return _room(query_MHW), _shares(query_MHW, real_BT)


@torch.library.custom_op("openclara::rowwise_attention_backward", mutates_args=())
def _backward(
    gradient_MHW: Tensor,
    query_MHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    shares_MHT: Tensor,
    asked_BQ: Tensor,
    real_BT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    n_heads, n_groups = query_MHW.shape[1], key_NKW.shape[1]
    dquery_MHW, dkey_NKW, dvalue_NKW = _room(query_MHW), _room(key_NKW), _room(value_NKW)
    for asked, rows in _rows(asked_BQ, real_BT):
        shares_KGT = _of_row(shares_MHT[asked], n_groups, rows.stop - rows.start)
        dattended_KGW = _by_group(gradient_MHW[asked], n_groups)
        key_KTW, value_KTW = (one[rows].transpose(0, 1) for one in (key_NKW, value_NKW))
        dvalue_NKW[rows] = torch.bmm(shares_KGT.transpose(1, 2), dattended_KGW).transpose(0, 1)
        dshares_KGT = torch.bmm(dattended_KGW, value_KTW.transpose(1, 2))
        dscores_KGT = torch._softmax_backward_data(dshares_KGT, shares_KGT, -1, shares_MHT.dtype)
        dquery_KGW = torch.bmm(dscores_KGT, key_KTW)
        n_asked = asked.stop - asked.start
        dquery_MHW[asked] = dquery_KGW.view(n_heads, n_asked, -1).transpose(0, 1)
        query_KGW = _by_group(query_MHW[asked], n_groups)
        dkey_NKW[rows] = torch.bmm(dscores_KGT.transpose(1, 2), query_KGW).transpose(0, 1)
    return dquery_MHW.mul_(scale), dkey_NKW.mul_(scale), dvalue_NKW


@_backward.register_fake
def _(
    gradient_MHW: Tensor,
    query_MHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    shares_MHT: Tensor,
    asked_BQ: Tensor,
    real_BT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _room(query_MHW), _room(key_NKW), _room(value_NKW)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    query_MHW, key_NKW, value_NKW, asked_BQ, real_BT, ctx.scale = inputs
    ctx.save_for_backward(query_MHW, key_NKW, value_NKW, output[1], asked_BQ, real_BT)


def _gradients(ctx: Any, gradient_MHW: Tensor, _: Tensor) -> Any:
    return *_backward(gradient_MHW, *ctx.saved_tensors, ctx.scale), None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def _room(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _shares(query_MHW: Tensor, real_BT: Tensor) -> Tensor:
    """(M, H, T) room for what the scores of each query become."""
    return query_MHW.new_empty(*query_MHW.shape[:2], real_BT.shape[1])


def _rows(asked_BQ: Tensor, real_BT: Tensor) -> Iterator[tuple[slice, slice]]:
    """Where each row's queries are among all, and where its keys."""
    ends_BE = torch.stack([asked_BQ.sum(1).cumsum(0), real_BT.sum(1).cumsum(0)], dim=1).tolist()
    begins = [(0, 0), *ends_BE]
    for (first_asked, first), (end_asked, end) in zip(begins, ends_BE, strict=False):
        yield slice(first_asked, end_asked), slice(first, end)


def _of_row(shares_QHT: Tensor, n_groups: int, n_keys: int) -> Tensor:
    """(K, G * Q, n_keys) the shares of one row, without gaps at the start of its room."""
    n = shares_QHT.shape[0] * shares_QHT.shape[1] * n_keys
    return shares_QHT.view(-1)[:n].view(n_groups, -1, n_keys)


def _by_group(x_QHW: Tensor, n_groups: int) -> Tensor:
    """(K, G * Q, W) of (Q, H, W): the query heads of one key head share a product."""
    return x_QHW.transpose(0, 1).reshape(n_groups, -1, x_QHW.shape[2])


@lru_cache(maxsize=4)
def _after(longest: int, dtype: torch.dtype) -> Tensor:
    """(T, T) 0 up to the own position, minus infinity after it; the same in every layer."""
    return torch.full((longest, longest), -torch.inf, dtype=dtype).triu_(1)
