"""Parameters and AdamW moments under DeepSpeed's ZeRO, in the layout of every other state.

Written to DeepSpeed's documented functions for tensors that it partitions.
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
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    steps = [tensor for name, tensor in tensors.items() if name.startswith("step.")]
    if steps:
        _make_moments(optimizer, float(steps[0]))
    for name, parameter in parameters.items():
        value = tensors[f"parameter.{name}"]
        safe_set_full_fp32_param(parameter, value)
        # That is what the optimizer keeps; the next forward pass comes before its next step.
        divided = hasattr(parameter, "ds_id")
        gathered = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=divided)
        with torch.no_grad(), gathered:
            parameter.copy_(value)
        for key in MOMENTS if steps else ():
            safe_set_full_optimizer_state(parameter, tensors[f"{key}.{name}"], key)


def _make_moments(optimizer: Any, step: float) -> None:
    """What AdamW makes in its first step, before there was one: there is nowhere else to write."""
    zero = optimizer.optimizer
    # Parts of many parameters, one after the other, by the names they have in stages 3 and 2.
    flat_parts = getattr(zero, "fp32_partitioned_groups_flat", None)
    for flat in zero.single_partition_of_fp32_groups if flat_parts is None else flat_parts:
        moments = {key: torch.zeros_like(flat) for key in MOMENTS}
        zero.optimizer.state[flat] = {"step": torch.tensor(step), **moments}
    # Stage 2 looks for the parameters' parts of it in its own first step.
    link = getattr(zero, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()
