"""Replies that were paid for, by teacher and task."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol, Self

from openclara.errors import DataError
from openclara.synthesis.tasks import Reply, Spent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from openclara.synthesis.tasks import Task

Row = tuple[bytes, str, int, str]
"""Key, kind of the task, whether it failed, and the reply as JSON."""

_TABLE = """
create table if not exists replies (
  key blob primary key, kind text not null, failed integer not null, reply text not null
) without rowid
"""
_BUSY_S = 60.0


def key_of(fingerprint: str, task: Task) -> bytes:
    """What a reply goes by: equal teachers and tasks, equal keys."""
    text = json.dumps([fingerprint, asdict(task)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).digest()


def row_of(key: bytes, task: Task, reply: Reply) -> Row:
    """A reply as it is kept."""
    return key, task.kind, int(reply.failed), json.dumps(asdict(reply))


class Replies(Protocol):
    """Where replies are kept and found."""

    def get(self, key: bytes) -> Reply | None:
        """The reply kept under a key."""

    def put(self, items: Iterable[tuple[bytes, Task, Reply]]) -> None:
        """Keep replies."""


class ReplyCache:
    """A file of replies, safe against a kill at any moment; several processes may share it.

    Documents are not kept in it, only hashes of tasks. Times `put` returns, the reply is there.

    Args:
        path: The file; made if it is not there.

    Raises:
        DataError: It is no such file, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            self._database.execute("pragma journal_mode = wal")
            # A kill of the process loses nothing so; only a failing machine can lose the last few.
            self._database.execute("pragma synchronous = normal")
            self._database.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{path} cannot be used as a cache of replies ({error}); delete it or name another"
            ) from None

    def get(self, key: bytes) -> Reply | None:
        """The reply kept under a key, with what it cost when it was made."""
        return _found(self._database, key, self._path)

    def put(self, items: Iterable[tuple[bytes, Task, Reply]]) -> None:
        """Keep replies, all or none of them.

        Raises:
            DataError: They cannot be written.
        """
        self.put_rows([row_of(*item) for item in items])

    def put_rows(self, rows: Sequence[Row]) -> None:
        """As `put`, of replies as they are kept.

        Raises:
            DataError: They cannot be written.
        """
        try:
            self._database.execute("begin immediate")
            self._database.executemany("insert or replace into replies values (?, ?, ?, ?)", rows)
            self._database.execute("commit")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("rollback")
            raise DataError(
                f"{self._path} cannot be written ({error}); see to the disk and run the command "
                "again: all earlier replies are kept"
            ) from None

    def forget_failed(self) -> int:
        """Drop replies that say that there is none; how many there were."""
        return self._database.execute("delete from replies where failed").rowcount

    def copy_to(self, path: Path) -> None:
        """Write a copy that `KnownReplies` reads, unless there is nothing to copy.

        Raises:
            DataError: It cannot be written.
        """
        try:
            if self._database.execute("select 1 from replies limit 1").fetchone():
                self._database.execute("vacuum into ?", (str(path),))
        except sqlite3.Error as error:
            raise DataError(
                f"{path} cannot be written ({error}); see to the disk and run the command again"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()


class KnownReplies:
    """A cache that nobody writes to any more, so that it is read without locks from any machine.

    Args:
        path: As written by `ReplyCache.copy_to`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._database = sqlite3.connect(address, uri=True)

    def get(self, key: bytes) -> Reply | None:
        """The reply kept under a key, with what it cost when it was made."""
        return _found(self._database, key, self._path)

    def close(self) -> None:
        """Read no more."""
        self._database.close()


def _found(database: sqlite3.Connection, key: bytes, path: Path) -> Reply | None:
    with closing(database.execute("select reply from replies where key = ?", (key,))) as c:
        row = c.fetchone()
    return None if row is None else decoded(row[0], path)


def decoded(text: str, path: Path) -> Reply:
    """A reply from its JSON.

    Raises:
        DataError: It is none.
    """
    try:
        fields = json.loads(text)
        fields["questions"] = tuple(fields["questions"])
        return Reply(**{**fields, "spent": Spent(**fields["spent"])})
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} holds a reply that cannot be read; delete the file to ask again"
        ) from None
