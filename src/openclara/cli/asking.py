"""`openclara search` and `openclara ask`: from a question to passages and an answer."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from openclara.cli import render
from openclara.cli.loading import load_model_of
from openclara.cli.options import AtLeastOne, Json, ModelOptions, SearchOptions, Word
from openclara.errors import DataError
from openclara.index.addresses import open_index
from openclara.types import Context

if TYPE_CHECKING:
    from openclara.index.interface import Index
    from openclara.model.generator import Decoding
    from openclara.pipeline import Clara
    from openclara.types import Answer, Hit

BATCH = 8
"""Questions from standard input that are worked on together."""

SHOWN = 5
"""Passages that a search shows unless told otherwise."""


def search(
    address: str,
    question: Word,
    /,
    *,
    search: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    as_json: Json = False,
) -> None:
    """Find the passages that answer a question best.

    Args:
        address: Folder of the index, or milvus: and where Milvus is, such as milvus:docs.db.
        question: What to look for, or - for one question a line from standard input.
        search: What is looked for.
        model: Which model.
        as_json: Print JSON instead, one object a question.
    """
    questions = _questions(question)
    with open_index(address, exact=search.exact) as index:
        # Words need no model: a search by them answers at once.
        clara = None if search.mode == "lexical" else load_model_of(index, model)
        for batch in _batches(questions):
            found = _search(clara, index, batch, search)
            for asked, hits in zip(batch, found, strict=True):
                if as_json:
                    render.json_line({"question": asked, "hits": [hit_record(hit) for hit in hits]})
                    continue
                if question == "-":
                    render.question(asked)
                render.hits(hits)
                if not hits:
                    render.warning("nothing was found")


def ask(
    address: str,
    question: Word,
    /,
    *,
    search: SearchOptions = SearchOptions(),  # noqa: B008 - frozen
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    context: Context = "latents",
    max_new_tokens: AtLeastOne = 64,
    temperature: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 0.0,
    seed: int | None = None,
    stream: Annotated[bool, Parameter(show_default=False)] = True,
    as_json: Json = False,
) -> None:
    """Answer a question from the latents of the passages found for it.

    Args:
        address: Folder of the index, or milvus: and where Milvus is, such as milvus:docs.db.
        question: What to answer, or - for one question a line from standard input.
        search: What is looked for.
        model: Which model.
        context: What to answer from: latents, the passages' full text, or nothing.
        max_new_tokens: Longest answer.
        temperature: 0 always takes the likeliest token; more varies.
        seed: Makes varied answers repeatable.
        stream: Show the answer while it is written, or only when it is whole.
        as_json: Print JSON instead, one object a question.
    """
    questions = _questions(question)
    with open_index(address, exact=search.exact) as index:
        clara = load_model_of(index, model)
        from openclara.model.generator import Decoding

        decoding = Decoding(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        if stream and question != "-" and not as_json:
            _stream(clara, index, question, search, context, decoding)
            return
        for batch in _batches(questions):
            answers = clara.ask(
                batch,
                index,
                k=search.k,
                context=context,
                mode=search.mode,
                where=search.where,
                n_memory=search.n_memory,
                decoding=decoding,
            )
            for answer in answers:
                if as_json:
                    render.json_line(answer_record(answer))
                    continue
                if question == "-":
                    render.question(answer.question)
                render.result(answer.text)
                _show_sources(answer, context)


def hit_record(hit: "Hit") -> dict[str, Any]:
    """A passage as JSON."""
    document = hit.document
    return {
        "id": document.id,
        "score": hit.score,
        "title": document.title,
        "text": hit.text,
        "source": document.source,
        "start": hit.start,
        "end": hit.end,
    }


def answer_record(answer: "Answer") -> dict[str, Any]:
    """An answer as JSON."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "hits": [hit_record(hit) for hit in answer.hits],
        "usage": asdict(answer.usage),
    }


def _questions(argument: str) -> Iterator[str]:
    """The question, or those on standard input, each checked before any model is loaded.

    Raises:
        DataError: There is none, one is empty, or one is not text.
    """
    if argument != "-":
        return iter([_checked(argument)])
    questions = (_checked(line) for line in _lines())
    first = next(questions, None)
    if first is None:
        raise DataError("standard input holds no question; write one a line")
    return chain([first], questions)


def _lines() -> Iterator[str]:
    """Lines of standard input that are not blank."""
    try:
        yield from (line.strip() for line in sys.stdin if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8 text ({error.reason}); convert it") from None


def _checked(question: str) -> str:
    if not question.strip():
        raise DataError("the question is empty; ask something")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise DataError("the question is not UTF-8 text; write it in that encoding") from None
    return question


def _batches(questions: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(questions, BATCH)):
        yield batch


def _search(
    clara: "Clara | None", index: "Index", questions: Sequence[str], options: SearchOptions
) -> "list[list[Hit]]":
    if clara is None:
        return index.search(
            questions,
            None,
            k=options.k or SHOWN,
            mode="lexical",
            where=options.where,
            with_latents=False,
        )
    return clara.search(
        questions,
        index,
        k=options.k or SHOWN,
        mode=options.mode,
        where=options.where,
        n_memory=options.n_memory,
    )


def _stream(
    clara: "Clara",
    index: "Index",
    question: str,
    options: SearchOptions,
    context: Context,
    decoding: "Decoding",
) -> None:
    answering = clara.stream(
        question,
        index,
        k=options.k,
        context=context,
        mode=options.mode,
        where=options.where,
        n_memory=options.n_memory,
        decoding=decoding,
    )
    render.streamed(answering)
    _show_sources(answering.answer, context)


def _show_sources(answer: "Answer", context: Context) -> None:
    render.blank()
    render.hits(answer.hits)
    if context != "none" and not answer.hits:
        render.warning("no passage was found, so the model answered from its own memory")
    render.meter(answer.usage)
    render.blank()
