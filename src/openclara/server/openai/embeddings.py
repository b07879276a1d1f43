"""`/v1/embeddings`: one vector for a text, where the model itself compares several."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

import base64
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from openclara.server.answers import while_connected
from openclara.server.failures import Failure, Reply
from openclara.server.openai.bodies import EmbeddingReply, EmbeddingRequest
from openclara.server.openai.completions import texts_of
from openclara.server.openai.requests import served_as
from openclara.server.routes.latents import check_texts
from openclara.server.service import service_of

if TYPE_CHECKING:
    from torch import Tensor

    from openclara.pipeline import Clara

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/embeddings", response_model=EmbeddingReply, summary="Embed texts")
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """One vector for each text: the mean over its latents, of length 1.

    A search of an index compares all latents and finds more; these vectors are for tools that hold
    one. Embed documents and questions with the `input_type` they have. A text longer than the
    model reads at once is cut to that length.
    """
    service = service_of(request)
    served = await served_as(service, body.model)
    texts = texts_of(body.input, "input")
    check_texts(texts, service, "input")
    width = service.library.spec.width
    if body.dimensions not in (None, width):
        raise Failure(400, f"vectors have {width} dimensions; leave it out", param="dimensions")
    role: Any = "reasoner" if body.input_type == "query" else "compressor"
    latents_NMD = await while_connected(request, service.engine.embed(texts, role))
    vectors = await run_in_threadpool(pooled, latents_NMD)
    as_text = body.encoding_format == "base64"

    def count(clara: "Clara") -> int:
        return sum(len(ids) for ids in clara.tokenizer.encode(clara.cut(texts)))

    n_tokens = await while_connected(request, service.engine.run(count))
    return Reply(
        {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": at,
                    "embedding": _base64(vector) if as_text else vector,
                }
                for at, vector in enumerate(vectors)
            ],
            "model": served.name,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )


def pooled(latents_NMD: "Tensor") -> list[list[float]]:
    """The mean over the latents of each text, of length 1."""
    import torch

    vectors: list[list[float]] = torch.nn.functional.normalize(
        latents_NMD.float().mean(dim=1), dim=1
    ).tolist()
    return vectors


def _base64(vector: list[float]) -> str:
    import numpy as np

    return base64.b64encode(np.array(vector, dtype="<f4").tobytes()).decode()
