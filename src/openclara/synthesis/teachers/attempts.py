"""One task at an endpoint: asked until there is a reply, no attempt left, or no sense in more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from openclara.synthesis.tasks import Reply, Spent
from openclara.synthesis.teachers.budget import Budget, Prices, added, estimated_tokens
from openclara.synthesis.teachers.faults import Fault, read_fault
from openclara.synthesis.teachers.manner import Manner
from openclara.synthesis.teachers.prompts import Request, write_request
from openclara.synthesis.teachers.reading import read_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from random import Random

    from openclara.synthesis.tasks import Task
    from openclara.synthesis.teachers.pacing import Backoff, Booking, Pace

LONGEST_WAIT_S = 600.0
"""A server that asks for a longer pause has closed for now."""

_GREEDY = ("answer", "judge_pair", "judge_paraphrase")
_GROWTH = 4
"""How many times the usual length a reply may have after one was cut off."""


class Stopped(Exception):  # noqa: N818 - an end, not always an error
    """No task can be done any more; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `EndpointTeacher` was given, and the address as it may be shown."""

    model: str
    where: str
    key_variable: str
    attempts: int
    timeout_s: float
    temperature: float
    seed: int
    max_tokens: int
    prices: Prices
    extra_body: Mapping[str, Any]
    lost_in_a_row: int


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote.

    Attributes:
        text: The message.
        finish: Why it ended.
        refusal: The model refused.
        tokens: Read and written; None where the server does not count.
    """

    text: str
    finish: str
    refusal: bool
    tokens: tuple[int, int] | None


@dataclass(slots=True)
class _Progress:
    """Where a task stands."""

    manner: Manner
    most: int
    failures: int = 0
    spent: Spent = field(default_factory=Spent)


class Attempts:
    """Requests of all tasks share what was learnt: limits, pauses, and how the server is asked.

    Args:
        settings: Of the teacher.
        budget: Charged for every request.
        pace: Says when a request may go out.
        backoff: Times between attempts.
        clock: Seconds that only grow.
        sleep: Waits for seconds.
        random: Spreads attempts.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        budget: Budget,
        pace: Pace,
        backoff: Backoff,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Random,
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._pace = pace
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._manner = Manner()
        self._end = ""
        self._answered_ever = False
        self._lost = 0

    async def carry_out(self, client: Any, task: Task) -> Reply:
        """Ask for one task.

        Raises:
            Stopped: Neither this task nor any other can be done.
        """
        request = write_request(task)
        progress = _Progress(self._manner, self._settings.max_tokens)
        while True:
            outcome = await self._attempt(client, task, request, progress)
            if isinstance(outcome, Written):
                reply = self._read(task, outcome, progress)
            else:
                reply = await self._handle(outcome, progress)
            if reply is not None:
                return replace(reply, spent=progress.spent)

    async def _attempt(
        self, client: Any, task: Task, request: Request, progress: _Progress
    ) -> Written | Fault:
        import openai

        prompt = request.system + request.user
        booking = await self._turn(estimated_tokens(prompt) + progress.most)
        if self._manner.changes > progress.manner.changes:
            progress.manner = self._manner
        greedy = task.kind in _GREEDY
        fields = progress.manner.fields(
            request,
            temperature=0.0 if greedy and not progress.failures else self._settings.temperature,
            # Repetitions and further attempts are to bring something else.
            seed=(self._settings.seed + 1000 * task.round + progress.failures) % 2**31,
            most=progress.most,
        )
        outcome: Written | Fault
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                completion = await client.chat.completions.create(
                    model=self._settings.model,
                    extra_body=dict(self._settings.extra_body),
                    **fields,
                )
            outcome = _read_completion(completion)
        # The client lets the errors of its JSON reader through.
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            outcome = read_fault(error, datetime.now(UTC))
        self._charge(outcome, prompt, booking, progress)
        return outcome

    async def _turn(self, tokens: int) -> Booking:
        """Wait until a request may go out."""
        self._check()
        booking = self._pace.book(self._clock(), tokens)
        while (wait := self._pace.wait_s(booking, self._clock())) > 0:
            await self._sleep(wait)
        # Others may have spent what was left, or met the end, while this one waited.
        self._check()
        return booking

    def _check(self) -> None:
        if self._end:
            raise Stopped(self._end)
        if used := self._budget.exhausted():
            self._stop(
                f"the teacher's budget is spent ({used}); raise it and run again to go on from here"
            )

    def _stop(self, sentence: str) -> None:
        self._end = sentence
        raise Stopped(sentence)

    def _charge(
        self, outcome: Written | Fault, prompt: str, booking: Booking, progress: _Progress
    ) -> None:
        read, written = 0, 0
        if isinstance(outcome, Written):
            counted = (estimated_tokens(prompt), estimated_tokens(outcome.text))
            read, written = outcome.tokens or counted
        elif outcome.may_cost:
            read = estimated_tokens(prompt)
        booking.amount = read + written
        cost = Spent(read, written, 1, self._settings.prices.of(read, written))
        progress.spent = added(progress.spent, cost)
        self._budget.charge(cost)

    def _read(self, task: Task, written: Written, progress: _Progress) -> Reply | None:
        self._answered_ever, self._lost = True, 0
        if progress.manner.changes > self._manner.changes:
            self._manner = progress.manner
        if written.refusal:
            return Reply(failed=True, reason="the model refused")
        if written.finish == "content_filter":
            return Reply(failed=True, reason="the endpoint's content filter stepped in")
        cut_off = written.finish == "length"
        reply = read_reply(task.kind, written.text)
        # Of a list that was cut off the whole questions are good; of a text nothing is.
        if reply is not None and (not cut_off or reply.questions):
            return reply
        progress.failures += 1
        if cut_off:
            progress.most = min(2 * progress.most, _GROWTH * self._settings.max_tokens)
        if progress.failures < self._settings.attempts:
            return None
        what = f"was cut off at {progress.most} tokens" if cut_off else "held nothing usable"
        return Reply(failed=True, reason=f"the reply {what}, {progress.failures} times in the end")

    async def _handle(self, fault: Fault, progress: _Progress) -> Reply | None:
        settings = self._settings
        if fault.meaning == "stop":
            self._stop(
                f"{settings.where} {fault.reason}; check the model {settings.model!r}, base_url "
                f"and the key in {settings.key_variable}"
            )
        if fault.meaning == "unreachable" and not self._answered_ever:
            self._stop(f"no server answers at {settings.where}; check base_url and that it runs")
        if fault.meaning == "leave":
            return Reply(failed=True, reason=f"the endpoint refused the request: {fault.reason}")
        if fault.meaning == "differently":
            manner = progress.manner.changed(fault.says)
            if manner is None:
                return Reply(failed=True, reason=f"the endpoint refused it: {fault.reason}")
            progress.manner = manner
            return None
        progress.failures += 1
        if (fault.retry_after_s or 0.0) > LONGEST_WAIT_S:
            self._stop(
                f"{settings.where} asks to wait {fault.retry_after_s:.0f} s; run again after that"
            )
        if progress.failures >= settings.attempts:
            self._lost += 1
            if self._lost >= settings.lost_in_a_row:
                self._stop(
                    f"{settings.where} failed {self._lost} tasks in a row ({fault.reason}); check "
                    "the server and run again to go on from here"
                )
            return Reply(
                failed=True, reason=f"{fault.reason}, {progress.failures} attempts in the end"
            )
        if fault.retry_after_s is not None:
            self._pace.hold(self._clock() + fault.retry_after_s)
        delay_s = self._backoff.delay_s(progress.failures, self._random, fault.retry_after_s)
        await self._sleep(delay_s)
        return None


def _read_completion(completion: Any) -> Written | Fault:
    """What is in a completion; the client builds one from any JSON, and none from other text."""
    try:
        choice = completion.choices[0]
        message = choice.message
        usage = getattr(completion, "usage", None)
        counted = None
        if usage is not None and usage.prompt_tokens is not None:
            counted = (int(usage.prompt_tokens), int(usage.completion_tokens or 0))
        return Written(
            text=str(message.content or ""),
            finish=str(choice.finish_reason or ""),
            refusal=bool(getattr(message, "refusal", None)),
            tokens=counted,
        )
    except (AttributeError, IndexError, TypeError, ValueError):
        return Fault("again", "the reply was no completion", may_cost=True)
