"""Bodies that are too large, clients that are too slow."""

from __future__ import annotations

import socket
import time

import pytest
from serving import serving

from openclara.server.settings import Limits, Settings

SMALL = Limits(body_bytes=10_000, upload_bytes=50_000, upload_files=3, header_s=0.5, idle_s=0.5,
               body_s=1.5, write_s=1.0, unpacked_bytes=10_000)  # fmt: skip
HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"


@pytest.fixture(scope="module")
def small(clara, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    from openclara.index import LatentIndex

    LatentIndex.open(folder / "docs.idx", clara.latent_spec).close()
    with serving(clara, root=folder, settings=Settings(limits=SMALL)) as running:
        yield running


def connected(service):
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def answer(connection):
    """All that comes until the connection is closed."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def head(path, kind="application/json", **more):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
    return (HEAD.format(path=path, kind=kind) + lines + "\r\n").encode()


def test_a_body_that_claims_to_be_too_large_is_refused_before_it_comes(small):
    with connected(small) as connection:
        connection.sendall(head("/v1/ask", Content_Length=10_001))
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in received.lower()
    assert b"too_large" in received


@pytest.mark.parametrize("declared", [True, False])
def test_who_is_still_sending_gets_the_refusal_whole(small, declared):
    """A connection closed on unread bytes would be reset, and the reply be lost."""
    part = b" " * 10_000
    length = {"Content_Length": 40 * len(part)} if declared else {"Transfer_Encoding": "chunked"}
    with connected(small) as connection:
        connection.sendall(head("/v1/ask", **length))
        for _ in range(40):
            connection.sendall(part if declared else b"2710\r\n" + part + b"\r\n")
            time.sleep(0.005)
        if not declared:
            connection.sendall(b"0\r\n\r\n")
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 413")
    assert received.endswith(b"}")


@pytest.mark.parametrize("path", ["/v1/ask", "/v1/chat/completions", "/v1/documents"])
def test_a_body_without_a_length_is_counted_as_it_comes(small, path):
    def parts():
        for _ in range(30):
            yield b" " * 1000

    kind = {"content-type": "application/json"}
    reply = small.client.post(path, content=parts(), headers=kind)
    assert reply.status_code == 413
    assert "larger than 10,000 bytes" in reply.json()["error"]["message"]


def test_an_upload_has_its_own_bound(small):
    fits = small.client.post("/v1/documents", files=[("files", ("a.txt", b"x " * 10_000))])
    assert fits.status_code == 202
    over = small.client.post("/v1/documents", files=[("files", ("a.txt", b"x " * 40_000))])
    assert over.status_code == 413
    many = [("files", (f"{n}.txt", b"x")) for n in range(4)]
    reply = small.client.post("/v1/documents", files=many)
    assert reply.status_code == 400
    assert "files is 4, 3 is the most" in reply.json()["error"]["message"]
    # A kind that is no upload does not get the bound of one.
    other = small.client.post(
        "/v1/ask",
        content=b"x" * 20_000,
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert other.status_code == 413


def test_a_body_that_stalls_is_given_up(small):
    with connected(small) as connection:
        connection.sendall(head("/v1/ask", Content_Length=100) + b"{")
        received = answer(connection)
    assert received.startswith(b"HTTP/1.1 408")
    assert b'"type":"timeout"' in received


def test_a_body_that_trickles_is_given_up(small):
    with connected(small) as connection:
        connection.sendall(head("/v1/ask", Content_Length=10_000))
        connection.settimeout(0.2)
        received = b""
        for _ in range(100):
            try:
                connection.sendall(b" ")
                received += connection.recv(65536)
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                break
            break
    assert received.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: lo"])
def test_a_connection_whose_request_never_comes_is_closed(small, sent):
    with connected(small) as connection:
        connection.sendall(sent)
        assert answer(connection) == b""


def test_headers_that_trickle_are_given_up_also_after_a_good_request(small):
    with connected(small) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.settimeout(0.2)
        for n in range(100):
            try:
                connection.sendall(b"G" if n == 0 else b"E")
                if connection.recv(65536) == b"":
                    break
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                break
        else:
            raise AssertionError("the connection is still open")


def test_a_slow_client_holds_no_other_up(small):
    with connected(small) as one, connected(small) as other:
        one.sendall(head("/v1/ask", Content_Length=100) + b"{")
        other.sendall(b"GET /hea")
        assert small.client.get("/healthz").status_code == 200


def test_a_client_that_takes_nothing_is_left(clara, tmp_path):
    from openclara.index import LatentIndex
    from openclara.types import Chunk, CompressedDocument, Document

    text = "A long line of words. " * 800_000  # more than the buffers of the system take
    latents = clara.latents(["A long line."], role="compressor")
    with LatentIndex.open(tmp_path / "docs.idx", clara.latent_spec) as index:
        index.add([CompressedDocument(Document("long", text), (Chunk(0, 12, 4),), latents)])
    settings = Settings(limits=Limits(write_s=0.5))
    with serving(clara, root=tmp_path, settings=settings) as running, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(b"GET /v1/documents/long HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(1000):
            if running.client.get("/metrics").text.count('route="/v1/documents/{id:path}"'):
                break
            time.sleep(0.02)
        running.client.close()
        for _ in range(1000):
            if not running.server.server_state.connections:
                break
            time.sleep(0.02)
        assert not running.server.server_state.connections
        assert len(answer(connection)) < len(text)
