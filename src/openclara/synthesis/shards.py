"""Finished passages on disk, a shard at a time: each file is there whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from dataclasses import asdict
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Self
from uuid import uuid4

from openclara.errors import DataError
from openclara.synthesis.composed import Composed
from openclara.synthesis.document import total

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydantic import TypeAdapter

    from openclara.synthesis.passages import Passage


class LineFile:
    """A file of JSON Lines that shows under its name once it is whole, packed if that ends in .gz.

    Its bytes follow from the values alone: equal values, equal files.

    Args:
        path: Where to; its folder is made if it is not there.
        alone: Nobody else can be writing it; otherwise each writer has a part of its own.
    """

    def __init__(self, path: Path, *, alone: bool = True) -> None:
        self._path = path
        writer = "" if alone else f".{uuid4().hex}"
        self._part = path.with_name(f"{path.name}{writer}.part")
        self.n_lines = 0

    def write(self, value: Any) -> None:
        """Append a value."""
        self._lines.write(json.dumps(value, ensure_ascii=False) + "\n")
        self.n_lines += 1

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = self._part.open("wb")
        target: IO[bytes] = self._file
        if self._path.suffix == ".gz":
            # Neither name nor time, which gzip writes otherwise and which differ from run to run.
            target = gzip.GzipFile(  # type: ignore[assignment]
                filename="", mode="wb", fileobj=self._file, compresslevel=6, mtime=0
            )
        self._lines = io.TextIOWrapper(target, encoding="utf-8", newline="\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._lines.close()
        self._file.close()
        if kind is None:
            self._part.replace(self._path)


class Shards:
    """The folder of finished passages of a run.

    Args:
        folder: Made when the first shard is written.
        identity: Of teacher and rules; shards of another identity count as missing.
        size: Passages of a shard.
    """

    def __init__(self, folder: Path, identity: str, size: int) -> None:
        self._folder = folder
        self.identity = identity
        self._size = size

    def parts(self, passages: Sequence[Passage]) -> Iterator[tuple[int, Sequence[Passage]]]:
        """The passages of each shard, with its number."""
        for number, start in enumerate(range(0, len(passages), self._size)):
            yield number, passages[start : start + self._size]

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self._folder / f"{number:06}.jsonl.gz"

    def write(
        self,
        number: int,
        passages: Sequence[Passage],
        made: Sequence[Composed],
        *,
        alone: bool = True,
    ) -> None:
        """Keep a finished shard; not `alone` where another process may be doing the same."""
        header = {
            "made_of": self._digest(passages),
            "failed": sum(one.n_failed for one in made),
            "pairs": sum(len(one.pairs) for one in made),
            "tasks": sum(sum((one.tasks or {}).values()) for one in made),
            "spent": asdict(total(one.spent for one in made)),
        }
        with LineFile(self.path(number), alone=alone) as file:
            for value in (header, *map(asdict, made)):
                file.write(value)

    def header(self, number: int, passages: Sequence[Passage]) -> dict[str, Any] | None:
        """What a shard says of itself; None where it is missing, damaged or of something else."""
        try:
            with gzip.open(self.path(number), "rt", encoding="utf-8") as lines:
                header = json.loads(lines.readline())
            same = header["made_of"] == self._digest(passages)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
            return None
        return header if same else None

    def finished(
        self, number: int, passages: Sequence[Passage], *, failures: bool
    ) -> dict[str, Any] | None:
        """As `header`; None also where tasks failed, unless failures are let pass."""
        header = self.header(number, passages)
        return None if header and header["failed"] and not failures else header

    def forget_parts(self) -> None:
        """Remove what writers left that were killed."""
        for path in self._folder.glob("*.part"):
            path.unlink(missing_ok=True)

    def read(self, n_shards: int) -> Iterator[Composed]:
        """All finished passages, in order.

        Raises:
            DataError: A shard is damaged.
        """
        for number in range(n_shards):
            path = self.path(number)
            try:
                with gzip.open(path, "rt", encoding="utf-8") as lines:
                    next(lines)
                    for line in lines:
                        yield _reader().validate_python(json.loads(line))
            except (OSError, EOFError, zlib.error, ValueError, StopIteration) as error:
                raise DataError(
                    f"{path} is damaged ({error}); delete it and run the command again"
                ) from None

    def _digest(self, passages: Sequence[Passage]) -> str:
        text = json.dumps([self.identity, *map(asdict, passages)], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@cache
def _reader() -> TypeAdapter[Composed]:
    from pydantic import TypeAdapter

    return TypeAdapter(Composed)
