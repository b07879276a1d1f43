"""Pieces of statements as questions need them, and questions put together from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openclara.synthesis.teachers.rules.spans import DATE, NAME
from openclara.synthesis.teachers.rules.verbs import base_form, is_participle
from openclara.synthesis.teachers.rules.words import (
    ADVERBS,
    MONTHS,
    NO_NOUN,
    PREPOSITIONS,
    PRESENT,
    PRONOUNS,
    word_set,
)

if TYPE_CHECKING:
    from openclara.synthesis.teachers.rules.statements import Statement


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question with its answer.

    Attributes:
        question: As it is asked.
        answer: As it stands in the document, up to whitespace.
        sentence: Number of the sentence that answers it.
        subject: What the question is about, as it stands in it; empty where it is not known.
        asks_subject: The answer is the statement's subject.
    """

    question: str
    answer: str
    sentence: int
    subject: str = ""
    asks_subject: bool = False


_LONGEST: Final = 14
"""Words of the rest that a question repeats."""

_CLAUSE = re.compile(
    r",|;|:| [–—-] |\(| (?:but|which|who|whom|whose|where|although|because|while|when|that|so|"
    r"if|as well as|rather than|and (?:is|was|were|are|has|had|would|could|might|can|will|may|"
    r"then|also|later|he|she|it|they|"
    r"its|his|her|to|in|on|at|by|for|from|\w+ed|\w+ing|[a-z]+ by)|or (?:is|was|he|she|it|they)|"
    r"before \w+ing|after \w+ing|by \w+ing|\w+ing (?:the|a|an)) "
)

_DATE = re.compile(DATE)

PLACES = re.compile(rf"\b(?:in|at|near) (?P<place>(?:the )?{NAME}(?:, {NAME})*)")


def clause(rest: str) -> str | None:
    """The rest of a sentence up to where another clause begins; dates stay whole.

    None where a dash, as in "63 – 0", may or may not begin one.
    """
    dates = [match.span() for match in _DATE.finditer(rest)]
    for match in _CLAUSE.finditer(rest):
        if any(start < match.start() < end for start, end in dates):
            continue
        # "Springfield, Illinois": part of a place.
        if match[0] == "," and _is_in_place(rest, match.start()):
            continue
        if match[0] == "," and rest[match.end() : match.end() + 3].isdigit():
            continue
        if match[0].strip() in ("–", "—", "-") and not rest[match.end() :][:1].islower():
            return None
        return rest[: match.start()].strip()
    return rest.strip()


def _is_in_place(rest: str, at: int) -> bool:
    return any(
        match.start("place") < at < match.end("place") - 1 for match in PLACES.finditer(rest)
    )


def fits(text: str) -> bool:
    """Whether words may be repeated in a question: few enough, and meaning nothing said before."""
    words = text.split()
    pointing = PRONOUNS - {"one", "such", "some", "many", "most", "all", "other", "several", "what"}
    return len(words) <= _LONGEST and not any(
        word.strip("'\".").lower() in pointing for word in words
    )


def inverted(statement: Statement, words: str, rest: str) -> str:
    """`words` and the statement as a question, the subject behind the first auxiliary."""
    first, _, further = statement.auxiliary.partition(" ")
    verb = statement.verb
    if not first:
        first = "did"
        if verb in PRESENT or verb in ("has", "have"):
            plural = verb == "have" or _is_plural(statement.subject)
            first = "do" if plural else "does"
        verb = base_form(verb)
    middle = " ".join(part for part in (further, statement.adverb, verb, rest) if part)
    return f"{words} {first} {statement.subject} {middle}".strip() + "?"


def _is_plural(subject: str) -> bool:
    head = subject.split(" of ")[0].split()[-1]
    return head.endswith("s") and not head.endswith(("ss", "us", "is")) and not head[0].isupper()


_AFTER_NOUN = (ADVERBS - {"first", "best", "now", "once"}) | word_set(
    """
    back up out off down away over again alone second third
    """
)

_LY_NOUNS = word_set(
    """
    family early only daily weekly monthly yearly likely elderly
    """
)


def noun_phrase(text: str) -> str | None:
    """The noun phrase a text begins with, "of" included; None where it is not plain."""
    words = text.split()
    taken: list[str] = []
    for word in words[:16]:
        plain = word.lower()
        stops = PREPOSITIONS - {"for"} if taken else PREPOSITIONS
        if plain in stops or plain in (
            "to",
            "is",
            "was",
            "are",
            "were",
            "has",
            "had",
            "have",
            "not",
        ):
            break
        if taken and (word in _AFTER_NOUN or (word.endswith("ly") and word not in _LY_NOUNS)):
            break
        taken.append(word)
    while taken and taken[-1].lower() in ("of", "and", "the", "a", "an", "or", "for", "&"):
        taken.pop()
    if not taken or len(taken) > 12 or (len(words) > 16 and len(taken) == 16):
        return None
    phrase = " ".join(taken)
    first = taken[0].lower()
    if first in PRONOUNS | NO_NOUN | ADVERBS | {"him", "them", "me", "us", "itself", "himself"}:
        return None
    return phrase if phrase.count('"') % 2 == 0 else None


def described(core: str) -> str | None:
    """What somebody or something is, cut where the description becomes a story."""
    words = core.split()[:18]
    if len(core.split()) > 18:
        cut = max((i for i, word in enumerate(words) if word in PREPOSITIONS), default=0)
        words = words[:cut]
    dangling = PREPOSITIONS | {"of", "and", "the", "a", "an", "or"}
    while words and (words[-1].lower() in dangling or is_participle(words[-1])):
        words.pop()
    return " ".join(words) if len(words) >= 2 else None


_MONTH = re.compile(MONTHS)


def is_specific(words: str) -> bool:
    """Whether a name stands in them, which a month is not."""
    return any(word[0].isupper() and not _MONTH.match(word) for word in words.split())
