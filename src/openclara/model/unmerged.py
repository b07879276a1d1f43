"""Roles as unmerged adapters on one base, for inference. No peft here.

A merged copy for each role costs as much memory again as the base's layers; where that is too much,
and where the weights are packed and nothing can be added to them, the two small products of LoRA
are computed beside the base's own, in its arithmetic. Legend: R rank, I inputs, O outputs.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from openclara.model.merged import missing_role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from openclara.model.adapters import Role

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class _Active(threading.local):
    """The role at work, for each thread: the layers are shared."""

    role: Role | None = None


class UnmergedRoles:
    """Roles as low-rank products beside one base, with the interface of `AdapterRoles.use`.

    Args:
        lm: A causal LM in evaluation mode; its adapted layers are wrapped in place.
        states: For each role the LoRA tensors, named `{module}.lora_A.weight` and `..._B.weight`.
        scale: Factor on the delta, `alpha / rank`.
    """

    def __init__(
        self, lm: Any, *, states: Mapping[Role, Mapping[str, Tensor]], scale: float
    ) -> None:
        self.lm = lm
        self.trained: tuple[Role, ...] = tuple(states)
        """Roles there are tensors for."""
        self._active = _Active()
        # Packed weights have no dtype of use; the embedding has that of the arithmetic.
        dtype = lm.get_input_embeddings().weight.dtype
        adapted = {
            name.removesuffix(_DOWN) for own in states.values() for name in own if _DOWN in name
        }
        for name in sorted(adapted):
            deltas = {
                role: (own[name + _DOWN].to(dtype), (own[name + _UP].float() * scale).to(dtype))
                for role, own in states.items()
                if name + _DOWN in own
            }
            parent, _, child = name.rpartition(".")
            layer = RoleLinear(lm.get_submodule(name), deltas, self._active)
            setattr(lm.get_submodule(parent), child, layer)

    @contextmanager
    def use(self, role: Role | None) -> Iterator[Any]:
        """The LM under one role (None: the bare base), for the length of the block.

        Raises:
            ModelError: The checkpoint has no such role.
        """
        if role is not None and role not in self.trained:
            raise missing_role(role, self.trained)
        before = self._active.role
        self._active.role = role
        try:
            yield self.lm
        finally:
            self._active.role = before


class RoleLinear(nn.Module):
    """A linear layer and, beside it, the low-rank product of the role at work.

    Args:
        base: The layer.
        deltas: (R, I) and (O, R) of each role, the latter scaled.
        active: Says which role is at work.
    """

    def __init__(
        self, base: nn.Module, deltas: dict[Role, tuple[Tensor, Tensor]], active: _Active
    ) -> None:
        super().__init__()
        self.base = base
        self._deltas = deltas
        self._active = active

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives, plus the delta of the role."""
        y: Tensor = self.base(x)
        role = self._active.role
        if role is None or role not in self._deltas:
            return y
        down_RI, up_OR = self._deltas[role]
        if down_RI.device != x.device:
            # Where a base is spread over devices a layer's own is known when it is called.
            down_RI, up_OR = down_RI.to(x.device), up_OR.to(x.device)
            self._deltas[role] = down_RI, up_OR
        return y + nn.functional.linear(nn.functional.linear(x, down_RI), up_OR)
