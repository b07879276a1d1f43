"""One passage from first to last task (paper, appendix on data synthesis, figures 10 to 18).

`compose` is a generator: it yields tasks, is sent their replies in the same order, and returns what
became of the passage. It does no input or output, and its result follows from the replies alone, so
whoever drives it may carry tasks out anywhere, in any order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from openclara.data.tokenizer import encodable
from openclara.synthesis.composed import CheckedPair, Composed, Rejected
from openclara.synthesis.quality import (
    agree,
    answer_fault,
    facts,
    in_one_sentence,
    paraphrase_fault,
    question_fault,
    same_question,
    uncovered,
)
from openclara.synthesis.tasks import Pair, Reply, Spent, Task

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from openclara.config import QualityConfig
    from openclara.synthesis.composed import PairKind
    from openclara.synthesis.passages import Passage

    Steps = Generator[list[Task], list[Reply], None]

TOO_LITTLE_COVERED = "too little of its passage covered"

_AGAIN = 1
"""Round of the second answer, so that it is not read from the cache of the first."""


def compose(passage: Passage, rules: QualityConfig) -> Generator[list[Task], list[Reply], Composed]:
    """Make questions with answers, and a paraphrase, of one passage.

    Args:
        passage: What is asked about.
        rules: Rounds and acceptance.

    Yields:
        Tasks that do not depend on each other, at least one at a time. It is to be sent as many
        replies, in the same order.

    Returns:
        What became of the passage.
    """
    composing = _Composing(passage, rules)
    steps = _together([composing.ask(), composing.paraphrase()])
    replies: list[Reply] = []
    try:
        tasks = next(steps)
        while True:
            replies = yield tasks
            composing.count(tasks, replies)
            tasks = steps.send(replies)
    except StopIteration:
        return composing.result()


def _together(parts: Iterable[Steps]) -> Steps:
    """Carry several generators on side by side, each with its own replies."""
    waiting: list[tuple[Steps, list[Task]]] = []
    for part in parts:
        tasks = next(part, None)
        if tasks is not None:
            waiting.append((part, tasks))
    while waiting:
        replies = yield [task for _, tasks in waiting for task in tasks]
        going = []
        for part, tasks in waiting:
            own, replies = replies[: len(tasks)], replies[len(tasks) :]
            try:
                going.append((part, part.send(own)))
            except StopIteration:
                continue
        waiting = going


@dataclass(slots=True)
class _Candidate:
    """A question on its way through the checks."""

    kind: PairKind
    question: str
    round: int
    answer: str = ""


@dataclass(slots=True)
class _Composing:
    passage: Passage
    rules: QualityConfig
    pairs: list[CheckedPair] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    paraphrased: str | None = None
    rounds: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    n_failed: int = 0
    spent: list[Spent] = field(default_factory=list)
    facts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.facts = facts(self.passage.text)

    def _task(self, kind: Any, **about: Any) -> Task:
        return Task(kind, self.passage.text, self.passage.title, **about)

    def count(self, tasks: Sequence[Task], replies: Sequence[Reply]) -> None:
        self.tasks.update(task.kind for task in tasks)
        self.n_failed += sum(reply.failed for reply in replies)
        self.spent += [reply.spent for reply in replies]

    def result(self) -> Composed:
        missing = self._uncovered()
        composed = Composed(
            self.passage,
            tuple(self.pairs),
            self.paraphrased,
            tuple(self.rejected),
            len(self.facts),
            len(self.facts) - len(missing),
            self.rounds,
            dict(sorted(self.tasks.items())),
            self.n_failed,
            total(self.spent),
        )
        if composed.coverage >= self.rules.min_coverage:
            return composed
        detail = f"{composed.coverage:.0%} of the facts"
        given_up = tuple(
            Rejected(pair.kind, TOO_LITTLE_COVERED, pair.question, pair.answer, detail, pair.round)
            for pair in self.pairs
        )
        return replace(composed, pairs=(), rejected=(*composed.rejected, *given_up))

    def _uncovered(self) -> tuple[str, ...]:
        return uncovered(self.facts, (f"{one.question}\n{one.answer}" for one in self.pairs))

    def _reject(self, one: _Candidate, reason: str, detail: str = "") -> None:
        self.rejected.append(
            Rejected(one.kind, reason, one.question, one.answer, _one_line(detail), one.round)
        )

    # -- questions and answers --------------------------------------------------------------

    def ask(self) -> Steps:
        """Rounds of questions until the facts are covered or nothing new comes."""
        covered, n_silent = False, 0
        while self.rounds < self.rules.rounds and not covered and n_silent < 2:
            known = tuple(Pair(one.question, one.answer) for one in self.pairs)
            missing = self._uncovered() if self.rounds else ()
            about = {"pairs": known, "uncovered": missing, "round": self.rounds}
            replies = yield [self._task("simple_qa", **about), self._task("complex_qa", **about)]
            fresh = [*self._fresh("simple", replies[0]), *self._fresh("complex", replies[1])]
            self.rounds += 1
            # A teacher that failed is asked once more; one that has nothing to ask is not.
            failed = all(reply.failed for reply in replies)
            n_silent = n_silent + 1 if failed else 0
            if not fresh and not failed:
                return
            if fresh:
                yield from self._answered(fresh)
            missing = self._uncovered()
            n_facts = len(self.facts)
            covered = not failed and n_facts - len(missing) >= self.rules.coverage * n_facts

    def _fresh(self, kind: PairKind, reply: Reply) -> list[_Candidate]:
        """Questions that may be asked and were not yet."""
        fresh = []
        for text in () if reply.failed else reply.questions:
            one = _Candidate(kind, _one_line(text), self.rounds)
            fault = question_fault(one.question)
            if fault is None and any(
                same_question(one.question, other, self.rules.duplicate) for other in self.asked
            ):
                fault = "question asked before"
            if fault is None:
                self.asked.append(one.question)
                fresh.append(one)
            else:
                self._reject(one, fault)
        return fresh

    def _answered(self, fresh: list[_Candidate]) -> Steps:
        """Answer, check, judge and answer again; what passes all is accepted."""
        replies = yield [self._task("answer", question=one.question) for one in fresh]
        found = []
        for one, reply in zip(fresh, replies, strict=True):
            one.answer = "" if reply.failed else _one_line(reply.text)
            fault = "teacher gave no answer" if reply.failed else self._fault(one)
            if fault:
                self._reject(one, fault, reply.reason)
                continue
            found.append(one)
        if not found:
            return
        judging = [
            self._task("judge_pair", question=one.question, answer=one.answer) for one in found
        ]
        replies = yield judging
        approved = []
        for one, reply in zip(found, replies, strict=True):
            if reply.failed or not reply.verdict:
                reason = "judge gave no verdict" if reply.failed else "judge refused the pair"
                self._reject(one, reason, reply.reason)
            else:
                approved.append(one)
        if approved:
            yield from self._again(approved)

    def _again(self, approved: list[_Candidate]) -> Steps:
        replies = yield [
            self._task("answer", question=one.question, round=_AGAIN) for one in approved
        ]
        for one, reply in zip(approved, replies, strict=True):
            if reply.failed:
                self._reject(one, "teacher gave no second answer", reply.reason)
            elif not agree(one.answer, reply.text, self.rules.agreement):
                self._reject(one, "second answer differs", reply.text)
            else:
                self.pairs.append(CheckedPair(one.question, one.answer, one.kind, one.round))

    def _fault(self, one: _Candidate) -> str | None:
        text = self.passage.full_text
        if one.kind == "complex" and in_one_sentence(one.question, one.answer, text):
            one.kind = "simple"
        return answer_fault(one.question, one.answer, text, self.rules)

    # -- paraphrase -------------------------------------------------------------------------

    def paraphrase(self) -> Steps:
        """Try until one passes."""
        title = self.passage.title
        for attempt in range(self.rules.paraphrases):
            (reply,) = yield [self._task("paraphrase", round=attempt)]
            text = "" if reply.failed else encodable(reply.text).strip()
            fault = (
                "teacher gave no paraphrase"
                if reply.failed
                else paraphrase_fault(text, self.passage.text, self.rules, title=title)
            )
            detail = reply.reason
            if fault is None:
                (reply,) = yield [self._task("judge_paraphrase", paraphrase=text)]
                if not reply.failed and reply.verdict:
                    self.paraphrased = text
                    return
                fault = "judge gave no verdict" if reply.failed else "judge refused the paraphrase"
                detail = reply.reason
            self.rejected.append(
                Rejected("paraphrase", fault, "", text, _one_line(detail), attempt)
            )


def _one_line(text: str) -> str:
    return " ".join(encodable(text).split())


def total(costs: Iterable[Spent]) -> Spent:
    """The sum of costs."""
    prompt, completion, requests, money = 0, 0, 0, 0.0
    for one in costs:
        prompt += one.prompt_tokens
        completion += one.completion_tokens
        requests += one.requests
        money += one.money
    return Spent(prompt, completion, requests, money)
