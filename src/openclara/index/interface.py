"""What every kind of index can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from torch import Tensor

    from openclara.index.layout import Quantization
    from openclara.index.reports import AddReport
    from openclara.types import CompressedDocument, Compression, Document, Hit, LatentSpec, Mode


class Index(Protocol):
    """Documents with their latents: a folder (`LatentIndex`) or Milvus (`MilvusIndex`).

    Every method is as documented at `LatentIndex`.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @property
    def path(self) -> Path | str:
        """Where it is."""

    @property
    def default_mode(self) -> Mode:
        """How `Clara` searches it where no mode is given."""

    @property
    def spec(self) -> LatentSpec:
        """What the latents were made with."""

    @property
    def quantization(self) -> Quantization:
        """How the latents are stored."""

    @property
    def n_chunks(self) -> int:
        """Chunks held."""

    def __len__(self) -> int: ...

    def __contains__(self, document_id: object) -> bool: ...

    def add(
        self,
        compressed: Iterable[CompressedDocument] | Compression,
        *,
        on_progress: Callable[[AddReport], None] | None = ...,
    ) -> AddReport:
        """Add documents, replacing those whose id is known."""

    def get(self, document_id: str) -> Document:
        """The document of that id."""

    def documents(
        self, *, where: Sequence[str] = ..., limit: int | None = ..., offset: int = ...
    ) -> Iterator[Document]:
        """The documents, in the order their ids were first added."""

    def hits(self, ids: Sequence[str], *, n_memory: int | None = ...) -> list[list[Hit]]:
        """Every stretch of some documents with its latents."""

    def delete(self, ids: Iterable[str] = ..., *, where: Sequence[str] = ...) -> int:
        """Remove documents."""

    def search(
        self,
        questions: Sequence[str],
        latents: Tensor | None,
        *,
        k: int,
        mode: Mode = ...,
        where: Sequence[str] = ...,
        n_memory: int | None = ...,
        latent_weight: float = ...,
        with_latents: bool = ...,
    ) -> list[list[Hit]]:
        """Find the chunks that answer each question best."""

    def close(self) -> None:
        """Release files and connections."""
