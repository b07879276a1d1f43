"""An index in LlamaIndex: its passages as a retriever, answers from its latents as a query engine.

    clara = Clara.load("smollm2-135m")
    index = LatentIndex.open("my.idx", clara.latent_spec)
    nodes = ClaraRetriever(clara, index, similarity_top_k=5).retrieve("Who designed it?")
    response = ClaraQueryEngine(clara, index).query("Who designed it?")

Any number of threads may use one model, which works for one of them at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openclara.errors import ConfigError
from openclara.integrations import turns
from openclara.integrations.passages import metadata, passage_id
from openclara.model.generator import Decoding

try:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.response.schema import (
        AsyncStreamingResponse,
        Response,
        StreamingResponse,
    )
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.schema import (
        NodeRelationship,
        NodeWithScore,
        RelatedNodeInfo,
        TextNode,
    )
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "llama_index":
        raise
    raise ConfigError("this needs LlamaIndex; run `pip install 'openclara[llama-index]'`") from None

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import QueryBundle

    from openclara.index import LatentIndex
    from openclara.integrations.turns import Turns
    from openclara.pipeline import Clara
    from openclara.types import Context, Hit, Mode

_SHOWN_TO_MODELS = ("title",)
"""Fields that a language model or an embedder reads above a node's text, as ours does."""


class ClaraRetriever(BaseRetriever):
    """Passages of an index as nodes.

    A node has the text, its span (`start_char_idx`, `end_char_idx`), the document's id as
    `ref_doc_id` and its fields as `metadata`.
    """

    def __init__(
        self,
        clara: Clara,
        index: LatentIndex,
        *,
        similarity_top_k: int = 5,
        mode: Mode = "hybrid",
        where: Sequence[str] = (),
        n_memory: int | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Make a retriever.

        Args:
            clara: The model that made the index.
            index: Where to look.
            similarity_top_k: Passages wanted.
            mode: `hybrid`, `latent` or `lexical`.
            where: Filters such as `year>=2020` that must all hold.
            n_memory: Use only this many of the stored latents.
            callback_manager: LlamaIndex's own.
        """
        super().__init__(callback_manager=callback_manager)
        self._clara, self._index = clara, index
        self._k, self._mode, self._where = similarity_top_k, mode, tuple(where)
        self._n_memory = n_memory

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = turns.search(
            self._clara,
            self._index,
            query_bundle.query_str,
            k=self._k,
            mode=self._mode,
            where=self._where,
            n_memory=self._n_memory,
        )
        return [_node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class ClaraQueryEngine(BaseQueryEngine):
    """Answers from the latents of what an index holds about the question.

    `source_nodes` are the passages; `metadata` has the `usage` and the `finish_reason`, of a
    streamed response once it is read to its end.
    """

    def __init__(
        self,
        clara: Clara,
        index: LatentIndex,
        *,
        similarity_top_k: int | None = None,
        context: Context = "latents",
        mode: Mode = "hybrid",
        where: Sequence[str] = (),
        n_memory: int | None = None,
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Make a query engine.

        Args:
            clara: The model that made the index.
            index: Where to look.
            similarity_top_k: Passages to answer from; as many as is best for the model if None.
            context: `latents`; `text` gives the same generator the full passages; `none` nothing.
            mode: As for `ClaraRetriever`.
            where: As for `ClaraRetriever`.
            n_memory: As for `ClaraRetriever`.
            decoding: Length, temperature, seed.
            streaming: Respond before the answer is written, with a generator of its pieces.
            callback_manager: LlamaIndex's own.
        """
        super().__init__(callback_manager=callback_manager)
        self._clara, self._index, self._streaming = clara, index, streaming
        self._asking: dict[str, Any] = {
            "k": similarity_top_k,
            "context": context,
            "mode": mode,
            "where": tuple(where),
            "n_memory": n_memory,
            "decoding": decoding,
        }

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {}

    def _query(self, query_bundle: QueryBundle) -> Response | StreamingResponse:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            asked, nodes = self._start(query_bundle)
            about: dict[str, Any] = {}
            pieces = _pieces(asked, about)
            response: Response | StreamingResponse
            if self._streaming:
                response = StreamingResponse(pieces, nodes, about)
            else:
                response = Response("".join(pieces), nodes, about)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> Response | AsyncStreamingResponse:
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with self.callback_manager.event(CBEventType.QUERY, payload=payload) as event:
            asked, nodes = await asyncio.to_thread(self._start, query_bundle)
            about: dict[str, Any] = {}
            pieces = _pieces(asked, about)
            response: Response | AsyncStreamingResponse
            if self._streaming:
                response = AsyncStreamingResponse(_off_the_loop(pieces), nodes, about)
            else:
                text = await asyncio.to_thread("".join, pieces)
                response = Response(text, nodes, about)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _start(self, query_bundle: QueryBundle) -> tuple[Turns, list[NodeWithScore]]:
        asked = turns.stream(self._clara, self._index, query_bundle.query_str, **self._asking)
        return asked, [_node(hit) for hit in asked.hits]


def _pieces(asked: Turns, about: dict[str, Any]) -> Generator[str, None, None]:
    """The answer; when it is out, what it cost is noted in `about`."""
    yield from asked
    about["usage"] = asdict(asked.answer.usage)
    about["finish_reason"] = asked.finish_reason


async def _off_the_loop(pieces: Generator[str, None, None]) -> AsyncGenerator[str, None]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


def _node(hit: Hit) -> NodeWithScore:
    fields = metadata(hit)
    hidden = [name for name in fields if name not in _SHOWN_TO_MODELS]
    node = TextNode(
        id_=passage_id(hit),
        text=hit.text,
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        metadata=fields,
        excluded_llm_metadata_keys=hidden,
        excluded_embed_metadata_keys=hidden,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.document.id)},
    )
    return NodeWithScore(node=node, score=hit.score)
