"""The files in `examples/` run as they stand, on the shipped model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))

pytestmark = [pytest.mark.default_model, pytest.mark.xdist_group("default_model")]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_answers_and_cites(example):
    telemetry_off = {"HAYSTACK_TELEMETRY_ENABLED": "False"}
    run = subprocess.run(
        [sys.executable, str(example)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **telemetry_off},
    )
    assert run.returncode == 0, run.stderr
    assert "Hagia Sophia  0-" in run.stdout
