"""Checking an index against every promise it makes, and dropping what cannot be kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from openclara.index import database as db
from openclara.index.coarse.records import forget_segments, segment_records
from openclara.index.coarse.segment import segment_damage
from openclara.index.shards import damage
from openclara.index.writing import delete, put_words

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from openclara.index.database import Database
    from openclara.index.layout import Layout


@dataclass(slots=True)
class Findings:
    """What is wrong.

    Attributes:
        problems: One sentence for each.
        documents: Keys of documents that cannot be kept.
        shards: Keys of shards whose file is not what was written.
        segments: Keys of segments of the coarse stage whose file is not what was written.
        words_differ: Whether the word index is not that of the stored texts.
    """

    problems: list[str] = field(default_factory=list)
    documents: set[int] = field(default_factory=set)
    shards: set[int] = field(default_factory=set)
    segments: set[int] = field(default_factory=set)
    words_differ: bool = False


def examine(connection: sqlite3.Connection, layout: Layout) -> Findings:
    """Read everything and compare it with what was recorded.

    Args:
        connection: In a transaction, so that the tables fit each other.
        layout: Where the shards are.
    """
    findings = Findings()
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            findings.problems.append(f"{layout.database}: {line}")
    _examine_shards(connection, layout, findings)
    for segment in segment_records(connection):
        if problem := segment_damage(layout, segment):
            findings.problems.append(problem)
            findings.segments.add(segment.key)
    _examine_rows(connection, findings)
    _examine_texts(connection, findings)
    if not _words_agree(connection):
        findings.words_differ = True
        findings.problems.append("the word index does not match the texts")
    return findings


def mend(database: Database, findings: Findings) -> tuple[str, ...]:
    """Drop the documents that cannot be kept, and rebuild the word index if it is wrong.

    Returns:
        The ids of the dropped documents.
    """
    with database.writing() as connection:
        rows = connection.execute("SELECT key, id FROM documents ORDER BY key").fetchall()
        dropped = [(key, name) for key, name in rows if key in findings.documents]
        if findings.words_differ:
            # Taking single chunks out of a wrong word index would make it worse: start it afresh.
            connection.execute("INSERT INTO words (words) VALUES ('delete-all')")
            for key, _ in dropped:
                connection.execute("DELETE FROM chunks WHERE document = ?", (key,))
                connection.execute("DELETE FROM documents WHERE key = ?", (key,))
            for chunk, title, body in _chunk_words(connection):
                put_words(connection, chunk, title, body)
        else:
            delete(connection, (key for key, _ in dropped))
        connection.executemany(
            "DELETE FROM shards WHERE key = ?", ((key,) for key in findings.shards)
        )
        forget_segments(connection, findings.segments)
    return tuple(name for _, name in dropped)


def _examine_shards(connection: sqlite3.Connection, layout: Layout, findings: Findings) -> None:
    for record in db.shard_records(connection):
        if problem := damage(layout, record):
            findings.problems.append(problem)
            findings.shards.add(record.key)
            owners = connection.execute(
                "SELECT DISTINCT document FROM chunks WHERE shard = ?", (record.key,)
            )
            findings.documents.update(key for (key,) in owners)


def _examine_rows(connection: sqlite3.Connection, findings: Findings) -> None:
    query = """
        SELECT chunks.key, chunks.document, documents.id, shards.name, chunks.row
        FROM chunks
        LEFT JOIN documents ON documents.key = chunks.document
        LEFT JOIN shards ON shards.key = chunks.shard
        WHERE documents.key IS NULL OR shards.key IS NULL
            OR chunks.row NOT BETWEEN 0 AND shards.rows - 1
    """
    for chunk, document, name, shard, row in connection.execute(query):
        findings.problems.append(
            f"chunk {chunk} of document {name!r} points to row {row} of {shard}, which is not there"
        )
        findings.documents.add(document)


def _examine_texts(connection: sqlite3.Connection, findings: Findings) -> None:
    spans = connection.cursor()
    for key, name, title, text, digest in connection.execute(
        "SELECT key, id, title, text, framed_sha256 FROM documents ORDER BY key"
    ):
        try:
            decoded = db.decode(text)
            whole = db.sha256(title, decoded) == digest
        except UnicodeDecodeError:
            decoded, whole = "", False
        if not whole:
            findings.problems.append(
                f"the title or text of document {name!r} is not what was written"
            )
            findings.documents.add(key)
            # Its words cannot be taken out again without the very title and text.
            findings.words_differ = True
            continue
        for start, end in spans.execute("SELECT start, end FROM chunks WHERE document = ?", (key,)):
            if not 0 <= start < end <= len(decoded):
                findings.problems.append(
                    f"document {name!r} has {len(decoded)} characters and a chunk "
                    f"from {start} to {end}"
                )
                findings.documents.add(key)


def _words_agree(connection: sqlite3.Connection) -> bool:
    """Whether the word index holds exactly the words of the stored chunks."""
    fresh = sqlite3.connect("", isolation_level=None)
    try:
        fresh.execute(db.WORDS_SCHEMA)
        fresh.execute("BEGIN")
        for chunk, title, body in _chunk_words(connection):
            put_words(fresh, chunk, title, body)
        with closing(_occurrences(connection)) as stored, closing(_occurrences(fresh)) as expected:
            return all(ours == theirs for ours, theirs in zip_longest(stored, expected))
    except UnicodeDecodeError:
        return False
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return False
    finally:
        fresh.close()


def _chunk_words(connection: sqlite3.Connection) -> Iterator[tuple[int, str, str]]:
    query = """
        SELECT chunks.key, documents.key, documents.title, documents.text, chunks.start, chunks.end
        FROM documents JOIN chunks ON chunks.document = documents.key
        ORDER BY documents.key, chunks.key
    """
    latest, text = None, ""
    for chunk, document, title, content, start, end in connection.execute(query):
        if document != latest:
            latest, text = document, db.decode(content)
        yield chunk, title, text[start:end]


def _occurrences(
    connection: sqlite3.Connection,
) -> Generator[tuple[str, int, str, int], None, None]:
    """Every word with its chunk, column and position, in one fixed order."""
    connection.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.occurrences USING fts5vocab(main, words, instance)"
    )
    try:
        yield from connection.execute("SELECT term, doc, col, offset FROM temp.occurrences")
    finally:
        connection.execute("DROP TABLE temp.occurrences")
