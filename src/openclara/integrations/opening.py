"""Models and indexes by name, for frameworks that keep only names; equal names share one model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from openclara.index import LatentIndex
from openclara.index.addresses import folder_of
from openclara.index.layout import Layout
from openclara.model.zoo import DEFAULT_MODEL, zoo_names
from openclara.pipeline import Clara

if TYPE_CHECKING:
    from openclara.types import Precision

_loaded: WeakValueDictionary[tuple[str, int | None, str, Precision], Clara] = WeakValueDictionary()
_opening = threading.Lock()


class Named:
    """An index and the model it was made by, known by name and opened when first needed."""

    def __init__(
        self,
        index: str | Path,
        *,
        model: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        new: bool = False,
    ) -> None:
        """Note the names.

        Args:
            index: Folder of the index.
            model: Zoo name, folder or hub id of the model; the index's own if None, of a new one
                the default.
            device: As in `Clara.load`.
            precision: As in `Clara.load`.
            new: Make the index where there is none.
        """
        self._index, self._model, self._new = str(index), model, new
        self._device, self._precision = device, precision
        self._opened: tuple[Clara, LatentIndex] | None = None

    def names(self) -> dict[str, str | None]:
        """The arguments again, as plain values."""
        return {
            "index": self._index,
            "model": self._model,
            "device": self._device,
            "precision": self._precision,
        }

    def open(self) -> tuple[Clara, LatentIndex]:
        """Model and index; the same ones whenever it is called.

        Raises:
            ConfigError: The index is in Milvus.
            FormatError: There is no index, or it is damaged.
            ModelError: The model is missing or damaged.
            IndexMismatch: The index was made by another model.
        """
        with _opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> tuple[Clara, LatentIndex]:
        path = folder_of(self._index).expanduser()
        stored = None
        if not self._new or Layout(path).manifest.exists():
            with LatentIndex.open(path) as index:
                stored = index.spec
        clara = _load(
            _findable(self._model or (stored.model if stored else DEFAULT_MODEL)),
            stored.n_memory if stored else None,
            self._device,
            self._precision,
        )
        return clara, LatentIndex.open(path, clara.latent_spec)


def _load(name: str, n_memory: int | None, device: str, precision: Precision) -> Clara:
    clara = _loaded.get((name, n_memory, device, precision))
    if clara is None:
        clara = Clara.load(name, n_memory=n_memory, device=device, precision=precision)
        # Who makes an index asks for no number, who reads it then for the one it has.
        for number in (n_memory, clara.latent_spec.n_memory):
            _loaded[name, number, device, precision] = clara
    return clara


def _findable(name: str) -> str:
    """A folder by its whole path: a new index remembers it, and may be used from elsewhere."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name not in zoo_names() and folder.is_dir() else name
