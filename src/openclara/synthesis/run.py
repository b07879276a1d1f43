"""A whole synthesis: read, ask, check, write. Killed anywhere, it goes on where it was.

Order of truth: a reply is in the cache when it has come, a shard of passages is on disk when it is
whole, and the records are made of shards alone. All of them follow from recipe, documents and
replies, so a run with any number of interruptions ends in the same bytes as one without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from openclara.errors import TeacherError
from openclara.synthesis.assembly import assemble
from openclara.synthesis.cache import ReplyCache
from openclara.synthesis.document import total
from openclara.synthesis.estimate import Estimate, estimate
from openclara.synthesis.folder import claim, kept_passages, owned
from openclara.synthesis.opening import make_teacher
from openclara.synthesis.passages import estimated_tokens, read_passages
from openclara.synthesis.report import write_report
from openclara.synthesis.shards import Shards
from openclara.synthesis.tally import Tally
from openclara.synthesis.tasks import Spent
from openclara.synthesis.window import compose_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openclara.config import SynthesisConfig
    from openclara.errors import DataError
    from openclara.synthesis.passages import Passage, Reading, Tokenize
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a sitting ended.

    Attributes:
        finished: Whether the records are written; else it was stopped.
        progress: Where it stands.
        records: Lines of each file that was written.
    """

    finished: bool
    progress: Progress
    records: dict[str, int] = field(default_factory=dict)


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


def synthesize(
    recipe: SynthesisConfig,
    *,
    teacher: Teacher | None = None,
    watching: Watching | None = None,
    command: str = "",
    estimate_only: bool = False,
) -> Outcome:
    """Carry out a recipe, or go on where it was left.

    Args:
        recipe: What to do.
        teacher: Whom to ask; the recipe's if left out.
        watching: Who is told.
        command: For the report: what to run to get it again.
        estimate_only: Read the documents, say what it would take, and ask nothing.

    Raises:
        TeacherError: The teacher can do no more, or the budget is spent. What was paid for is kept.
        OpenClaraError: Recipe, documents or folder are at fault.
    """
    watching = watching or Watching()
    folder = recipe.output
    if estimate_only and not folder.exists():
        # An estimate leaves nothing behind: the recipe may still change.
        passages, reading = _read(recipe, watching)
        watching.read(reading)
        work = _Work(recipe, passages, Shards(folder, "", recipe.shard_size), watching)
        watching.planned(work.estimate(), len(passages))
        return Outcome(False, work.progress)
    with owned(folder):
        asked = teacher or make_teacher(recipe.teacher)
        identity = claim(folder, recipe, asked.fingerprint)
        passages, reading = kept_passages(folder, lambda: _read(recipe, watching))
        watching.read(reading)
        shards = Shards(folder / "shards", identity, recipe.shard_size)
        work = _Work(recipe, passages, shards, watching)
        watching.planned(work.estimate(), len(passages))
        if estimate_only:
            return Outcome(False, work.progress)
        with ReplyCache(recipe.cache or folder / "cache.sqlite") as cache:
            if recipe.retry_failed:
                cache.forget_failed()
            if not work.carry_out(asked, cache):
                return Outcome(False, work.progress)
        tally = Tally(recipe.seed, recipe.quality.coverage)
        n_shards = len(list(shards.parts(passages)))
        records = assemble(folder, shards.read(n_shards), passages, recipe, on_passage=tally.add)
        write_report(folder, tally, reading, records, recipe, teacher=asked.name, command=command)
        return Outcome(True, work.progress, records)


def _read(recipe: SynthesisConfig, watching: Watching) -> tuple[list[Passage], Reading]:
    tokenize = tokenizer_of(recipe.passages.base)
    return read_passages(recipe, tokenize, on_unreadable=watching.unreadable)


def tokenizer_of(base: str | None) -> Tokenize:
    """What counts tokens: a base's tokenizer, or an estimate."""
    if base is None:
        return estimated_tokens
    from openclara.data.tokenizer import TextTokenizer
    from openclara.model.base import find_base, load_tokenizer

    return TextTokenizer(load_tokenizer(find_base(base))).offsets


class _Work:
    """The shards that are missing."""

    def __init__(
        self,
        recipe: SynthesisConfig,
        passages: Sequence[Passage],
        shards: Shards,
        watching: Watching,
    ) -> None:
        self._recipe = recipe
        self._shards = shards
        self._watching = watching
        self.progress = Progress(len(passages))
        self._missing: list[tuple[int, Sequence[Passage]]] = []
        self._n_tasks = 0
        costs = []
        for number, part in shards.parts(passages):
            header = shards.header(number, part)
            if header is None or (recipe.retry_failed and header["failed"]):
                self._missing.append((number, part))
                continue
            self.progress.done += len(part)
            self.progress.pairs += header["pairs"]
            self._n_tasks += header["tasks"]
            costs.append(Spent(**header["spent"]))
        self.progress.spent = total(costs)

    def estimate(self) -> Estimate:
        progress = self.progress
        left = [passage for _, part in self._missing for passage in part]
        return estimate(
            left,
            self._recipe,
            n_done=progress.done,
            tasks_done=self._n_tasks,
            spent=progress.spent,
        )

    def carry_out(self, teacher: Teacher, cache: ReplyCache) -> bool:
        """Make what is missing; False if it was stopped before the end."""
        watching = self._watching
        made = compose_all(
            (passage for _, part in self._missing for passage in part),
            teacher,
            cache,
            self._recipe.quality,
            on_reply=self._count,
            stop=watching.stop,
        )
        for number, part in self._missing:
            of_shard = []
            for composed in islice(made, len(part)):
                of_shard.append(composed)
                self.progress.done += 1
                self.progress.pairs += len(composed.pairs)
                watching.moved(self.progress)
            if len(of_shard) < len(part):
                return False
            self._shards.write(number, part, of_shard)
        # Runs the generator to its end, where it keeps the last failures.
        return next(made, None) is None

    def _count(self, reply: Reply, fresh: bool) -> None:
        progress = self.progress
        progress.spent = total([progress.spent, reply.spent])
        progress.asked += fresh
        progress.known += not fresh
        progress.failed += fresh and reply.failed
        self._watching.moved(progress)
        if fresh:
            _see_to_budget(self._recipe, progress.spent)


def _see_to_budget(recipe: SynthesisConfig, spent: Spent) -> None:
    teacher = recipe.teacher
    if teacher.kind != "openai":
        return
    tokens, money = spent.prompt_tokens + spent.completion_tokens, spent.money
    if teacher.budget_tokens is not None and tokens >= teacher.budget_tokens:
        said, field = f"{tokens:,} of {teacher.budget_tokens:,} tokens are", "budget_tokens"
    elif teacher.budget_money is not None and money >= teacher.budget_money:
        said, field = f"{money:,.2f} of {teacher.budget_money:,.2f} in money are", "budget_money"
    else:
        return
    raise TeacherError(
        f"the budget is spent ({said} gone); all replies are kept: raise teacher.{field} and run "
        "the same command to go on"
    )
