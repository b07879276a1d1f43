"""What the database knows of the segments; a file that it does not know does not count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

# Made when first needed: an index of an earlier version has no such table, and is whole without it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    scheme TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A segment over a range of chunk keys.

    A chunk keeps its key and its latents for life, so a segment never grows wrong: chunks that were
    deleted since are left out when they are looked up.

    Attributes:
        key: Its number; never used twice.
        name: Its file.
        first: First chunk key of the range.
        last: Last chunk key of the range.
        chunks: Chunks in it: all in the range that were alive when it was built.
        scheme: How the codes were made.
        bytes: Size of the file.
        sha256: Hash of the file.
    """

    key: int
    name: str
    first: int
    last: int
    chunks: int
    scheme: str
    bytes: int
    sha256: str


def segment_records(connection: sqlite3.Connection) -> list[SegmentRecord]:
    """Every recorded segment, by the keys it covers; ranges do not overlap."""
    if not _known(connection):
        return []
    query = (
        "SELECT key, name, first, last, chunks, scheme, bytes, sha256 FROM segments ORDER BY first"
    )
    return [SegmentRecord(*row) for row in connection.execute(query)]


def next_segment_key(connection: sqlite3.Connection) -> int:
    """A segment number that was never recorded."""
    query = "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'segments'"
    key: int = connection.execute(query).fetchone()[0]
    return key


def record_segment(connection: sqlite3.Connection, record: SegmentRecord) -> None:
    """Make a written segment part of the index."""
    connection.execute(SCHEMA)
    connection.execute("DROP TABLE IF EXISTS graphs")  # of an earlier coarse stage
    connection.execute(
        "INSERT INTO segments (key, name, first, last, chunks, scheme, bytes, sha256) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (record.key, record.name, record.first, record.last, record.chunks, record.scheme,
         record.bytes, record.sha256),
    )  # fmt: skip


def forget_segments(connection: sqlite3.Connection, keys: Iterable[int]) -> None:
    """Take segments out of the record."""
    if _known(connection):
        connection.executemany("DELETE FROM segments WHERE key = ?", ((key,) for key in keys))


def _known(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'segments'"
    return connection.execute(query).fetchone() is not None
