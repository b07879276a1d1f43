"""Bounds on what a client may send, and on how slowly it may send it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from openclara.server.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from openclara.server.settings import Limits

LINGER_S = 2.0
"""A body that was refused is still read for so long, and thrown away."""

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
        body = _Body(receive, most, self._limits)

        async def answer(message: Message) -> None:
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            if ends and body.too_large and not _waits_to_send(scope):
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        try:
            body.check_declared(scope)
        except Failure as failure:
            await failure.response()(scope, receive, answer)
            return
        await self._app(scope, body.receive, answer)


class _Body:
    def __init__(self, receive: Receive, most: int, limits: Limits) -> None:
        self._receive = receive
        self._most = most
        self._limits = limits
        self._count = 0
        self._complete = False
        self._started = time.monotonic()
        self.too_large = False

    def check_declared(self, scope: Scope) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._most:
                raise self._refusal()

    async def drain(self) -> None:
        """Let come what is on its way.

        A connection that is closed on unread bytes is reset, and the reply may be lost with it.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(min(LINGER_S, self._limits.idle_s)):
                while (await self._receive()).get("more_body", False):
                    pass

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
            raise self._refusal()
        self._complete = not message.get("more_body", False)
        return message

    def _refusal(self) -> Failure:
        self.too_large = True
        return Failure(
            413, f"the body is larger than {self._most:,} bytes; send it in parts",
            code="too_large", close=True,
        )  # fmt: skip


def _most_bytes(scope: Scope, limits: Limits) -> int:
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    is_upload = scope["path"] == "/v1/documents" and kind.lower().startswith(b"multipart/")
    return limits.upload_bytes if is_upload else limits.body_bytes


def _waits_to_send(scope: Scope) -> bool:
    """Whether nothing of the body comes before it was asked for."""
    return any(name == b"expect" for name, _ in scope["headers"])


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
