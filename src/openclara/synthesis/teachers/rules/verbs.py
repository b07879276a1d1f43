"""Which words are verbs, and the infinitive of those."""

from __future__ import annotations

import re
from typing import Final

from openclara.synthesis.teachers.rules.words import (
    BASE_OF_PAST,
    BE,
    HAVE,
    INSIDE_SUBJECT,
    MODAL,
    NOT_PAST,
    PAST_OF_PARTICIPLE,
    PREPOSITIONS,
    PRESENT,
)

# Where the rules below would go wrong.
_KNOWN: Final = """
died:die tied:tie lied:lie used:use moved:move based:base named:name changed:change
composed:compose recorded:record scored:score explored:explore restored:restore adopted:adopt
completed:complete competed:compete hired:hire shared:share featured:feature required:require
acquired:acquire retired:retire declared:declare prepared:prepare inspired:inspire
appeared:appear determined:determine combined:combine defined:define joined:join
mentioned:mention opened:open developed:develop visited:visit edited:edit limited:limit
united:unite invited:invite cited:cite wrote:write tasted:taste wasted:waste pasted:paste
admitted:admit controlled:control travelled:travel cancelled:cancel labelled:label staged:stage
managed:manage judged:judge belonged:belong challenged:challenge arranged:arrange ranged:range
charged:charge merged:merge emerged:emerge focused:focus discussed:discuss closed:close
caused:cause raised:raise released:release purchased:purchase increased:increase
promoted:promote devoted:devote voted:vote noted:note quoted:quote wiped:wipe shaped:shape
escaped:escape adapted:adapt hoped:hope helped:help ruled:rule scheduled:schedule titled:title
settled:settle handled:handle enabled:enable assembled:assemble filed:file failed:fail
revealed:reveal compiled:compile described:describe absorbed:absorb climbed:climb agreed:agree
guaranteed:guarantee freed:free welcomed:welcome consumed:consume resumed:resume assumed:assume
claimed:claim formed:form performed:perform confirmed:confirm designed:design signed:sign
assigned:assign campaigned:campaign abandoned:abandon commissioned:commission returned:return
earned:earn learned:learn governed:govern owned:own planned:plan phoned:phone stoned:stone
toned:tone funded:fund founded:found added:add included:include provided:provide decided:decide
divided:divide concluded:conclude succeeded:succeed graded:grade traded:trade invaded:invade
needed:need headed:head led:lead worked:work marked:mark attacked:attack asked:ask smoked:smoke
evoked:evoke provoked:provoke liked:like ranked:rank toured:tour honored:honor
"""
_DOUBLED = re.compile(r"([bdgmnprt])\1ed$")
_SILENT_E = re.compile(
    r"(?:[cgsvuz]|[^aeiou][aiou]t|[aiou]r|[aio]k|[aiou]d|[^aeiou]l|i[nl]|[ao]p|am|um|[oa]n|ibl|oke|at)$"
)
_NO_E = re.compile(
    r"(?:ss|sh|ch|x|[aeo]w|[aeou]y|nd|nt|ct|st|pt|rt|rd|rm|rn|rk|lk|lp|mp|nk|ld|ng|ll|ff|it|et|er|en"
    r"|on|or(?<!tor)|ain|oin|ean|eal|eat|oad|ead|ail|eed|aid|al|el|ol|ear|ack|ick|ock|ook|eak|ap|op"
    r"|om|ig)$"
)
_FORMS: Final = dict(pair.split(":") for pair in _KNOWN.split())


def base_form(verb: str) -> str:
    """The infinitive of a past or third-person form."""
    if verb == "has":
        return "have"
    if known := _FORMS.get(verb) or BASE_OF_PAST.get(verb) or PRESENT.get(verb):
        return known
    if not verb.endswith("ed"):
        return verb
    if verb.endswith("ied"):
        return verb[:-3] + "y"
    stem = verb[:-2]
    if _DOUBLED.search(verb):
        return stem[:-1]
    if _NO_E.search(stem) and not stem.endswith(("ang", "arg", "erg", "iv", "at")):
        return stem
    return stem + "e" if _SILENT_E.search(stem) else stem


def is_past(word: str) -> bool:
    """Whether a lower-case word is a past form."""
    regular = word.endswith("ed") and len(word) > 4 and word not in NOT_PAST
    return regular or word in BASE_OF_PAST


def is_participle(word: str) -> bool:
    """Whether a lower-case word may follow "was" or "has"."""
    return (word.endswith("ed") and len(word) > 4) or word in PAST_OF_PARTICIPLE


def is_verb(token: str, before: str) -> bool:
    """Whether a token is the verb of a sentence, judged with the word before it."""
    if not token.islower() or not token.isalpha():
        return False
    if token in BE | HAVE | MODAL:
        return True
    if before.lower() in INSIDE_SUBJECT or before.lower() in PREPOSITIONS:
        return False
    return is_past(token) or token in PRESENT
