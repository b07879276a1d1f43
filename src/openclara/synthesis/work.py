"""What is left of a synthesis, and the program that does it by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from openclara.errors import TeacherError
from openclara.synthesis.cache import ReplyCache
from openclara.synthesis.document import total
from openclara.synthesis.estimate import Estimate, estimate
from openclara.synthesis.replies import WorkFolder
from openclara.synthesis.tasks import Spent
from openclara.synthesis.window import compose_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from openclara.config import SynthesisConfig, TeacherConfig
    from openclara.errors import DataError
    from openclara.synthesis.passages import Passage, Reading
    from openclara.synthesis.shards import Shards
    from openclara.synthesis.tasks import Reply, Teacher


@dataclass(slots=True)
class Progress:
    """Where a synthesis stands.

    Attributes:
        passages: All there are.
        done: Those with results, of earlier sittings too.
        pairs: Their accepted pairs.
        asked: Tasks asked in this sitting.
        known: Replies found in the cache.
        failed: Of the asked, those without a usable reply.
        spent: What it cost so far, in all sittings.
    """

    passages: int
    done: int = 0
    pairs: int = 0
    asked: int = 0
    known: int = 0
    failed: int = 0
    spent: Spent = field(default_factory=Spent)


def _ignore(*_: Any) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told of the work.

    Attributes:
        read: What was read, before anything is asked.
        planned: What is left to do, what it may take, and how many passages there are in all.
        moved: After each reply and each finished passage.
        unreadable: A document that cannot be read and is left out; without it, it is an error.
        stop: Asked now and then; true stops the work so that it can go on later.
    """

    read: Callable[[Reading], None] = _ignore
    planned: Callable[[Estimate, int], None] = _ignore
    moved: Callable[[Progress], None] = _ignore
    unreadable: Callable[[DataError], None] | None = None
    stop: Callable[[], bool] = lambda: False


class Work:
    """The shards that are missing.

    Args:
        folder: Output of the synthesis.
        recipe: What to do.
        passages: All of them.
        shards: Where finished ones go.
        watching: Who is told.

    Attributes:
        progress: Where it stands.
        missing: Numbers and passages of the shards that are not there.
    """

    def __init__(
        self,
        folder: Path,
        recipe: SynthesisConfig,
        passages: Sequence[Passage],
        shards: Shards,
        watching: Watching,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.shards = shards
        self.watching = watching
        self.progress = Progress(len(passages))
        self.missing: list[tuple[int, Sequence[Passage]]] = []
        self._n_tasks = 0
        costs = []
        for number, part in shards.parts(passages):
            header = shards.finished(number, part, failures=not recipe.retry_failed)
            if header is None:
                self.missing.append((number, part))
                continue
            self.progress.done += len(part)
            self.progress.pairs += header["pairs"]
            self._n_tasks += header["tasks"]
            costs.append(Spent(**header["spent"]))
        self.progress.spent = total(costs)

    def cache(self) -> ReplyCache:
        """The replies of this program, and of others that share the recipe's cache."""
        return ReplyCache(self.recipe.cache or self.folder / "cache.sqlite")

    def estimate(self) -> Estimate:
        """What is left to do."""
        progress = self.progress
        left = [passage for _, part in self.missing for passage in part]
        return estimate(
            left,
            self.recipe,
            n_done=progress.done,
            tasks_done=self._n_tasks,
            spent=progress.spent,
        )


def carry_out(work: Work, teacher: Teacher) -> bool:
    """Make what is missing in this program; False if it was stopped before the end.

    Raises:
        TeacherError: The teacher can do no more, or the budget is spent.
    """
    with work.cache() as cache:
        left = WorkFolder(work.folder)
        left.absorb(cache)
        left.clear()
        if work.recipe.retry_failed:
            cache.forget_failed()
        return _Here(work).make(teacher, cache)


class _Here:
    """One teacher and one cache."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def make(self, teacher: Teacher, cache: ReplyCache) -> bool:
        work, progress = self._work, self._work.progress
        made = compose_all(
            (passage for _, part in work.missing for passage in part),
            teacher,
            cache,
            work.recipe.quality,
            on_reply=self._count,
            stop=work.watching.stop,
        )
        for number, part in work.missing:
            of_shard = []
            for composed in islice(made, len(part)):
                of_shard.append(composed)
                progress.done += 1
                progress.pairs += len(composed.pairs)
                work.watching.moved(progress)
            if len(of_shard) < len(part):
                return False
            work.shards.write(number, part, of_shard)
        # Runs the generator to its end, where it keeps the last failures.
        return next(made, None) is None

    def _count(self, reply: Reply, fresh: bool) -> None:
        progress = self._work.progress
        progress.spent = total([progress.spent, reply.spent])
        progress.asked += fresh
        progress.known += not fresh
        progress.failed += fresh and reply.failed
        self._work.watching.moved(progress)
        if fresh and (error := over_budget(self._work.recipe.teacher, progress.spent)):
            raise error


def over_budget(teacher: TeacherConfig, spent: Spent) -> TeacherError | None:
    """The error that says that a budget is spent; None while it is not."""
    if teacher.kind != "openai":
        return None
    tokens, money = spent.prompt_tokens + spent.completion_tokens, spent.money
    if teacher.budget_tokens is not None and tokens >= teacher.budget_tokens:
        said, field = f"{tokens:,} of {teacher.budget_tokens:,} tokens are", "budget_tokens"
    elif teacher.budget_money is not None and money >= teacher.budget_money:
        said, field = f"{money:,.2f} of {teacher.budget_money:,.2f} in money are", "budget_money"
    else:
        return None
    return TeacherError(
        f"the budget is spent ({said} gone); all replies are kept: raise teacher.{field} and run "
        "the same command to go on"
    )
