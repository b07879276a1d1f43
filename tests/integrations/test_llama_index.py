"""The retriever and the query engine, used as LlamaIndex's own are."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.schema import MetadataMode, QueryBundle
from llama_index.core.tools import QueryEngineTool
from small_index import DOCUMENTS, QUESTION

from openclara.errors import DataError
from openclara.integrations.llama_index import ClaraQueryEngine, ClaraRetriever
from openclara.model.generator import Decoding

pytestmark = pytest.mark.usefixtures("no_network")
DECODING = Decoding(max_new_tokens=8)


@pytest.fixture
def engine(tiny_clara, tiny_index):
    def make(**settings):
        settings = {"similarity_top_k": 3, "decoding": DECODING, **settings}
        return ClaraQueryEngine(tiny_clara, tiny_index, **settings)

    return make


@pytest.fixture
def answer(tiny_clara, tiny_index):
    return tiny_clara.ask(QUESTION, tiny_index, k=3, decoding=DECODING)


def test_a_node_says_where_its_passage_stands(tiny_clara, tiny_index):
    hits = tiny_clara.search(QUESTION, tiny_index, k=3)
    nodes = ClaraRetriever(tiny_clara, tiny_index, similarity_top_k=3).retrieve(QUESTION)
    texts = {document.id: document.text for document in DOCUMENTS}
    assert [node.score for node in nodes] == [hit.score for hit in hits]
    for found, hit in zip(nodes, hits, strict=True):
        node = found.node
        assert node.ref_doc_id == node.metadata["id"] == hit.document.id
        assert texts[node.ref_doc_id][node.start_char_idx : node.end_char_idx] == node.text
        assert node.metadata.items() >= hit.document.metadata.items()
        shown = node.get_content(MetadataMode.LLM)
        assert shown.endswith(hit.text)
        assert "score" not in shown


def test_filters_hold(tiny_clara, tiny_index):
    retriever = ClaraRetriever(tiny_clara, tiny_index, where=["year<1900"], mode="latent")
    assert {node.node.ref_doc_id for node in retriever.retrieve(QUESTION)} == {"tower"}


def test_async_retrieval_finds_the_same(tiny_clara, tiny_index):
    retriever = ClaraRetriever(tiny_clara, tiny_index)

    async def several():
        return await asyncio.gather(*(retriever.aretrieve(QUESTION) for _ in range(4)))

    found = [node.node_id for node in retriever.retrieve(QUESTION)]
    assert [[node.node_id for node in nodes] for nodes in asyncio.run(several())] == [found] * 4


def test_a_response_is_the_answer_with_its_sources(engine, answer):
    response = engine().query(QUESTION)
    assert str(response) == answer.text
    assert [node.score for node in response.source_nodes] == [hit.score for hit in answer.hits]
    assert [node.node.text for node in response.source_nodes] == [hit.text for hit in answer.hits]
    assert response.metadata["usage"]["completion_tokens"] == 8
    assert response.metadata["finish_reason"] == "length"
    assert response.source_nodes[0].node_id in response.get_formatted_sources()


def test_a_streaming_response_has_its_sources_first_and_its_costs_last(engine, answer):
    response = engine(streaming=True).query(QUESTION)
    assert len(response.source_nodes) == 3
    assert response.metadata == {}
    pieces = list(response.response_gen)
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text
    assert response.metadata["usage"]["completion_tokens"] == 8


def test_async_queries_answer_the_same(engine, answer):
    async def streamed():
        response = await engine(streaming=True).aquery(QUESTION)
        return [piece async for piece in response.async_response_gen()], response

    response = asyncio.run(engine().aquery(QueryBundle(QUESTION)))
    assert str(response) == answer.text
    assert response.metadata["finish_reason"] == "length"
    pieces, response = asyncio.run(streamed())
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text
    assert response.metadata["finish_reason"] == "length"


def test_the_engine_is_a_tool(engine, answer):
    tool = QueryEngineTool.from_defaults(engine(), name="notes", description="My notes.")
    assert tool.call(QUESTION).content == answer.text


def test_callbacks_are_told_of_queries(engine):
    listener = LlamaDebugHandler(print_trace_on_end=False)
    engine(callback_manager=CallbackManager([listener])).query(QUESTION)
    assert len(listener.get_event_pairs(CBEventType.QUERY)) == 1


def test_an_empty_question_is_refused_in_one_sentence(engine):
    with pytest.raises(DataError, match="the question is empty; ask something"):
        engine().query(" ")
