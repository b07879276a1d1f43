"""What latents say as JSON: the form that the command line and the service share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openclara.pipeline.inspecting import Inspection


def inspection_record(one: Inspection) -> dict[str, Any]:
    """An inspected text as JSON."""
    document = one.document
    return {
        "kind": one.kind,
        "id": document.id if one.kind == "document" else None,
        "title": document.title,
        "source": document.source,
        "start": one.start,
        "end": one.end,
        "role": one.role,
        "text": one.text,
        "tokens": one.n_tokens,
        "latents": [asdict(view) for view in one.latents],
        "reading_order": list(one.order),
        "summary": {
            "mean_norm": one.mean_norm,
            "mean_cosine": one.mean_cosine,
            "words": one.n_words,
            "recovered": one.recovered,
            "carried": one.carried,
        },
    }
