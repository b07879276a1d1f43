"""JSON out of what a model wrote, which is often JSON with something around it or missing."""

from __future__ import annotations

import json
import re
from typing import Any

_STARTS = 40
"""Places where JSON may begin that are tried: what a model writes can be nothing but brackets."""

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
# A fence closes at the start of a line: JSON may have one in a string, but no line end there.
_FENCED = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_BRACKET = re.compile(r"[{\[]")


def extract_json(text: str) -> dict[str, Any] | list[Any] | None:
    """The first JSON object or array in a text, mended where it was cut off.

    Thoughts between `<think>` marks are skipped, code fences opened, a comma before a closing
    bracket forgiven, unescaped line ends in strings accepted. Where nothing is whole, an object
    that lacks its end is closed behind the last value that is.

    Returns:
        The object or array; None where there is none.
    """
    text = _THOUGHT.sub("", text)
    fenced = _FENCED.search(text)
    for candidate in ([fenced[1]] if fenced else []) + [text]:
        for source in (candidate, _without_stray_commas(candidate)):
            found = _first(source)
            if found is not None:
                return found
    return [] if text.strip() == "[]" else None


def _first(text: str) -> dict[str, Any] | list[Any] | None:
    decoder = json.JSONDecoder(strict=False)
    tried = False
    for match in list(_BRACKET.finditer(text))[:_STARTS]:
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            if match[0] == "[" or tried:
                continue
            # Before what is whole further inside: of a list that was cut off, one item is.
            found, tried = _closed(text[match.start() :]), True
        # An empty array, or one of numbers, is as often a citation: "as in [1]".
        if isinstance(found, dict) or any(isinstance(one, str | dict) for one in found or ()):
            return found  # type: ignore[no-any-return]
    return None


_STRING = r'"(?:[^"\\]|\\.)*+"'
_STRAY = re.compile(rf"({_STRING})|,(?=\s*[}}\]])", re.DOTALL)


def _without_stray_commas(text: str) -> str:
    return _STRAY.sub(lambda match: match[1] or "", text)


_TOKENS = re.compile(rf"{_STRING}|[{{}}\[\]:,]|[^\s\"{{}}\[\]:,]+", re.DOTALL)


def _closed(text: str) -> dict[str, Any] | None:
    """An object that was cut off, closed behind its last whole value."""
    open_brackets: list[str] = []
    whole = ""
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token in "{[":
            open_brackets.append("}" if token == "{" else "]")
        elif token in "}]" and open_brackets:
            open_brackets.pop()
        elif token == "," and open_brackets:
            whole = text[: match.start()] + "".join(reversed(open_brackets))
        elif token.startswith('"') and open_brackets[-1:] == ["]"]:
            whole = text[: match.end()] + "".join(reversed(open_brackets))
        if not open_brackets:
            break
    try:
        found = json.loads(whole, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found else None
