"""Where and how a model is loaded: decided, and refused if it cannot fit, before it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch

from openclara.errors import ModelError
from openclara.model.available_memory import available_memory
from openclara.model.base import choose_device, choose_dtype, load_lm
from openclara.model.memory_needs import (
    PRECISIONS,
    MemoryNeeds,
    Weights,
    base_shape,
    memory_needs,
)
from openclara.model.merged import MergedRoles
from openclara.model.unmerged import UnmergedRoles
from openclara.types import Precision

if TYPE_CHECKING:
    from openclara.model.base import BaseSource
    from openclara.model.checkpoint import Checkpoint
    from openclara.model.memory_needs import BaseShape

DeviceMap = Literal["auto"]

PACKED: Final[tuple[Weights, ...]] = ("int8", "int4")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a base lies, and as what.

    Attributes:
        device: Where to; the first where the base is spread.
        spread: Over all GPUs there are.
        weights: How its linear layers are kept.
        dtype: Arithmetic, and of all other weights.
    """

    device: torch.device
    spread: bool
    weights: Weights
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will be loaded.

    Attributes:
        base: Name of the base.
        place: Where its base lies.
        merged: A copy of the layers for each role, or adapters beside one base.
        needs: Bytes that takes.
        available: Bytes there are; None where that cannot be known.
    """

    base: str
    place: Placement
    merged: bool
    needs: MemoryNeeds
    available: int | None

    @property
    def fits(self) -> bool:
        """Whether it does, or nobody knows."""
        return self.available is None or self.needs.total <= self.available


def plan_loading(
    source: BaseSource,
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    device_map: DeviceMap | None = None,
) -> Plan:
    """Decide how to load a model.

    Roles are merged into copies if those fit, else kept beside one base, as packed weights and
    bases spread over GPUs always have them.

    Args:
        source: The base.
        checkpoint: The trained part.
        device: `auto`, `cpu`, `cuda`, `mps`.
        precision: As in `Clara.load`.
        device_map: `auto` spreads a base over all GPUs.

    Raises:
        ModelError: It does not fit, the device is not there, or cannot do what is asked for.
    """
    place = _placement(device, precision, device_map)
    shape = base_shape(source)
    plans = _plans(source, shape, checkpoint, place)
    for plan in plans:
        if plan.fits:
            return plan
    smaller = []
    for weights in PRECISIONS[PRECISIONS.index(place.weights) + 1 :]:
        if place.device.type != "mps" or weights not in PACKED:
            dtype = choose_dtype(place.device, weights)
            less = replace(place, weights=weights, dtype=dtype)
            smaller += _plans(source, shape, checkpoint, less)
    raise ModelError(_too_large(plans[-1], next((one for one in smaller if one.fits), None)))


def _plans(
    source: BaseSource, shape: BaseShape, checkpoint: Checkpoint, place: Placement
) -> list[Plan]:
    """The ways to keep roles on a base, best first."""
    available = available_memory(place.device, spread=place.spread)
    return [
        Plan(
            source.name,
            place,
            merged,
            memory_needs(
                shape, checkpoint, weights=place.weights, dtype=place.dtype, merged=merged
            ),
            available,
        )
        for merged in ((False,) if place.spread or place.weights in PACKED else (True, False))
    ]


def estimates(source: BaseSource, checkpoint: Checkpoint, *, device: str = "auto") -> list[Plan]:
    """What a model would need at each precision: with merged roles, then without.

    Raises:
        ModelError: The base cannot be read, or the device is not there.
    """
    shape = base_shape(source)
    plans = []
    for precision in PRECISIONS:
        if precision in PACKED and choose_device(device).type == "mps":
            continue
        place = _placement(device, precision, None, check_packages=False)
        plans += _plans(source, shape, checkpoint, place)
    return plans


def load_roles(source: BaseSource, checkpoint: Checkpoint, plan: Plan) -> Any:
    """The base and its roles as planned, ready for inference.

    Raises:
        ModelError: The files are damaged.
    """
    scale = checkpoint.card.alpha / checkpoint.card.rank
    lm = _load(source, plan.place)
    if not plan.merged:
        return UnmergedRoles(lm, states=checkpoint.roles, scale=scale)
    return MergedRoles(lm, states=checkpoint.roles, scale=scale, depths=checkpoint.depths())


def _load(source: BaseSource, place: Placement) -> Any:
    packed = place.weights in PACKED
    if packed and place.device.type == "cpu":
        from openclara.model.quantized_loading import load_quantized

        return load_quantized(source, bits=8 if place.weights == "int8" else 4, dtype=place.dtype)
    return load_lm(
        source,
        device=place.device,
        dtype=place.dtype,
        spread=place.spread,
        quantization=bitsandbytes_config(place.weights, place.dtype) if packed else None,
    )


def bitsandbytes_config(weights: Weights, dtype: torch.dtype) -> Any:
    """What transformers is told for packed weights on CUDA."""
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    if weights == "int8":
        return make(load_in_8bit=True)
    return make(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _placement(
    device: str, precision: str, device_map: str | None, *, check_packages: bool = True
) -> Placement:
    if precision not in get_args(Precision):
        raise ModelError(
            f"there is no precision {precision!r}; use one of {', '.join(get_args(Precision))}"
        )
    if device_map not in (None, "auto"):
        raise ModelError(f"device_map is {device_map!r}; use auto, or leave it out")
    where = choose_device(device)
    if where.type == "mps" and precision in PACKED:
        if device != "auto":
            raise ModelError(
                f"precision {precision} is there on cpu and cuda, not on mps; use device cpu, or "
                "precision bf16"
            )
        where = torch.device("cpu")
    if device_map is not None and where.type != "cuda":
        raise ModelError(
            f"device_map {device_map} spreads a base over GPUs, and the device here is "
            f"{where.type}; leave it out, and use precision int8 or int4 where memory is short"
        )
    if check_packages and where.type == "cuda" and precision in PACKED:
        need_package("bitsandbytes", f"precision {precision} on a GPU", "quantized")
    dtype = choose_dtype(where, precision)
    native: Weights = "bf16" if dtype == torch.bfloat16 else "fp32"
    weights = next((one for one in PRECISIONS if one == precision), native)
    return Placement(where, device_map is not None, weights, dtype)


def need_package(package: str, what: str, extra: str | None) -> None:
    """Make sure that an optional package is there.

    Raises:
        ModelError: It is not.
    """
    if find_spec(package) is None:
        install = f"'openclara[{extra}]'" if extra else package.replace("_", "-")
        raise ModelError(f"{what} needs {package}; run `pip install {install}`")


def _too_large(plan: Plan, smaller: Plan | None) -> str:
    device = plan.place.device.type
    cures = []
    if smaller is not None:
        cures.append(f"use precision {smaller.place.weights} ({gigabytes(smaller.needs.total)})")
    if device == "cuda" and not plan.place.spread:
        cures.append("spread it with device_map auto")
    cures.append("free memory" if smaller else "free memory, or take a model with a smaller base")
    needed, free = gigabytes(plan.needs.total), gigabytes(plan.available or 0)
    return (
        f"the base {plan.base} at {plan.place.weights} needs about {needed} on {device} and {free} "
        f"are free; {', or '.join(cures)}"
    )


def gigabytes(n_bytes: int) -> str:
    """Bytes for a sentence: `7.9 GB`, or MB below one."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
