"""A base read straight into 8 or 4 bit: at no time is more than one of its tensors whole.

Loading it whole first would need the memory that packing is there to save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from openclara.errors import ModelError
from openclara.model import attention
from openclara.model.base import cure, first_line, quiet_transformers
from openclara.model.quantized import quantized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from openclara.model.base import BaseSource
    from openclara.model.quantized import Bits


class _EmptyOnMeta(TorchFunctionMode):
    """Parameters, which start as `torch.empty`, without memory; computed buffers stay real."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def load_quantized(source: BaseSource, *, bits: Bits, dtype: torch.dtype) -> Any:
    """The causal LM on the CPU, its linear layers packed, LM head and embedding as they are.

    Args:
        source: The base.
        bits: 8 or 4.
        dtype: Arithmetic, and of all that is not packed.

    Raises:
        ModelError: The files are damaged, or not named as the layers of the LM are.
    """
    try:
        with quiet_transformers(), torch.no_grad():
            lm = _hollow(source, dtype)
            _fill(lm, source, bits, dtype)
    except Exception as error:  # transformers and safetensors raise many unrelated types
        raise ModelError(
            f"the base model in {source.folder} cannot be loaded ({first_line(error)}); "
            f"{cure(source)}"
        ) from error
    hollow = [
        name
        for name, tensor in (*lm.named_parameters(), *lm.named_buffers())
        if tensor.device.type == "meta"
    ]
    if hollow:
        raise ModelError(
            f"the files of the base {source.name} have no {hollow[0]!r}, so they cannot be read "
            "into 8 or 4 bit; use precision bf16 or fp32"
        )
    return lm.requires_grad_(False).eval()


def _hollow(source: BaseSource, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    attention.register()
    config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    make: Any = AutoModelForCausalLM.from_config
    with _EmptyOnMeta():
        return make(config, dtype=dtype, attn_implementation=attention.NAME)


def _fill(lm: Any, source: BaseSource, bits: Bits, dtype: torch.dtype) -> None:
    head = lm.get_output_embeddings()
    linears = {
        f"{name}.weight"
        for name, module in lm.named_modules()
        if type(module) is nn.Linear and module is not head
    }
    biased = {n for n, m in lm.named_modules() if f"{n}.weight" in linears and m.bias is not None}
    biases: dict[str, Tensor] = {}
    known = {**dict(lm.named_parameters()), **dict(lm.named_buffers())}
    for path in sorted(source.folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                if name not in known:
                    continue
                tensor: Tensor = file.get_tensor(name)
                if tensor.shape != known[name].shape:
                    raise ValueError(f"{name} has shape {list(tensor.shape)}")
                owner_name, _, own = name.rpartition(".")
                if name in linears:
                    packed = quantized(tensor, None, bits=bits, dtype=dtype)
                    lm.set_submodule(owner_name, packed)
                elif f"{owner_name}.weight" in linears:
                    biases[owner_name] = tensor.to(dtype)
                else:
                    _set(lm.get_submodule(owner_name), own, tensor.to(dtype, copy=True))
    if lacking := sorted(biased - biases.keys()):
        raise ValueError(f"there is no {lacking[0]}.bias")
    for name, bias_O in biases.items():
        lm.get_submodule(name).bias_O = bias_O
    if lm.config.get_text_config().tie_word_embeddings and head is not None:
        head.weight = lm.get_input_embeddings().weight


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[name] = tensor
