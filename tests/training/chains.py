"""Runs of all stages, by as many processes as this program is launched with.

Launched by `test_distributed`: `torchrun --nproc-per-node 2 chains.py PLAN.json`. A plan is a list
of runs, each a recipe as JSON, with `stop_after` steps and environment variables of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def carry_out(run: dict) -> None:
    """Train as one entry of a plan says."""
    from openclara.config import RunConfig
    from openclara.training.run import train

    steps: list[int] = []
    most = run.get("stop_after")
    # Only one of the processes is told: the others must stop with it.
    told = most is not None and os.environ.get("RANK", "0") != "1"
    os.environ.update(run.get("environment", {}))
    try:
        train(
            RunConfig.model_validate(run["recipe"]),
            on_step=lambda progress: steps.append(progress.step),
            stop=lambda: told and len(steps) >= most,
        )
    finally:
        for name in run.get("environment", {}):
            del os.environ[name]


def shard_on_cpu() -> None:
    """Let accelerate shard where ACCELERATE_USE_FSDP says so; by itself it does on GPUs only."""
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.tensor import DTensor

    from openclara.training import run, states

    made, restore = Accelerator.__init__, states.restore

    def shard(self: Accelerator, **arguments: object) -> None:
        made(self, **arguments)
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            self.state.distributed_type = "FSDP"
            self.state.fsdp_plugin = FullyShardedDataParallelPlugin()

    def restored(folder, trainer):
        # Without this a plain run would pass for a sharded one.
        kinds = {isinstance(parameter, DTensor) for parameter in trainer.parameters.values()}
        assert kinds == {os.environ.get("ACCELERATE_USE_FSDP") == "true"}
        restore(folder, trainer)

    Accelerator.__init__ = shard
    run.restore = restored


if __name__ == "__main__":
    shard_on_cpu()
    for entry in json.loads(Path(sys.argv[1]).read_text()):
        carry_out(entry)
