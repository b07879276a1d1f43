"""Where a run stands, on the disk: `state.json` and the tensors it names.

Tensors are written whole and by one process, however many hold parts of them, so a run continues
on any number of processes. No random state is among them: it follows from the number of a
micro-batch (`loop`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from openclara.errors import DataError
from openclara.training import zero
from openclara.training.loop import Progress
from openclara.training.processes import laid_out_as, whole

if TYPE_CHECKING:
    from pathlib import Path

    from openclara.training.loop import Trainer

POSITION = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save(folder: Path, trainer: Trainer) -> None:
    """Write a resumable state; a kill in between leaves the earlier one.

    All processes must call this, the first one writes.
    """
    tensors = _tensors(trainer)
    if trainer.processes.first:
        _write(folder, trainer.progress, tensors)
    trainer.processes.wait()


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    if trainer.processes.zero_stage:
        return zero.state(trainer.parameters, step=trainer.progress.step)
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trainer.parameters.items():
        tensors[f"parameter.{name}"] = whole(parameter.detach()).cpu()
        for key, value in trainer.optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = whole(torch.as_tensor(value)).cpu()
    return tensors


def _write(folder: Path, progress: Progress, tensors: dict[str, torch.Tensor]) -> None:
    position = {
        "step": progress.step,
        "micro_step": progress.micro_step,
        "tokens": progress.tokens,
        "state": (name := f"state-{progress.step}.safetensors"),
    }
    # The position names its tensors, so replacing that one small file switches both at once.
    made = folder / f"{name}.part"
    save_file({n: t.contiguous() for n, t in tensors.items()}, made)
    made.replace(folder / name)
    part = folder / f"{POSITION}.part"
    part.write_text(json.dumps(position) + "\n", encoding="utf-8")
    part.replace(folder / POSITION)
    for old in folder.glob("state-*"):
        if old.name != name:
            old.unlink()


def restore(folder: Path, trainer: Trainer) -> None:
    """Continue from the folder's state, if it has one.

    Raises:
        DataError: The state is damaged.
    """
    path = folder / POSITION
    if not path.is_file():
        return
    try:
        position = json.loads(path.read_text(encoding="utf-8"))
        _apply(load_file(folder / position["state"]), trainer)
        progress = Progress(position["step"], position["micro_step"], position["tokens"])
    except Exception as error:  # json, safetensors and torch raise many unrelated types
        raise DataError(
            f"the saved state in {folder} cannot be read ({type(error).__name__}: {error}); delete "
            f"{POSITION} there to start the run again"
        ) from error
    trainer.progress = progress


@torch.no_grad()
def _apply(tensors: dict[str, torch.Tensor], trainer: Trainer) -> None:
    if trainer.processes.zero_stage:
        zero.restore(tensors, trainer.parameters, trainer.optimizer)
        return
    for name, parameter in trainer.parameters.items():
        parameter.copy_(laid_out_as(tensors[f"parameter.{name}"], parameter))
        if f"step.{name}" in tensors:
            state: dict[str, Any] = {"step": tensors[f"step.{name}"].cpu()}
            for key in MOMENTS:
                state[key] = laid_out_as(tensors[f"{key}.{name}"], parameter)
            trainer.optimizer.state[parameter] = state
