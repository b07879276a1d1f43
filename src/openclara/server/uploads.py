"""Files that clients send: kept in a folder until they are read, trusted in nothing."""

from __future__ import annotations

import gzip
import re
import shutil
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openclara.data.reading import read_documents
from openclara.errors import DataError
from openclara.index.adding import check_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from openclara.types import Document

NAME_BYTES = 200
ZIPPED = (".docx",)
GZIPPED = (".gz",)
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, or a record of one, that could not be read."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file that was sent.

    Attributes:
        name: What it is called, which is also the id of its document.
        path: Where it is kept, in a folder of its own.
    """

    name: str
    path: Path


def safe_name(sent: str | None) -> str:
    """The last part of a name, without what a file system or a terminal would act on."""
    last = re.split(r"[/\\]", sent or "")[-1]
    last = last.encode(errors="replace").decode()
    kept = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip()
    if not kept.strip("."):
        return "upload.txt"
    stem, dot, suffix = kept.rpartition(".")
    suffix = dot + suffix if stem and len(suffix) <= 16 else ""
    room = NAME_BYTES - len(suffix.encode())
    stem = kept.removesuffix(suffix) if suffix else kept
    return stem.encode()[:room].decode(errors="ignore") + suffix


def store(stream: BinaryIO, name: str, folder: Path, number: int) -> Uploaded:
    """Copy one file that was sent into `folder`.

    Args:
        stream: Its content, from where it stands.
        name: A safe one.
        folder: Of the upload, which exists.
        number: Of the file; each lies in a folder of its own, so that no name can meet another.
    """
    own = folder / f"{number:05d}"
    own.mkdir()
    path = own / name
    with path.open("xb") as file:
        shutil.copyfileobj(stream, file, _BLOCK)
    return Uploaded(name, path)


def read_uploads(files: Sequence[Uploaded], *, unpacked_bytes: int) -> Iterator[Document | Skipped]:
    """Read what was sent, one document at a time; what cannot be read is skipped with its reason.

    Args:
        files: What was sent; of two with one name the second is skipped.
        unpacked_bytes: The most that one compressed file may unpack to.
    """
    taken: set[str] = set()
    for file in files:
        if file.name in taken:
            yield Skipped(file.name, "another file of this upload has the same name; rename it")
            continue
        taken.add(file.name)
        too_large = _unpacks_to_more(file.path, unpacked_bytes)
        if too_large:
            yield Skipped(file.name, too_large)
            continue
        yield from _read(file)


def _read(file: Uploaded) -> Iterator[Document | Skipped]:
    problems: list[DataError] = []
    documents = read_documents(file.path, on_unreadable=problems.append)
    while True:
        try:
            document = next(documents, None)
        except (DataError, ValueError, OSError, RecursionError, MemoryError) as error:
            # A reader that stumbles must not take the other files with it.
            reason = f"{file.name} cannot be read ({type(error).__name__}); leave it out"
            yield Skipped(file.name, reason)
            return
        for problem in problems:
            yield Skipped(file.name, str(problem).replace(str(file.path), file.name))
        problems.clear()
        if document is None:
            return
        document = _renamed(document, file)
        try:
            check_document(document)
        except DataError as error:
            yield Skipped(file.name, str(error))
            continue
        yield document


def _renamed(document: Document, file: Uploaded) -> Document:
    """The document as the client knows it, without the folder it was kept in."""
    path = file.path.as_posix()
    name = document.id
    if name == path or name.startswith(f"{path}#"):
        name = file.name + name.removeprefix(path)
    source = file.name if document.source == str(file.path) else document.source
    return replace(document, id=name, source=source)


def _unpacks_to_more(path: Path, most: int) -> str:
    """Why a compressed file is not read; empty where it is small enough, or no such file at all."""
    suffix = path.suffix.lower()
    reason = f"{path.name} unpacks to more than {most:,} bytes; send it in parts"
    try:
        if suffix in ZIPPED:
            with zipfile.ZipFile(path) as archive:
                declared = sum(entry.file_size for entry in archive.infolist())
            return reason if declared > most else ""
        if suffix in GZIPPED:
            return reason if _gunzipped_bytes(path, most) > most else ""
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return ""  # damaged: for its reader to say
    return ""


def _gunzipped_bytes(path: Path, most: int) -> int:
    count = 0
    with gzip.open(path) as stream:
        while count <= most and (block := stream.read(_BLOCK)):
            count += len(block)
    return count
