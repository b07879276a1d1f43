"""Which indexes are served, by which names, and what keeps up when they change on the disk."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openclara.errors import ConfigError, FormatError, IndexMismatch, OpenClaraError
from openclara.index import LatentIndex
from openclara.index.layout import Layout, read_manifest
from openclara.server import logs
from openclara.server.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.index import Quantization
    from openclara.types import LatentSpec

SUFFIXES = (".idx", ".index")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NEW_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
TRASH = ".openclara-trash"
SHARED = ("fingerprint", "width", "doc_max_length", "score")
"""What one model decides; the number of latents may differ from index to index."""

Identity = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Served:
    """An index that is served.

    Attributes:
        name: In addresses.
        index: The index, open.
        in_root: Whether it may be deleted.
    """

    name: str
    index: LatentIndex
    in_root: bool

    @property
    def writable(self) -> bool:
        """Whether this process may change it."""
        return os.access(self.index.path, os.W_OK)


@dataclass(slots=True)
class _Open:
    index: LatentIndex
    identity: Identity


class Library:
    """The indexes given by path, and those in the root folder, looked up anew at each use.

    Thread-safe. What another process adds to an index is seen at the next request, as is an index
    that is new in the root, was removed, or was replaced by another of the same name.
    """

    def __init__(
        self, spec: LatentSpec, given: Sequence[Path] = (), root: Path | None = None
    ) -> None:
        """Look at what is to be served.

        Args:
            spec: Of the one model that serves all of them.
            given: Folders of indexes.
            root: Folder in which every index is served, and new ones are made.

        Raises:
            ConfigError: Nothing is given, two have one name, or a name does not fit an address.
            FormatError: A given folder is no index.
            IndexMismatch: A given index was made by another model.
        """
        if not given and root is None:
            raise ConfigError("there is nothing to serve; give an index, or --root with a folder")
        self.spec = spec
        self.root = None if root is None else root.expanduser().resolve()
        if self.root is not None and not self.root.is_dir():
            raise ConfigError(f"the root {root} is no folder; make it, or give another")
        self._given = _named(given)
        self._open: dict[str, _Open] = {}
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._writing: dict[str, asyncio.Lock] = {}
        for name, path in self._given.items():
            self._served(name, path)
        if self.root is not None:
            shutil.rmtree(self.root / TRASH, ignore_errors=True)

    def names(self) -> list[str]:
        """The names of all indexes there are this moment, those of other models left out."""
        return [served.name for served in self.all()]

    def all(self) -> list[Served]:
        """All indexes there are this moment; what cannot be served is logged once."""
        found = []
        for name, path in self._paths().items():
            try:
                found.append(self._served(name, path))
            except OpenClaraError as error:
                if name not in self._refused:
                    self._refused.add(name)
                    logs.event("index not served", index=name, reason=type(error).__name__)
        return found

    def get(self, name: str | None) -> Served:
        """The index of a name; None is the only one there is.

        Raises:
            Failure: There is none, or none was named where there are several.
            IndexMismatch: It was made by another model.
            FormatError: It is damaged.
        """
        paths = self._paths()
        if name is None:
            if len(paths) != 1:
                known = ", ".join(paths) or "none yet"
                raise Failure(
                    400 if paths else 404, f"name an index; there are: {known}", param="index"
                )
            name = next(iter(paths))
        if name not in paths:
            raise Failure(
                404,
                "there is no index of that name; GET /v1/indexes lists them",
                param="index",
                code="index_not_found",
            )
        return self._served(name, paths[name])

    def create(self, name: str, quantization: Quantization | None) -> Served:
        """Make an index in the root.

        Raises:
            Failure: There is no root, or the name is odd or taken.
            OpenClaraError: The folder cannot be written.
        """
        if self.root is None:
            raise Failure(403, "this service makes no indexes; start it with --root FOLDER")
        if not NEW_NAME.fullmatch(name) or name.endswith(SUFFIXES):
            raise Failure(
                400,
                "an index's name is up to 64 lower-case letters, digits and ._- without .idx",
                param="name",
            )
        path = self.root / (name + SUFFIXES[0])
        if name in self._paths() or path.exists():
            raise Failure(409, f"there is an index {name} already; choose another name")
        LatentIndex.open(path, self.spec, quantization=quantization).close()
        return self._served(name, path)

    def delete(self, name: str) -> None:
        """Take an index out of the root: at once out of sight, then off the disk.

        Raises:
            Failure: There is none, or it lies outside the root.
        """
        path = self._paths().get(name)
        if path is None:
            raise Failure(404, "there is no index of that name; GET /v1/indexes lists them")
        if self.root is None or name in self._given or path.parent != self.root:
            raise Failure(403, f"the index {name} was given by path; only its owner may remove it")
        trash = self.root / TRASH
        trash.mkdir(exist_ok=True)
        target = trash / f"{name}-{secrets.token_hex(4)}"
        path.rename(target)
        with self._lock:
            opened = self._open.pop(name, None)
        if opened is not None:
            opened.index.close()
        shutil.rmtree(target, ignore_errors=True)

    def writing(self, name: str) -> asyncio.Lock:
        """Held by the one request or job of this service that changes an index."""
        return self._writing.setdefault(name, asyncio.Lock())

    def cleaned(self, sentence: str) -> str:
        """A sentence without the paths of this machine: indexes by name, the rest cut."""
        for name, path in self._paths().items():
            sentence = sentence.replace(str(path), name)
        for folder in (self.root, Path(self.spec.model).parent, Path.cwd(), Path.home()):
            if folder is not None and folder.is_absolute() and len(folder.parts) > 1:
                sentence = sentence.replace(f"{folder}{os.sep}", "").replace(str(folder), "here")
        return sentence

    def close(self) -> None:
        """Close all."""
        with self._lock:
            opened, self._open = self._open, {}
        for one in opened.values():
            one.index.close()

    def _paths(self) -> dict[str, Path]:
        """Where the index of each name lies; what is given comes before what is in the root."""
        paths = dict(self._given)
        if self.root is None:
            return paths
        for path in sorted(self.root.iterdir()):
            name = _name(path)
            # A link could lead anywhere.
            if NAME.fullmatch(name) and not path.is_symlink() and Layout(path).manifest.is_file():
                paths.setdefault(name, path)
        return paths

    def _served(self, name: str, path: Path) -> Served:
        identity = _identity(path)
        with self._lock:
            opened = self._open.get(name)
            if opened is None or opened.identity != identity:
                if opened is not None:
                    # Who is still reading the old one keeps its connections until then.
                    opened.index.close()
                    del self._open[name]
                index = LatentIndex.open(path)
                try:
                    check_model(index.spec, self.spec, name)
                except IndexMismatch:
                    index.close()
                    raise
                opened = self._open[name] = _Open(index, identity)
                self._refused.discard(name)
        return Served(name, opened.index, in_root=name not in self._given)


def check_model(stored: LatentSpec, served: LatentSpec, name: str) -> None:
    """Refuse an index of another model than the one that serves.

    Raises:
        IndexMismatch: It was made by another.
    """
    for field in SHARED:
        if getattr(stored, field) != getattr(served, field):
            raise IndexMismatch(
                f"the index {name} was made by model {public_model(stored.model)}, this service "
                f"runs {public_model(served.model)} ({field} differs); serve it separately"
            )


def shared_spec(paths: Sequence[Path], root: Path | None) -> LatentSpec | None:
    """The model side that all indexes have in common, read from their manifests alone.

    Args:
        paths: Given indexes; all must be of one model.
        root: Folder with more; its first index decides where none is given.

    Raises:
        FormatError: A given folder is no index.
        IndexMismatch: Two given indexes are of different models.
    """
    first: tuple[str, LatentSpec] | None = None
    for path in paths:
        spec = read_manifest(Layout(path)).spec
        if first is None:
            first = (path.name, spec)
        elif any(getattr(spec, field) != getattr(first[1], field) for field in SHARED):
            raise IndexMismatch(
                f"{first[0]} was made by model {first[1].model}, {path.name} by {spec.model}; one "
                "service runs one model, so serve them separately"
            )
    if first is None and root is not None and root.is_dir():
        for path in sorted(root.iterdir()):
            if Layout(path).manifest.is_file():
                return read_manifest(Layout(path)).spec
    return None if first is None else first[1]


def public_model(name: str) -> str:
    """The name of a model; of a folder only its last part."""
    path = Path(name)
    return path.name if path.is_absolute() else name


def _identity(path: Path) -> Identity:
    """What tells one index from another that took its place."""
    layout = Layout(path)
    try:
        manifest, database = layout.manifest.stat(), layout.database.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(
            f"the index {_name(path)} is not there or lost a file; restore it from a backup"
        ) from None
    return (manifest.st_ino, manifest.st_mtime_ns, database.st_ino)


def _name(path: Path) -> str:
    return path.name.removesuffix(SUFFIXES[0]).removesuffix(SUFFIXES[1])


def _named(given: Sequence[Path]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in given:
        resolved = path.expanduser().resolve()
        name = _name(resolved)
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"the index {path} has a name that does not fit an address; rename the folder to "
                "up to 64 letters, digits and ._-"
            )
        if name in paths and paths[name] != resolved:
            raise ConfigError(
                f"{paths[name]} and {path} would both be served as {name}; rename one of them"
            )
        read_manifest(Layout(resolved))
        paths[name] = resolved
    return paths
