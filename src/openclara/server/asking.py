"""What the service is asked for and what it gives back: the line between HTTP and the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from torch import Tensor

    from openclara.index import LatentIndex
    from openclara.pipeline import Clara
    from openclara.types import Context, Document, Hit, Mode, Usage

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Question:
    """One question to one index.

    Attributes:
        text: What is searched for, and asked unless `prompt` is given.
        prompt: What the generator is asked where that differs, such as a question in the words of
            an earlier turn; empty means `text`.
        k: Stretches to answer from; as many as is best for the model if None.
        context: Latents, their full text, or nothing.
        mode: How to search.
        where: Filters such as `year>=2020`.
        n_memory: Latents of each stretch; all that are stored if None.
        max_new_tokens: Most tokens of the answer.
        temperature: 0 is greedy.
        top_p: As in `Decoding`.
        seed: Makes sampling repeatable, whatever it is batched with.
        stop: Texts that end the answer; they are not part of it.
        timeout_s: From the call to the last token; None leaves it to the engine's own.
    """

    text: str
    prompt: str = ""
    k: int | None = None
    context: Context = "latents"
    mode: Mode = "hybrid"
    where: tuple[str, ...] = ()
    n_memory: int | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """First event: what is being answered from."""

    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event. `length` means that `max_new_tokens` was reached."""

    reason: Literal["stop", "length"]
    usage: Usage


Event = Found | Piece | Finished


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine is doing.

    Attributes:
        waiting: Questions that are queued.
        running: Questions that are being answered.
        answered: Since the start.
        refused: For want of room, since the start.
        cancelled: Since the start, timeouts included.
        tokens: Written since the start.
        steps: Decoding steps since the start; tokens / steps is the mean batch.
    """

    waiting: int = 0
    running: int = 0
    answered: int = 0
    refused: int = 0
    cancelled: int = 0
    tokens: int = 0
    steps: int = 0


class Engine(Protocol):
    """Runs one model on one thread for many callers on an event loop.

    Errors of the user (empty question, wrong filter, another model's index) are raised as the
    library raises them, before the first event. Beyond the queue's bound `Busy` is raised at once,
    with the seconds after which to try again; a question over its time raises `TimedOut`. Leaving
    the iterator early, or cancelling the task that iterates, frees the question's place.
    """

    def ask(self, question: Question, index: LatentIndex) -> AsyncIterator[Event]:
        """`Found`, then `Piece`s, then `Finished`."""

    async def search(
        self, question: str, index: LatentIndex, *, k: int, mode: Mode, where: Sequence[str]
    ) -> list[Hit]:
        """The k best stretches; concurrent ones share one pass of the reasoner."""

    async def embed(self, texts: Sequence[str], role: Literal["compressor", "reasoner"]) -> Tensor:
        """(N, M, D) latents of texts as they are, cut to the model's length."""

    async def compress(self, documents: Sequence[Document], index: LatentIndex) -> int:
        """Compress into an index in small groups between decoding steps; how many were new."""

    async def run(self, work: Callable[[Clara], Result]) -> Result:
        """Something short with the model itself, between decoding steps."""

    @property
    def load(self) -> Load:
        """What it is doing."""

    async def close(self, *, drain_s: float) -> None:
        """Take no more, finish what runs for at most that long, then stop."""
