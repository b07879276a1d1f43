"""Bounds on what a client may send, and on how slowly it may send it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from openclara.server.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from openclara.server.settings import Limits

FILTERS = 32
FILTER_CHARS = 2000


class Bounded:
    """Counts a body as it arrives, whatever its headers claim, and waits only so long for it."""

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with bounds around."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = _most_bytes(scope, self._limits)
        try:
            _check_declared(scope, most)
        except Failure as failure:
            await failure.response()(scope, receive, send)
            return
        await self._app(scope, _Body(receive, most, self._limits).receive, send)


class _Body:
    def __init__(self, receive: Receive, most: int, limits: Limits) -> None:
        self._receive = receive
        self._most = most
        self._limits = limits
        self._count = 0
        self._complete = False
        self._started = time.monotonic()

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        left = self._limits.body_s - (time.monotonic() - self._started)
        try:
            async with asyncio.timeout(max(0.0, min(self._limits.idle_s, left))):
                message = await self._receive()
        except TimeoutError:
            raise Failure(408, "the body arrived too slowly; send it again", close=True) from None
        self._count += len(message.get("body", b""))
        if self._count > self._most:
            raise _too_large(self._most)
        self._complete = not message.get("more_body", False)
        return message


def _most_bytes(scope: Scope, limits: Limits) -> int:
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    is_upload = scope["path"] == "/v1/documents" and kind.lower().startswith(b"multipart/")
    return limits.upload_bytes if is_upload else limits.body_bytes


def _check_declared(scope: Scope, most: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > most:
            raise _too_large(most)


def _too_large(most: int) -> Failure:
    return Failure(
        413, f"the body is larger than {most:,} bytes; send it in parts", code="too_large",
        close=True,
    )  # fmt: skip


def check_question(text: str, limits: Limits, param: str = "question") -> None:
    """Refuse a question that is blank or too long.

    Raises:
        Failure: It is.
    """
    if not text.strip():
        raise Failure(400, "the question is empty; ask something", param=param)
    if len(text) > limits.question_chars:
        raise Failure(
            400,
            f"the question has {len(text):,} characters, {limits.question_chars:,} are the most; "
            "ask a shorter one",
            param=param,
        )


def check_at_most(number: int | None, most: int, param: str) -> None:
    """Refuse a number beyond its bound; None stands for a default, which is not.

    Raises:
        Failure: It is.
    """
    if number is not None and number > most:
        raise Failure(400, f"{param} is {number:,}, {most:,} is the most", param=param)


def check_filters(where: Sequence[str]) -> None:
    """Refuse more filters than anybody writes.

    Raises:
        Failure: There are.
    """
    check_at_most(len(where), FILTERS, "where")
    if any(len(text) > FILTER_CHARS for text in where):
        raise Failure(400, f"a filter is longer than {FILTER_CHARS:,} characters", param="where")
