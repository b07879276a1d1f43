"""The shipped model on the real base: the main job, and the README as it stands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openclara import Clara, LatentIndex
from openclara.corpus import passages, questions

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.default_model,
    pytest.mark.xdist_group("default_model"),
]


@pytest.fixture
def clara():
    return Clara.load("smollm2-135m")


def test_weight_of_what_ships():
    folder = ROOT / "src" / "openclara" / "zoo" / "smollm2-135m"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40_000_000
    card = json.loads((folder / "openclara.json").read_text())
    assert card["metrics"]
    stages = ["text", "compress", "instruct", "joint", "compress", "instruct"]
    stages += ["read", "read", "supervised", "read", "read", "read", "read", "read"]
    assert [stage["stage"] for stage in card["training"]] == stages


def test_main_job(clara, tmp_path):
    documents = passages()[:12]
    ids = {document.id for document in documents}
    asked = [q for q in questions() if set(q.passages) <= ids][:8]
    with LatentIndex.open(tmp_path / "t.idx", clara.latent_spec) as index:
        assert index.add(clara.compress(documents)).added == 12
        assert index.add(clara.compress(documents)).unchanged == 12
        answers = clara.ask([question.question for question in asked], index, k=3)
    found = sum(
        question.passages[0] in {hit.document.id for hit in answer.hits}
        for question, answer in zip(asked, answers, strict=True)
    )
    # Chance is 3 of 12; a broken index or model falls there.
    assert found >= 6
    with LatentIndex.open(tmp_path / "t.idx") as index:
        by_latents = clara.search([one.question for one in asked], index, k=3, mode="latent")
    assert sum(
        one.passages[0] in {hit.document.id for hit in hits}
        for one, hits in zip(asked, by_latents, strict=True)
    ) >= 6  # fmt: skip
    assert all(answer.text for answer in answers)
    assert all(answer.usage.prompt_tokens < answer.usage.text_prompt_tokens for answer in answers)


def _quick_start():
    return (ROOT / "README.md").read_text().split("## Quick start")[1].split("\n## ")[0]


def _blocks():
    return re.findall(r"```python\n(.*?)```", _quick_start(), re.DOTALL)


def _commands():
    lines = re.findall(r"^    (openclara .*)$", _quick_start(), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_quick_start_as_written(tmp_path):
    # All of the documentation would take minutes on a small machine.
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "training.md", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    commands = _commands()
    assert len(commands) >= 4
    for command in commands:
        _run([sys.executable, "-m", "openclara", *command], tmp_path)
    assert _blocks()
    for block in _blocks():
        printed = _run([sys.executable, "-c", block], tmp_path)
        # Documents of a folder are named from there on: "docs/training.md" or "training.md".
        assert "training.md" in printed or "README.md" in printed


def _run(command, folder):
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ.copy()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
