"""`/v1/models`: the indexes that can be asked."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

from typing import Any

from fastapi import APIRouter, Request, Response

from openclara.index.layout import Layout
from openclara.server.failures import Reply
from openclara.server.library import Served
from openclara.server.openai.bodies import ModelReply, ModelsReply
from openclara.server.openai.requests import served_as
from openclara.server.service import service_of

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", response_model=ModelsReply, summary="List models")
def models(request: Request) -> Response:
    """Every index, as a model that can be asked."""
    served = service_of(request).library.all()
    return Reply({"object": "list", "data": [_record(one) for one in served]})


@router.get("/v1/models/{name}", response_model=ModelReply, summary="Look at a model")
async def model(request: Request, name: str) -> Response:
    """One index, as a model that can be asked."""
    return Reply(_record(await served_as(service_of(request), name)))


def _record(served: Served) -> dict[str, Any]:
    created = Layout(served.index.path).manifest.stat().st_mtime
    return {
        "id": served.name,
        "object": "model",
        "created": int(created),
        "owned_by": "openclara",
    }
