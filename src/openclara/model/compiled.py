"""Layers of a Llama-type decoder for training, as one function that torch compiles.

Between its products a layer under an adapter makes some forty passes over memory: norms, rotations,
softmax, activation, residuals, their gradients, and casts. The compiler writes them as a few loops
and recomputes at backward what is cheap to recompute. `benchmarks/stages.py` prints what it brings.

Legend: B rows, T positions, D width, F width of the MLP, H query heads, K key heads, W head width,
R rank.
"""

from __future__ import annotations

from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from openclara.model.fused import is_plain_llama

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
    own_attention: bool


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


def compile_layers(roles: AdapterRoles) -> bool:
    """Let the layers of a base compute compiled wherever a role is active.

    Without a role, with a mask or with a cache a layer computes as it did before.

    Args:
        roles: Unmerged adapters on a base, whose layers are changed in place.

    Returns:
        Whether the layers are of a kind known here; if not, nothing was changed.
    """
    layers = roles.lm.model.layers
    if not all(is_plain_llama(layer) and _plain_adapters(layer) for layer in layers):
        return False
    for layer in layers:
        layer.forward = partial(_forward, roles, layer, layer.forward)
    return True


def _plain_adapters(layer: nn.Module) -> bool:
    """Adapters without dropout on unquantized weights."""
    for part, name in PROJECTIONS:
        projection: Any = getattr(getattr(layer, part), name)
        if type(projection.get_base_layer()) is not nn.Linear:
            return False
        if not all(isinstance(one, nn.Identity) for one in projection.lora_dropout.values()):
            return False
    return True


def _forward(
    roles: AdapterRoles,
    layer: Any,
    plain: Callable[..., Tensor],
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = False,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **kwargs: Any,
) -> Tensor:
    """(B, T, D) states after the layer; arguments as transformers calls its own."""
    role = roles.active
    if role is None or attention_mask is not None or past_key_values is not None:
        return plain(
            hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
    assert position_embeddings is not None
    projections = [getattr(getattr(layer, part), name) for part, name in PROJECTIONS]
    config = layer.self_attn.config
    weights = Weights(
        (layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
        tuple(one.get_base_layer().weight for one in projections),
        tuple(one.lora_A[role].weight for one in projections),
        tuple(one.lora_B[role].weight for one in projections),
    )
    sizes = Sizes(
        n_heads=config.num_attention_heads,
        n_key_heads=config.num_key_value_heads,
        scale=projections[0].scaling[role],
        epsilon=config.rms_norm_eps,
        attention_scale=layer.self_attn.scaling,
        # On a CPU torch's own kernel is quicker forward, and slower with its backward pass.
        own_attention=hidden_states.device.type == "cpu" and torch.is_grad_enabled(),
    )
    cos_BTW, sin_BTW = position_embeddings
    # Positions count from 0 in every row, and both halves of the tables are equal.
    half = cos_BTW.shape[-1] // 2
    cos_TW, sin_TW = cos_BTW[0, :, :half].contiguous(), sin_BTW[0, :, :half].contiguous()
    bias_TT = causal_bias(len(cos_TW), cos_TW.dtype, cos_TW.device)
    # Rows and positions vary and nothing else does: with every number a variable, as
    # `dynamic=True` has it, loops over heads take three times as long (measured).
    for tensor, axes in ((hidden_states, (0, 1)), (cos_TW, 0), (sin_TW, 0), (bias_TT, (0, 1))):
        torch._dynamo.maybe_mark_dynamic(tensor, axes)
    return _compiled()(sizes, hidden_states, cos_TW, sin_TW, bias_TT, weights)


@lru_cache(maxsize=2)
def causal_bias(n_positions: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(T, T) what is added to scores: 0 up to the own position, a finite floor after it."""
    after = torch.ones(n_positions, n_positions, dtype=torch.bool, device=device).triu_(1)
    floor = torch.finfo(dtype).min / 2
    return torch.zeros_like(after, dtype=dtype).masked_fill_(after, floor)


@cache
def _compiled() -> Callable[..., Tensor]:
    # A graph for each kind of pass: what learns in it, and whether there is one row or many.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(decoder_layer)


def decoder_layer(
    sizes: Sizes,
    x_BTD: Tensor,
    cos_TW: Tensor,
    sin_TW: Tensor,
    bias_TT: Tensor,
    weights: Weights,
) -> Tensor:
    """One layer under one role, causal from the first position on.

    Args:
        x_BTD: (B, T, D) states, padded on the right.
        cos_TW: (T, W / 2) cosines of the rotary positions.
        sin_TW: (T, W / 2) their sines.
        bias_TT: (T, T) 0 where a position may look and a large negative number elsewhere.
        weights: The layer's tensors.
        sizes: What is fixed about it.
    """
    # Types are chosen here, as autocast would choose them.
    with torch.autocast(x_BTD.device.type, enabled=False):
        normed_BTD = _normed(x_BTD, weights.norms[0], sizes.epsilon)
        q, k, v = _adapted(normed_BTD, weights, (0, 1, 2), sizes.scale)
        query = _rotated(_heads(q, sizes.n_heads), cos_TW, sin_TW)
        key = _rotated(_heads(k, sizes.n_key_heads), cos_TW, sin_TW)
        attended_BTD = attended(query, key, _heads(v, sizes.n_key_heads), bias_TT, sizes)
        x_BTD = x_BTD + _adapted(attended_BTD, weights, (3,), sizes.scale)[0]
        normed_BTD = _normed(x_BTD, weights.norms[1], sizes.epsilon)
        gate_BTF, up_BTF = _adapted(normed_BTD, weights, (4, 5), sizes.scale)
        activated_BTF = nn.functional.silu(gate_BTF) * up_BTF
        return x_BTD + _adapted(activated_BTF, weights, (6,), sizes.scale)[0]


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


def _normed(x_BTD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    wide = x_BTD.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight_D * wide.to(x_BTD.dtype)


def _heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, heads, T, W) of (B, T, heads * W)."""
    return x.view(x.shape[0], x.shape[1], n_heads, -1).transpose(1, 2)


def _rotated(x_BHTW: Tensor, cos_TW: Tensor, sin_TW: Tensor) -> Tensor:
    first, second = x_BHTW.chunk(2, dim=-1)
    turned = (first * cos_TW - second * sin_TW, second * cos_TW + first * sin_TW)
    return torch.cat(turned, dim=-1)


def attended(
    query_BHTW: Tensor, key_BKTW: Tensor, value_BKTW: Tensor, bias_TT: Tensor, sizes: Sizes
) -> Tensor:
    """(B, T, H * W) causal attention of (B, H, T, W) queries on (B, K, T, W) keys and values."""
    n_rows, n_heads, n_positions, width = query_BHTW.shape
    if not sizes.own_attention:
        attended_BHTW = nn.functional.scaled_dot_product_attention(
            query_BHTW,
            key_BKTW,
            value_BKTW,
            is_causal=True,
            scale=sizes.attention_scale,
            enable_gqa=True,
        )
        return attended_BHTW.transpose(1, 2).reshape(n_rows, n_positions, -1)
    # Query heads of one group share a product, so keys and values are never repeated.
    n_key_heads = sizes.n_key_heads
    query_BHTW = query_BHTW * sizes.attention_scale
    query_NXW = query_BHTW.reshape(n_rows * n_key_heads, -1, width)
    key_NTW, value_NTW = key_BKTW.flatten(0, 1), value_BKTW.flatten(0, 1)
    scores = torch.bmm(query_NXW, key_NTW.transpose(1, 2))
    scores = scores.view(n_rows, n_heads, n_positions, n_positions) + bias_TT
    shares = torch.softmax(scores.float(), dim=-1).to(value_NTW.dtype)
    attended_NXW = torch.bmm(shares.view(n_rows * n_key_heads, -1, n_positions), value_NTW)
    attended_BHTW = attended_NXW.view(n_rows, n_heads, n_positions, width)
    return attended_BHTW.transpose(1, 2).reshape(n_rows, n_positions, -1)
