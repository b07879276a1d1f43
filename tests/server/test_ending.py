"""How things end: answers that are left, services that stop, jobs that are interrupted."""

from __future__ import annotations

import json
import threading
import time

import httpx
import openai
import pytest
from serving import serving

from openclara.errors import Busy, ConfigError, TimedOut
from openclara.server.journal import Journal
from openclara.server.settings import Settings

ASK = {"question": "Who designed the opera house?", "max_tokens": 200}
CHAT = {"model": "docs", "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 200}


def until(true):
    for _ in range(1000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/ask", {**ASK, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/completions", {"model": "docs", "prompt": ["a", "b"], "stream": True}),
    ],
)
def test_leaving_a_stream_frees_its_place(service, path, body):
    service.call(service.engine.hold)
    with httpx.Client(base_url=service.url) as client, client.stream("POST", path, json=body) as r:
        assert r.status_code == 200
        until(lambda: service.engine.load.running == 1)
    until(lambda: service.engine.load.running == 0)
    assert service.engine.load.cancelled == 1
    service.call(service.engine.go_on)
    assert service.client.post("/v1/ask", json={**ASK, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/ask", "/v1/chat/completions"])
def test_leaving_while_waiting_for_a_whole_answer_frees_its_place(service, path):
    service.call(service.engine.hold)
    body = CHAT if "chat" in path else ASK
    with (
        httpx.Client(base_url=service.url, timeout=0.5) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post(path, json=body)
    until(lambda: service.engine.load.running == 0 and service.engine.load.cancelled == 1)


def test_leaving_the_queue_frees_its_place(service):
    service.call(service.engine.hold)
    first = threading.Thread(target=service.client.post, args=("/v1/ask",), kwargs={"json": ASK})
    first.start()
    until(lambda: service.engine.load.running == 1)
    with (
        httpx.Client(base_url=service.url, timeout=0.5) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post("/v1/ask", json={**ASK, "stream": True})
    until(lambda: service.engine.load.waiting == 0)
    assert service.engine.load.running == 1
    service.call(service.engine.go_on)
    first.join(30)
    assert service.engine.load.answered == 1


def failing(service, error):
    async def ask(question, index):
        raise error
        yield

    service.engine.ask = ask


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Busy("there is no room; try again", 3.4), 429, "rate_limit_error"),
        (TimedOut("it took too long; ask again"), 504, "timeout"),
        (RuntimeError("the text of a document"), 500, "server_error"),
    ],
)
def test_an_engine_that_fails_before_the_first_word_gives_a_status(
    service, capfd, error, status, kind
):
    failing(service, error)
    for path, body in (("/v1/ask", ASK), ("/v1/chat/completions", CHAT)):
        for stream in (False, True):
            reply = service.client.post(path, json={**body, "stream": stream})
            assert reply.status_code == status
            assert reply.json()["error"]["type"] == kind
            assert "text of a document" not in reply.text
            if status == 429:
                assert reply.headers["retry-after"] == "3"
    assert "text of a document" not in capfd.readouterr().err


def test_an_engine_that_fails_midway_ends_the_stream_with_the_reason(service):
    from openclara.server.asking import Found, Piece

    async def ask(question, index):
        yield Found(())
        yield Piece("Half")
        raise TimedOut("it took too long; ask again")

    service.engine.ask = ask
    text = service.client.post("/v1/ask", json={**ASK, "stream": True}).text
    assert text.rstrip().endswith(
        'event: error\ndata: {"error":{"message":"it took too long; ask again","type":"timeout",'
        '"param":null,"code":null}}'
    )
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIError, match="it took too long"),
    ):
        list(client.chat.completions.create(**CHAT, stream=True))


def test_stopping_finishes_what_runs_and_takes_nothing_new(clara, root):
    found = {}
    with serving(clara, root=root) as service:
        service.call(service.engine.hold)

        def ask():
            with httpx.Client(base_url=service.url, timeout=60) as client:
                found["reply"] = client.post("/v1/ask", json={**ASK, "max_tokens": 5})

        with httpx.Client(base_url=service.url) as kept:
            assert kept.get("/readyz").status_code == 200
            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: service.engine.load.running == 1)
            service.call(service.server.handle_exit, 2, None)
            until(lambda: _refused(service.url))
            assert asking.is_alive()
            service.call(service.engine.go_on)
            asking.join(30)
        service.thread.join(30)
        assert not service.thread.is_alive()
    reply = found["reply"]
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] > 0
    assert service.engine.closed


def _refused(url):
    try:
        reply = httpx.get(f"{url}/readyz")
    except httpx.TransportError:
        return True
    return reply.status_code == 503


def test_what_does_not_finish_in_time_is_cut_with_a_sentence(clara, root):
    found = {}
    with serving(clara, root=root, settings=Settings(drain_s=1)) as service:
        service.call(service.engine.hold)

        def ask():
            found["reply"] = httpx.post(f"{service.url}/v1/ask", json=ASK, timeout=60)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: service.engine.load.running == 1)
        service.call(service.server.handle_exit, 2, None)
        asking.join(30)
    assert found["reply"].status_code == 503
    assert "stopped before it could answer" in found["reply"].json()["error"]["message"]
    assert service.engine.load.cancelled == 1


def test_while_it_stops_a_kept_connection_is_told_to_come_back(service):
    service.service.draining = True
    assert service.client.get("/healthz").status_code == 200
    assert service.client.get("/readyz").json() == {"status": "draining"}
    reply = service.client.post("/v1/ask", json=ASK)
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0


def test_a_job_under_way_finishes_its_group_and_the_rest_is_reported(clara, root):
    settings = Settings(state=root / ".openclara")
    body = {"documents": [{"id": f"d{n}", "text": f"Text {n}."} for n in range(40)]}
    started, release = threading.Event(), threading.Event()
    with serving(clara, root=root, settings=settings) as service:
        compress = service.engine.compress

        async def held(documents, index):
            import asyncio

            started.set()
            await asyncio.to_thread(release.wait, 30)
            return await compress(documents, index)

        service.engine.compress = held
        job = service.client.post("/v1/documents", json=body).json()
        queued = service.client.put("/v1/documents/later", json={"text": "x"}).json()
        started.wait(20)
        service.call(service.server.handle_exit, 2, None)
        release.set()
    with serving(clara, root=root, settings=settings) as again:
        after = again.client.get(f"/v1/jobs/{job['id']}").json()
        assert (after["status"], after["documents_done"]) == ("failed", 8)
        assert after["error"]["code"] == "interrupted"
        assert "when 8 documents were in the index" in after["error"]["message"]
        stored = again.client.get("/v1/documents", params={"limit": 200}).json()["documents"]
        assert [one["id"] for one in stored if one["id"].startswith("d")] == after["ids"]
        assert again.client.get(f"/v1/jobs/{queued['id']}").json()["status"] == "failed"
        # Sending it all again goes on from there.
        new = again.client.post("/v1/documents", json=body).json()
        until(lambda: again.client.get(f"/v1/jobs/{new['id']}").json()["status"] == "done")
        assert again.client.get("/v1/documents").json()["total"] == 43


def test_a_killed_service_left_jobs_that_the_next_one_reports(tmp_path):
    folder = tmp_path / "state"
    with Journal(folder) as journal:
        from openclara.server.jobs import Job

        journal.write(Job("0" * 16, "docs", status="running", documents_done=3, created="1"))
        journal.write(Job("1" * 16, "docs", status="done", created="2"))
        (journal.uploads / "left").mkdir()
    (folder / "jobs" / ("2" * 16 + ".json")).write_text("{half", encoding="utf-8")
    (folder / "jobs" / "evil.json").write_text(json.dumps({"id": "../evil"}), encoding="utf-8")
    with Journal(folder) as journal:
        jobs = list(journal.jobs.values())
        assert [(job.id[0], job.status) for job in jobs] == [("0", "failed"), ("1", "done")]
        assert "3 documents" in jobs[0].error["message"]
        assert not list(journal.uploads.iterdir())
        with pytest.raises(ConfigError, match="another service"):
            Journal(folder)


def test_old_jobs_are_forgotten(tmp_path, monkeypatch):
    from openclara.server import journal as module
    from openclara.server.jobs import Job

    monkeypatch.setattr(module, "KEPT", 5)
    with Journal(tmp_path) as journal:
        journal.write(Job("f" * 16, "docs", status="running", created="0"))
        for n in range(20):
            journal.write(Job(f"{n:016d}", "docs", status="done", created=str(n + 1)))
        assert len(journal.jobs) == 5
        assert "f" * 16 in journal.jobs
        assert len(list((tmp_path / "jobs").glob("*.json"))) == 5


def test_another_writer_is_waited_for(service, wait_for, root):
    from openclara.index.creation import writer_lock
    from openclara.index.layout import Layout

    lock = writer_lock(Layout(root / "docs.idx"))
    with lock:
        job = service.client.put("/v1/documents/x", json={"text": "x"}).json()
        until(lambda: service.client.get(f"/v1/jobs/{job['id']}").json()["status"] == "running")
        reply = service.client.delete("/v1/documents/opera")
        assert reply.status_code == 409
        assert "another process is writing to docs" in reply.json()["error"]["message"]
        assert reply.headers["retry-after"]
    assert wait_for(job)["status"] == "done"
