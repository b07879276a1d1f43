"""Layers of a Llama-type decoder for training, without padding, as one function torch compiles.

Between its products a layer under an adapter makes some forty passes over memory: norms, rotations,
softmax, activation, residuals, their gradients, and casts. The compiler writes them as a few loops
and recomputes at backward what is cheap to recompute. `benchmarks/stages.py` prints what it brings.

Legend: B rows, T positions of a row and its padding, N positions of all rows without padding,
D width, F width of the MLP, H query heads, K key heads, W head width, R rank.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openclara.model.fused import is_plain_llama
from openclara.model.rowwise import rowwise_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from openclara.model.adapters import AdapterRoles

PROJECTIONS = (
    ("self_attn", "q_proj"),
    ("self_attn", "k_proj"),
    ("self_attn", "v_proj"),
    ("self_attn", "o_proj"),
    ("mlp", "gate_proj"),
    ("mlp", "up_proj"),
    ("mlp", "down_proj"),
)


class Weights(NamedTuple):
    """Tensors of one layer under one role.

    Attributes:
        norms: The two norm weights, each (D,).
        bases: The seven frozen projections, in the order of `PROJECTIONS`, each (O, I).
        downs: Their adapters' first halves, each (R, I).
        ups: Their second halves, each (O, R).
    """

    norms: tuple[Tensor, Tensor]
    bases: tuple[Tensor, ...]
    downs: tuple[Tensor, ...]
    ups: tuple[Tensor, ...]


class Sizes(NamedTuple):
    """What is fixed about a layer; the compiler writes these into its code."""

    n_heads: int
    n_key_heads: int
    scale: float
    epsilon: float
    attention_scale: float
    rowwise: bool


@cache
def can_compile(device_type: str) -> bool:
    """Whether torch's compiler works here: on a CPU it needs a C++ compiler and Python's headers.

    Args:
        device_type: `cpu` or `cuda`.
    """
    try:
        torch.compile(_probe)(torch.ones(64, device=device_type))
    except Exception:  # whatever a missing tool raises, of which there are many
        return False
    return True


def _probe(x: Tensor) -> Tensor:
    return x.sin() + x.cos()


def compile_layers(roles: AdapterRoles) -> PackedLayers | None:
    """The layers of a base, to be computed packed and compiled wherever a role is active.

    Args:
        roles: Unmerged adapters on a base; nothing of it is changed.

    Returns:
        None if the layers are of a kind that is not known here.
    """
    if all(is_plain_llama(layer) and _plain_adapters(layer) for layer in roles.lm.model.layers):
        return PackedLayers(roles)
    return None


def _plain_adapters(layer: nn.Module) -> bool:
    """Adapters without dropout on unquantized weights."""
    for projection in _projections(layer):
        if type(projection.get_base_layer()) is not nn.Linear:
            return False
        if not all(isinstance(one, nn.Identity) for one in projection.lora_dropout.values()):
            return False
    return True


class Packing(NamedTuple):
    """Where the positions of rows of different lengths are once padding is left out.

    Attributes:
        at_BT: (B, T) where a position stands among the packed ones; any valid one for padding.
        real_BT: (B, T) false at padding.
        at_N: (N,) where a packed position stands among all B * T.
    """

    at_BT: Tensor
    real_BT: Tensor
    at_N: Tensor

    @classmethod
    def of(cls, lengths_B: Tensor, n_positions: int) -> Packing:
        """The packing of B rows of `n_positions` each, of which the first `lengths_B` count."""
        real_BT = torch.arange(n_positions, device=lengths_B.device) < lengths_B.unsqueeze(1)
        at_N = real_BT.flatten().nonzero().squeeze(1)
        at_BT = (real_BT.flatten().cumsum(0) - 1).clamp(min=0).view(real_BT.shape)
        return cls(at_BT, real_BT, at_N)

    def pack(self, x_BTD: Tensor) -> Tensor:
        """(N, D) of (B, T, D)."""
        return x_BTD.flatten(0, 1).index_select(0, self.at_N)

    def unpack(self, x_ND: Tensor) -> Tensor:
        """(B, T, D) of (N, D), zero at padding."""
        padded_BTD = x_ND.new_zeros(self.real_BT.numel(), x_ND.shape[1])
        return padded_BTD.index_copy(0, self.at_N, x_ND).view(*self.real_BT.shape, -1)


class Tables(NamedTuple):
    """Rotary positions: (N, W / 2) cosines and sines."""

    cos_NW: Tensor
    sin_NW: Tensor


class Earlier(NamedTuple):
    """Positions of rows before those that a layer computes.

    Attributes:
        x_ND: (N, D) their states before the layer, of all rows one after the other.
        tables: Their rotary positions.
        order_N: Where keys of whole rows are, among those of the earlier positions of all rows and
            then the others.
        place_N: The other way about.
        asked_BM: (B, M) false at the padding of what is computed of each row.
    """

    x_ND: Tensor
    tables: Tables
    order_N: Tensor
    place_N: Tensor
    asked_BM: Tensor


class PackedLayers:
    """The layers under adapters, as functions of packed positions.

    Products, norms and activations see no padding, which is a sixth of a batch of documents and
    more; on a GPU attention alone works on padded rows.

    Args:
        roles: Unmerged adapters on a base of plain Llama layers.
    """

    def __init__(self, roles: AdapterRoles) -> None:
        self._roles = roles

    def __call__(
        self,
        embedded_BTD: Tensor,
        lengths_B: Tensor,
        *,
        n_layers: int | None = None,
        positions_BT: Tensor | None = None,
        entering: tuple[int, Tensor] | None = None,
    ) -> Tensor:
        """States after the final norm, or after some layers, under the role that is active.

        Args:
            embedded_BTD: (B, T, D) input embeddings, padded on the right.
            lengths_B: (B,) positions that count, at least 1 each.
            n_layers: How many layers from the first on, without a norm; all, with it, if None.
            positions_BT: (B, T) rotary positions; from 0 by one if None.
            entering: After how many layers some positions begin, which hold zeros before, and
                (B, T) which these are; from the input on all do if None.

        Returns:
            (B, T, D), zero at padding.
        """
        model = self._roles.lm.model
        packing = Packing.of(lengths_B, embedded_BTD.shape[1])
        x_ND = packing.pack(embedded_BTD)
        tables = self._tables(embedded_BTD, packing, positions_BT)
        n_before, slot_N1 = 0, None
        if entering is not None:
            n_before, slot_N1 = entering[0], entering[1].reshape(-1, 1)[packing.at_N]
            entering_ND, x_ND = x_ND, x_ND.masked_fill(slot_N1, 0.0)
        for at, layer in enumerate(model.layers[:n_layers]):
            if slot_N1 is not None and at == n_before:
                x_ND = torch.where(slot_N1, entering_ND, x_ND)
            x_ND = self._through(layer, x_ND, tables, packing)
        return packing.unpack(x_ND if n_layers is not None else model.norm(x_ND))

    @property
    def rowwise(self) -> bool:
        """Whether attention goes row by row, as it does on a CPU."""
        weight: Tensor = self._roles.lm.model.layers[0].input_layernorm.weight
        return weight.device.type == "cpu"

    def text_first(
        self,
        embedded_RTD: Tensor,
        text_lengths_R: Tensor,
        n_memory: int,
        *,
        n_read: int,
        n_layers: int | None = None,
        carrying: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    ) -> Tensor:
        """As a call, for texts whose memory tokens begin as what their own states tell.

        Each text is read once: its memory tokens go through the first layers after it, with the
        keys of its states, which are kept. Attention must be row by row.

        Args:
            embedded_RTD: (R, T, D) input embeddings of the texts, each before its memory tokens.
            text_lengths_R: (R,) positions before the memory tokens.
            n_memory: Memory tokens of each.
            n_read: After how many layers the texts' states are read.
            n_layers: As in a call, at least `n_read`.
            carrying: Given these (R, T', D), without a norm, the (R, T, D) input embeddings with
                those of the memory tokens as they are to be, and (R, T) rotary positions; from 0 by
                one if None.

        Returns:
            (R, T, D), zero at padding.
        """
        model = self._roles.lm.model
        longest, n_positions = int(text_lengths_R.max()), embedded_RTD.shape[1]
        text = Packing.of(text_lengths_R, longest)
        x_ND, tables = text.pack(embedded_RTD[:, :longest]), self._tables(embedded_RTD, text)
        read: list[Tensor] = []
        for layer in model.layers[:n_read]:
            read.append(x_ND)
            x_ND = self._through(layer, x_ND, tables, text)
        embedded_RTD, positions_RT = carrying(text.unpack(x_ND))
        whole = Packing.of(text_lengths_R + n_memory, n_positions)
        whole_tables = self._tables(embedded_RTD, whole, positions_RT)
        memory_N = whole.at_N % n_positions >= text_lengths_R[whole.at_N // n_positions]
        # Of texts, one after the other, and then memory tokens likewise: as they stand in rows.
        order_N = torch.where(
            memory_N, len(x_ND) - 1 + memory_N.cumsum(0), (~memory_N).cumsum(0) - 1
        )
        order = order_N, order_N.argsort()
        asked_RM = memory_N.new_ones(len(text_lengths_R), n_memory)
        memory_MD = whole.pack(embedded_RTD)[memory_N]
        memory_tables = Tables(*(table[memory_N] for table in whole_tables))
        for layer, states_ND in zip(model.layers[:n_read], read, strict=True):
            earlier = Earlier(states_ND, tables, *order, asked_RM)
            memory_MD = self._through(layer, memory_MD, memory_tables, whole, earlier)
        x_ND = _ordered(torch.cat([x_ND, memory_MD]), *order)
        for layer in model.layers[n_read:n_layers]:
            x_ND = self._through(layer, x_ND, whole_tables, whole)
        return whole.unpack(x_ND if n_layers is not None else model.norm(x_ND))

    def _tables(
        self, like_BTD: Tensor, packing: Packing, positions_BT: Tensor | None = None
    ) -> Tables:
        positions_N = packing.at_N % packing.real_BT.shape[1]
        if positions_BT is not None:
            positions_N = positions_BT.flatten()[packing.at_N]
        cos_1NW, sin_1NW = self._roles.lm.model.rotary_emb(like_BTD, positions_N.unsqueeze(0))
        # Both halves of the tables are equal.
        half = cos_1NW.shape[-1] // 2
        return Tables(*(table[0, :, :half].contiguous() for table in (cos_1NW, sin_1NW)))

    def _through(
        self,
        layer: Any,
        x_ND: Tensor,
        tables: Tables,
        packing: Packing,
        earlier: Earlier | None = None,
    ) -> Tensor:
        # Rows and positions vary and nothing else does: with every number a variable, as
        # `dynamic=True` has it, loops over heads take three times as long (measured).
        vary = [x_ND, *tables, packing.at_N]
        vary_twice = [packing.at_BT, packing.real_BT]
        if earlier is not None:
            vary += [earlier.x_ND, *earlier.tables, earlier.order_N, earlier.place_N]
            vary_twice.append(earlier.asked_BM)
        for tensor in vary:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        for tensor in vary_twice:
            torch._dynamo.maybe_mark_dynamic(tensor, (0, 1))
        given = self._sizes(layer), x_ND, tables, packing, self._weights(layer), earlier
        if layer.gradient_checkpointing and layer.training:
            checkpointed: Tensor = checkpoint(_compiled(), *given, use_reentrant=False)
            return checkpointed
        return _compiled()(*given)

    def _weights(self, layer: Any) -> Weights:
        role = self._roles.active
        projections = _projections(layer)
        return Weights(
            (layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
            tuple(one.get_base_layer().weight for one in projections),
            tuple(one.lora_A[role].weight for one in projections),
            tuple(one.lora_B[role].weight for one in projections),
        )

    def _sizes(self, layer: Any) -> Sizes:
        config = layer.self_attn.config
        return Sizes(
            n_heads=config.num_attention_heads,
            n_key_heads=config.num_key_value_heads,
            scale=_projections(layer)[0].scaling[self._roles.active],
            epsilon=config.rms_norm_eps,
            attention_scale=layer.self_attn.scaling,
            rowwise=self.rowwise,
        )


def _projections(layer: Any) -> list[Any]:
    return [getattr(getattr(layer, part), name) for part, name in PROJECTIONS]


@cache
def _compiled() -> Callable[..., Tensor]:
    # A graph for each kind of pass: what learns in it, and whether there is one row or many.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(decoder_layer)


def decoder_layer(
    sizes: Sizes,
    x_ND: Tensor,
    tables: Tables,
    packing: Packing,
    weights: Weights,
    earlier: Earlier | None = None,
) -> Tensor:
    """One layer under one role, causal from the first position of a row on.

    Args:
        sizes: What is fixed about the layer.
        x_ND: (N, D) states of all rows' positions, one after the other; without the earlier ones.
        tables: Rotary positions of these.
        packing: Which row and position each belongs to; the earlier ones with them.
        weights: The layer's tensors.
        earlier: Positions that are looked at and computed no further.
    """
    # Types are chosen here, as autocast would choose them.
    with torch.autocast(x_ND.device.type, enabled=False):
        normed_ND = _normed(x_ND, weights.norms[0], sizes.epsilon)
        q, k, v = _adapted(normed_ND, weights, (0, 1, 2), sizes.scale)
        query = _rotated(q.view(len(q), sizes.n_heads, -1), tables)
        key = _rotated(k.view(len(k), sizes.n_key_heads, -1), tables)
        value = v.view(len(v), sizes.n_key_heads, -1)
        asked_BM = packing.real_BT
        if earlier is not None:
            asked_BM = earlier.asked_BM
            normed_ND = _normed(earlier.x_ND, weights.norms[0], sizes.epsilon)
            k, v = _adapted(normed_ND, weights, (1, 2), sizes.scale)
            earlier_key = _rotated(k.view(len(k), sizes.n_key_heads, -1), earlier.tables)
            earlier_value = v.view(len(v), sizes.n_key_heads, -1)
            order = earlier.order_N, earlier.place_N
            key = _ordered(torch.cat([earlier_key, key]), *order)
            value = _ordered(torch.cat([earlier_value, value]), *order)
        attended_ND = attended(query, key, value, asked_BM, packing, sizes)
        x_ND = x_ND + _adapted(attended_ND, weights, (3,), sizes.scale)[0]
        normed_ND = _normed(x_ND, weights.norms[1], sizes.epsilon)
        gate_NF, up_NF = _adapted(normed_ND, weights, (4, 5), sizes.scale)
        activated_NF = nn.functional.silu(gate_NF) * up_NF
        return x_ND + _adapted(activated_NF, weights, (6,), sizes.scale)[0]


def _unpacked(x_NHW: Tensor, packing: Packing) -> Tensor:
    """(B, H, T, W)."""
    padded_BTHW: Tensor = _Unpacked.apply(x_NHW, *packing)  # type: ignore[no-untyped-call]
    return padded_BTHW.transpose(1, 2)


def _packed(x_BTD: Tensor, packing: Packing) -> Tensor:
    """(N, D)."""
    packed_ND: Tensor = _Packed.apply(x_BTD, *packing)  # type: ignore[no-untyped-call]
    return packed_ND


def _ordered(x_N: Tensor, order_N: Tensor, place_N: Tensor) -> Tensor:
    """(N, ...) rows in another order."""
    ordered_N: Tensor = _Ordered.apply(x_N, order_N, place_N)  # type: ignore[no-untyped-call]
    return ordered_N


class _Ordered(torch.autograd.Function):
    """Rows in another order; its gradient is a choice of rows too, as in `_Unpacked`."""

    @staticmethod
    def forward(ctx: Any, x_N: Tensor, order_N: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        return x_N[order_N]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (place_N,) = ctx.saved_tensors
        return gradients[0][place_N], None, None


class _Unpacked(torch.autograd.Function):
    """(B, T, ...) of (N, ...); padding repeats some real position.

    What padding holds is finite and hidden, so nothing flows back from it, and the gradient is a
    plain choice of rows; torch's own for an index adds rows up one by one.
    """

    @staticmethod
    def forward(ctx: Any, x_N: Tensor, at_BT: Tensor, real_BT: Tensor, at_N: Tensor) -> Tensor:
        ctx.save_for_backward(at_N)
        return x_N[at_BT]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (at_N,) = ctx.saved_tensors
        return gradients[0].flatten(0, 1)[at_N], None, None, None


class _Packed(torch.autograd.Function):
    """(N, ...) of (B, T, ...), without padding; its gradient is zero at padding."""

    @staticmethod
    def forward(ctx: Any, x_BT: Tensor, at_BT: Tensor, real_BT: Tensor, at_N: Tensor) -> Tensor:
        ctx.save_for_backward(at_BT, real_BT)
        return x_BT.flatten(0, 1)[at_N]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        at_BT, real_BT = ctx.saved_tensors
        return gradients[0][at_BT] * real_BT.unsqueeze(-1), None, None, None


def _adapted(x: Tensor, weights: Weights, which: tuple[int, ...], scale: float) -> list[Tensor]:
    """Projections of one input and their adapters, whose float32 masters are rounded."""
    linear, dtype = nn.functional.linear, weights.bases[0].dtype
    x = x.to(dtype)
    bases = [weights.bases[at] for at in which]
    downs = torch.cat([weights.downs[at] for at in which]).to(dtype)
    hidden = (linear(x, downs) * scale).chunk(len(which), dim=-1)
    ups = [linear(h, weights.ups[at].to(dtype)) for h, at in zip(hidden, which, strict=True)]
    # One product for all of them; stacking the weights each time costs less than it saves.
    parts = torch.split(linear(x, torch.cat(bases)), [len(base) for base in bases], dim=-1)
    return [part + up for part, up in zip(parts, ups, strict=True)]


def _normed(x_ND: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    wide = x_ND.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight_D * wide.to(x_ND.dtype)


def _rotated(x_NHW: Tensor, tables: Tables) -> Tensor:
    first, second = x_NHW.chunk(2, dim=-1)
    cos_N1W, sin_N1W = (table.unsqueeze(1) for table in tables)
    turned = (first * cos_N1W - second * sin_N1W, second * cos_N1W + first * sin_N1W)
    return torch.cat(turned, dim=-1)


def attended(
    query_MHW: Tensor,
    key_NKW: Tensor,
    value_NKW: Tensor,
    asked_BM: Tensor,
    packing: Packing,
    sizes: Sizes,
) -> Tensor:
    """(M, H * W) causal attention of packed queries on packed keys and values.

    Args:
        query_MHW: (M, H, W) queries of the last positions of each row.
        key_NKW: (N, K, W) keys of all positions.
        value_NKW: (N, K, W) values.
        asked_BM: (B, M) false at the padding of rows of queries; those of keys where not `rowwise`.
        packing: Which row and position keys belong to.
        sizes: What is fixed about the layer.
    """
    scale = sizes.attention_scale
    if sizes.rowwise:
        return rowwise_attention(query_MHW, key_NKW, value_NKW, asked_BM, packing.real_BT, scale)
    query, key, value = (_unpacked(one, packing) for one in (query_MHW, key_NKW, value_NKW))
    attended_BHTW = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=True
    )
    return _packed(attended_BHTW.transpose(1, 2).flatten(2), packing)
