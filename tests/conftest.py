"""What all tests share: a tiny base, a tiny model on it, and a cache of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Read when torch, tokenizers and the hub client are first imported, so set before any of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A loaded machine must not fail a test, nor chance a change that is not to blame: the same
# examples every time, others by HYPOTHESIS_PROFILE=explore.
settings.register_profile("openclara", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "openclara"))

USERS_CACHE = os.environ.get("OPENCLARA_CACHE")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENCLARA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _users_cache_for_default_model(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.get_closest_marker("default_model") is None:
        return
    if USERS_CACHE is None:
        monkeypatch.delenv("OPENCLARA_CACHE")
    else:
        monkeypatch.setenv("OPENCLARA_CACHE", USERS_CACHE)
    from openclara.model.base import MARKER, converted_folder

    if not (converted_folder() / MARKER).is_file():
        pytest.skip("the default base model is not here; `make base` fetches it")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random base of two layers."""
    from tiny import make_base

    return make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a checkpoint on `tiny_base` with all three roles."""
    from tiny import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("tiny-model") / "run", tiny_base)
