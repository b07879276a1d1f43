"""What a conversation asks: the text that is searched for, and the text that is answered.

The generator was trained on one question at a time, so earlier turns are not shown to it. With
`conversation` a fixed rule, and no model, adds names and terms of earlier turns to what is searched
for. It finds the right passages for "When was it opened?"; it does not tell the generator what
"it" is, other than through these passages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openclara.server.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.server.openai.bodies import Message
    from openclara.server.settings import Rewrite

SHORT_WORDS = 4
"""A question of fewer words hardly stands by itself, such as "and in 1973?"."""

ADDED_TERMS = 12
LONGEST_TERM = 40
EARLIER_TURNS = 6

POINTING = frozenset(
    re.findall(
        r"\w+",
        """
        he she it they him her them his hers its their theirs this that these those there then one
        ones former latter same such er sie es ihn ihm ihr ihre dort diese dieser dieses
        """,
    )
)
"""Words that stand for something said before."""

COMMON = frozenset(
    re.findall(
        r"\w+",
        """
        a an and are as at be been but by can could did do does for from had has have how i if in is
        me my no not of on or our please say should so tell than the to was we were what when where
        which who whom whose why will with would yes you your about
        """,
    )
)
WORD = re.compile(r"\w+(?:[-'’.]\w+)*")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it is searched for and as it is answered."""

    text: str
    prompt: str


def asked(messages: Sequence[Message], rewrite: Rewrite) -> Asked:
    """What a conversation asks.

    Args:
        messages: From the first to the last; the last of the user is the question. What system
            and developer messages say stands above it in what is answered, not in what is
            searched for.
        rewrite: Whether earlier turns change what is searched for.

    Raises:
        Failure: There is no question, or a message has another part than text.
    """
    turns = [(one.role, content(one)) for one in messages]
    at = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=None)
    if at is None:
        raise Failure(400, "there is no message of the user; ask something", param="messages")
    question = turns[at][1]
    told = [text for role, text in turns if role in ("system", "developer") and text.strip()]
    prompt = "\n\n".join([*told, question]) if told and question.strip() else ""
    if rewrite == "last":
        return Asked(question, prompt)
    earlier = [text for role, text in turns[:at] if role in ("user", "assistant")]
    return Asked(with_earlier(question, earlier), prompt or question)


def with_earlier(question: str, earlier: Sequence[str]) -> str:
    """A question with names and terms of earlier turns where it hardly stands by itself.

    Args:
        question: The last one.
        earlier: What was said before it, oldest first.
    """
    words = [word.casefold() for word in WORD.findall(question)]
    if not words or not (len(words) < SHORT_WORDS or POINTING.intersection(words)):
        return question
    known = set(words)
    terms: list[str] = []
    for text in list(reversed(earlier))[:EARLIER_TURNS]:
        for term in _terms(text):
            if term.casefold() not in known and len(terms) < ADDED_TERMS:
                known.add(term.casefold())
                terms.append(term)
    return " ".join([question, *terms])


def _terms(text: str) -> list[str]:
    """Words of a turn that may name something: names and numbers first, then other long words."""
    left_out = COMMON | POINTING
    words = [
        word
        for word in WORD.findall(text)
        if word.casefold() not in left_out and len(word) <= LONGEST_TERM
    ]
    named = [word for word in words if word[0].isupper() or word[0].isdigit()]
    return named + [word for word in words if word not in named and len(word) > 3]


def content(message: Message) -> str:
    """The text of a message.

    Raises:
        Failure: It has a part that is not text.
    """
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts = []
    for part in message.content:
        if part.type not in ("text", "input_text") or part.text is None:
            raise Failure(
                400, "only parts of type text can be read; leave the others out", param="messages"
            )
        texts.append(part.text)
    return "\n".join(texts)
