"""Values of the library as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openclara.server.library import public_model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from openclara.server.library import Served
    from openclara.types import Document, Hit, Usage


def hit_record(hit: Hit) -> dict[str, Any]:
    """A stretch that was found."""
    document = hit.document
    return {
        "id": document.id,
        "score": hit.score,
        "cosine": hit.cosine,
        "title": document.title,
        "text": hit.text,
        "source": document.source,
        "start": hit.start,
        "end": hit.end,
        "n_tokens": hit.n_tokens,
        "metadata": dict(document.metadata),
    }


def hit_records(hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """Stretches that were found, in their order."""
    return [hit_record(hit) for hit in hits]


def usage_record(usage: Usage) -> dict[str, Any]:
    """What an answer cost."""
    total = usage.prompt_tokens + usage.completion_tokens
    return {**asdict(usage), "total_tokens": total}


def index_record(served: Served) -> dict[str, Any]:
    """An index in numbers."""
    about = served.index.info()
    return {
        "name": served.name,
        "documents": about.documents,
        "chunks": about.chunks,
        "bytes": about.total_bytes,
        "model": public_model(about.spec.model),
        "n_memory": about.spec.n_memory,
        "nominal_rate": about.spec.doc_max_length / about.spec.n_memory,
        "quantization": about.quantization,
        "updated": about.updated,
        "writable": served.writable,
    }


def listed_record(document: Document) -> dict[str, Any]:
    """A document without its text."""
    return {
        "id": document.id,
        "title": document.title,
        "source": document.source,
        "n_characters": len(document.text),
        "metadata": dict(document.metadata),
    }


def document_record(document: Document) -> dict[str, Any]:
    """A document."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "source": document.source,
        "metadata": dict(document.metadata),
    }
