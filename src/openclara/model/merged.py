"""Roles merged into copies of the base: what inference needs. No peft here.

Unmerged LoRA adds two small products to each linear layer, which slows decoding and compression;
a merged copy costs memory instead. Copies are made when a role is first used and share every
tensor that LoRA leaves alone, the vocabulary matrix above all.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from openclara.errors import ModelError
from openclara.model.fused import fuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from openclara.model.adapters import Role


class MergedRoles:
    """Roles as merged copies, with the interface of `AdapterRoles.use`.

    Args:
        lm: A causal LM without adapters, in evaluation mode.
        states: For each role the LoRA tensors, named `{module}.lora_A.weight` and `..._B.weight`.
        scale: Factor on the delta, `alpha / rank`.
        depths: How many layers a role uses, where not all: its copy has no others.
    """

    def __init__(
        self,
        lm: Any,
        *,
        states: Mapping[Role, Mapping[str, Tensor]],
        scale: float,
        depths: Mapping[Role, int | None] = MappingProxyType({}),
    ) -> None:
        self.lm = lm
        self._states = states
        self._scale = scale
        self._depths = depths
        self._copies: dict[Role | None, Any] = {}
        # Nothing here trains, so what a role made of the start of a prompt stays valid.
        self.starts: dict[tuple[Role | None, tuple[int, ...]], list[tuple[Tensor, Tensor]]] = {}

    @property
    def trained(self) -> tuple[Role, ...]:
        """Roles there are tensors for."""
        return tuple(self._states)

    @contextmanager
    def use(self, role: Role | None) -> Iterator[Any]:
        """The LM of one role (None: the bare base).

        Raises:
            ModelError: The checkpoint has no such role.
        """
        if role is not None and role not in self._states:
            raise missing_role(role, self.trained)
        if role not in self._copies:
            shared = {id(tensor): tensor for tensor in self.lm.parameters()}
            merged = copy.deepcopy(self.lm, shared)
            if role is not None and (depth := self._depths.get(role)) is not None:
                merged.model.layers = merged.model.layers[:depth]
            self._add_delta(merged, self._states[role] if role else {})
            fuse(merged)
            self._copies[role] = merged
        yield self._copies[role]

    @torch.no_grad()
    def _add_delta(self, lm: Any, state: Mapping[str, Tensor]) -> None:
        for name in state:
            if not name.endswith(".lora_A.weight"):
                continue
            module = lm.get_submodule(name.removesuffix(".lora_A.weight"))
            down = state[name].float()
            up = state[name.replace(".lora_A.", ".lora_B.")].float()
            # Summed in float32 and rounded once; on the device of the base.
            delta = (up @ down).to(module.weight.device) * self._scale
            merged = (module.weight.float() + delta).to(module.weight.dtype)
            module.weight = nn.Parameter(merged, requires_grad=False)


def missing_role(role: Role, trained: Sequence[Role]) -> ModelError:
    """What to say to somebody who asks for a role that was not trained."""
    return ModelError(
        f"this checkpoint has no {role}, it has {' and '.join(trained) or 'no role'}; "
        "load one that has"
    )
