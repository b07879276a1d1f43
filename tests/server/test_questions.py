"""`/v1/search`, `/v1/ask`, `/v1/compress`, `/v1/inspect` and what describes the service."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest
from safetensors.torch import load
from torch.testing import assert_close

QUESTION = {"question": "Who designed the opera house?", "k": 2}
HIT = ["id", "score", "cosine", "title", "text", "source", "start", "end", "n_tokens", "metadata"]


def events(text):
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_search_finds_what_the_library_finds(shared, clara):
    for mode in ("hybrid", "latent", "lexical"):
        reply = shared.client.post("/v1/search", json={**QUESTION, "mode": mode}).json()
        index = shared.service.library.get("docs").index
        expected = clara.search(QUESTION["question"], index, k=2, mode=mode)
        assert [hit["id"] for hit in reply["hits"]] == [hit.document.id for hit in expected]
        assert [hit["text"] for hit in reply["hits"]] == [hit.text for hit in expected]
        assert list(reply["hits"][0]) == HIT
        assert (reply["index"], reply["question"]) == ("docs", QUESTION["question"])


def test_an_answer_is_from_as_many_stretches_as_the_model_says(shared, clara, monkeypatch):
    monkeypatch.setattr(clara, "card", replace(clara.card, top_k=1))
    question = {"question": QUESTION["question"], "max_tokens": 1}
    assert len(shared.client.post("/v1/ask", json=question).json()["hits"]) == 1
    assert len(shared.client.post("/v1/ask", json=question | {"k": 2}).json()["hits"]) == 2
    assert len(shared.client.post("/v1/search", json={"question": "x"}).json()["hits"]) > 1


def test_filters_hold(shared):
    body = {**QUESTION, "where": ["year>=1900", "year<2000"], "index": "docs"}
    hits = shared.client.post("/v1/search", json=body).json()["hits"]
    assert {hit["id"] for hit in hits} == {"opera"}


def test_an_answer_is_the_librarys(shared, clara):
    from openclara.model.generator import Decoding

    index = shared.service.library.get("docs").index
    for context in ("latents", "text", "none"):
        body = {**QUESTION, "context": context, "max_tokens": 7}
        reply = shared.client.post("/v1/ask", json=body).json()
        answer = clara.ask(
            QUESTION["question"], index, k=2, context=context, decoding=Decoding(max_new_tokens=7)
        )
        assert reply["answer"] == answer.text
        assert reply["usage"]["prompt_tokens"] == answer.usage.prompt_tokens
        assert len(reply["hits"]) == (0 if context == "none" else 2)


def test_a_stream_sends_hits_then_pieces_then_the_whole(shared):
    whole = shared.client.post("/v1/ask", json={**QUESTION, "max_tokens": 7}).json()
    body = {**QUESTION, "max_tokens": 7, "stream": True}
    reply = shared.client.post("/v1/ask", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    (first, hits), *pieces, (last, done) = events(reply.text)
    assert (first, last) == ("hits", "done")
    assert hits["hits"] == whole["hits"]
    assert {name for name, _ in pieces} == {"piece"}
    assert "".join(piece["text"] for _, piece in pieces).strip() == whole["answer"]
    assert done["answer"] == whole["answer"]
    assert done["finish_reason"] == whole["finish_reason"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "question"),
        ({"question": "  "}, "question"),
        ({"question": "x" * 16_001}, "question"),
        ({"question": "x", "k": 0}, "k"),
        ({"question": "x", "k": 51}, "k"),
        ({"question": "x", "k": "5"}, "k"),
        ({"question": "x", "mode": "magic"}, "mode"),
        ({"question": "x", "where": ["a=1"] * 33}, "where"),
        ({"question": "x", "max_tokens": 100_000}, "max_tokens"),
        ({"question": "x", "stop": [""]}, "stop.0"),
        ({"question": "x", "temperature": -1}, "temperature"),
        ({"question": "x", "seed": 2**64}, "seed"),
        ({"question": "x", "kk": 3}, "kk"),
        ({"question": "\ud800"}, "question"),
    ],
)
def test_a_wrong_field_is_named(shared, body, param):
    reply = shared.client.post(
        "/v1/ask", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"question": NaN}',
        b"[" * 100_000,
        b'{"question": "x", "k": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_broken_body_is_refused(shared, text):
    reply = shared.client.post(
        "/v1/ask", content=text, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_json_needs_its_content_type(shared):
    body = json.dumps(QUESTION)
    # A page of another site can send this without asking first.
    reply = shared.client.post("/v1/ask", content=body, headers={"content-type": "text/plain"})
    assert reply.status_code == 400
    assert "application/json" in reply.json()["error"]["message"]


def test_a_nan_is_no_temperature(shared):
    body = b'{"question": "x", "temperature": NaN}'
    reply = shared.client.post(
        "/v1/ask", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400


def test_latents_come_as_safetensors(shared, clara):
    texts = ["The opera house.", "A river."]
    reply = shared.client.post("/v1/compress", json={"texts": texts})
    assert reply.headers["content-type"] == "application/safetensors"
    latents = load(reply.content)["latents"]
    assert_close(latents, clara.latents(texts, role="compressor").bfloat16())
    fewer = shared.client.post("/v1/compress", json={"texts": texts, "n_memory": 2})
    assert_close(load(fewer.content)["latents"], latents[:, :2])
    refused = shared.client.post("/v1/compress", json={"texts": texts, "n_memory": 99})
    assert refused.status_code == 400


def test_inspecting_shows_what_the_command_line_shows(shared, clara):
    from openclara.pipeline.inspecting import inspect_question, inspect_stored
    from openclara.pipeline.inspection_record import inspection_record

    index = shared.service.library.get("docs").index
    reply = shared.client.get("/v1/inspect/question", params={"question": "Who?"}).json()
    # Through JSON, which knows no tuples.
    asked = json.loads(json.dumps(inspection_record(inspect_question(clara, "Who?"))))
    assert reply["inspected"] == [asked]
    found = inspect_stored(clara, index, ["rivers/angara"])
    stored = json.loads(json.dumps([inspection_record(one) for one in found]))
    reply = shared.client.post("/v1/inspect", json={"id": "rivers/angara"}).json()
    assert reply["inspected"] == stored[:8]
    start = stored[1]["start"]
    reply = shared.client.post("/v1/inspect", json={"id": "rivers/angara", "start": start}).json()
    assert reply["inspected"] == [stored[1]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"id": "nothing"}, 404),
        ({"id": "opera", "start": 5}, 404),
        ({"question": " "}, 400),
    ],
)
def test_inspecting_what_is_not_there_is_refused(shared, body, status):
    assert shared.client.post("/v1/inspect", json=body).status_code == status


def test_the_session_says_what_may_be_done(shared):
    session = shared.client.get("/v1/session").json()
    assert session["scopes"] == ["read", "write"]
    assert session["auth"] is False
    assert session["can_create_indexes"] is True
    assert session["limits"] == {"upload_bytes": 64 * 2**20, "question_chars": 16_000, "k": 50}


def test_the_page_and_the_docs_load_nothing_from_elsewhere(shared):
    for path in ("/", "/docs"):
        reply = shared.client.get(path)
        assert reply.status_code == 200
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert "http://" not in reply.text.replace(shared.url, "")
    assert shared.client.get("/static/index.html").headers["cache-control"] == "no-cache"
    assert shared.client.get("/v1/indexes").headers["cache-control"] == "no-store"
    assert "POST /v1/ask" in shared.client.get("/docs").text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/" + "a" * 5000,
    ],
)
def test_the_page_gives_nothing_else_away(shared, path):
    # httpx would tidy the path up before it sends it.
    with httpx.Client(base_url=shared.url) as client:
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        reply = client.send(request)
    assert reply.status_code in (400, 404)
    assert "create_app" not in reply.text


def test_unknown_addresses_and_methods_are_refused_in_the_same_shape(shared):
    for method, path, status in (("GET", "/nope", 404), ("PATCH", "/v1/ask", 405)):
        reply = shared.client.request(method, path)
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
