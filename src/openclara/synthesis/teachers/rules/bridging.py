"""Questions that take two sentences to answer, joined from questions that take one."""

from __future__ import annotations

import re
from itertools import permutations
from typing import TYPE_CHECKING

from openclara.synthesis.teachers.rules.phrases import Candidate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DEFINES = re.compile(r"(?:Who|What) (?:is|was|are|were) (?P<subject>[^?]+)\?")
_ASKS_ROLE = re.compile(r"(?:Who|What) (?:is|was) (?P<role>the [^?]+)\?")
_ASKS_DOER = re.compile(r"Who (?P<did>(?!is |was |are |were |did |does |do |has |had )[^?]+)\?")
_ASKS_WHEN = re.compile(r"(?:When|In what year) (?P<be>was|were) (?P<what>[^?]+)\?")
_LONGEST = 34


def join(simple: Sequence[Candidate]) -> Iterator[Candidate]:
    """Questions joined from two on different sentences, the answer that of one of them.

    Args:
        simple: Questions of one sentence each.
    """
    seen: set[str] = set()
    for first, second in permutations(simple, 2):
        if first.sentence == second.sentence:
            continue
        for join_two in (_specified, _followed, _earlier, _both):
            made = join_two(first, second)
            if made and made.question not in seen and len(made.question.split()) <= _LONGEST:
                seen.add(made.question)
                yield made


def _description(candidate: Candidate) -> str | None:
    """Words that stand for the answer of a question: "the person who founded Rome"."""
    if role := _ASKS_ROLE.fullmatch(candidate.question):
        # "What is the Three Marias?" asks for a definition, not for what has the role.
        return role["role"] if candidate.subject != role["role"] else None
    if doer := _ASKS_DOER.fullmatch(candidate.question):
        return f"the person who {doer['did']}" if len(candidate.answer.split()) < 5 else None
    return None


def _followed(first: Candidate, second: Candidate) -> Candidate | None:
    """The second question, what the first one asks for described instead of named."""
    name, described = first.answer, _description(first)
    if described is None or not name[:1].isupper() or name.startswith("The "):
        return None
    if _DEFINES.fullmatch(second.question) or (
        second.subject != name and second.subject in described
    ):
        return None
    # Its own question would be answered by its description.
    if second.answer in described or second.answer == name or name in described:
        return None
    question, found = re.subn(
        rf"(?<![\w-]){re.escape(name)}(?![\w'’-]| [A-Z])", lambda _: described, second.question
    )
    preceded = re.search(rf"(?:[A-Z][\w.]*|the|and) {re.escape(name)}", second.question)
    if found != 1 or (preceded and preceded.start() > 0):
        return None
    return Candidate(question, second.answer, second.sentence)


def _specified(first: Candidate, second: Candidate) -> Candidate | None:
    """Which of what the first question defines does what the second asks about?"""
    defines = _DEFINES.fullmatch(first.question)
    if defines is None or first.asks_subject or not second.asks_subject:
        return None
    same = defines["subject"] == first.subject == second.subject
    kind = re.fullmatch(r"an? (?P<kind>.+)", first.answer)
    if not same or kind is None or len(kind["kind"].split()) > 12:
        return None
    does = second.question.partition(" ")[2]
    return Candidate(f"Which {kind['kind']} {does}", second.answer, second.sentence)


def _both(first: Candidate, second: Candidate) -> Candidate | None:
    """Who did what the first sentence says and also what the second does?"""
    one, _, does = first.question.rstrip("?").partition(" ")
    other, _, also = second.question.partition(" ")
    alike = one == other and first.answer == second.answer and first.sentence < second.sentence
    if not (first.asks_subject and second.asks_subject and alike):
        return None
    return Candidate(f"{one} {does} and {also}", first.answer, first.sentence)


def _earlier(first: Candidate, second: Candidate) -> Candidate | None:
    """Which of two that underwent the same did so first?"""
    one, two = _ASKS_WHEN.fullmatch(first.question), _ASKS_WHEN.fullmatch(second.question)
    if not (one and two and first.subject and second.subject) or first.subject == second.subject:
        return None
    done = one["what"].removeprefix(first.subject).strip()
    if done != two["what"].removeprefix(second.subject).strip() or not done:
        return None
    years = [re.findall(r"\b\d{4}\b", candidate.answer) for candidate in (first, second)]
    if not all(years) or not years[0][0] < years[1][0] or not first.subject[0].isupper():
        return None
    question = f"Which {one['be']} {done} first, {first.subject} or {second.subject}?"
    return Candidate(question, first.subject, first.sentence)
