"""Models of an evaluation, loaded once each, with the latents that each has made so far."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from openclara.config import LatentRanker, LatentSystem
from openclara.errors import ModelError
from openclara.index import LatentIndex
from openclara.model.base import file_sha256
from openclara.model.checkpoint import TENSORS, is_checkpoint
from openclara.model.published.reading import read_any
from openclara.model.zoo import find_checkpoint
from openclara.pipeline import Clara

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from openclara.config import EvalConfig
    from openclara.types import Document, Hit


OnLatents = (LatentRanker, LatentSystem)
"""Parts of a recipe that read stored latents."""


def identity(name: str) -> str:
    """Which weights a model's name stands for now.

    Raises:
        ModelError: There is none of that name.
        FormatError: It is damaged.
    """
    folder = find_checkpoint(name)
    checkpoint = read_any(folder)  # refuses what is damaged
    card = checkpoint.card
    ours = is_checkpoint(folder)
    adapters = file_sha256(folder / TENSORS) if ours else checkpoint.identity()
    # A recipe leaves the rate, and a hybrid search the weight, to the model.
    return f"{card.base_sha256} {adapters} {card.default_n_memory} {card.latent_weight}"


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
        self._compressors: dict[str, str] = {}
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
        """The latents that a model's compressor makes, shared by all models that have the same.

        One compression serves every rate, too: a prefix of the memory tokens is valid by itself.
        So what is stored is the highest rate that the recipe asks of such a model.
        """
        compressor = self._compressor(name)
        if compressor not in self._stores:
            folder = self._recipe.output / "latents" / self._recipe.precision
            self._stores[compressor] = LatentStore(
                self.clara(name),
                folder,
                fingerprint=compressor,
                n_memory=max(self._rates(compressor)),
                on_compressed=self._on_compressed,
            )
        return self._stores[compressor]

    def _compressor(self, name: str) -> str:
        if name not in self._compressors:
            checkpoint = read_any(find_checkpoint(name))
            self._compressors[name] = checkpoint.compressor_fingerprint()
        return self._compressors[name]

    def _rates(self, compressor: str) -> Iterator[int]:
        recipe = self._recipe
        parts = (*recipe.rankers, *recipe.systems)
        using = [(one.model, one.n_memory) for one in parts if isinstance(one, OnLatents)]
        if recipe.fidelity is not None:
            using += [(recipe.fidelity.model, rate) for rate in recipe.fidelity.n_memory]
        for name, n_memory in using:
            with suppress(ModelError):  # an optional model that is not there asks for nothing
                if self._compressor(name) == compressor:
                    yield self.n_memory(name, n_memory)

    def close(self) -> None:
        """Let go of every index."""
        for store in self._stores.values():
            store.close()


class LatentStore:
    """Passages compressed once, kept in an index between runs.

    Args:
        compressor: A model with the compressor wanted.
        folder: Where indexes are kept, one for each compressor and number of latents.
        fingerprint: Identity of the compressor.
        n_memory: Latents of each stretch.
        on_compressed: Told how many passages were compressed since the last time.

    Raises:
        ConfigError: The model was not trained for so many latents.
    """

    def __init__(
        self,
        compressor: Clara,
        folder: Path,
        *,
        fingerprint: str,
        n_memory: int,
        on_compressed: Callable[[int], None],
    ) -> None:
        compressor.latents([], role="compressor", n_memory=n_memory)
        compressor.latent_spec = replace(compressor.latent_spec, n_memory=n_memory)
        self._compressor = compressor
        self._on_compressed = on_compressed
        spec = replace(compressor.latent_spec, fingerprint=fingerprint)
        self._index = LatentIndex.open(folder / f"{fingerprint[:16]}-{n_memory}.idx", spec)

    def add(self, documents: Sequence[Document]) -> None:
        """Compress what is not here yet."""
        distinct = {document.id: document for document in documents}
        missing = [one for one in distinct.values() if one.id not in self._index]
        self._on_compressed(len(distinct) - len(missing))
        compressing = self._compressor.compress(
            missing, on_progress=lambda n_documents, n_chunks: self._on_compressed(n_documents)
        )
        self._index.add(compressing)

    def hits(self, documents: Sequence[Document], *, n_memory: int) -> list[list[Hit]]:
        """Each passage's stretches with their latents."""
        return self._index.hits([document.id for document in documents], n_memory=n_memory)

    def close(self) -> None:
        """Let go of the index."""
        self._index.close()
