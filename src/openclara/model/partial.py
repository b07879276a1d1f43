"""Decoders that run a part of another's layers, or keep what one of them gives; nothing is copied.

They are made for one call and thrown away, so threads that share a decoder do not meet in them.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn


def first_layers(inner: Any, n_layers: int) -> Any:
    """A decoder of the first layers of another, its final norm after them.

    Args:
        inner: A decoder of transformers: layers, a final norm.
        n_layers: How many.
    """
    return _with_layers(inner, inner.layers[:n_layers])


def keeping(inner: Any, n_layers: int) -> tuple[Any, list[Tensor]]:
    """A decoder that computes what another does, and what it finds after its first layers.

    Args:
        inner: A decoder of transformers.
        n_layers: After how many layers.

    Returns:
        The decoder, and a list to which a call appends the (B, T, D) states, before any norm.
    """
    kept: list[Tensor] = []
    layer = inner.layers[n_layers - 1]

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = layer(*args, **kwargs)
        kept.append(out if isinstance(out, Tensor) else out[0])
        return out

    # A copy, as decoders ask their layers for what kind they are.
    tapped = copy.copy(layer)
    tapped.forward = forward
    layers = [*inner.layers[: n_layers - 1], tapped, *inner.layers[n_layers:]]
    return _with_layers(inner, nn.ModuleList(layers)), kept


def _with_layers(inner: Any, layers: nn.ModuleList) -> Any:
    part = copy.copy(inner)
    # Where a base is spread over devices, its `forward` is an attribute bound to the whole.
    part.__dict__.pop("forward", None)
    part._modules = {**inner._modules, "layers": layers}
    return part
