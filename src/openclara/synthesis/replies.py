"""Replies to workers that share a folder but no memory: a file for each writer, no locks.

Locks and shared memory, which a database needs, are what storage of many machines does worst. Here
nobody ever writes to another's file: each attempt at a shard appends to its own, and who takes the
shard over reads what all before it were answered. Lines are those of the cache, so that they move
there when all is done.

    workers/known.sqlite                    what the cache held at the start, for reading alone
    workers/passages/000012.jsonl.gz        the shard to be done
    workers/replies/000012.PROCESS-ID.jsonl what was answered
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import zlib
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, Self
from uuid import uuid4

from openclara.errors import DataError
from openclara.synthesis.cache import KnownReplies, decoded, row_of
from openclara.synthesis.passages import Passage
from openclara.synthesis.shards import LineFile
from openclara.synthesis.tasks import Spent
from openclara.synthesis.teachers.budget import added

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from openclara.synthesis.cache import ReplyCache, Row
    from openclara.synthesis.tasks import Reply, Task


class WorkFolder:
    """What workers read and write while a synthesis goes on.

    Args:
        output: Folder of the synthesis, which all workers see.
    """

    def __init__(self, output: Path) -> None:
        self._folder = output / "workers"
        self.known = self._folder / "known.sqlite"
        self._passages = self._folder / "passages"
        self._replies = self._folder / "replies"

    def prepare(self, missing: Iterable[tuple[int, Sequence[Passage]]], cache: ReplyCache) -> None:
        """Lay out the shards to be done, and what is known; replies that are there stay."""
        shutil.rmtree(self._passages, ignore_errors=True)
        self.known.unlink(missing_ok=True)
        self._replies.mkdir(parents=True, exist_ok=True)
        cache.copy_to(self.known)
        for number, passages in missing:
            with LineFile(self._passages / f"{number:06}.jsonl.gz") as file:
                for passage in passages:
                    file.write(asdict(passage))

    def passages(self, number: int) -> list[Passage]:
        """A shard to be done.

        Raises:
            DataError: It is not here.
        """
        path = self._passages / f"{number:06}.jsonl.gz"
        try:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                return [Passage(**json.loads(line)) for line in lines]
        except FileNotFoundError:
            raise DataError(
                f"a worker does not see {path}; choose an output on storage that all machines share"
            ) from None
        except (OSError, EOFError, zlib.error, ValueError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); run the command again") from None

    def replies(self, number: int) -> ShardReplies:
        """The replies of a shard: those there are, and a file for those to come."""
        return ShardReplies(self._replies, number, self.known)

    def paid(self, numbers: Iterable[int]) -> Spent:
        """What the replies of shards cost."""
        spent = Spent()
        for number in numbers:
            rows = {row[0]: row for path in self._files(number) for row in _rows(path)}
            for row in rows.values():
                spent = added(spent, decoded(row[3], self._replies).spent)
        return spent

    def forget_failed(self) -> None:
        """Drop replies that say that there is none."""
        for path in self._files():
            kept = [row for row in _rows(path) if not row[2]]
            with LineFile(path) as file:
                for row in kept:
                    file.write(_line(row))

    def absorb(self, cache: ReplyCache) -> None:
        """Put all replies into a cache."""
        for path in self._files():
            cache.put_rows(list(_rows(path)))

    def clear(self) -> None:
        """Remove it all."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self, number: int | None = None) -> list[Path]:
        shard = "*" if number is None else f"{number:06}"
        return sorted(self._replies.glob(f"{shard}.*.jsonl"))


class ShardReplies:
    """As `ReplyCache`, for one shard and one writer.

    Attributes:
        cost_of_known: Of the replies that were taken from `known`; the shard's own are not in it.
    """

    def __init__(self, folder: Path, number: int, known: Path) -> None:
        self._path = folder / f"{number:06}.{os.getpid()}-{uuid4().hex[:12]}.jsonl"
        self._own = {
            row[0]: row[3]
            for path in sorted(folder.glob(f"{number:06}.*.jsonl"))
            for row in _rows(path)
        }
        self._known = KnownReplies(known) if known.is_file() else None
        self._file: IO[bytes] | None = None
        self.cost_of_known = Spent()

    def get(self, key: bytes) -> Reply | None:
        """The reply kept under a key, with what it cost when it was made."""
        own = self._own.get(key)
        if own is not None:
            return decoded(own, self._path)
        reply = None if self._known is None else self._known.get(key)
        if reply is not None:
            self.cost_of_known = added(self.cost_of_known, reply.spent)
        return reply

    def put(self, items: Iterable[tuple[bytes, Task, Reply]]) -> None:
        """Keep replies: once this returns, a kill of the process loses none of them.

        Raises:
            DataError: They cannot be written.
        """
        rows = [row_of(*item) for item in items]
        if not rows:
            return
        text = "".join(json.dumps(_line(row)) + "\n" for row in rows)
        try:
            if self._file is None:
                self._file = self._path.open("xb")
            self._file.write(text.encode())
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"{self._path} cannot be written ({error}); see to the disk and run the command "
                "again: all earlier replies are kept"
            ) from None
        self._own.update((row[0], row[3]) for row in rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._known is not None:
            self._known.close()


def _line(row: Row) -> list[Any]:
    key, *others = row
    return [key.hex(), *others]


def _rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for line in lines:
            try:
                key, kind, failed, reply = json.loads(line)
            except ValueError:
                # Its writer was killed in the middle of a line; no other comes after that.
                return
            yield bytes.fromhex(key), str(kind), int(failed), str(reply)
