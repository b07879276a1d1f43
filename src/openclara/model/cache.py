"""A cache of keys and values with room to grow, for decoding many tokens from a long prompt.

The dynamic cache of transformers copies everything it holds for every new token. Here a token is
written into room that is already there, and a copy is made once in `ROOM` tokens.

Legend: B rows, K key heads, S positions, D width of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 64
"""Positions that are reserved beyond those in use."""


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """What `DynamicLayer` keeps, as views of larger buffers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, K, T, D) keys and values; the whole of both, (B, K, S, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (
                _with_room(self.keys, key_states, end + ROOM),
                _with_room(self.values, value_states, end + ROOM),
            )
        keys, values = (buffer[:, :, :end] for buffer in self._buffers)
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        self.keys, self.values = keys, values
        return keys, values

    def reset(self) -> None:
        """Forget everything."""
        self._buffers = None
        super().reset()


def roomy_cache(config: Any) -> Any:
    """The cache transformers would make for a model, full-attention layers with room to grow."""
    cache = DynamicCache(config=config)
    # Exactly this class: layers that slide or keep a state have their own way to grow.
    cache.layers = [RoomyLayer() if type(one) is DynamicLayer else one for one in cache.layers]
    return cache


def _with_room(held: Tensor | None, new: Tensor, capacity: int) -> Tensor:
    buffer = new.new_empty(*new.shape[:-2], capacity, new.shape[-1])
    if held is not None and held.numel():
        buffer[:, :, : held.shape[-2]] = held
    return buffer
