"""Models and indexes, opened for a verb."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from openclara.cli import render
from openclara.cli.estimating import announce
from openclara.index.addresses import spec_at

if TYPE_CHECKING:
    from openclara.cli.options import ModelOptions
    from openclara.index.interface import Index
    from openclara.pipeline import Clara


def load_model(name: str, options: ModelOptions, *, n_memory: int | None = None) -> Clara:
    """Load a model, telling the user that it takes a moment."""
    with render.waiting(f"loading {name}; the first time, its base is fetched and converted"):
        from openclara.pipeline import Clara

        return Clara.load(
            _findable(name),
            base=options.base,
            device=options.device,
            n_memory=n_memory,
            precision=options.precision,
            device_map=options.device_map,
            on_plan=announce,
        )


def load_model_to_add(address: str, options: ModelOptions, *, n_memory: int | None) -> Clara:
    """The model to add documents with: that of the index at `address`, if there is one.

    Args:
        address: Of the index, which need not exist.
        options: Which model the user says.
        n_memory: Latents for each passage; the index's own number, or the model's, if None.
    """
    name, stored = model_to_add(address, options)
    clara = load_model(name, options, n_memory=n_memory)
    if n_memory is None and stored is not None:
        # Not asked of the model when loading it: another model may not have that many, and it is
        # for the index to say that it is another one. The same one has them.
        clara.latent_spec = replace(clara.latent_spec, n_memory=stored)
    return clara


def model_to_add(address: str, options: ModelOptions) -> tuple[str, int | None]:
    """Name of the model to add documents with, and the latents a passage of the index has."""
    from openclara.model.zoo import DEFAULT_MODEL

    stored = spec_at(address)
    if stored is None:
        return _findable(options.model or DEFAULT_MODEL), None
    return _findable(options.model or stored.model), stored.n_memory


def load_model_of(index: Index, options: ModelOptions) -> Clara:
    """The model that an index was made by, or the one the user says it was."""
    return load_model(options.model or index.spec.model, options)


def _findable(name: str) -> str:
    """A folder by its whole path: the index remembers it, and may be used from elsewhere."""
    from openclara.model.zoo import zoo_names

    folder = Path(name).expanduser()
    return str(folder.resolve()) if name not in zoo_names() and folder.is_dir() else name
