"""The stock `openai` client against the service, without special cases."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest

ASKED = [{"role": "user", "content": "Who designed the opera house?"}]


@pytest.fixture(scope="module")
def client(shared):
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client, messages=ASKED, **options):
    options = {"model": "docs", "max_tokens": 6, **options}
    return client.chat.completions.create(messages=messages, **options)


def test_a_chat_is_answered_from_the_index_and_names_its_sources(client):
    reply = chat(client, extra_body={"k": 2})
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert reply.model == "docs"
    assert len(reply.sources) == 2
    assert reply.sources[0]["id"] == "opera"
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 6


def test_a_stream_writes_the_same_answer_and_ends_with_sources_and_usage(client):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    last, usage = chunks[-2:]
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert [hit["id"] for hit in last.sources] == [hit["id"] for hit in whole.sources]
    assert usage.choices == []
    assert usage.usage == whole.usage


def test_a_stream_has_no_usage_unless_asked(client):
    assert all(chunk.choices for chunk in chat(client, stream=True))


@pytest.mark.parametrize("several", [False, True])
def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(client, several):
    whole = chat(client, max_tokens=20).choices[0].message.content
    stop = whole[len(whole) // 2 :][:2]
    reply = chat(client, max_tokens=20, stop=[stop, "%%%"] if several else stop)
    text = reply.choices[0].message.content
    assert stop not in text
    assert whole.startswith(text)
    assert reply.choices[0].finish_reason == "stop"


def test_both_names_of_the_longest_answer_work_and_may_not_differ(client):
    old = chat(client, max_tokens=3).usage.completion_tokens
    new = chat(client, max_tokens=openai.omit, max_completion_tokens=3).usage.completion_tokens
    assert old == new == 3
    with pytest.raises(openai.BadRequestError, match="max_completion_tokens differ"):
        chat(client, max_tokens=3, max_completion_tokens=4)


def test_a_seed_repeats_a_sampled_answer(client):
    texts = {
        chat(client, temperature=1.5, top_p=0.9, seed=7, max_tokens=12).choices[0].message.content
        for _ in range(2)
    }
    assert len(texts) == 1
    others = {
        chat(client, temperature=1.5, seed=seed, max_tokens=12).choices[0].message.content
        for seed in range(4)
    }
    assert len(others) > 1


def test_content_may_come_in_parts_and_under_every_role(client):
    parts = [{"type": "text", "text": "Who designed"}, {"type": "text", "text": "the opera house?"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be exact."}]},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": parts},
    ]
    assert chat(client, messages).sources[0]["id"] == "opera"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 2}, "n is 2"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no message of the user"),
        ({"messages": [{"role": "user", "content": " "}]}, "the question is empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "only parts of type text",
        ),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 2}, "top_p"),
        ({"extra_body": {"k": 5000}}, "k is 5,000, 50 is the most"),
        ({"extra_body": {"where": ["nonsense"]}}, "the filter 'nonsense' cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(client, options, said):
    with pytest.raises(openai.BadRequestError, match=said) as refusal:
        chat(client, options.pop("messages", ASKED), **options)
    assert refusal.value.type == "invalid_request_error"
    assert "\n" not in refusal.value.body["message"]


def test_what_clients_send_besides_is_passed_over(client):
    # As Open WebUI does: its own fields, tools that may be called, penalties.
    extra = {"chat_id": "1", "session_id": "2", "features": {"web_search": False}, "params": {}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    reply = chat(
        client, extra_body=extra, tools=[tool], tool_choice="auto", presence_penalty=0.5,
        frequency_penalty=0.1, user="me", response_format={"type": "text"}, n=1, store=False,
    )  # fmt: skip
    assert reply.choices[0].message.content


def test_a_title_prompt_is_an_ordinary_chat(client):
    task = "### Task:\nGenerate a concise title.\n### Output:\nJSON\n### Chat History:\n" + (
        "<chat_history>\nUSER: Who designed the opera house?\n</chat_history>" * 20
    )
    assert chat(client, [{"role": "user", "content": task}]).choices[0].finish_reason


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refusal:
        chat(client, model="nothing")
    assert refusal.value.code == "model_not_found"


def test_models_are_the_indexes(client):
    (model,) = client.models.list()
    assert model.id == "docs"
    assert client.models.retrieve("docs") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../docs")


def test_a_completion_answers_every_prompt_in_order(client):
    prompts = ["Who designed the opera house?", "Where is the river Angara?"]
    both = client.completions.create(model="docs", prompt=prompts, max_tokens=6)
    alone = [
        client.completions.create(model="docs", prompt=prompt, max_tokens=6).choices[0].text
        for prompt in prompts
    ]
    assert [choice.text for choice in both.choices] == alone
    assert [choice.index for choice in both.choices] == [0, 1]
    chunks = list(
        client.completions.create(
            model="docs", prompt=prompts, max_tokens=6, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    for at in range(2):
        pieces = [c.choices[0].text for c in chunks if c.choices and c.choices[0].index == at]
        assert "".join(pieces).strip() == alone[at]
    assert chunks[-1].usage == both.usage
    assert {hit["id"] for hit in chunks[-2].sources} >= {"opera", "rivers/angara"}


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": [1, 2]},
        {"prompt": []},
        {"echo": True},
        {"best_of": 2},
        {"suffix": "x"},
        {"logprobs": 1},
        {"prompt": ["x"] * 17},
    ],
)
def test_a_completion_that_cannot_be_had_is_refused(client, options):
    with pytest.raises(openai.BadRequestError):
        client.completions.create(**{"model": "docs", "prompt": "x", **options})


def test_embeddings_are_unit_vectors_in_the_order_of_the_texts(client, clara):
    texts = ["The opera house.", "A river far up north.", "The opera house."]
    reply = client.embeddings.create(model="docs", input=texts, encoding_format="float")
    vectors = np.array([one.embedding for one in reply.data])
    assert vectors.shape == (3, clara.latent_spec.width)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-5)
    mean = clara.latents(texts, role="compressor").float().mean(1).numpy()
    np.testing.assert_allclose(
        vectors, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5
    )
    n_tokens = sum(len(ids) for ids in clara.tokenizer.encode(texts))
    assert reply.usage.prompt_tokens == n_tokens
    # Without a format the client asks for base64 and decodes it.
    default = client.embeddings.create(model="docs", input=texts)
    np.testing.assert_allclose([one.embedding for one in default.data], vectors, atol=1e-6)


def test_embeddings_know_documents_and_questions_and_base64(client, shared):
    texts = {"model": "docs", "input": "Who designed it?", "encoding_format": "base64"}
    as_document = shared.client.post("/v1/embeddings", json=texts).json()
    as_query = shared.client.post("/v1/embeddings", json={**texts, "input_type": "query"}).json()
    one, other = (
        np.frombuffer(base64.b64decode(reply["data"][0]["embedding"]), dtype="<f4")
        for reply in (as_document, as_query)
    )
    assert one.shape == other.shape
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"input": [[1, 2], [3]]},
        {"input": ""},
        {"input": []},
        {"dimensions": 7},
        {"input": ["x"] * 1025},
    ],
)
def test_embeddings_that_cannot_be_made_are_refused(client, options):
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(**{"model": "docs", "input": "x", **options})


def test_an_asynchronous_client_asks_many_questions_at_once(shared):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{shared.url}/v1", api_key="none") as client:
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(model="docs", messages=ASKED, max_tokens=4)
                    for _ in range(12)
                )
            )
        return {reply.choices[0].message.content for reply in replies}

    assert len(asyncio.run(ask())) == 1
