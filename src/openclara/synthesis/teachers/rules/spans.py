"""Names, numbers and dates in English text, found by their form."""

from __future__ import annotations

import re
from typing import Final

from openclara.synthesis.teachers.rules.words import (
    DAYS,
    HONORIFICS,
    MONTHS,
    NUMBER_WORDS,
    PRONOUNS,
    THING_WORDS,
)

_YEAR = r"(?:1[0-9]{3}|20[0-9]{2})(?:\s?(?:BCE?|CE|AD))?(?![\d,]*\d|-)"
_DAY = r"[0-3]?[0-9](?:st|nd|rd|th)?"
DATE: Final = (
    rf"(?:(?:{MONTHS})\s{_DAY},?\s{_YEAR}|{_DAY}\s(?:of\s)?(?:{MONTHS}),?\s{_YEAR}"
    rf"|(?:early\s|mid-|late\s)?(?:{MONTHS}),?\s{_YEAR}"
    rf"|(?:the\s)?(?:early\s|mid-|late\s)?(?:1[0-9]|20)[0-9]0s"
    rf"|(?:the\s)?(?:early\s|mid-|late\s)?[0-9]{{1,2}}(?:st|nd|rd|th)\scentury"
    rf"|(?:early\s|mid-|late\s)?{_YEAR}|(?:{MONTHS})\s{_DAY}|{_DAY}\s(?:{MONTHS}))(?!\w)"
)
WHEN: Final = re.compile(rf"\b(?P<preposition>in|on|since|during|around)\s(?P<date>{DATE})")

NUMBER: Final = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:\s(?:thousand|million|billion|trillion))?"
)
COUNT: Final = rf"(?:{NUMBER}|(?i:{NUMBER_WORDS})(?:-[a-z]+)?)"

_CAPITAL = r"(?:[A-ZÀ-ÖØ-Þ][\w'’\-]*|[A-Z]\.)(?:\.(?=[A-Z]))?"
_LINK = r"(?:\s(?:of|the|de|la|le|von|van|der|den|du|al|ibn|and|&))"
_FURTHER = rf"(?:(?:{_LINK}{{1,2}})?\s(?:{_CAPITAL}|[0-9]{{1,3}}(?:ers)?(?!\w)))"
NAME: Final = rf"{_CAPITAL}(?:\.(?=\s[A-Z]))?{_FURTHER}*"
"""A run of capitalised words, with the small words that names have inside them."""

_PLAIN_NAME = re.compile(rf"{_CAPITAL}(?:\s(?:(?:de|la|von|van|der|du|al|ibn|of)\s)?{_CAPITAL})*")
_FACT = re.compile(rf"(?P<date>{DATE})|(?P<number>\b{NUMBER})|(?P<name>\b{_PLAIN_NAME.pattern})")
_MONTH = re.compile(MONTHS)


def find_facts(sentence: str) -> list[str]:
    """Names, numbers and dates of a sentence in order; a word that merely begins it is no name."""
    facts = []
    for match in _FACT.finditer(sentence):
        text = match[0]
        alone = " " not in text
        if (
            match.lastgroup == "name"
            and alone
            and (match.start() == 0 or text.casefold() in PRONOUNS or text in DAYS or text == "I")
        ):
            continue
        facts.append(text)
    return facts


_NUMERAL = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W\d_][\w'’]*")


def numerals(text: str) -> list[str]:
    """Every number that is written in digits, sorted."""
    return sorted(_NUMERAL.findall(text))


def capitals(text: str) -> set[str]:
    """Words that are capitalised, wherever they stand."""
    return {word for word in _WORD.findall(text) if word[0].isupper()}


def is_place_or_date(name: str) -> bool:
    """Whether a name is no person by its words alone."""
    words = name.replace(".", "").split()
    return bool(_MONTH.search(name)) or any(word in THING_WORDS for word in words)


def looks_like_person(name: str) -> bool:
    """Two to four capitalised words, or one behind an honorific, none of which names a thing."""
    words = name.replace(".", "").split()
    if not words or is_place_or_date(name) or any(char.isdigit() for char in name):
        return False
    if words[0] in HONORIFICS:
        return len(words) > 1
    small = ("of", "the", "and", "&", "The")
    if any(word in small or (word.isupper() and len(word) > 2) for word in words):
        return False
    inside = ("de", "la", "le", "von", "van", "der", "den", "du", "al", "ibn")
    named = all(word[:1].isupper() or word in inside for word in words)
    return named and words[-1][:1].isupper() and 2 <= len(words) <= 4
