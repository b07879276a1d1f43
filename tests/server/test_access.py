"""Who may do what: keys, scopes, host names, origins."""

from __future__ import annotations

import contextlib
import json
import socket
import stat

import pytest
from serving import serving

from openclara.errors import ConfigError, FormatError
from openclara.server.access import needed
from openclara.server.keys import KeyFile
from openclara.server.settings import Limits, Settings
from openclara.server.starting import check_settings, is_loopback

ASK = {"question": "Who designed the opera house?", "max_tokens": 2}


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def raw(port, request, *, patience=20):
    """What comes back for bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


def test_without_a_key_only_health_and_the_page_are_open(guarded):
    running, _ = guarded
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json", "/static/index.html"):
        assert running.client.get(path).status_code == 200, path
    for path in ("/metrics", "/v1/indexes", "/v1/models", "/v1/session", "/v1/jobs", "/nope"):
        reply = running.client.get(path)
        assert reply.status_code == 401, path
        assert reply.json()["error"]["type"] == "authentication_error"
        assert reply.headers["www-authenticate"] == "Bearer"


def test_every_described_route_needs_a_key_but_the_open_ones(guarded):
    running, _ = guarded
    api = running.client.get("/openapi.json").json()
    for path, methods in api["paths"].items():
        for method in methods:
            address = path.replace("{", "").replace("}", "")
            status = running.client.request(method, address).status_code
            assert status == (200 if path in ("/healthz", "/readyz") else 401), (method, path)


def test_a_reader_asks_and_changes_nothing(guarded):
    running, keys = guarded
    headers = bearer(keys["read"])
    assert running.client.post("/v1/ask", json=ASK, headers=headers).status_code == 200
    session = running.client.get("/v1/session", headers=headers).json()
    assert (session["scopes"], session["auth"]) == (["read"], True)
    for method, path, body in (
        ("POST", "/v1/documents", {"documents": [{"text": "x"}]}),
        ("PUT", "/v1/documents/x", {"text": "x"}),
        ("DELETE", "/v1/documents/opera", None),
        ("DELETE", "/v1/documents?where=id=opera", None),
        ("POST", "/v1/indexes", {"name": "x"}),
        ("DELETE", "/v1/indexes/docs", None),
        ("DELETE", "/v1/jobs/x", None),
    ):
        reply = running.client.request(method, path, json=body, headers=headers)
        assert reply.status_code == 403, (method, path)
        assert reply.json()["error"]["type"] == "permission_error"
    total = running.client.get("/v1/documents", headers=headers).json()["total"]
    assert total == 3


def test_a_writer_does_both(guarded):
    running, keys = guarded
    headers = bearer(keys["write"])
    reply = running.client.put("/v1/documents/x", json={"text": "x"}, headers=headers)
    assert reply.status_code == 202
    assert running.client.post("/v1/ask", json=ASK, headers=headers).status_code == 200


def test_wrong_keys_are_refused(guarded):
    running, keys = guarded
    good = keys["read"]
    stored = json.loads(running.service.keys.path.read_text())["keys"][0]["sha256"]
    for secret in ("x", good[:-1], good + "x", good.swapcase(), stored, "oc_" + "A" * 43):
        reply = running.client.get("/v1/indexes", headers=bearer(secret))
        assert reply.status_code == 401, secret
        assert good not in reply.text
    for header in (good, f"Basic {good}", f"Bearer{good}"):
        reply = running.client.get("/v1/indexes", headers={"authorization": header})
        assert reply.status_code == 401


def test_a_stock_client_presents_its_key(guarded):
    import openai

    running, keys = guarded
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=keys["read"]) as client:
        assert [model.id for model in client.models.list()] == ["docs"]
    with (
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_a_removed_key_is_worthless_at_once_and_a_new_one_works(guarded):
    running, keys = guarded
    file = KeyFile(running.service.keys.path)
    file.remove("reader")
    new = file.add("another", "read")
    assert running.client.get("/v1/indexes", headers=bearer(keys["read"])).status_code == 401
    assert running.client.get("/v1/indexes", headers=bearer(new)).status_code == 200


def test_no_body_is_read_before_the_key_is_checked(guarded):
    running, _ = guarded
    request = b"POST /v1/ask HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    # The body never comes; the refusal does.
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


def test_what_is_not_known_to_be_harmless_needs_write():
    assert needed("POST", "/v1/something-new") == "write"
    assert needed("PATCH", "/v1/ask") == "write"
    assert needed("GET", "/v1/something-new") == "read"
    assert needed("GET", "/healthz") is None
    assert needed("GET", "/static/app.js") is None


def test_a_file_of_keys_that_breaks_lets_nobody_in_and_names_no_path(guarded):
    running, keys = guarded
    running.service.keys.path.write_text("{", encoding="utf-8")
    reply = running.client.get("/v1/indexes", headers=bearer(keys["read"]))
    assert reply.status_code == 500
    assert "the file of keys is not a file of API keys" in reply.text
    assert str(running.service.keys.path.parent) not in reply.text


# ---- the file of keys ----


def test_the_file_keeps_no_key_and_is_its_owners_alone(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    secret = file.add("me", "write")
    assert secret not in file.path.read_text()
    assert secret.removeprefix("oc_") not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.find(secret).name == "me"
    assert len({file.add(f"k{n}", "read") for n in range(20)}) == 20


def test_names_of_keys_are_unique_and_plain(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    file.add("me", "read")
    for name in ("me", "", "a b", "a\nb", "x" * 65):
        with pytest.raises(ConfigError):
            file.add(name, "read")
    with pytest.raises(ConfigError, match="there are: me"):
        file.remove("you")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys": [{}]}',
        '{"keys": []}',
        '{"format": "openclara-keys", "version": 1, "keys": [{"name": '
        '"a", "scope": "root", "sha256": "x", "created": ""}]}',
    ],
)
def test_a_damaged_file_of_keys_lets_nobody_in(tmp_path, content):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(FormatError, match="is not a file of API keys"):
        KeyFile(tmp_path / "keys.json").keys()


def test_a_service_open_to_others_needs_keys(tmp_path):
    with pytest.raises(ConfigError, match="needs API keys"):
        check_settings("0.0.0.0", Settings())
    with pytest.raises(ConfigError, match="holds no key"):
        check_settings("0.0.0.0", Settings(keys=tmp_path / "none.json"))
    KeyFile(tmp_path / "keys.json").add("me", "read")
    check_settings("0.0.0.0", Settings(keys=tmp_path / "keys.json"))
    check_settings("127.0.0.1", Settings())
    assert [is_loopback(host) for host in ("::1", "localhost", "127.9.9.9")] == [True] * 3
    assert not any(is_loopback(host) for host in ("::", "10.0.0.1", "example.org", ""))


@pytest.mark.parametrize("origin", ["*", "example.org", "https://example.org/", "null", "ftp://x"])
def test_an_origin_that_is_none_is_refused(origin):
    with pytest.raises(ConfigError, match="is none"):
        check_settings("127.0.0.1", Settings(origins=(origin,)))


# ---- pages of others ----


def test_a_page_of_another_origin_may_not_write_through_a_form(shared):
    reply = shared.client.post("/v1/ask", json=ASK, headers={"origin": "https://evil.example"})
    assert reply.status_code == 403
    assert shared.client.post("/v1/ask", json=ASK, headers={"origin": "null"}).status_code == 403
    assert (
        shared.client.post("/v1/ask", json=ASK, headers={"origin": shared.url}).status_code == 200
    )


def test_no_cross_origin_headers_unless_asked_for(shared, clara, root):
    origin = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert (
        "access-control-allow-origin"
        not in shared.client.options("/v1/ask", headers=origin).headers
    )
    settings = Settings(origins=("https://app.example",))
    with serving(clara, root=root, settings=settings) as running:
        allowed = running.client.options("/v1/ask", headers=origin)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        other = running.client.options(
            "/v1/ask", headers={**origin, "origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in other.headers
        reply = running.client.post("/v1/ask", json=ASK, headers={"origin": "https://app.example"})
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "https://app.example"


def test_without_keys_a_foreign_host_name_is_refused(clara, root):
    settings = Settings(hosts=("localhost", "127.0.0.1", "::1"))
    with serving(clara, root=root, settings=settings) as running:
        for host in ("127.0.0.1:1", "localhost", "[::1]:8080"):
            assert running.client.get("/v1/indexes", headers={"host": host}).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil", ""):
            reply = running.client.get("/v1/indexes", headers={"host": host})
            assert reply.status_code == 403, host


# ---- headers ----


def test_a_request_id_is_kept_if_plain_and_never_breaks_a_header(shared):
    kept = shared.client.get("/healthz", headers={"x-request-id": "abc-1.2"})
    assert kept.headers["x-request-id"] == "abc-1.2"
    for odd in ("a b", "a\tb", "x" * 65, "ü".encode("latin-1"), "<script>"):
        reply = shared.client.get("/healthz", headers={"x-request-id": odd})
        assert reply.headers["x-request-id"] != odd
        assert len(reply.headers["x-request-id"]) == 16


def test_line_breaks_in_an_address_or_an_id_make_no_header(shared):
    for path in ("/v1/models/x%0d%0aX-Evil:%201", "/v1/documents/x%0d%0aX-Evil:%201",
                 "/%0d%0aX-Evil:1"):  # fmt: skip
        head = raw(
            shared.port,
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(),
        )
        assert b"x-evil" not in head.lower().partition(b"\r\n\r\n")[0]
        assert head.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\0" * 100,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_what_is_not_http_is_refused_and_the_service_lives(shared, request_):
    with contextlib.suppress(ConnectionResetError):
        assert raw(shared.port, request_)[:12] in (b"HTTP/1.1 400", b"")
    assert shared.client.get("/healthz").status_code == 200


def test_two_lengths_do_not_smuggle_a_request(shared):
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
    request = (
        b"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
    ) % len(smuggled)
    received = raw(shared.port, request + smuggled)
    assert received.count(b"HTTP/1.1") == 1
    assert b"owned_by" not in received


def test_limits_default_to_what_the_session_says(shared):
    assert shared.client.get("/v1/session").json()["limits"]["k"] == Limits().k
