"""Models of an evaluation, loaded once each, with the latents that each has made so far."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from openclara.index import LatentIndex
from openclara.model.checkpoint import MANIFEST
from openclara.model.zoo import find_checkpoint
from openclara.pipeline import Clara

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from openclara.config import EvalConfig
    from openclara.types import Document, Hit


def identity(name: str) -> str:
    """Which weights a model's name stands for now.

    Raises:
        ModelError: There is none of that name.
    """
    manifest = json.loads((find_checkpoint(name) / MANIFEST).read_text(encoding="utf-8"))
    # The default rate counts as well: a recipe may leave it to the model.
    named = ("base_sha256", "adapters_sha256", "default_n_memory")
    return " ".join(str(manifest[name]) for name in named)


class Models:
    """Every model a recipe names.

    Args:
        recipe: Device, precision, and where latents are kept.
        on_compressed: Told how many passages were compressed since the last time.
    """

    def __init__(self, recipe: EvalConfig, on_compressed: Callable[[int], None]) -> None:
        self._recipe = recipe
        self._on_compressed = on_compressed
        self._loaded: dict[str, Clara] = {}
        self._stores: dict[str, LatentStore] = {}

    def clara(self, name: str) -> Clara:
        """The model of that name.

        Raises:
            ModelError: It is missing or damaged.
        """
        if name not in self._loaded:
            recipe = self._recipe
            self._loaded[name] = Clara.load(name, device=recipe.device, precision=recipe.precision)
        return self._loaded[name]

    def n_memory(self, name: str, asked: int | None) -> int:
        """Memory tokens that a recipe asks of a model, or the model's default."""
        return asked or self.clara(name).card.default_n_memory

    def store(self, name: str) -> LatentStore:
        """The latents that a model makes, at the highest rate that the recipe asks of it.

        One compression serves every rate: a prefix of the memory tokens is valid by itself.
        """
        if name not in self._stores:
            recipe = self._recipe
            rates = [
                self.n_memory(name, one.n_memory)
                for one in (*recipe.rankers, *recipe.systems)
                if getattr(one, "model", None) == name and hasattr(one, "n_memory")
            ]
            if recipe.fidelity is not None and recipe.fidelity.model == name:
                rates += recipe.fidelity.n_memory
            folder = recipe.output / "latents"
            self._stores[name] = LatentStore(
                self.clara(name), folder, n_memory=max(rates), on_compressed=self._on_compressed
            )
        return self._stores[name]

    def close(self) -> None:
        """Let go of every index."""
        for store in self._stores.values():
            store.close()


class LatentStore:
    """Passages compressed once by one model, kept in an index between runs.

    Args:
        clara: The model.
        folder: Where indexes are kept, one for each model and number of latents.
        n_memory: Latents of each stretch.
        on_compressed: Told how many passages were compressed since the last time.
    """

    def __init__(
        self, clara: Clara, folder: Path, *, n_memory: int, on_compressed: Callable[[int], None]
    ) -> None:
        self.clara = clara
        self._on_compressed = on_compressed
        clara.latents(
            [], role="compressor", n_memory=n_memory
        )  # refuses what it was not trained for
        clara.latent_spec = replace(clara.latent_spec, n_memory=n_memory)
        name = f"{clara.latent_spec.fingerprint[:16]}-{n_memory}.idx"
        self._index = LatentIndex.open(folder / name, clara.latent_spec)

    def add(self, documents: Sequence[Document]) -> None:
        """Compress what is not here yet."""
        distinct = {document.id: document for document in documents}
        missing = [one for one in distinct.values() if one.id not in self._index]
        self._on_compressed(len(distinct) - len(missing))
        compressing = self.clara.compress(
            missing, on_progress=lambda n_documents, n_chunks: self._on_compressed(n_documents)
        )
        self._index.add(compressing)

    def hits(self, documents: Sequence[Document], *, n_memory: int) -> list[list[Hit]]:
        """Each passage's stretches with their latents."""
        return self._index.hits([document.id for document in documents], n_memory=n_memory)

    def close(self) -> None:
        """Let go of the index."""
        self._index.close()
