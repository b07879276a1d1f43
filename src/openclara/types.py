"""The nouns of the project as frozen values; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

MetadataValue = str | int | float | bool | None
"""What a metadata field may hold: the scalars that JSON and SQLite both keep exactly."""

Mode = Literal["hybrid", "latent", "lexical"]
"""How to search: by both, by cosine of the latents, or by BM25 of the words."""

Context = Literal["latents", "text", "none"]
"""What to answer from: the latents of the stretches found, their full text, or nothing."""

Precision = Literal["auto", "fp32", "bf16", "int8", "int4"]
"""Arithmetic and weights of a base: `int8` and `int4` keep its linear layers in 8 and 4 bit."""

Score = Literal["flat", "late"]
"""How latents are compared: by the cosine of all of them flattened, or each of a question with the
best of a document."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from.

    Attributes:
        id: Stable name; adding a document with a known id replaces the earlier one.
        text: The whole text, as characters; chunk spans point into it.
        title: Read by the model above the text, and shown in citations; empty when unknown.
        source: Path or address it was read from; empty when it was made in memory.
        metadata: Flat fields to filter by.
    """

    id: str
    text: str
    title: str = ""
    source: str = ""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a document that fits the model.

    Attributes:
        start: First character, counted in `Document.text`.
        end: One past the last character.
        n_tokens: Tokens of the stretch, without control and memory tokens.
    """

    start: int
    end: int
    n_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class CompressedDocument:
    """A document, its chunks and their latents.

    Attributes:
        document: The document that was compressed.
        chunks: C stretches in reading order; together they cover every non-blank character.
        latents: (C, M, D) float tensor on the CPU, M memory tokens of width D for each chunk.
    """

    document: Document
    chunks: tuple[Chunk, ...]
    latents: Tensor


class Compression(Protocol):
    """A lazy stream of compressed documents that can leave out what need not be compressed."""

    def __iter__(self) -> Iterator[CompressedDocument]:
        """Compress every document."""

    def skipping(self, unchanged: Callable[[Document], bool]) -> Iterator[CompressedDocument]:
        """Compress only the documents for which `unchanged` is false."""


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """What two sets of latents must share to be comparable.

    Attributes:
        model: Name by which `Clara.load` finds the model again.
        fingerprint: Hash of the base and of the roles that make latents.
        n_memory: Memory tokens a chunk is compressed to (M).
        width: Hidden size of the base model (D).
        doc_max_length: Longest chunk, in tokens.
        score: How they are compared.
    """

    model: str
    fingerprint: str
    n_memory: int
    width: int
    doc_max_length: int
    score: Score = "flat"


@dataclass(frozen=True, slots=True)
class Hit:
    """A stretch of a document that was found for a question.

    Attributes:
        document: The document, whole.
        start: First character of the stretch in `document.text`.
        end: One past its last character.
        score: What the hits are ordered by, larger is better: `cosine` in a latent search,
            BM25 in a lexical one, the fusion of both ranks in a hybrid one (1.0
            leads both).
        n_tokens: Tokens of the stretch.
        latents: (M, D) tensor, or None where the search did not read any.
        cosine: Cosine of the latents with the question's, or, under a late score, the mean of the
            best cosines of the question's latents; None where these were not given.
    """

    document: Document
    start: int
    end: int
    score: float
    n_tokens: int = 0
    latents: Tensor | None = field(default=None, repr=False, compare=False)
    cosine: float | None = None

    @property
    def text(self) -> str:
        """The stretch itself."""
        return self.document.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost. Times are milliseconds of wall clock.

    Attributes:
        prompt_tokens: Positions the generator read before the first answer token.
        completion_tokens: Tokens it wrote, without the end of turn.
        text_prompt_tokens: Positions it would have read with the full passages instead.
        nominal_rate: `doc_max_length / n_memory`; 0 where no latents were used.
        effective_rate: Tokens of the cited stretches per latent spent on them; 0 likewise.
        embed_ms: Making the question's latents.
        search_ms: Finding the hits and reading their latents.
        first_token_ms: From the call to the first answer token, everything included.
        total_ms: From the call to the last token.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    text_prompt_tokens: int = 0
    nominal_rate: float = 0.0
    effective_rate: float = 0.0
    embed_ms: float = 0.0
    search_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, from what, at what cost."""

    question: str
    text: str
    hits: tuple[Hit, ...] = ()
    usage: Usage = field(default_factory=Usage)
