"""What the tools of the MCP server give back; field descriptions are part of their schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from openclara.types import MetadataValue  # noqa: TC001 - pydantic reads the annotations

if TYPE_CHECKING:
    from openclara.types import Document, Hit


class Passage(BaseModel):
    """A stretch of a document that was found."""

    id: str = Field(description="Id of the document, for get_document.")
    title: str
    source: str = Field(description="File or address the document was read from, if known.")
    start: int = Field(description="First character of the stretch in the document.")
    end: int = Field(description="One past its last character.")
    score: float = Field(description="Larger is better; comparable within one search only.")
    text: str
    metadata: dict[str, MetadataValue]

    @classmethod
    def of(cls, hit: Hit) -> Passage:
        """The passage of a hit."""
        document = hit.document
        return cls(
            id=document.id,
            title=document.title,
            source=document.source,
            start=hit.start,
            end=hit.end,
            score=hit.score,
            text=hit.text,
            metadata=dict(document.metadata),
        )


class Found(BaseModel):
    """Passages, best first."""

    passages: list[Passage]


class Answered(BaseModel):
    """An answer and what it was written from."""

    answer: str
    passages: list[Passage] = Field(
        description="What the answer was written from; where empty, from nothing but the model."
    )


class Entry(BaseModel):
    """A document without its text."""

    id: str
    title: str
    source: str
    characters: int = Field(description="Length of the text.")
    metadata: dict[str, MetadataValue]

    @classmethod
    def of(cls, document: Document) -> Entry:
        """The entry of a document."""
        return cls(
            id=document.id,
            title=document.title,
            source=document.source,
            characters=len(document.text),
            metadata=dict(document.metadata),
        )


class Listing(BaseModel):
    """One page of the documents."""

    documents: list[Entry]
    total: int = Field(description="Documents in the index, filters aside.")
    next_offset: int | None = Field(description="Where the next page starts; null on the last.")


class Text(Entry):
    """A document, or a stretch of one."""

    start: int = Field(description="First character of the stretch.")
    end: int = Field(description="One past its last; less than characters where more follows.")
    text: str


class Added(BaseModel):
    """What became of a document."""

    id: str
    change: str = Field(description="added, updated, or unchanged.")
