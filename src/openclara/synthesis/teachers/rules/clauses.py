"""Questions on explaining prose, as of policies and manuals: when, why, how, with whom, what else.

The answers are clauses and phrases as they stand, longer than the names and numbers that facts are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openclara.synthesis.teachers.rules.phrases import Candidate, noun_phrase
from openclara.synthesis.teachers.rules.verbs import base_form
from openclara.synthesis.teachers.rules.words import (
    ADVERBS,
    BE,
    HAVE,
    MODAL,
    PREPOSITIONS,
    PRESENT,
    word_set,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.synthesis.teachers.rules.documents import Document

_LONGEST_SENTENCE: Final = 70
_LONGEST_ANSWER: Final = 28
_LONGEST_QUESTION: Final = 30
_SHORT_QUESTION: Final = 7
"""Questions of fewer words could be asked of any document."""

_LONGEST_SUBJECT: Final = 8

_DETERMINERS: Final = ("The", "A", "An", "Some", "Most", "Many", "Your", "All", "Each", "Every")
_NO_SUBJECT: Final = (
    PREPOSITIONS
    | ADVERBS
    | word_set(
        """
    or and but please sometimes if when once so yet nor other others another what how why note
    see click to not no in
    """
    )
)

_POINTING: Final = word_set(
    """
    this these those they them their it its he she him his her hers such there here that
    which who whose above below following foregoing same latter former
    """
)
"""Words that mean something said before; a question cannot have them."""

_OPENING: Final = re.compile(
    r"(?P<condition>(?:If|When|Once|Unless|Whenever|After|Before|Where) [^,;:]{8,160}), "
    r"(?P<main>[^,].+)"
)
_ASIDE: Final = re.compile(r"^(?:However|Also|In addition|Additionally|For example|Therefore), ?")

_CONDITION: Final = re.compile(
    r",? (?P<answer>(?:only )?(?:if|when|whenever|unless|until|once|while|as long as) .+)"
)
_REASON: Final = re.compile(
    r",? (?P<answer>(?:because of|because|due to|as a result of|so that) .+)"
)
_MEANS: Final = re.compile(r",? (?P<answer>(?:by|through|via) (?!the end)\w+ing .+)")
_PURPOSE: Final = re.compile(r",? (?P<answer>(?:in order )?to (?P<verb>[a-z]+) .+)")
_NO_PURPOSE: Final = word_set(
    """
    able unable want wants need needs try tries begin begins began continue continues choose
    chooses chose required allow allows ability right rights used likely unlikely agree agrees
    access respond subject according related due up wish wishes designed intended seem seems
    tend tends ought refuse fail failed decide decided entitled permitted allowed elect elects
    going have has had known thought said believed prefer how what where whether you us users
    anyone people order addition relation applies apply reserve opportunity option attempt
    helps help asked leads lead led similar close next prior
    """
)
_NOT_A_VERB: Final = word_set(
    """
    the a an our your my his her its their us you me them third other others any all some many
    more most one two each every people children adults women men about over at in on of for
    """
)
_PARTNER: Final = re.compile(r"(?P<before>.+?) (?P<with>with|to) (?P<answer>.+)")
_SHARING: Final = word_set(
    "share disclose sell rent provide transfer give release shared disclosed"
)
_EXAMPLES: Final = re.compile(
    r"\b(?P<kind>(?:[a-z][\w-]* )?[a-z][\w-]*s),? (?:such as|including) (?P<answer>.+)"
)
_AFTER_EXAMPLES: Final = re.compile(
    r", (?:is|are|was|were|may|can|will|to|use|in order)\b.*| (?:in order )?to [a-z]+ .*"
)
_INCLUDES: Final = word_set(
    "include includes included involve involves contain contains cause causes"
)


@dataclass(frozen=True, slots=True)
class _Main:
    """A main clause: who, how it is said, and what.

    Attributes:
        subject: As in a question.
        auxiliary: As in a question.
        rest: The verb in the form that follows the auxiliary, and what comes after, as it stands.
    """

    subject: str
    auxiliary: str
    rest: str

    def asked(self, words: str, rest: str) -> str:
        return f"{words} {self.auxiliary} {self.subject} {rest}".strip()


def ask_for_clauses(document: Document) -> Iterator[Candidate]:
    """Every question of these forms, sentence by sentence."""
    for number, sentence in enumerate(document.sentences):
        if not sentence.endswith(".") or re.search(r'["“”\[\]{}?!;:•]', sentence):
            continue
        if not 6 <= len(sentence.split()) <= _LONGEST_SENTENCE:
            continue
        text = _ASIDE.sub("", sentence.rstrip("."))
        for question, answer in _pairs(document, text):
            if len(question.split()) < _SHORT_QUESTION:
                question = _of_document(document, question)
            if _fits(question, answer):
                yield Candidate(f"{question}?", answer, number)


def _pairs(document: Document, text: str) -> Iterator[tuple[str, str]]:
    opening = _OPENING.fullmatch(text)
    if opening is not None:
        condition, text = opening["condition"], opening["main"]
        main = _read_main(document, text)
        if main is not None:
            condition = condition[0].lower() + condition[1:]
            yield _of_document(document, f"What happens {condition}"), _shortened(text)
            if condition.startswith(("if", "when", "once", "unless", "whenever")):
                yield main.asked("When", _before_clause(main.rest)), condition
    else:
        main = _read_main(document, text)
    if main is not None:
        yield from _of_main(document, main)
    for match in _EXAMPLES.finditer(text):
        kind = _without_lead(match["kind"])
        if kind:
            question = _of_document(document, f"What are examples of {kind}")
            yield question, _shortened(_AFTER_EXAMPLES.sub("", match["answer"]))


def _of_main(document: Document, main: _Main) -> Iterator[tuple[str, str]]:
    for words, pattern in (("When", _CONDITION), ("Why", _REASON), ("How", _MEANS)):
        match = pattern.search(main.rest)
        if match is not None and match.start() > 0:
            yield main.asked(words, main.rest[: match.start()]), _shortened(match["answer"])
    before = _before_clause(main.rest)
    match = _PURPOSE.search(before)
    if match is not None and _is_purpose(before[: match.start()], match["verb"]):
        yield main.asked("Why", before[: match.start()]), _shortened(match["answer"])
        before = before[: match.start()]
    verb, _, after = before.partition(" ")
    if verb in _SHARING and (partner := _PARTNER.fullmatch(after)) is not None:
        words = f"{partner['with'].capitalize()} whom"
        yield main.asked(words, f"{verb} {partner['before']}"), _shortened(partner["answer"])
        after = partner["before"]
    if main.auxiliary in BE and after.startswith("by "):
        yield main.asked("What", f"{verb} by"), _shortened(after.removeprefix("by "))
    elif verb in _INCLUDES and main.auxiliary not in BE:
        yield main.asked("What", verb), _shortened(after)
    elif main.auxiliary not in BE and verb.islower() and verb not in PREPOSITIONS | ADVERBS:
        thing = noun_phrase(after)
        if thing is not None and len(thing.split()) > 1:
            yield main.asked("What", verb), _shortened(_with_tail(after, thing))


def _with_tail(text: str, thing: str) -> str:
    """A thing with the phrase that says which: "information about your location"."""
    tail = text[len(thing) :]
    match = re.match(r" (?:about|of|from|for|in|on) [^,()]+", tail)
    return thing + (match[0] if match is not None and len(match[0].split()) <= 9 else "")


def _read_main(document: Document, text: str) -> _Main | None:
    tokens = text.split(" ")
    for place, token in enumerate(tokens[: _LONGEST_SUBJECT + 1]):
        if place == 0:
            continue
        subject = " ".join(tokens[:place])
        if token in MODAL | BE | HAVE:
            return _main(document, subject, token, " ".join(tokens[place + 1 :]))
        if subject.lower() in ("we", "you", "they", "i") and token.islower():
            return _main(document, subject, "do", " ".join(tokens[place:]))
        if token in PRESENT and token.endswith("s"):
            rest = " ".join([base_form(token), *tokens[place + 1 :]])
            return _main(document, subject, "does", rest)
        if token[-1:] in ",)" or token in ("that", "which", "who", "to", "and", "or"):
            return None
    return None


def _main(document: Document, spoken: str, auxiliary: str, rest: str) -> _Main | None:
    words = rest.split(" ")
    while words and (words[0] in ADVERBS or words[0].endswith("ly")):
        words.pop(0)
    if len(words) < 2 or words[0] in ("not", "no", "never") or auxiliary in HAVE | {"had"}:
        return None
    lower = spoken.lower()
    if lower == "we":
        if not document.title:
            return None
        subject = document.title
        auxiliary = {"do": "does", "are": "is", "were": "was"}.get(auxiliary, auxiliary)
    elif lower == "you":
        subject = "you"
    elif lower in _POINTING or lower in ("i", "and", "but"):
        return None
    else:
        first = spoken.split()[0]
        if not first[0].isalpha() or first.lower() in _NO_SUBJECT or set(lower.split()) & _POINTING:
            return None
        known = first in _DETERMINERS or first.lower() in document.words
        if not known and first not in document.inner_names and first not in document.title:
            return None
        subject = spoken[0].lower() + spoken[1:] if known else spoken
    return _Main(subject, auxiliary, " ".join(words))


def _before_clause(rest: str) -> str:
    """What comes before the first condition, reason or means."""
    cuts = [
        match.start()
        for pattern in (_CONDITION, _REASON, _MEANS)
        if (match := pattern.search(rest)) is not None
    ]
    return rest[: min(cuts)] if cuts else rest


def _is_purpose(before: str, verb: str) -> bool:
    words = before.rstrip(",").split()
    if len(words) < 2 or words[0] in ("be", "become") or words[-1].lower() in _NO_PURPOSE:
        return False
    # Adjectives: "prone to respiratory infections".
    return verb not in _NOT_A_VERB and not verb.endswith(("ory", "al", "ic", "ous", "ful", "ary"))


def _of_document(document: Document, question: str) -> str:
    """A question that names what its document is about, unless it does so already."""
    title = document.title
    if not title or title.casefold() in question.casefold():
        return question
    return f"{question} ({title})"


def _without_lead(kind: str) -> str:
    """Without words that cannot begin a kind; empty where none is left."""
    words = kind.split()
    small = PREPOSITIONS | ADVERBS | _NOT_A_VERB | MODAL | BE | HAVE | {"and", "or", "when", "use"}
    while words and (words[0] in small or words[0] in PRESENT):
        words.pop(0)
    return " ".join(words) if words and words[-1] not in small else ""


def _shortened(answer: str) -> str:
    """Up to where another thought begins."""
    cut = re.split(r" \(|, (?:and|but|or|which|who|where|so) |, as well as ", answer)[0]
    return cut.strip(" ,")


def _fits(question: str, answer: str) -> bool:
    words = [word.strip(",'’()").lower() for word in question.split()]
    if not 4 <= len(words) <= _LONGEST_QUESTION or set(words) & _POINTING:
        return False
    if words[-1] in PREPOSITIONS | {"and", "or", "the", "a", "an", "of", "to"}:
        return False
    said = answer.split()
    if not 1 < len(said) <= _LONGEST_ANSWER or answer.count("(") != answer.count(")"):
        return False
    if question.count("(") != question.count(")"):
        return False
    return said[0].lower() not in _POINTING and said[-1].lower() not in PREPOSITIONS
