"""The SQLite side: documents, chunks, the word index and the record of shards."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from openclara.errors import FormatError, IndexBusy, OpenClaraError
from openclara.index.shards import ShardRecord
from openclara.types import Document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from openclara.index.layout import Layout

# The word index is contentless: SQLite before 3.43 can then delete only with the very values that
# were inserted, which `words` recomputes from the document.
WORDS_SCHEMA = """
CREATE VIRTUAL TABLE words USING fts5(
    title, body, content='', tokenize='porter unicode61 remove_diacritics 2'
)
"""

# Texts are blobs: SQLite's text functions stop at NUL, and lone surrogates are not UTF-8.
# AUTOINCREMENT never uses a key twice, so a key cached by a reader cannot come to mean another row.
SCHEMA = f"""
CREATE TABLE documents (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    source TEXT NOT NULL,
    metadata TEXT NOT NULL,
    text BLOB NOT NULL,
    framed_sha256 TEXT NOT NULL,
    content_sha256 TEXT NOT NULL
);
CREATE TABLE shards (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL
);
CREATE TABLE chunks (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL REFERENCES documents (key),
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    shard INTEGER NOT NULL REFERENCES shards (key),
    row INTEGER NOT NULL,
    UNIQUE (shard, row)
);
CREATE INDEX chunks_of_document ON chunks (document);
CREATE TABLE state (generation INTEGER NOT NULL, updated TEXT NOT NULL);
INSERT INTO state VALUES (0, '');
{WORDS_SCHEMA}
"""

BUSY_S = 10.0
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class Database:
    """Connections to one SQLite file; safe to use from several threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def create(self) -> None:
        """Make the file and its tables."""
        with explained(self._layout):
            connection = sqlite3.connect(self._layout.database, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(f"BEGIN; {SCHEMA}; COMMIT")
                touch(connection)
            finally:
                connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the index, whatever is written meanwhile."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes all become visible when the block ends, or none of them."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection
            touch(connection)
            connection.execute("COMMIT")

    @contextmanager
    def outside(self) -> Iterator[sqlite3.Connection]:
        """A connection without a transaction, for upkeep that SQLite does not allow in one."""
        with self._transaction("") as connection:
            yield connection

    def close(self) -> None:
        """Close what is idle; connections in use are closed by their users."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with explained(self._layout):
            connection = self._take()
            try:
                connection.execute(begin)
                yield connection
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except BaseException:
                # Closing rolls back, also where the file is in no state to do it by statement.
                connection.close()
                raise
            self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise ValueError(f"the index {self._layout.folder} is closed")
            if self._idle:
                return self._idle.pop()
        return _connect(self._layout.database)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path.absolute()))}"
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    connection = _open(f"{address}?mode={'rw' if writable else 'ro'}")
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT generation FROM state")
    except sqlite3.OperationalError as error:
        connection.close()
        # A write-ahead log needs files beside it, which a read-only folder cannot get. With no log
        # there is no writer either, so the database can be taken as one that does not change.
        code = error.sqlite_errorcode & 0xFF
        refused = code in (
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
        )
        log = path.with_name(f"{path.name}-wal")
        if writable or not refused or (log.exists() and log.stat().st_size):
            raise
        return _open(f"{address}?immutable=1")
    except BaseException:
        connection.close()
        raise
    return connection


def _open(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )


@contextmanager
def explained(layout: Layout) -> Iterator[None]:
    """Turn what SQLite and the file system raise into sentences.

    Raises:
        FormatError: The database is damaged or missing.
        IndexBusy: Another process holds it.
        OpenClaraError: The disk is full or read-only.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _sqlite_error(error, layout) from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _disk_full(layout) from error
        if error.errno in READ_ONLY:
            raise _read_only(layout) from error
        raise


def _sqlite_error(error: sqlite3.Error, layout: Layout) -> Exception:
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return _disk_full(layout)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return _read_only(layout)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return IndexBusy(
                f"another process holds {layout.database}: wait until it is done and run again"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CANTOPEN:
            problem = f"{layout.database} is damaged or missing ({error})"
        case sqlite3.SQLITE_IOERR:
            problem = f"{layout.database} cannot be read or written ({error})"
        case sqlite3.SQLITE_ERROR if str(error).startswith(("no such table", "no such column")):
            problem = f"{layout.database} is damaged ({error})"
        case _:
            return error
    return FormatError(
        f"{problem}: restore it from a backup of {layout.folder} or make a new index with "
        f"`openclara index add NEW_PATH FILES`"
    )


def _disk_full(layout: Layout) -> OpenClaraError:
    return OpenClaraError(
        f"the disk is full: {layout.folder} cannot grow, nothing already stored was lost; "
        f"free space and run again"
    )


def _read_only(layout: Layout) -> OpenClaraError:
    return OpenClaraError(
        f"{layout.folder} cannot be written: give yourself write permission, or copy the index "
        f"to a folder where you have it"
    )


def touch(connection: sqlite3.Connection) -> None:
    """Note that the index changed, so that readers look again."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    connection.execute("UPDATE state SET generation = generation + 1, updated = ?", (now,))


def generation(connection: sqlite3.Connection) -> int:
    """A number that grows with every change."""
    value: int = connection.execute("SELECT generation FROM state").fetchone()[0]
    return value


def shard_records(connection: sqlite3.Connection) -> list[ShardRecord]:
    """Every recorded shard, in the order they were written."""
    query = "SELECT key, name, rows, bytes, sha256 FROM shards ORDER BY key"
    return [ShardRecord(*row) for row in connection.execute(query)]


def next_shard_key(connection: sqlite3.Connection) -> int:
    """A shard number that was never recorded."""
    query = "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'shards'"
    key: int = connection.execute(query).fetchone()[0]
    return key


def record_shard(connection: sqlite3.Connection, record: ShardRecord) -> None:
    """Make a written shard part of the index."""
    connection.execute(
        "INSERT INTO shards (key, name, rows, bytes, sha256) VALUES (?, ?, ?, ?, ?)",
        (record.key, record.name, record.rows, record.bytes, record.sha256),
    )


DOCUMENT_COLUMNS = (
    "documents.id, documents.text, documents.title, documents.source, documents.metadata"
)


def to_document(row: tuple[str, bytes, str, str, str]) -> Document:
    """A document from its `DOCUMENT_COLUMNS`."""
    name, text, title, source, metadata = row
    return Document(name, decode(text), title, source, json.loads(metadata))


def encode(text: str) -> bytes:
    """Any Python text as bytes, lone surrogates included."""
    return text.encode(errors="surrogatepass")


def decode(content: bytes) -> str:
    """The text that `encode` took."""
    return content.decode(errors="surrogatepass")


def canonical_json(metadata: Mapping[str, object]) -> str:
    """Metadata as the same text whatever the order of its keys.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(dict(metadata), sort_keys=True, allow_nan=False, separators=(",", ":"))


def sha256(*parts: str) -> str:
    """One hash of several texts; where one ends and the next begins counts."""
    digest = hashlib.sha256()
    for part in map(encode, parts):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def indexable(text: str) -> str:
    """The text as the word index gets it: valid UTF-8."""
    return text.encode(errors="replace").decode()
