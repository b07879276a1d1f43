"""A cache whose rows have lengths of their own, for a batch that prompts join and leave.

Every row starts at the first position and grows at its own end, so nothing is shifted when another
one comes or goes. Room is taken in blocks, both ways, and given back when it is far too much.

Legend: B rows in use, R rows there is room for, K key heads, S positions, W width of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

BLOCK = 64
"""Positions are reserved in multiples of this."""


class RaggedCache(Cache):
    """Keys and values of B rows; a pass through the model appends one position to each.

    Args:
        n_layers: Layers of the model, all with attention to every position.
    """

    layers: list[Any]

    def __init__(self, n_layers: int) -> None:
        super().__init__(layers=[RaggedLayer() for _ in range(n_layers)])

    def put(self, rows: Sequence[int], layers: Sequence[Any]) -> None:
        """Write what was read of some prompts into rows.

        Args:
            rows: Where to, one for each prompt; there is room after `fit`.
            layers: Cache layers with (len(rows), K, S, W) keys and values, one for each layer.
        """
        for own, read in zip(self.layers, layers, strict=True):
            own.put(torch.tensor(rows, device=read.keys.device), read.keys, read.values)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows over others."""
        for layer in self.layers:
            layer.move(list(sources), list(targets))

    def fit(self, n_rows: int, n_positions: int) -> None:
        """Make room for so many rows of so many positions, and give back far more than that."""
        for layer in self.layers:
            layer.fit(n_rows, n_positions)

    def point(self, positions: Sequence[int]) -> None:
        """Say where the next position of each of the first rows goes."""
        ends_B: Tensor | int = positions[0]
        if min(positions) != max(positions):
            ends_B = torch.tensor(positions)
        for layer in self.layers:
            layer.point(len(positions), max(positions) + 1, ends_B)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(layer.nbytes for layer in self.layers)


class RaggedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The part of one layer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._room = (0, 0)
        self._n_rows = self._width = 0
        self._ends_B: Tensor | int = 0
        self._rows_B: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(buffer.nbytes for buffer in self._buffers or ())

    def get_seq_length(self) -> int:
        """Positions of the longest row before the next pass."""
        return max(self._width - 1, 0)

    def point(self, n_rows: int, width: int, ends_B: Tensor | int) -> None:
        """As `RaggedCache.point`."""
        self._n_rows, self._width = n_rows, width
        assert self._buffers is not None
        device = self._buffers[0].device
        self._ends_B = ends_B if isinstance(ends_B, int) else ends_B.to(device)
        self._rows_B = torch.arange(n_rows, device=device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, K, 1, W) keys and values; the whole of both, (B, K, S, W)."""
        assert self._buffers is not None
        held = [buffer[: self._n_rows, :, : self._width] for buffer in self._buffers]
        for buffer, new in zip(held, (key_states, value_states), strict=True):
            if isinstance(self._ends_B, int):
                buffer[:, :, self._ends_B] = new[:, :, 0]
            else:
                buffer[self._rows_B, :, self._ends_B] = new[:, :, 0]
        return held[0], held[1]

    def put(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """As `RaggedCache.put`."""
        if self._buffers is None:
            self._buffers = _room(keys, *self._room), _room(values, *self._room)
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[rows, :, : new.shape[2]] = new

    def move(self, sources: list[int], targets: list[int]) -> None:
        """As `RaggedCache.move`."""
        for buffer in self._buffers or ():
            buffer[targets] = buffer[sources]

    def fit(self, n_rows: int, n_positions: int) -> None:
        """As `RaggedCache.fit`."""
        if not n_rows:
            self._buffers, self._room = None, (0, 0)
            return
        have_rows, have_positions = self._room
        n_positions = -(-n_positions // BLOCK) * BLOCK
        if have_rows < n_rows or have_rows > 4 * n_rows:
            have_rows = 1 << (n_rows - 1).bit_length()
        if have_positions < n_positions or have_positions > 4 * n_positions:
            have_positions = n_positions + BLOCK
        if (have_rows, have_positions) == self._room:
            return
        if self._buffers is not None:
            keys, values = (_grown(buffer, have_rows, have_positions) for buffer in self._buffers)
            self._buffers = keys, values
        self._room = have_rows, have_positions


def _room(like: Tensor, n_rows: int, n_positions: int) -> Tensor:
    # Zeros: what is masked is still multiplied, and memory as it comes may hold NaN.
    return like.new_zeros(n_rows, like.shape[1], n_positions, like.shape[3])


def _grown(held: Tensor, n_rows: int, n_positions: int) -> Tensor:
    made = _room(held, n_rows, n_positions)
    rows, positions = min(n_rows, held.shape[0]), min(n_positions, held.shape[2])
    made[:rows, :, :positions] = held[:rows, :, :positions]
    return made
