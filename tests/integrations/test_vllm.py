"""Prompts as embeddings, against a stand-in that reads them as vLLM does and answers from them."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from published import make_published, untied_base
from tiny import make_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from openclara import Clara, Document
from openclara.errors import ConfigError, DataError
from openclara.integrations.vllm import (
    ServerError,
    VllmServer,
    answer,
    decoded,
    encoded,
    prompt_embeddings,
)
from openclara.model.conversion import convert
from openclara.model.generator import Decoding

QUESTIONS = ["Who designed it?", "When do trains leave, and from where?"]
DOCUMENTS = [
    [Document("0", "The opera house is by Utzon."), Document("1", "A river.")],
    [Document("2", "Trains leave at nine.")],
]
DECODING = Decoding(max_new_tokens=6)


class StandIn(ThreadingHTTPServer):
    """Serves `POST /v1/completions` for one folder, with no code of ours."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Completions)
        self.lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.requests = []
        self.reply = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Completions(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        status, raw = self.server.reply or (200, json.dumps(self.completions(body)).encode())
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(raw)

    @torch.no_grad()
    def completions(self, body):
        assert "prompt" not in body
        choices = []
        for at, text in enumerate(body["prompt_embeds"]):
            raw = base64.b64decode(text, validate=True)
            tensor = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
            lm, tokenizer = self.server.lm, self.server.tokenizer
            assert tensor.dim() == 2
            assert tensor.shape[1] == lm.config.hidden_size
            assert tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
            ids = lm.generate(
                inputs_embeds=tensor.to(lm.dtype)[None],
                attention_mask=torch.ones(1, tensor.shape[0], dtype=torch.long),
                max_new_tokens=body["max_tokens"],
                do_sample=body["temperature"] > 0,
                eos_token_id=body["stop_token_ids"],
            )
            text = tokenizer.decode(ids[0], skip_special_tokens=True)
            choices.append({"index": at, "text": text, "finish_reason": "stop"})
        # Not in order: only `index` says which answer is whose.
        return {"object": "text_completion", "choices": choices[::-1]}


@pytest.fixture(scope="module", params=["ours", "published"])
def trained(request, tmp_path_factory, tiny_base):
    root = tmp_path_factory.mktemp("vllm")
    base = untied_base(root / "base", tiny_base)
    if request.param == "ours":
        return make_checkpoint(root / "ours", base)
    return make_published(root / "published", base)


@pytest.fixture(scope="module")
def clara(trained):
    return Clara.load(str(trained), precision="fp32")


@pytest.fixture(scope="module")
def running(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "merged"
    convert(str(trained), folder, to="merged")
    server = StandIn(folder)
    # The merged weights are rounded to bf16; ours are merged in the same way for comparison.
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def stand_in(running, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running.requests.clear()
    running.reply = None
    return running


def hits_of(clara):
    return [clara.read(documents) for documents in DOCUMENTS]


def test_answers_are_those_of_the_merged_generator(clara, trained, stand_in):
    server = VllmServer("generator", stand_in.url)
    answers = answer(server, clara, QUESTIONS, hits_of(clara), decoding=DECODING)
    assert [a.question for a in answers] == QUESTIONS
    assert [len(a.hits) for a in answers] == [2, 1]
    lm = stand_in.lm
    for found, question, hits in zip(answers, QUESTIONS, hits_of(clara), strict=True):
        written = lm.generate(
            inputs_embeds=prompt_embeddings(clara, question, hits)[None],
            max_new_tokens=DECODING.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(clara.tokenizer.stop_ids),
        )
        assert found.text == clara.tokenizer.decode(written[0].tolist()).strip()


def test_the_request(clara, stand_in):
    server = VllmServer("generator", stand_in.url, api_key="secret")
    decoding = Decoding(max_new_tokens=3, temperature=0.5, top_p=0.9, seed=7)
    answer(server, clara, QUESTIONS, hits_of(clara), decoding=decoding)
    ((path, headers, body),) = stand_in.requests
    assert path == "/v1/completions"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer secret"
    sent = body.pop("prompt_embeds")
    assert body == {
        "model": "generator", "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 7,
        "stop_token_ids": sorted(clara.tokenizer.stop_ids),
    }  # fmt: skip
    for text, question, hits in zip(sent, QUESTIONS, hits_of(clara), strict=True):
        assert torch.equal(decoded(text), prompt_embeddings(clara, question, hits))


def test_the_embeddings_hold_the_latents(clara):
    (hits, _) = hits_of(clara)
    embedded_TD = prompt_embeddings(clara, QUESTIONS[0], hits)
    prompt = clara.prompt(QUESTIONS[0], hits)
    assert embedded_TD.shape == (len(prompt.ids), clara.latent_spec.width)
    slots = torch.tensor(prompt.ids) == -1
    expected = torch.cat([hit.latents for hit in hits])
    assert torch.equal(embedded_TD[slots], expected.to(embedded_TD.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_there_and_back(dtype):
    whole = torch.randn(50, 8).to(dtype)
    text = encoded(whole[10:13])
    assert torch.equal(decoded(text), whole[10:13])
    assert len(base64.b64decode(text)) < whole.numel() * whole.element_size() + 1500


class Trap:
    def __reduce__(self):
        return print, ("sprung",)


@pytest.mark.parametrize("value", ["no base64!", Trap(), {"a": torch.ones(2)}, torch.ones(3)])
def test_nothing_but_a_tensor_is_decoded(value, capsys):
    text = value
    if not isinstance(value, str):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        text = base64.b64encode(buffer.getvalue()).decode()
    with pytest.raises(DataError):
        decoded(text)
    assert "sprung" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((400, b'{"message": "prompt_embeds\\n is off"}'), "refused .400: .*; it must serve"),
        ((200, b"<html>"), "answered no JSON"),
        ((200, b'{"choices": [{}]}'), "answered no completions"),
        ((200, b'{"choices": [{"index": 0, "text": "a"}]}'), "gave 1 answers to 2 prompts"),
    ],
)
def test_a_server_that_does_something_else(clara, stand_in, reply, message):
    stand_in.reply = reply
    server = VllmServer("generator", stand_in.url)
    with pytest.raises(ServerError, match=message) as error:
        answer(server, clara, QUESTIONS, hits_of(clara), decoding=DECODING)
    assert "\n" not in str(error.value)


def test_mistakes(clara, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nobody = VllmServer("generator", "http://127.0.0.1:9/v1", timeout_s=2.0)
    assert answer(nobody, clara, [], []) == []
    hits = hits_of(clara)
    with pytest.raises(ServerError, match="start the server there"):
        answer(nobody, clara, QUESTIONS, hits)
    with pytest.raises(ConfigError, match="is no address; give one such as http"):
        answer(VllmServer("generator", "localhost:8000"), clara, QUESTIONS, hits)
    with pytest.raises(DataError, match="2 questions came with 1 lists of hits"):
        answer(nobody, clara, QUESTIONS, hits[:1])
    with pytest.raises(DataError, match="the question is empty"):
        prompt_embeddings(clara, " ", hits[0])
    monkeypatch.setattr(clara.model, "latent_layer", 1)
    with pytest.raises(ConfigError, match="enter the generator after layer 1, and vLLM takes"):
        prompt_embeddings(clara, "Who?", hits[0])
    without = clara.read(DOCUMENTS[0], with_latents=False)
    with pytest.raises(DataError, match="hits without latents"):
        prompt_embeddings(clara, "Who?", without)
