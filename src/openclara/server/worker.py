"""The thread that owns the model: what waits, and one round after another."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING

from openclara.errors import Busy, ConfigError, OpenClaraError
from openclara.model.continuous import DecodingBatch
from openclara.server.asking import Finished, Found, Load
from openclara.server.chores import fail
from openclara.server.looking import look_up

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from concurrent.futures import Future

    from openclara.pipeline.clara import Clara
    from openclara.server.asking import Event
    from openclara.server.chores import Chore
    from openclara.server.looking import Lookup
    from openclara.server.underway import Underway
    from openclara.types import Hit

log = logging.getLogger(__name__)

LOOKUPS = 16
"""Questions that are searched for in one round."""

PROMPT_POSITIONS = 1024
"""Positions of prompts that are read in one round; a longer prompt is read alone."""

LONG_PROMPT = 512
"""Longer prompts are written in a batch of their own: in a batch all rows are as wide as one."""

LONG_ROWS = 8
"""Rows of that batch."""

RATE_OVER = 32
"""Answers over which the rate of answering is taken."""

MOST_FAILURES = 3
"""Failures one after another from which the model counts as gone."""


class Worker:
    """Answers questions, searches and does chores, in rounds.

    A round takes new questions, searches for them together, reads a few prompts, writes one token
    of every answer and does one turn of a chore. All but the methods named with an underscore may
    be called from any thread.

    Args:
        clara: The model; nobody else may use it while the worker runs.
        max_batch: Questions that are answered at once.
        max_waiting: Questions that wait beyond these.

    Raises:
        ModelError: The base cannot be decoded with in a batch that changes.
    """

    def __init__(self, clara: Clara, *, max_batch: int, max_waiting: int) -> None:
        self._clara = clara
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Underway] = deque()
        self._lookups: deque[tuple[Lookup, Future[list[Hit]]]] = deque()
        self._chores: deque[Chore] = deque()
        self._jobs = 0
        self._stopping = self._cut = self._ended = False
        # From here on the worker's own; others only take lengths and numbers.
        self._running: dict[Underway, None] = {}
        self._reading: list[Underway] = []
        self._batches = (DecodingBatch(clara.model), DecodingBatch(clara.model))
        self._outgoing: list[tuple[Underway, Event | Exception]] = []
        self._finished: deque[float] = deque(maxlen=RATE_OVER)
        self._failures = MOST_FAILURES
        self._answered = self._refused = self._cancelled = self._tokens = self._steps = 0
        self._thread = threading.Thread(target=self._run, name="openclara-engine", daemon=True)
        self._thread.start()

    # -- for callers ------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the model works and questions are taken."""
        return self._failures < MOST_FAILURES and not self._stopping and self._thread.is_alive()

    @property
    def load(self) -> Load:
        """What it is doing."""
        return Load(
            waiting=len(self._waiting),
            running=len(self._running),
            answered=self._answered,
            refused=self._refused,
            cancelled=self._cancelled,
            tokens=self._tokens,
            steps=self._steps,
        )

    def ask(self, underway: Underway) -> None:
        """Take a question.

        Raises:
            Busy: There is no room for it.
        """
        with self._changed:
            self._check_room()
            self._waiting.append(underway)
            self._changed.notify()

    def leave(self, underway: Underway) -> None:
        """Nobody waits for it any more."""
        with self._changed:
            if underway.over or underway.gone:
                return
            underway.gone = True
            if underway in self._waiting:
                self._waiting.remove(underway)
                self._cancelled += 1
            self._changed.notify()

    def search(self, lookup: Lookup, future: Future[list[Hit]]) -> None:
        """Take a search.

        Raises:
            Busy: There is no room for it.
        """
        with self._changed:
            self._check_room()
            self._lookups.append((lookup, future))
            self._changed.notify()

    def do(self, chore: Chore, *, bounded: bool = True) -> None:
        """Take a chore.

        Args:
            chore: What to do.
            bounded: Whether it may be refused for want of room.

        Raises:
            Busy: There is no room for it.
            OpenClaraError: The worker has stopped.
        """
        with self._changed:
            if bounded:
                self._check_room()
            elif self._ended or self._cut:
                raise stopped()
            self._chores.append(chore)
            self._changed.notify()

    def begin_job(self) -> None:
        """Say that chores will come for a while, so that a stop waits for them.

        Raises:
            Busy: It is stopping.
        """
        with self._changed:
            self._check_open()
            self._jobs += 1

    def end_job(self) -> None:
        """Say that no more chores will come of a job."""
        with self._changed:
            self._jobs -= 1
            self._changed.notify()

    def stop(self, *, drain_s: float) -> None:
        """Take no more, finish what is under way for so long, then fail the rest. Blocks."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(max(drain_s, 0.0))
        with self._changed:
            self._cut = True
            self._changed.notify()
        self._thread.join()

    def _check_room(self) -> None:
        self._check_open()
        n_ahead = len(self._waiting) + len(self._lookups) + len(self._chores)
        beyond = n_ahead + len(self._running) - self._max_batch - self._max_waiting
        if beyond >= 0:
            self._refused += 1
            wait_s = self._wait_s(n_ahead)
            raise Busy(
                f"{n_ahead} requests are waiting already; ask again in {wait_s:.0f} s", wait_s
            )

    def _check_open(self) -> None:
        if self._ended and not self._stopping:
            raise OpenClaraError("the model has failed and answers no more; restart the service")
        if self._stopping:
            raise Busy("the service is stopping; ask again when it is back", 10.0)

    def _wait_s(self, n_ahead: int) -> float:
        """Seconds until so many have had their turn, at the rate of the last answers."""
        if len(self._finished) < 2:
            return 1.0
        rate = len(self._finished) / max(time.monotonic() - self._finished[0], 1e-3)
        return min(max(1.0, (n_ahead - self._max_waiting + 1) / rate), 60.0)

    # -- rounds -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._warm_up()
            while self._has_work():
                self._drop_gone()
                self._look_up()
                self._read()
                self._step()
                self._do_chore()
                self._send()
        except Exception:
            log.exception("the engine has stopped")
            self._failures = MOST_FAILURES
        finally:
            self._end()

    def _warm_up(self) -> None:
        """Make the roles ready before the first caller waits for them."""
        try:
            self._clara.reason(["Is it ready?"])
            self._failures = 0
        except Exception:
            log.exception("the model does not work")

    def _has_work(self) -> bool:
        """Wait for something to do; False when all is done that will be."""
        with self._changed:
            while True:
                if self._cut:
                    return False
                if self._waiting or self._lookups or self._chores or self._running:
                    return True
                if self._stopping and not self._jobs:
                    return False
                self._changed.wait()

    def _drop_gone(self) -> None:
        for underway in [one for one in self._running if one.gone]:
            self._cancelled += 1
            self._forget(underway)

    def _look_up(self) -> None:
        """Take new questions and searches, and find what they ask for."""
        with self._changed:
            n_free = min(LOOKUPS, self._max_batch - len(self._running), len(self._waiting))
            asked = [self._waiting.popleft() for _ in range(n_free)]
            self._running.update(dict.fromkeys(asked))
            n_more = min(LOOKUPS - n_free, len(self._lookups))
            searched = [self._lookups.popleft() for _ in range(n_more)]
        searched = [(own, future) for own, future in searched if not future.cancelled()]
        look_up(
            self._clara,
            [one.lookup for one in asked if one.lookup] + [own for own, _ in searched],
        )
        for own, future in searched:
            if own.error is not None:
                fail(future, self._sentence(own.error))
            elif future.set_running_or_notify_cancel():
                future.set_result(own.hits)
        for underway in asked:
            self._prepare(underway)
        self._send()

    def _prepare(self, underway: Underway) -> None:
        lookup = underway.lookup
        if lookup is not None and lookup.error is not None:
            self._fail(underway, lookup.error)
            return
        try:
            underway.prepare(self._clara)
            self._check_length(underway)
        except Exception as error:
            self._fail(underway, error)
            return
        self._outgoing.append((underway, Found(tuple(lookup.hits if lookup else ()))))
        self._reading.append(underway)

    def _check_length(self, underway: Underway) -> None:
        most = getattr(self._clara.model.lm.config, "max_position_embeddings", None)
        if most is not None and underway.n_prompt + underway.question.max_new_tokens > most:
            raise ConfigError(
                f"the question with what it is answered from is {underway.n_prompt} tokens, and "
                f"this model reads and writes {most}; ask for fewer passages or a shorter answer"
            )

    def _read(self) -> None:
        """Read the next prompts, as many as a round may take, and write their first tokens."""
        chosen: list[Underway] = []
        left = PROMPT_POSITIONS
        n_long = len(self._batches[1])
        for underway in self._reading:
            if underway.n_prompt > LONG_PROMPT and n_long >= LONG_ROWS:
                continue
            if chosen and underway.n_prompt > left:
                break
            chosen.append(underway)
            left -= underway.n_prompt
            n_long += underway.n_prompt > LONG_PROMPT
        if not chosen:
            return
        self._reading = [one for one in self._reading if one not in chosen]
        for batch, own in zip(self._batches, _by_length(chosen), strict=True):
            self._join(batch, own)
        self._hand_out(chosen)

    def _join(self, batch: DecodingBatch, chosen: Sequence[Underway]) -> None:
        """Read some prompts, each alone if that fails for all together."""
        if not chosen:
            return
        entries = [one.enter(self._clara.tokenizer.stop_ids) for one in chosen]
        try:
            batch.join(entries)
        except Exception as error:
            for entry in entries:
                batch.leave(entry)
            if len(chosen) == 1:
                self._failures += 1
                self._fail(chosen[0], error)
                return
            for one in chosen:
                self._join(batch, [one])
        else:
            self._failures = 0

    def _step(self) -> None:
        """Write one token of every answer."""
        for batch in self._batches:
            entries = batch.entries
            if not entries:
                continue
            mine = [one for one in self._running if one.entry in entries]
            try:
                batch.step()
            except Exception as error:
                self._failures += 1
                for one in mine:
                    self._fail(one, error)
                continue
            self._failures = 0
            self._steps += 1
            self._hand_out(mine)

    def _hand_out(self, answers: Sequence[Underway]) -> None:
        """Tell callers what was written."""
        for underway in answers:
            if underway.over or underway.gone:
                continue
            try:
                n_new, events = underway.written(self._clara)
            except Exception as error:
                self._fail(underway, error)
                continue
            self._tokens += n_new
            self._outgoing += [(underway, event) for event in events]
            if events and isinstance(events[-1], Finished):
                self._answered += 1
                self._finished.append(time.monotonic())
                self._forget(underway)
        self._send()

    def _do_chore(self) -> None:
        with self._changed:
            chore = self._chores.popleft() if self._chores else None
        if chore is None or chore.future.cancelled():
            return
        try:
            done = chore.turn(self._clara)
        except Exception as error:
            fail(chore.future, self._sentence(error))
            return
        if not done:
            with self._changed:
                self._chores.append(chore)

    # -- ends -------------------------------------------------------------------------------------

    def _forget(self, underway: Underway) -> None:
        """Its place is free."""
        underway.over = True
        del self._running[underway]
        if underway in self._reading:
            self._reading.remove(underway)
        if underway.entry is not None:
            for batch in self._batches:
                batch.leave(underway.entry)

    def _fail(self, underway: Underway, error: Exception) -> None:
        self._outgoing.append((underway, self._sentence(error)))
        self._forget(underway)

    def _sentence(self, error: Exception) -> OpenClaraError:
        """The error as the caller may see it."""
        if isinstance(error, OpenClaraError):
            return error
        log.error("a request failed", exc_info=error)
        return OpenClaraError(
            f"the request failed inside the service ({type(error).__name__}); try again, and look "
            "into its log if it fails again"
        )

    def _send(self) -> None:
        """Bring events to the loops where callers wait, all of one loop at once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Underway, Event | Exception]]]
        by_loop = defaultdict(list)
        for underway, event in self._outgoing:
            by_loop[underway.loop].append((underway, event))
        self._outgoing = []
        for loop, events in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed, and its callers with it
                for underway, _ in events:
                    underway.gone = True

    def _end(self) -> None:
        """Fail whatever is left."""
        with self._changed:
            self._ended = True
            left = [*self._running, *self._waiting]
            futures = [future for _, future in self._lookups]
            futures += [chore.future for chore in self._chores]
            self._waiting.clear()
            self._lookups.clear()
            self._chores.clear()
            for underway in left:
                underway.over = True
        self._running.clear()
        self._reading.clear()
        self._cancelled += len(left)
        for batch in self._batches:
            for entry in batch.entries:
                batch.leave(entry)
        for future in futures:
            fail(future, stopped())
        self._outgoing += [(underway, stopped()) for underway in left]
        self._send()


def stopped() -> OpenClaraError:
    """What is said to those whose work was cut off."""
    return OpenClaraError("the service has stopped before this was done; ask again when it is back")


def _by_length(chosen: Sequence[Underway]) -> tuple[list[Underway], list[Underway]]:
    short = [one for one in chosen if one.n_prompt <= LONG_PROMPT]
    return short, [one for one in chosen if one.n_prompt > LONG_PROMPT]


def _deliver(events: Sequence[tuple[Underway, Event | Exception]]) -> None:
    for underway, event in events:
        underway.events.put_nowait(event)
