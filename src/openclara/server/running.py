"""Accepting connections: a socket, patience with bounds, and an end that finishes what runs."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from openclara.errors import ConfigError

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

    from fastapi import FastAPI

    from openclara.server.settings import Limits, Settings

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
        super().__init__(
            uvicorn.Config(
                app,
                http=_patient(settings.limits),
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
        self._service.drain()
        self.force_exit = self.should_exit
        self.should_exit = True


def _patient(limits: Limits) -> type[H11Protocol]:
    """A protocol that closes a connection whose request, or whose response, does not get on."""

    class Patient(H11Protocol):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._for_head: asyncio.TimerHandle | None = None
            self._for_taking: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._head_is_here()
            elif self._for_head is None:
                self._await_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._for_taking = self.loop.call_later(limits.write_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._is_taken()
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            # Closing waits for what is still to be sent, however long nobody takes it.
            self.loop.call_later(limits.write_s, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_here()
            self._is_taken()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            self._for_head = self.loop.call_later(limits.header_s, self.transport.close)

        def _head_is_here(self) -> None:
            if self._for_head is not None:
                self._for_head.cancel()
                self._for_head = None

        def _is_taken(self) -> None:
            if self._for_taking is not None:
                self._for_taking.cancel()
                self._for_taking = None

    return Patient
