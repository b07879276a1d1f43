"""The engine behind the service: one model on one thread for many callers on an event loop."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from openclara.errors import ConfigError, TimedOut
from openclara.server.admission import Admission, stopped
from openclara.server.asking import Finished, Load, Question
from openclara.server.chores import Doing, Encoding, SharedCompressing
from openclara.server.looking import Lookup
from openclara.server.underway import Underway
from openclara.server.worker import Worker
from openclara.types import Context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from torch import Tensor

    from openclara.index import LatentIndex
    from openclara.pipeline.clara import Clara
    from openclara.server.asking import Event
    from openclara.types import Document, Hit, Mode

Result = TypeVar("Result")

SEEDS = range(-(2**63), 2**64)
"""What a source of chance can be made of."""


class ClaraEngine:
    """Answers many questions at once with one model; see `Engine` for what is promised.

    Questions are searched for together and decoded in one batch that they join and leave between
    steps, so that an answer does not wait for a longer one to end.

    Args:
        clara: The model. The engine's thread uses it from now on; use it through `run`.
        max_batch: Questions that are answered at once.
        max_waiting: Requests that wait beyond these; more are refused.
        timeout_s: How long a question may take that does not say it itself.

    Raises:
        ModelError: The base cannot be decoded with in a batch that changes.
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        clara: Clara,
        *,
        max_batch: int = 32,
        max_waiting: int = 64,
        timeout_s: float = 60.0,
    ) -> None:
        if max_batch < 1 or max_waiting < 0 or not timeout_s > 0:
            raise ConfigError(
                f"max_batch is {max_batch}, max_waiting {max_waiting} and timeout_s {timeout_s}; "
                "give at least 1, 0 and more than 0"
            )
        self.clara = clara
        self._timeout_s = timeout_s
        self._admission = Admission(max_batch=max_batch, max_waiting=max_waiting)
        self._worker = Worker(clara, self._admission)
        # One writer at a time is all that an index takes, and one thread keeps their order.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="openclara-writer")

    @property
    def load(self) -> Load:
        """What it is doing."""
        admission, worker = self._admission, self._worker
        return Load(
            waiting=admission.n_waiting,
            running=admission.n_running,
            answered=admission.answered,
            refused=admission.refused,
            cancelled=admission.cancelled,
            tokens=worker.tokens,
            steps=worker.steps,
        )

    @property
    def ready(self) -> bool:
        """Whether the model works and questions are taken."""
        return self._worker.works and not self._admission.closing

    async def ask(self, question: Question, index: LatentIndex) -> AsyncIterator[Event]:
        """`Found`, then `Piece`s, then `Finished`; the question is taken with the first step.

        Raises:
            DataError: The question is empty.
            IndexMismatch: The index was made by another model.
            ConfigError: A number, a filter or the context is wrong.
            Busy: There is no room for it.
            TimedOut: It took longer than it may.
            OpenClaraError: It failed, or the engine was closed.
        """
        self._check(question, index)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        underway = Underway(question, index, loop, events, k=self._k(question))
        self._admission.ask(underway)
        timeout_s = self._timeout_s if question.timeout_s is None else question.timeout_s
        timer = loop.call_later(timeout_s, self._expire, underway, timeout_s)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            timer.cancel()
            self._admission.leave(underway)

    async def search(
        self, question: str, index: LatentIndex, *, k: int, mode: Mode, where: Sequence[str]
    ) -> list[Hit]:
        """The k best stretches; concurrent searches and questions share one pass of the reasoner.

        Raises:
            DataError: The question is empty.
            IndexMismatch: The index was made by another model.
            ConfigError: A number or a filter is wrong.
            Busy: There is no room for it.
        """
        self.clara.check([question], index)
        future: Future[list[Hit]] = Future()
        self._admission.search(Lookup(question, index, k, mode, tuple(where)), future)
        return await asyncio.wrap_future(future)

    async def embed(self, texts: Sequence[str], role: Literal["compressor", "reasoner"]) -> Tensor:
        """(N, M, D) latents of texts as they are, cut to the model's length.

        Of a text that is too long a question keeps its end, a document its beginning.

        Raises:
            Busy: There is no room for it.
        """
        cut = self.clara.cut(texts) if role == "reasoner" else self._beginnings(texts)
        encoding = Encoding(cut, role)
        self._admission.do(encoding)
        return await asyncio.wrap_future(encoding.future)

    async def compress(self, documents: Iterable[Document], index: LatentIndex) -> int:
        """Compress into an index in small groups between decoding steps.

        What is returned is on the disk. If the caller leaves or something fails, documents that
        were committed stay, and the same call goes on from there.

        Returns:
            Documents that were not there as they are now: new ones and changed ones.

        Raises:
            DataError: A document cannot be stored.
            IndexMismatch: The index was made by another model.
            IndexBusy: Another process is writing to the index.
            Busy: The engine is closing.
        """
        self.clara.check([], index)
        wanted: Future[None] = Future()

        def encode(texts: list[str]) -> Tensor:
            if wanted.cancelled():
                raise stopped()
            encoding = Encoding(texts, "compressor")
            self._admission.do_for_job(encoding)
            return encoding.future.result()

        def write() -> int:
            report = index.add(SharedCompressing(self.clara, documents, encode))
            return report.added + report.updated

        self._admission.begin_job()
        job = self._writer.submit(write)
        job.add_done_callback(lambda done: self._admission.end_job())
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            wanted.cancel()
            raise

    async def run(self, work: Callable[[Clara], Result]) -> Result:
        """Use the model for something else, between two decoding steps: keep it short.

        Raises:
            Busy: There is no room for it.
        """
        doing = Doing(work)
        self._admission.do(doing)
        return await asyncio.wrap_future(doing.future)

    async def close(self, *, drain_s: float) -> None:
        """Take no more, finish what runs for at most that long, then stop."""
        await asyncio.to_thread(self._close, drain_s)

    def _close(self, drain_s: float) -> None:
        self._admission.close()
        self._worker.join(max(drain_s, 0.0))
        self._admission.close(cut=True)
        self._worker.join()
        self._writer.shutdown()

    def _expire(self, underway: Underway, timeout_s: float) -> None:
        if not underway.over and not underway.gone:
            self._admission.leave(underway)
            underway.events.put_nowait(
                TimedOut(
                    f"the question took longer than {timeout_s:g} s; try again later, or ask for "
                    "a shorter answer"
                )
            )

    def _check(self, question: Question, index: LatentIndex) -> None:
        self.clara.check([question.text, question.prompt or question.text], index)
        if question.context not in get_args(Context):
            names = ", ".join(get_args(Context))
            raise ConfigError(f"context is {question.context!r}; use one of {names}")
        if question.max_new_tokens < 1:
            raise ConfigError(
                f"max_new_tokens is {question.max_new_tokens}; ask for at least one token"
            )
        if not 0 <= question.temperature < math.inf or not 0 <= question.top_p <= 1:
            raise ConfigError(
                f"temperature is {question.temperature} and top_p {question.top_p}; use a finite "
                "number from 0 and one from 0 to 1"
            )
        if question.seed is not None and question.seed not in SEEDS:
            raise ConfigError(f"the seed {question.seed} is too large; use one of 63 bits")

    def _k(self, question: Question) -> int:
        return self.clara.card.top_k if question.k is None else question.k

    def _beginnings(self, texts: Sequence[str]) -> list[str]:
        most = self.clara.card.doc_max_length
        spans = self.clara.tokenizer.offsets(texts)
        return [
            text[: own[most - 1][1]] if len(own) > most else text
            for text, own in zip(texts, spans, strict=True)
        ]


def _protocol(engine: ClaraEngine) -> Any:
    """Have the type checker compare the engine with what the service asks of one."""
    from openclara.server.asking import Engine

    checked: Engine = engine
    return checked
