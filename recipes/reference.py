"""Make the shipped model again: a reader of text, then the three stages, resumable.

    python recipes/reference.py --data-root data

On a GPU each stage takes more and larger steps than the recipe says; on a CPU the recipes' own
budget is used, which is what the shipped model was made with. Afterwards `recipes/publish.py` puts
the result into the package.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

STAGES = ("baselines/text", "compress", "instruct", "joint")
"""The reader is also what the evaluation compares with; the generator starts as it."""

ON_A_GPU = {
    "baselines/text": {"steps": 2000, "batch_tokens": 32768},
    "compress": {"steps": 6000, "batch_tokens": 32768},
    "instruct": {"steps": 2000, "batch_tokens": 32768},
    "joint": {"steps": 1000, "batch_tokens": 32768},
}
"""Budgets for one GPU of 80 GB, estimated from the memory of a step: none was at hand to try."""


def main() -> None:
    """Train stage by stage; a stage that is finished is left as it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu:
        sys.stderr.write("no GPU here: the budget of the recipes, about two hours on two cores\n")
    for stage in STAGES:
        changes = ON_A_GPU[stage] if gpu else {}
        more = [part for name, value in changes.items() for part in (f"--optim.{name}", str(value))]
        recipe = Path(__file__).parent / f"{stage}.toml"
        train = [sys.executable, "-m", "openclara", "train", str(recipe)]
        done = subprocess.run([*train, "--data_root", str(options.data_root), *more], check=False)
        if done.returncode != 0:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
