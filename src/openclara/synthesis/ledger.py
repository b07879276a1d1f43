"""One account for all workers of a synthesis: what is done, what it cost, and when to stop.

A budget that each worker kept for itself would be spent as often as there are workers, so there is
one, asked before each request and charged after it, as in a single program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openclara.synthesis.tasks import Spent
from openclara.synthesis.teachers.budget import added
from openclara.synthesis.work import Progress, over_budget

if TYPE_CHECKING:
    from openclara.config import TeacherConfig
    from openclara.errors import OpenClaraError


@dataclass(slots=True)
class Counted:
    """What a worker did at a shard.

    Attributes:
        done: Passages with results.
        pairs: Their accepted pairs.
        known: Replies found.
        asked: Tasks asked.
        failed: Of them, those without a usable reply.
        cost_of_known: Of replies found that no ledger has counted.
        cost: Of tasks asked that were not charged when they were.
    """

    done: int = 0
    pairs: int = 0
    known: int = 0
    asked: int = 0
    failed: int = 0
    cost_of_known: Spent = field(default_factory=Spent)
    cost: Spent = field(default_factory=Spent)

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.done + other.done,
            self.pairs + other.pairs,
            self.known + other.known,
            self.asked + other.asked,
            self.failed + other.failed,
            added(self.cost_of_known, other.cost_of_known),
            added(self.cost, other.cost),
        )

    def undone(self) -> Counted:
        """What takes back all that is not paid for."""
        known = self.cost_of_known
        minus = Spent(-known.prompt_tokens, -known.completion_tokens, -known.requests, -known.money)
        return Counted(-self.done, -self.pairs, -self.known, cost_of_known=minus)


class Ledger:
    """The account.

    Args:
        teacher: Names the budget.
        paid: What was spent before this sitting, as far as it is known.
    """

    def __init__(self, teacher: TeacherConfig, paid: Spent) -> None:
        self._teacher = teacher
        self._spent = paid
        self._shards: dict[int, Counted] = {}
        self._total = Counted()
        self._begun: dict[int, int] = {}
        self._stopped = False
        self._error: OpenClaraError | None = None

    def begin(self, number: int) -> int | None:
        """Begin a shard; how many times it was begun, or None if no more are to be."""
        if self._stopped or self._error is not None:
            return None
        if before := self._shards.pop(number, None):
            # A worker died over it: what it did is found again, what it asked was asked.
            self._total += before.undone()
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]

    def count(self, number: int, counted: Counted) -> bool:
        """Count what was done at a shard; whether to go on with it."""
        self._shards[number] = self._shards.get(number, Counted()) + counted
        self._total += counted
        return not self._stopped

    def charge(self, cost: Spent) -> None:
        """Add the cost of a request."""
        self._spent = added(self._spent, cost)

    def exhausted(self) -> str:
        """The sentence that says that the budget is spent; empty while it is not."""
        error = over_budget(self._teacher, self.progress().spent)
        if error is None:
            return ""
        # Not stopped: what is under way has been paid for and is to be kept.
        self._error = self._error or error
        return str(error)

    def fail(self, error: OpenClaraError) -> None:
        """Stop everybody: a worker cannot go on. The first error is the one that is told."""
        if self._error is None:
            self._error = error
            self._stopped = True

    def stop(self) -> None:
        """Stop everybody, to go on later."""
        self._stopped = True

    def progress(self) -> Progress:
        """What was done in this sitting, and spent in all of them."""
        total = self._total
        return Progress(
            0,
            total.done,
            total.pairs,
            total.asked,
            total.known,
            total.failed,
            added(self._spent, added(total.cost, total.cost_of_known)),
        )

    def error(self) -> OpenClaraError | None:
        """What went wrong, if anything did."""
        return self._error
