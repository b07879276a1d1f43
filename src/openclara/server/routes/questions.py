"""`/v1/search` and `/v1/ask`."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from openclara.server.answers import Answering, EventStream, event_line, while_connected
from openclara.server.asking import Finished, Question
from openclara.server.bodies import AskReply, AskRequest, SearchReply, SearchRequest
from openclara.server.failures import Reply
from openclara.server.library import Served
from openclara.server.limits import check_at_most, check_filters, check_question
from openclara.server.records import hit_records, usage_record
from openclara.server.service import Service, service_of

router = APIRouter(tags=["questions"])


@router.post("/v1/search", response_model=SearchReply, summary="Find passages")
async def search(body: SearchRequest, request: Request) -> Response:
    """Find the stretches that answer a question best, best first."""
    service = service_of(request)
    served = await _checked(service, body)
    found = await while_connected(
        request,
        service.engine.search(
            body.question, served.index, k=body.k, mode=body.mode, where=body.where
        ),
    )
    return Reply({"index": served.name, "question": body.question, "hits": hit_records(found)})


@router.post(
    "/v1/ask",
    response_model=AskReply,
    summary="Answer a question",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def ask(body: AskRequest, request: Request) -> Response:
    """Answer a question from the latents of the stretches found for it.

    With `stream` the answer comes as server-sent events: `hits` once, `piece` for each bit of
    text, `done` with the whole answer, or `error`; then the stream ends.
    """
    service = service_of(request)
    served = await _checked(service, body)
    check_at_most(body.max_tokens, service.limits.max_tokens, "max_tokens")
    question = Question(
        text=body.question,
        k=body.k,
        context=body.context,
        mode=body.mode,
        where=tuple(body.where),
        max_new_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=tuple(body.stop),
    )
    answering = Answering(service.engine, question, served.index, service.metrics)
    await while_connected(request, answering.start())
    if body.stream:
        return EventStream(_Streamed(service, answering).lines(), answering)
    whole = await while_connected(request, answering.whole())
    return Reply(
        {
            "index": served.name,
            "question": body.question,
            "answer": whole.text,
            "hits": hit_records(whole.hits),
            "usage": usage_record(whole.usage),
            "finish_reason": whole.finished.reason,
        }
    )


@dataclass(frozen=True, slots=True)
class _Streamed:
    service: Service
    answering: Answering

    async def lines(self) -> AsyncIterator[bytes]:
        yield event_line("hits", {"hits": hit_records(self.answering.hits)})
        text = ""
        try:
            async for event in self.answering.events():
                if not isinstance(event, Finished):
                    text += event.text
                    yield event_line("piece", {"text": event.text})
                    continue
                end = {
                    "answer": text.strip(),
                    "usage": usage_record(event.usage),
                    "finish_reason": event.reason,
                }
                yield event_line("done", end)
        except Exception as error:
            yield event_line("error", self.service.logged(error).body)


async def _checked(service: Service, body: SearchRequest | AskRequest) -> Served:
    check_question(body.question, service.limits)
    check_at_most(body.k, service.limits.k, "k")
    check_filters(body.where)
    return await run_in_threadpool(service.library.get, body.index)
