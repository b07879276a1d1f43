"""The components in pipelines, as Haystack runs, saves and loads them."""

from __future__ import annotations

import asyncio
import gc
import os

import pytest

# Read when Haystack is imported; it would write to the home folder and call its makers.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.core.errors import PipelineRuntimeError
from small_index import DOCUMENTS, QUESTION

from openclara import LatentIndex
from openclara.errors import ConfigError
from openclara.integrations import opening
from openclara.integrations.haystack import ClaraDocumentWriter, ClaraGenerator, ClaraRetriever
from openclara.model.generator import Decoding

pytestmark = pytest.mark.usefixtures("no_network")
OURS = "openclara.integrations.haystack"
DECODING = {"max_new_tokens": 8}


@pytest.fixture
def answer(tiny_clara, tiny_index):
    return tiny_clara.ask(QUESTION, tiny_index, k=3, decoding=Decoding(**DECODING))


@pytest.fixture
def pipeline(index_path):
    """Answers a question, and finds passages for it beside that."""
    pipeline = Pipeline()
    pipeline.add_component("retriever", ClaraRetriever(str(index_path), top_k=3))
    pipeline.add_component("joiner", DocumentJoiner())
    pipeline.add_component("generator", ClaraGenerator(str(index_path), top_k=3, decoding=DECODING))
    pipeline.connect("retriever.documents", "joiner.documents")
    return pipeline


def asked(**more):
    return {"retriever": {"query": QUESTION}, "generator": {"query": QUESTION, **more}}


def test_a_pipeline_answers_with_documents(pipeline, answer):
    result = pipeline.run(asked())
    (given,) = result["generator"]["answers"]
    assert (given.data, given.query) == (answer.text, QUESTION)
    assert given.documents == result["generator"]["documents"]
    assert [document.content for document in given.documents] == [hit.text for hit in answer.hits]
    assert given.meta["usage"]["completion_tokens"] == 8
    assert given.meta["finish_reason"] == "length"
    assert len(result["joiner"]["documents"]) == 3


def test_a_document_says_where_its_passage_stands(index_path, answer):
    texts = {document.id: document.text for document in DOCUMENTS}
    found = ClaraRetriever(str(index_path), top_k=3).run(QUESTION)["documents"]
    assert [document.score for document in found] == [hit.score for hit in answer.hits]
    for document, hit in zip(found, answer.hits, strict=True):
        about = document.meta
        assert about["source_id"] == hit.document.id
        assert texts[about["source_id"]][about["start"] : about["end"]] == document.content
        assert about.items() >= hit.document.metadata.items()
        assert Document.from_dict(document.to_dict()) == document


def test_top_k_and_filters_may_change_for_one_run(index_path):
    retriever = ClaraRetriever(str(index_path), where=["lang=de"])
    assert {found.meta["source_id"] for found in retriever.run(QUESTION)["documents"]} == {"train"}
    assert len(retriever.run(QUESTION, top_k=1, where=[])["documents"]) == 1


def test_a_saved_pipeline_answers_as_before_and_holds_only_names(pipeline, index_path):
    saved = pipeline.dumps()
    assert str(index_path) in saved
    loaded = Pipeline.loads(saved, allowed_modules=[OURS])
    assert loaded.dumps() == saved
    before, after = (one.run(asked())["generator"]["answers"][0] for one in (pipeline, loaded))
    assert (after.data, after.documents) == (before.data, before.documents)


def test_nothing_is_opened_before_it_is_needed(tmp_path):
    ClaraDocumentWriter(str(tmp_path / "new.idx")).to_dict()
    ClaraGenerator(str(tmp_path / "no.idx")).to_dict()
    assert not any(tmp_path.iterdir())


def test_components_of_a_pipeline_share_one_model(pipeline):
    pipeline.warm_up()
    models = {
        id(pipeline.get_component(name)._named.open()[0].model)
        for name in ("retriever", "generator")
    }
    assert len(models) == 1


def test_a_model_nobody_uses_is_let_go(index_path):
    component = ClaraRetriever(str(index_path))
    component.warm_up()
    assert len(opening._loaded) > 0
    del component
    gc.collect()
    assert len(opening._loaded) == 0


def test_the_async_pipeline_streams_the_answer(pipeline, answer):
    async def streamed():
        handle = pipeline.stream(asked())
        return [chunk.content async for chunk in handle], handle.result

    pieces, result = asyncio.run(streamed())
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text == result["generator"]["answers"][0].data


def test_a_callback_is_given_the_pieces(pipeline, answer):
    pieces = []
    pipeline.run(asked(streaming_callback=pieces.append))
    assert "".join(piece.content for piece in pieces) == answer.text
    assert {piece.component_info.name for piece in pieces} == {"generator"}


def test_the_writer_makes_an_index_that_is_then_searched(tiny_model, tmp_path):
    path = str(tmp_path / "new.idx")
    indexing = Pipeline()
    indexing.add_component("writer", ClaraDocumentWriter(path, model=str(tiny_model)))
    documents = [
        Document(
            id="opera",
            content="The opera house was designed by Utzon.",
            meta={"title": "Opera", "file_path": "a.txt", "page": 2, "_split": [{"doc": "x"}]},
        ),
        Document(id="train", content="A train."),
    ]
    assert indexing.run({"writer": {"documents": documents}})["writer"]["documents_written"] == 2
    with LatentIndex.open(path) as index:
        stored = index.get("opera")
    assert (stored.title, stored.source) == ("Opera", "a.txt")
    assert stored.metadata == {"file_path": "a.txt", "page": 2}
    writer, retriever = indexing.get_component("writer"), ClaraRetriever(path, where=["page=2"])
    assert [found.content for found in retriever.run(QUESTION)["documents"]] == [
        documents[0].content
    ]
    # The index keeps a number of latents that the writer left to the model.
    assert writer._named.open()[0].model is retriever._named.open()[0].model


def test_errors_say_what_to_do(pipeline, tmp_path):
    with pytest.raises(PipelineRuntimeError, match="the question is empty; ask something"):
        pipeline.run({"retriever": {"query": QUESTION}, "generator": {"query": " "}})
    with pytest.raises(ConfigError, match="its fields are max_new_tokens, temperature"):
        ClaraGenerator("my.idx", decoding={"max_tokens": 3})
    writer = ClaraDocumentWriter(str(tmp_path / "new.idx"))
    writer._named = pipeline.get_component("generator")._named
    alone = Pipeline()
    alone.add_component("writer", writer)
    with pytest.raises(PipelineRuntimeError, match="document 'x' has no text"):
        alone.run({"writer": {"documents": [Document(id="x")]}})
