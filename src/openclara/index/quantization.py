"""Latents in two, one or half a byte a value, with one scale for each small group of values.

Symmetric rounding: a group's largest magnitude becomes the largest code. Scales are bfloat16, which
has the range of float32; codes are computed with the *rounded* scale, so rounding it costs nothing.
"""

# N rows, M memory tokens, D width, G groups, W values of a group, B bytes

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from openclara.index.layout import GROUP_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from openclara.index.layout import Quantization

LARGEST_CODE = {"int8": 127, "int4": 7}


def quantize(latents_NMD: Tensor, quantization: Quantization) -> dict[str, Tensor]:
    """Turn latents into the tensors that are stored.

    Args:
        latents_NMD: (N, M, D) floats.
        quantization: How to store them.

    Returns:
        `latents` (N, M, D) bfloat16; or `codes` and `scales` (N, M, G) bfloat16, where codes are
        (N, M, D) int8 or (N, M, ceil(D / 2)) uint8 with the even value in the low four bits. The
        last group is smaller where the group does not divide D.
    """
    if quantization == "bf16":
        return {"latents": latents_NMD.to(torch.bfloat16).contiguous()}
    largest = LARGEST_CODE[quantization]
    width = latents_NMD.shape[-1]
    grouped_NMGW = _grouped(latents_NMD.float(), GROUP_SIZE[quantization])
    scales_NMG = (grouped_NMGW.abs().amax(dim=-1) / largest).to(torch.bfloat16)
    divisors_NMG = torch.where(scales_NMG > 0, scales_NMG, 1.0).float()
    codes_NMGW = (grouped_NMGW / divisors_NMG[..., None]).round().clamp(-largest, largest)
    codes_NMD = codes_NMGW.to(torch.int8).flatten(-2)[..., :width].contiguous()
    if quantization == "int4":
        return {"codes": _pack(codes_NMD), "scales": scales_NMG}
    return {"codes": codes_NMD, "scales": scales_NMG}


def dequantize(stored: Mapping[str, Tensor], quantization: Quantization, *, width: int) -> Tensor:
    """The latents that `quantize` stored, as near as the storage allows.

    Args:
        stored: What `quantize` returned, or the same rows and memory tokens of each tensor of it.
        quantization: How they are stored.
        width: D.

    Returns:
        (N, M, D) float32.
    """
    if quantization == "bf16":
        return stored["latents"].float()
    codes_NMD = stored["codes"]
    if quantization == "int4":
        codes_NMD = _unpack(codes_NMD, width)
    grouped_NMGW = _grouped(codes_NMD.float(), GROUP_SIZE[quantization])
    grouped_NMGW *= stored["scales"].float()[..., None]
    return grouped_NMGW.flatten(-2)[..., :width]


def shapes(quantization: Quantization, *, n_memory: int, width: int) -> dict[str, tuple[int, ...]]:
    """The stored tensors of one row and their shapes, without the row dimension."""
    if quantization == "bf16":
        return {"latents": (n_memory, width)}
    groups = -(-width // GROUP_SIZE[quantization])
    codes = width if quantization == "int8" else -(-width // 2)
    return {"codes": (n_memory, codes), "scales": (n_memory, groups)}


def bytes_per_chunk(quantization: Quantization, *, n_memory: int, width: int) -> int:
    """Bytes on disk of one chunk's latents, scales included, file headers not."""
    size = {"latents": 2, "codes": 1, "scales": 2}
    tensors = shapes(quantization, n_memory=n_memory, width=width)
    return sum(size[name] * rows * columns for name, (rows, columns) in tensors.items())


def _grouped(values_NMD: Tensor, group: int) -> Tensor:
    """(N, M, D) as (N, M, G, W); the last group is filled up with zeros."""
    missing = -values_NMD.shape[-1] % group
    padded = pad(values_NMD, (0, missing)) if missing else values_NMD
    return padded.reshape(*padded.shape[:-1], padded.shape[-1] // group, group)


def _pack(codes_NMD: Tensor) -> Tensor:
    even = pad(codes_NMD, (0, codes_NMD.shape[-1] % 2)) + 8
    low, high = even[..., 0::2].to(torch.uint8), even[..., 1::2].to(torch.uint8)
    return low | (high << 4)


def _unpack(packed_NMB: Tensor, width: int) -> Tensor:
    pairs = torch.stack((packed_NMB & 0xF, packed_NMB >> 4), dim=-1)
    return pairs.flatten(-2)[..., :width].to(torch.int8) - 8
