"""What the database knows of the graphs; a file that it does not know does not count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

# Made when first needed: an index of an earlier version has no such table, and is whole without it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS graphs (
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
class GraphRecord:
    """A graph over a range of chunk keys.

    A chunk keeps its key and its latents for life, so a graph never grows wrong: chunks that were
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


def graph_records(connection: sqlite3.Connection) -> list[GraphRecord]:
    """Every recorded graph, by the keys it covers; ranges do not overlap."""
    if not _known(connection):
        return []
    query = (
        "SELECT key, name, first, last, chunks, scheme, bytes, sha256 FROM graphs ORDER BY first"
    )
    return [GraphRecord(*row) for row in connection.execute(query)]


def next_graph_key(connection: sqlite3.Connection) -> int:
    """A graph number that was never recorded."""
    query = "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'graphs'"
    key: int = connection.execute(query).fetchone()[0]
    return key


def record_graph(connection: sqlite3.Connection, record: GraphRecord) -> None:
    """Make a written graph part of the index."""
    connection.execute(SCHEMA)
    connection.execute(
        "INSERT INTO graphs (key, name, first, last, chunks, scheme, bytes, sha256) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (record.key, record.name, record.first, record.last, record.chunks, record.scheme,
         record.bytes, record.sha256),
    )  # fmt: skip


def forget_graphs(connection: sqlite3.Connection, keys: Iterable[int]) -> None:
    """Take graphs out of the record."""
    if _known(connection):
        connection.executemany("DELETE FROM graphs WHERE key = ?", ((key,) for key in keys))


def _known(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'graphs'"
    return connection.execute(query).fetchone() is not None
