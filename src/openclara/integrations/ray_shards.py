"""A worker of Ray that makes shards of a synthesis, and what it tells the job's ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openclara.errors import ModelError, OpenClaraError
from openclara.integrations.ray_cluster import RETRIES
from openclara.synthesis.ledger import Counted
from openclara.synthesis.opening import make_teacher
from openclara.synthesis.replies import WorkFolder
from openclara.synthesis.shards import Shards
from openclara.synthesis.tasks import Spent
from openclara.synthesis.teachers.budget import Budget, added
from openclara.synthesis.window import compose_all

if TYPE_CHECKING:
    from pathlib import Path

    from openclara.config import SynthesisConfig
    from openclara.synthesis.replies import ShardReplies
    from openclara.synthesis.tasks import Reply, Teacher

EVERY_S = 0.2
"""How often workers say what they did, and the driver looks."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker is told.

    Attributes:
        recipe: With a worker's share of what the teacher may do at once and in a minute.
        folder: Output, which all machines see.
        identity: Of the shards.
        fingerprint: Of the teacher, which must be the same everywhere.
    """

    recipe: SynthesisConfig
    folder: Path
    identity: str
    fingerprint: str


class SharedBudget(Budget):
    """The account of the whole job, asked before each request and charged after it."""

    def __init__(self, ledger: Any) -> None:
        super().__init__()
        self._ledger = ledger

    def charge(self, cost: Spent) -> None:
        """Add a cost; returns when it counts for everybody."""
        import ray

        ray.get(self._ledger.charge.remote(cost))

    def exhausted(self) -> str:
        """What has been used up, in words; empty while there is some left."""
        import ray

        said: str = ray.get(self._ledger.exhausted.remote())
        return said


class ShardWorker:
    """A teacher in a process of its own; made anew where that died."""

    def __init__(self, job: Job, ledger: Any) -> None:
        self._job = job
        self._ledger = ledger
        self._shards = Shards(job.folder / "shards", job.identity, job.recipe.shard_size)
        self._work = WorkFolder(job.folder)
        self._made: Teacher | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make a shard; whether it is there."""
        import ray

        number = int(row["number"])
        try:
            finished = self._make(number)
        except OpenClaraError as error:
            ray.get(self._ledger.fail.remote(error))
            finished = False
        return {"number": number, "finished": finished}

    def _make(self, number: int) -> bool:
        import ray

        begun = ray.get(self._ledger.begin.remote(number))
        if begun is None:
            return False
        if begun > RETRIES + 1:
            raise OpenClaraError(
                f"workers died {RETRIES + 1} times over the same passages, most likely for want of "
                "memory; give them more, or run fewer with --workers"
            )
        recipe = self._job.recipe
        passages = self._work.passages(number)
        # There already where a worker died after it wrote the shard and before it could say so.
        if self._shards.finished(number, passages, failures=not recipe.retry_failed):
            return True
        with self._work.replies(number) as replies:
            account = _Account(self._ledger, number, replies, charged=recipe.teacher.kind)
            made = []
            for composed in compose_all(
                passages,
                self._teacher(),
                replies,
                recipe.quality,
                on_reply=account.replied,
                stop=account.stopped,
            ):
                made.append(composed)
                account.finished_passage(len(composed.pairs))
            account.tell()
        if len(made) < len(passages):
            return False
        self._shards.write(number, passages, made, alone=False)
        return True

    def _teacher(self) -> Teacher:
        if self._made is None:
            made = make_teacher(self._job.recipe.teacher, budget=SharedBudget(self._ledger))
            if made.fingerprint != self._job.fingerprint:
                raise ModelError(
                    "a worker has another teacher under the same name; install the same version of "
                    "openclara, and put the same base, on all machines"
                )
            self._made = made
        return self._made


class _Account:
    """What a worker did at a shard, told to the ledger now and then."""

    def __init__(self, ledger: Any, number: int, replies: ShardReplies, *, charged: str) -> None:
        self._ledger = ledger
        self._number = number
        self._replies = replies
        # An endpoint charges each request itself, also those that brought no reply.
        self._charged = charged == "openai"
        self._counted = Counted()
        self._told_at = time.monotonic()
        self._go_on = True

    def replied(self, reply: Reply, fresh: bool) -> None:
        counted = self._counted
        counted.asked += fresh
        counted.known += not fresh
        counted.failed += fresh and reply.failed
        if fresh and not self._charged:
            counted.cost = added(counted.cost, reply.spent)

    def finished_passage(self, n_pairs: int) -> None:
        self._counted.done += 1
        self._counted.pairs += n_pairs

    def stopped(self) -> bool:
        if time.monotonic() - self._told_at >= EVERY_S:
            self.tell()
        return not self._go_on

    def tell(self) -> None:
        import ray

        counted = self._counted
        counted.cost_of_known, self._replies.cost_of_known = self._replies.cost_of_known, Spent()
        self._counted = Counted()
        self._go_on = ray.get(self._ledger.count.remote(self._number, counted))
        self._told_at = time.monotonic()
