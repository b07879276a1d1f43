"""The retriever and the chat model, used as LangChain's own are."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from small_index import DOCUMENTS, QUESTION

from openclara.errors import ConfigError, DataError
from openclara.integrations.langchain import ChatClara, ClaraRetriever
from openclara.model.generator import Decoding

pytestmark = pytest.mark.usefixtures("no_network")
QUESTIONS = [QUESTION, "Where is the river?", "When did the train leave the station?"]


@pytest.fixture
def retriever(tiny_clara, tiny_index):
    return ClaraRetriever(clara=tiny_clara, index=tiny_index, k=3)


@pytest.fixture
def chat(tiny_clara, tiny_index):
    return ChatClara(clara=tiny_clara, index=tiny_index, k=2, max_tokens=8)


def test_a_document_says_where_its_passage_stands(retriever, tiny_clara, tiny_index):
    hits = tiny_clara.search(QUESTION, tiny_index, k=3)
    found = retriever.invoke(QUESTION)
    texts = {document.id: document.text for document in DOCUMENTS}
    assert [document.metadata["score"] for document in found] == [hit.score for hit in hits]
    for document, hit in zip(found, hits, strict=True):
        about = document.metadata
        assert about["id"] == hit.document.id
        assert about["title"] == hit.document.title
        assert about["source"] == hit.document.source
        assert texts[about["id"]][about["start"] : about["end"]] == document.page_content
        assert about.items() >= hit.document.metadata.items()
    assert len({document.id for document in found}) == 3


def test_k_and_filters_may_change_for_one_call_or_be_bound(retriever):
    assert len(retriever.invoke(QUESTION, k=1)) == 1
    bound = retriever.bind(where=["year>=2000"])
    assert {document.metadata["id"] for document in bound.invoke(QUESTION)} == {"river/angara"}
    assert len(retriever.invoke(QUESTION)) == 3


def test_batch_and_async_calls_find_what_single_calls_find(retriever):
    one_by_one = [retriever.invoke(question) for question in QUESTIONS]
    assert retriever.batch(QUESTIONS) == one_by_one
    assert asyncio.run(retriever.abatch(QUESTIONS)) == one_by_one
    assert asyncio.run(retriever.ainvoke(QUESTION, k=1)) == one_by_one[0][:1]


def test_an_answer_is_that_of_the_model_with_what_it_is_from(chat, tiny_clara, tiny_index):
    answer = tiny_clara.ask(QUESTION, tiny_index, k=2, decoding=Decoding(max_new_tokens=8))
    message = chat.invoke(QUESTION)
    assert isinstance(message, AIMessage)
    assert message.content == answer.text
    about = message.response_metadata
    assert [hit["id"] for hit in about["hits"]] == [hit.document.id for hit in answer.hits]
    assert about["hits"][0]["text"] == answer.hits[0].text
    assert about["usage"]["prompt_tokens"] == answer.usage.prompt_tokens
    assert about["finish_reason"] == "length"
    assert message.usage_metadata["output_tokens"] == answer.usage.completion_tokens == 8
    assert message.usage_metadata["input_tokens"] == answer.usage.prompt_tokens


def test_streamed_pieces_add_up_to_the_whole_message(chat):
    whole = chat.invoke(QUESTION)
    pieces = list(chat.stream(QUESTION))
    assert sum(bool(piece.content) for piece in pieces) > 1
    joined = pieces[0]
    for piece in pieces[1:]:
        joined += piece
    assert joined.content == whole.content
    assert joined.usage_metadata == whole.usage_metadata
    assert joined.response_metadata["hits"] == whole.response_metadata["hits"]


def test_async_calls_and_batches_answer_as_single_calls_do(chat):
    async def streamed():
        return "".join([piece.content async for piece in chat.astream(QUESTION)])

    one_by_one = [chat.invoke(question).content for question in QUESTIONS]
    assert [message.content for message in chat.batch(QUESTIONS)] == one_by_one
    assert asyncio.run(chat.ainvoke(QUESTION)).content == one_by_one[0]
    assert asyncio.run(streamed()) == one_by_one[0]


def test_streams_taken_in_turns_do_not_disturb_each_other(chat):
    alone = [chat.invoke(question).content for question in QUESTIONS[:2]]
    streams = [chat.stream(question) for question in QUESTIONS[:2]]
    taken = ["", ""]
    for first, second in zip(*streams, strict=False):
        taken[0] += first.content
        taken[1] += second.content
    for at, rest in enumerate(streams):
        taken[at] += "".join(piece.content for piece in rest)
    assert taken == alone


def test_an_answer_ends_before_a_stop(chat):
    whole = chat.invoke(QUESTION).content
    stop = whole[2:5]
    message = chat.invoke(QUESTION, stop=[stop, "never written"])
    assert message.content == whole.partition(stop)[0].rstrip()
    assert message.response_metadata["finish_reason"] == "stop"
    assert "".join(piece.content for piece in chat.stream(QUESTION, stop=[stop])) == message.content


def test_settings_may_be_bound(chat):
    bound = chat.bind(k=1, where=["year<1900"], max_tokens=3)
    message = bound.invoke(QUESTION)
    assert [hit["id"] for hit in message.response_metadata["hits"]] == ["tower"]
    assert message.usage_metadata["output_tokens"] <= 3
    seeded = chat.bind(temperature=5.0, seed=3)
    assert seeded.invoke(QUESTION).content == seeded.invoke(QUESTION).content
    assert seeded.invoke(QUESTION).content != chat.invoke(QUESTION).content


def test_chains_of_both(chat, retriever):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    chain = prompt | chat | StrOutputParser()
    assert chain.invoke({"question": QUESTION}) == chat.invoke(QUESTION).content
    cited = RunnablePassthrough.assign(
        sources=RunnableLambda(lambda asked: asked["question"]) | retriever, answer=chain
    )
    result = cited.invoke({"question": QUESTION})
    assert result["answer"] == chat.invoke(QUESTION).content
    assert [document.metadata["id"] for document in result["sources"]]
    assert asyncio.run(chain.ainvoke({"question": QUESTION})) == result["answer"]


def test_the_question_is_the_last_message_of_the_user(chat):
    talk = [
        SystemMessage("Be brief."),
        HumanMessage("Where is the river?"),
        AIMessage("In the north."),
        HumanMessage([{"type": "text", "text": QUESTION}]),
    ]
    assert chat.invoke(talk).content == chat.invoke(QUESTION).content


def test_callbacks_are_told_of_pieces_and_documents(chat, retriever):
    class Listener(BaseCallbackHandler):
        def __init__(self):
            self.pieces, self.documents = [], []

        def on_llm_new_token(self, token, **_):
            self.pieces.append(token)

        def on_retriever_end(self, documents, **_):
            self.documents += documents

    listener = Listener()
    text = "".join(piece.content for piece in chat.stream(QUESTION, {"callbacks": [listener]}))
    assert "".join(listener.pieces) == text
    retriever.invoke(QUESTION, {"callbacks": [listener]})
    assert len(listener.documents) == 3


def test_a_cache_of_answers_tells_settings_apart(tiny_clara, tiny_index):
    cache = InMemoryCache()
    short, long = (
        ChatClara(clara=tiny_clara, index=tiny_index, max_tokens=most, cache=cache)
        for most in (2, 8)
    )
    assert short.invoke(QUESTION).content != long.invoke(QUESTION).content
    assert short.invoke(QUESTION).content == short.invoke(QUESTION).content


def test_errors_say_what_to_do(chat, retriever):
    with pytest.raises(DataError, match="the question is empty; ask something"):
        chat.invoke("  ")
    with pytest.raises(DataError, match="the last message is not the user's"):
        chat.invoke([HumanMessage(QUESTION), AIMessage("Utzon")])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(DataError, match="this model reads text only"):
        chat.invoke([HumanMessage([image])])
    with pytest.raises(ConfigError, match="no setting 'top_k'; it has context, k, max_tokens"):
        chat.bind(top_k=3).invoke(QUESTION)
    with pytest.raises(ConfigError, match="filter"):
        retriever.invoke(QUESTION, where=["year"])


def test_nothing_found_is_answered_without_passages(chat):
    message = chat.bind(where=["year>3000"]).invoke(QUESTION)
    assert message.response_metadata["hits"] == []
