"""Health, figures, and what the caller may do."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

import openclara
from openclara.server.bodies import SessionReply, StatusReply
from openclara.server.failures import Reply
from openclara.server.library import public_model
from openclara.server.metrics import CONTENT_TYPE
from openclara.server.service import service_of

router = APIRouter(tags=["service"])


@router.get("/healthz", response_model=StatusReply, summary="Is it alive?")
async def healthz() -> Response:
    """The process answers."""
    return Reply({"status": "ok"})


@router.get(
    "/readyz",
    response_model=StatusReply,
    summary="Does it take questions?",
    responses={503: {"model": StatusReply}},
)
async def readyz(request: Request) -> Response:
    """Whether questions are taken now: 503 while it loads, and while it stops."""
    service = service_of(request)
    if service.draining:
        return Reply({"status": "draining"}, 503)
    return Reply({"status": "ready"}) if service.ready else Reply({"status": "loading"}, 503)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Requests, answers, the engine, jobs and indexes."""
    text = await run_in_threadpool(service_of(request).metrics.text)
    return Response(text, headers={"content-type": CONTENT_TYPE})


@router.get("/v1/session", response_model=SessionReply, summary="What may I do?")
async def session(request: Request) -> Response:
    """What this caller may do here, and the bounds that a page should know."""
    service = service_of(request)
    limits = service.limits
    return Reply(
        {
            "scopes": list(request.state.scopes),
            "auth": service.keys is not None,
            "version": openclara.__version__,
            "model": public_model(service.library.spec.model),
            "can_create_indexes": service.library.root is not None,
            "limits": {
                "upload_bytes": limits.upload_bytes,
                "question_chars": limits.question_chars,
                "k": limits.k,
            },
        }
    )
