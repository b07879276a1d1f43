"""What the engine's tests share: an index, a running engine, and a way to hold its thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from openclara.server.asking import Finished, Found, Piece, Question
from openclara.server.engine import ClaraEngine
from openclara.types import Document

if TYPE_CHECKING:
    from openclara.pipeline import Clara

DOCUMENTS = [
    Document("opera", "The opera house in Sydney was designed by Utzon.", "Opera house"),
    Document("river", "The river runs past the station. " * 6, "River"),
    Document("train", "Trains leave the station at nine.", metadata={"year": 1973}),
    Document("year", "It was in the year one thousand nine hundred and seventy three."),
]
QUESTIONS = ["Who designed the opera house?", "Where is the river?", "When did the train leave?"]


@asynccontextmanager
async def running(clara: Clara, **options):
    engine = ClaraEngine(clara, **options)
    try:
        yield engine
    finally:
        await engine.close(drain_s=0)


class Answered:
    """What came back for one question."""

    def __init__(self, events):
        self.hits = events[0].hits
        self.pieces = [event.text for event in events[1:-1]]
        self.text = "".join(self.pieces)
        self.reason, self.usage = events[-1].reason, events[-1].usage


async def answer(engine, question, index):
    if isinstance(question, str):
        question = Question(question)
    events = [event async for event in engine.ask(question, index)]
    assert isinstance(events[0], Found)
    assert isinstance(events[-1], Finished)
    assert all(isinstance(event, Piece) and event.text for event in events[1:-1])
    return Answered(events)


@asynccontextmanager
async def held(engine):
    """The engine's thread at a standstill between two rounds."""
    reached, release = threading.Event(), threading.Event()

    def wait(clara):
        reached.set()
        release.wait(60)

    holding = asyncio.create_task(engine.run(wait))
    await asyncio.to_thread(reached.wait, 60)
    try:
        yield
    finally:
        release.set()
        await holding


async def until(condition):
    """Let others go on until something is so; the test's own time limit ends a vain wait."""
    while not condition():
        await asyncio.sleep(0.001)
