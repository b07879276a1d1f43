"""A tiny model, an index of three documents, and a service over it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import engine_cases
import pytest
from serving import DOCUMENTS, serving

from openclara.index import LatentIndex
from openclara.pipeline import Clara
from openclara.server.engine import ClaraEngine
from openclara.server.keys import KeyFile
from openclara.server.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def clara(tiny_model):
    return Clara.load(str(tiny_model), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def index(clara, tmp_path_factory):
    """An index for the engine alone."""
    with LatentIndex.open(tmp_path_factory.mktemp("index") / "i", clara.latent_spec) as index:
        index.add(clara.compress(engine_cases.DOCUMENTS))
        yield index


@pytest.fixture(scope="session")
def _filled(clara, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "docs.idx"
    with LatentIndex.open(path, clara.latent_spec) as index:
        index.add(clara.compress(DOCUMENTS))
    return path


@pytest.fixture
def root(_filled, tmp_path) -> Path:
    """A folder with one index, `docs`, of the test's own."""
    folder = tmp_path / "root"
    folder.mkdir()
    shutil.copytree(_filled, folder / "docs.idx")
    return folder


@pytest.fixture(scope="session")
def shared(clara, _filled, tmp_path_factory):
    """A service with the real engine that tests only ask; its index is `docs`."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(_filled, folder / "docs.idx")
    with serving(clara, root=folder, make_engine=ClaraEngine) as running:
        yield running


@pytest.fixture
def service(clara, root):
    """A service of the test's own, which may change `docs` and make more."""
    with serving(clara, root=root, settings=Settings(state=root / ".openclara")) as running:
        yield running


@pytest.fixture
def guarded(clara, root, tmp_path):
    """A service with keys: `running, keys of each scope`."""
    keys = KeyFile(tmp_path / "keys.json")
    secrets = {"read": keys.add("reader", "read"), "write": keys.add("writer", "write")}
    with serving(clara, root=root, settings=Settings(keys=keys.path)) as running:
        yield running, secrets


@pytest.fixture
def wait_for(service):
    """Wait until a job has ended."""
    import time

    def wait(job):
        for _ in range(600):
            job = service.client.get(f"/v1/jobs/{job['id']}").json()
            if job["status"] not in ("queued", "running"):
                return job
            time.sleep(0.02)
        raise AssertionError(job)

    return wait
