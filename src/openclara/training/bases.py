"""The base that a run trains on: where its weights lie, as what, and which attention it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from openclara.errors import ConfigError
from openclara.model.base import load_lm
from openclara.model.compiled import can_compile, compile_layers
from openclara.model.placement import bitsandbytes_config, need_package

if TYPE_CHECKING:
    from openclara.config import RuntimeConfig
    from openclara.model.adapters import AdapterRoles
    from openclara.model.base import BaseSource
    from openclara.model.clara import ClaraModel
    from openclara.training.processes import Processes


def check_runtime(runtime: RuntimeConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what this machine cannot do, before anything is loaded.

    Args:
        runtime: The recipe's part.
        device: What is computed on.
        dtype: Arithmetic.

    Raises:
        ConfigError: An attention or a quantization that this device does not have.
        ModelError: A package is missing.
    """
    if runtime.quantization != "none":
        if device.type != "cuda":
            raise ConfigError(
                f"runtime.quantization {runtime.quantization} needs a CUDA device and this run is "
                f"on {device.type}; leave it out, or train on a GPU"
            )
        need_package("bitsandbytes", f"runtime.quantization {runtime.quantization}", "quantized")
    if runtime.attention == "flash_attention_2":
        if device.type != "cuda" or dtype == torch.float32:
            raise ConfigError(
                f"runtime.attention flash_attention_2 needs a CUDA device and bf16, and this run "
                f"is on {device.type} in {str(dtype).removeprefix('torch.')}; use sdpa"
            )
        need_package("flash_attn", "runtime.attention flash_attention_2", None)


def load_training_base(
    source: BaseSource,
    runtime: RuntimeConfig,
    processes: Processes,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Any:
    """The causal LM as `runtime` wants it.

    Where processes share the weights, they are read into main memory; each then moves its part to
    its GPU.

    Raises:
        ConfigError: 4-bit weights are to be divided, which they cannot be.
        ModelError: The files are damaged.
    """
    packed = runtime.quantization == "int4"
    if packed and processes.sharded:
        raise ConfigError(
            "runtime.quantization int4 keeps the whole base on each GPU, so it does not go "
            "together with FSDP or ZeRO-3; launch it with recipes/accelerate/ddp.yaml"
        )
    return load_lm(
        source,
        device=torch.device("cpu") if processes.sharded else device,
        dtype=dtype,
        quantization=bitsandbytes_config("int4", dtype) if packed else None,
        attention=_attention(runtime, device),
    )


def _attention(runtime: RuntimeConfig, device: torch.device) -> str | None:
    if runtime.attention != "auto":
        return runtime.attention
    # As `load_lm` chooses, but by where the run computes and not by where weights are read to.
    return None if device.type == "cpu" else "sdpa"


def compile_base(
    model: ClaraModel, runtime: RuntimeConfig, processes: Processes, device: torch.device
) -> None:
    """Let the layers compute packed and compiled, as `runtime.compile` says.

    Raises:
        ConfigError: It is wanted in any case and cannot be.
    """
    if runtime.compile is False:
        return
    if processes.sharded or processes.zero_stage == 3:
        obstacle = "the base is divided among processes"
    elif not can_compile(device.type):
        obstacle = (
            "torch's compiler does not work here (on a CPU it needs g++ and Python's headers)"
        )
    else:
        model.packed = compile_layers(cast("AdapterRoles", model.roles))
        if model.packed is not None:
            return
        obstacle = "only plain Llama layers without dropout or quantization are known to it"
    if runtime.compile is True:
        raise ConfigError(f"runtime.compile cannot be: {obstacle}; set it to auto or false")
