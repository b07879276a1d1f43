"""Layers of a Llama-type decoder for inference on a CPU: the same sums in fewer passes over memory.

At a thousand positions a layer of a small base spends as long on norms, rotations, activations and
residual sums as on its products, and torch re-orders every weight for the matrix unit at every
call. Here weights are packed once, queries, keys and values share one product, norm weights are
part of the weights behind them, and activation, gate and residual are applied where the product is
written. `benchmarks/compress.py` prints what it brings.

Legend: B rows, T positions, D width, F width of the MLP, H query heads, K key heads, W head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, eager_attention_forward

PACKED_FOR = 1024
"""Positions the packing is chosen for; others run on it as well."""


def fuse(lm: Any) -> None:
    """Replace the layers of a causal LM on a CPU, where they are of a kind known here.

    Weights must be final: they are copied. Anything else about the LM, its cache and its masks
    included, stays as it was.
    """
    layers = lm.model.layers
    if all(is_plain_llama(layer) for layer in layers) and _can_pack(lm.lm_head.weight):
        lm.model.layers = nn.ModuleList(FusedLayer(layer) for layer in layers)
        lm.model.rotary_emb = Rotations(lm.model.rotary_emb)


def is_plain_llama(layer: nn.Module) -> bool:
    """Whether a layer is exactly the kind this module and `compiled` know."""
    # Exactly this class: sub-classes and look-alikes add biases, norms or windows of their own.
    if type(layer) is not LlamaDecoderLayer:
        return False
    plain = all(m.bias is None for m in layer.modules() if isinstance(m, nn.Linear))
    return plain and layer.self_attn.config.hidden_act == "silu"


def _can_pack(weight: Tensor) -> bool:
    """Whether torch's packed products, which it keeps for its own compiler, are there and work."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        probe = torch.ones(16, 16, dtype=weight.dtype)
        packed = PackedLinear(probe)
        return bool(torch.equal(packed.added_to(probe, probe), probe @ probe + probe))
    except (AttributeError, RuntimeError):
        return False


class PackedLinear:
    """A product with a weight laid out for the matrix unit, and what may be written with it.

    Args:
        weight_OI: (O, I) weight, without bias.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), PACKED_FOR)

    def __call__(self, x: Tensor) -> Tensor:
        """`x @ W.T`."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return y

    def silu(self, x: Tensor) -> Tensor:
        """`silu(x @ W.T)`."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "swish", [1.0], "")
        return y

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """`x @ W.T * other`."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, other, self._weight, None, "mul")
        return y

    def added_to(self, x: Tensor, other: Tensor) -> Tensor:
        """`x @ W.T + other`."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, other, self._weight, None, "add")
        return y


class Rotations(nn.Module):
    """Tables of the rotary positions as `FusedLayer` wants them, made once for all layers.

    Args:
        rotary: The LM's own tables, in the halves form of RoPE: both halves are equal.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with the sign of the half they go to, each (B, T, 1, W)."""
        cos_BTW, sin_BTW = self.rotary(x, position_ids=position_ids)
        half = sin_BTW.shape[-1] // 2
        signed_BTW = torch.cat([-sin_BTW[..., :half], sin_BTW[..., half:]], dim=-1)
        return cos_BTW.unsqueeze(2), signed_BTW.unsqueeze(2)


class FusedLayer(nn.Module):
    """What a `LlamaDecoderLayer` computes, for inference.

    Args:
        layer: The layer to take over; its weights are copied.
    """

    def __init__(self, layer: LlamaDecoderLayer) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        config: Any = attention.config
        self.config, self.layer_idx = config, attention.layer_idx
        # Read by the attention functions of transformers, which are handed this layer.
        self.num_key_value_groups, self.is_causal = attention.num_key_value_groups, True
        self.scaling, self.head_width = attention.scaling, attention.head_dim
        self.n_heads: int = config.num_attention_heads
        self.n_rotated: int = config.num_attention_heads + config.num_key_value_heads
        self.epsilon: float = config.rms_norm_eps
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = _packed(layer.input_layernorm.weight, *projections)
        self.out = PackedLinear(attention.o_proj.weight)
        self.gate = _packed(layer.post_attention_layernorm.weight, mlp.gate_proj)
        self.up = _packed(layer.post_attention_layernorm.weight, mlp.up_proj)
        self.down = PackedLinear(mlp.down_proj.weight)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, T, D) states after the layer; arguments as transformers calls its own."""
        assert position_embeddings is not None
        n_rows, n_positions, _ = hidden_states.shape
        qkv = self.qkv(_normed(hidden_states, self.epsilon))
        qkv = qkv.view(n_rows, n_positions, -1, self.head_width)
        rotated = _rotated(qkv[:, :, : self.n_rotated], *position_embeddings).transpose(1, 2)
        query, key = rotated[:, : self.n_heads], rotated[:, self.n_heads :]
        value = qkv[:, :, self.n_rotated :].transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling)
        attended = attended.reshape(n_rows, n_positions, -1)
        states = self.out.added_to(attended, hidden_states)
        normed = _normed(states, self.epsilon)
        return self.down.added_to(self.up.times(normed, self.gate.silu(normed)), states)


def _packed(norm_D: Tensor, *linears: nn.Linear) -> PackedLinear:
    """Several projections of one normed input as one; the norm's weight goes into theirs."""
    weights = [linear.weight.float() * norm_D.float() for linear in linears]
    return PackedLinear(torch.cat(weights).to(norm_D.dtype))


def _normed(x_BTD: Tensor, epsilon: float) -> Tensor:
    """States over their root mean square, which is summed in float32."""
    norm = torch.linalg.vector_norm(x_BTD, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.add(epsilon, norm.square_(), alpha=1 / x_BTD.shape[-1]).rsqrt_()
    return x_BTD * scale.to(x_BTD.dtype)


def _rotated(x_BTHW: Tensor, cos_BT1W: Tensor, sin_BT1W: Tensor) -> Tensor:
    """Rotary positions on queries and keys at once."""
    swapped = x_BTHW.roll(x_BTHW.shape[-1] // 2, dims=-1)
    return (x_BTHW * cos_BT1W).addcmul_(swapped, sin_BT1W)
