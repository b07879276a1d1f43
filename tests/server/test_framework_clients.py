"""What frameworks bring for OpenAI's API, against the running service and without special cases."""

from __future__ import annotations

import pytest

ASKED = "Who designed the opera house?"


@pytest.fixture
def direct(shared):
    """The service's own answer, and where it is."""
    body = {"question": ASKED, "max_tokens": 6}
    reply = shared.client.post("/v1/ask", json=body).json()
    return reply["answer"], f"{shared.url}/v1"


def test_langchain_chats_streams_and_embeds(direct):
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    answer, url = direct
    chat = ChatOpenAI(model="docs", base_url=url, api_key="none", max_tokens=6, temperature=0)
    assert chat.invoke(ASKED).content == answer
    streamed = "".join(chunk.content for chunk in chat.stream(ASKED))
    assert streamed.strip() == answer
    assert [reply.content for reply in chat.batch([ASKED, ASKED])] == [answer, answer]
    # What it would count tokens for is not this model's tokenizer.
    embeddings = OpenAIEmbeddings(
        model="docs", base_url=url, api_key="none", check_embedding_ctx_length=False
    )
    one, two = embeddings.embed_documents(["The river runs.", "Trains leave at nine."])
    assert len(one) == len(two) == len(embeddings.embed_query(ASKED))
    assert one != two


def test_llama_index_completes_chats_and_streams(direct):
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    answer, url = direct
    llm = OpenAILike(
        model="docs", api_base=url, api_key="none", is_chat_model=True, max_tokens=6, temperature=0
    )
    assert llm.complete(ASKED).text == answer
    assert llm.chat([ChatMessage(role="user", content=ASKED)]).message.content == answer
    *_, last = llm.stream_chat([ChatMessage(role="user", content=ASKED)])
    assert last.message.content.strip() == answer


def test_haystack_chats_and_embeds(direct, monkeypatch):
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.utils import Secret

    answer, url = direct
    pieces = []
    chat = OpenAIChatGenerator(
        api_key=Secret.from_token("none"),
        model="docs",
        api_base_url=url,
        generation_kwargs={"max_tokens": 6, "temperature": 0},
        streaming_callback=lambda chunk: pieces.append(chunk.content),
    )
    assert chat.run([ChatMessage.from_user(ASKED)])["replies"][0].text.strip() == answer
    assert "".join(pieces).strip() == answer
    embedder = OpenAITextEmbedder(api_key=Secret.from_token("none"), model="docs", api_base_url=url)
    length = sum(number**2 for number in embedder.run(ASKED)["embedding"])
    assert length == pytest.approx(1.0, abs=1e-3)
