"""An index in Haystack: components that find its passages, answer from its latents, and fill it.

    pipeline = Pipeline()
    pipeline.add_component("clara", ClaraGenerator("my.idx"))
    pipeline.run({"clara": {"query": "Who designed the opera house?"}})["clara"]["answers"][0].data

A component keeps the names of index and model, and loads them when it is warmed up; components of
one process with the same names share one model. `Pipeline.loads` imports what it was told to trust:
`Pipeline.loads(text, allowed_modules=["openclara.integrations.haystack"])`.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openclara.errors import ConfigError, DataError
from openclara.integrations import turns
from openclara.integrations.opening import Named
from openclara.integrations.passages import metadata, passage_id
from openclara.model.generator import Decoding
from openclara.types import Context, Mode, Precision
from openclara.types import Document as OwnDocument

try:
    from haystack import Document, component, default_to_dict
    from haystack.dataclasses import ComponentInfo, GeneratedAnswer, StreamingChunk
    from haystack.dataclasses.streaming_chunk import StreamingCallbackT  # noqa: TC002 - read at run time
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "haystack":
        raise
    raise ConfigError("this needs Haystack; run `pip install 'openclara[haystack]'`") from None

if TYPE_CHECKING:
    from openclara.integrations.turns import Turns
    from openclara.types import Hit


@component
class ClaraRetriever:
    """Passages of an index.

    A document has the text of the passage, its score and, in `meta`, the fields of the document it
    is from with `source_id`, `title`, `source`, `start` and `end` (characters).
    """

    def __init__(
        self,
        index: str,
        *,
        model: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        top_k: int = 5,
        mode: Mode = "hybrid",
        where: list[str] | None = None,
        n_memory: int | None = None,
    ) -> None:
        """Note what is to be opened.

        Args:
            index: Folder of the index.
            model: Zoo name, folder or hub id of the model; the one the index was made by if None.
            device: As in `Clara.load`.
            precision: As in `Clara.load`.
            top_k: Passages wanted.
            mode: `hybrid`, `latent` or `lexical`.
            where: Filters such as `year>=2020` that must all hold.
            n_memory: Use only this many of the stored latents.
        """
        self._named = Named(index, model=model, device=device, precision=precision)
        self._asking = {
            "k": top_k, "mode": mode, "where": list(where or ()), "n_memory": n_memory,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Names and settings."""
        return default_to_dict(self, **self._named.names(), **_as_given(self._asking))

    def warm_up(self) -> None:
        """Load the model and open the index; what is open stays."""
        self._named.open()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, top_k: int | None = None, where: list[str] | None = None
    ) -> dict[str, list[Document]]:
        """Find passages; `top_k` and `where` stand in for those of the component."""
        clara, index = self._named.open()
        hits = turns.search(clara, index, query, **_asked(self._asking, top_k, where))
        return {"documents": [_document(hit) for hit in hits]}


@component
class ClaraGenerator:
    """Answers from the latents of what an index holds about a question.

    An answer has the passages as `documents`, and `usage` and `finish_reason` in `meta`.
    """

    def __init__(
        self,
        index: str,
        *,
        model: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        top_k: int | None = None,
        context: Context = "latents",
        mode: Mode = "hybrid",
        where: list[str] | None = None,
        n_memory: int | None = None,
        decoding: dict[str, Any] | None = None,
    ) -> None:
        """Note what is to be opened.

        Args:
            index: Folder of the index.
            model: As for `ClaraRetriever`, and so are the next two.
            device: As in `Clara.load`.
            precision: As in `Clara.load`.
            top_k: Passages to answer from; as many as is best for the model if None.
            context: `latents`; `text` gives the same generator the full passages; `none` nothing.
            mode: As for `ClaraRetriever`.
            where: As for `ClaraRetriever`.
            n_memory: As for `ClaraRetriever`.
            decoding: Fields of `Decoding`, such as `max_new_tokens`, `temperature`, `seed`.

        Raises:
            ConfigError: `decoding` has an unknown field.
        """
        self._named = Named(index, model=model, device=device, precision=precision)
        self._decoding = _decoding(decoding or {})
        self._asking = {
            "k": top_k, "context": context, "mode": mode, "where": list(where or ()),
            "n_memory": n_memory,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Names and settings."""
        settings = {**self._named.names(), **_as_given(self._asking)}
        return default_to_dict(self, **settings, decoding=asdict(self._decoding))

    def warm_up(self) -> None:
        """Load the model and open the index; what is open stays."""
        self._named.open()

    @component.output_types(answers=list[GeneratedAnswer], documents=list[Document])
    def run(
        self,
        query: str,
        top_k: int | None = None,
        where: list[str] | None = None,
        streaming_callback: StreamingCallbackT | None = None,
    ) -> dict[str, Any]:
        """Answer; the callback is given each piece of the answer as it is written."""
        answered = self._start(query, top_k, where)
        for piece in answered:
            if streaming_callback is not None:
                streaming_callback(self._chunk(piece))
        return _answered(answered)

    @component.output_types(answers=list[GeneratedAnswer], documents=list[Document])
    async def run_async(
        self,
        query: str,
        top_k: int | None = None,
        where: list[str] | None = None,
        streaming_callback: StreamingCallbackT | None = None,
    ) -> dict[str, Any]:
        """As `run`; the model works in a thread."""
        answered = await asyncio.to_thread(self._start, query, top_k, where)
        pieces = iter(answered)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            if streaming_callback is not None:
                told = streaming_callback(self._chunk(piece))
                if inspect.isawaitable(told):
                    await told
        return _answered(answered)

    def _start(self, query: str, top_k: int | None, where: list[str] | None) -> Turns:
        clara, index = self._named.open()
        asking = _asked(self._asking, top_k, where)
        return turns.stream(clara, index, query, **asking, decoding=self._decoding)

    def _chunk(self, piece: str) -> StreamingChunk:
        return StreamingChunk(piece, component_info=ComponentInfo.from_component(self))


@component
class ClaraDocumentWriter:
    """Compresses documents into an index, which is made where there is none.

    A document's title and source are `title` and `source`, or `file_path`, of its `meta`; other
    fields become metadata to filter by, except lists and objects, which an index does not keep.
    """

    def __init__(
        self,
        index: str,
        *,
        model: str | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        """Note what is to be opened.

        Args:
            index: Folder of the index.
            model: Zoo name, folder or hub id of the model; the index's own if None, of a new index
                the default.
            device: As in `Clara.load`.
            precision: As in `Clara.load`.
        """
        self._named = Named(index, model=model, device=device, precision=precision, new=True)

    def to_dict(self) -> dict[str, Any]:
        """Names."""
        return default_to_dict(self, **self._named.names())

    def warm_up(self) -> None:
        """Load the model and open the index; what is open stays."""
        self._named.open()

    @component.output_types(documents_written=int)
    def run(self, documents: list[Document]) -> dict[str, int]:
        """Add documents; one whose id is known replaces the earlier one.

        Raises:
            DataError: A document has no text.
        """
        clara, index = self._named.open()
        turns.add(clara, index, [_own(document) for document in documents])
        return {"documents_written": len(documents)}


def _asked(asking: dict[str, Any], top_k: int | None, where: list[str] | None) -> dict[str, Any]:
    now = {"k": top_k, "where": where}
    return {**asking, **{name: value for name, value in now.items() if value is not None}}


def _as_given(asking: dict[str, Any]) -> dict[str, Any]:
    return {"top_k" if name == "k" else name: value for name, value in asking.items()}


def _decoding(fields: dict[str, Any]) -> Decoding:
    try:
        return Decoding(**fields)
    except TypeError:
        known = ", ".join(asdict(Decoding()))
        raise ConfigError(f"decoding is {fields!r}; its fields are {known}") from None


def _answered(answered: Turns) -> dict[str, Any]:
    answer = answered.answer
    documents = [_document(hit) for hit in answer.hits]
    meta = {"usage": asdict(answer.usage), "finish_reason": answered.finish_reason}
    return {
        "answers": [GeneratedAnswer(answer.text, answer.question, documents, meta)],
        "documents": documents,
    }


def _document(hit: Hit) -> Document:
    fields = metadata(hit)
    # In a flattened document `id` and `score` are those of the document itself.
    fields["source_id"], score = fields.pop("id"), fields.pop("score")
    return Document(id=passage_id(hit), content=hit.text, meta=fields, score=score)


def _own(document: Document) -> OwnDocument:
    if document.content is None:
        raise DataError(f"document {document.id!r} has no text; convert it to text first")
    fields = {
        name: value
        for name, value in document.meta.items()
        if value is None or isinstance(value, str | int | float | bool)
    }
    title = str(fields.pop("title", None) or "")
    source = str(fields.pop("source", None) or fields.get("file_path") or "")
    return OwnDocument(document.id, document.content, title, source, fields)
