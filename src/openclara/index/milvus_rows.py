"""An index as rows of Milvus collections: documents, pieces of their text, latents."""

# C chunks, M memory tokens, D width

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from openclara.index import database as db
from openclara.types import Chunk, Document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from openclara.types import CompressedDocument

PIECE = 60_000
"""Characters of JSON in a row: Milvus keeps at most 65,535 bytes of text in a field."""

BATCH = 500
"""Names in one filter expression."""

UNUSED = [0.0, 1.0]
"""Milvus wants a vector in every row."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The row of a document: what it says is there is there, all else is left over.

    Attributes:
        name: Hash of the document's id.
        ordinal: Its place among all documents, by when its id was first added.
        version: Of its pieces.
        latents: Version of its latents.
        pieces: How many pieces there are.
        chunks: How many chunks.
        framed: Hash of title and text.
        content: Hash of everything.
    """

    name: str
    ordinal: int
    version: int
    latents: int
    pieces: int
    chunks: int
    framed: str
    content: str

    def row(self) -> dict[str, Any]:
        """As Milvus takes it."""
        return {**asdict(self), "unused": UNUSED}


STORED_FIELDS = list(Stored.__slots__)


def name_of(document_id: str) -> str:
    """A name of fixed length for an id, in letters that need no quoting."""
    return db.sha256(document_id)


def pieces_of(name: str, version: int, document: Document, chunks: Sequence[Chunk]) -> list[Any]:
    """Rows with a document and its spans. Escaped JSON holds any Python text in plain ASCII."""
    content = {**asdict(document), "metadata": dict(document.metadata)}
    text = json.dumps({"document": content, "chunks": [asdict(chunk) for chunk in chunks]})
    parts = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    return [
        {
            "key": f"{name}:{version}:{number}",
            "name": name,
            "version": version,
            "part": part,
            "unused": UNUSED,
        }
        for number, part in enumerate(parts)
    ]


def document_of(parts: Sequence[str]) -> tuple[Document, list[Chunk]]:
    """The document and spans whose pieces these are."""
    content = json.loads("".join(parts))
    return Document(**content["document"]), [Chunk(**chunk) for chunk in content["chunks"]]


def latents_of(name: str, version: int, item: CompressedDocument) -> Iterator[dict[str, Any]]:
    """One row for each latent."""
    latents_CMD = item.latents.detach().cpu().float()
    for chunk, latents_MD in enumerate(latents_CMD):
        for token, latent_D in enumerate(latents_MD):
            yield {
                "key": latent_key(name, version, chunk, token),
                "name": name,
                "version": version,
                "chunk": chunk,
                "token": token,
                "vector": latent_D.numpy(),
            }


def latent_key(name: str, version: int, chunk: int, token: int) -> str:
    """The key of the row of one latent."""
    return f"{name}:{version}:{chunk}:{token}"


def stacked(rows: Sequence[dict[str, Any]]) -> Tensor:
    """(M, D) float32 of the rows of one chunk's latents, in order."""
    return torch.stack([torch.tensor(row["vector"], dtype=torch.float32) for row in rows])
