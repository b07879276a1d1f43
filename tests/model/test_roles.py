"""Three roles on one base: merged, unmerged and exported, each against weights added by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import peft
import pytest
import torch
from tiny import ALPHA, RANK, plain_lm, random_roles, tiny_clara_model

from openclara.model.adapters import ROLES, AdapterRoles
from openclara.model.checkpoint import export_peft, load_checkpoint
from openclara.model.lowrank import low_rank_linear
from openclara.model.merged import MergedRoles
from openclara.model.partial import first_layers

IDS = torch.tensor([[20, 30, 40, 50, 60, 70]])


@pytest.fixture(scope="module")
def states(tiny_base):
    return random_roles(plain_lm(tiny_base))


@pytest.fixture(scope="module")
def adapters(tiny_base):
    return tiny_clara_model(tiny_base, merged=False).roles


@pytest.fixture(scope="module")
def merged(tiny_base):
    return tiny_clara_model(tiny_base).roles


def logits(lm):
    with torch.inference_mode():
        return lm(IDS).logits


def of(roles, role):
    with roles.use(role) as lm:
        return logits(lm)


@pytest.mark.parametrize("role", ROLES)
def test_merged_and_unmerged_equal_weights_added_by_hand(tiny_base, states, adapters, merged, role):
    expected = logits(plain_lm(tiny_base, states[role]))
    bare = logits(plain_lm(tiny_base))
    assert (expected - bare).abs().max() > 0.1
    torch.testing.assert_close(of(adapters, role), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of(merged, role), expected, rtol=1e-4, atol=1e-4)


def test_no_role_is_the_bare_base(tiny_base, adapters, merged):
    bare = logits(plain_lm(tiny_base))
    torch.testing.assert_close(of(adapters, None), bare, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of(merged, None), bare, rtol=1e-5, atol=1e-5)


def test_roles_nest_and_are_restored_even_after_an_error(adapters):
    compressor, generator = of(adapters, "compressor"), of(adapters, "generator")
    with adapters.use("compressor") as lm:
        assert torch.equal(of(adapters, "generator"), generator)
        assert torch.equal(logits(lm), compressor)
        with pytest.raises(RuntimeError, match="stop"), adapters.use("reasoner"):
            raise RuntimeError("stop")
        assert torch.equal(logits(lm), compressor)
    assert adapters.active is None


def test_merging_leaves_the_base_alone_and_shares_what_it_can(tiny_base, merged):
    of(merged, "compressor")
    bare = merged.lm
    with merged.use("compressor") as copied:
        ours, untouched = dict(bare.named_parameters()), plain_lm(tiny_base)
        assert all(torch.equal(ours[n], p) for n, p in untouched.named_parameters())
        assert copied.get_input_embeddings().weight is bare.get_input_embeddings().weight
        assert copied.lm_head.weight is bare.get_input_embeddings().weight
    with merged.use("compressor") as again:
        assert again is copied


def test_the_copy_of_a_role_ends_where_the_role_does(tiny_base):
    state = random_roles(plain_lm(tiny_base))["compressor"]
    first = {name: one for name, one in state.items() if "layers.0." in name}
    short = MergedRoles(
        plain_lm(tiny_base),
        states={"compressor": first},
        scale=ALPHA / RANK,
        depths={"compressor": 1, "generator": None},
    )
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = plain_lm(tiny_base, state)(ids, output_hidden_states=True).hidden_states[1]
    with torch.no_grad(), short.use("compressor") as lm:
        assert len(lm.model.layers) == 1
        found = first_layers(lm.model, 1)(ids)[0]
    torch.testing.assert_close(found, expected)
    assert len(short.lm.model.layers) == 2


def test_switching_changes_no_gradient_flag(adapters):
    adapters.train_only(["reasoner"])
    with adapters.use("compressor"), adapters.use("generator"):
        pass
    for role in ROLES:
        flags = {p.requires_grad for p in adapters.named_parameters(role).values()}
        assert flags == {role == "reasoner"}
    adapters.train_only([])


def test_layers_that_a_role_does_not_use_have_no_adapters(tiny_base):
    depths = {"compressor": 1, "reasoner": None}
    roles = AdapterRoles(plain_lm(tiny_base), rank=2, alpha=4.0, depths=depths)
    assert all("layers.0." in name for name in roles.state("compressor"))
    assert any("layers.1." in name for name in roles.state("reasoner"))
    # Loaded from one that has them on all layers, or back from its own.
    roles.load("compressor", roles.state("reasoner"))
    roles.load("compressor", roles.state("compressor"))
    roles.train_only(["compressor", "reasoner"])
    for name, parameter in roles.named_parameters("compressor").items():
        assert parameter.requires_grad == ("layers.0." in name)
    assert all(one.requires_grad for one in roles.named_parameters("reasoner").values())
    assert not any(one.requires_grad for one in roles.named_parameters("generator").values())


def test_adapters_are_float32_under_a_bf16_base(tiny_base):
    roles = AdapterRoles(plain_lm(tiny_base, dtype=torch.bfloat16), rank=2, alpha=4.0)
    for role in ROLES:
        assert {p.dtype for p in roles.named_parameters(role).values()} == {torch.float32}
        assert not any("lm_head" in name for name in roles.named_parameters(role))


def test_a_fresh_role_changes_nothing(tiny_base):
    roles = AdapterRoles(plain_lm(tiny_base), rank=RANK, alpha=ALPHA)
    bare = of(roles, None)
    for role in ROLES:
        torch.testing.assert_close(of(roles, role), bare, rtol=0, atol=1e-6)


def test_a_role_that_lacks_a_tensor_is_refused(adapters, states):
    incomplete = dict(states["compressor"])
    incomplete.popitem()
    with pytest.raises(KeyError):
        adapters.load("compressor", incomplete)
    adapters.load("compressor", states["compressor"])


# peft asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("role", ROLES)
def test_an_exported_role_is_read_by_peft(tiny_base, tiny_model, tmp_path, role):
    checkpoint = load_checkpoint(tiny_model)
    export_peft(checkpoint, role, tmp_path)
    loaded = peft.PeftModel.from_pretrained(plain_lm(tiny_base), tmp_path).eval()
    state = {name: tensor.float() for name, tensor in checkpoint.roles[role].items()}
    expected = logits(plain_lm(tiny_base, state))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_exported_role_of_the_first_layers(tiny_base, tiny_model, tmp_path):
    checkpoint = load_checkpoint(tiny_model)
    first = {n: t for n, t in checkpoint.roles["compressor"].items() if "layers.0." in n}
    short = replace(
        checkpoint,
        card=replace(checkpoint.card, latent_layer=1),
        roles={**checkpoint.roles, "compressor": first},
    )
    export_peft(short, "compressor", tmp_path)
    loaded = peft.PeftModel.from_pretrained(plain_lm(tiny_base), tmp_path).eval()
    expected = logits(plain_lm(tiny_base, {name: one.float() for name, one in first.items()}))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    assert sum("lora_A" in name for name, _ in loaded.named_parameters()) == len(first) / 2


@pytest.mark.parametrize("biased", [False, True])
def test_the_fused_layer_has_the_gradients_of_the_plain_composition(biased):
    generator = torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(*shape, generator=generator)

    weight, bias = made(7, 5), made(7) if biased else None
    ours = [tensor.requires_grad_() for tensor in (made(2, 3, 5), made(4, 5), made(7, 4))]
    theirs = [copy.deepcopy(tensor.detach()).double().requires_grad_() for tensor in ours]
    x, down, up = ours
    fused = low_rank_linear(x, weight, bias, down, up, 0.5)
    x64, down64, up64 = theirs
    plain = x64 @ weight.double().T + (x64 @ down64.T @ up64.T) * 0.5
    plain = plain if bias is None else plain + bias.double()
    torch.testing.assert_close(fused.double(), plain, rtol=1e-5, atol=1e-5)
    fused.pow(3).sum().backward()
    plain.pow(3).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-2)


def test_the_fused_layer_gives_float32_gradients_in_bf16():
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    down, up = torch.ones(2, 5, requires_grad=True), torch.ones(7, 2, requires_grad=True)
    low_rank_linear(x, torch.zeros(7, 5).bfloat16(), None, down, up, 1.0).sum().backward()
    assert (down.grad.dtype, up.grad.dtype) == (torch.float32, torch.float32)
    assert down.grad.abs().sum() > 0
