"""A model's words as a reply: what was asked for, or None where it is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from openclara.synthesis.tasks import Reply
from openclara.synthesis.teachers.extraction import extract_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openclara.synthesis.tasks import TaskKind

_LONGEST_QUESTION = 400
_LONGEST_REASON = 300


def read_reply(kind: TaskKind, text: str) -> Reply | None:
    """Read what a model wrote for a task.

    JSON of the shape that was asked for is best; other names of fields, objects in place of
    strings, and plain lines without JSON are understood as well.

    Args:
        kind: Of the task.
        text: All that it wrote.

    Returns:
        The reply without its costs; None where nothing usable is in the text.
    """
    found = extract_json(text)
    if kind in ("simple_qa", "complex_qa"):
        return _questions(found, text)
    if kind in ("judge_pair", "judge_paraphrase"):
        return _verdict(found, text)
    return _text(kind, found, text)


def _questions(found: Any, text: str) -> Reply | None:
    if found is None:
        questions = clean_questions(text.splitlines())
        return Reply(questions=questions) if questions else None
    listed = found
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        listed = found.get("questions", lists[0] if lists else None)
    if not isinstance(listed, list):
        return None
    strings = [one.get("question") if isinstance(one, dict) else one for one in listed]
    questions = clean_questions(one for one in strings if isinstance(one, str))
    # A list of things that are no questions is broken; an empty list says that none are left.
    return Reply(questions=questions) if questions or not listed else None


_NUMBERING = re.compile(
    r"^[\s>*•-]*(?:\(?\d{1,3}[.):]\s*)?(?:(?:Question|Q)\s*\d{0,3}\s*[:.)]\s*)?", re.IGNORECASE
)


def clean_questions(lines: Iterable[str]) -> tuple[str, ...]:
    """Questions among lines: numbering and quotes removed, others and doubles left out."""
    questions: dict[str, str] = {}
    for line in lines:
        question = " ".join(_NUMBERING.sub("", line).strip(" \t*\"'`").split())
        if question.endswith(("?", "？", "؟")) and 8 <= len(question) <= _LONGEST_QUESTION:
            questions.setdefault(question.casefold(), question)
    return tuple(questions.values())


_YES = re.compile(r"^\W*(yes|true|accept(?:ed)?|correct)\b", re.IGNORECASE)
_NO = re.compile(r"^\W*(no|false|not|reject(?:ed)?|incorrect)\b", re.IGNORECASE)


def _verdict(found: Any, text: str) -> Reply | None:
    said: Any = text
    reason = ""
    if isinstance(found, dict):
        fields = ("accept", "accepted", "verdict", "correct", "faithful", "valid")
        said = next((found[name] for name in fields if name in found), None)
        reason = str(found.get("reason") or "")[:_LONGEST_REASON]
    if isinstance(said, bool):
        verdict = said
    elif isinstance(said, str) and (_YES.match(said) or _NO.match(said)):
        verdict = _YES.match(said) is not None
    else:
        return None
    return Reply(verdict=verdict, reason="" if verdict else reason or "the judge said no")


_NOTHING = re.compile(
    r"^\W*(n/?a|none|unknown|(?:it is )?not (?:stated|specified|mentioned|given|found)\b.*"
    r"|the (?:document|text|passage) (?:does not|doesn't) \w+.*)\W*$",
    re.IGNORECASE,
)


def _text(kind: TaskKind, found: Any, text: str) -> Reply | None:
    said: Any = None
    if isinstance(found, dict):
        strings = [value for value in found.values() if isinstance(value, str)]
        said = found.get(kind, strings[0] if len(strings) == 1 else None)
        if isinstance(said, int | float) and not isinstance(said, bool):
            said = str(said)
    elif found is None and "{" not in text:
        said = re.sub(r"^\s*(?:answer|paraphrase)\s*:\s*", "", text, flags=re.IGNORECASE)
    if not isinstance(said, str):
        return None
    said = said.strip()
    if kind == "answer":
        return Reply(text="" if _NOTHING.match(said) else said)
    return Reply(text=said) if said else None
