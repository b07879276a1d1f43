"""`/v1/compress` and `/v1/inspect`: the latents themselves, and what they say."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from openclara.errors import DataError
from openclara.pipeline import Clara
from openclara.server.answers import while_connected
from openclara.server.bodies import CompressRequest, InspectReply, InspectRequest, Text
from openclara.server.failures import Failure, Reply
from openclara.server.library import Served, public_model
from openclara.server.limits import check_at_most, check_question
from openclara.server.service import Service, service_of
from openclara.types import Hit

router = APIRouter(tags=["latents"])

SAFETENSORS = "application/safetensors"


@router.post(
    "/v1/compress",
    summary="Compress texts",
    response_class=Response,
    responses={200: {"content": {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def compress(body: CompressRequest, request: Request) -> Response:
    """Latents of texts as safetensors: `latents` (N, M, D) in bf16, the model as metadata.

    A text longer than the model reads at once is cut to that length.
    """
    service = service_of(request)
    check_texts(body.texts, service, "texts")
    spec = service.library.spec
    n_memory = spec.n_memory if body.n_memory is None else body.n_memory
    check_at_most(n_memory, spec.n_memory, "n_memory")
    latents_NMD = await while_connected(request, service.engine.embed(body.texts, "compressor"))
    about = asdict(spec) | {"model": public_model(spec.model), "n_memory": n_memory}

    def packed() -> bytes:
        import torch
        from safetensors.torch import save

        tensor = latents_NMD[:, :n_memory].to(torch.bfloat16).contiguous()
        return save({"latents": tensor}, {name: str(value) for name, value in about.items()})

    return Response(await run_in_threadpool(packed), media_type=SAFETENSORS)


@router.get("/v1/inspect/question", response_model=InspectReply, summary="Look into a question")
async def inspect_question(
    request: Request,
    question: Annotated[Text, Query(examples=["Who designed the opera house?"])],
    index: Annotated[Text | None, Query()] = None,
) -> Response:
    """What the latents say that a question is searched with."""
    return await _inspected(request, InspectRequest(index=index, question=question))


@router.post("/v1/inspect", response_model=InspectReply, summary="Look into latents")
async def inspect(body: InspectRequest, request: Request) -> Response:
    """What latents say: the words they decode to, what they carry, where they look."""
    return await _inspected(request, body)


async def _inspected(request: Request, body: InspectRequest) -> Response:
    service = service_of(request)
    if body.question is None and body.id is None:
        raise Failure(400, "name a question, or the id of a document")
    served = await run_in_threadpool(service.library.get, body.index)
    inspected: list[dict[str, Any]] = []
    if body.id is not None:
        hits = await run_in_threadpool(_stretches, served, body.id, body.start, service)
        # One by one, so that answers go on being written in between.
        inspected += [
            await while_connected(request, service.engine.run(_LookingAt(hit))) for hit in hits
        ]
    if body.question is not None:
        check_question(body.question, service.limits)
        work = _LookingAtQuestion(body.question, served.index.spec.n_memory)
        inspected.append(await while_connected(request, service.engine.run(work)))
    return Reply({"model": public_model(service.library.spec.model), "inspected": inspected})


class _LookingAt:
    def __init__(self, hit: Hit) -> None:
        self._hit = hit

    def __call__(self, clara: Clara) -> dict[str, Any]:
        from openclara.pipeline.inspecting import inspect_hits
        from openclara.pipeline.inspection_record import inspection_record

        return inspection_record(inspect_hits(clara, [self._hit])[0])


class _LookingAtQuestion:
    def __init__(self, question: str, n_memory: int) -> None:
        self._question = question
        self._n_memory = n_memory

    def __call__(self, clara: Clara) -> dict[str, Any]:
        from openclara.pipeline import inspecting
        from openclara.pipeline.inspection_record import inspection_record

        one = inspecting.inspect_question(clara, self._question, n_memory=self._n_memory)
        return inspection_record(one)


def _stretches(served: Served, name: str, start: int | None, service: Service) -> list[Hit]:
    try:
        (hits,) = served.index.hits([name])
    except DataError:
        raise Failure(404, "the index has no document of that id", param="id") from None
    if start is not None:
        hits = [hit for hit in hits if hit.start == start]
        if not hits:
            raise Failure(404, "no stretch of the document starts there", param="start")
    return hits[: service.limits.inspected]


def check_texts(texts: list[str], service: Service, param: str) -> None:
    """Refuse too many texts, too long ones, and blank ones.

    Raises:
        Failure: There are.
    """
    check_at_most(len(texts), service.limits.texts, param)
    if any(not text.strip() for text in texts):
        raise Failure(400, "a text is empty; write something in it", param=param)
    longest = max(len(text) for text in texts)
    if longest > service.limits.text_chars:
        most = service.limits.text_chars
        raise Failure(400, f"a text has {longest:,} characters, {most:,} are the most", param=param)
