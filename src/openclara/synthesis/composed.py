"""What synthesis makes of one passage: pairs, a paraphrase, what was rejected and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# Read when a line of a shard is: not only for types.
from openclara.synthesis.passages import Passage  # noqa: TC001
from openclara.synthesis.tasks import Spent

PairKind = Literal["simple", "complex"]


@dataclass(frozen=True, slots=True)
class CheckedPair:
    """A question and its answer that passed every check.

    Attributes:
        question: It can be asked of a corpus.
        answer: It stands in the passage.
        kind: Whether it needs one place of the passage or several.
        round: In which round it was asked.
    """

    question: str
    answer: str
    kind: PairKind
    round: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something that did not pass, kept to be read.

    Attributes:
        what: `simple`, `complex` or `paraphrase`.
        reason: In a few words, the same for all of its sort.
        question: Of a pair.
        text: The answer or the paraphrase, as far as there was one.
        detail: What a judge said, or what the second answer was.
        round: In which round.
    """

    what: str
    reason: str
    question: str = ""
    text: str = ""
    detail: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Composed:
    """All that became of a passage.

    Attributes:
        passage: The passage.
        pairs: Accepted pairs, in the order of their rounds.
        paraphrase: The accepted one.
        rejected: What was not.
        n_facts: Facts by rule.
        n_covered: Those of them that accepted pairs mention.
        rounds: Rounds of questions.
        tasks: Tasks by kind.
        n_failed: Tasks the teacher gave nothing usable for.
        spent: What the tasks cost when they were first done.
    """

    passage: Passage
    pairs: tuple[CheckedPair, ...] = ()
    paraphrase: str | None = None
    rejected: tuple[Rejected, ...] = ()
    n_facts: int = 0
    n_covered: int = 0
    rounds: int = 0
    tasks: dict[str, int] | None = None
    n_failed: int = 0
    spent: Spent = field(default_factory=Spent)

    @property
    def coverage(self) -> float:
        """Part of the facts that is covered; 1 where there are none."""
        return self.n_covered / self.n_facts if self.n_facts else 1.0
