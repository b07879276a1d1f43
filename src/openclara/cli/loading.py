"""Models and indexes, opened for a verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from openclara.cli import render

if TYPE_CHECKING:
    from openclara.cli.options import ModelOptions
    from openclara.index import LatentIndex
    from openclara.pipeline import Clara


def open_index(path: Path) -> LatentIndex:
    """An index that exists."""
    from openclara.index import LatentIndex

    return LatentIndex.open(path)


def load_model(name: str, options: ModelOptions, *, n_memory: int | None = None) -> Clara:
    """Load a model, telling the user that it takes a moment."""
    with render.waiting(f"loading {name}; the first time, its base is fetched and converted"):
        from openclara.pipeline import Clara

        return Clara.load(
            _findable(name), base=options.base, device=options.device, n_memory=n_memory
        )


def load_model_of(index: LatentIndex, options: ModelOptions) -> Clara:
    """The model that an index was made by, or the one the user says it was."""
    return load_model(options.model or index.spec.model, options)


def _findable(name: str) -> str:
    """A folder by its whole path: the index remembers it, and may be used from elsewhere."""
    from openclara.model.zoo import zoo_names

    folder = Path(name).expanduser()
    return str(folder.resolve()) if name not in zoo_names() and folder.is_dir() else name
