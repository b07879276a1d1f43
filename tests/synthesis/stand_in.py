"""A stand-in for a hosted model: an OpenAI-compatible server on loopback that fails on demand.

    with StandIn(script=["429", "500"]) as server:
        teacher = EndpointTeacher("stand-in", base_url=server.url)
        replies = dict(teacher.perform(tasks))
    assert server.done["simple_qa"] == 1 and server.faults["429"] == 1

It reads the task back from the prompt (`prompts.write_request`) and answers it by the rules of
`teachers/rules`, so what comes back is sensible and always the same. Faults come either from
`script`, one per request in the order of arrival, or from `rates`, drawn by `seed`, the prompt and
how often that prompt came, so that threads do not change them. A prompt that failed `most_faults`
times is answered, which keeps a run with any rates from losing tasks.

Faults: `timeout` (nothing for `hang_s`), `drop` (connection closed), `cut_body` (fewer bytes than
announced), `bad_body` (half a JSON body), `html` (status 200, a web page), `empty` (no choices),
`broken_json`, `length`, `refusal`, `content_filter`, and any status as a number, such as `429` and
`503` (with `Retry-After` where `retry_after` is set).

What to look at afterwards: `requests` (bodies), `done` (answered tasks by kind), `answers` (answers
by prompt: more than 1 is a doubled task), `faults` (served, by name), `most_at_once`, `keys`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from openclara.synthesis.tasks import Pair, Task
from openclara.synthesis.teachers.rules.teacher import carry_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PART = re.compile(
    r"\[(?P<mark>\w{20}) (?P<name>\w+)\]\n(?P<text>.*?)\n\[(?P=mark) end of (?P=name)\]", re.S
)
_PAIR = re.compile(r"Q: (.*)\nA: (.*)")


def read_task(body: Mapping[str, Any]) -> Task:
    """The task that a request is about, as far as its prompt shows it."""
    user = body["messages"][-1]["content"]
    mark = re.search(r"carry the mark (\w{20})\.", user)[1]
    parts = {m["name"]: m["text"] for m in _PART.finditer(user) if m["mark"] == mark}
    asked = user.partition("The material stands")[0]
    if "Write questions" in asked:
        kind = "complex_qa" if "putting together" in asked else "simple_qa"
    elif "Check" in asked:
        kind = "judge_pair" if "an answer" in asked else "judge_paraphrase"
    else:
        kind = "answer" if asked.startswith("Task: Answer") else "paraphrase"
    return Task(
        kind=kind,
        document=parts["document"],
        title=parts.get("title", ""),
        pairs=tuple(Pair(*pair) for pair in _PAIR.findall(parts.get("questions", ""))),
        uncovered=tuple(parts.get("uncovered", "").splitlines()),
        question=parts.get("question", ""),
        answer=parts.get("answer", ""),
        paraphrase=parts.get("paraphrase", ""),
    )


def write_answer(task: Task) -> str:
    """The JSON that a good model would write."""
    reply = carry_out(task)
    if task.kind in ("simple_qa", "complex_qa"):
        return json.dumps({"questions": reply.questions})
    if task.kind in ("judge_pair", "judge_paraphrase"):
        return json.dumps({"reason": reply.reason, "accept": reply.verdict})
    return json.dumps({task.kind: reply.text})


class StandIn:
    """The server; a context manager.

    Args:
        script: Faults for the first requests, one each; "" lets one through.
        rates: Probability of each fault for every other request.
        seed: Of those.
        most_faults: How often one prompt may fail by `rates`.
        retry_after: Value of that header beside 429 and 503; empty for none.
        hang_s: How long a `timeout` says nothing.
        formats: Of `response_format` that it knows; another one is a bad request.
        unknown_fields: Of a request that it calls bad, by name.
        model: The only one there is.
        key: The only one it takes; None takes any.
        counts: It says how many tokens were used.
        latency_s: Before each answer.
    """

    def __init__(
        self,
        *,
        script: Sequence[str] = (),
        rates: Mapping[str, float] | None = None,
        seed: int = 0,
        most_faults: int = 2,
        retry_after: str = "",
        hang_s: float = 30.0,
        formats: Sequence[str] = ("json_schema", "json_object"),
        unknown_fields: Sequence[str] = (),
        model: str = "stand-in",
        key: str | None = None,
        counts: bool = True,
        latency_s: float = 0.0,
    ) -> None:
        self.script = list(script)
        self.rates, self.seed, self.most_faults = dict(rates or {}), seed, most_faults
        self.retry_after, self.hang_s, self.formats = retry_after, hang_s, tuple(formats)
        self.unknown_fields, self.model, self.key = tuple(unknown_fields), model, key
        self.counts, self.latency_s = counts, latency_s
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.done: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.most_at_once = 0
        self._seen: Counter[str] = Counter()
        self._at_once = 0
        self._lock = threading.Lock()
        self.closing = threading.Event()

    def __enter__(self) -> StandIn:
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next_fault(self, body: dict[str, Any]) -> str:
        """What happens to a request; empty for nothing."""
        digest = hashlib.sha256(body["messages"][-1]["content"].encode()).hexdigest()
        with self._lock:
            self.requests.append(body)
            times = self._seen[digest]
            self._seen[digest] += 1
            if self.script:
                fault = self.script.pop(0)
            elif times < self.most_faults:
                chooser = random.Random(f"{self.seed} {digest} {times}")
                names = [*self.rates, ""]
                weights = [*self.rates.values(), max(0.0, 1.0 - sum(self.rates.values()))]
                fault = chooser.choices(names, weights)[0]
            else:
                fault = ""
            if fault:
                self.faults[fault] += 1
        return fault

    def completed(self, body: dict[str, Any], task: Task) -> None:
        """Count a task as answered."""
        with self._lock:
            self.done[task.kind] += 1
            self.answers[body["messages"][-1]["content"]] += 1

    def enter(self) -> None:
        """Count a request under way."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def leave(self) -> None:
        """It is answered."""
        with self._lock:
            self._at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        self.stand_in.enter()
        try:
            self._answer()
        finally:
            self.stand_in.leave()

    def _answer(self) -> None:
        server = self.stand_in
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        server.keys.add(key)
        if self.path != "/v1/chat/completions" or body.get("model") != server.model:
            return self._error(404, "no such model", "model_not_found")
        if server.key is not None and key != server.key:
            return self._error(401, "wrong key", "invalid_api_key")
        wanted = (body.get("response_format") or {}).get("type")
        if wanted and wanted not in server.formats:
            return self._error(400, f"response_format {wanted} is not supported")
        for field in server.unknown_fields:
            if field in body:
                other = "; use max_completion_tokens" if field == "max_tokens" else ""
                return self._error(400, f"unsupported parameter: {field}{other}")
        fault = server.next_fault(body)
        if fault == "timeout":
            server.closing.wait(server.hang_s)
        if fault in ("timeout", "drop"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        if fault.isdigit():
            return self._error(int(fault), "as scripted")
        time.sleep(server.latency_s)
        return self._complete(body, fault)

    def _complete(self, body: dict[str, Any], fault: str) -> None:
        task = read_task(body)
        text = write_answer(task)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        finish = fault if fault in ("length", "content_filter") else "stop"
        if fault == "broken_json":
            message["content"] = "Of course! Here it is: {'" + text[: len(text) // 2].replace(
                '"', "'"
            )
        if fault == "length":
            message["content"] = text[: len(text) // 2]
        if fault == "refusal":
            message.update(content=None, refusal="I would rather not.")
        choice = {"index": 0, "message": message, "finish_reason": finish}
        completion: dict[str, Any] = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [] if fault == "empty" else [choice],
        }
        if self.stand_in.counts:
            completion["usage"] = {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "total_tokens": 110,
            }
        sent = json.dumps(completion).encode()
        if fault == "bad_body":
            sent = sent[: len(sent) // 2]
        if fault == "html":
            return self._send(200, b"<html>Bad gateway</html>", kind="text/html")
        if not fault:
            self.stand_in.completed(body, task)
        return self._send(200, sent, announced=len(sent) + (50 if fault == "cut_body" else 0))

    def _error(self, status: int, message: str, code: str | None = None) -> None:
        error = {"error": {"message": message, "type": "error", "code": code, "param": None}}
        retry = {"Retry-After": self.stand_in.retry_after} if status in (429, 503) else {}
        headers = {name: value for name, value in retry.items() if value}
        self._send(status, json.dumps(error).encode(), headers=headers)

    def _send(
        self,
        status: int,
        content: bytes,
        *,
        kind: str = "application/json",
        announced: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if announced not in (None, len(content)):
            self.close_connection = True
