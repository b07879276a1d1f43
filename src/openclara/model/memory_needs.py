"""What a model will need of memory, reckoned before anything of its base is loaded.

Sizes come from the base's config and from the headers of its safetensors files, which say the shape
of every tensor. Legend: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from openclara.errors import ModelError
from openclara.model.base import cure
from openclara.model.quantized import BLOCK_ROWS, linear_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch

    from openclara.model.base import BaseSource
    from openclara.model.checkpoint import Checkpoint

Weights = Literal["fp32", "bf16", "int8", "int4"]
"""How the weights of linear layers lie in memory."""

PRECISIONS: Final[tuple[Weights, ...]] = ("fp32", "bf16", "int8", "int4")

WORKING_POSITIONS: Final = 2048
"""Positions worked on at once: a batch of texts, or a long prompt."""


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Sizes of a base.

    Attributes:
        linears_OI: Shape of each linear layer's weight but the LM head's.
        n_other: Numbers in all other tensors, tied ones counted once.
        width: Hidden size.
        n_mlp: Width of the MLP.
        n_cached: Numbers kept for each position while decoding, all layers together.
        n_heads: Query heads.
        n_vocabulary: Rows of the LM head.
        n_layers: Layers.
    """

    linears_OI: tuple[tuple[int, int], ...]
    n_other: int
    width: int
    n_mlp: int
    n_cached: int
    n_heads: int
    n_vocabulary: int
    n_layers: int

    def weight_bytes(self, weights: Weights, dtype: torch.dtype) -> int:
        """Bytes of the base with its linear layers in `weights` and all else in `dtype`."""
        linears = self.linears_OI
        if weights in ("int8", "int4"):
            bits: Literal[8, 4] = 8 if weights == "int8" else 4
            layers = sum(linear_bytes(o, i, bits=bits, dtype=dtype) for o, i in linears)
        else:
            layers = sum(o * i for o, i in linears) * dtype.itemsize
        return layers + self.n_other * dtype.itemsize

    def working_bytes(self, dtype: torch.dtype, doc_max_length: int) -> int:
        """Bytes of a batch at work, on the safe side of what was seen."""
        states = WORKING_POSITIONS * (8 * self.width + 3 * self.n_mlp) * dtype.itemsize
        scores = WORKING_POSITIONS * doc_max_length * self.n_heads * (dtype.itemsize + 4)
        kept = WORKING_POSITIONS * self.n_cached * dtype.itemsize
        block = BLOCK_ROWS * max(self.width, self.n_mlp) * (dtype.itemsize + 2)
        logits = 8 * 2 * self.n_vocabulary * 4
        return states + scores + kept + block + logits


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Bytes by what they are for.

    Attributes:
        base: Weights of the base.
        roles: Copies of the base's layers, or adapters beside them.
        own: Memory table, token weights and rows of the head.
        working: A batch at work.
    """

    base: int
    roles: int
    own: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.roles + self.own + self.working


def memory_needs(
    shape: BaseShape,
    checkpoint: Checkpoint,
    *,
    weights: Weights,
    dtype: torch.dtype,
    merged: bool,
) -> MemoryNeeds:
    """Bytes that a model needs.

    Args:
        shape: Of its base.
        checkpoint: Adapters, memory table, lengths.
        weights: How linear layers are kept.
        dtype: Arithmetic.
        merged: A copy of the layers for each role, or adapters beside one base.
    """
    adapters = read = 0
    copies = []
    for state in checkpoint.roles.values():
        adapters += sum(tensor.numel() for tensor in state.values())
        read += sum(tensor.nbytes for tensor in state.values())
        copies.append(
            sum(
                state[name.replace(".lora_A.", ".lora_B.")].shape[0] * down.shape[1]
                for name, down in state.items()
                if ".lora_A." in name
            )
        )
    # While a copy is packed for the CPU's matrix unit it is there twice.
    roles = sum(copies) + max(copies, default=0) if merged else adapters
    own = checkpoint.memory.numel() + checkpoint.token_weight.numel() + checkpoint.head.numel()
    return MemoryNeeds(
        base=shape.weight_bytes(weights, dtype),
        roles=roles * dtype.itemsize,
        # Copies are made when a role is first used, from adapters kept as they were read.
        own=own * 4 + (read if merged else 0),
        working=shape.working_bytes(dtype, checkpoint.card.doc_max_length),
    )


def base_shape(source: BaseSource) -> BaseShape:
    """Sizes of a base on disk; no tensor is read.

    Raises:
        ModelError: Its config or its files are damaged.
    """
    try:
        config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        # Bases that see as well keep the sizes of their language model in a part of their own.
        config = config.get("text_config", config)
        shapes: dict[str, list[int]] = {}
        for path in sorted(source.folder.glob("*.safetensors")):
            shapes |= _header(path)
        return _shape(config, shapes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the sizes of the base model in {source.folder} cannot be read "
            f"({type(error).__name__}: {error}); {cure(source)}"
        ) from error


def _shape(config: dict[str, Any], shapes: dict[str, list[int]]) -> BaseShape:
    embedding = next(n for n in shapes if n.endswith("embed_tokens.weight"))
    rows, width = shapes[embedding]
    if config.get("tie_word_embeddings", False):
        shapes = {n: s for n, s in shapes.items() if n != "lm_head.weight"}
    linears = {
        name: (one[0], one[1])
        for name, one in shapes.items()
        if len(one) == 2 and not name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    n_heads = config["num_attention_heads"]
    head_width = config.get("head_dim") or width // n_heads
    n_kept = config.get("num_key_value_heads") or n_heads
    return BaseShape(
        linears_OI=tuple(linears.values()),
        n_other=sum(_product(one) for name, one in shapes.items() if name not in linears),
        width=width,
        n_mlp=config.get("intermediate_size") or 4 * width,
        n_cached=2 * config["num_hidden_layers"] * n_kept * head_width,
        n_heads=n_heads,
        n_vocabulary=rows,
        n_layers=config["num_hidden_layers"],
    )


def _header(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a safetensors file, by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path.name} is cut off")
        header = json.loads(file.read(length))
    return {name: one["shape"] for name, one in header.items() if name != "__metadata__"}


def _product(sizes: Iterable[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
