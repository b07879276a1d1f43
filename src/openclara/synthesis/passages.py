"""Documents cut into passages, each of which the compressor reads whole."""

from __future__ import annotations

import hashlib
import heapq
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openclara.data.chunking import chunk
from openclara.data.reading import read_documents
from openclara.data.records import framed
from openclara.data.tokenizer import encodable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from openclara.config import PassagesConfig, SynthesisConfig
    from openclara.errors import DataError
    from openclara.types import Document

    Tokenize = Callable[[list[str]], list[list[tuple[int, int]]]]

_PART_OF_TITLE = 4
"""A title may take this part of the length, as when documents are compressed for an index."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document.

    Attributes:
        id: The document's, with the stretch where it is not the whole.
        title: The document's, cut to what the model reads of it.
        text: The stretch.
        held_out: Whether its document is kept from training.
    """

    id: str
    title: str
    text: str
    held_out: bool = False

    @property
    def full_text(self) -> str:
        """What is compressed, and what records hold."""
        return framed(self.title, self.text)


@dataclass(slots=True)
class Reading:
    """What was read, counted.

    Attributes:
        documents: Documents.
        passages: Passages they were cut into.
        short: Passages left out as too short.
        repeated: Passages left out because an earlier one has the same words.
        beyond_limit: Passages left out by the recipe's limit.
    """

    documents: int = 0
    passages: int = 0
    short: int = 0
    repeated: int = 0
    beyond_limit: int = 0


def read_passages(
    recipe: SynthesisConfig,
    tokenize: Tokenize,
    *,
    on_unreadable: Callable[[DataError], None] | None = None,
) -> tuple[list[Passage], Reading]:
    """Read and cut the recipe's documents.

    Args:
        recipe: Names documents, length, limit and seed.
        tokenize: Counts tokens, such as `estimated_tokens`.
        on_unreadable: As in `read_documents`.

    Returns:
        Passages in the order of their documents, no two with the same words.

    Raises:
        DataError: As `read_documents` does.
    """
    reading = Reading()
    documents = read_documents(recipe.documents, on_unreadable=on_unreadable)
    kept = _limited(_distinct(documents, recipe, tokenize, reading), recipe, reading)
    return kept, reading


def _distinct(
    documents: Iterable[Document], recipe: SynthesisConfig, tokenize: Tokenize, reading: Reading
) -> Iterator[Passage]:
    seen: set[bytes] = set()
    for document in documents:
        reading.documents += 1
        held_out = _share_of(encodable(document.text)) < recipe.held_out
        for passage in cut(document, recipe.passages, tokenize, held_out=held_out):
            reading.passages += 1
            words = passage.text.casefold().split()
            digest = hashlib.sha256(" ".join(words).encode()).digest()[:16]
            if len(words) < recipe.passages.min_words:
                reading.short += 1
            elif digest in seen:
                reading.repeated += 1
            else:
                seen.add(digest)
                yield passage


def _limited(
    passages: Iterator[Passage], recipe: SynthesisConfig, reading: Reading
) -> list[Passage]:
    if recipe.limit is None:
        return list(passages)
    # By hash, so that the choice depends neither on the order of files nor on what else is read.
    drawn = heapq.nsmallest(
        recipe.limit,
        enumerate(passages),
        key=lambda item: _share_of(item[1].full_text, str(recipe.seed)),
    )
    left = reading.passages - reading.short - reading.repeated
    reading.beyond_limit = left - len(drawn)
    return [passage for _, passage in sorted(drawn, key=lambda item: item[0])]


def cut(
    document: Document, rules: PassagesConfig, tokenize: Tokenize, *, held_out: bool = False
) -> Iterator[Passage]:
    """Cut a document at the ends of sentences into passages that fit with their title.

    Args:
        document: Any document.
        rules: Names the length.
        tokenize: Character spans of the tokens of each of several texts.
        held_out: What the passages say of it.
    """
    whole, title = encodable(document.text), encodable(document.title)
    most = max(1, rules.doc_max_length // _PART_OF_TITLE)
    spans = tokenize([title])[0] if title else []
    title = title[: spans[most - 1][1]] if len(spans) > most else title
    spent = len(tokenize([framed(title, "")])[0]) if title else 0
    max_tokens = max(1, rules.doc_max_length - spent)
    chunks = chunk(whole, max_tokens=max_tokens, tokenize=tokenize)
    for part in chunks:
        place = f" [{part.start}:{part.end}]" if len(chunks) > 1 else ""
        text = whole[part.start : part.end]
        yield Passage(f"{encodable(document.id)}{place}", title, text, held_out)


_ESTIMATED = re.compile(r"[^\W\d_]{1,4}|\d|\s?[^\w\s]|_|\n")
_WIDE = re.compile(r"[^\x00-\u024f]")


def estimated_tokens(texts: list[str]) -> list[list[tuple[int, int]]]:
    """Spans that stand for tokens where no tokenizer is named.

    Four letters, one digit or one mark each, and every character outside the Latin script alone:
    more than today's tokenizers make of English, so that what fits by this count fits by theirs.
    """
    return [
        [span for match in _ESTIMATED.finditer(text) for span in _narrow(match)] for text in texts
    ]


def _narrow(match: re.Match[str]) -> list[tuple[int, int]]:
    start, end = match.span()
    if end - start > 1 and _WIDE.search(match.group()):
        return [(at, at + 1) for at in range(start, end)]
    return [(start, end)]


def _share_of(text: str, salt: str = "") -> float:
    """A number in [0, 1) that follows from a text alone."""
    digest = hashlib.sha256(f"{salt}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
