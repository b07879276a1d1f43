"""Accepting connections: a socket, patience with bounds, and an end that finishes what runs."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from openclara.errors import ConfigError

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

    from openclara.server.settings import Settings

KEEP_ALIVE_S = 15
BACKLOG = 256


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes any that is free.

    Raises:
        ConfigError: The address cannot be had.
    """
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use; stop what uses it, or choose another with --port"
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(
                f"port {port} needs rights that this user lacks; choose one above 1023 with --port"
            ) from None
        raise ConfigError(
            f"{host} is no address of this machine; give one with --host, such as 127.0.0.1"
        ) from None


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class Server(uvicorn.Server):
    """Serves an application until a signal; a second one cuts what still runs."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._service = app.state.service
        protocol = _patient(settings.limits.header_s)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(settings.drain_s)),
                limit_concurrency=settings.limits.connections,
                backlog=BACKLOG,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at once if told twice. The signal ends there: the process ends as it should."""
        self._service.draining = True
        self.force_exit = self.should_exit
        self.should_exit = True


def _patient(header_s: float) -> type[H11Protocol]:
    """A protocol that closes a connection whose request does not get on."""

    class Patient(H11Protocol):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._hurry: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._begin()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._end()
            elif self._hurry is None:
                self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def _begin(self) -> None:
            self._hurry = self.loop.call_later(header_s, self._too_slow)

        def _end(self) -> None:
            if self._hurry is not None:
                self._hurry.cancel()
                self._hurry = None

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return Patient
