"""`/v1/chat/completions`."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from openclara.server.answers import Answering, EventStream, data_line, while_connected
from openclara.server.asking import Finished
from openclara.server.failures import Failure, Reply
from openclara.server.openai.bodies import ChatReply, ChatRequest
from openclara.server.openai.conversation import asked
from openclara.server.openai.requests import head, question_of, served_as, tokens
from openclara.server.records import hit_records
from openclara.server.service import Service, service_of

router = APIRouter(tags=["OpenAI"])
DONE = b"data: [DONE]\n\n"


@router.post(
    "/v1/chat/completions",
    response_model=ChatReply,
    summary="Go on with a conversation",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer the last question of a conversation from the index that `model` names.

    Replies, and the last chunk of a stream, have `sources` besides what OpenAI's have. Earlier
    turns are not shown to the generator; see `rewrite`.
    """
    service = service_of(request)
    _refuse_what_cannot_be(body)
    served = await served_as(service, body.model)
    one = asked(body.messages, body.rewrite or service.settings.rewrite)
    question = question_of(service, body, one.text, one.prompt)
    answering = Answering(service.engine, question, served.index, service.metrics)
    await while_connected(request, answering.start())
    if body.stream:
        stream = _Stream(service, answering, served.name, body.with_usage)
        return EventStream(stream.lines(), answering)
    whole = await while_connected(request, answering.whole())
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": whole.text, "refusal": None},
        "logprobs": None,
        "finish_reason": whole.finished.reason,
    }
    return Reply(
        {
            **head("chat.completion", "chatcmpl", served.name),
            "choices": [choice],
            "usage": tokens(whole.usage),
            "sources": hit_records(whole.hits),
        }
    )


def _refuse_what_cannot_be(body: ChatRequest) -> None:
    if body.max_completion_tokens is not None:
        if body.max_tokens not in (None, body.max_completion_tokens):
            raise Failure(
                400, "max_tokens and max_completion_tokens differ; send one", param="max_tokens"
            )
        body.max_tokens = body.max_completion_tokens
    if body.logprobs:
        raise Failure(400, "logprobs are not given; leave them out", param="logprobs")
    if (body.response_format or {}).get("type", "text") != "text":
        raise Failure(
            400, "answers are plain text; leave response_format out", param="response_format"
        )
    if body.tool_choice not in (None, "auto", "none"):
        raise Failure(400, "tools are not called; leave tool_choice out", param="tool_choice")
    if body.modalities and body.modalities != ["text"]:
        raise Failure(400, "answers are text; leave modalities out", param="modalities")


@dataclass(frozen=True, slots=True)
class _Stream:
    service: Service
    answering: Answering
    model: str
    with_usage: bool

    async def lines(self) -> AsyncIterator[bytes]:
        start = head("chat.completion.chunk", "chatcmpl", self.model)

        def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            return data_line({**start, "choices": [choice], **more})

        yield chunk({"role": "assistant", "content": ""})
        at_start = True
        try:
            async for event in self.answering.events():
                if isinstance(event, Finished):
                    yield chunk({}, event.reason, sources=hit_records(self.answering.hits))
                    if self.with_usage:
                        yield data_line({**start, "choices": [], "usage": tokens(event.usage)})
                    yield DONE
                    return
                text = event.text.lstrip() if at_start else event.text
                if text:
                    at_start = False
                    yield chunk({"content": text})
        except Exception as error:
            yield data_line(self.service.logged(error).body)
