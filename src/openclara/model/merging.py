"""A role merged into its base as a plain causal LM folder, for serving engines.

The base's files are copied as they are and only the weights that the adapter changes are rewritten,
one shard after the other: nothing of the model has to be built, and no library's idea of a config
gets in between.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openclara.errors import ModelError
from openclara.model.base import MARKER, find_base

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from openclara.model.adapters import Role
    from openclara.model.base import BaseSource
    from openclara.model.checkpoint import Checkpoint

COPIED: Final = ("*.json", "*.jinja", "*.model", "*.txt")
CONFIG: Final = "config.json"


def write_merged(checkpoint: Checkpoint, folder: Path, *, role: Role = "generator") -> None:
    """Write the base with one role merged into it; its vocabulary stays as it is.

    Args:
        checkpoint: Whose role.
        folder: Made if it is not there.
        role: Which role.

    Raises:
        ModelError: The checkpoint has no such role, or the base is missing or stored otherwise.
    """
    if role not in checkpoint.roles:
        raise ModelError(f"this checkpoint has no {role}; it has {', '.join(checkpoint.roles)}")
    source = find_base(checkpoint.card.base)
    state = checkpoint.roles[role]
    scale = checkpoint.card.alpha / checkpoint.card.rank
    _check_names(source, state)
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in COPIED:
        for path in source.folder.glob(pattern):
            if path.name not in (MARKER, CONFIG):
                shutil.copy(path, folder / path.name)
    (folder / CONFIG).write_text(json.dumps(_readable_config(source), indent=2) + "\n")
    for path in sorted(source.folder.glob("*.safetensors")):
        tensors = load_file(path)
        for name in tensors:
            module = name.removesuffix(".weight")
            if f"{module}.lora_A.weight" in state:
                tensors[name] = _merged(tensors[name], state, module, scale)
        save_file(tensors, folder / path.name, metadata={"format": "pt"})


def _merged(weight: Tensor, state: Mapping[str, Tensor], module: str, scale: float) -> Tensor:
    down, up = (state[f"{module}.lora_{side}.weight"].float() for side in ("A", "B"))
    # As at inference: summed in float32 and rounded once.
    return (weight.float() + scale * (up @ down)).to(weight.dtype)


def _check_names(source: BaseSource, state: Mapping[str, Tensor]) -> None:
    stored = set()
    for path in source.folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            stored |= set(file.keys())
    wanted = {n.replace(".lora_A.weight", ".weight") for n in state if ".lora_A." in n}
    if missing := sorted(wanted - stored):
        raise ModelError(
            f"the files of the base {source.name} have no {missing[0]!r}; save it anew with "
            "transformers' save_pretrained and pass that folder as base="
        )


def _readable_config(source: BaseSource) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((source.folder / CONFIG).read_text(encoding="utf-8"))
    # transformers 5 writes the rotary base under a name that 4 ignores, silently taking 10000.
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
    return config
