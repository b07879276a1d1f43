from __future__ import annotations

import pytest
from engine_cases import DOCUMENTS

from openclara.index import LatentIndex
from openclara.pipeline import Clara


@pytest.fixture(scope="module")
def clara(tiny_model):
    return Clara.load(str(tiny_model), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def index(clara, tmp_path_factory):
    with LatentIndex.open(tmp_path_factory.mktemp("index") / "i", clara.latent_spec) as index:
        index.add(clara.compress(DOCUMENTS))
        yield index
