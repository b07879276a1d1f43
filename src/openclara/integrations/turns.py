"""One model asked from several threads, one step at a time, with answers that end at given texts.

Frameworks call from pools of threads. A model switches roles between its steps, so two threads must
not be in it at once; between two steps of one answer another may have its turn.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from openclara.model.generator import Decoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openclara.index import AddReport, LatentIndex
    from openclara.pipeline import AnswerStream, Clara
    from openclara.types import Answer, Context, Document, Hit, Mode

_locks: WeakKeyDictionary[object, threading.Lock] = WeakKeyDictionary()
_making = threading.Lock()


def lock_of(clara: Clara) -> threading.Lock:
    """The lock of a model; copies of a `Clara` that share the model share it."""
    with _making:
        return _locks.setdefault(clara.model, threading.Lock())


class Turns:
    """An answer being written; iterate it for its text.

    Joined, the pieces are the text of `answer`, without blanks at its ends and without what stands
    behind the first of the stops.
    """

    def __init__(
        self, stream: AnswerStream, lock: threading.Lock, stops: Sequence[str], most: int
    ) -> None:
        """Use `stream`."""
        self._stream, self._lock, self._most = stream, lock, most
        self._stops = [stop for stop in stops if stop]
        # The start of a stop may be the end of a piece.
        self._kept = max((len(stop) for stop in self._stops), default=1) - 1
        self._stopped = False
        self._shown: list[str] = []
        self._writing = self._write()

    @property
    def hits(self) -> tuple[Hit, ...]:
        """What is being answered from; there before the first piece."""
        return self._stream.hits

    @property
    def answer(self) -> Answer:
        """The answer as far as it was given out."""
        return replace(self._stream.answer, text="".join(self._shown))

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """`length` where the answer was cut at `max_new_tokens`."""
        cut = self._stream.answer.usage.completion_tokens >= self._most
        return "length" if cut and not self._stopped else "stop"

    def __iter__(self) -> Iterator[str]:
        """Pieces of text that are not empty; iterated again, those that are left."""
        return self._writing

    def _write(self) -> Iterator[str]:
        waiting = ""
        for piece in self._pieces():
            waiting = waiting + piece if self._shown else (waiting + piece).lstrip()
            # The one that is whole first, so that it does not matter how the text comes in pieces.
            found = [
                (at + len(stop), at) for stop in self._stops if (at := waiting.find(stop)) >= 0
            ]
            if found:
                waiting, self._stopped = waiting[: min(found)[1]], True
                break
            ready = waiting[: max(0, len(waiting) - self._kept)].rstrip()
            if ready:
                waiting = waiting[len(ready) :]
                self._shown.append(ready)
                yield ready
        if rest := waiting.rstrip():
            self._shown.append(rest)
            yield rest

    def _pieces(self) -> Iterator[str]:
        pieces = iter(self._stream)
        while True:
            with self._lock:
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def finished(self) -> Answer:
        """Write the rest, and give the whole answer."""
        for _ in self:
            pass
        return self.answer


def search(
    clara: Clara,
    index: LatentIndex,
    question: str,
    *,
    k: int,
    mode: Mode,
    where: Sequence[str],
    n_memory: int | None,
) -> list[Hit]:
    """As `Clara.search`, from any thread."""
    with lock_of(clara):
        return clara.search(question, index, k=k, mode=mode, where=where, n_memory=n_memory)


def stream(
    clara: Clara,
    index: LatentIndex,
    question: str,
    *,
    k: int | None,
    context: Context = "latents",
    mode: Mode = "hybrid",
    where: Sequence[str] = (),
    n_memory: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    stops: Sequence[str] = (),
) -> Turns:
    """As `Clara.stream`, from any thread; the answer ends before the first of `stops`.

    Raises:
        OpenClaraError: As `Clara.ask`.
    """
    lock = lock_of(clara)
    with lock:
        started = clara.stream(
            question, index, k=k, context=context, mode=mode, where=where, n_memory=n_memory,
            decoding=decoding,
        )  # fmt: skip
    return Turns(started, lock, stops, decoding.max_new_tokens)


def add(clara: Clara, index: LatentIndex, documents: Sequence[Document]) -> AddReport:
    """Compress a few documents into an index, from any thread."""
    with lock_of(clara):
        return index.add(clara.compress(documents))
