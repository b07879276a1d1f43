"""Checks before a service starts, and the service from its first connection to its last."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from openclara.errors import ConfigError
from openclara.server import logs
from openclara.server.access import LOOPBACK_NAMES
from openclara.server.app import create_app
from openclara.server.keys import KeyFile
from openclara.server.running import Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from openclara.server.asking import Engine
    from openclara.server.library import Library
    from openclara.server.settings import Settings


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def known_hosts(host: str, also: Sequence[str], *, with_keys: bool) -> tuple[str, ...]:
    """Names a service may be addressed by; none where keys keep strangers out anyway."""
    return () if with_keys else (*LOOPBACK_NAMES, host, *also)


def check_settings(host: str, settings: Settings) -> None:
    """Refuse to be open to others without keys, and origins that are none.

    Raises:
        ConfigError: It would be.
        FormatError: The file of keys is damaged.
    """
    if settings.keys is not None and not KeyFile(settings.keys).keys():
        raise ConfigError(
            f"{settings.keys} holds no key; make one with `openclara keys add {settings.keys} NAME`"
        )
    if settings.keys is None and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines, which needs API keys; make one with "
            "`openclara keys add FILE NAME` and pass --keys FILE"
        )
    for origin in settings.origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
            raise ConfigError(
                f"the origin {origin} is none; write it as https://example.org, without a path"
            )


def serve(engine: Engine, library: Library, settings: Settings, sock: socket.socket) -> None:
    """Serve until a signal; then finish what runs. A second signal cuts it.

    Args:
        engine: Runs the model.
        library: The indexes.
        settings: How the service behaves.
        sock: Where it listens, closed in the end.
    """
    logs.configure()
    Server(create_app(engine, library, settings), settings).run(sockets=[sock])
