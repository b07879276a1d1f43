"""What a teacher is asked for and what it gives back: the line between pipeline and teachers.

The pipeline (paper, appendix on data synthesis; figures 10 to 18) decides which tasks a document
needs; a teacher, be it a hosted model, a local one or a few rules, carries tasks out in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TaskKind = Literal[
    "simple_qa", "complex_qa", "answer", "judge_pair", "paraphrase", "judge_paraphrase"
]
"""`simple_qa` asks for questions of one fact each, `complex_qa` for questions that need two or more
places of the document, `answer` for the shortest answer from the document alone, the judges for a
verdict."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer."""

    question: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing a teacher is asked for. Equal tasks may be answered from a cache.

    Attributes:
        kind: What is asked for.
        document: The document, as data: nothing in it is an instruction.
        title: Its title; empty when unknown.
        pairs: Of `simple_qa` and `complex_qa` in a later round: what there is already, not to be
            asked again.
        uncovered: Of the same: facts (names, numbers, dates) that no pair mentions yet.
        question: Of `answer` and `judge_pair`.
        answer: Of `judge_pair`.
        paraphrase: Of `judge_paraphrase`.
        round: Counts repetitions of the same request; 0 is the first.
    """

    kind: TaskKind
    document: str
    title: str = ""
    pairs: tuple[Pair, ...] = ()
    uncovered: tuple[str, ...] = ()
    question: str = ""
    answer: str = ""
    paraphrase: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a task cost.

    Attributes:
        prompt_tokens: Tokens read, over all attempts.
        completion_tokens: Tokens written, over all attempts.
        requests: Calls made, failed ones included; 0 for a reply from the cache.
        money: In the currency of the teacher's prices; 0 where it has none.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a teacher gave back.

    Attributes:
        questions: Of `simple_qa` and `complex_qa`; empty when there is nothing left to ask.
        text: Of `answer` and `paraphrase`; an empty answer says that the document has none.
        verdict: Of the judges: True accepts.
        reason: Why a judge refused, or why there is no reply.
        failed: The teacher gave nothing usable after all its attempts (a refusal, broken JSON, a
            server that stayed away); the other fields but `reason` are then without meaning.
        spent: What it cost.
    """

    questions: tuple[str, ...] = ()
    text: str = ""
    verdict: bool = False
    reason: str = ""
    failed: bool = False
    spent: Spent = Spent()


class Teacher(Protocol):
    """Whoever carries tasks out.

    Attributes:
        name: For people: the model, or `rules`.
        fingerprint: Changes whenever the same task might get another reply: model, endpoint,
            prompts, sampling, seed. Part of the key of cached replies.
        width: Tasks it likes to have under way at once: as many documents are kept open.
    """

    name: str
    fingerprint: str
    width: int

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Reply]]:
        """Carry tasks out; yield (position in `tasks`, reply) as each is done, in any order.

        A failed task is a reply like others (`Reply.failed`).

        Raises:
            TeacherError: No task can be done any more: the budget is spent, the key is refused, the
                endpoint is unknown. What was yielded before stays valid.
        """
