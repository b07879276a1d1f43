"""`openclara train` on a recipe of a few steps."""

from __future__ import annotations

import json
import os
import signal

import pytest

from openclara.cli import training
from openclara.cli.training import field_names, overrides
from openclara.config import RunConfig

PASSAGES = [
    ("The opera house was designed by Utzon.", "Who designed the opera house?", "Utzon"),
    ("The river Angara leaves Lake Baikal.", "Which river leaves Lake Baikal?", "Angara"),
    ("The first train ran in 1825.", "When did the first train run?", "1825"),
]


@pytest.fixture
def recipe(tmp_path, tiny_base):
    records = [
        {"question": question, "docs": [text], "answer": answer}
        for text, question, answer in PASSAGES
    ]
    (tmp_path / "records.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
output = "{tmp_path / "run"}"
data_root = "{tmp_path}"
n_memory = [2, 4]
[model]
base = "{tiny_base}"
n_memory = 4
default_n_memory = 4
doc_max_length = 64
rank = 2
[stage]
kind = "compress"
[[data]]
path = "records.jsonl"
[optim]
steps = 4
batch_tokens = 256
[runtime]
held_out = 0
log_every = 1
"""
    )
    return path


def test_interrupt_and_continue(cli, recipe, monkeypatch, tmp_path):
    stepped = training._Display.stepped

    def interrupting(self, progress):
        stepped(self, progress)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training._Display, "stepped", interrupting)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped = cli("train", recipe)
    assert stopped.code == 128 + signal.SIGTERM
    assert stopped.out == "saved at step 2; run the same command to continue\n"
    assert "step 2 of 4 · loss " in stopped.err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert not (tmp_path / "run" / "openclara.json").exists()

    monkeypatch.undo()
    finished = cli("train", recipe)
    assert finished.code == 0
    assert finished.out == f"trained 4 steps; the model is in {tmp_path / 'run'}\n"
    assert "step 1 of 4" not in finished.err
    assert "step 3 of 4" in finished.err
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    steps = [json.loads(line)["step"] for line in metrics.splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, 4]

    # Another recipe must not be continued in its place.
    assert "another recipe" in cli("train", recipe, "--optim.lr", "1e-3").sentence()


def test_errors_of_a_recipe(cli, recipe, tmp_path):
    assert "there is no recipe" in cli("train", tmp_path / "none.toml").sentence()
    assert "optim.lr" in cli("train", recipe, "--optim.lr", "-1").sentence()
    (tmp_path / "records.jsonl").unlink()
    assert "records.jsonl" in cli("train", recipe).sentence().replace("\n", "")


def test_overrides_are_values_of_toml_or_strings():
    words = ["--optim.lr=1e-4", "--output", "runs/x", "--data-root", "d", "--n_memory", "[4, 8]"]
    assert overrides([*words, "--runtime.gradient_checkpointing", "true"], RunConfig) == {
        "optim.lr": 1e-4,
        "output": "runs/x",
        "data_root": "d",
        "n_memory": [4, 8],
        "runtime.gradient_checkpointing": True,
    }


def test_every_field_of_a_recipe_is_an_option():
    names = set(field_names(RunConfig))
    assert {"output", "init_from", "data", "n_memory", "model.base", "optim.steps"} <= names
    assert {"stage.k", "stage.alignment", "stage.temperature", "runtime.device"} <= names
    assert not {"model", "stage", "optim", "runtime"} & names
