"""Documents from wherever they lie: files, folders, patterns and standard input, one at a time."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from openclara.data.formats import SUFFIXES, read_file
from openclara.data.remote import at_address, is_address
from openclara.data.sources import Found, SourceFile, in_index, is_index
from openclara.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from openclara.types import Document

_LINES = 1 << 40
"""More than any file has, so that one integer can name a file and a line."""


def read_documents(
    source: str | Path | Sequence[str | Path],
    *,
    on_unreadable: Callable[[DataError], None] | None = None,
) -> Iterator[Document]:
    r"""Read documents, one at a time, in an order that is the same every time.

    A folder is read with its subfolders, sorted by path, without hidden files and openclara
    indexes, and with only the suffixes in `SUFFIXES`. A pattern (`docs/**/*.md`) stands for the
    files it matches. `-` is standard input: JSON Lines where the first line that is not blank is
    a JSON object, otherwise one text. Any other name is a file; with an unknown suffix it is read
    as UTF-8 text. A file that several names lead to is read once.

    Ids do not change from run to run: the path below the given folder, or the path as given for
    a file named by itself, in POSIX form; records have their own `id`, or that path with
    `#<line>`. Files at an address (`s3://`, `hf://`, whatever fsspec opens) go by their address.
    Text is kept as it is written, save that newlines become `\n`.

    All names are looked up before the first document is read, so a misspelt one costs no work.

    Args:
        source: A file, folder, pattern or `-`, or several of them.
        on_unreadable: Called with each error, after which the file or record is skipped. Without
            it the first error is raised.

    Yields:
        Documents, each with text that is not blank and an id that no other of this run has.

    Raises:
        DataError: A path is missing, unreadable, empty, mis-encoded or damaged, a record lacks
            text, or two documents share an id.
    """
    report = on_unreadable or _stop
    files = []
    for file in _locate(source):
        if isinstance(file, DataError):
            report(file)
        else:
            files.append(file)
    for item in _without_repeats(files):
        if isinstance(item, DataError):
            report(item)
        else:
            yield item


def count_files(source: str | Path | Sequence[str | Path]) -> int | None:
    """Count the files that `read_documents` would open, without opening any.

    Args:
        source: As for `read_documents`; names that lead nowhere count as none.

    Returns:
        Number of files, or None when standard input is among them.
    """
    files = [file for file in _locate(source) if isinstance(file, SourceFile)]
    return None if any(file.is_stdin for file in files) else len(files)


def _stop(error: DataError) -> None:
    raise error


def _without_repeats(files: Sequence[SourceFile]) -> Iterator[Document | DataError]:
    # A corpus has millions of ids: the place of each is one integer, position * _LINES + line.
    taken: dict[str, int] = {}
    for position, file in enumerate(files):
        for item in read_file(file):
            if not isinstance(item, Found):
                yield item
                continue
            earlier = taken.setdefault(item.document.id, position * _LINES + item.number)
            if earlier == position * _LINES + item.number:
                yield item.document
            else:
                first = files[earlier // _LINES].at(earlier % _LINES)
                yield _repeated(item, file.at(item.number), first)


def _repeated(item: Found, place: str, first: str) -> DataError:
    remedy = (
        "give each record its own id"
        if item.number
        else "read both through the folder that holds them, so that their paths differ"
    )
    return DataError(f'{place} has the id "{item.document.id}", as has {first}; {remedy}')


def _locate(source: str | Path | Sequence[str | Path]) -> Iterator[SourceFile | DataError]:
    names = [source] if isinstance(source, str | Path) else list(source)
    if not names:
        yield DataError("no source was named; give files, folders, patterns or - for stdin")
    seen: set[Path | str] = set()
    for name in names:
        for file in _expand(name):
            if isinstance(file, SourceFile):
                identity = file.path.resolve() if file.path else file.address
                if identity in seen:
                    continue
                seen.add(identity)
            yield file


def _expand(name: str | Path) -> Iterable[SourceFile | DataError]:
    if str(name) == "-":
        return [SourceFile(None, "stdin")]
    # Path("") is the current folder, which nobody means by an empty name.
    if not str(name):
        return [DataError("a source has an empty name; give a file, folder, pattern or -")]
    if is_address(str(name)):
        return at_address(str(name), SUFFIXES)
    path = Path(name)
    try:
        if path.is_dir():
            return _in_folder(path)
        if path.exists():
            return [SourceFile(path, path.as_posix())]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return [DataError(f"{_shortened(path)} cannot be looked up: {reason}; check the path")]
    if glob.has_magic(str(name)):
        return _matching(str(name))
    return [DataError(f"{path} does not exist; check the path, which starts from {Path.cwd()}")]


def _shortened(path: Path) -> str:
    name = str(path)
    return name if len(name) <= 200 else f"{name[:100]}… ({len(name)} characters)"


def _in_folder(folder: Path) -> list[SourceFile | DataError]:
    if is_index(folder):
        return [DataError(f"{folder} is an openclara index; name the folder its documents are in")]
    errors: list[DataError] = []
    below = [
        path.relative_to(folder).as_posix()
        for path in _walk(folder, errors)
        if SourceFile(path, "").suffix in SUFFIXES
    ]
    if not below and not errors:
        looked_for = " ".join(SUFFIXES)
        errors.append(
            DataError(f"{folder} holds no file to read; put files there with one of {looked_for}")
        )
    return [*errors, *(SourceFile(folder / name, name) for name in sorted(below))]


def _walk(folder: Path, errors: list[DataError]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        errors.append(
            DataError(f"{error.filename} cannot be listed: {reason}; change its permissions")
        )

    # Links are followed, since folders are often put together from them, but each folder once:
    # a link to a parent would never end.
    seen = {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        fresh = []
        for name in sorted(folders):
            target = (Path(parent) / name).resolve()
            if not name.startswith(".") and target not in seen and not is_index(target):
                seen.add(target)
                fresh.append(name)
        folders[:] = fresh
        yield from (Path(parent) / name for name in names if not name.startswith("."))


def _matching(pattern: str) -> list[SourceFile | DataError]:
    # Path.glob takes no absolute pattern and matches hidden files.
    matches = (Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    suffix = Path(pattern).suffix
    named = bool(suffix) and not glob.has_magic(suffix)
    files = sorted(
        (SourceFile(path, path.as_posix()) for path in matches if path.is_file()),
        key=lambda file: file.id,
    )
    taken = [
        file
        for file in files
        if (named or file.suffix in SUFFIXES) and not (file.path and in_index(file.path))
    ]
    if taken:
        return [*taken]
    looked_for = "files" if named else f"files with one of {' '.join(SUFFIXES)}"
    return [DataError(f"{pattern} matches no {looked_for}; check the pattern")]
