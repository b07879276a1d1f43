"""From a compatible request to a question of the engine, and what both ways of asking share."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from openclara.server.asking import Question
from openclara.server.failures import Failure
from openclara.server.limits import check_at_most, check_filters, check_question
from openclara.server.openai.bodies import CompletionRequest

if TYPE_CHECKING:
    from openclara.server.library import Served
    from openclara.server.openai.bodies import ChatRequest
    from openclara.server.service import Service
    from openclara.types import Usage

MAX_TOKENS = 256
"""Of an answer, where the client does not say; answers of the shipped model end by themselves."""


async def served_as(service: Service, model: str) -> Served:
    """The index that a client calls a model.

    Raises:
        Failure: There is none of that name.
    """
    try:
        return await run_in_threadpool(service.library.get, model)
    except Failure as failure:
        if failure.status_code != 404:
            raise
        raise Failure(
            404,
            "there is no model of that name; GET /v1/models lists the indexes that can be asked",
            param="model",
            code="model_not_found",
        ) from None


def question_of(
    service: Service, body: ChatRequest | CompletionRequest, text: str, prompt: str = ""
) -> Question:
    """A question with the settings of a request.

    Raises:
        Failure: Something in it goes beyond what may be asked.
    """
    if body.n not in (None, 1):
        raise Failure(400, f"n is {body.n}, one answer is all there is; leave n out", param="n")
    param = "prompt" if isinstance(body, CompletionRequest) else "messages"
    check_question(text, service.limits, param)
    check_question(prompt or text, service.limits, param)
    check_at_most(body.k, service.limits.k, "k")
    where = body.where or []
    check_filters(where)
    return Question(
        text=text,
        prompt=prompt,
        k=body.k,
        context=body.context or "latents",
        mode=body.mode or "hybrid",
        where=tuple(where),
        max_new_tokens=min(body.max_tokens or MAX_TOKENS, service.limits.max_tokens),
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=body.stops,
    )


def head(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """What every object of a reply starts with."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def tokens(*usages: Usage) -> dict[str, int]:
    """Tokens read and written, of all prompts together."""
    prompt = sum(usage.prompt_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
