"""Sentences taken apart: who or what, the verb, and the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from openclara.synthesis.teachers.rules.documents import LONGEST
from openclara.synthesis.teachers.rules.spans import DATE
from openclara.synthesis.teachers.rules.subjects import resolve
from openclara.synthesis.teachers.rules.verbs import is_participle, is_past, is_verb
from openclara.synthesis.teachers.rules.words import (
    ADVERBS,
    BASE_OF_PAST,
    BE,
    HAVE,
    MODAL,
    OPENERS,
    PREPOSITIONS,
    PRESENT,
    PRONOUNS,
)

if TYPE_CHECKING:
    from openclara.synthesis.teachers.rules.documents import Document


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of the form subject, verb, rest.

    Attributes:
        sentence: Its number in the document.
        subject: As it may stand in a question: pronouns replaced, no capital without reason.
        spoken: The subject's words in the document, the title where a pronoun stands for it; empty
            where the document does not have the title's words.
        person: The subject is somebody, as far as its words show.
        titled: The subject is what the document's title names.
        auxiliary: `was`, `has`, `can be` and so on; empty before a plain past or present.
        adverb: Between auxiliary and verb.
        verb: The participle or the plain verb; empty for "is a".
        rest: What follows the verb, without the final stop.
        lead: What stood before the subject, such as "In 1990".
    """

    sentence: int
    subject: str
    spoken: str
    person: bool
    titled: bool
    auxiliary: str
    adverb: str
    verb: str
    rest: str
    lead: str

    @property
    def passive(self) -> bool:
        """Something is done to the subject."""
        return (
            bool(self.verb)
            and self.auxiliary.split()[-1:] != []
            and (self.auxiliary.split()[-1] in BE | {"be", "been"})
        )


_LEAD = re.compile(
    r"(?P<lead>(?:In|On|During|By|At|Since|From|After|Before|Around|Until|Following|Throughout)\s"
    rf"(?:{DATE}|[^,;:()\"“]{{3,60}})),\s(?=[^\W\d])"
)

_ADVERB_LEAD = re.compile(
    r"(?:However|Today|Moreover|Furthermore|Additionally|Also|Thus|Finally), "
)

_NO_SUBJECT: Final = PREPOSITIONS | ADVERBS | {"although", "when", "if", "not", "even", "because"}

_LONGEST_SUBJECT: Final = 12

_SECOND = re.compile(r",? and (?:then |also |later )?(?=[a-z]+ )")


def read_statements(document: Document, number: int) -> list[Statement]:
    """What a sentence says of its subject: one statement, or two joined by "and"."""
    first = _read_statement(document, number)
    if first is None:
        return []
    found = [first]
    for match in _SECOND.finditer(first.rest):
        tokens = first.rest[match.end() :].split(" ")
        finite = tokens[0] in BE | HAVE or (tokens[0] in BASE_OF_PAST or tokens[0] in PRESENT)
        finite = finite or (is_past(tokens[0]) and not first.auxiliary)
        verb = _read_verb(tokens, 0) if finite else None
        if verb is not None:
            auxiliary, adverb, main, after = verb
            rest = " ".join(tokens[after:])
            found.append(
                replace(first, auxiliary=auxiliary, adverb=adverb, verb=main, rest=rest, lead="")
            )
            break
    return found


def _read_statement(document: Document, number: int) -> Statement | None:
    text = document.sentences[number]
    if not text.endswith((".", '."', ".”", ")")) or len(text) > LONGEST or not text[0].isupper():
        return None
    if text.count('"') % 2 or text.count("(") != text.count(")"):
        return None
    text = _ADVERB_LEAD.sub("", text.rstrip(".")).strip()
    lead = ""
    if match := _LEAD.match(text):
        lead, text = match["lead"], text[match.end() :]
        text = text[0].upper() + text[1:]
    tokens = text.split(" ")
    if tokens[0] in OPENERS:
        tokens = tokens[1:]
    if not tokens or tokens[0].lower() in _NO_SUBJECT:
        return None
    at = _find_verb(tokens)
    if at is None:
        return None
    spoken, end = at
    resolved = resolve(document, spoken, number)
    if resolved is None:
        return None
    subject, person, spoken = resolved
    verb = _read_verb(tokens, end)
    if verb is None:
        return None
    auxiliary, adverb, main, after = verb
    rest = " ".join(tokens[after:])
    titled = document.about_title and (
        subject == document.title
        or (document.person and person and subject.split()[-1] == document.title.split()[-1])
    )
    return Statement(
        sentence=number,
        subject=subject,
        spoken=spoken,
        person=document.person if titled else person,
        titled=titled,
        auxiliary=auxiliary,
        adverb=adverb,
        verb=main,
        rest=rest,
        lead=lead,
    )


def _find_verb(tokens: list[str]) -> tuple[str, int] | None:
    """The subject's words and the place of the verb behind it."""
    subject: list[str] = []
    place = 0
    while place < min(len(tokens), _LONGEST_SUBJECT + 14) and len(subject) <= _LONGEST_SUBJECT:
        token = tokens[place]
        if subject and is_verb(token, subject[-1]):
            while len(subject) > 1 and (subject[-1] in ADVERBS or subject[-1].endswith("ly")):
                subject.pop()
            return " ".join(subject), place
        if token.startswith("("):
            while place < len(tokens) and not tokens[place].rstrip(",").endswith(")"):
                place += 1
            # "(1901–1970)," also ends an apposition.
            place += 1
            continue
        if token.endswith(","):
            subject.append(token[:-1])
            closing = _closing_comma(tokens, place)
            if closing is None:
                return None
            place = closing + 1
            continue
        lower = token.lower()
        if token[-1:] in ";:\"”'" or token[:1] in "\"“'":
            return None
        if subject and token.islower() and lower in PREPOSITIONS - {"in", "for", "at", "on"}:
            return None
        if lower in ("that", "which", "who", "whose", "where", "when", "while", "if", "because"):
            return None
        if subject and lower in PRONOUNS - {"one", "such"}:
            return None
        subject.append(token)
        place += 1
    return None


def _closing_comma(tokens: list[str], start: int) -> int | None:
    """Where an apposition of at most twelve words ends, with a verb behind it."""
    for place in range(start + 1, min(start + 13, len(tokens) - 1)):
        if tokens[place].endswith(",") and is_verb(tokens[place + 1], tokens[place]):
            return place
        if tokens[place][-1:] in ".;:":
            return None
    return None


def _read_verb(tokens: list[str], place: int) -> tuple[str, str, str, int] | None:
    """Auxiliary, adverb, main verb, and the place of what follows."""
    auxiliaries, adverbs = [], []
    first = tokens[place]
    if first in BE | HAVE | MODAL:
        auxiliaries.append(first)
        place += 1
    while place < len(tokens):
        word = tokens[place]
        if word in ("not", "n't", "neither", "no"):
            return None
        if word in ("be", "been", "have") and auxiliaries:
            auxiliaries.append(word)
        elif (word in ADVERBS or word.endswith("ly")) and place + 1 < len(tokens):
            adverbs.append(word)
        else:
            break
        place += 1
    if place >= len(tokens):
        return None
    word = tokens[place].rstrip(",")
    comma = tokens[place].endswith(",")
    auxiliary, adverb = " ".join(auxiliaries), " ".join(adverbs)
    if not auxiliaries:
        followed_by = tokens[place + 1] if place + 1 < len(tokens) else ""
        # "The team coached by Smith won": a participle, not the verb.
        if comma or followed_by == "by" or is_past(followed_by):
            return None
        if not (is_past(word) or word in PRESENT):
            return None
        return "", adverb, word, place + 1
    if auxiliaries[-1] in BE | {"be", "been"} | HAVE | {"have"} and is_participle(word):
        return None if comma else (auxiliary, adverb, word, place + 1)
    if auxiliaries[-1] in BE and not word.endswith("ing"):
        return auxiliary, adverb, "", place
    if auxiliaries == [first] and first in HAVE:
        return "", adverb, first, place
    return None
