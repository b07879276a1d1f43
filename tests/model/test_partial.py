"""Parts of a decoder against the hidden states that transformers lists."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, Gemma2Config, Gemma2Model, LlamaConfig, LlamaModel

from openclara.model.partial import entering, first_layers, keeping

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


@pytest.fixture(params=[(LlamaModel, LlamaConfig), (Gemma2Model, Gemma2Config)])
def inner(request):
    """Layers of one kind, and of two that take turns and are asked which they are."""
    kind, config = request.param
    torch.manual_seed(0)
    model = kind(config(**SHAPE)).eval()
    with torch.no_grad():
        model.norm.weight.add_(torch.rand(16))
    return model


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_first_layers(inner, n_layers):
    x = torch.randn(2, 7, 16)
    states = inner(inputs_embeds=x, output_hidden_states=True).hidden_states
    part = first_layers(inner, n_layers)
    torch.testing.assert_close(part(inputs_embeds=x)[0], states[n_layers])
    assert len(inner.layers) == 4
    assert part.layers[0] is inner.layers[0]
    # Where something else runs as the whole, the part does not.
    inner.forward = lambda **given: None
    again = first_layers(inner, n_layers)(inputs_embeds=x)[0]
    torch.testing.assert_close(again, states[n_layers])


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [1, 3])
def test_what_is_kept(inner, n_layers):
    x = torch.randn(2, 7, 16)
    whole = inner(inputs_embeds=x, output_hidden_states=True)
    cache, cached = DynamicCache(config=inner.config), DynamicCache(config=inner.config)
    inner(inputs_embeds=x, past_key_values=cached, use_cache=True)
    reader, kept = keeping(inner, n_layers)
    out = reader(inputs_embeds=x, past_key_values=cache, use_cache=True)
    torch.testing.assert_close(out[0], whole[0])
    assert len(kept) == 1
    torch.testing.assert_close(kept[0], whole.hidden_states[n_layers])
    for one, other in zip(cache.layers, cached.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys)
    inner(inputs_embeds=x)
    assert len(kept) == 1


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [1, 3])
def test_some_positions_enter_halfway(inner, n_layers):
    x, slot = torch.randn(2, 7, 16), torch.zeros(2, 7, dtype=torch.bool)
    slot[0, 2:4] = slot[1, 5] = True
    zeroed = x.masked_fill(slot.unsqueeze(-1), 0.0)
    before = first_layers(inner, n_layers)(inputs_embeds=zeroed)[0]
    rest = copy.copy(inner)
    rest._modules = {**inner._modules, "layers": inner.layers[n_layers:]}
    expected = rest(inputs_embeds=torch.where(slot.unsqueeze(-1), x, before))[0]
    found = entering(inner, n_layers, x, slot)(inputs_embeds=zeroed)[0]
    torch.testing.assert_close(found, expected)
    inner(inputs_embeds=x)
