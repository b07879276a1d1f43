"""Who waits, who is being answered, who is refused: what callers and the engine's thread share."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from openclara.errors import Busy, OpenClaraError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from openclara.server.chores import Chore
    from openclara.server.looking import Lookup
    from openclara.server.underway import Underway
    from openclara.types import Hit

    Searched = tuple[Lookup, Future[list[Hit]]]

RATE_OVER = 32
"""Answers over which the rate of answering is taken."""

LONGEST_WAIT_S = 60.0
"""Nobody is told to come back later than this."""


class Admission:
    """Requests on their way to the engine's thread; safe to use from any thread.

    Args:
        max_batch: Questions that are answered at once.
        max_waiting: Requests that wait beyond these; more are refused.
    """

    def __init__(self, *, max_batch: int, max_waiting: int) -> None:
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Underway] = deque()
        self._searched: deque[Searched] = deque()
        self._chores: deque[Chore] = deque()
        self._running: dict[Underway, None] = {}
        self._jobs = 0
        self._finished: deque[float] = deque(maxlen=RATE_OVER)
        self.closing = self._cut = self._ended = False
        self.answered = self.refused = self.cancelled = 0
        """Questions, since the start; `refused` counts other requests as well."""

    # -- for callers ------------------------------------------------------------------------------

    def ask(self, underway: Underway) -> None:
        """Take a question.

        Raises:
            Busy: There is no room for it.
            OpenClaraError: The engine has failed.
        """
        with self._changed:
            self._check_room()
            self._waiting.append(underway)
            self._changed.notify()

    def leave(self, underway: Underway) -> None:
        """Nobody waits for a question any more."""
        with self._changed:
            if underway.over or underway.gone:
                return
            underway.gone = True
            if underway in self._waiting:
                self._waiting.remove(underway)
                self.cancelled += 1
            self._changed.notify()

    def search(self, lookup: Lookup, future: Future[list[Hit]]) -> None:
        """Take a search; errors as in `ask`."""
        with self._changed:
            self._check_room()
            self._searched.append((lookup, future))
            self._changed.notify()

    def do(self, chore: Chore) -> None:
        """Take a chore; errors as in `ask`."""
        with self._changed:
            self._check_room()
            self._chores.append(chore)
            self._changed.notify()

    def begin_job(self) -> None:
        """Say that chores will come for a while, so that closing waits for them.

        Raises:
            Busy: It is closing.
            OpenClaraError: The engine has failed.
        """
        with self._changed:
            self._check_open()
            self._jobs += 1

    def do_for_job(self, chore: Chore) -> None:
        """Take a chore of a job, also when there is no room for others.

        Raises:
            OpenClaraError: The engine has stopped.
        """
        with self._changed:
            if self._ended or self._cut:
                raise stopped()
            self._chores.append(chore)
            self._changed.notify()

    def end_job(self) -> None:
        """Say that no more chores will come of a job."""
        with self._changed:
            self._jobs -= 1
            self._changed.notify()

    def close(self, *, cut: bool = False) -> None:
        """Take no more; with `cut`, also finish nothing more."""
        with self._changed:
            self.closing, self._cut = True, self._cut or cut
            self._changed.notify()

    @property
    def n_waiting(self) -> int:
        """Questions that wait."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Questions that are being answered."""
        return len(self._running)

    def _check_room(self) -> None:
        self._check_open()
        n_ahead = len(self._waiting) + len(self._searched) + len(self._chores)
        beyond = n_ahead + len(self._running) - self._max_batch - self._max_waiting
        if beyond < 0:
            return
        self.refused += 1
        wait_s = 1.0
        if len(self._finished) > 1:
            rate = len(self._finished) / max(time.monotonic() - self._finished[0], 1e-3)
            wait_s = min(max(1.0, (beyond + 1) / rate), LONGEST_WAIT_S)
        raise Busy(f"{n_ahead} requests are waiting already; ask again in {wait_s:.0f} s", wait_s)

    def _check_open(self) -> None:
        if self.closing:
            raise Busy("the service is stopping; ask again when it is back", 10.0)
        if self._ended:
            raise OpenClaraError("the model has failed and answers no more; restart the service")

    # -- for the engine's thread ------------------------------------------------------------------

    def wait(self) -> bool:
        """Wait for something to do; False when all is done that will be."""
        with self._changed:
            while not self._cut:
                if self._waiting or self._searched or self._chores or self._running:
                    return True
                if self.closing and not self._jobs:
                    return False
                self._changed.wait()
            return False

    def take(self, most: int) -> tuple[list[Underway], list[Searched]]:
        """Questions there is a place for, now being answered, and searches somebody waits for."""
        with self._changed:
            n_asked = min(most, self._max_batch - len(self._running), len(self._waiting))
            asked = [self._waiting.popleft() for _ in range(n_asked)]
            self._running.update(dict.fromkeys(asked))
            n_searched = min(most - n_asked, len(self._searched))
            searched = [self._searched.popleft() for _ in range(n_searched)]
        return asked, [one for one in searched if not one[1].cancelled()]

    def take_chore(self) -> Chore | None:
        """The next chore that somebody waits for."""
        with self._changed:
            while self._chores:
                chore = self._chores.popleft()
                if not chore.future.cancelled():
                    return chore
        return None

    def put_back(self, chore: Chore) -> None:
        """A chore that needs more turns, behind the others."""
        with self._changed:
            self._chores.append(chore)

    @property
    def running(self) -> list[Underway]:
        """Questions that are being answered."""
        return list(self._running)

    def release(self, underway: Underway, *, answered: bool = False) -> None:
        """Free the place of a question, whose last event is on its way."""
        with self._changed:
            underway.over = True
            del self._running[underway]
            if answered:
                self.answered += 1
                self._finished.append(time.monotonic())
            elif underway.gone:
                self.cancelled += 1

    def end(self) -> tuple[list[Underway], list[Future[list[Hit]]], list[Chore]]:
        """Take nothing any more; what is left unfinished."""
        with self._changed:
            self._ended = True
            asked = [*self._running, *self._waiting]
            searched = [future for _, future in self._searched]
            chores = list(self._chores)
            for underway in asked:
                underway.over = True
            self.cancelled += len(asked)
            for held in (self._running, self._waiting, self._searched, self._chores):
                held.clear()
        return asked, searched, chores


def stopped() -> OpenClaraError:
    """What is said to those whose work was cut off."""
    return OpenClaraError("the service has stopped before this was done; ask again when it is back")
