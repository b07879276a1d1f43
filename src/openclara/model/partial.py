"""Decoders that run a part of another's layers, or keep what one of them gives; nothing is copied.

They are made for one call and thrown away, so threads that share a decoder do not meet in them.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


def first_layers(inner: Any, n_layers: int) -> Any:
    """A decoder of the first layers of another, without a norm after them.

    Args:
        inner: A decoder of transformers: layers, a final norm.
        n_layers: How many.
    """
    return _with(inner, layers=inner.layers[:n_layers], norm=nn.Identity())


def keeping(inner: Any, n_layers: int) -> tuple[Any, list[Tensor]]:
    """A decoder that computes what another does, and what it finds after its first layers.

    Args:
        inner: A decoder of transformers.
        n_layers: After how many layers.

    Returns:
        The decoder, and a list to which a call appends the (B, T, D) states, before any norm.
    """
    kept: list[Tensor] = []

    def forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
        out = layer(*args, **kwargs)
        kept.append(out if isinstance(out, Tensor) else out[0])
        return out

    return _tapped(inner, n_layers - 1, forward), kept


def entering(inner: Any, n_layers: int, entering_BTD: Tensor, slot_BT: Tensor) -> Any:
    """A decoder in which some positions begin after the first layers, with states given for them.

    Before that they are to hold zeros, nothing of their own.

    Args:
        inner: A decoder of transformers.
        n_layers: How many layers come before.
        entering_BTD: (B, T, D) the states, at the slots.
        slot_BT: (B, T) which positions these are.
    """

    def forward(layer: Any, states_BTD: Tensor, *args: Any, **kwargs: Any) -> Any:
        # A base that is spread over devices may be on another one by now.
        slot_BT1 = slot_BT.unsqueeze(-1).to(states_BTD.device)
        states_BTD = torch.where(slot_BT1, entering_BTD.to(states_BTD), states_BTD)
        return layer(states_BTD, *args, **kwargs)

    return _tapped(inner, n_layers, forward)


def _tapped(inner: Any, at: int, forward: Callable[..., Any]) -> Any:
    """A decoder one of whose layers computes `forward`, which is given that layer first."""
    layer = inner.layers[at]
    # A copy, as decoders ask their layers for what kind they are.
    tapped = copy.copy(layer)
    tapped.forward = partial(forward, layer)
    layers = [*inner.layers[:at], tapped, *inner.layers[at + 1 :]]
    return _with(inner, layers=nn.ModuleList(layers))


def _with(inner: Any, **modules: nn.Module) -> Any:
    part = copy.copy(inner)
    # Where a base is spread over devices, its `forward` is an attribute bound to the whole.
    part.__dict__.pop("forward", None)
    part._modules = {**inner._modules, **modules}
    return part
