"""The recipe of all recipes: how many steps fit into a given time."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "recipes" / "reference.py"


@pytest.fixture
def reference(monkeypatch, tmp_path):
    """The script, in a folder of its own, with a training that notes what it is asked for."""
    spec = importlib.util.spec_from_file_location("reference", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    module.asked = []

    def train(stage, root, changes):
        module.asked.append((stage, changes))
        if "output" in changes:
            # The first steps load and compile, the later ones take two seconds each.
            ends = [30.0 + 2 * step for step in range(changes["optim.steps"])]
            lines = [json.dumps({"step": n, "seconds": end}) for n, end in enumerate(ends, 1)]
            (Path(changes["output"]) / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "ask", lambda root: module.asked.append(("questions", {})))
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    return module


def run(reference, monkeypatch, *arguments):
    reference.asked.clear()
    monkeypatch.setattr(sys, "argv", ["reference.py", *arguments])
    reference.main()
    return [
        (stage, changes)
        for stage, changes in reference.asked
        if "output" not in changes and stage != "questions"
    ]


def test_without_a_time_the_recipes_say_how_many(reference, monkeypatch, capsys):
    chain = [(stage, reference.start(stage)) for stage in reference.STAGES]
    assert run(reference, monkeypatch) == chain
    assert dict(chain)["further/read"] == {"init_from": "runs/joint"}
    asked = [stage for stage, _ in reference.asked]
    assert asked.index("questions") + 1 == asked.index("further/read")
    reference.QUESTIONS.parent.mkdir(parents=True)
    reference.QUESTIONS.touch()
    run(reference, monkeypatch)
    assert "questions" not in [stage for stage, _ in reference.asked]
    assert "no GPU here" in capsys.readouterr().err


def test_as_many_steps_as_fit_are_measured_once(reference, monkeypatch):
    done = run(reference, monkeypatch, "--minutes", "100")
    trained = [stage for stage, _ in reference.asked if stage != "questions"]
    assert len(trained) == 2 * len(reference.STAGES)
    for stage, changes in done:
        # Two seconds a step; the trial itself took next to nothing.
        fit = 100 * 60 * reference.STAGES[stage] / 2
        assert changes == {"optim.steps": pytest.approx(fit, abs=2), **reference.start(stage)}
    # Taken up again, it goes on with the same runs.
    assert run(reference, monkeypatch, "--minutes", "100") == done
    trained = [stage for stage, _ in reference.asked if stage != "questions"]
    assert len(trained) == len(reference.STAGES)


def test_a_stage_starts_twice_in_its_time(reference, monkeypatch):
    clock = iter([0.0, 154.0] * len(reference.STAGES))
    monkeypatch.setattr(reference.time, "perf_counter", lambda: next(clock))
    for stage, changes in run(reference, monkeypatch, "--minutes", "600"):
        # A trial of 54 seconds of steps took 154: the run's own start takes 100 as well.
        fit = (600 * 60 * reference.STAGES[stage] - 154 - 100) / 2
        assert changes["optim.steps"] == pytest.approx(fit, abs=2)


def test_no_time_is_still_a_run(reference, monkeypatch):
    for _, changes in run(reference, monkeypatch, "--minutes", "0.01"):
        assert changes["optim.steps"] == reference.TRIED_STEPS
