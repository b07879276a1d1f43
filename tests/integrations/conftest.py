"""A small index of the tiny model, and a watch over the network."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from small_index import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openclara import Clara, LatentIndex


@pytest.fixture(scope="session")
def index_path(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an index of `DOCUMENTS`; tests only read it."""
    from openclara import Clara, LatentIndex

    path = tmp_path_factory.mktemp("integrations") / "my.idx"
    clara = Clara.load(str(tiny_model))
    with LatentIndex.open(path, clara.latent_spec) as index:
        index.add(clara.compress(DOCUMENTS))
    return path


@pytest.fixture(scope="session")
def tiny_clara(tiny_model: Path) -> Clara:
    from openclara import Clara

    return Clara.load(str(tiny_model))


@pytest.fixture
def tiny_index(index_path: Path) -> Iterator[LatentIndex]:
    from openclara import LatentIndex

    with LatentIndex.open(index_path) as index:
        yield index


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails the test if anything looks up or calls another machine, whatever became of it."""
    attempts: list[object] = []
    look_up, connect = socket.getaddrinfo, socket.socket.connect
    here = ("127.0.0.1", "::1", "localhost", None)

    def watched_look_up(host, *args, **kwargs):
        if host not in here:
            attempts.append(host)
            raise OSError("there is no network in tests")
        return look_up(host, *args, **kwargs)

    def watched_connect(self, address):
        if isinstance(address, tuple) and address[0] not in here:
            attempts.append(address)
            raise OSError("there is no network in tests")
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", watched_look_up)
    monkeypatch.setattr(socket.socket, "connect", watched_connect)
    yield
    assert attempts == []
