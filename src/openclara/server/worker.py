"""The thread that owns the model: one round after another."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from openclara.errors import ConfigError, OpenClaraError
from openclara.model.continuous import DecodingBatch
from openclara.server.admission import stopped
from openclara.server.asking import Finished, Found
from openclara.server.chores import fail
from openclara.server.looking import look_up

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from openclara.pipeline.clara import Clara
    from openclara.server.admission import Admission
    from openclara.server.asking import Event
    from openclara.server.underway import Underway

log = logging.getLogger(__name__)

LOOKUPS = 16
"""Questions that are searched for in one round."""

PROMPT_POSITIONS = 1024
"""Positions of prompts that are read in one round; a longer prompt is read alone."""

LONG_PROMPT = 512
"""Longer prompts are written in a batch of their own: all rows of a batch are as wide as one."""

LONG_ROWS = 8
"""Rows of that batch."""

MOST_FAILURES = 3
"""Failing passes one after another from which the model counts as gone."""


class Worker:
    """Answers questions, searches and does chores, in rounds.

    A round takes new questions, searches for them together, reads a few prompts, writes one token
    of every answer and does one turn of a chore.

    Args:
        clara: The model; nobody else may use it while the worker runs.
        admission: Where requests come from.

    Raises:
        ModelError: The base cannot be decoded with in a batch that changes.
    """

    def __init__(self, clara: Clara, admission: Admission) -> None:
        self._clara, self._admission = clara, admission
        self._reading: list[Underway] = []
        self.batches = (DecodingBatch(clara.model), DecodingBatch(clara.model))
        """Answers from short and from long prompts."""
        self.tokens = self.steps = 0
        """Written and done since the start."""
        self._outgoing: list[tuple[Underway, Event | Exception]] = []
        self._failures = MOST_FAILURES
        self._thread = threading.Thread(target=self._run, name="openclara-engine", daemon=True)
        self._thread.start()

    @property
    def works(self) -> bool:
        """Whether the model is loaded and has not failed again and again."""
        return self._failures < MOST_FAILURES and self._thread.is_alive()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the end of the thread, which comes when the admission is closed."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._warm_up()
            while self._admission.wait():
                for underway in [one for one in self._admission.running if one.gone]:
                    self._release(underway)
                self._look_up()
                self._read()
                self._step()
                self._do_chore()
        except Exception:
            log.exception("the engine has stopped")
        finally:
            self._end()

    def _warm_up(self) -> None:
        """Make the roles ready before the first caller waits for them."""
        try:
            self._clara.reason(["Is it ready?"])
            with self._clara.model.roles.use("generator"):
                self._failures = 0
        except Exception:
            log.exception("the model does not work")

    # -- one round --------------------------------------------------------------------------------

    def _look_up(self) -> None:
        """Take new questions and searches, and find what they ask for."""
        asked, searched = self._admission.take(LOOKUPS)
        lookups = [one.lookup for one in asked if one.lookup]
        look_up(self._clara, [*lookups, *(own for own, _ in searched)])
        for own, future in searched:
            if own.error is not None:
                fail(future, _sentence(own.error))
            elif future.set_running_or_notify_cancel():
                future.set_result(own.hits)
        for underway in asked:
            self._prepare(underway)
        self._send()

    def _prepare(self, underway: Underway) -> None:
        """Make the prompt of what was found."""
        lookup = underway.lookup
        try:
            if lookup is not None and lookup.error is not None:
                raise lookup.error
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
        chosen = self._next_prompts()
        self._reading = [one for one in self._reading if one not in chosen]
        short = [one for one in chosen if one.n_prompt <= LONG_PROMPT]
        long = [one for one in chosen if one.n_prompt > LONG_PROMPT]
        for batch, own in zip(self.batches, (short, long), strict=True):
            self._join(batch, own)
        self._hand_out(chosen)

    def _next_prompts(self) -> list[Underway]:
        chosen: list[Underway] = []
        left, n_long = PROMPT_POSITIONS, len(self.batches[1])
        for underway in self._reading:
            is_long = underway.n_prompt > LONG_PROMPT
            if is_long and n_long >= LONG_ROWS:
                continue
            # In their order: one that is passed over again and again would never be read.
            if chosen and underway.n_prompt > left:
                break
            chosen.append(underway)
            left -= underway.n_prompt
            n_long += is_long
        return chosen

    def _join(self, batch: DecodingBatch, chosen: Sequence[Underway]) -> None:
        """Read some prompts, each alone if that fails for all together."""
        if not chosen:
            return
        entries = [one.enter(self._clara.tokenizer.stop_ids) for one in chosen]
        try:
            batch.join(entries)
            self._failures = 0
        except Exception as error:
            for entry in entries:
                batch.leave(entry)
            if len(chosen) == 1:
                self._failures += 1
                self._fail(chosen[0], error)
                return
            for one in chosen:
                self._join(batch, [one])

    def _step(self) -> None:
        """Write one token of every answer."""
        for batch in self.batches:
            entries = set(batch.entries)
            if not entries:
                continue
            answers = [one for one in self._admission.running if one.entry in entries]
            try:
                batch.step()
                self._failures = 0
            except Exception as error:
                self._failures += 1
                for one in answers:
                    self._fail(one, error)
                continue
            self.steps += 1
            self._hand_out(answers)
        self._send()

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
            self.tokens += n_new
            self._outgoing += [(underway, event) for event in events]
            if events and isinstance(events[-1], Finished):
                self._release(underway, answered=True)
        self._send()

    def _do_chore(self) -> None:
        chore = self._admission.take_chore()
        if chore is None:
            return
        try:
            if not chore.turn(self._clara):
                self._admission.put_back(chore)
        except Exception as error:
            fail(chore.future, _sentence(error))

    # -- ends -------------------------------------------------------------------------------------

    def _fail(self, underway: Underway, error: Exception) -> None:
        self._outgoing.append((underway, _sentence(error)))
        self._release(underway)

    def _release(self, underway: Underway, *, answered: bool = False) -> None:
        self._admission.release(underway, answered=answered)
        if underway in self._reading:
            self._reading.remove(underway)
        if underway.entry is not None:
            for batch in self.batches:
                batch.leave(underway.entry)

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
        asked, searched, chores = self._admission.end()
        self._reading.clear()
        for batch in self.batches:
            for entry in batch.entries:
                batch.leave(entry)
        for future in (*searched, *(chore.future for chore in chores)):
            fail(future, stopped())
        self._outgoing += [(underway, stopped()) for underway in asked]
        self._send()


def _sentence(error: Exception) -> OpenClaraError:
    """The error as the caller may see it."""
    if isinstance(error, OpenClaraError):
        return error
    log.error("a request failed", exc_info=error)
    return OpenClaraError(
        f"the request failed inside the service ({type(error).__name__}); try again, and look into "
        "its log if it fails again"
    )


def _deliver(events: Sequence[tuple[Underway, Event | Exception]]) -> None:
    for underway, event in events:
        underway.events.put_nowait(event)
