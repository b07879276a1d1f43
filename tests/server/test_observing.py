"""What the service says about itself: the log and the figures."""

from __future__ import annotations

import io
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from openclara.server import logs

SECRET_QUESTION = "Who hid the emerald under the floorboards?"


@pytest.fixture
def lines():
    """The log of what happened since it was last read, as objects."""
    names = ("openclara.server", "uvicorn")
    before = [(logging.getLogger(n).handlers, logging.getLogger(n).propagate) for n in names]
    stream = io.StringIO()
    logs.configure(stream)

    def read():
        written = stream.getvalue().splitlines()
        stream.seek(0)
        stream.truncate()
        return [json.loads(line) for line in written]

    yield read
    for name, (handlers, propagate) in zip(names, before, strict=True):
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).propagate = propagate


def test_a_request_is_one_line_without_what_was_asked(guarded, lines):
    running, keys = guarded
    headers = {"authorization": f"Bearer {keys['write']}", "x-request-id": "mine"}
    lines()
    running.client.post(
        "/v1/ask", json={"question": SECRET_QUESTION, "max_tokens": 2}, headers=headers
    )
    running.client.get("/v1/documents/rivers%2Fangara?index=docs", headers=headers)
    running.client.get(f"/v1/inspect/question?question={SECRET_QUESTION}", headers=headers)
    running.client.put("/v1/documents/emerald", json={"text": SECRET_QUESTION}, headers=headers)
    running.client.get("/made/up/address", headers=headers)
    running.client.post("/v1/ask", content=b"{", headers=headers)
    written = lines()
    requests = [line for line in written if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in requests] == [
        ("/v1/ask", 200),
        ("/v1/documents/{id:path}", 200),
        ("/v1/inspect/question", 200),
        ("/v1/documents/{id:path}", 202),
        ("other", 404),
        ("/v1/ask", 400),
    ]
    first = requests[0]
    assert (first["request_id"], first["method"], first["key"]) == ("mine", "POST", "writer")
    assert first["ms"] > 0
    everything = json.dumps(written)
    for hidden in (*keys.values(), "emerald", "floorboards", "angara", "made/up"):
        assert hidden not in everything


def test_a_failure_of_ours_is_logged_without_its_message(service, lines):
    def broken(name):
        raise RuntimeError(SECRET_QUESTION)

    service.service.library.get = broken
    reply = service.client.get("/v1/documents")
    assert reply.status_code == 500
    assert SECRET_QUESTION not in reply.text
    written = lines()
    failed = next(line for line in written if line["event"] == "request failed")
    assert failed["request_id"] == reply.headers["x-request-id"]
    assert failed["error"]["type"] == "RuntimeError"
    assert any("broken" in place for place in failed["error"]["at"])
    assert SECRET_QUESTION not in json.dumps(written)


def figures(service):
    text = service.client.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_figures_count_requests_answers_and_indexes(service):
    body = {"question": "Who designed the opera house?", "max_tokens": 4}
    usage = [service.client.post("/v1/ask", json=body).json()["usage"] for _ in range(3)]
    service.client.get("/nope/1")
    service.client.get("/nope/2")
    found = figures(service)

    def requests(method, route, status):
        labels = (("method", method), ("route", route), ("status", status))
        return found.get(("openclara_http_requests_total", *labels))

    assert requests("POST", "/v1/ask", "200") == 3
    assert requests("GET", "other", "404") == 2
    assert found[("openclara_questions_answered_total",)] == 3
    written = sum(one["completion_tokens"] for one in usage)
    assert found[("openclara_answer_tokens_total", ("kind", "completion"))] == written
    assert found[("openclara_index_documents", ("index", "docs"))] == 3
    assert found[("openclara_index_bytes", ("index", "docs"))] > 1000
    assert found[("openclara_first_token_seconds_count",)] == 3
    assert found[("openclara_jobs", ("status", "done"))] == 0
    assert not any("nope" in str(name) for name in found)
