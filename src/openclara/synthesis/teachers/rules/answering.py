"""Answers found in the document by the form of the question."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from openclara.synthesis.teachers.rules.documents import LONGEST
from openclara.synthesis.teachers.rules.spans import COUNT, DATE, NAME, looks_like_person
from openclara.synthesis.teachers.rules.words import (
    ADVERBS,
    BE,
    HAVE,
    MODAL,
    PREPOSITIONS,
    PRONOUNS,
    word_set,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openclara.synthesis.teachers.rules.documents import Document

_SMALL: Final = (
    PREPOSITIONS
    | PRONOUNS
    | BE
    | HAVE
    | MODAL
    | ADVERBS
    | word_set(
        """
    the a an of and or did do does how when where why be been missing sentence name number date
    born die stand
    """
    )
)
_WORD = re.compile(r"\w+")
LEAST_SHARED: Final = 0.5


def content_words(text: str) -> set[str]:
    """Words that carry meaning, their endings taken off so that "founded" meets "found"."""
    words = (word.lower() for word in _WORD.findall(text))
    return {_stem(word) for word in words if word not in _SMALL}


def share(asked: set[str], text: str) -> float:
    """How many of some content words a text has, from 0 to 1."""
    return len(asked & content_words(text)) / len(asked)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "d"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending).rstrip("e")
    return word.rstrip("e")


def find_answer(document: Document, question: str) -> str:
    """The span that answers a question by its form: a date to "when", a name to "who" and so on.

    Returns:
        The span; empty where no sentence shares enough words with the question or none of its
        spans fits.
    """
    asked = content_words(question)
    if not asked:
        return ""
    scored = [
        (share(asked, sentence), -number, sentence)
        for number, sentence in enumerate(document.sentences)
        if len(sentence) <= LONGEST
    ]
    for shared, _, sentence in sorted(scored, reverse=True)[:2]:
        if shared < LEAST_SHARED:
            break
        for span in _spans(question, sentence):
            if content_words(span) - asked and span.lower() not in question.lower():
                return span
    return ""


def _spans(question: str, sentence: str) -> Iterable[str]:
    lower = question.lower()
    found: Iterable[str]
    if re.match(r"when\b|(?:in|on|since) (?:what|which) (?:year|date|day|month)", lower):
        found = _matches(DATE, sentence)
    elif re.match(r"how (?:many|much|old|long|tall|far|large|big|high)\b", lower):
        found = _matches(rf"\b{COUNT}", re.sub(DATE, "", sentence))
    elif lower.startswith(("who", "by whom", "whose")):
        names = _matches(NAME, sentence)
        found = sorted(names, key=lambda name: not looks_like_person(name))
    elif lower.startswith("where"):
        found = _matches(rf"(?<=\bin ){NAME}|(?<=\bat ){NAME}|(?<=\bnear ){NAME}", sentence)
    else:
        found = [*_matches(rf"(?<!^){NAME}", sentence), *_matches(DATE, sentence)]
    return found


def _matches(pattern: str, text: str) -> list[str]:
    return [match[0] for match in re.finditer(pattern, text)]
