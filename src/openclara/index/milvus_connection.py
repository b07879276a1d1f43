"""Reaching Milvus, embedded or a server, and saying in a sentence what went wrong there."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openclara.errors import ConfigError, IndexBusy, OpenClaraError
from openclara.index.addresses import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMES = ("http://", "https://", "tcp://", "unix:")
SUFFIX = ".db"


def embedded_path(address: str) -> Path | None:
    """Where embedded Milvus keeps its data; None for the URI of a server.

    Raises:
        ConfigError: The address is neither.
    """
    if address.startswith(SCHEMES):
        return None
    path = Path(address).expanduser()
    if path.suffix != SUFFIX:
        raise ConfigError(
            f"milvus:{shown(address)} names no Milvus: write a path that ends in {SUFFIX} "
            "(embedded) or a URI such as http://localhost:19530 (a server) after milvus:"
        )
    return path


def nothing_at(address: str) -> bool:
    """Whether embedded Milvus has no data there; connecting would make some.

    Raises:
        ConfigError: As `embedded_path`.
    """
    path = embedded_path(address)
    return path is not None and not path.exists()


def connect(address: str) -> Any:
    """A client; embedded Milvus is made where there is none.

    Raises:
        ConfigError: As `embedded_path`.
        IndexBusy: Another process has the embedded Milvus open.
        OpenClaraError: Milvus cannot be reached, or its packages are not installed.
    """
    path = embedded_path(address)
    if find_spec("pymilvus") is None or (path is not None and find_spec("milvus_lite") is None):
        raise OpenClaraError(
            "an index in Milvus needs pymilvus and milvus-lite: pip install 'openclara[milvus]'"
        )
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    # It writes to standard error what it raises, with a traceback, and what embedded Milvus lacks.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    if path is None:
        try:
            return MilvusClient(address)
        except (MilvusException, ValueError) as error:
            raise OpenClaraError(
                f"Milvus at {shown(address)} cannot be reached ({_reason(error)}): check the "
                "address, or start it"
            ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with _logged_errors() as logged:
        try:
            return MilvusClient(str(path))
        except MilvusException as error:
            cause = logged[-1] if logged else error
            if type(cause).__name__ == "DataDirLockedError":
                raise IndexBusy(
                    f"another process has the embedded Milvus {path} open, which takes one at a "
                    "time: wait until it is done and run again"
                ) from error
            raise OpenClaraError(
                f"the embedded Milvus {path} cannot be opened ({_reason(cause)}): give another path"
            ) from error


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn what Milvus raises into a sentence.

    Raises:
        OpenClaraError: Milvus failed.
    """
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        raise OpenClaraError(
            f"Milvus at {shown(address)} failed ({_reason(error)}): see that it runs and has "
            "room, and run again"
        ) from error


@contextmanager
def _logged_errors() -> Iterator[list[BaseException]]:
    """What kept embedded Milvus from starting: milvus-lite logs it and raises nothing."""
    logged: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            logged.append(error)
        return error is None

    logger = logging.getLogger("milvus_lite.server_manager")
    logger.addFilter(keep)
    try:
        yield logged
    finally:
        logger.removeFilter(keep)


def _reason(error: BaseException) -> str:
    """One line of what an error says; Milvus keeps its message beside the text."""
    return shown(" ".join(str(getattr(error, "message", "") or error).split()))
