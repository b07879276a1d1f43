"""Rewriting shards: fewer files, no dead rows, the same answers."""

# N rows

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from openclara.index import database as db
from openclara.index.shards import Shard, damage, damaged, rows_per_shard, write_shard
from openclara.index.views import live_rows
from openclara.index.writing import remove_orphans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.database import Database
    from openclara.index.layout import Layout, Manifest
    from openclara.index.shards import ShardRecord
    from openclara.index.views import LiveRows

SMALL_SHARD_BYTES = 8 * 2**20
SMALL_SHARDS = 16
"""More small shards than this are merged after a commit: each costs a search a file and a block."""


def compact(database: Database, layout: Layout, manifest: Manifest) -> None:
    """Leave no dead row and few shards, and shrink the database; only for the one that writes.

    Raises:
        FormatError: A shard is damaged.
        OpenClaraError: The disk is full or read-only; the index is as before.
    """
    with database.reading() as connection:
        live = live_rows(connection)
    several = sum(map(_small, live)) > 1
    sources = [source for source in live if source.dead or (several and _small(source))]
    if sources:
        rewrite(database, layout, manifest, sources)
        remove_orphans(database, layout)
    with database.outside() as connection:
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def rewrite(
    database: Database, layout: Layout, manifest: Manifest, sources: Sequence[LiveRows]
) -> None:
    """Copy the live rows of some shards into new ones, then switch over in one transaction.

    The old files stay until the caller removes orphans. Only for the one process that writes.

    Args:
        database: The record to change.
        layout: Where the shards are.
        manifest: What is in them.
        sources: The shards to replace.

    Raises:
        FormatError: A source is damaged; rewriting it would give the damage a valid hash.
        OpenClaraError: The disk is full or read-only; the index is as before.
    """
    with database.reading() as connection:
        key = db.next_shard_key(connection)
    targets: list[tuple[ShardRecord, npt.NDArray[np.int64]]] = []
    with db.explained(layout):
        for keys_N, stored in _batches(layout, manifest, sources):
            targets.append((write_shard(layout, stored, key + len(targets)), keys_N))
    with database.writing() as connection:
        for record, keys_N in targets:
            db.record_shard(connection, record)
            connection.executemany(
                "UPDATE chunks SET shard = ?, row = ? WHERE key = ?",
                ((record.key, row, chunk) for row, chunk in enumerate(keys_N.tolist())),
            )
        connection.executemany(
            "DELETE FROM shards WHERE key = ?", ((source.record.key,) for source in sources)
        )


def merge_small(database: Database, layout: Layout, manifest: Manifest) -> None:
    """Merge small shards once there are many; only for the one process that writes.

    Raises:
        FormatError: One of them is damaged.
        OpenClaraError: The disk is full or read-only; the index is as before.
    """
    with database.reading() as connection:
        records = db.shard_records(connection)
        if sum(record.bytes < SMALL_SHARD_BYTES for record in records) <= SMALL_SHARDS:
            return
        small = [source for source in live_rows(connection) if _small(source)]
    rewrite(database, layout, manifest, small)
    remove_orphans(database, layout)


def _small(source: LiveRows) -> bool:
    return source.record.bytes < SMALL_SHARD_BYTES


def _batches(
    layout: Layout, manifest: Manifest, sources: Sequence[LiveRows]
) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Tensor]]]:
    """The live rows of all sources, cut into full shards: chunk keys and stored tensors."""
    capacity = rows_per_shard(manifest)
    keys: list[npt.NDArray[np.int64]] = []
    parts: list[dict[str, Tensor]] = []
    waiting = 0
    for source in sources:
        if problem := damage(layout, source.record):
            raise damaged(layout, problem)
        shard = Shard(layout, manifest, source.record)
        start = 0
        while start < len(source.rows):
            end = min(len(source.rows), start + capacity - waiting)
            keys.append(source.keys[start:end])
            parts.append(shard.stored(source.rows[start:end]))
            waiting, start = waiting + end - start, end
            if waiting == capacity:
                yield np.concatenate(keys), _joined(parts)
                keys, parts, waiting = [], [], 0
    if waiting:
        yield np.concatenate(keys), _joined(parts)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
