"""Fused layers against transformers' own, which share no code with them."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import plain_lm, random_roles, tiny_clara_model
from transformers import DynamicCache

from openclara.model.fused import FusedLayer, PackedLinear, _can_pack, fuse

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here"
)


@pytest.fixture(scope="module")
def pair(tiny_base):
    """The base as transformers runs it, and its fused copy, both with norm weights that count."""
    plain = plain_lm(tiny_base)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in plain.named_parameters():
        if "norm" in name:
            parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator)
    fused = copy.deepcopy(plain)
    fuse(fused)
    assert all(isinstance(layer, FusedLayer) for layer in fused.model.layers)
    return plain, fused


def embedded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 32, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def test_states_are_those_of_transformers(pair):
    plain, fused = pair
    x = embedded(3, 21)
    expected = plain.model(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(fused.model(inputs_embeds=x).last_hidden_state, expected)


@torch.no_grad()
def test_a_mask_and_positions_are_heeded(pair):
    plain, fused = pair
    x = embedded(2, 9)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    states = [
        lm.model(inputs_embeds=x, attention_mask=mask, position_ids=positions).last_hidden_state
        for lm in (plain, fused)
    ]
    torch.testing.assert_close(states[1][mask.bool()], states[0][mask.bool()])


@torch.no_grad()
def test_a_cache_continues_where_it_was(pair):
    _, fused = pair
    x = embedded(1, 12)
    whole = fused.model(inputs_embeds=x).last_hidden_state
    cache = DynamicCache(config=fused.config)
    parts = [
        fused.model(inputs_embeds=part, past_key_values=cache, use_cache=True).last_hidden_state
        for part in (x[:, :7], x[:, 7:8], x[:, 8:9])
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole[:, :9])


@torch.no_grad()
def test_merged_roles_are_fused_and_equal_the_base_with_deltas_added(tiny_base):
    model = tiny_clara_model(tiny_base)
    plain = plain_lm(tiny_base, random_roles(plain_lm(tiny_base))["generator"])
    x = embedded(2, 10)
    with model.roles.use("generator") as lm:
        assert isinstance(lm.model.layers[0], FusedLayer)
        states = lm.model(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(states, plain.model(inputs_embeds=x).last_hidden_state)
    # The base itself, which other roles are still to be made from, is left alone.
    assert not isinstance(model.lm.model.layers[0], FusedLayer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_products(dtype):
    generator = torch.Generator().manual_seed(5)
    x, other = (torch.randn(7, n, generator=generator).to(dtype) for n in (24, 40))
    weight = torch.randn(40, 24, generator=generator).to(dtype)
    if not _can_pack(weight):
        pytest.skip(f"torch packs no {dtype} for this processor")
    packed, exact = PackedLinear(weight), x.double() @ weight.double().t()
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.02}
    for found, expected in (
        (packed(x), exact),
        (packed.silu(x), torch.nn.functional.silu(exact)),
        (packed.times(x, other), exact * other.double()),
        (packed.added_to(x, other), exact + other.double()),
    ):
        torch.testing.assert_close(found.double(), expected, **near)


def test_a_layer_of_another_kind_is_left_as_it_is(tiny_base):
    lm = plain_lm(tiny_base)

    class Other(type(lm.model.layers[0])):
        pass

    lm.model.layers[1].__class__ = Other
    before = list(lm.model.layers)
    fuse(lm)
    assert list(lm.model.layers) == before
