"""What a run will take, reckoned from its recipe and the headers of its base; nothing is trained.

Estimates, and on the safe side: every micro-batch counts as full, and every pass as one that is
learned from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from openclara.errors import ConfigError
from openclara.model.adapters import ROLES
from openclara.model.base import choose_device, choose_dtype, find_base
from openclara.model.memory_needs import base_shape
from openclara.training.stages import trained_roles

if TYPE_CHECKING:
    from openclara.config import RunConfig
    from openclara.model.memory_needs import BaseShape, Weights


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU, by its maker's data sheet.

    Attributes:
        flops: Dense bf16 operations for each second.
        memory: Bytes.
    """

    flops: float
    memory: float


GPUS: Final = {
    "a10g": Gpu(70e12, 24e9),
    "a100": Gpu(312e12, 80e9),
    "l40s": Gpu(362e12, 48e9),
    "rtx4090": Gpu(165e12, 24e9),
    "h100": Gpu(989e12, 80e9),
    "h200": Gpu(989e12, 141e9),
    "b200": Gpu(2250e12, 180e9),
    "mi300x": Gpu(1307e12, 192e9),
}

UTILISATION: Final = 0.3
"""Part of the peak that is assumed to be reached; short texts and small bases reach less."""

CPU_UTILISATION: Final = 0.5
"""Likewise of the speed of large matrix products, measured for a moment."""

TARGETS: Final = 0.25
"""Part of the positions that are assumed to have a logit computed."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a run takes. Memory is for each GPU, in bytes.

    Attributes:
        device: Kind of GPU, or `cpu`.
        n_processes: GPUs.
        steps: Optimizer steps.
        micro_batches: For one of them, over all processes.
        positions: Of all steps, padding included: an upper bound.
        weights: The base, whole; under FSDP2 or ZeRO-3 each GPU has its part of it only.
        adapters: All roles and the memory table, in float32.
        optimizer: Gradients and moments of what is trained.
        activations: Kept for the backward pass, and logits.
        memory: Of such a GPU; None where it is not known.
        flops: Operations for the whole run.
        flops_per_s: Assumed to be reached, by all GPUs together.
    """

    device: str
    n_processes: int
    steps: int
    micro_batches: int
    positions: int
    weights: int
    adapters: int
    optimizer: int
    activations: int
    memory: float | None
    flops: float
    flops_per_s: float

    @property
    def total(self) -> int:
        """Bytes for each GPU with the whole base."""
        return self.weights + self.adapters + self.optimizer + self.activations

    @property
    def total_sharded(self) -> int:
        """Bytes for each GPU where the base is divided (FSDP2, ZeRO-3)."""
        return self.total - self.weights + self.weights // self.n_processes

    @property
    def hours(self) -> float:
        """Of computing; without reading, validating and waiting for each other."""
        return self.flops / self.flops_per_s / 3600


def plan_training(recipe: RunConfig, *, gpu: str | None = None, n_gpus: int = 1) -> TrainingPlan:
    """Reckon memory and time.

    Args:
        recipe: With its parent's model part, where it has one.
        gpu: One of `GPUS`; None for the CPU here, whose speed is measured for a moment.
        n_gpus: How many.

    Raises:
        ConfigError: There is no such GPU in the table.
        ModelError: The base cannot be found or read.
    """
    if gpu is not None and gpu not in GPUS:
        raise ConfigError(f"there is no GPU {gpu!r} in the table; use one of {', '.join(GPUS)}")
    shape = base_shape(find_base(recipe.model.base))
    runtime, optim = recipe.runtime, recipe.optim
    if gpu is None:
        dtype = choose_dtype(choose_device("cpu"), runtime.precision)
        peak, memory = measured_flops(dtype), None
    else:
        dtype = torch.float32 if runtime.precision == "fp32" else torch.bfloat16
        peak, memory = GPUS[gpu].flops * UTILISATION, GPUS[gpu].memory
    weights: Weights = "bf16" if dtype == torch.bfloat16 else "fp32"
    if runtime.quantization == "int4":
        weights = "int4"
    n_adapter = sum(recipe.model.rank * (o + i) for o, i in shape.linears_OI)
    n_table = (recipe.model.n_memory + 3) * shape.width
    trained = trained_roles(recipe.stage)
    n_trained = n_adapter * len(trained) + (n_table if "compressor" in trained else 0)
    positions = optim.steps * optim.accumulate * n_gpus * optim.batch_tokens
    return TrainingPlan(
        device=gpu or "cpu",
        n_processes=n_gpus,
        steps=optim.steps,
        micro_batches=optim.accumulate * n_gpus,
        positions=positions,
        weights=shape.weight_bytes(weights, dtype),
        adapters=4 * (n_adapter * len(ROLES) + n_table),
        optimizer=12 * n_trained,
        activations=activation_bytes(
            shape, optim.batch_tokens, dtype, checkpointing=runtime.gradient_checkpointing
        ),
        memory=memory,
        flops=positions
        * position_flops(shape, n_adapter, checkpointing=runtime.gradient_checkpointing),
        flops_per_s=peak * n_gpus,
    )


def position_flops(shape: BaseShape, n_adapter: int, *, checkpointing: bool) -> float:
    """Operations for a position, forward and backward.

    The base is frozen: its matrices are multiplied forward and for the gradient of their inputs,
    not for one of their own; the adapter in use is multiplied for all three.
    """
    n_linear = sum(o * i for o, i in shape.linears_OI)
    n_head = TARGETS * shape.n_vocabulary * shape.width
    again = 2 * (n_linear + n_adapter) if checkpointing else 0
    return 4 * (n_linear + n_head) + 6 * n_adapter + again


def activation_bytes(
    shape: BaseShape, n_positions: int, dtype: torch.dtype, *, checkpointing: bool
) -> int:
    """Bytes that a micro-batch keeps for its backward pass, and its logits.

    A layer keeps the inputs of its matrices, what its norms and its attention need, and four
    tensors of the MLP's width; with checkpointing only its own input, and all of that once.
    """
    n_kept = shape.n_cached // shape.n_layers
    layer = (8 * shape.width + 2 * n_kept + 5 * shape.n_mlp) * dtype.itemsize
    layer += 2 * shape.width * 4  # the norms work in float32
    if checkpointing:
        layers = shape.n_layers * shape.width * dtype.itemsize + layer
    else:
        layers = shape.n_layers * layer
    logits = TARGETS * shape.n_vocabulary * (dtype.itemsize + 2 * 4)
    return int(n_positions * (layers + logits))


def measured_flops(dtype: torch.dtype, *, seconds: float = 0.3) -> float:
    """Operations for each second that a run is assumed to reach on this CPU."""
    a, b = (torch.randn(512, 512, dtype=dtype) for _ in range(2))
    a @ b
    n_done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        a @ b
        n_done += 1
    return CPU_UTILISATION * 2 * 512**3 * n_done / (time.perf_counter() - started)
