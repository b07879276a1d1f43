"""Where a text may be cut: after paragraphs, sentences, lines, clauses and words, by rule.

The rules know no language; they hold for scripts with and without capitals and word spaces.
"""

from __future__ import annotations

import re
import unicodedata
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Boundary(IntEnum):
    """What ends at a cut, from the best place for one to the worst."""

    PARAGRAPH = 0
    SENTENCE = 1
    LINE = 2
    CLAUSE = 3
    WORD = 4
    TOKEN = 5


_CLOSERS = r"""["'”’»›)\]}」』）】〉》*_]"""
# Possessive throughout, and a run of stops is tried at its first character only: a file of dots
# or of blanks takes linear time.
_ENDS = re.compile(
    r"(?P<paragraph>\n[^\S\n]*+\n\s*+|\u2029\s*+)"
    # A heading or a list item ends what stands on the line before it.
    r"|(?P<item>\n(?=[^\S\n]*+(?:[-*•·–]|[0-9]{1,3}[.)]|\#{1,6})[^\S\n]))"
    rf"|(?P<wide>[。！？｡]++{_CLOSERS}*+)"
    rf"|(?<![.!?…؟۔।॥።։])(?P<stop>[.!?…؟۔।॥።։]++){_CLOSERS}*+(?=\s)"
)
_OPENERS = "\"'“‘«‹„([{¿¡*_"
_AHEAD = re.compile(rf"\s*+[{re.escape(_OPENERS)}]*+")

# A stop after these ends no sentence. Only what is frequent and nearly certain; in doubt there is
# no end, since two sentences in one piece cost less than half a sentence in a chunk.
_ABBREVIATION = re.compile(
    r"dr|mr|mrs|ms|prof|st|mt|gen|col|capt|lt|sgt|sen|rep|gov|rev|hon|pres|vs|cf|ca|approx|viz"
    r"|e\.g|i\.e|z\.b|d\.h|u\.a|p\.ex|bzw|vgl|hr|fr|hrn|mme|mlle|sr|sra|dra|dott",
    re.IGNORECASE,
)
_BEFORE_NUMBER = re.compile(
    r"nos?|nr|figs?|eqs?|secs?|ch|chap|vols?|pp?|art|tab"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_LONGEST_WORD = 24


def sentence_cuts(text: str, start: int, end: int) -> Iterator[tuple[int, Boundary]]:
    """Find where paragraphs and sentences end within a stretch of text.

    Args:
        text: The text.
        start: First character of the stretch.
        end: One past its last character, which is not whitespace.

    Yields:
        Ascending places strictly inside the stretch, each right after a character that is not
        whitespace, and what ends there.
    """
    cut, boundary = start, Boundary.SENTENCE
    for match in _ENDS.finditer(text, start, end):
        kind = match.lastgroup
        if kind == "stop" and not _ends_sentence(text, start, match):
            continue
        is_line_end = kind in ("paragraph", "item")
        following = right_stripped(text, start, match.start()) if is_line_end else match.end()
        # The stop before a blank line and the blank line end at the same place.
        if following > cut > start:
            yield cut, boundary
        if following > cut:
            cut, boundary = following, Boundary.SENTENCE
        if kind == "paragraph":
            boundary = Boundary.PARAGRAPH
    if start < cut < end:
        yield cut, boundary


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    ahead = _AHEAD.match(text, match.end())
    following = text[ahead.end() : ahead.end() + 1] if ahead else ""
    if following.islower():
        return False
    before = text[max(start, match.start() - _LONGEST_WORD) : match.start()]
    if match["stop"] != "." or not before or before[-1].isspace():
        return True
    word = before.split()[-1].lstrip(_OPENERS)
    # "5 p.m. The" ends a sentence; initials, as in "J. Smith" and "U.S. Army", are capitals.
    if word.isupper():
        return not _INITIALS.fullmatch(word)
    if word.isdigit():
        # "1. First": the number of a list item stands at the start of its line.
        return before.rpartition("\n")[2].strip() != word
    if following.isdigit() and _BEFORE_NUMBER.fullmatch(word):
        return False
    return not _ABBREVIATION.fullmatch(word)


# From the best to the worst place to cut a sentence that does not fit.
INNER_CUTS = {
    Boundary.LINE: re.compile(r"\S(?=[^\S\n]*+\n)"),
    Boundary.CLAUSE: re.compile(r"""[,;:،؛…–)\]]["'”’»]*+(?=\s)|[—、，；：]++"""),
    Boundary.WORD: re.compile(r"\S(?=\s)"),
}


def inner_cuts(text: str, start: int, end: int, boundary: Boundary) -> list[int]:
    """Find the cuts of one kind, a key of `INNER_CUTS`, strictly inside a stretch of a sentence."""
    cuts = (match.end() for match in INNER_CUTS[boundary].finditer(text, start, end))
    return [cut for cut in cuts if cut < end]


def is_inside_character(text: str, at: int) -> bool:
    """Whether a reader would see one character across `at`: accents, joined emoji, surrogates."""
    following = text[at]
    return (
        unicodedata.category(following) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= following <= "\U0001f3ff"
        or "\udc00" <= following <= "\udfff"
        or "\u200d" in (following, text[at - 1])
    )


_NOT_SPACE = re.compile(r"\S")


def stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Narrow a stretch to what is inside its whitespace; `(end, end)` when it is blank."""
    first = _NOT_SPACE.search(text, start, end)
    return (first.start(), right_stripped(text, start, end)) if first else (end, end)


def right_stripped(text: str, start: int, end: int) -> int:
    """Find the end of a stretch without the whitespace there; `start` when it is blank."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return end
