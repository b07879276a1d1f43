"""Causal attention of packed rows for training on a CPU, one row after the other.

A batch of documents pads the shorter ones, and what attention costs grows with the square of the
longest. A row alone has no padding, and its scores stay in the caches from the first product to the
last (`benchmarks/training.py` prints the ratio).

Legend: N positions of all rows, B rows, T positions of one, H query heads, K key heads, G query
heads for each key head, W head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator


def rowwise_attention(
    query_NHW: Tensor, key_NKW: Tensor, value_NKW: Tensor, real_BT: Tensor, scale: float
) -> Tensor:
    """(N, H * W) attended values.

    Args:
        query_NHW: (N, H, W) queries of all rows, one row after the other.
        key_NKW: (N, K, W) keys.
        value_NKW: (N, K, W) values.
        real_BT: (B, T) false at the padding of rows, which is not among the N positions.
        scale: Factor on the scores.
    """
    attended_NHW: Tensor
    attended_NHW, _ = _forward(query_NHW, key_NKW, value_NKW, real_BT, scale)
    return attended_NHW.flatten(1)


@torch.library.custom_op("openclara::rowwise_attention", mutates_args=())
def _forward(
    query_NHW: Tensor, key_NKW: Tensor, value_NKW: Tensor, real_BT: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """(N, H, W) attended values, and the shares of positions in the room of `_shares`."""
    n_heads, n_groups = query_NHW.shape[1], key_NKW.shape[1]
    attended_NHW, shares_NHT = _room(query_NHW), _shares(query_NHW, real_BT)
    after_TT = _after(real_BT.shape[1], query_NHW)
    for rows, n in _rows(real_BT):
        query_KQW = _by_group(query_NHW[rows] * scale, n_groups)
        key_KTW, value_KTW = (one[rows].transpose(0, 1) for one in (key_NKW, value_NKW))
        scores_KQT = torch.bmm(query_KQW, key_KTW.transpose(1, 2))
        scores_KQT.view(n_heads, n, n).add_(after_TT[:n, :n])
        shares_KQT = _of_row(shares_NHT[rows], n_groups)
        torch.softmax(scores_KQT, -1, out=shares_KQT)
        attended_KQW = torch.bmm(shares_KQT, value_KTW)
        attended_NHW[rows] = attended_KQW.view(n_heads, n, -1).transpose(0, 1)
    return attended_NHW, shares_NHT


@_forward.register_fake
def _(
    query_NHW: Tensor, key_NKW: Tensor, value_NKW: Tensor, real_BT: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return _room(query_NHW), _shares(query_NHW, real_BT)


@torch.library.custom_op("openclara::rowwise_attention_backward", mutates_args=())
def _backward(
    gradient_NHW: Tensor,
    query_NHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    shares_NHT: Tensor,
    real_BT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    n_heads, n_groups = query_NHW.shape[1], key_NKW.shape[1]
    dquery_NHW, dkey_NKW, dvalue_NKW = _room(query_NHW), _room(key_NKW), _room(value_NKW)
    for rows, n in _rows(real_BT):
        shares_KQT = _of_row(shares_NHT[rows], n_groups)
        dattended_KQW = _by_group(gradient_NHW[rows], n_groups)
        key_KTW, value_KTW = (one[rows].transpose(0, 1) for one in (key_NKW, value_NKW))
        dvalue_NKW[rows] = torch.bmm(shares_KQT.transpose(1, 2), dattended_KQW).transpose(0, 1)
        dshares_KQT = torch.bmm(dattended_KQW, value_KTW.transpose(1, 2))
        dscores_KQT = torch._softmax_backward_data(dshares_KQT, shares_KQT, -1, shares_NHT.dtype)
        dquery_KQW = torch.bmm(dscores_KQT, key_KTW)
        dquery_NHW[rows] = dquery_KQW.view(n_heads, n, -1).transpose(0, 1)
        query_KQW = _by_group(query_NHW[rows], n_groups)
        dkey_NKW[rows] = torch.bmm(dscores_KQT.transpose(1, 2), query_KQW).transpose(0, 1)
    return dquery_NHW.mul_(scale), dkey_NKW.mul_(scale), dvalue_NKW


@_backward.register_fake
def _(
    gradient_NHW: Tensor,
    query_NHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    shares_NHT: Tensor,
    real_BT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _room(query_NHW), _room(key_NKW), _room(value_NKW)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    query_NHW, key_NKW, value_NKW, real_BT, ctx.scale = inputs
    ctx.save_for_backward(query_NHW, key_NKW, value_NKW, output[1], real_BT)


def _gradients(ctx: Any, gradient_NHW: Tensor, _: Tensor) -> Any:
    return *_backward(gradient_NHW, *ctx.saved_tensors, ctx.scale), None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def _room(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _shares(query_NHW: Tensor, real_BT: Tensor) -> Tensor:
    """(N, H, T) room for what the scores of each position became."""
    return query_NHW.new_empty(*query_NHW.shape[:2], real_BT.shape[1])


def _rows(real_BT: Tensor) -> Iterator[tuple[slice, int]]:
    """Where each row's positions are among all, and how many."""
    begin = 0
    for n in real_BT.sum(1).tolist():
        yield slice(begin, begin + n), n
        begin += n


def _of_row(shares_THS: Tensor, n_groups: int) -> Tensor:
    """(K, G * T, T) the shares of one row, without gaps at the start of its (T, H, S) room."""
    n, n_heads = shares_THS.shape[:2]
    return shares_THS.view(-1)[: n_heads * n * n].view(n_groups, -1, n)


def _by_group(x_THW: Tensor, n_groups: int) -> Tensor:
    """(K, G * T, W) of (T, H, W): the query heads of one key head share a product."""
    return x_THW.transpose(0, 1).reshape(n_groups, -1, x_THW.shape[2])


def _after(longest: int, like: Tensor) -> Tensor:
    """(T, T) 0 up to the own position, minus infinity after it."""
    return torch.full((longest, longest), -torch.inf).triu_(1).to(like.dtype)
