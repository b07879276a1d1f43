"""Linear layers with weights in 8 or 4 bit, for bases that would not fit a small machine.

Memory is what counts: a product of many positions turns weights back into numbers a block of rows
at a time and multiplies those. For few positions in bf16, which is decoding, torch has products
that read the packed weights as they are; for many they are slower than the blocks, and in float32
they are slower at any number (`benchmarks/quantized.py` prints all of them).

Legend: T positions, I inputs, O outputs, G groups of inputs.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

Bits = Literal[8, 4]

BLOCK_ROWS: Final = 256
"""Rows of a weight that are numbers at a time."""

FEW_POSITIONS: Final[dict[Bits, int]] = {8: 12, 4: 96}
"""Up to so many positions torch's packed products are the faster ones."""

GROUP: Final = 64
"""Inputs that share a scale in 4 bit."""

SMALLEST_STEP: Final = 1e-30
"""Of weights that are all zero."""

LANES: Final = 64
"""Rows that torch's 4-bit layout interleaves; outputs are padded to a multiple."""


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is packed; abstract.

    Args:
        weight_OI: (O, I) weight, copied.
        bias_O: (O,) bias or None.
        dtype: Arithmetic, float32 or bfloat16; that of the inputs.
    """

    bits: Bits
    bias_O: Tensor | None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.dtype = dtype
        self.register_buffer("bias_O", None if bias_O is None else bias_O.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """`x @ W.T + bias`, of whatever leading shape."""
        x_TI = x.reshape(-1, self.in_features)
        few = x_TI.shape[0] <= FEW_POSITIONS[self.bits] and x.device.type == "cpu"
        if few and self.dtype == torch.bfloat16 and self._whole() and _torch_can(self.bits):
            y_TO = self.packed_product(x_TI.contiguous())
        else:
            y_TO = self.block_product(x_TI)
        if self.bias_O is not None:
            y_TO = y_TO + self.bias_O
        return y_TO.view(*x.shape[:-1], self.out_features)

    def block_product(self, x_TI: Tensor) -> Tensor:
        """(T, O) product, a block of rows at a time."""
        y_TO = x_TI.new_empty(x_TI.shape[0], self.out_features)
        for first, rows_OI in self.rows():
            last = min(first + rows_OI.shape[0], self.out_features)
            torch.mm(x_TI, rows_OI[: last - first].t(), out=y_TO[:, first:last])
        return y_TO

    def packed_product(self, x_TI: Tensor) -> Tensor:
        """(T, O) product by torch's own kernel, bf16 on a CPU."""
        raise NotImplementedError

    def rows(self) -> Iterator[tuple[int, Tensor]]:
        """Number of the first row and (rows, I) weights, of each block."""
        raise NotImplementedError

    def _whole(self) -> bool:
        raise NotImplementedError


class Linear8(QuantizedLinear):
    """Eight bits a weight and one scale a row."""

    bits: Bits = 8
    weight_OI: Tensor
    scale_O: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight_OI, bias_O, dtype)
        weight_OI = weight_OI.float()
        # Rounded to the arithmetic before the weights are: the step they are read with.
        scale_O = _rounded_up(weight_OI.abs().amax(1) / 127, dtype)
        packed_OI = weight_OI / scale_O.float().unsqueeze(1)
        self.register_buffer("weight_OI", packed_OI.round_().to(torch.int8))
        self.register_buffer("scale_O", scale_O)

    def rows(self) -> Iterator[tuple[int, Tensor]]:
        """As in `QuantizedLinear`."""
        for first in range(0, self.out_features, BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            yield first, self.weight_OI[block].to(self.dtype) * self.scale_O[block, None]

    def block_product(self, x_TI: Tensor) -> Tensor:
        """As in `QuantizedLinear`; scales go on the outputs, which are fewer than the weights."""
        y_TO = x_TI.new_empty(x_TI.shape[0], self.out_features)
        for first in range(0, self.out_features, BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            torch.mm(x_TI, self.weight_OI[block].to(x_TI.dtype).t(), out=y_TO[:, block])
        return y_TO.mul_(self.scale_O)

    def packed_product(self, x_TI: Tensor) -> Tensor:
        """As in `QuantizedLinear`."""
        y_TO: Tensor = torch.ops.aten._weight_int8pack_mm(x_TI, self.weight_OI, self.scale_O)
        return y_TO

    def _whole(self) -> bool:
        return self.in_features % 32 == 0 and self.out_features % 32 == 0


class Linear4(QuantizedLinear):
    """Four bits a weight, a scale and a zero for each row and each group of inputs.

    Weights lie as torch's kernel wants them: `LANES` rows together, and for each input a byte for
    rows r and r + 32. A weight is `(nibble - 8) * scale + zero`.
    """

    bits: Bits = 4
    packed_BIL: Tensor
    scale_zero_GO2: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight_OI, bias_O, dtype)
        n_padded = -self.out_features % LANES
        weight_OI = nn.functional.pad(weight_OI.float(), (0, 0, 0, n_padded))
        n_outputs, n_inputs = weight_OI.shape
        self.group = group_size(n_inputs)
        grouped = weight_OI.view(n_outputs, -1, self.group)
        low, high = grouped.amin(-1), grouped.amax(-1)
        # bf16 in float32 arithmetic too: half a bit a weight, and torch's kernel has no other.
        # Not finer than the zero is kept: groups of equal weights have no step of their own.
        finest = torch.maximum(low.abs(), high.abs()) * torch.finfo(torch.bfloat16).eps
        scale_OG = _rounded_up(torch.maximum((high - low) / 15, finest), torch.bfloat16)
        step_OG = scale_OG.float()
        zero_OG = ((high + low + step_OG) / 2).to(torch.bfloat16)
        nibbles = (grouped - zero_OG.float().unsqueeze(-1)) / step_OG.unsqueeze(-1)
        nibbles = nibbles.add_(8).round_().clamp_(0, 15).to(torch.uint8)
        lanes_BIR = nibbles.view(-1, LANES, n_inputs).transpose(1, 2)
        half = LANES // 2
        packed_BIL = lanes_BIR[..., :half] | lanes_BIR[..., half:] << 4
        self.register_buffer("packed_BIL", packed_BIL.contiguous())
        scale_zero_GO2 = torch.stack([scale_OG.t(), zero_OG.t()], dim=-1)
        self.register_buffer("scale_zero_GO2", scale_zero_GO2.contiguous())

    def rows(self) -> Iterator[tuple[int, Tensor]]:
        """As in `QuantizedLinear`, with zeros where rows were padded."""
        step, half = BLOCK_ROWS // LANES, LANES // 2
        for first in range(0, self.packed_BIL.shape[0], step):
            # Nibbles less 8 as signed numbers: shifts of signed bytes keep the sign.
            packed_BIL = (self.packed_BIL[first : first + step] ^ 0x88).view(torch.int8)
            n_blocks = packed_BIL.shape[0]
            rows_BIR = packed_BIL.new_empty(n_blocks, self.in_features, LANES, dtype=self.dtype)
            rows_BIR[..., :half] = (packed_BIL << 4) >> 4
            rows_BIR[..., half:] = packed_BIL >> 4
            outputs = slice(first * LANES, (first + n_blocks) * LANES)
            scale_zero = self.scale_zero_GO2[:, outputs].to(self.dtype)
            scale_zero = scale_zero.view(-1, n_blocks, LANES, 2).transpose(0, 1).unsqueeze(2)
            grouped = rows_BIR.view(n_blocks, -1, self.group, LANES)
            torch.addcmul(scale_zero[..., 1], grouped, scale_zero[..., 0], out=grouped)
            yield first * LANES, rows_BIR.transpose(1, 2).reshape(-1, self.in_features)

    def packed_product(self, x_TI: Tensor) -> Tensor:
        """As in `QuantizedLinear`."""
        packed = self.packed_BIL.view(-1, self.in_features // 2)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        y_TO: Tensor = product(x_TI, packed, self.group, self.scale_zero_GO2)
        return y_TO[:, : self.out_features]

    def _whole(self) -> bool:
        return self.group >= 32 and self.in_features % 64 == 0


def group_size(n_inputs: int) -> int:
    """Inputs that share a scale in 4 bit: `GROUP`, or what of it divides the inputs."""
    group = GROUP
    while n_inputs % group:
        group //= 2
    return group


def quantized(
    weight_OI: Tensor, bias_O: Tensor | None, *, bits: Bits, dtype: torch.dtype
) -> QuantizedLinear:
    """A linear layer with its weight in `bits` bits, for inputs in `dtype`."""
    kind = Linear8 if bits == 8 else Linear4
    return kind(weight_OI, bias_O, dtype)


def linear_bytes(n_outputs: int, n_inputs: int, *, bits: Bits, dtype: torch.dtype) -> int:
    """Bytes of a quantised weight with its scales, without bias."""
    if bits == 8:
        return n_outputs * (n_inputs + dtype.itemsize)
    padded = n_outputs + -n_outputs % LANES
    return padded * (n_inputs // 2 + 4 * (n_inputs // group_size(n_inputs)))


def _rounded_up(steps: Tensor, dtype: torch.dtype) -> Tensor:
    """To a dtype, never below the value, so that nothing has to be clipped; and never zero."""
    return (steps * (1 + torch.finfo(dtype).eps)).clamp(min=SMALLEST_STEP).to(dtype)


@cache
def _torch_can(bits: Bits) -> bool:
    """Whether torch's product for packed weights is there and reads our layout."""
    weight_OI = torch.linspace(-1, 1, 64 * 64).view(64, 64).sin()
    layer = quantized(weight_OI, None, bits=bits, dtype=torch.bfloat16)
    x_TI = torch.eye(64, dtype=torch.bfloat16)[:4]
    try:
        difference = layer.packed_product(x_TI) - layer.block_product(x_TI)
    except (AttributeError, RuntimeError):
        return False
    return bool(difference.abs().max() < 0.02)
