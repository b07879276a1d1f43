"""Questions that need no statement: from brackets, appositions, counts, and gaps in sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from openclara.synthesis.teachers.rules.documents import LONGEST
from openclara.synthesis.teachers.rules.phrases import Candidate
from openclara.synthesis.teachers.rules.spans import (
    COUNT,
    DATE,
    NAME,
    find_facts,
    looks_like_person,
)
from openclara.synthesis.teachers.rules.verbs import is_verb
from openclara.synthesis.teachers.rules.words import PERSON_NOUNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.synthesis.teachers.rules.documents import Document

_SHORT = re.compile(
    r"(?P<long>(?:[A-Z][\w-]+|of|and|for|the)(?: (?:[A-Z][\w-]+|of|and|for|the))+) "
    r"\((?P<short>[A-Z]{2,6})\)"
)
_APPOSED = re.compile(rf"(?P<name>{NAME}), (?P<role>the [a-z][^,.;()]{{8,80}}),")
_THERE = re.compile(
    rf"[Tt]here (?P<be>are|were) (?P<count>(?:about |over |more than |approximately )?{COUNT}) "
    r"(?P<noun>(?:[a-z][\w-]* ){0,2}[a-z]+s) (?P<where>in (?:the )?[A-Z][^,.;()]{2,50})"
)


def ask_without_statement(document: Document) -> Iterator[Candidate]:
    """Questions from forms that are sure wherever they stand."""
    for number, sentence in enumerate(document.sentences):
        if len(sentence) > LONGEST:
            continue
        for match in _SHORT.finditer(sentence):
            initials = [w[0] for w in match["long"].split() if w[0].isupper()]
            short = match["short"]
            if len(initials) >= len(short):
                words = match["long"].split()
                while len([w for w in words if w[0].isupper()]) > len(short):
                    words.pop(0)
                while words and not words[0][0].isupper():
                    words.pop(0)
                if [w[0] for w in words if w[0].isupper()] == list(short):
                    yield Candidate(f"What does {short} stand for?", " ".join(words), number)
        for match in _THERE.finditer(sentence):
            question = f"How many {match['noun']} {match['be']} there {match['where'].strip()}?"
            yield Candidate(question, match["count"], number)
        yield from _roles(document, number, sentence)
    yield from _life(document)


def _roles(document: Document, number: int, sentence: str) -> Iterator[Candidate]:
    for match in _APPOSED.finditer(sentence):
        role = match["role"]
        fits = any(word[0].isupper() for word in role.split()) and len(role.split()) <= 12
        following = sentence[match.end() :].split(" ")
        fits = fits and len(following) > 1 and is_verb(following[1], following[0] or "x")
        if fits and not re.search(r"\b(?:his|her|its|their|this|that|which|who)\b", role):
            nouns = set(re.findall(r"[\w-]+", role))
            person = looks_like_person(match["name"]) and nouns & PERSON_NOUNS
            word = "Who" if person else "What"
            past = re.search(r"\b(?:was|were|had|\w+ed)\b", sentence) is not None
            yield Candidate(f"{word} {'was' if past else 'is'} {role}?", match["name"], number)


def _life(document: Document) -> Iterator[Candidate]:
    brackets = re.search(r"\(([^()]*)\)", document.sentences[0][:200]) if document.person else None
    if brackets is None:
        return
    dates = re.findall(DATE, brackets[1])
    title = document.title
    lived = len(dates) == 2 and re.search(r"[–—-]", brackets[1])
    if lived or (dates and "born" in brackets[1]):
        yield Candidate(f"When was {title} born?", dates[0], 0, title)
    if lived:
        yield Candidate(f"When did {title} die?", dates[1], 0, title)


def ask_for_gap(document: Document, number: int, fact: str) -> Candidate | None:
    """A sentence with a gap where a fact stood, as a question."""
    sentence = document.sentences[number]
    if not 5 <= len(sentence.split()) <= 45 or sentence.count('"') % 2:
        return None
    gapped, found = re.subn(rf"(?<!\w){re.escape(fact)}(?!\w)", "_____", sentence)
    if found != 1 or fact.startswith(("The ", "At ", "In ")) or len(fact) < 2:
        return None
    if fact.lower() in gapped.lower() or fact.lower() in document.title.lower():
        return None
    about = f" on {document.title}" if document.title and document.title not in sentence else ""
    kind = "date" if re.fullmatch(DATE, fact) else "number" if fact[0].isdigit() else "name"
    quoted = gapped.replace('"', "'").rstrip(".")
    return Candidate(
        f'Which {kind} is missing from this sentence{about}: "{quoted}"?', fact, number
    )


def facts_by_sentence(document: Document) -> Iterator[tuple[int, str]]:
    """Every name, number and date with the number of its sentence."""
    for number, sentence in enumerate(document.sentences):
        for fact in find_facts(sentence) if len(sentence) <= LONGEST else ():
            yield number, fact
