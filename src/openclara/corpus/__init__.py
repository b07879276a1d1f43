"""A small corpus for demonstrations and tests: encyclopaedic passages and questions about them.

Every text in this package was written for this project. Passages and questions are under the
project's Apache-2.0 licence, like the code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from openclara.types import Document

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CorpusQuestion", "passages", "questions"]


@dataclass(frozen=True, slots=True)
class CorpusQuestion:
    """A question that the passages answer.

    Attributes:
        id: Stable name, `q001` and so on.
        question: The question, understandable by itself.
        answers: Accepted short answers; the first stands literally in one of the passages,
            up to case.
        passages: Ids of the passages that are needed, one or two.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]


def passages() -> list[Document]:
    """Read the bundled passages, of 100 to 150 words each, in their stored order."""
    return [
        Document(id=row["id"], text=row["text"], title=row["title"])
        for row in _rows("passages.jsonl")
    ]


def questions(*, demo: bool = False) -> list[CorpusQuestion]:
    """Read the questions about the bundled passages, in their stored order.

    Args:
        demo: Keep only the dozen that show the corpus off.
    """
    return [
        CorpusQuestion(
            id=row["id"],
            question=row["question"],
            answers=tuple(row["answers"]),
            passages=tuple(row["passages"]),
        )
        for row in _rows("questions.jsonl")
        if not demo or row.get("demo", False)
    ]


def _rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a bundled JSON Lines file."""
    for line in files(__name__).joinpath(name).read_text(encoding="utf-8").split("\n"):
        if line:
            yield json.loads(line)
