"""Make the shipped model again: a reader of text, the three stages, `recipes/further`; resumable.

    python recipes/reference.py --data-root data
    python recipes/reference.py --data-root data --minutes 60

On a GPU each stage takes more and larger steps than the recipe says; on a CPU the recipes' own
budget is used. The shipped model had a second compress and instruct stage before `further/read`, as
its card says. With `--minutes` as many steps are taken as fit, as some steps of each stage show.
Afterwards `recipes/publish.py` puts the result into the package.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

STAGES = {
    "baselines/text": 0.07,
    "compress": 0.12,
    "instruct": 0.08,
    "joint": 0.04,
    "further/read": 0.09,
    "further/several": 0.05,
    "further/reasoner": 0.02,
    "further/mixed": 0.05,
    "further/wide": 0.05,
    "further/salient": 0.13,
    "further/longer": 0.15,
    "further/among": 0.15,
}
"""Each stage's part of the time. The generator starts as the reader of text."""

STARTS = {"further/read": "runs/joint"}
"""What a stage starts from here, where its recipe starts from the model that ships."""

QUESTIONS = Path("runs/questions/stage1.train.jsonl.gz")
"""What `recipes/further` reads, made by recipes/questions.py."""

ON_A_GPU = {
    "baselines/text": {"steps": 2000, "batch_tokens": 32768},
    "compress": {"steps": 6000, "batch_tokens": 32768},
    "instruct": {"steps": 2000, "batch_tokens": 32768},
    "joint": {"steps": 1000, "batch_tokens": 32768},
    "further/read": {"steps": 4000, "batch_tokens": 32768},
    "further/several": {"steps": 1000, "batch_tokens": 32768},
    "further/reasoner": {"steps": 500, "batch_tokens": 32768},
    "further/mixed": {"steps": 2000, "batch_tokens": 32768},
    "further/wide": {"steps": 3000, "batch_tokens": 32768},
    "further/salient": {"steps": 5000, "batch_tokens": 32768},
    "further/longer": {"steps": 5000, "batch_tokens": 32768, "accumulate": 1},
    "further/among": {"steps": 5000, "batch_tokens": 32768, "accumulate": 1},
}
"""Budgets for one GPU of 80 GB, estimated from the memory of a step: none was at hand to try."""

TRIED_STEPS = 12
"""The first half may load and compile; the second is timed."""

MEASURED = Path("runs/reference.json")
"""How many steps fitted: a run that is taken up again must have as many."""


def main() -> None:
    """Train stage by stage; a stage that is finished is left as it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--minutes", type=float, help="for all stages together")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and options.minutes is None:
        sys.stderr.write("no GPU here: the budget of the recipes, about six hours on two cores\n")
    for stage, share in STAGES.items():
        if stage == "further/read" and not QUESTIONS.exists():
            ask(options.data_root)
        optim: dict[str, Any] = dict(ON_A_GPU[stage]) if gpu else {}
        if options.minutes is not None:
            optim["steps"] = fitting(stage, options.data_root, optim, 60 * options.minutes * share)
        changes = {f"optim.{name}": value for name, value in optim.items()}
        train(stage, options.data_root, changes | start(stage))


def fitting(stage: str, root: Path, optim: dict[str, Any], seconds: float) -> int:
    """Steps of a stage that take so many seconds, this trial included."""
    known = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    if stage not in known:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tried = {f"optim.{name}": value for name, value in optim.items()}
            tried |= {"optim.steps": TRIED_STEPS, "output": folder, "runtime.log_every": 1}
            train(stage, root, tried | {"runtime.held_out": 0} | start(stage))
            lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ends = [json.loads(line)["seconds"] for line in lines]
        half = len(ends) // 2
        step_s = max(1e-3, (ends[-1] - ends[half - 1]) / (len(ends) - half))
        took = time.perf_counter() - started
        # The run itself starts as the trial did: loads, packs, fits what memory carries.
        left = seconds - took - max(0.0, took - ends[-1])
        known[stage] = max(TRIED_STEPS, int(left / step_s))
        MEASURED.parent.mkdir(parents=True, exist_ok=True)
        MEASURED.write_text(json.dumps(known) + "\n", encoding="utf-8")
        sys.stderr.write(f"{stage}: {step_s:.2f} s a step, {known[stage]} steps\n")
    steps: int = known[stage]
    return steps


def start(stage: str) -> dict[str, Any]:
    """The change of a recipe that lets a stage start from the one before it here."""
    return {"init_from": STARTS[stage]} if stage in STARTS else {}


def ask(root: Path) -> None:
    """Let recipes/questions.py ask; leaves if it fails."""
    script = Path(__file__).with_name("questions.py")
    command = [sys.executable, str(script), "--data-root", str(root)]
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def train(stage: str, root: Path, changes: dict[str, Any]) -> None:
    """One run of `openclara train` with some fields of the recipe changed; leaves if it fails."""
    recipe = Path(__file__).parent / f"{stage}.toml"
    command = [sys.executable, "-m", "openclara", "train", str(recipe), "--data_root", str(root)]
    for name, value in changes.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
