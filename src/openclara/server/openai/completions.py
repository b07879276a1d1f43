"""`/v1/completions`: each prompt is a question."""

# Without `from __future__ import annotations`: fastapi reads annotations when the module is loaded.

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from openclara.server.answers import Answering, EventStream, Whole, data_line, while_connected
from openclara.server.asking import Finished, Question
from openclara.server.failures import Failure, Reply
from openclara.server.library import Served
from openclara.server.limits import check_at_most
from openclara.server.openai.bodies import CompletionReply, CompletionRequest
from openclara.server.openai.chat import DONE
from openclara.server.openai.requests import head, question_of, served_as, tokens
from openclara.server.records import hit_records
from openclara.server.service import Service, service_of
from openclara.types import Hit, Usage

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/completions",
    response_model=CompletionReply,
    summary="Answer prompts",
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Answer each prompt from the index that `model` names; `sources` has those of all prompts."""
    service = service_of(request)
    _refuse_what_cannot_be(body)
    served = await served_as(service, body.model)
    prompts = texts_of(body.prompt, "prompt")
    check_at_most(len(prompts), service.limits.prompts, "prompt")
    questions = [question_of(service, body, prompt) for prompt in prompts]
    if body.stream:
        stream = _Stream(service, served, questions, body.with_usage)
        first = await while_connected(request, stream.answering(0).start())
        return EventStream(stream.lines(first), stream)
    wholes = await while_connected(request, _all(service, served, questions))
    choices = [
        {"index": at, "text": one.text, "logprobs": None, "finish_reason": one.finished.reason}
        for at, one in enumerate(wholes)
    ]
    return Reply(
        {
            **head("text_completion", "cmpl", served.name),
            "choices": choices,
            "usage": tokens(*(one.usage for one in wholes)),
            "sources": hit_records(_distinct([one.hits for one in wholes])),
        }
    )


def texts_of(given: str | Sequence[Any], param: str) -> list[str]:
    """One text or several as a list.

    Raises:
        Failure: There is none, or they are given as token ids.
    """
    texts = [given] if isinstance(given, str) else list(given)
    if not texts:
        raise Failure(400, f"{param} is empty; send at least one text", param=param)
    if not all(isinstance(text, str) for text in texts):
        raise Failure(
            400, f"{param} holds token ids, which are another model's; send text", param=param
        )
    return texts


def _refuse_what_cannot_be(body: CompletionRequest) -> None:
    if body.best_of not in (None, 1):
        raise Failure(400, "one answer is all there is; leave best_of out", param="best_of")
    for name in ("echo", "suffix", "logprobs"):
        if getattr(body, name) not in (None, False, ""):
            raise Failure(400, f"{name} cannot be had; leave it out", param=name)


async def _all(service: Service, served: Served, questions: Sequence[Question]) -> list[Whole]:
    async def one(question: Question) -> Whole:
        answering = Answering(service.engine, question, served.index, service.metrics)
        return await (await answering.start()).whole()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in questions]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _distinct(found: Sequence[Sequence[Hit]]) -> list[Hit]:
    hits = {(hit.document.id, hit.start): hit for own in found for hit in own}
    return list(hits.values())


@dataclass
class _Stream:
    """The answers to some prompts, one after the other."""

    service: Service
    served: Served
    questions: Sequence[Question]
    with_usage: bool

    def __post_init__(self) -> None:
        self._current: Answering | None = None

    def answering(self, at: int) -> Answering:
        question = self.questions[at]
        self._current = Answering(
            self.service.engine, question, self.served.index, self.service.metrics
        )
        return self._current

    async def close(self) -> None:
        """Free the place of the answer under way."""
        if self._current is not None:
            await self._current.close()

    async def lines(self, first: Answering) -> AsyncIterator[bytes]:
        start = head("text_completion", "cmpl", self.served.name)
        found: list[Sequence[Hit]] = []
        usages: list[Usage] = []

        def chunk(at: int, text: str, reason: str | None = None, **more: Any) -> bytes:
            choice = {"index": at, "text": text, "logprobs": None, "finish_reason": reason}
            return data_line({**start, "choices": [choice], **more})

        try:
            for at in range(len(self.questions)):
                answering = first if at == 0 else await self.answering(at).start()
                found.append(answering.hits)
                async for event in answering.events():
                    if not isinstance(event, Finished):
                        yield chunk(at, event.text)
                        continue
                    usages.append(event.usage)
                    last = at == len(self.questions) - 1
                    more = {"sources": hit_records(_distinct(found))} if last else {}
                    yield chunk(at, "", event.reason, **more)
            if self.with_usage:
                yield data_line({**start, "choices": [], "usage": tokens(*usages)})
            yield DONE
        except Exception as error:
            yield data_line(self.service.logged(error).body)
