"""`metrics.jsonl`: one object a line, with step, losses and rates; validation lines besides."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from openclara.training.loop import Progress
    from openclara.training.processes import Processes

METRICS = "metrics.jsonl"


class Journal:
    """Lines of metrics.jsonl; lines after the step a run resumes from are dropped.

    The first process alone writes. Trackers of the recipe are told the same numbers.
    """

    def __init__(self, path: Path, step: int, processes: Processes) -> None:
        self._path = path
        self._processes = processes
        if processes.first and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, progress: Progress, *, seconds: float) -> None:
        """Write down a step, with the seconds since the sitting began."""
        # Six digits of each: gradients and late learning rates are far below one.
        values = {name: float(f"{value:.6g}") for name, value in progress.metrics.items()}
        self._append(
            {
                "step": progress.step,
                "tokens": progress.tokens,
                **values,
                "tokens_per_s": round(progress.tokens_per_s, 1),
                "seconds": round(seconds, 1),
            }
        )

    def write_validation(self, step: int, n_memory: int, name: str, loss: float | None) -> None:
        """Write down the loss on the held-out part at one rate, if there is such a part."""
        if loss is not None:
            self._append({"step": step, "n_memory": n_memory, f"held_out_{name}": round(loss, 6)})

    def _append(self, line: dict[str, Any]) -> None:
        numbers = {name: value for name, value in line.items() if name != "step"}
        self._processes.accelerator.log(numbers, step=line["step"])
        if not self._processes.first:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _step_of(line: str) -> float:
    try:
        step: float = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut off by a kill: what follows the state is written again anyway
    return step
