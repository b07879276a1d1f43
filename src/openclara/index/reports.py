"""What the index says about itself and about what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openclara.index.layout import Quantization
    from openclara.types import LatentSpec


@dataclass(frozen=True, slots=True)
class AddReport:
    """What an `add` did so far; everything counted is committed.

    Attributes:
        added: New documents.
        updated: Documents whose text, title, source or metadata changed.
        unchanged: Documents that were held already.
        chunks: Chunks whose latents were written.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a `compact` did.

    Attributes:
        removed_rows: Dead rows of latents that were dropped.
        shards_before: Shards it found.
        shards_after: Shards it left.
        freed_bytes: Disk space won, latents and database together; negative where it grew.
    """

    removed_rows: int
    shards_before: int
    shards_after: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a `verify` found.

    Attributes:
        problems: One sentence for each; empty when the index is whole.
        dropped: Ids of documents that a repair removed; add them again.
    """

    problems: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index in numbers.

    Attributes:
        documents: Documents held.
        chunks: Their chunks; each is one live row of latents.
        dead_rows: Rows of replaced and deleted chunks, dropped by `compact`.
        shards: Files of latents.
        latent_bytes: Bytes of these files.
        database_bytes: Bytes of the SQLite files.
        coarse_chunks: Chunks in the segments of the coarse stage, dead ones included; 0 without it.
        coarse_segments: Segments, each a file.
        coarse_bytes: Bytes of these files.
        bytes_per_chunk: Bytes of one row of latents, scales included.
        spec: What made the latents.
        quantization: How they are stored.
        updated: Time of the last change, ISO 8601 in UTC.
    """

    documents: int
    chunks: int
    dead_rows: int
    shards: int
    latent_bytes: int
    database_bytes: int
    coarse_chunks: int
    coarse_segments: int
    coarse_bytes: int
    bytes_per_chunk: int
    spec: LatentSpec
    quantization: Quantization
    updated: str

    @property
    def total_bytes(self) -> int:
        """Bytes of the index on disk."""
        return self.latent_bytes + self.database_bytes + self.coarse_bytes
