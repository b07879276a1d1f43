"""One question's way through the engine, whole or as a stream, and what ends it early."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from fastapi.responses import StreamingResponse

from openclara.server.asking import Event, Finished, Found, Piece
from openclara.server.failures import GONE, Failure, to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from typing import Any, Self

    from fastapi import Request
    from starlette.types import Receive, Scope, Send

    from openclara.index import LatentIndex
    from openclara.server.asking import Engine, Question
    from openclara.server.metrics import Metrics
    from openclara.types import Hit, Usage

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is written to its end."""

    text: str
    hits: tuple[Hit, ...]
    finished: Finished

    @property
    def usage(self) -> Usage:
        """What it cost."""
        return self.finished.usage


class Answering:
    """The events of one question.

    The engine is iterated by one task from the first event to the last, so that a client that
    reads slowly holds no place in it, and is left at once when `close` is called.
    """

    def __init__(
        self, engine: Engine, question: Question, index: LatentIndex, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._question = question
        self._index = index
        self._metrics = metrics
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.hits: tuple[Hit, ...] = ()

    async def start(self) -> Self:
        """Wait until there is something to answer from.

        Raises:
            OpenClaraError: The question cannot be answered.
        """
        self._task = asyncio.create_task(self._run())
        try:
            first = await self._next()
        except BaseException:
            await self.close()
            raise
        assert isinstance(first, Found)
        self.hits = first.hits
        return self

    async def events(self) -> AsyncIterator[Piece | Finished]:
        """What follows the hits.

        Raises:
            OpenClaraError: The answer was cut off.
        """
        while True:
            event = await self._next()
            if isinstance(event, Found):
                continue
            yield event
            if isinstance(event, Finished):
                self._metrics.answered(event.usage)
                return

    async def whole(self) -> Whole:
        """The answer, once it is written to its end."""
        text = ""
        try:
            async for event in self.events():
                if isinstance(event, Finished):
                    return Whole(text.strip(), self.hits, event)
                text += event.text
        finally:
            await self.close()
        raise AssertionError("the engine ended an answer without saying so")

    async def close(self) -> None:
        """Free its place in the engine; calling it again does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async for event in self._engine.ask(self._question, self._index):
                self._events.put_nowait(event)
        except Exception as error:
            self._events.put_nowait(error)

    async def _next(self) -> Event:
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


class Closing(Protocol):
    """What holds a place in the engine."""

    async def close(self) -> None:
        """Free it."""


class EventStream(StreamingResponse):
    """Server-sent events of an answer, whose place is freed however the stream ends."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[bytes], answering: Closing) -> None:
        # Proxies that collect a response before they pass it on would undo the streaming.
        super().__init__(lines, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it until it ends or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._answering.close())


def data_line(content: Any) -> bytes:
    """An event without a name."""
    return b"data: " + to_json(content) + b"\n\n"


def event_line(name: str, content: Any) -> bytes:
    """A named event."""
    return b"event: " + name.encode() + b"\n" + data_line(content)


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do something for a client, and stop when it is gone.

    Raises:
        Failure: It is.
    """
    task = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([task, watching], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Failure(GONE, "the client left")
    finally:
        task.cancel()
        watching.cancel()
        await asyncio.wait([task, watching])


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
