"""Around every request: an id, a line in the log, figures, headers of safety, no traceback."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import TYPE_CHECKING

from openclara.server import logs
from openclara.server.failures import GONE, Failure, failure
from openclara.server.metrics import OTHER

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from openclara.server.metrics import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")

SAFETY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
)


_STOPPED = Failure(
    503, "the service stopped before it could answer; ask again", retry_after_s=10, close=True
)


class Observing:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and say how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Observed(scope, send)
        try:
            await self._app(scope, receive, request.send)
        except asyncio.CancelledError:
            # The time to finish is over. With no answer begun there is time for a sentence.
            if request.status:
                raise
            await _STOPPED.response()(scope, receive, request.send)
        except Exception as error:
            logs.failed("request failed", error, request_id=request.id)
            if request.status:
                # Half a response has gone out: all that is left is to cut the connection.
                raise
            await failure(error, str).response()(scope, receive, request.send)
        finally:
            request.finish(self._metrics)


class _Observed:
    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self.status = 0
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        text = given.decode("latin-1")
        self.id = text if REQUEST_ID.fullmatch(text) else secrets.token_hex(8)
        scope["state"] = {**scope.get("state", {}), "request_id": self.id}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [header for header in SAFETY if header[0] not in present]
            headers.append((b"x-request-id", self.id.encode()))
            if b"cache-control" not in present:
                headers.append((b"cache-control", _keeping(self._scope["path"])))
            message = {**message, "headers": headers}
        await self._send(message)

    def finish(self, metrics: Metrics) -> None:
        scope = self._scope
        route = getattr(scope.get("route"), "path", None) or OTHER
        method = scope["method"] if scope["method"] in METHODS else OTHER
        seconds = time.perf_counter() - self._started
        status = self.status or GONE
        metrics.request(method, route, status, seconds)
        logs.event(
            "request",
            request_id=self.id,
            method=method,
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            key=scope["state"].get("key"),
        )


def _keeping(path: str) -> bytes:
    """Files of the page may be kept if asked for anew; answers may not be kept at all."""
    return b"no-cache" if path.startswith("/static/") else b"no-store"
