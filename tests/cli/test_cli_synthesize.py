"""`openclara synthesize` on a few passages."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from scripted import Scripted
from towns import document

from openclara.cli import synthesizing
from openclara.synthesis import run


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    lines = [json.dumps(document(number)) for number in range(8)]
    (tmp_path / "towns.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(run, "make_teacher", lambda config: Scripted())
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
output = "{tmp_path / "out"}"
documents = ["{tmp_path / "towns.jsonl"}"]
[candidates]
k = 2
n_candidates = 4
[teacher]
kind = "openai"
model = "any"
price_prompt = 1.0
"""
    )
    return path


def test_it_says_what_it_will_take_and_what_came_out(cli, recipe, tmp_path):
    result = cli("synthesize", recipe, "--candidates.k", 3)
    assert result.code == 0, result
    assert "8 documents, 8 passages, 0 left out" in result.err
    assert "8 passages to do: about " in result.err
    assert "in money" in result.err
    assert str(tmp_path / "out" / "stage1.train.jsonl.gz") in result.out
    assert str(tmp_path / "out" / "report.html") in result.out
    again = cli("synthesize", recipe, "--candidates.k", 3, "--json")
    told = json.loads(again.out)
    assert told["finished"]
    assert told["asked"] == 0
    assert told["records"]["stage1.train.jsonl.gz"] > 8


def test_an_estimate_asks_nothing(cli, recipe, tmp_path):
    result = cli("synthesize", recipe, "--estimate", "--json")
    assert result.code == 0, result
    told = json.loads(result.out)
    assert told["estimate"]["passages"] == 8
    assert told["estimate"]["tasks"] > 8 * 30
    assert not told["finished"]
    assert not (tmp_path / "out" / "report.html").exists()


def test_an_interrupt_saves_and_the_same_command_goes_on(cli, recipe, monkeypatch):
    moved = synthesizing._Display.moved

    def interrupting(self, progress):
        moved(self, progress)
        if progress.asked == 30:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(synthesizing._Display, "moved", interrupting)
    stopped = cli("synthesize", recipe)
    assert stopped.code == 128 + signal.SIGINT
    assert "of 8 passages; run the same command to continue" in stopped.out
    monkeypatch.undo()
    monkeypatch.setattr(run, "make_teacher", lambda config: Scripted())
    assert cli("synthesize", recipe).code == 0


def test_a_spent_budget_is_one_sentence(cli, recipe):
    sentence = cli("synthesize", recipe, "--teacher.budget_tokens", 500, "--json")
    assert sentence.code == 1
    assert sentence.out == ""
    assert sentence.err.splitlines()[-1].startswith("error: the budget is spent (")
    assert "Traceback" not in sentence.err


def test_a_field_of_no_teacher_is_wrong_usage(cli, recipe):
    result = cli("synthesize", recipe, "--teacher.modle", "x")
    assert result.code == 2
    assert "did you mean --teacher.model?" in result.err


def test_the_shipped_recipe_can_be_read():
    from openclara.config import SynthesisConfig, read_recipe

    recipes = Path(__file__).parent.parent.parent / "recipes"
    assert read_recipe(SynthesisConfig, recipes / "synthesize.toml").teacher.kind == "openai"
