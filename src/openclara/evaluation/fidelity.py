"""How much of a text survives being written again from its latents.

Words by ROUGE; facts by the numbers, dates and names of the source that the other text still holds.
Everything here is by rule and for English: it needs no model, gives the same result everywhere, and
misses or mistakes some names. The evaluator published with CLaRa finds entities by a spaCy model
instead, so its share of entities cannot be compared with ours.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from openclara.data.sentences import sentence_cuts, stripped
from openclara.evaluation.metrics import token_f1

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


class FidelityScores(NamedTuple):
    """What of a source another text holds, each in [0, 1], None where the source has no such item.

    Attributes:
        rouge_1: F1 of words.
        rouge_l: F1 of the longest common subsequence of words.
        numbers: Share of the source's numbers and dates found.
        entities: Share of the source's names found.
    """

    rouge_1: float
    rouge_l: float
    numbers: float | None
    entities: float | None


def fidelity(source: str, rewritten: str) -> FidelityScores:
    """Score what another text holds of a source.

    Args:
        source: The text that was compressed.
        rewritten: What was written from its latents.
    """
    return FidelityScores(
        rouge_1=rouge_1(source, rewritten),
        rouge_l=rouge_l(source, rewritten),
        numbers=preserved(numbers(source), rewritten),
        entities=preserved(entities(source), rewritten),
    )


# --- words -----------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")


def rouge_1(source: str, rewritten: str) -> float:
    """ROUGE-1 F (Lin 2004): F1 of words, counted with multiplicity.

    Words are lowercased runs of letters and digits, as in the package rouge-score without its
    stemmer, here in any script. Two texts without words are equal.
    """
    return token_f1(_rouge_words(rewritten), _rouge_words(source))


def rouge_l(source: str, rewritten: str) -> float:
    """ROUGE-L F (Lin 2004): F1 by the longest common subsequence of words of the whole texts."""
    expected, predicted = _rouge_words(source), _rouge_words(rewritten)
    if not expected or not predicted:
        return float(expected == predicted)
    return 2 * _common_subsequence(expected, predicted) / (len(expected) + len(predicted))


def _rouge_words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    ids = {word: at for at, word in enumerate(dict.fromkeys([*a, *b]))}
    row_ids, column_ids = ([ids[word] for word in words] for words in (a, b))
    columns = np.array(column_ids)
    lengths = np.zeros(len(b) + 1, dtype=np.int64)
    for word in row_ids:
        extended = np.maximum(lengths[1:], lengths[:-1] + (columns == word))
        lengths[1:] = np.maximum.accumulate(extended)
    return int(lengths[-1])


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
    found += [_plain_number(match) for match in _NUMBER.finditer(_without_dates(text))]
    return list(dict.fromkeys(found))


def _without_dates(text: str) -> str:
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


def entities(text: str) -> list[str]:
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

    Returns:
        The names as written, by first occurrence.
    """
    text = _without_dates(unicodedata.normalize("NFC", text))
    tokens = {match.group() for match in _TOKEN.finditer(text)}
    names = [name for sentence in _sentences(text) for name in _names(sentence)]
    inside = {name.text for name in names if not name.is_at_start}
    return list(
        dict.fromkeys(
            name.text
            for name in names
            if " " in name.text or name.text in inside or name.text.lower() not in tokens
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

    A number or date is held where `numbers` reads it from the text. Anything else is held where its
    words stand in the text in sequence, whatever their case and the punctuation between them;
    "U.S." and "US" are one word.

    Args:
        source_items: Items of another text, from `numbers` or `entities`.
        text: The text they are looked for in.

    Returns:
        None where there are no items.
    """
    if not source_items:
        return None
    held, phrase = frozenset(numbers(text)), _phrase(text)
    found = (
        item in held if item in numbers(item) else _phrase(item) in phrase for item in source_items
    )
    return sum(found) / len(source_items)


def _phrase(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    text = _ACRONYM.sub(lambda match: match.group().replace(".", ""), text)
    return f" {' '.join(_WORD.findall(text.casefold()))} "
