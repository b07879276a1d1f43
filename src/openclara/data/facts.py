"""The facts of a text by rule: its numbers, dates and names, and what of them another text holds.

For English, without a model, and so the same everywhere; some names are missed or mistaken.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from openclara.data.sentences import sentence_cuts, stripped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# --- numbers and dates -----------------------------------------------------------------------

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"(?:3[01]|[12][0-9]|0?[1-9])"
_ORDINAL = r"(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"(?<![\w.,/-])(?P<iso>[0-9]{{4}}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]))(?![0-9-])"
    rf"|(?<![\w.,])(?P<day>{_DAY}){_ORDINAL}\s+(?:of\s+)?(?P<month>{_MONTH}),?\s+"
    r"(?P<year>[0-9]{4})(?![0-9])"
    rf"|\b(?P<us_month>{_MONTH})\s+(?P<us_day>{_DAY}){_ORDINAL}(?:,\s*|\s+)"
    r"(?P<us_year>[0-9]{4})(?![0-9])",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    # A digit right after a letter or a digit is part of a name or of what was read before; a dash
    # after a word or a number joins, as in "1998-2001" and "COVID-19", and is no sign.
    r"(?<![^\W_])(?P<sign>(?<![)\]%])[-−])?"
    r"(?:(?P<literal>[0-9]+(?:\.[0-9]+){2,}|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?![0-9]))"
    r"|(?P<decade>[0-9]{3}0)['’]?s\b"
    r"|(?:(?P<whole>[0-9]{1,3}(?:[,'’\u00a0\u2009\u202f][0-9]{3})+(?![0-9])|[0-9]+)"
    r"|(?<![\w.])(?=\.[0-9]))"
    r"(?:\.(?P<fraction>[0-9]+))?(?P<percent>\s?(?:%|percent\b|per\s+cent\b))?)"
)


def numbers(text: str) -> list[str]:
    """The distinct numbers and dates written in digits, in one form each.

    A number loses its thousands separators (comma, apostrophe, narrow or no-break blank) and the
    zeros that end its decimals; "%", "percent" and "per cent" become "%". Decades ("1990s"), clock
    times and dotted numbers such as versions stay as they are. A date with day, month and year, in
    words or in ISO 8601, gives its ISO form and its year. Number words, scale words ("million"),
    units and currencies are not read, and numeric dates with slashes count as three numbers, since
    their order is not known.

    Args:
        text: Any text.

    Returns:
        Dates, then the other numbers, by first occurrence; each is read again as itself.
    """
    text = unicodedata.normalize("NFC", text)
    dates = [_iso_date(match) for match in _DATE.finditer(text)]
    found = [item for date in dates for item in (date, date[:4])]
    found += [_plain_number(match) for match in _NUMBER.finditer(without_dates(text))]
    return list(dict.fromkeys(found))


def without_dates(text: str) -> str:
    """A text without its full dates."""
    # Punctuation in their place, so that what stood around a date is not read as one item.
    return _DATE.sub(" ; ", text)


def _iso_date(match: re.Match[str]) -> str:
    if match["iso"]:
        return match["iso"]
    month = _MONTHS.index((match["month"] or match["us_month"])[:3].lower()) + 1
    day = int(match["day"] or match["us_day"])
    return f"{match['year'] or match['us_year']}-{month:02}-{day:02}"


def _plain_number(match: re.Match[str]) -> str:
    sign = "-" if match["sign"] else ""
    if match["literal"]:
        return sign + match["literal"]
    if match["decade"]:
        return f"{sign}{match['decade']}s"
    whole = re.sub(r"[^0-9]", "", match["whole"] or "0")
    fraction = (match["fraction"] or "").rstrip("0")
    return sign + whole + (f".{fraction}" if fraction else "") + ("%" if match["percent"] else "")


# --- names -----------------------------------------------------------------------------------

_LISTED_PARTICLES = (
    "of de da di do dos das del della du des la le van von der den zu af av al el bin ibn y"
)
_PARTICLES = frozenset(_LISTED_PARTICLES.split())
_LISTED_FUNCTION_WORDS = (
    # Articles, pronouns, determiners.
    "a an the i you he she it we they me him her us them my your his its our their mine yours hers "
    "ours theirs this that these those who whom whose which what each every either neither both "
    "all any some many much most more few several such no none other others another one "
    # Prepositions and conjunctions.
    "of in on at by for from to with without within into onto upon over under above below between "
    "among amid across through throughout during before after since until till about against along "
    "around behind beside besides beyond despite down near off out outside inside past per toward "
    "towards up via like unlike as than and or but nor so yet if unless although though because "
    "while whereas whether once except "
    # Verbs that only carry others, without those that are names too (Will, May).
    "am is are was were be been being have has had having do does did would shall should can could "
    "might must let "
    # Adverbs that open sentences.
    "not when where why how there here then thus hence therefore however moreover furthermore "
    "meanwhile nevertheless nonetheless instead also additionally finally later earlier now today "
    "eventually initially originally currently recently often sometimes usually according only "
    "even just still again well yes first second third next last"
)
_FUNCTION_WORDS = frozenset(_LISTED_FUNCTION_WORDS.split())
_TOKEN = re.compile(r"(?<!\w)[^\W\d_](?:[\w'’&-]*[^\W_])?")
_POSSESSIVE = re.compile(r"['’][sS]$")
_OPENING = re.compile(r"[:\"“”„«»]")
_ACRONYM = re.compile(r"(?<![^\W_])(?:[A-Z]\.)+[A-Z](?![^\W_])")


class _Name(NamedTuple):
    text: str
    is_at_start: bool


def entities(text: str, *, certain: bool = False) -> list[str]:
    """The distinct names in a text, by rule.

    A name is a maximal run of capitalised words within a sentence, with the particles between them
    ("University of Oxford", "Ludwig van Beethoven") and the dots of initials and abbreviations. A
    function word that opens the sentence is cut off. A single word is no name where it is a letter
    or a function word, or where the text has it lowercased too and capitalised at sentence starts
    only. Sentences also start after a line end, a colon and a quotation mark; a possessive ends a
    name; full dates are left to `numbers`.

    The rules take some words that only open a sentence for names, join two names that a particle
    connects, and find none in scripts without capitals.

    Args:
        text: Any text.
        certain: Leave out single words that the text has at sentence starts only.

    Returns:
        The names as written, by first occurrence.
    """
    text = without_dates(unicodedata.normalize("NFC", text))
    tokens = {match.group() for match in _TOKEN.finditer(text)}
    names = [name for sentence in _sentences(text) for name in _names(sentence)]
    inside = {name.text for name in names if not name.is_at_start}
    return list(
        dict.fromkeys(
            name.text
            for name in names
            if " " in name.text
            or name.text in inside
            or (not certain and name.text.lower() not in tokens)
        )
    )


def _sentences(text: str) -> Iterator[str]:
    for line in text.splitlines():
        start, end = stripped(line, 0, len(line))
        for cut, _ in sentence_cuts(line, start, end):
            yield line[start:cut]
            start = cut
        yield line[start:end]


def _names(sentence: str) -> Iterator[_Name]:
    run: list[re.Match[str]] = []
    is_at_start = False
    end = 0
    for match in _TOKEN.finditer(sentence):
        gap, is_first, end = sentence[end : match.start()], end == 0, match.end()
        token = match.group()
        if run and not _joins(gap, token):
            yield from _name(sentence, run, is_at_start)
            run = []
        if not run:
            is_at_start = is_first or _OPENING.search(gap) is not None
        if token[0].isupper() or (run and _is_particle(token, run[-1].group())):
            run.append(match)
        if run and (run[-1] is not match or _POSSESSIVE.search(token)):
            yield from _name(sentence, run, is_at_start)
            run = []
    yield from _name(sentence, run, is_at_start)


def _joins(gap: str, token: str) -> bool:
    if gap.strip() in ("", "&"):
        return True
    # After an abbreviation or an initial; "vitamin C. The" is the end of a sentence nonetheless.
    return gap.strip() == "." == gap[0] and (len(token) == 1 or not _is_function_word(token))


def _is_particle(token: str, previous: str) -> bool:
    return token in _PARTICLES or (token == "the" and previous in _PARTICLES)


def _name(sentence: str, run: list[re.Match[str]], is_at_start: bool) -> Iterator[_Name]:
    words = list(run)
    # The dot is that of an acronym, as in "I.B.M.".
    while (
        is_at_start
        and words
        and _is_function_word(words[0].group())
        and sentence[words[0].end() : words[0].end() + 1] != "."
    ):
        words.pop(0)
    while words and not words[-1].group()[0].isupper():
        words.pop()
    if not words:
        return
    text = _POSSESSIVE.sub("", " ".join(sentence[words[0].start() : words[-1].end()].split()))
    if len(words) > 1 or not (len(text) == 1 or _is_function_word(text)):
        yield _Name(text, is_at_start and words[0] is run[0])


def _is_function_word(token: str) -> bool:
    stem, *clitics = re.split("['’]", token.lower())
    return stem in _FUNCTION_WORDS or (stem.endswith("n") and clitics == ["t"])


# --- what is still there ---------------------------------------------------------------------


def preserved(source_items: Collection[str], text: str) -> float | None:
    """Share of items that a text holds.

    Args:
        source_items: Items of another text, from `numbers` or `entities`.
        text: The text they are looked for in.

    Returns:
        None where there are no items.
    """
    return len(held(source_items, text)) / len(source_items) if source_items else None


def held(source_items: Collection[str], text: str) -> list[str]:
    """The items that a text holds.

    A number or date is held where `numbers` reads it from the text. Anything else is held where its
    words stand in the text in sequence, whatever their case and the punctuation between them;
    "U.S." and "US" are one word.

    Args:
        source_items: Items of another text, from `numbers` or `entities`.
        text: The text they are looked for in.
    """
    in_digits, words = frozenset(numbers(text)), phrase(text)
    return [
        item
        for item in source_items
        if (item in in_digits if item in numbers(item) else phrase(item) in words)
    ]


_WORD = re.compile(r"[^\W_]+")


def phrase(text: str) -> str:
    """The words of a text in one form, each between blanks: what is compared as a sequence."""
    text = unicodedata.normalize("NFC", text)
    text = _ACRONYM.sub(lambda match: match.group().replace(".", ""), text)
    return f" {' '.join(_WORD.findall(text.casefold()))} "
