"""Several processes that carry out one run: what they share. One process shares with nobody.

The only door to accelerate, together with `states` and `zero`.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch

from openclara.errors import ConfigError
from openclara.model.placement import need_package

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from openclara.config import RunConfig


class Processes:
    """The processes of a run, from the view of one of them.

    Args:
        accelerator: Of accelerate; it knows how the run was launched.

    Attributes:
        count: Processes in all.
        rank: Which of them this is, from 0.
        sharded: Whether each holds a part of every tensor only (FSDP2, ZeRO-3).
        zero_stage: Of DeepSpeed; 0 without it.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.count: int = accelerator.num_processes
        self.rank: int = accelerator.process_index
        plugin = getattr(accelerator.state, "deepspeed_plugin", None)
        self.zero_stage: int = plugin.zero_stage if plugin is not None else 0
        self.sharded: bool = accelerator.distributed_type == "FSDP" or self.zero_stage == 3

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def prepare(self, stage: Any, optimizer: Any) -> tuple[Any, Any]:
        """The stage wrapped and the optimizer on what the wrapper made of its parameters."""
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.transformer_cls_names_to_wrap is None:
            # accelerate asks the outermost module, which is ours.
            plugin.transformer_cls_names_to_wrap = list(stage.model.lm._no_split_modules)
        with warnings.catch_warnings():
            # torch 2.13 renames an option that accelerate passes on.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            stage, optimizer = self.accelerator.prepare(stage, optimizer)
        return stage, optimizer

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes of some numbers that each of them has."""
        if self.count == 1:
            return list(values)
        from accelerate.utils import reduce

        own = torch.tensor(list(values), dtype=torch.float64, device=self.accelerator.device)
        summed: list[float] = reduce(own, reduction="sum").tolist()
        return summed

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of them: all get the same answer."""
        return self.sums([float(flag)])[0] > 0

    def of_last(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values that the last process has; each has the same names."""
        if self.count == 1:
            return dict(values)
        last = self.rank == self.count - 1
        # Not `value * last`: what is not finite elsewhere would spoil the sum.
        summed = self.sums([value if last else 0.0 for value in values.values()])
        return dict(zip(values, summed, strict=True))

    def wait(self) -> None:
        """Go on when all have come here."""
        self.accelerator.wait_for_everyone()


def leave() -> None:
    """Take leave of the other processes, at the end of a program that trained."""
    from accelerate import PartialState

    if PartialState._shared_state:
        PartialState().destroy_process_group()


def join(recipe: RunConfig, device: torch.device, dtype: torch.dtype) -> Processes:
    """Join the processes that were launched together, or be the only one.

    Args:
        recipe: The recipe.
        device: Of which type this process computes on; which one of several, the launcher says.
        dtype: Arithmetic.

    Raises:
        ConfigError: A tracker is not installed, or FSDP is asked for where it cannot be.
        ModelError: DeepSpeed is asked for and not installed.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    for name in recipe.runtime.trackers:
        _need_tracker(name)
    zero = _asked_for("ACCELERATE_USE_DEEPSPEED")
    if zero:
        need_package("deepspeed", "the launcher's configuration", None)
    # accelerate fixes the precision for the whole process; a second run may want another.
    AcceleratorState._reset_state()
    contrasted = getattr(recipe.stage, "contrast", 0.0) > 0.0
    on_cpu = device.type == "cpu"
    handlers: list[Any] = [
        DistributedDataParallelKwargs(
            # All processes have the same buffers, and nothing changes them.
            broadcast_buffers=False,
            # A batch without a question to contrast leaves the reasoner out.
            find_unused_parameters=contrasted,
        )
    ]
    if on_cpu and zero:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    accelerator = Accelerator(
        # Told to stay on the CPU, it leaves DeepSpeed aside; else it knows no backend there.
        cpu=on_cpu and not zero,
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
        log_with=list(recipe.runtime.trackers) or None,
        project_dir=str(recipe.output),
        kwargs_handlers=handlers,
    )
    if _asked_for("ACCELERATE_USE_FSDP") and not accelerator.is_fsdp2:
        raise ConfigError(
            "the launcher asks for FSDP, which here is version 2 on GPUs; use "
            "recipes/accelerate/fsdp2.yaml, or torchrun alone to keep the base whole"
        )
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if plugin is not None:
        from transformers.integrations import deepspeed

        # Said here because DeepSpeed would ask a data loader, and clips by itself.
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
        plugin.deepspeed_config["gradient_clipping"] = recipe.optim.clip
        # Else transformers would divide the base while it reads it, and nothing after it could
        # look at the embeddings.
        deepspeed.unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    return Processes(accelerator)


def _asked_for(variable: str) -> bool:
    """Whether `accelerate launch` set one of its switches."""
    return os.environ.get(variable, "false").lower() == "true"


def _need_tracker(name: str) -> None:
    from accelerate.tracking import get_available_trackers

    if name not in [str(one) for one in get_available_trackers()]:
        raise ConfigError(
            f"runtime.trackers names {name}, which is not installed; run `pip install {name}`, or "
            "leave it out"
        )


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may hold a part, put together; all must call this."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_as(tensor: Tensor, example: Tensor) -> Tensor:
    """A whole tensor in the parts that `example` is held in; all must call this."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(example, DTensor):
        return tensor.to(example.device)
    moved = tensor.to(example.to_local().device)
    return distribute_tensor(moved, example.device_mesh, example.placements)


def start_trackers(processes: Processes, recipe: RunConfig) -> None:
    """Tell the trackers of the recipe which run this is."""
    if recipe.runtime.trackers:
        settings = dict(_flattened(recipe.model_dump(mode="json")))
        processes.accelerator.init_trackers("openclara", config=settings)


def end_trackers(processes: Processes) -> None:
    """Let the trackers write what they hold back."""
    for tracker in processes.accelerator.trackers:
        tracker.finish()


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> Any:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, int | float | str) else str(value)
