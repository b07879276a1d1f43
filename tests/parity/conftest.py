"""One recording for each stage and precision, shared by all tests of this folder."""

from __future__ import annotations

from functools import cache

import pytest
from recorded import PRECISIONS, STAGES, Recording

recording_of = cache(Recording)


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def recording(stage: str, precision: str) -> Recording:
    return recording_of(stage, precision)


@pytest.fixture
def joint(precision: str) -> Recording:
    """The only stage with a reasoner."""
    return recording_of("stage2", precision)
