"""Sentences built differently: moved parts, passives made active, long ones split."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from openclara.synthesis.teachers.rules.spans import DATE, NAME
from openclara.synthesis.teachers.rules.verbs import is_participle, is_verb
from openclara.synthesis.teachers.rules.words import (
    ADVERBS,
    BE,
    HAVE,
    PAST_OF_PARTICIPLE,
    word_set,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_TIME_FIRST = re.compile(
    rf"(?P<when>(?:In|On|During|Since|Around) {DATE}), (?P<rest>(?:[^\s,;]+ ){{2}}[^,;:]+)\."
)
_TIME_LAST = re.compile(rf"(?P<rest>[A-Z][^,;:()\"“]+?) (?P<when>(?:in|on|during|since) {DATE})\.")
_CLAUSE_FIRST = re.compile(
    r"(?P<link>Although|While|When|Because|If) (?P<one>[^,;:()\"“]+), "
    r"(?P<two>[^;:()\"“]+)\."
)
_CLAUSE_LAST = re.compile(
    r"(?P<two>[A-Z][^,;:()\"“]+?),? (?P<link>although|because|when|while) (?P<one>[^,;:()\"“]+)\."
)
_TWO = re.compile(
    r"(?P<one>[A-Z][^;:()\"“]{20,}?), (?P<link>and|but) "
    r"(?P<two>(?P<subject>he|she|it|they|[Tt]his|these|the [a-z]+) "
    r"(?:is|was|were|are|has|had|\w+ed) [^;:]+)\."
)
_SEMICOLON = re.compile(r"(?P<one>[A-Z][^;:()\"“]{15,}); (?P<two>[a-z][^;:()\"“]{15,})\.")


_POINTING: Final = word_set(
    """
    he him his she her it its they them their this these those
    """
)


def _time_back(sentence: str) -> str:
    if match := _TIME_FIRST.fullmatch(sentence):
        when = match["when"]
        return f"{capitalised(match['rest'])} {when[0].lower()}{when[1:]}."
    return sentence


def _time_ahead(sentence: str) -> str:
    if match := _TIME_LAST.fullmatch(sentence):
        when = match["when"]
        return f"{when[0].upper()}{when[1:]}, {_lower(match['rest'])}."
    return sentence


def _clause_back(sentence: str) -> str:
    match = _CLAUSE_FIRST.fullmatch(sentence)
    # A pronoun is not to come before what it stands for.
    if match and not set(re.findall(r"[a-z]+", match["two"].lower())) & _POINTING:
        comma = "," if match["link"] in ("Although", "While") else ""
        return f"{capitalised(match['two'])}{comma} {match['link'].lower()} {match['one']}."
    return sentence


def _clause_ahead(sentence: str) -> str:
    match = _CLAUSE_LAST.fullmatch(sentence)
    if match and not set(re.findall(r"[a-z]+", match["one"].lower())) & _POINTING:
        return f"{match['link'].capitalize()} {match['one']}, {_lower(match['two'])}."
    return sentence


def _split(sentence: str) -> str:
    if match := _TWO.fullmatch(sentence):
        if match["link"] == "but":
            return f"{match['one']}. Even so, {match['two']}."
        return f"{match['one']}. {capitalised(match['two'])}."
    if match := _SEMICOLON.fullmatch(sentence):
        return f"{match['one']}. {capitalised(match['two'])}."
    return sentence


_LIVED = re.compile(
    rf"(?P<name>[A-ZÀ-Þ][^(),.;\"“]{{3,50}}?) \((?:(?P<born>born {DATE})|(?P<from>{DATE}) ?[–-] ?"
    rf"(?P<to>{DATE}))\),? (?P<be>is|was) (?P<rest>.+)"
)


def _bracket_opened(sentence: str) -> str:
    if match := _LIVED.fullmatch(sentence):
        lived = match["born"] or f"who lived from {match['from']} to {match['to']}"
        return f"{match['name']}, {lived}, {match['be']} {match['rest']}"
    return sentence


_DONE_BY = re.compile(
    rf"(?P<what>[A-ZÀ-Þ][^,;:()\"“]{{1,60}}?) (?:was|were) (?P<done>\w+) by "
    rf"(?P<agent>{NAME}(?:(?:, | and |, and ){NAME})*)\."
)


def _made_active(sentence: str) -> str:
    match = _DONE_BY.fullmatch(sentence)
    if match is None or not is_participle(match["done"]) or " " in match["what"].strip()[60:]:
        return sentence
    if any(is_verb(word, "x") for word in match["what"].split()[1:]):
        return sentence
    past = PAST_OF_PARTICIPLE.get(match["done"], match["done"])
    what = {"He": "him", "She": "her", "They": "them"}.get(match["what"], _lower(match["what"]))
    return f"{match['agent']} {past} {what}."


_NAMED_ROLE = re.compile(
    rf"(?P<name>{NAME}) (?P<be>is|was) (?P<role>the [a-z][^,;:()\"“]{{10,}})\."
)


def _role_first(sentence: str) -> str:
    match = _NAMED_ROLE.fullmatch(sentence)
    if match is None or re.search(r" (?:and|who|which|that|but|when|where|to) ", match["role"]):
        return sentence
    return f"{capitalised(match['role'])} {match['be']} {_lower(match['name'])}."


_REDUCED = re.compile(
    r"(?P<before>[^,;:()\"“]*? (?P<be>is|was) an? [^,;:()\"“]*?[a-z]) "
    r"(?P<done>located|situated|based|found|written|directed|produced|recorded|published|founded"
    r"|created|built|designed|developed|owned|operated|used) (?P<after>(?:in|by|at|on|near|for) .+)"
)
_STILL = ("located", "situated", "based", "found", "owned", "operated", "used")


def _made_relative(sentence: str) -> str:
    match = _REDUCED.fullmatch(sentence)
    if match is None or match["before"].split()[-1] in (
        "and",
        "that",
        "is",
        "was",
        "which",
        "also",
    ):
        return sentence
    if any(is_participle(word) or word == "and" for word in match["before"].split()[-3:]):
        return sentence
    be = match["be"] if match["done"] in _STILL else "was"
    return f"{match['before']} that {be} {match['done']} {match['after']}"


_TWO_VERBS = re.compile(
    r"(?P<one>(?P<subject>He|She|It|They|[A-ZÀ-Þ][\w'’.]*(?: [A-ZÀ-Þ][\w'’.]*){0,3}) "
    r"[^;:()\"“,]{12,}?),? and "
    r"(?P<also>then |also |later )?(?P<two>(?:is|was|were|are|has|had|[a-z]+ed|became|won|went|made"
    r"|held|led|wrote|took) "
    r"[^;:()\"“]{10,})\."
)


def _two_sentences(sentence: str) -> str:
    match = _TWO_VERBS.fullmatch(sentence)
    if match is None:
        return sentence
    words, second = match["one"].split(), match["two"].split()[0]
    begun = words[len(match["subject"].split())]
    finite = is_verb(begun, "x") or begun in ADVERBS
    passive = any(word in BE | HAVE | {"been", "be"} or word.endswith("ing") for word in words)
    # "was written and directed": one verb in two parts. "who wrote and sang": not the subject's.
    if not finite or (passive and second not in BE | HAVE):
        return sentence
    if any(word in ("who", "which", "that", "where", "when", "to", "both") for word in words):
        return sentence
    subject = match["subject"]
    return f"{match['one']}. {subject} {match['also'] or ''}{match['two']}."


REBUILDS: Final[tuple[Callable[[str], str], ...]] = (
    _bracket_opened,
    _made_active,
    _role_first,
    _time_back,
    _time_ahead,
    _clause_back,
    _clause_ahead,
    _split,
    _two_sentences,
    _made_relative,
)


def capitalised(text: str) -> str:
    """A text with its first letter made a capital, the others left alone."""
    return text[0].upper() + text[1:]


_MAY_FALL = word_set(
    """
    The A An He She It They His Her Its Their This These Those There In On At Some Many Most
    Both All Each Several Other One Two Three
    """
)


def _lower(text: str) -> str:
    """A sentence's beginning as it stands inside one; names keep their capital."""
    return text[0].lower() + text[1:] if text.split()[0] in _MAY_FALL else text
