"""The open shards of one moment, and how readers keep up with the present."""

# N rows

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from openclara.index import database as db
from openclara.index.coarse.nominating import open_segments, rows_of
from openclara.index.shards import Shard, damaged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from openclara.index.coarse.nominating import Segments
    from openclara.index.layout import Layout, Manifest
    from openclara.index.shards import ShardRecord

Result = TypeVar("Result")

ATTEMPTS = 5
"""How often a reader looks again after a compaction took a file away under it."""


@dataclass(frozen=True, slots=True)
class LiveRows:
    """The rows of a shard that chunks point to.

    Attributes:
        record: The shard.
        keys: Chunk of each row, (N,).
        rows: Where it is in the shard, (N,), ascending.
    """

    record: ShardRecord
    keys: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @property
    def dead(self) -> int:
        """Rows that no chunk points to."""
        return self.record.rows - len(self.rows)


class View:
    """The latents of one moment.

    Attributes:
        generation: The moment.
        shards: Open shards by key.
        segments: The coarse stage over them.
    """

    def __init__(self, generation: int, shards: Mapping[int, Shard], segments: Segments) -> None:
        self.generation = generation
        self.shards = shards
        self.segments = segments
        self._live: list[LiveRows] | None = None

    def live(self, connection: sqlite3.Connection) -> Sequence[LiveRows]:
        """All live rows; read when first asked for, since of a large index they are many.

        Args:
            connection: In a transaction of this moment.
        """
        if self._live is None:
            self._live = live_rows(connection)
        return self._live

    def rows(self, connection: sqlite3.Connection, keys_N: npt.NDArray[np.int64]) -> list[LiveRows]:
        """Where some chunks lie; those that are no more are left out.

        Args:
            connection: In a transaction of this moment.
            keys_N: Chunk keys.
        """
        table = np.array(rows_of(connection, keys_N), dtype=np.int64).reshape(-1, 3)
        starts = np.flatnonzero(np.diff(table[:, 0], prepend=-1))
        return [
            LiveRows(self.shards[int(part[0, 0])].record, part[:, 2].copy(), part[:, 1].copy())
            for part in np.split(table, starts[1:])
            if len(part)
        ]


def live_rows(connection: sqlite3.Connection) -> list[LiveRows]:
    """What every shard holds, in the order the shards were written."""
    query = "SELECT shard, row, key FROM chunks ORDER BY shard, row"
    table = np.array(connection.execute(query).fetchall(), dtype=np.int64).reshape(-1, 3)
    shards_N = table[:, 0]
    found = []
    for record in db.shard_records(connection):
        first, end = np.searchsorted(shards_N, [record.key, record.key + 1])
        found.append(LiveRows(record, table[first:end, 2].copy(), table[first:end, 1].copy()))
    return found


class Views:
    """The latest view, renewed when the index changed; safe to use from several threads."""

    def __init__(self, layout: Layout, manifest: Manifest) -> None:
        self._layout = layout
        self._manifest = manifest
        self._latest: View | None = None
        self._lock = threading.Lock()

    def at(self, connection: sqlite3.Connection) -> View:
        """The view of a transaction; shards stay open from view to view.

        Raises:
            FileNotFoundError: The transaction is older than a compaction.
            FormatError: A shard is damaged.
        """
        generation = db.generation(connection)
        with self._lock:
            if self._latest is not None and self._latest.generation == generation:
                return self._latest
            opened = {} if self._latest is None else self._latest.shards
            shards = {
                record.key: opened.get(record.key) or Shard(self._layout, self._manifest, record)
                for record in db.shard_records(connection)
            }
            asked = () if self._latest is None else self._latest.segments.segments
            known = {segment.record.key: segment for segment in asked}
            segments = open_segments(connection, self._layout, self._manifest.spec, known)
            self._latest = View(generation, shards, segments)
            return self._latest

    def forget(self) -> None:
        """Let go of all open shards."""
        with self._lock:
            self._latest = None

    def retrying(self, read: Callable[[], Result]) -> Result:
        """Read again, in a new transaction, where a compaction removed the files of the last one.

        Raises:
            FormatError: A recorded shard is missing.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return read()
            except FileNotFoundError:
                continue
        try:
            return read()
        except FileNotFoundError as error:
            raise damaged(self._layout, f"{error.filename} is missing") from error
