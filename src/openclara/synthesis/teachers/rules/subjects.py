"""Whom or what a sentence speaks of, named so that a question can stand by itself."""

from __future__ import annotations

import re

from openclara.synthesis.teachers.rules.documents import DEFINED, Document
from openclara.synthesis.teachers.rules.spans import looks_like_person
from openclara.synthesis.teachers.rules.words import ADVERBS, INSIDE_SUBJECT, PRONOUNS

_SINGULAR = ("he", "she", "it")


def resolve(document: Document, spoken: str, number: int) -> tuple[str, bool, str] | None:
    """The subject for a question, whether it is a person, and its words in the document."""
    lower = spoken.lower()
    if lower in _SINGULAR:
        fits = document.person == (lower != "it")
        if not document.about_title or not fits or not _is_spoken_of(document, number, lower):
            return None
        named = any(document.title in one for one in document.sentences)
        return document.title, document.person, document.title if named else ""
    words = spoken.split()
    if words[0].lower() in PRONOUNS or lower in ("the", "a", "an"):
        return None
    if len(words) == 1:
        return _resolve_word(document, spoken)
    if words[0] in ("The", "A", "An"):
        return _resolve_described(document, words)
    if all(word[0].isupper() or word in INSIDE_SUBJECT or word[0].isdigit() for word in words):
        person = looks_like_person(spoken) or (document.person and spoken == document.title)
        return spoken, person, spoken
    named = words[0] in document.inner_names or words[0].isupper()
    if named and words[0].lower() not in document.words:
        return None if words[0].endswith(("'s", "’s")) else (spoken, False, spoken)
    known = words[0].lower() in document.words or spoken.casefold() == document.title.casefold()
    return (lower[0] + spoken[1:], False, spoken) if known else None


def _is_spoken_of(document: Document, number: int, pronoun: str) -> bool:
    """Whether a pronoun means what the title names: nothing else of its kind came between."""
    for before in document.sentences[1:number]:
        opening = " ".join(before.split(",")[0].split()[:3]) or ","
        begins = re.match(r"(?:The )?([A-Z][\w'’]*(?: [A-Z][\w'’]*)*)", opening)
        name = begins[1] if begins else ""
        if pronoun != "it" and looks_like_person(name) and document.title.split()[-1] not in name:
            return False
        if pronoun == "it" and opening.split()[0] not in ("It", "Its", *document.title.split()):
            return False
    return True


def _resolve_word(document: Document, word: str) -> tuple[str, bool, str] | None:
    known = document.title.split()
    if document.about_title and document.person and word == known[-1]:
        return document.title, True, word
    named = document.about_title and word == document.title
    if named and word.lower() not in document.words:
        return word, document.person, word
    if word in document.inner_names or (word.isupper() and len(word) > 1):
        return word, _is_surname(document, word), word
    if word.lower() in document.words and word.lower() not in ADVERBS:
        return word.lower(), False, word
    return None


def _is_surname(document: Document, word: str) -> bool:
    """Whether the document has a full name that ends with a word."""
    pattern = rf"\b([A-Z][\w.'’]*(?: [A-Z][\w.'’]*){{0,2}} {re.escape(word)})\b"
    found = (match[1] for one in document.sentences for match in re.finditer(pattern, one))
    return any(looks_like_person(name) for name in found)


def _resolve_described(document: Document, words: list[str]) -> tuple[str, bool, str] | None:
    spoken = " ".join(words)
    subject = words[0].lower() + spoken[len(words[0]) :]
    if any(word[0].isupper() for word in words[1:]) or words[0] != "The" or "of" in words:
        return subject, False, spoken
    # "The film" in a document on a film is what the title names.
    first = document.sentences[0] if document.sentences else ""
    defined = DEFINED.search(first)
    nouns = defined["what"].split() if defined else []
    if document.about_title and len(words) == 2 and words[1] in nouns:
        return document.title, False, spoken
    return None
