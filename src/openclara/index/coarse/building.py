"""Keeping the segments up with the index: what is new is added, what is mostly dead is rebuilt."""

# N rows, M memory tokens, D width

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from openclara.errors import FormatError
from openclara.index import database as db
from openclara.index.coarse.codes import SCHEME
from openclara.index.coarse.records import (
    SCHEMA,
    SegmentRecord,
    forget_segments,
    next_segment_key,
    record_segment,
    segment_records,
)
from openclara.index.coarse.segment import NewSegment
from openclara.index.shards import Shard
from openclara.index.writing import remove_orphans

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.coarse.settings import Coarse
    from openclara.index.database import Database
    from openclara.index.layout import Layout, Manifest

SEGMENT_LATENTS = 2**22
"""Latents of the largest segment: its codes are made in memory, 150 bytes each for 576 dimensions.
A search asks every segment, so few large ones are better."""

WAITING_CHUNKS = 1024
WAITING_SHARE = 1024
"""Chunks in no segment are scored exactly: up to so many, or one in so many of all, are left so."""

MERGE_RATIO = 4
"""A segment is merged with its neighbour unless that is so many times larger, as in a
log-structured merge tree: every chunk is built into a segment a logarithmic number of times."""

BLOCK_ROWS = 1024


@dataclass(slots=True)
class Stretch:
    """A range of chunk keys, covered by segments or by none.

    Attributes:
        first: First key.
        last: Last key.
        live: Chunks of today in it.
        stale: Whether it is to be built.
        replaces: Segments that a new one would replace.
    """

    first: int
    last: int
    live: int
    stale: bool
    replaces: list[SegmentRecord] = field(default_factory=list)


def keep_up(
    database: Database,
    layout: Layout,
    manifest: Manifest,
    coarse: Coarse,
    *,
    thorough: bool = False,
) -> None:
    """Build what is missing; only for the one process that writes.

    Args:
        database: The record to change.
        layout: Where the files are.
        manifest: What is in them.
        coarse: When segments are wanted.
        thorough: Leave no chunk waiting and few dead ones, as a compaction does.

    Raises:
        OpenClaraError: The disk is full or read-only; the index is as before.
    """
    if coarse.from_chunks is None:
        return
    with database.reading() as connection:
        (total,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
        found = stretches_of(connection, dead_share=0.1 if thorough else 0.5)
    if total < max(1, coarse.from_chunks):
        return
    waiting = sum(one.live for one in found if one.stale and not one.replaces)
    dead = any(one.stale and one.replaces for one in found)
    allowed = 0 if thorough else max(WAITING_CHUNKS, total // WAITING_SHARE)
    if waiting <= allowed and not dead:
        return
    capacity = max(1, SEGMENT_LATENTS // manifest.spec.n_memory)
    for stretch in merged(found, capacity):
        if stretch.stale:
            _build(database, layout, manifest, stretch, capacity)
    remove_orphans(database, layout)


def stretches_of(connection: sqlite3.Connection, *, dead_share: float) -> list[Stretch]:
    """All chunk keys in ascending ranges; stale are those in no segment, or in one too dead."""
    found: list[Stretch] = []
    reached = 0
    for record in segment_records(connection):
        if record.first > reached + 1:
            found.append(_stretch(connection, reached + 1, record.first - 1))
        one = _stretch(connection, record.first, record.last)
        one.replaces = [record]
        one.stale = record.scheme != SCHEME or one.live < (1 - dead_share) * record.chunks
        found.append(one)
        reached = record.last
    (last,) = connection.execute("SELECT coalesce(max(key), 0) FROM chunks").fetchone()
    if last > reached:
        found.append(_stretch(connection, reached + 1, last))
    return [one for one in found if one.live or one.replaces]


def merged(found: Sequence[Stretch], capacity: int) -> list[Stretch]:
    """Stretches with the stale ones drawn together with neighbours that are not much larger."""
    stack: list[Stretch] = []
    for one in found:
        stack.append(one)
        while len(stack) > 1 and _join(stack[-2], stack[-1], capacity):
            right = stack.pop()
            left = stack.pop()
            together = [*left.replaces, *right.replaces]
            stack.append(Stretch(left.first, right.last, left.live + right.live, True, together))
    return stack


def _join(left: Stretch, right: Stretch, capacity: int) -> bool:
    if left.stale and right.stale:
        return True
    small, large = sorted((left.live, right.live))
    near = large < MERGE_RATIO * small and small + large <= capacity
    return (left.stale or right.stale) and (near or small == 0)


def _stretch(connection: sqlite3.Connection, first: int, last: int) -> Stretch:
    query = "SELECT count(*) FROM chunks WHERE key BETWEEN ? AND ?"
    (live,) = connection.execute(query, (first, last)).fetchone()
    return Stretch(first, last, live, stale=True)


def _build(
    database: Database, layout: Layout, manifest: Manifest, stretch: Stretch, capacity: int
) -> None:
    """Replace the segments of a stretch by new ones of at most `capacity` chunks."""
    replaced = [record.key for record in stretch.replaces]
    with database.writing() as connection:
        connection.execute(SCHEMA)
        key = next_segment_key(connection)
    made: list[SegmentRecord] = []
    for first, last in _parts(database, stretch, capacity):
        try:
            segment = _segment(database, layout, manifest, first, last)
        except (FormatError, FileNotFoundError):
            return  # a damaged shard: for `verify` to say, and a search that meets it
        with db.explained(layout):
            record = segment.write(layout, key, first, last)
        key += 1
        made.append(record)
        if not replaced:
            # Each by itself, so that an interrupted first build goes on from there.
            _switch(database, [record], [])
            made = []
    if replaced or made:
        _switch(database, made, replaced)


def _switch(database: Database, made: Sequence[SegmentRecord], replaced: Sequence[int]) -> None:
    with database.writing() as connection:
        forget_segments(connection, replaced)
        for record in made:
            record_segment(connection, record)


def _parts(database: Database, stretch: Stretch, capacity: int) -> Iterator[tuple[int, int]]:
    """Key ranges of at most `capacity` live chunks each; together the whole stretch."""
    if not stretch.live:
        return
    n_parts = -(-stretch.live // capacity)
    size = -(-stretch.live // n_parts)
    query = "SELECT key FROM chunks WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1 OFFSET ?"
    first = stretch.first
    with database.reading() as connection:
        ranges = []
        while row := connection.execute(query, (first, stretch.last, size)).fetchone():
            ranges.append((first, row[0] - 1))
            first = row[0]
    yield from [*ranges, (first, stretch.last)]


def _segment(
    database: Database, layout: Layout, manifest: Manifest, first: int, last: int
) -> NewSegment:
    spec = manifest.spec
    query = "SELECT shard, row, key FROM chunks WHERE key BETWEEN ? AND ? ORDER BY shard, row"
    with database.reading() as connection:
        records = {record.key: record for record in db.shard_records(connection)}
        rows = connection.execute(query, (first, last)).fetchall()
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    segment = NewSegment(spec, len(table))

    def read(part: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        starts = np.flatnonzero(np.diff(part[:, 0], prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(part)], strict=True):
            shard = Shard(layout, manifest, records[int(part[start, 0])])
            for block in range(start, end, BLOCK_ROWS):
                rows_N3 = part[block : min(block + BLOCK_ROWS, end)]
                yield rows_N3[:, 2], shard.prefixes(rows_N3[:, 1], spec.n_memory)

    if segment.sample:
        evenly = np.linspace(0, len(table) - 1, min(segment.sample, len(table))).astype(np.int64)
        segment.learn(torch.cat([latents_NMD for _, latents_NMD in read(table[evenly])]))
    for keys_N, latents_NMD in read(table):
        segment.add(keys_N, latents_NMD)
    return segment
