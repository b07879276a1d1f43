"""The tasks of data synthesis carried out by rules alone."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from openclara.synthesis.tasks import Reply
from openclara.synthesis.teachers.rules.answering import find_answer
from openclara.synthesis.teachers.rules.bridging import join
from openclara.synthesis.teachers.rules.clauses import ask_for_clauses
from openclara.synthesis.teachers.rules.documents import Document, read_document
from openclara.synthesis.teachers.rules.judging import judge_pair, judge_paraphrase
from openclara.synthesis.teachers.rules.other_questions import (
    ask_for_gap,
    ask_without_statement,
    facts_by_sentence,
)
from openclara.synthesis.teachers.rules.questions import ask
from openclara.synthesis.teachers.rules.rewording import reword
from openclara.synthesis.teachers.rules.statements import read_statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openclara.synthesis.tasks import Task
    from openclara.synthesis.teachers.rules.phrases import Candidate

VERSION: Final = "rules-2"
"""Changes with every change of a rule: replies in a cache were made by the rules of their time."""

_GAPS: Final = 2
"""Gaps that are asked for in a first round: a last resort, for documents with few questions."""
_GAPS_LATER: Final = 6
_JOINED: Final = 8
_JOINABLE: Final = 60
"""Questions that are tried with each other; the work grows with their square."""


class RulesTeacher:
    """Rules for English; what they do not understand they leave out.

    The same task always gets the same reply, at once and for nothing.
    """

    name = "rules"
    fingerprint = VERSION
    width = 1

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Reply]]:
        """As in `Teacher`; nothing fails."""
        for position, task in enumerate(tasks):
            yield position, carry_out(task)


def carry_out(task: Task) -> Reply:
    """Reply to one task."""
    if task.kind == "paraphrase":
        return Reply(text=reword(task.document, task.round))
    if task.kind == "judge_paraphrase":
        reason = judge_paraphrase(task.document, task.paraphrase)
        return Reply(verdict=not reason, reason=reason)
    known = _known(task.document, task.title)
    if task.kind == "answer":
        return Reply(text=known.answer(task.question))
    if task.kind == "judge_pair":
        reason = judge_pair(known.document, task.question, task.answer)
        return Reply(verdict=not reason, reason=reason)
    made = known.simple if task.kind == "simple_qa" else known.joined
    asked = {_key(pair.question) for pair in task.pairs}
    questions = [one.question for one in made if _key(one.question) not in asked]
    if task.kind == "simple_qa":
        covered = {one.answer for one in made} | {pair.answer for pair in task.pairs}
        questions += [gap for gap in _gaps(known, task, covered) if _key(gap) not in asked]
    return Reply(questions=tuple(questions))


def _gaps(known: _Known, task: Task, covered: set[str]) -> Iterator[str]:
    """Gaps for facts that nothing else asks for: all that are named as uncovered, else a few."""
    wanted = set(task.uncovered)
    left = _GAPS_LATER if wanted else 0 if task.pairs else max(0, _GAPS - len(known.simple))
    for gap in known.gaps:
        if left == 0:
            return
        # "2015" is covered where "July 2015" is an answer.
        asked = any(gap.answer in one for one in covered)
        if not asked and (not wanted or gap.answer in wanted):
            covered.add(gap.answer)
            left -= 1
            yield gap.question


class _Known:
    """All that the rules make of one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.simple = _without_doubles(_simple(document))
        self.joined = _without_doubles(join(self.simple[:_JOINABLE]))[:_JOINED]
        gaps = (ask_for_gap(document, at, fact) for at, fact in facts_by_sentence(document))
        self.gaps = [gap for gap in gaps if gap is not None]
        self._answers = {
            _key(one.question): one.answer for one in (*self.gaps, *self.joined, *self.simple)
        }

    def answer(self, question: str) -> str:
        """The answer that a question was made with; of another, what the document has for it."""
        if (known := self._answers.get(_key(question))) is not None:
            return known
        return find_answer(self.document, question)


@lru_cache(maxsize=64)
def _known(text: str, title: str) -> _Known:
    return _Known(read_document(text, title))


def _simple(document: Document) -> Iterator[Candidate]:
    yield from ask_without_statement(document)
    yield from ask_for_clauses(document)
    for number in range(len(document.sentences)):
        for statement in read_statements(document, number):
            yield from ask(statement)


def _key(question: str) -> str:
    return " ".join(question.split()).casefold()


def _without_doubles(made: Iterator[Candidate]) -> list[Candidate]:
    """One question each, and no question that holds its own answer or has none."""
    kept: dict[str, Candidate] = {}
    for one in made:
        answer = one.answer.strip(" ,;:")
        if answer and answer.casefold() not in one.question.casefold().split(" or ")[0]:
            kept.setdefault(_key(one.question), one)
    return list(kept.values())
