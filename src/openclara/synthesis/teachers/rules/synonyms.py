"""Words and phrases that may take each other's place almost anywhere: same form, same company."""

from __future__ import annotations

from typing import Final

# Every member of a group may stand for every other.
_GROUPS: Final = """
situated|located
famous|well-known
roughly|approximately
primarily|mainly|chiefly
often|frequently
rarely|seldom
usually|normally
currently|at present
initially|at first
purchased|bought
attempted|tried
attempts to|tries to
requires|needs
resided|lived
permitted|allowed
crucial|vital
rapidly|quickly
entirely|completely|wholly
because of|owing to|due to
in order to|so as to
for instance|for example
despite|in spite of
close to|near
together with|along with
took place|was held
takes place|is held
constructed|built
residents|inhabitants
films|movies
error|mistake
errors|mistakes
method of|way of
methods of|ways of
kind of|type of|sort of
kinds of|types of|sorts of
regarded as|seen as
annually|every year|each year
worldwide|around the world
a variety of|a range of
prior to|before
commonly|often
similarly|likewise
mostly|largely
particularly|especially
exclusively|solely
relatively|comparatively
led by|headed by
composed of|made up of
served as|acted as
serves as|acts as
nation|country
nations|countries
best known for|most famous for
main|principal
began to|started to
begin to|start to
begins to|starts to
"""

# Only this way: the other direction changes the meaning too often.
_TOWARDS: Final = """
numerous>many
various>different
stated that>said that
argued that>maintained that
revealed that>disclosed that
nearly>almost
subsequently>afterwards
previously>earlier
began>started
obtained>acquired
assisted>helped
resides>lives
demonstrated>showed
demonstrates>shows
enlarged>expanded
permits>allows
employs>makes use of
entire>whole
huge>enormous
essential>indispensable
additional>further
several>a number of
sufficient>enough
difficult>hard
significant>important
partly>in part
in addition to>besides
as well as>along with
although>though
whereas>while
also known as>also called
film>movie
automobile>car
physician>doctor
attorney>lawyer
component>part
components>parts
outcome>result
renowned>celebrated
established>founded
gained>won
created>made
presently>now
the majority of>most of
upon>on
a large number of>a great many
located in>found in
consists of>is made up of
consist of>are made up of
is able to>can
are able to>can
was able to>could
is used to>serves to
are used to>serve to
immediately>at once
eventually>in the end
unable to>not able to
sometimes>at times
attended>went to
extremely>very
gradually>little by little
consisting of>made up of
defeated>beat
is headquartered in>has its headquarters in
is home to>houses
titled>called
entitled>called
such as>like
notable>noteworthy
popular>well-liked
leading>foremost
recently>of late
based on>drawn from
released in>issued in
was released on>came out on
was released in>came out in
was released by>was brought out by
is known for>is noted for
because>since
ended>came to an end
used for>employed for
used by>employed by
used in>employed in
"""


def _exchanges() -> dict[str, tuple[str, ...]]:
    exchanged: dict[str, tuple[str, ...]] = {}
    for line in filter(None, _GROUPS.split("\n")):
        members = line.split("|")
        for member in members:
            others = tuple(one for one in members if one != member)
            exchanged[member] = exchanged.get(member, ()) + others
    for line in filter(None, _TOWARDS.split("\n")):
        member, _, other = line.partition(">")
        exchanged.setdefault(member, (other,))
    return exchanged


# At the beginning of a sentence only.
OPENINGS: Final = {
    "However,": "Even so,",
    "Furthermore,": "Moreover,",
    "Moreover,": "Furthermore,",
    "Therefore,": "For this reason,",
    "For example,": "For instance,",
    "As a result,": "Consequently,",
    "Consequently,": "As a result,",
    "In addition,": "Besides,",
    "Additionally,": "In addition,",
    "Today,": "Nowadays,",
    "Thus,": "In this way,",
    "In contrast,": "By contrast,",
    "In fact,": "Indeed,",
}

EXCHANGED: Final = _exchanges()
FREE: Final = frozenset(
    word.lower().strip(",") for words in (*EXCHANGED, *OPENINGS) for word in words.split()
)
"""Words that may be gone after an exchange."""
