"""Documents to synthesize from, and a recipe for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from towns import document

from openclara.config import SynthesisConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    lines = [json.dumps(document(number)) for number in range(24)]
    (folder / "towns.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def recipe(documents: Path, tmp_path: Path) -> Callable[..., SynthesisConfig]:
    def make(output: str = "out", **changes: object) -> SynthesisConfig:
        tree = {
            "output": tmp_path / output,
            "documents": str(documents),
            "held_out": 0.2,
            "shard_size": 5,
            "teacher": {"kind": "rules"},
            "candidates": {"k": 3, "n_candidates": 6},
        }
        return SynthesisConfig.model_validate(tree | changes)

    return make
