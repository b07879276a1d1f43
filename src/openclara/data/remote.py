"""Files at an address such as `s3://bucket/folder` or `hf://datasets/name`, through fsspec."""

from __future__ import annotations

import glob
from typing import IO, TYPE_CHECKING, Any

from openclara.data.sources import SourceFile, reason
from openclara.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager


def is_address(name: str) -> bool:
    """Whether a name is an address and not a path."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.isalnum()


def at_address(name: str, suffixes: Sequence[str]) -> list[SourceFile | DataError]:
    """The files at an address: one file, those below a folder, or those a pattern matches.

    Args:
        name: The address.
        suffixes: What is read from a folder.

    Returns:
        Files in the order of their addresses, or what stands in the way.
    """
    try:
        system, path = _file_system(name)
        if glob.has_magic(name):
            found = [one for one in sorted(system.glob(path)) if not system.isdir(one)]
        elif system.isdir(path):
            found = [one for one in sorted(system.find(path)) if _readable(one, suffixes)]
        elif system.exists(path):
            found = [path]
        else:
            return [DataError(f"there is nothing at {name}; check the address and the access")]
    except DataError as error:
        return [error]
    except Exception as error:  # each store raises what its client does
        return [DataError(f"{name} cannot be looked up ({reason(error)}); check the address")]
    if not found:
        return [DataError(f"{name} holds no file to read; check the address")]
    addresses = [system.unstrip_protocol(one) for one in found]
    return [SourceFile(None, address, address=address) for address in addresses]


def opened(file: SourceFile) -> AbstractContextManager[IO[bytes]]:
    """A file at an address, open for reading.

    Raises:
        DataError: It cannot be opened.
    """
    try:
        system, path = _file_system(file.address)
        stream: AbstractContextManager[IO[bytes]] = system.open(path, "rb")
    except DataError:
        raise
    except Exception as error:  # as above
        raise DataError(
            f"{file.name} cannot be read ({reason(error)}); check the access, or leave it out"
        ) from error
    return stream


def _file_system(name: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(name)
    except ImportError as error:
        scheme = name.partition("://")[0]
        raise DataError(f"{scheme}:// needs a package ({reason(error)}); install it") from error
    except ValueError as error:
        raise DataError(f"{name} cannot be read ({reason(error)}); check the address") from error
    return system, path


def _readable(path: str, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and SourceFile(None, path, address=path).suffix in suffixes
