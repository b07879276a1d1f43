"""A file to read from: its name, its place in errors, its characters."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple

from openclara.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from openclara.types import Document

_BLOCK_BYTES = 1 << 20

# As `index.layout` names them, written out again: reading lies below the index and does not import
# it. A test makes an index and looks whether it is known for one.
_INDEX_MANIFEST, _INDEX_DATABASE = "index.json", "documents.sqlite"
_INDEX_FORMAT = b'"openclara-index"'


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: Where it lies; None for standard input and at an address.
        id: Name that its document, or its records, go by.
        address: Where it lies if not on this machine, such as `s3://bucket/file.jsonl`.
    """

    path: Path | None
    id: str
    address: str = ""

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return self.path is None and not self.address

    @property
    def name(self) -> str:
        """The file as errors and `Document.source` name it."""
        return "stdin" if self.is_stdin else self.address or str(self.path)

    @property
    def suffix(self) -> str:
        """What the format is told by, in lower case; both endings of a compressed file."""
        if self.is_stdin:
            return ""
        path = self.path or PurePosixPath(self.address)
        last = path.suffix.lower()
        return path.with_suffix("").suffix.lower() + last if last == ".gz" else last

    @property
    def stem(self) -> str:
        """The title of a file that states none."""
        return "" if self.is_stdin else (self.path or PurePosixPath(self.address)).stem

    def at(self, number: int) -> str:
        """Name a place in the file: its line, record or row; 0 is the whole."""
        unit = {".json": "record", ".parquet": "row"}.get(self.suffix, "line")
        return f"{self.name}, {unit} {number}" if number else self.name


class Found(NamedTuple):
    """A document and its place: the line or record it starts at, 0 for a whole file."""

    document: Document
    number: int = 0


def is_index(folder: Path) -> bool:
    """Whether a folder is an openclara index: made from documents, it holds none to read."""
    if not (folder / _INDEX_DATABASE).is_file():
        return False
    try:
        with (folder / _INDEX_MANIFEST).open("rb") as manifest:
            return _INDEX_FORMAT in manifest.read(_BLOCK_BYTES)
    except OSError:
        return False


def in_index(path: Path) -> bool:
    """Whether a file that could be read as a document is part of an openclara index."""
    return path.name == _INDEX_MANIFEST and is_index(path.parent)


def decoded(stream: IO[bytes] | gzip.GzipFile, name: str) -> Iterator[str]:
    r"""Decode a file block by block.

    Args:
        stream: UTF-8, with or without its byte order mark, or UTF-16 with one.
        name: The file as errors name it.

    Yields:
        Stretches of text in which every newline is `\n`.

    Raises:
        DataError: The bytes are of another encoding, or not text, or damaged gzip. Which other
            encoding is never guessed: a wrong guess would go unnoticed.
    """
    block = _block(stream, name)
    is_utf16 = block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if is_utf16 else "utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = len(codecs.BOM_UTF8) if block.startswith(codecs.BOM_UTF8) else 0
    block = block[offset:]
    while True:
        undecoded = len(decoder.getstate()[0])
        if not is_utf16 and b"\0" in block:
            raise _binary(name)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            at = offset - undecoded + error.start
            raise _mis_encoded(name, at, "UTF-16" if is_utf16 else "UTF-8") from error
        if "\0" in text:
            raise _binary(name)
        yield newlines.decode(text, final=not block)
        if not block:
            return
        offset += len(block)
        block = _block(stream, name)


def _block(stream: IO[bytes] | gzip.GzipFile, name: str) -> bytes:
    try:
        return stream.read(_BLOCK_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{name} is a damaged gzip file ({reason(error)}); copy or compress it again"
        ) from error


def _binary(name: str) -> DataError:
    return DataError(
        f"{name} holds NUL bytes, so it is not text; convert it to UTF-8 text or leave it out"
    )


def _mis_encoded(name: str, offset: int, encoding: str) -> DataError:
    return DataError(
        f"{name} is not {encoding} at byte {offset}; convert it to UTF-8, "
        "for example with `iconv -f WINDOWS-1252 -t UTF-8`"
    )


def reason(error: Exception) -> str:
    """What a library says of a failure, cut to fit inside a sentence."""
    return next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__


def numbered_lines(blocks: Iterable[str]) -> Iterator[tuple[int, str]]:
    r"""Number the lines from 1. Only `\n` ends one: JSON strings may hold the other line ends."""
    number = 1
    started: list[str] = []
    for block in blocks:
        first, *rest = block.split("\n")
        started.append(first)
        if not rest:
            continue
        for line in ("".join(started), *rest[:-1]):
            yield number, line
            number += 1
        started = [rest[-1]]
    yield number, "".join(started)
