"""Texts made fit to be shown, and files that are there whole or not at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that shows under its name once it is whole."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def one_line(value: Any) -> Any:
    """Every text of a tree as one line, without control characters, overrides of direction, halves.

    Args:
        value: Anything JSON can hold.
    """
    if isinstance(value, str):
        text = re.sub(r"[\u202a-\u202e\u2066-\u2069]", "", value)
        text = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)
        return " ".join(re.sub(r"[\ud800-\udfff\ufffe\uffff]", "\ufffd", text).split())
    if isinstance(value, dict):
        return {one_line(key): one_line(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [one_line(item) for item in value]
    return value
