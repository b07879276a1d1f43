"""Parameters and AdamW moments under DeepSpeed's ZeRO, in the layout of every other state.

Written to DeepSpeed's documented functions for tensors that it partitions. DeepSpeed needs CUDA, so
no test runs this file; see docs/distributed.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

MOMENTS = ("exp_avg", "exp_avg_sq")

WHOLE_BELOW = 4_000_000
"""Numbers of a parameter up to which ZeRO-3 leaves it whole on each GPU.

Adapters and the memory table are used outside of their modules' forward passes, where ZeRO-3 does
not gather them; the base's matrices, which it is there to divide, are larger.
"""


def state(parameters: Mapping[str, torch.Tensor], *, step: int) -> dict[str, torch.Tensor]:
    """All of it, whole and on the CPU; every process must call this."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter.{name}"] = safe_get_full_fp32_param(parameter).detach().cpu()
        if not step:
            continue
        tensors[f"step.{name}"] = torch.tensor(float(step))
        for key in MOMENTS:
            tensors[f"{key}.{name}"] = safe_get_full_optimizer_state(parameter, key).cpu()
    return tensors


def restore(
    tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], optimizer: Any
) -> None:
    """Write a state into the parts that each process has.

    Raises:
        KeyError: A tensor is missing.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    steps = [tensor for name, tensor in tensors.items() if name.startswith("step.")]
    for name, parameter in parameters.items():
        safe_set_full_fp32_param(parameter, tensors[f"parameter.{name}"])
        for key in MOMENTS if f"step.{name}" in tensors else ():
            safe_set_full_optimizer_state(parameter, tensors[f"{key}.{name}"], key)
    for held in optimizer.state.values():
        # One for each flat part, whatever parameters lie in it.
        if "step" in held and steps:
            held["step"].fill_(float(steps[0]))
