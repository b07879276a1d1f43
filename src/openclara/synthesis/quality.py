"""Rules of acceptance. They look at words alone: what a document claims or asks changes nothing.

A judge's verdict comes on top of them and never replaces one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from openclara.data.facts import entities, held, numbers, phrase, without_dates
from openclara.data.records import framed
from openclara.data.sentences import sentence_cuts, stripped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from openclara.config import QualityConfig

_LONGEST_QUESTION = 60
"""Words."""

_POINTS_AT_TEXT = re.compile(
    r"\b(?:according to|(?:mentioned|described|stated|given|discussed|named|listed) (?:in|by)"
    r"|in|from|of|does|by)\s+(?:the|this)\s+"
    r"(?:above\s+|given\s+|provided\s+|following\s+)?(?:passage|document|text|excerpt|paragraph)\b",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"\s*(?:[,;]|\band\b|&)\s+")
_THOUSANDS = re.compile(r"(?<=[0-9])[,'’\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_ARTICLES = re.compile(r" (?:a|an|the)(?= )")
_ASKING = frozenset(
    [
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "many",
        "much",
        "is",
        "are",
        "was",
        "were",
        "be",
        "did",
        "does",
        "do",
        "has",
        "have",
        "had",
        "in",
        "on",
        "at",
        "of",
        "by",
        "for",
        "to",
        "from",
        "with",
        "and",
        "or",
        "the",
        "a",
        "an",
        "as",
        "that",
        "this",
        "it",
        "its",
    ]
)


# --- questions ---------------------------------------------------------------------------------


def question_fault(question: str) -> str | None:
    """Why a question cannot be asked of a corpus; None where it can."""
    words = question.split()
    if len(words) < 3:
        return "question too short"
    if len(words) > _LONGEST_QUESTION:
        return "question too long"
    if _POINTS_AT_TEXT.search(question):
        return "question points at its text"
    return None


def same_question(question: str, other: str, limit: float) -> bool:
    """Whether two questions share so many words that they ask the same.

    Overlap is Jaccard's, of words without the asking ones; numbers and the asking word itself
    ("who", "when") must be the same.
    """
    if numbers(question) != numbers(other) or _asking(question) != _asking(other):
        return False
    mine, others = _words(question) - _ASKING, _words(other) - _ASKING
    if not mine or not others:
        return phrase(question) == phrase(other)
    return overlap(mine, others) >= limit


def overlap(a: Collection[str], b: Collection[str]) -> float:
    """Jaccard's: shared items as a part of all; two empty collections are the same."""
    shared, every = set(a) & set(b), set(a) | set(b)
    return len(shared) / len(every) if every else 1.0


def _asking(question: str) -> str:
    found = re.search(r"\b(who|whom|whose|when|where|why|how|what|which)\b", question.casefold())
    return {"whom": "who"}.get(found[1], found[1]) if found else ""


def _words(text: str) -> set[str]:
    return set(phrase(text).split())


# --- answers -----------------------------------------------------------------------------------


def answer_fault(question: str, answer: str, document: str, rules: QualityConfig) -> str | None:
    """Why an answer cannot stand; None where it is found in the document.

    Found is an answer whose numbers and dates are all among the document's and whose words, or
    those of each part of a list, stand there in sequence, whatever their case and punctuation.

    Args:
        question: What it answers.
        answer: What the teacher said; empty where the document has none.
        document: The whole passage.
        rules: Limits.
    """
    if not phrase(answer).strip():
        return "no answer in the document"
    if len(answer.split()) > rules.max_answer_words:
        return "answer too long"
    figures = numbers(answer)
    if len(held(figures, document)) < len(figures):
        return "number not in the document"
    if not (figures and not phrase(without_dates(answer)).strip()) and not _found(answer, document):
        return "answer not in the document"
    # "Which is older, A or B?" names its answer, as a question without a choice may not.
    if _phrase(answer) in _phrase(question) and " or " not in question.casefold():
        return "question gives its answer away"
    return None


def _found(answer: str, document: str) -> bool:
    text = _phrase(document)
    if _phrase(answer) in text:
        return True
    parts = [_phrase(part) for part in _SEPARATORS.split(answer)]
    return len(parts) > 1 and all(part.strip() and part in text for part in parts)


def _phrase(text: str) -> str:
    return _ARTICLES.sub("", phrase(_THOUSANDS.sub("", text)))


def holds_answer(answer: str, document: str) -> bool:
    """Whether the words of an answer stand in a document in sequence."""
    return _phrase(answer) in _phrase(document)


def agree(first: str, second: str, limit: float) -> bool:
    """Whether two answers say the same: the same numbers, and words whose F1 reaches a limit."""
    if set(numbers(first)) != set(numbers(second)):
        return False
    mine, others = _phrase(first).split(), _phrase(second).split()
    if not mine or not others:
        return mine == others
    shared = sum((Counter(mine) & Counter(others)).values())
    return 2 * shared / (len(mine) + len(others)) >= limit


def in_one_sentence(question: str, answer: str, document: str) -> bool:
    """Whether one sentence holds the answer and every telling word of the question."""
    wanted = _words(question) - _ASKING
    return any(
        _phrase(answer) in _phrase(sentence) and wanted <= _words(sentence)
        for sentence in _sentences(document)
    )


def _sentences(text: str) -> Iterator[str]:
    start, end = stripped(text, 0, len(text))
    for cut, _ in sentence_cuts(text, start, end) if start < end else ():
        yield text[start:cut]
        start = cut
    yield text[start:end]


# --- coverage ----------------------------------------------------------------------------------


def facts(document: str) -> tuple[str, ...]:
    """The numbers, dates and names of a document: what its pairs shall cover.

    Single words are names only where a capital is not due to the start of a sentence: what is none
    could neither be asked for nor kept in other words.
    """
    return (*numbers(document), *entities(document, certain=True))


def uncovered(items: Iterable[str], texts: Iterable[str]) -> tuple[str, ...]:
    """The facts that no question or answer mentions, in their order."""
    items = tuple(items)
    found = {item for text in texts for item in held(items, text)}
    return tuple(item for item in items if item not in found)


# --- paraphrases -------------------------------------------------------------------------------


def paraphrase_fault(
    paraphrase: str, document: str, rules: QualityConfig, *, title: str = ""
) -> str | None:
    """Why a paraphrase cannot stand; None where it keeps every fact in another form.

    Args:
        paraphrase: What the teacher wrote.
        document: The text of the passage.
        rules: Limits.
        title: The passage's; what it names may be named.
    """
    source = framed(title, document)
    if not paraphrase.strip():
        return "paraphrase empty"
    figures, names = numbers(document), entities(document, certain=True)
    if len(held(figures, paraphrase)) < len(figures):
        return "paraphrase loses a number"
    if len(held(names, paraphrase)) < len(names):
        return "paraphrase loses a name"
    if len(held(numbers(paraphrase), source)) < len(numbers(paraphrase)):
        return "paraphrase adds a number"
    if any(not _words(name) <= _words(source) for name in entities(paraphrase, certain=True)):
        return "paraphrase adds a name"
    if (
        copied(paraphrase, document) > rules.max_copied
        and in_order(paraphrase, document) > rules.max_in_order
    ) or phrase(paraphrase) == phrase(document):
        return "paraphrase copies the form"
    mine, length = len(paraphrase.split()), len(document.split())
    if not length / 2 <= mine <= 2 * length:
        return "paraphrase of another length"
    return None


def copied(paraphrase: str, document: str) -> float:
    """Part of a paraphrase's runs of four words that stand in the document."""
    mine, theirs = _runs(paraphrase), _runs(document)
    if not mine:
        return float(phrase(paraphrase) == phrase(document))
    return sum(run in theirs for run in mine) / len(mine)


def in_order(paraphrase: str, document: str) -> float:
    """Part of a paraphrase's runs of four words that stand in the document in the same order.

    The longest rising sequence of their places: sentences that were moved break it.
    """
    mine = _listed(paraphrase)
    places = {run: at for at, run in reversed(list(enumerate(_listed(document))))}
    ends: list[int] = []
    for run in mine:
        if run in places:
            at = bisect_left(ends, places[run])
            ends[at : at + 1] = [places[run]]
    return len(ends) / len(mine) if mine else 1.0


def _runs(text: str) -> set[tuple[str, ...]]:
    return set(_listed(text))


def _listed(text: str) -> list[tuple[str, ...]]:
    words = phrase(text).split()
    return [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
