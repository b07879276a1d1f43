"""A whole synthesis: read, ask, check, write. Killed anywhere, it goes on where it was.

Order of truth: a reply is in the cache when it has come, a shard of passages is on disk when it is
whole, and the records are made of shards alone. All of them follow from recipe, documents and
replies, so a run with any number of interruptions ends in the same bytes as one without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openclara.synthesis.assembly import assemble
from openclara.synthesis.folder import claim, kept_passages, owned
from openclara.synthesis.opening import make_teacher
from openclara.synthesis.passages import estimated_tokens, read_passages
from openclara.synthesis.report import write_report
from openclara.synthesis.shards import Shards
from openclara.synthesis.tally import Tally
from openclara.synthesis.work import Progress, Watching, Work, carry_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from openclara.config import SynthesisConfig
    from openclara.synthesis.passages import Passage, Reading, Tokenize
    from openclara.synthesis.tasks import Teacher

    Make = Callable[[Work, Teacher], bool]

__all__ = ["Outcome", "Progress", "Watching", "synthesize", "tokenizer_of"]


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


def synthesize(
    recipe: SynthesisConfig,
    *,
    teacher: Teacher | None = None,
    make: Make = carry_out,
    watching: Watching | None = None,
    command: str = "",
    estimate_only: bool = False,
) -> Outcome:
    """Carry out a recipe, or go on where it was left.

    Args:
        recipe: What to do.
        teacher: Whom to ask; the recipe's if left out.
        make: Makes the missing shards, and says whether it came to the end: this program if left
            out, or workers elsewhere.
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
        shards = Shards(folder, "", recipe.shard_size)
        work = Work(folder, recipe, passages, shards, watching)
        watching.planned(work.estimate(), len(passages))
        return Outcome(False, work.progress)
    with owned(folder):
        asked = teacher or make_teacher(recipe.teacher)
        identity = claim(folder, recipe, asked.fingerprint)
        passages, reading = kept_passages(folder, lambda: _read(recipe, watching))
        watching.read(reading)
        shards = Shards(folder / "shards", identity, recipe.shard_size)
        work = Work(folder, recipe, passages, shards, watching)
        watching.planned(work.estimate(), len(passages))
        if estimate_only:
            return Outcome(False, work.progress)
        if not make(work, asked):
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
