"""A document said again: sentences moved and rebuilt, words exchanged, names and numbers kept."""

from __future__ import annotations

import random
import re
import zlib
from typing import Final

from openclara.synthesis.teachers.rules.documents import LONGEST, split_sentences
from openclara.synthesis.teachers.rules.rebuilding import REBUILDS, capitalised
from openclara.synthesis.teachers.rules.spans import capitals, numerals
from openclara.synthesis.teachers.rules.synonyms import EXCHANGED, FREE, OPENINGS
from openclara.synthesis.teachers.rules.words import (
    ADVERBS,
    OPENERS,
    PRONOUNS,
    word_set,
)

_DEPENDENT: Final = word_set(
    """
    However Therefore Thus Moreover Furthermore Also Additionally Then Later Instead Similarly
    Nevertheless Otherwise Meanwhile Consequently Hence Likewise Besides Finally Afterwards
    Still Again Such Both Another Other Others Neither Either Here There First Second Third For
    As Because Although While When After Before Since
    """
)


def reword(text: str, number: int = 0) -> str:
    """Say a text again in other words and another order.

    Each sentence keeps its numbers and capitalised words; one that would lose any stays as it is.

    Args:
        text: The document.
        number: Counts repetitions; another one gives another wording.
    """
    chooser = random.Random(zlib.crc32(text.encode("utf-8", "replace")) + number)
    sentences = split_sentences(text)
    blocks = _blocks(sentences)
    # What comes first says what all is about, and names it in full.
    moved = blocks[1:]
    if len(moved) > 1:
        chooser.shuffle(moved)
    told = [reword_sentence(one, chooser) for block in blocks[:1] + moved for one in block]
    return " ".join(told)


def _blocks(sentences: list[str]) -> list[list[str]]:
    """Sentences with those that lean on them: a pronoun needs what was said before it."""
    blocks: list[list[str]] = []
    for sentence in sentences:
        words = sentence.split()
        first = words[0].strip("\"'“(,")
        leans = first in _DEPENDENT | OPENERS or first.lower() in PRONOUNS | ADVERBS
        opening = {word.strip(",.").lower() for word in words[:8]}
        leans = (
            leans or not first[:1].isupper() or bool(opening & {"he", "she", "it", "they", "this"})
        )
        leans = leans or re.match(r"The [a-z]+\b(?! of)", sentence) is not None
        leans = leans or bool(opening & {"his", "her", "its", "their", "these", "those", "such"})
        if leans and blocks:
            blocks[-1].append(sentence)
        else:
            blocks.append([sentence])
    return blocks


def reword_sentence(sentence: str, chooser: random.Random) -> str:
    """One sentence rebuilt where a rule fits it, and with words exchanged."""
    if len(sentence) > LONGEST:
        return sentence
    told = sentence
    for opening, other in OPENINGS.items():
        if told.startswith(opening + " "):
            told = other + told[len(opening) :]
            break
    for rebuild in REBUILDS:
        rebuilt = rebuild(told)
        if rebuilt != told and keeps_facts(told, rebuilt):
            told = rebuilt
            break
    exchanged = _exchange(told, chooser)
    return exchanged if keeps_facts(told, exchanged) else told


def keeps_facts(before: str, after: str) -> bool:
    """Whether a sentence has the same numbers and names after a change.

    The word that begins a sentence has a capital whatever it is, so it counts only where it is
    capitalised in both places or is no plain word.
    """
    first = {text.split()[0].strip("\"'“(,.") for text in (before, after) if text.split()}
    loose = {word for word in first if word[1:].islower() or len(word) == 1}
    names = [capitals(text) - loose for text in (before, after)]
    lost = {word for word in loose if word in capitals(before)} - capitals(after)
    plain = all(word.lower() in after.lower().split() or word.lower() in FREE for word in lost)
    return numerals(before) == numerals(after) and names[0] == names[1] and plain


def _exchange(sentence: str, chooser: random.Random) -> str:
    """Words outside quotations exchanged for others of the same meaning and form."""
    parts = re.split(r"(\"[^\"]*\"|“[^”]*”)", sentence)
    parts[::2] = [_exchange_plain(part, chooser) for part in parts[::2]]
    return "".join(parts)


def _exchange_plain(text: str, chooser: random.Random) -> str:
    def other(match: re.Match[str]) -> str:
        said = match[0]
        choices = EXCHANGED[said.lower()]
        chosen = chooser.choice(choices)
        begins_article = text[: match.start()].endswith((" a ", " an ", "A ", "An "))
        if begins_article:
            vowel = said[0].lower() in "aeiou"
            same = [one for one in choices if (one[0] in "aeiou") == vowel]
            if not same:
                return said
            chosen = chooser.choice(same)
        return capitalised(chosen) if said[0].isupper() else chosen

    return _PATTERN.sub(other, text)


_PATTERN = re.compile(
    # A capital inside a sentence is part of a name; only the first word may have one.
    r"(?<![\w'’\-])(?:"
    + "|".join(
        rf"{re.escape(words)}|^{re.escape(words[0].upper() + words[1:])}"
        for words in sorted(EXCHANGED, key=len, reverse=True)
    )
    + r")(?![\w'’\-])"
)
