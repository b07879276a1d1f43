"""`openclara serve` and `openclara keys` as commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import httpx
import pytest

from openclara.cli.app import run
from openclara.index import LatentIndex


@pytest.fixture
def refused(capsys):
    """The one sentence that a command line is refused with."""

    def call(*arguments):
        capsys.readouterr()
        assert run([str(one) for one in arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        return err

    return call


def test_what_cannot_be_served_is_said_before_the_model_is_loaded(refused, root, clara, tmp_path):
    docs = root / "docs.idx"
    assert "nothing to serve" in refused("serve")
    assert "there is no index at" in refused("serve", tmp_path / "none")
    assert "needs API keys" in refused("serve", docs, "--host", "0.0.0.0")
    assert "holds no key" in refused("serve", docs, "--keys", tmp_path / "none.json")
    assert "is none" in refused("serve", docs, "--cors", "*")
    other = replace(clara.latent_spec, fingerprint="other", model="another")
    LatentIndex.open(tmp_path / "other.idx", other).close()
    both = refused("serve", docs, tmp_path / "other.idx")
    assert "docs.idx was made by model" in both
    assert "other.idx by another" in both


def test_a_port_in_use_is_said(refused, root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in refused(
            "serve", root / "docs.idx", "--port", port
        )


def test_an_address_of_another_machine_is_said(refused, root, tmp_path):
    assert run(["keys", "add", str(tmp_path / "k.json"), "me"]) == 0
    arguments = ("--keys", tmp_path / "k.json", "--host", "192.0.2.1", "--port", 0)
    assert "no address of this machine" in refused("serve", root / "docs.idx", *arguments)


def test_a_missing_extra_is_said(refused, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'openclara[server]'" in refused("serve", root / "docs.idx")


def test_two_indexes_of_one_name_are_refused(clara, root, tmp_path):
    from openclara.errors import ConfigError
    from openclara.server.library import Library

    twin = tmp_path / "docs.index"
    LatentIndex.open(twin, clara.latent_spec).close()
    with pytest.raises(ConfigError, match="would both be served as docs"):
        Library(clara.latent_spec, [root / "docs.idx", twin])
    odd = tmp_path / "my docs.idx"
    LatentIndex.open(odd, clara.latent_spec).close()
    with pytest.raises(ConfigError, match="does not fit an address"):
        Library(clara.latent_spec, [odd])


def test_keys_are_made_listed_and_removed(capsys, tmp_path):
    file = str(tmp_path / "keys.json")
    assert run(["keys", "add", file, "me", "--scope", "write", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith("oc_")
    assert run(["keys", "add", file, "you"]) == 0
    assert len(capsys.readouterr().out.strip()) == len(made["key"])
    assert run(["keys", "list", file, "--json"]) == 0
    out = capsys.readouterr().out
    assert [(key["name"], key["scope"]) for key in json.loads(out)["keys"]] == [
        ("me", "write"),
        ("you", "read"),
    ]
    assert made["key"] not in out
    assert run(["keys", "remove", file, "me"]) == 0
    assert run(["keys", "remove", file, "me"]) == 1
    assert run(["keys", "add", file]) == 2


def test_ctrl_c_ends_a_service_as_it_should(root):
    command = [sys.executable, "-m", "openclara", "serve", "--root", str(root), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("serving docs at http://127.0.0.1:"), process.stderr.read()
            url = line.split()[-1]
            body = {"question": "Who designed the opera house?", "max_tokens": 3}
            reply = httpx.post(f"{url}/v1/ask", json=body, timeout=60)
            assert reply.status_code == 200
            assert reply.json()["hits"][0]["id"] == "opera"
            assert httpx.get(url, headers={"host": "evil.example"}).status_code == 403
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            lines = process.stderr.read().splitlines()
        finally:
            process.kill()
    assert "Ctrl-C" in lines[0]
    routes = [json.loads(one)["route"] for one in lines[1:]]
    assert routes == ["/v1/ask", "other"]  # the second was refused before it was routed
