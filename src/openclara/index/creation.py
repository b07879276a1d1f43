"""Making an empty index, and being the one process that writes to it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from openclara.errors import FormatError, IndexBusy
from openclara.index.database import Database, explained
from openclara.index.layout import write_durably

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.index.layout import Layout, Manifest

LOCK_WAIT_S = 1.0


def writer_lock(layout: Layout) -> FileLock:
    """The lock of the one process that writes."""
    return FileLock(layout.lock, timeout=LOCK_WAIT_S)


@contextmanager
def held(lock: FileLock, layout: Layout) -> Iterator[None]:
    """Be the one process that writes.

    Raises:
        IndexBusy: Another one is.
        OpenClaraError: The folder cannot be written.
    """
    with explained(layout):
        try:
            lock.acquire()
        except Timeout as error:
            raise IndexBusy(
                f"another process is writing to {layout.folder}: "
                f"wait until it is done and run again"
            ) from error
    try:
        yield
    finally:
        lock.release()


def create(layout: Layout, manifest: Manifest) -> None:
    """Make an empty index, unless another process just did.

    Raises:
        FormatError: The path is taken by something else.
        IndexBusy: Another process is making it this moment.
        OpenClaraError: The folder cannot be written.
    """
    with explained(layout):
        try:
            layout.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise FormatError(
                f"{layout.folder} cannot be a folder, a file is in the way: choose another path"
            ) from None
        foreign = sorted(path.name for path in layout.folder.iterdir() if not layout.owns(path))
        if foreign:
            raise FormatError(
                f"{layout.folder} is not an openclara index but holds {foreign[0]!r}: "
                f"choose a path that does not exist or an empty folder"
            )
        with held(writer_lock(layout), layout):
            # Latents without a manifest are an index that lost it: for the reader to say.
            if layout.manifest.exists() or layout.shard_files():
                return
            for path in layout.database_files():
                path.unlink()
            Database(layout).create()
            # The manifest comes last: an interrupted creation is no index, and can be tried again.
            content = manifest.to_json().encode()
            write_durably(layout.manifest, content, temporary_suffix=layout.temporary_suffix)
