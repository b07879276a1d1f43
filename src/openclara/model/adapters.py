"""Three roles on one causal LM, each a LoRA adapter. The only door to peft.

Two traps of `peft.set_adapter`, measured: it turns `requires_grad` off on every other adapter, so
switching inside one graph gives the first role a zero gradient; and under gradient checkpointing
the recomputation runs with whichever role is active at backward. Here a switch touches neither
gradients nor anything outside its `with` block, and `recompute_context` restores the role that
was active at forward.
"""

from __future__ import annotations

import re
import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor, nn

from openclara.model.lowrank import low_rank_linear

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Role = Literal["compressor", "reasoner", "generator"]
ROLES: Final[tuple[Role, ...]] = ("compressor", "reasoner", "generator")

TARGETS: Final = "all-linear"
"""Every linear layer but the LM head (paper, appendix; `lora_r` 16, alpha twice the rank)."""

LAYER: Final = re.compile(r"layers\.(\d+)\.")
"""Which layer a tensor belongs to, in its name."""


class AdapterRoles:
    """Roles as unmerged adapters on one shared base: what training needs.

    Args:
        lm: A causal LM; its own weights are frozen.
        rank: LoRA rank.
        alpha: LoRA alpha; the delta is scaled by `alpha / rank`.
        dropout: LoRA dropout while training.
        fused: Compute base and delta in one step where they are plain; not where a wrapper must
            see the calls of the layers below, as ZeRO-3 must.
        depths: How many layers a role uses, where not all: it has no adapters on the others.
    """

    def __init__(
        self,
        lm: Any,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        fused: bool = True,
        depths: Mapping[Role, int | None] = MappingProxyType({}),
    ) -> None:
        import peft  # 5-10 s cold: only what trains pays for it
        from peft.tuners.lora import LoraLayer

        lm.requires_grad_(False)
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # peft computes with floats all the same
            lora_dropout=dropout,
            target_modules=TARGETS,
            bias="none",
        )
        with warnings.catch_warnings():
            # Several adapters on one model are the whole point here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            for role in ROLES:
                peft.inject_adapter_in_model(config, lm, adapter_name=role)
        self.lm = lm
        self.active: Role | None = None
        self._depths = depths
        self._layers: dict[str, Any] = {
            name: module for name, module in lm.named_modules() if isinstance(module, LoraLayer)
        }
        for layer in self._layers.values():
            # Else every input is copied to float32 for the masters' sake; autocast rounds the
            # small masters instead.
            layer.cast_input_dtype_enabled = False
            if fused and type(layer.get_base_layer()) is nn.Linear and dropout == 0.0:
                layer.forward = partial(_fused_forward, layer)
        for role in ROLES:
            for parameter in self.named_parameters(role).values():
                # float32 masters under a bf16 base: small updates must not be rounded away.
                parameter.data = parameter.data.float()
                parameter.requires_grad_(False)
        self._activate(None)

    def named_parameters(self, role: Role) -> dict[str, nn.Parameter]:
        """Tensors of one role, named as in a PEFT adapter file without its prefix."""
        return {
            f"{name}.lora_{side}.weight": getattr(layer, f"lora_{side}")[role].weight
            for name, layer in self._layers.items()
            for side in ("A", "B")
        }

    def _activate(self, role: Role | None) -> None:
        for layer in self._layers.values():
            # What `set_adapter` does, without its `requires_grad` side effect.
            layer._active_adapter = [] if role is None else [role]
        self.active = role

    @contextmanager
    def use(self, role: Role | None) -> Iterator[Any]:
        """The LM under one role (None: the bare base), for the length of the block."""
        before = self.active
        self._activate(role)
        try:
            yield self.lm
        finally:
            self._activate(before)

    def train_only(self, roles: Sequence[Role]) -> None:
        """Let the named roles train and freeze the others."""
        for role in ROLES:
            for name, parameter in self.named_parameters(role).items():
                parameter.requires_grad_(role in roles and self._uses(role, name))

    def state(self, role: Role) -> dict[str, Tensor]:
        """Values of those of `named_parameters` that the role uses, outside any graph."""
        return {
            name: tensor.detach()
            for name, tensor in self.named_parameters(role).items()
            if self._uses(role, name)
        }

    @torch.no_grad()
    def load(self, role: Role, state: Mapping[str, Tensor]) -> None:
        """Overwrite one role, as far as it is used.

        Raises:
            KeyError: A tensor of this base is missing in `state`.
        """
        for name, parameter in self.named_parameters(role).items():
            if self._uses(role, name):
                parameter.copy_(state[name])

    def _uses(self, role: Role, name: str) -> bool:
        depth = self._depths.get(role)
        return depth is None or int(LAYER.findall(name)[0]) < depth

    def enable_checkpointing(self) -> None:
        """Trade compute for memory: recompute activations at backward, under the right role."""
        # Renamed on the way to transformers 6.
        new = getattr(self.lm, "activation_checkpointing_enable", None)
        enable = new or self.lm.gradient_checkpointing_enable
        enable({"use_reentrant": False, "context_fn": self.recompute_context})

    def recompute_context(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Contexts for the forward pass and for its recomputation at backward."""
        return nullcontext(), _Late(partial(self.use, self.active))


def _fused_forward(layer: Any, x: Tensor) -> Tensor:
    """What peft's forward computes for at most one active adapter, without its temporaries."""
    base = layer.get_base_layer()
    if not layer.active_adapters:
        return torch.nn.functional.linear(x, base.weight, base.bias)
    (role,) = layer.active_adapters
    down, up = layer.lora_A[role].weight, layer.lora_B[role].weight
    return low_rank_linear(x, base.weight, base.bias, down, up, layer.scaling[role])


class _Late:
    """A context manager that is made anew each time it is entered."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._open: list[Any] = []

    def __enter__(self) -> None:
        context = self._make()
        context.__enter__()
        self._open.append(context)

    def __exit__(self, *error: object) -> None:
        self._open.pop().__exit__(*error)
