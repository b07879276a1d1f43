"""Rows of JSON that are appended as work is done, and found again after a kill."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType


def key_of(*parts: Any) -> str:
    """A short name for whatever a row follows from: the same parts, the same row."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Journal:
    """A JSON Lines file of rows by key. A row is there whole or not at all.

    Args:
        path: The file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        kept = 0
        if path.is_file():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    row = json.loads(line)
                    whole = line.endswith(b"\n") and isinstance(row["key"], str)
                except (ValueError, KeyError, TypeError):
                    whole = False
                if not whole:
                    break  # cut off by a kill; what follows, if anything, is written again
                self.rows[row["key"]] = row
                kept += len(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(kept)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows, each with its `key`, and hand them to the operating system."""
        for row in rows:
            self.rows[row["key"]] = dict(row)
            self._file.write(json.dumps(row, ensure_ascii=True).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
