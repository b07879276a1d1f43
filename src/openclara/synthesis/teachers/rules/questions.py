"""Questions on one statement each, with their answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from openclara.synthesis.teachers.rules.documents import tells_of_person
from openclara.synthesis.teachers.rules.phrases import (
    PLACES,
    Candidate,
    clause,
    described,
    fits,
    inverted,
    is_specific,
    noun_phrase,
)
from openclara.synthesis.teachers.rules.spans import COUNT, DATE, NAME, WHEN, looks_like_person
from openclara.synthesis.teachers.rules.verbs import base_form
from openclara.synthesis.teachers.rules.words import (
    BE,
    BODIES,
    HAVE,
    PAST_OF_PARTICIPLE,
    PREPOSITIONS,
    word_set,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.synthesis.teachers.rules.statements import Statement

_STARTS_PLACE_WITH_NUMBER = re.compile(r"\d")


def ask(statement: Statement) -> Iterator[Candidate]:
    """Every question that the rules find in a statement, the surest first."""
    core = clause(statement.rest)
    if core is None or core.startswith(("and ", "or ")):
        return
    # Who "a man" or "a sixth series" is, only the document can tell.
    vague = statement.subject.startswith(("a ", "an ", "one ")) and statement.verb != ""
    for candidate in _ask(statement, core) if not vague else ():
        said = candidate.question + candidate.answer
        if not any(mark in said for mark in '"“”[]{}') and "  " not in said:
            yield candidate


def _ask(statement: Statement, core: str) -> Iterator[Candidate]:
    yield from _when(statement, core)
    yield from _where(statement, core)
    if statement.passive:
        yield from _by_whom(statement, core)
        yield from _what_is_it_called(statement, core)
    elif not statement.verb:
        yield from _what_is(statement, core)
    else:
        yield from _who_did(statement, core)
        yield from _did_what(statement, core)
    yield from _how_many(statement, core)


def _when(statement: Statement, core: str) -> Iterator[Candidate]:
    if not statement.verb:
        return
    lead = WHEN.fullmatch(statement.lead[:1].lower() + statement.lead[1:])
    match = WHEN.search(core)
    if match:
        before = _without_agent(core[: match.start()].strip(), statement)
        date = match["date"]
        if match["preposition"] == "since" or re.match(
            r" ?(?:to|and|until|–|-|or)\b", core[match.end() :]
        ):
            return
        # "in its 1990 form", "in 1990 dollars"
        if re.match(r" [a-z]+s?\b", core[match.end() :]) and not re.match(
            r" (?:" + "|".join(PREPOSITIONS) + r")\b", core[match.end() :]
        ):
            return
    elif lead:
        before, date = _without_agent(core, statement), lead["date"]
    else:
        return
    if not fits(before):
        return
    if statement.verb in ("had", "has") and statement.auxiliary == "":
        return
    words = "In what year" if re.fullmatch(r"\d{4}", date) and statement.verb != "born" else "When"
    yield Candidate(inverted(statement, words, before), date, statement.sentence, statement.subject)


def _without_agent(rest: str, statement: Statement) -> str:
    """A short rest: of a passive without the agent, and without a dangling preposition."""
    if statement.passive:
        rest = re.split(r"\bby\b", rest)[0].strip()
    words = rest.split()
    while words and words[-1] in PREPOSITIONS | {"and", "the", "a", "an", "of"}:
        words.pop()
    return " ".join(words)


_PLACED: Final = word_set(
    """
    born located held based built buried found situated headquartered raised filmed recorded
    established founded set educated discovered formed opened staged killed erected shot
    stationed died lived settled moved grew studied worked lies stands taught occurs took flows
    """
)


def _where(statement: Statement, core: str) -> Iterator[Candidate]:
    if statement.verb not in _PLACED or not statement.verb:
        return
    match = PLACES.search(core)
    if (
        match is None
        or re.match(DATE, match["place"])
        or _STARTS_PLACE_WITH_NUMBER.match(match["place"])
    ):
        return
    before = core[: match.start()].strip()
    place = re.split(r" (?:in|on|at|during) |, (?:" + DATE + ")", match["place"])[0]
    for found in WHEN.finditer(before):
        before = before.replace(found[0], "").strip()
    before = _without_agent(before, statement)
    if len(before.split()) > 6 or not fits(before) or " and" in core[match.end() : match.end() + 4]:
        return
    yield Candidate(
        inverted(statement, "Where", before), place, statement.sentence, statement.subject
    )


_AGENT = re.compile(
    rf"\bby (?P<agent>(?:(?:[a-z][\w'-]* ){{0,5}})?{NAME}(?:(?:,| and| &) {NAME})*)"
)


def _by_whom(statement: Statement, core: str) -> Iterator[Candidate]:
    match = _AGENT.search(core)
    if match is None or re.search(DATE, match["agent"]) or match["agent"].endswith(("'s", "’s")):
        return
    agent = match["agent"]
    before = core[: match.start()].strip()
    after = core[match.end() :].strip()
    words = agent.split()
    name = agent[next(i for i, char in enumerate(agent) if char.isupper()) :]
    if words[0].endswith("ing") or any(word in PREPOSITIONS - {"for", "with"} for word in words):
        return
    kept = " ".join(
        part for part in (before, after if after.startswith(("in ", "on ")) else "") if part
    )
    if not fits(kept):
        return
    past = PAST_OF_PARTICIPLE.get(statement.verb, statement.verb)
    simple = statement.auxiliary in ("was", "were") and not statement.adverb
    person = looks_like_person(name)
    if simple and person:
        question = f"Who {past} {statement.subject} {kept}".strip() + "?"
    elif person:
        question = inverted(statement, "By whom", kept)
    else:
        question = inverted(statement, "What", f"{kept} by".strip())
    yield Candidate(question, agent, statement.sentence, statement.subject)


_CALLED: Final = word_set(
    """
    known called named nicknamed awarded appointed elected referred renamed
    titled entitled dubbed considered
    """
)


def _what_is_it_called(statement: Statement, core: str) -> Iterator[Candidate]:
    if statement.verb not in _CALLED:
        return
    first = core.split(" ", 1)[0]
    link = first if first in ("as", "after", "to", "for") else ""
    if statement.verb == "referred":
        link = "to as" if core.startswith("to as ") else ""
        if not link:
            return
    if statement.verb == "known" and link not in ("as", "for"):
        return
    said = noun_phrase(core[len(link) :].strip())
    if said is None or said.split()[0] in PREPOSITIONS:
        return
    words = "Who" if link == "after" and looks_like_person(said) else "What"
    yield Candidate(inverted(statement, words, link), said, statement.sentence, statement.subject)


_MEASURED: Final = ("long", "tall", "high", "wide", "deep", "old", "thick")


def _what_is(statement: Statement, core: str) -> Iterator[Candidate]:
    if statement.auxiliary not in BE:
        return
    for word in _MEASURED:
        match = re.match(
            rf"(?:about |approximately |around )?(?P<size>{COUNT} [\w ]+?) {word}\b", core
        )
        if match:
            yield Candidate(
                f"How {word} {statement.auxiliary} {statement.subject}?",
                match["size"],
                statement.sentence,
                statement.subject,
            )
            return
    article = core.split(" ", 1)[0]
    if article not in ("a", "an", "the", "one"):
        return
    if len(core.split()) < 3 or (not fits(core[:400]) and len(core.split()) > 30):
        return
    what = described(core)
    # "a county owned, public airport": cut in the middle.
    if what is None or (len(what.split()) == 2 and core == what != statement.rest):
        return
    person = (statement.titled and statement.person) or tells_of_person(what)
    if statement.person and not person:
        return
    if (
        article == "the"
        and len(what.split()) >= 4
        and any(word[0].isupper() or word[0].isdigit() for word in what.split())
    ):
        if statement.spoken and fits(what):
            words = "Who" if person else "What"
            yield Candidate(
                f"{words} {statement.auxiliary} {what}?",
                statement.spoken,
                statement.sentence,
                statement.subject,
                asks_subject=True,
            )
        return
    if statement.subject.startswith("the ") and (
        " of " in statement.subject or not is_specific(statement.subject)
    ):
        return
    words = "Who" if person else "What"
    yield Candidate(
        f"{words} {statement.auxiliary} {statement.subject}?",
        what,
        statement.sentence,
        statement.subject,
    )


_WEAK = word_set(
    """
    finished spent suffered resulted was were had has have became become seemed remained said
    stated noted believed argued suggested thought found felt meant wanted tried began started
    continued used lay stood refers mean means came went got took made did led
    """
)


def _who_did(statement: Statement, core: str) -> Iterator[Candidate]:
    verb, rest = statement.verb, core
    if not statement.spoken or (verb in ("had", "has", "have") and not statement.auxiliary):
        return
    if statement.auxiliary.split()[:1] and statement.auxiliary.split()[0] not in HAVE:
        return
    if not is_specific(rest) or len(rest.split()) < 2 or not fits(rest) or verb in _WEAK:
        return
    spoken = statement.spoken.removeprefix("The ")
    several = " " in spoken or spoken.isupper()
    if not any(char.isupper() for char in spoken) or not (several or statement.person):
        return
    acts = statement.person or any(word in BODIES for word in spoken.split())
    words = "Who" if acts else "What"
    said = " ".join(p for p in (statement.auxiliary, statement.adverb, verb, rest) if p)
    yield Candidate(
        f"{words} {said}?",
        statement.spoken,
        statement.sentence,
        statement.subject,
        asks_subject=True,
    )


def _did_what(statement: Statement, core: str) -> Iterator[Candidate]:
    if statement.auxiliary and statement.auxiliary not in HAVE:
        return
    verb = statement.verb
    if verb in ("stars", "starred", "features", "featured") and not statement.person:
        cast = re.match(rf"{NAME}(?:(?:,| and|, and) {NAME})*", core)
        if cast and looks_like_person(re.split(",| and ", cast[0])[0]):
            yield Candidate(
                f"Who {verb.replace('features', 'stars').replace('featured', 'starred')} in "
                f"{statement.subject}?",
                cast[0],
                statement.sentence,
                statement.subject,
            )
        return
    if verb in (_WEAK | HAVE) - {"became"}:
        return
    link = "of" if base_form(verb) == "consist" and core.startswith("of ") else ""
    said = noun_phrase(core.removeprefix("of ") if link else core)
    if said is None or len(said) < 4 or re.match(COUNT, said):
        return
    if " " not in said and not said[0].isupper():
        return
    after = link or core[len(said) :].strip()
    if not after and not is_specific(said) and len(said.split()) < 4:
        return
    words = "Who" if looks_like_person(said) else "What"
    if len(after.split()) > 8 or not fits(after) or after.startswith(("to ", "than ")):
        after = ""
        if not any(char.isupper() for char in statement.subject):
            return
    yield Candidate(inverted(statement, words, after), said, statement.sentence, statement.subject)


_COUNTED = re.compile(
    rf"(?P<count>(?:more than |over |about |approximately |around |nearly |almost )?{COUNT}) "
    r"(?P<noun>(?:[a-z][\w-]* ){0,2}[a-z][\w-]*s)\b"
)

_TIMES = ("years", "days", "weeks", "months", "hours", "minutes", "centuries", "decades", "seconds")


def _how_many(statement: Statement, core: str) -> Iterator[Candidate]:
    if statement.passive or not statement.verb or statement.auxiliary.split()[:1] in (["can"],):
        return
    match = _COUNTED.match(core)
    if match is None or match["noun"].split()[-1] in _TIMES:
        return
    after = core[match.end() :].strip()
    if (
        len(after.split()) > 8
        or not fits(after)
        or any(word in PREPOSITIONS for word in match["noun"].split())
    ):
        return
    yield Candidate(
        inverted(statement, f"How many {match['noun']}", after),
        match["count"],
        statement.sentence,
        statement.subject,
    )
