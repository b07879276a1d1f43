"""Compiled layers against transformers' and peft's own, which share no code with them."""

from __future__ import annotations

import pytest
import torch
from tiny import plain_lm, random_roles, tiny_clara_model

from openclara.model import compiled
from openclara.model.compiled import Sizes, can_compile, compile_layers

pytestmark = pytest.mark.skipif(not can_compile("cpu"), reason="torch's compiler needs g++ here")


@pytest.fixture(scope="module")
def pair(tiny_base):
    """Unmerged roles on two copies of the base, one compiled; norm weights that count."""
    models = [tiny_clara_model(tiny_base, merged=False) for _ in range(2)]
    for model in models:
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.lm.named_parameters():
            if "norm" in name:
                parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator)
    assert compile_layers(models[1].roles)
    return [model.roles for model in models]


def embedded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 32, generator=torch.Generator().manual_seed(4))


def states_and_gradients(roles, role, x):
    """Last states, and the gradients of the input and of what trains."""
    roles.train_only([role])
    x = x.clone().requires_grad_()
    with roles.use(role) as lm:
        states = lm.model(inputs_embeds=x, use_cache=False).last_hidden_state
    (states.sin() * torch.linspace(0, 1, 32)).sum().backward()
    trained = roles.named_parameters(role)
    gradients = {name: parameter.grad for name, parameter in trained.items()}
    for parameter in trained.values():
        parameter.grad = None
    roles.train_only([])
    return states.detach(), x.grad, gradients


@pytest.mark.parametrize(("role", "shape"), [("compressor", (3, 21)), ("generator", (2, 70))])
def test_states_and_gradients_are_those_of_the_plain_layers(pair, role, shape):
    expected, found = (states_and_gradients(roles, role, embedded(*shape)) for roles in pair)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected[2].values())
    torch.testing.assert_close(found[2], expected[2], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_without_a_role_or_with_a_mask_layers_compute_as_before(pair):
    x, mask = embedded(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    for role, given in ((None, None), ("reasoner", mask)):
        states = []
        for roles in pair:
            with roles.use(role) as lm:
                out = lm.model(inputs_embeds=x, attention_mask=given, use_cache=False)
            states.append(out.last_hidden_state[-1])
        assert torch.equal(states[0], states[1])


@torch.no_grad()
def test_a_frozen_role_computes_the_weights_with_its_delta_added(tiny_base, pair):
    roles = tiny_clara_model(tiny_base, merged=False).roles
    assert compile_layers(roles)
    plain = plain_lm(tiny_base, random_roles(plain_lm(tiny_base))["generator"])
    x = embedded(2, 10)
    with roles.use("generator") as lm:
        states = lm.model(inputs_embeds=x, use_cache=False).last_hidden_state
    expected = plain.model(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


def test_torchs_own_attention_gives_the_same_as_products():
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(2, 6, 11, 8, generator=generator)
    key, value = (torch.randn(2, 3, 11, 8, generator=generator) for _ in range(2))
    bias = compiled.causal_bias(11, torch.float32, torch.device("cpu"))
    attended = [
        compiled.attended(query, key, value, bias, Sizes(6, 3, 1.0, 1e-5, 0.3, own))
        for own in (True, False)
    ]
    torch.testing.assert_close(attended[0], attended[1], rtol=1e-5, atol=1e-6)


def test_layers_that_are_not_known_are_left_alone(tiny_base):
    roles = tiny_clara_model(tiny_base, merged=False).roles
    roles.lm.model.layers[0].self_attn.config.hidden_act = "gelu"
    before = roles.lm.model.layers[1].forward
    assert not compile_layers(roles)
    assert roles.lm.model.layers[1].forward == before
