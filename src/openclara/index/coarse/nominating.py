"""Which chunks are worth an exact score."""

# N chunks, D width, V vectors of a question, K bits of a code

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError

from openclara.index.coarse.codes import SCHEME, asked_codes
from openclara.index.coarse.records import segment_records
from openclara.index.coarse.segment import Segment

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.coarse.settings import Coarse
    from openclara.index.comparing import Queries
    from openclara.index.layout import Layout
    from openclara.types import LatentSpec, Score

NEAREST_FACTOR = 4
"""For each vector of a question so many times the candidates are looked up, as single latents."""

SHORTLIST_FACTOR: dict[Score, int] = {"late": 16, "flat": 8}
"""So many times the candidates have their whole codes compared, chosen by first estimates."""

HEADS_SHARE = 16
"""At least one chunk in so many, where first estimates are those of heads."""

EXACT_SHARE = 8
"""A filter that leaves less than one in so many chunks is searched exactly."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The codes of one moment.

    Attributes:
        spec: What the latents are.
        chunks: Chunks of the index.
        segments: Open segments.
        waiting: Chunk keys in none of them, ascending.
    """

    spec: LatentSpec
    chunks: int
    segments: Sequence[Segment]
    waiting: npt.NDArray[np.int64]

    @property
    def covers(self) -> bool:
        """Whether it pays to ask them: most chunks are in one."""
        return bool(self.segments) and 4 * len(self.waiting) < self.chunks

    def nominate(
        self,
        asked: Queries,
        question: int,
        coarse: Coarse,
        allowed: npt.NDArray[np.int64] | None,
    ) -> npt.NDArray[np.int64] | None:
        """Chunk keys to be scored exactly, ascending; dead ones may be among them.

        Args:
            asked: What the questions are compared by.
            question: Which of them.
            coarse: How many are wanted.
            allowed: Ascending chunk keys to choose from; None for all.

        Returns:
            None where all chunks, or all that are allowed, had better be scored.
        """
        wanted = self.chunks if allowed is None else len(allowed)
        if coarse.from_chunks is None or self.chunks < coarse.from_chunks or not self.covers:
            return None
        if wanted <= coarse.candidates or wanted * EXACT_SHARE < self.chunks:
            return None
        if self.spec.score == "flat" and asked.n_memory != self.spec.n_memory:
            return None  # a cosine of the first few needs their length, which signs do not tell
        held = sum(segment.record.chunks for segment in self.segments)
        # Dead chunks take places: ask for more.
        count = int(coarse.candidates * max(1.0, held / max(1, self.chunks - len(self.waiting))))
        vectors_VMD, _ = asked.vectors(question)
        keys_N = self._found(vectors_VMD.flatten(0, 1), asked.n_memory, count, allowed)
        waiting = self.waiting
        if allowed is not None:
            waiting = np.intersect1d(waiting, allowed, assume_unique=True)
        return np.union1d(keys_N, waiting)

    def _found(
        self, vectors_VD: Tensor, n_memory: int, count: int, allowed: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.int64]:
        """At most `count` chunk keys of the segments, those of the best estimates."""
        asked_KV = asked_codes(vectors_VD)
        found = [
            segment.first_estimates(vectors_VD, asked_KV, n_memory, NEAREST_FACTOR * count, allowed)
            for segment in self.segments
        ]
        size = SHORTLIST_FACTOR[self.spec.score] * count
        if self.spec.score == "flat":
            size = max(size, sum(len(rows_N) for rows_N, _ in found) // HEADS_SHARE)
        estimated = [first_N for _, first_N in found if first_N is not None]
        least = _least_of_largest(np.concatenate(estimated), size) if estimated else 0.0
        keys, closer = [], []
        for segment, (rows_N, first_N) in zip(self.segments, found, strict=True):
            kept_N = rows_N if first_N is None else rows_N[first_N >= least]
            keys.append(segment.keys[kept_N])
            closer.append(segment.closer(kept_N, asked_KV, n_memory))
        return np.concatenate(keys)[_largest(np.concatenate(closer), count)]


def _least_of_largest(scores_N: npt.NDArray[np.float32], count: int) -> float:
    """The least of the `count` largest."""
    if len(scores_N) <= count:
        return -np.inf
    return float(np.partition(scores_N, -count)[-count])


def _largest(scores_N: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    """Where the `count` largest are, in no order."""
    if len(scores_N) <= count:
        return np.arange(len(scores_N))
    return np.argpartition(scores_N, -count)[-count:]


def open_segments(
    connection: sqlite3.Connection, layout: Layout, spec: LatentSpec, before: Mapping[int, Segment]
) -> Segments:
    """The segments of a transaction. One that is missing or damaged is as if it were not built.

    Args:
        connection: In a transaction.
        layout: Where the files are.
        spec: What the latents are.
        before: Segments that are open already, by key.
    """
    segments: list[Segment] = []
    for record in segment_records(connection):
        if record.scheme != SCHEME:
            continue
        try:
            segments.append(before.get(record.key) or Segment(layout, spec, record))
        except (OSError, ValueError, SafetensorError):
            continue
    (chunks,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
    if not segments:
        return Segments(spec, chunks, (), np.empty(0, dtype=np.int64))
    return Segments(spec, chunks, segments, _outside(connection, segments))


def _outside(connection: sqlite3.Connection, segments: Sequence[Segment]) -> npt.NDArray[np.int64]:
    """Chunk keys in the range of none of the segments."""
    edges = [
        0,
        *(key for segment in segments for key in (segment.record.first, segment.record.last)),
    ]
    gaps = [*zip(edges[::2], edges[1::2], strict=False), (edges[-1], 2**62)]
    query = "SELECT key FROM chunks WHERE key > ? AND key < ? ORDER BY key"
    keys = [key for gap in gaps for (key,) in connection.execute(query, gap)]
    return np.array(keys, dtype=np.int64)


def rows_of(
    connection: sqlite3.Connection, keys_N: npt.NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """Shard, row and key of those chunks that exist, in the order they lie on the disk."""
    query = (
        "SELECT shard, row, key FROM chunks WHERE key IN (SELECT value FROM json_each(?)) "
        "ORDER BY shard, row"
    )
    return connection.execute(query, (json.dumps(keys_N.tolist()),)).fetchall()
