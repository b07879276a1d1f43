"""Who may do what: decided from the head of a request, before any of its body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from openclara.server.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as Request

    from openclara.server.keys import Key, KeyFile, Scope

OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
OPEN_BELOW = "/static/"
ASKING = (
    "/v1/ask",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/compress",
    "/v1/embeddings",
    "/v1/inspect",
    "/v1/search",
)
"""What is posted to these changes nothing."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None where everybody may.

    What is not known to be harmless needs `write`, so a route that is added later is safe.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return None if path in OPEN or path.startswith(OPEN_BELOW) else "read"
    return "read" if method == "POST" and path.rstrip("/") in ASKING else "write"


class Access:
    """Lets a request through, or refuses it in one sentence."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyFile | None,
        hosts: Sequence[str],
        origins: Sequence[str],
        draining: Callable[[], bool],
        cleaned: Callable[[Exception], Failure],
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = {host.lower() for host in hosts}
        self._origins = set(origins)
        self._draining = draining
        self._cleaned = cleaned

    async def __call__(self, scope: Request, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except Exception as error:
                await self._cleaned(error).response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Request) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self._keys is None:
            self._check_name(host)
        self._check_origin(scope["method"], headers.get(b"origin"), host)
        wanted = needed(scope["method"], scope["path"])
        if wanted is None:
            return
        if self._draining():
            raise Failure(
                503, "the service is stopping; try again in a moment", retry_after_s=5, close=True
            )
        scope["state"]["scopes"] = ("read", "write")
        if self._keys is not None:
            key = _presented(self._keys, headers.get(b"authorization", ""))
            scope["state"]["key"] = key.name
            scope["state"]["scopes"] = key.scopes
            if wanted not in key.scopes:
                raise Failure(403, "this key may only read; use one with the scope write")

    def _check_name(self, host: str) -> None:
        """Refuse an unknown name: a page of another site may have made it lead here."""
        if self._hosts and _name(host) not in self._hosts:
            raise Failure(
                403, "this service is not known by that host name; add it with --allow-host"
            )

    def _check_origin(self, method: str, origin: str | None, host: str) -> None:
        """Refuse what a page of another site sends on its own, such as a form."""
        if method in ("GET", "HEAD", "OPTIONS") or origin is None or origin in self._origins:
            return
        if urlsplit(origin).netloc.lower() != host.lower():
            raise Failure(403, "pages of another origin may not call this; allow it with --cors")


def _presented(keys: KeyFile, header: str) -> Key:
    kind, _, secret = header.partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise Failure(
            401, "an API key is needed; send it as Authorization: Bearer KEY", code="missing_key"
        )
    key = keys.find(secret.strip())
    if key is None:
        raise Failure(401, "this API key is not known; check it", code="invalid_api_key")
    return key


def _name(host: str) -> str:
    """A Host header without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
