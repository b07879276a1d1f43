"""Compiled layers against transformers' and peft's own, which share no code with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from tiny import anchored_memory, plain_lm, random_roles, tiny_clara_model

from openclara.data.batches import prompt_batch, text_batch
from openclara.data.tokenizer import SLOT
from openclara.model import compiled
from openclara.model.compiled import Packing, Sizes, can_compile, compile_layers
from openclara.model.places import LENGTH, without_places, write_places

if TYPE_CHECKING:
    from pathlib import Path

    from openclara.model.clara import ClaraModel

pytestmark = pytest.mark.skipif(not can_compile("cpu"), reason="torch's compiler needs g++ here")


@pytest.fixture(scope="module")
def pair(tiny_base):
    """One model as it is and one whose layers are packed; norm weights that count."""
    models = [tiny_clara_model(tiny_base, merged=False) for _ in range(2)]
    for model in models:
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.lm.named_parameters():
            if "norm" in name:
                parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator)
    models[1].packed = compile_layers(models[1].roles)
    assert models[1].packed is not None
    return models


def embedded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 32, generator=torch.Generator().manual_seed(4))


def states_and_gradients(model, role, x, lengths):
    """Last states, and the gradients of the input and of what trains, padding left out."""
    roles = model.roles
    roles.train_only([role])
    x = x.clone().requires_grad_()
    counts = (torch.arange(x.shape[1]) < torch.tensor(lengths).unsqueeze(1)).unsqueeze(-1)
    with roles.use(role) as lm:
        if model.packed is None:
            states = lm.model(inputs_embeds=x, use_cache=False).last_hidden_state * counts
        else:
            states = model.packed(x, torch.tensor(lengths))
    (states.sin() * torch.linspace(0, 1, 32)).sum().backward()
    trained = roles.named_parameters(role)
    gradients = {name: parameter.grad for name, parameter in trained.items()}
    for parameter in trained.values():
        parameter.grad = None
    roles.train_only([])
    return states.detach(), x.grad, gradients


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("role", "n_positions", "lengths"),
    [
        ("compressor", 21, (21, 9, 14)),
        ("reasoner", 24, (1, 24)),
        ("generator", 70, (70,)),
        ("generator", 9, (9, 9, 9, 9)),
    ],
)
def test_states_and_gradients_are_those_of_the_plain_layers(
    pair, role, n_positions, lengths, checkpointing
):
    x = embedded(len(lengths), n_positions)
    expected = states_and_gradients(pair[0], role, x, lengths)
    for layer in pair[1].lm.model.layers:
        layer.gradient_checkpointing = checkpointing
        layer.train(checkpointing)
    found = states_and_gradients(pair[1], role, x, lengths)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected[2].values())
    torch.testing.assert_close(found[2], expected[2], rtol=1e-3, atol=1e-5)


def test_the_first_layers_alone(pair):
    x, lengths = embedded(2, 9), torch.tensor([9, 4])
    with torch.no_grad(), pair[0].roles.use("compressor") as lm:
        states = lm.model(inputs_embeds=x, output_hidden_states=True).hidden_states
        expected = states[1]
    with torch.no_grad(), pair[1].roles.use("compressor"):
        found = pair[1].packed(x, lengths, n_layers=1)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, :4], expected[1, :4], rtol=1e-4, atol=1e-5)


def test_a_packing_leaves_out_padding_and_puts_it_back():
    packing = Packing.of(torch.tensor([2, 3, 1]), 4)
    x = embedded(3, 4)
    packed = packing.pack(x)
    assert torch.equal(packed, torch.cat([x[0, :2], x[1, :3], x[2, :1]]))
    back = packing.unpack(packed)
    assert torch.equal(back[0, :2], x[0, :2])
    assert torch.equal(back[1, :3], x[1, :3])
    assert back[0, 2:].abs().sum() == back[1, 3:].abs().sum() == back[2, 1:].abs().sum() == 0


@torch.no_grad()
def test_a_frozen_role_computes_the_weights_with_its_delta_added(tiny_base):
    roles = tiny_clara_model(tiny_base, merged=False).roles
    packed = compile_layers(roles)
    plain = plain_lm(tiny_base, random_roles(plain_lm(tiny_base))["generator"])
    x = embedded(2, 10)
    with roles.use("generator"):
        states = packed(x, torch.tensor([10, 10]))
    expected = plain.model(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merged", [False, True])
@torch.no_grad()
def test_a_model_says_the_same_packed(tiny_base, merged):
    plain, packed = (tiny_clara_model(tiny_base, merged=one) for one in (merged, False))
    packed.packed = compile_layers(packed.roles)
    texts = text_batch([[5, 6, 7], [9] * 12], n_memory=4, bos=1, eos=2)
    encoded = [model.encode(texts, "reasoner") for model in (plain, packed)]
    torch.testing.assert_close(encoded[1].latents_RMD, encoded[0].latents_RMD, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        encoded[1].text_mean_RD, encoded[0].text_mean_RD, rtol=1e-4, atol=1e-4
    )
    short = [([5, 6], False), ([7], True), ([8, 8], False)]
    prompts = prompt_batch([short, [([4, 5, 6, 7, 8], False), ([9], True)]])
    (expected, targets), (found, same) = (m.answer_logits(prompts, None) for m in (plain, packed))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert targets.tolist() == same.tolist() == [7, 9]


def anchored(base: Path, *, merged: bool, latent_layer: int = 0) -> ClaraModel:
    model = tiny_clara_model(base, merged=merged, latent_layer=latent_layer)
    model.memory = anchored_memory(model.vocabulary.weight, line_ends=[7])
    return model


TEXTS = [[20, 30, 40], [], [11, 7, *range(40, 60)]]


@torch.no_grad()
@pytest.mark.parametrize("latent_layer", [0, 1])
def test_memory_that_carries_is_read_after_the_text(tiny_base, monkeypatch, latent_layer):
    packed = anchored(tiny_base, merged=False, latent_layer=latent_layer)
    packed.packed = compile_layers(packed.roles)
    texts = text_batch(TEXTS, n_memory=4, bos=1, eos=2)
    expected = anchored(tiny_base, merged=True, latent_layer=latent_layer)
    expected = expected.encode(texts, "compressor")
    monkeypatch.setattr(packed, "text_states", None)
    found = packed.encode(texts, "compressor")
    for name in ("latents_RMD", "text_mean_RD", "memory_mean_RD", "weights_RM"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("latent_layer", [0, 1])
def test_texts_read_once_teach_as_texts_read_twice(tiny_base, monkeypatch, latent_layer):
    texts = text_batch(TEXTS, n_memory=4, bos=1, eos=2)
    results = []
    for packed in (False, True):
        model = anchored(tiny_base, merged=False, latent_layer=latent_layer)
        model.roles.train_only(["compressor"])
        model.memory.weight.requires_grad_(True)
        if packed:
            model.packed = compile_layers(model.roles)
            monkeypatch.setattr(model, "text_states", None)
        encoded = model.encode(texts, "compressor")
        loss = (encoded.latents_RMD.sin() * torch.linspace(0, 1, 32)).sum()
        (loss + encoded.text_mean_RD.cos().sum()).backward()
        learned = {**model.roles.named_parameters("compressor"), "memory": model.memory.weight}
        results.append({name: parameter.grad for name, parameter in learned.items()})
    used = {name for name in results[0] if not (latent_layer and "layers.1." in name)}
    assert all(results[0][name].abs().max() > 1e-6 for name in used)
    assert all(gradient is None for name, gradient in results[0].items() if name not in used)
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("latent_layer", [0, 1])
def test_latents_stand_as_far_apart_in_packed_layers(tiny_base, latent_layer):
    models = [anchored(tiny_base, merged=False, latent_layer=latent_layer) for _ in range(2)]
    models[1].packed = compile_layers(models[1].roles)
    latents = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(6))
    places = torch.tensor([[2, 20, 3], [0, 30, 25]])
    read = write_places(latents, places, n_places=32, length=LENGTH)
    ends = [([5, 6], False), ([7], True)]
    prompts = prompt_batch([[([8, *[SLOT] * 3], False), *ends], [([SLOT] * 3, False), *ends[:2]]])
    logits = [m.answer_logits(prompts, m.in_reading_order(read))[0] for m in models]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
    side_by_side, _ = models[0].answer_logits(prompts, without_places(read).flatten(0, 1))
    assert (side_by_side - logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize("learns", [False, True])
def test_attention_row_by_row_gives_what_torchs_own_does(learns):
    generator = torch.Generator().manual_seed(5)
    packing = Packing.of(torch.tensor([11, 1, 7]), 11)
    given = [torch.randn(19, heads, 8, generator=generator) for heads in (6, 3, 3)]
    weights = torch.randn(19, 48, generator=generator)
    results = []
    for rowwise in (True, False):
        inputs = [one.clone().requires_grad_(learns) for one in given]
        values = compiled.attended(
            *inputs, packing.real_BT, packing, Sizes(6, 3, 1.0, 1e-5, 0.3, rowwise)
        )
        if learns:
            (values * weights).sum().backward()
        results.append([values, *(one.grad for one in inputs)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_layers_of_another_kind_are_not_taken(tiny_base):
    roles = tiny_clara_model(tiny_base, merged=False).roles
    roles.lm.model.layers[0].self_attn.config.hidden_act = "gelu"
    assert compile_layers(roles) is None
