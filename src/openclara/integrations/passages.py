"""What is found, as the fields that every framework is given."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openclara.integrations.turns import Turns
    from openclara.types import Hit


def passage_id(hit: Hit) -> str:
    """A name of the stretch that no other has; a document may be found in several."""
    return f"{hit.document.id}#{hit.start}-{hit.end}"


def metadata(hit: Hit) -> dict[str, Any]:
    """The document's own fields, and where the stretch stands.

    Fields of the document named like one of ours are hidden by it.
    """
    document = hit.document
    return {
        **document.metadata,
        "id": document.id,
        "title": document.title,
        "source": document.source,
        "start": hit.start,
        "end": hit.end,
        "score": hit.score,
    }


def response_metadata(turns: Turns) -> dict[str, Any]:
    """Passages, cost and end of an answer, as plain values."""
    answer = turns.answer
    return {
        "hits": [{**metadata(hit), "text": hit.text} for hit in answer.hits],
        "usage": asdict(answer.usage),
        "finish_reason": turns.finish_reason,
    }
