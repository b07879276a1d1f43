"""Changing rows: documents, their chunks and their words, always all three together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openclara.index import database as db
from openclara.index.coarse.records import segment_records

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from openclara.index.database import Database
    from openclara.index.layout import Layout
    from openclara.types import Chunk, Document


@dataclass(frozen=True, slots=True)
class Known:
    """What tells whether a document changed.

    Attributes:
        key: Its row in the database.
        framed_sha256: Hash of title and text, on which the latents depend.
        content_sha256: Hash of everything.
    """

    key: int
    framed_sha256: str
    content_sha256: str


def framed_sha256(document: Document) -> str:
    """A hash over what the model compresses: the text under its title."""
    return db.sha256(document.title, document.text)


def content_sha256(document: Document) -> str:
    """A hash over everything of a document but its id."""
    metadata = db.canonical_json(document.metadata)
    return db.sha256(document.title, document.text, document.source, metadata)


def find(connection: sqlite3.Connection, name: str) -> Known | None:
    """The stored document of that id."""
    query = "SELECT key, framed_sha256, content_sha256 FROM documents WHERE id = ?"
    if db.indexable(name) != name:
        return None
    row = connection.execute(query, (name,)).fetchone()
    return Known(*row) if row else None


def delete(connection: sqlite3.Connection, keys: Iterable[int]) -> int:
    """Remove documents, their chunks and their words; their latents become dead rows.

    Returns:
        How many were removed.
    """
    count = 0
    for key in keys:
        _forget_chunks(connection, key)
        connection.execute("DELETE FROM documents WHERE key = ?", (key,))
        count += 1
    return count


def remove_orphans(database: Database, layout: Layout) -> None:
    """Remove files that no transaction recorded; only for the one process that writes."""
    with database.reading() as connection:
        recorded = {record.name for record in db.shard_records(connection)}
        recorded |= {record.name for record in segment_records(connection)}
    written = layout.shard_files() + layout.segment_files()
    orphans = [path for path in written if path.name not in recorded]
    with db.explained(layout):
        for path in orphans + layout.temporary_files():
            path.unlink(missing_ok=True)


def put_words(
    connection: sqlite3.Connection, key: int, title: str, body: str, *, command: str | None = None
) -> None:
    """Add one chunk to the word index, or with `command="delete"` take it out again."""
    title, body = db.indexable(title), db.indexable(body)
    if command is None:
        connection.execute(
            "INSERT INTO words (rowid, title, body) VALUES (?, ?, ?)", (key, title, body)
        )
    else:
        connection.execute(
            "INSERT INTO words (words, rowid, title, body) VALUES (?, ?, ?, ?)",
            (command, key, title, body),
        )


def put_document(
    connection: sqlite3.Connection,
    document: Document,
    chunks: Sequence[Chunk],
    *,
    shard: int,
    first_row: int,
) -> None:
    """Write a new document, or replace the one of that id.

    Args:
        connection: In a writing transaction.
        document: What to write.
        chunks: Its chunks, whose latents lie in consecutive rows.
        shard: Where these rows are.
        first_row: The row of the first chunk.
    """
    known = find(connection, document.id)
    values = (
        document.title,
        document.source,
        db.canonical_json(document.metadata),
        db.encode(document.text),
        framed_sha256(document),
        content_sha256(document),
        document.id,
    )
    if known:
        _forget_chunks(connection, known.key)
        connection.execute(
            "UPDATE documents SET title = ?, source = ?, metadata = ?, text = ?, "
            "framed_sha256 = ?, content_sha256 = ? WHERE id = ?",
            values,
        )
        key: int | None = known.key
    else:
        key = connection.execute(
            "INSERT INTO documents "
            "(title, source, metadata, text, framed_sha256, content_sha256, id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        ).lastrowid
    for row, chunk in enumerate(chunks, start=first_row):
        inserted = connection.execute(
            "INSERT INTO chunks (document, start, end, n_tokens, shard, row) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (key, chunk.start, chunk.end, chunk.n_tokens, shard, row),
        ).lastrowid
        assert inserted is not None
        put_words(connection, inserted, document.title, document.text[chunk.start : chunk.end])


def relabel(connection: sqlite3.Connection, document: Document) -> None:
    """Give a stored document another source and metadata; all that was made of it stays."""
    connection.execute(
        "UPDATE documents SET source = ?, metadata = ?, content_sha256 = ? WHERE id = ?",
        (
            document.source,
            db.canonical_json(document.metadata),
            content_sha256(document),
            document.id,
        ),
    )


def _forget_chunks(connection: sqlite3.Connection, key: int) -> None:
    for chunk, title, body in _chunk_texts(connection, key):
        put_words(connection, chunk, title, body, command="delete")
    connection.execute("DELETE FROM chunks WHERE document = ?", (key,))


def _chunk_texts(connection: sqlite3.Connection, key: int) -> list[tuple[int, str, str]]:
    """The chunks of a document: key, title and body as the word index has them."""
    title, content = connection.execute(
        "SELECT title, text FROM documents WHERE key = ?", (key,)
    ).fetchone()
    text = db.decode(content)
    spans = connection.execute("SELECT key, start, end FROM chunks WHERE document = ?", (key,))
    return [(chunk, title, text[start:end]) for chunk, start, end in spans.fetchall()]
