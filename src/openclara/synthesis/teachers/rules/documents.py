"""What of a document all its sentences need: its title, its words, and whom it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from openclara.data.sentences import sentence_cuts, stripped
from openclara.synthesis.teachers.rules.spans import looks_like_person
from openclara.synthesis.teachers.rules.verbs import is_past
from openclara.synthesis.teachers.rules.words import PERSON_NOUNS, PREPOSITIONS

LONGEST: Final = 500
"""Characters of a sentence; what is longer is a list or no sentence at all."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as the rules see it.

    Attributes:
        title: Without what stands in brackets behind it.
        sentences: Each on one line.
        about_title: The first sentence begins with the title.
        person: The title names somebody.
    """

    title: str
    sentences: tuple[str, ...]
    about_title: bool
    person: bool
    words: frozenset[str] = field(repr=False)
    inner_names: frozenset[str] = field(repr=False)


def split_sentences(text: str) -> list[str]:
    """Sentences with their inner whitespace made single spaces."""
    start, end = stripped(text, 0, len(text))
    cuts = [start, *(cut for cut, _ in sentence_cuts(text, start, end)), end]
    pieces = (text[one:two] for one, two in pairwise(cuts))
    return [sentence for piece in pieces if (sentence := " ".join(piece.split()))]


_WORDS = re.compile(r"[\w'’]+")

DEFINED = re.compile(r"\b(?:is|was|are|were) (?:an?|the|one of)\b(?P<what>[^.,;()]*)")


def read_document(text: str, title: str) -> Document:
    """Take a document apart as far as all its sentences need."""
    sentences = split_sentences(text)
    core = re.sub(r"\s*\([^)]*\)\s*$", "", " ".join(title.split()))
    first = sentences[0] if sentences else ""
    about = bool(core) and re.match(rf"(?:The )?{re.escape(core)}\b", first) is not None
    if not about and core and looks_like_person(core):
        # "Thomas Stearns Eliot" for the title "T. S. Eliot"
        about = core.split()[-1] in first.split(",")[0].split("(")[0].split()
    defined = DEFINED.search(first)
    person = about and defined is not None and tells_of_person(defined["what"])
    person = person or (
        about
        and re.search(r"\((?:born|[^)]*\d{4} ?[–-])", first[:150]) is not None
        and looks_like_person(core)
    )
    inner = {word for one in sentences for word in _WORDS.findall(one)[1:] if word[0].isupper()}
    # Titles begin with a capital whatever their first word is.
    headed = _WORDS.findall(core)
    inner.update(word for word in headed[1:] if word[0].isupper())
    if len(headed) > 1 and headed[1][0].isupper():
        inner.add(headed[0])
    return Document(
        title=core,
        sentences=tuple(sentences),
        about_title=about,
        person=person,
        words=frozenset(word for one in sentences for word in _WORDS.findall(one)),
        inner_names=frozenset(inner),
    )


def tells_of_person(description: str) -> bool:
    """Whether "an Irish singer from Sligo" is somebody: judged up to the first preposition."""
    for word in re.findall(r"[\w'’]+", description):
        if word in PREPOSITIONS or word == "of" or is_past(word):
            return False
        if word in PERSON_NOUNS or word.removesuffix("s") in PERSON_NOUNS:
            return True
    return False
