"""Replies that were paid for, by teacher and task."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

from openclara.errors import DataError
from openclara.synthesis.tasks import Reply, Spent

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from openclara.synthesis.tasks import Task

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
        with closing(
            self._database.execute("select reply from replies where key = ?", (key,))
        ) as c:
            row = c.fetchone()
        return None if row is None else _decoded(row[0], self._path)

    def put(self, items: Iterable[tuple[bytes, Task, Reply]]) -> None:
        """Keep replies, all or none of them.

        Raises:
            DataError: They cannot be written.
        """
        rows = [
            (key, task.kind, int(reply.failed), json.dumps(asdict(reply)))
            for key, task, reply in items
        ]
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()


def _decoded(text: str, path: Path) -> Reply:
    try:
        fields = json.loads(text)
        fields["questions"] = tuple(fields["questions"])
        return Reply(**{**fields, "spent": Spent(**fields["spent"])})
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} holds a reply that cannot be read; delete the file to ask again"
        ) from None
