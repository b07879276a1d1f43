"""Packed linear layers against the product in float64, and a packed base against the whole one."""

from __future__ import annotations

import shutil

import pytest
import torch
from published import make_published, untied_base
from safetensors.torch import load_file, save_file
from tiny import make_checkpoint, plain_lm

from openclara.errors import ModelError
from openclara.model.base import find_base
from openclara.model.quantized import (
    FEW_POSITIONS,
    Linear4,
    Linear8,
    QuantizedLinear,
    _torch_can,
    group_size,
    linear_bytes,
    quantized,
)
from openclara.model.quantized_loading import load_quantized
from openclara.pipeline import Clara

KINDS = {8: Linear8, 4: Linear4}
DTYPES = (torch.float32, torch.bfloat16)
TEXTS = ["The opera house in Sydney.", "Where is the river?", "Utzon", "the year one thousand"]


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unpacked(layer: QuantizedLinear) -> torch.Tensor:
    """(O, I) float64 weights, from the stored integers alone."""
    if isinstance(layer, Linear8):
        return layer.weight_OI.double() * layer.scale_O.double().unsqueeze(1)
    low, high = layer.packed_BIL & 15, layer.packed_BIL >> 4
    nibbles_OI = torch.cat([low, high], dim=-1).transpose(1, 2).flatten(0, 1).double()
    scale_OG, zero_OG = layer.scale_zero_GO2.double().unbind(-1)
    scale_OI, zero_OI = (t.t().repeat_interleave(layer.group, 1) for t in (scale_OG, zero_OG))
    return ((nibbles_OI - 8) * scale_OI + zero_OI)[: layer.out_features]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [8, 4])
def test_each_weight_is_off_by_half_a_step_at_most(bits, dtype):
    weight_OI = random(70, 128, scale=0.02)
    layer = quantized(weight_OI, None, bits=bits, dtype=dtype)
    error_OI = (unpacked(layer) - weight_OI.double()).abs()
    if bits == 8:
        step_OI = (weight_OI.abs().amax(1, keepdim=True) / 127).double()
        slack = 0.0
    else:
        grouped = weight_OI.view(70, -1, layer.group)
        step_OI = ((grouped.amax(-1) - grouped.amin(-1)) / 15).double()
        step_OI = step_OI.repeat_interleave(layer.group, 1)
        # The zero is kept in bf16.
        slack = weight_OI.abs().max().item() * torch.finfo(torch.bfloat16).eps
    rounding = 1 + 2 * torch.finfo(torch.bfloat16).eps
    assert (error_OI <= 0.5 * step_OI * rounding + slack).all()


@pytest.mark.parametrize("n_positions", [1, 7, 40, 130])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [8, 4])
def test_products_are_those_of_the_unpacked_weights(bits, dtype, n_positions):
    bias_O = random(320, seed=1)
    layer = quantized(random(320, 192), bias_O, bits=bits, dtype=dtype)
    x = random(2, n_positions, 192, seed=2).to(dtype)
    weight_OI = unpacked(layer)
    expected = x.double() @ weight_OI.t() + bias_O.to(dtype).double()
    given = layer(x)
    assert given.shape == (2, n_positions, 320)
    assert given.dtype == dtype
    # Every factor and the sum are rounded once; weights twice where they are made on the way.
    sizes = x.double().abs() @ weight_OI.abs().t() + bias_O.abs()
    assert ((given.double() - expected).abs() <= 3 * torch.finfo(dtype).eps * sizes).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_both_ways_to_multiply_agree(bits):
    if not _torch_can(bits):
        pytest.skip("torch has no such product for this processor, or of another layout")
    layer = quantized(random(128, 128), None, bits=bits, dtype=torch.bfloat16)
    x = random(FEW_POSITIONS[bits], 128, seed=2).bfloat16()
    packed = layer.packed_product(x)
    size = (x.float().abs() @ unpacked(layer).float().abs().t()).max()
    assert (packed - layer.block_product(x)).abs().max() < 0.01 * size


@pytest.mark.parametrize("bits", [8, 4])
def test_where_torch_has_no_product_blocks_are_used(bits, monkeypatch):
    layer = quantized(random(64, 64), None, bits=bits, dtype=torch.bfloat16)
    monkeypatch.setattr("openclara.model.quantized._torch_can", lambda bits: False)
    monkeypatch.setattr(type(layer), "packed_product", None)
    assert layer(random(1, 64).bfloat16()).shape == (1, 64)


@pytest.mark.parametrize("bits", [8, 4])
def test_odd_sizes_zeros_and_equal_weights(bits):
    weight_OI = torch.zeros(5, 24)
    weight_OI[1] = 0.75
    weight_OI[2] = -3.0
    layer = quantized(weight_OI, None, bits=bits, dtype=torch.float32)
    torch.testing.assert_close(unpacked(layer).float(), weight_OI, rtol=0.01, atol=1e-6)
    torch.testing.assert_close(layer(torch.eye(24)), weight_OI.t(), rtol=0.01, atol=1e-6)


def test_groups_divide_the_inputs():
    assert [group_size(n) for n in (4096, 576, 1536, 96, 24, 7)] == [64, 64, 64, 32, 8, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [8, 4])
def test_bytes_are_as_reckoned(bits, dtype):
    for shape in ((64, 64), (70, 96), (5, 24)):
        layer = quantized(random(*shape), None, bits=bits, dtype=dtype)
        assert sum(t.nbytes for t in layer.buffers()) == linear_bytes(
            *shape, bits=bits, dtype=dtype
        )


# ---- a whole base ----


@pytest.mark.parametrize("bits", [8, 4])
def test_a_base_is_packed_but_for_head_embedding_and_norms(tiny_base, bits):
    lm = load_quantized(find_base(str(tiny_base)), bits=bits, dtype=torch.float32)
    packed = [m for m in lm.modules() if isinstance(m, QuantizedLinear)]
    assert len(packed) == 2 * 7
    assert all(type(one) is KINDS[bits] for one in packed)
    assert type(lm.lm_head) is torch.nn.Linear
    assert lm.lm_head.weight is lm.get_input_embeddings().weight
    whole = plain_lm(tiny_base)
    assert torch.equal(lm.lm_head.weight, whole.lm_head.weight)
    by_hand = plain_lm(tiny_base)
    for name, module in lm.named_modules():
        if isinstance(module, QuantizedLinear):
            by_hand.get_submodule(name).weight.data = unpacked(module).float()
    ids = torch.tensor([[20, 30, 40, 50, 60, 70]])
    with torch.no_grad():
        torch.testing.assert_close(lm(ids).logits, by_hand(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_head_of_its_own_and_several_files(tiny_base, tmp_path):
    folder = untied_base(tmp_path / "untied", tiny_base)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for at, names in enumerate((list(tensors)[::2], list(tensors)[1::2])):
        save_file({name: tensors[name] for name in names}, folder / f"part-{at}.safetensors")
    lm = load_quantized(find_base(str(folder)), bits=8, dtype=torch.bfloat16)
    assert torch.equal(lm.lm_head.weight, tensors["lm_head.weight"])
    assert lm.lm_head.weight is not lm.get_input_embeddings().weight


def test_biases_come_along(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    whole = Qwen2ForCausalLM(config).eval()
    torch.nn.init.normal_(whole.model.layers[0].self_attn.q_proj.bias)
    whole.save_pretrained(tmp_path)
    lm = load_quantized(find_base(str(tmp_path)), bits=8, dtype=torch.float32)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        similar = torch.cosine_similarity(lm(ids).logits, whole(ids).logits, dim=-1)
    assert similar.min() > 0.999


@pytest.mark.parametrize("damage", ["truncated", "renamed", "other shape"])
def test_damaged_files_are_one_sentence(tiny_base, tmp_path, damage):
    copied = shutil.copytree(tiny_base, tmp_path / "copied")
    path = copied / "model.safetensors"
    source = find_base(str(copied))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        tensors = load_file(path)
        name = "model.layers.0.mlp.up_proj.weight"
        if damage == "renamed":
            tensors["elsewhere"] = tensors.pop(name)
        else:
            tensors[name] = tensors[name][:-1].clone()
        save_file(tensors, path)
    with pytest.raises(ModelError, match=r"cannot be loaded|have no .*use precision") as error:
        load_quantized(source, bits=8, dtype=torch.float32)
    assert "\n" not in str(error.value)


# ---- a published checkpoint ----


@pytest.fixture(scope="module")
def published(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return make_published(folder / "compression-4", untied_base(folder / "base", tiny_base))


@pytest.fixture(scope="module")
def whole(published):
    return Clara.load(str(published), precision="fp32", device="cpu")


@pytest.fixture(scope="module", params=["int8", "int4"])
def packed(request, published):
    return Clara.load(str(published), precision=request.param, device="cpu")


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
def test_latents_at_int8_are_close_to_those_in_float32(published, whole, role):
    packed = Clara.load(str(published), precision="int8", device="cpu")
    ours, theirs = (clara.latents(TEXTS, role=role).float().flatten(1) for clara in (packed, whole))
    assert torch.cosine_similarity(ours, theirs).min() >= 0.99
    assert packed.latent_spec == whole.latent_spec


def test_answers_at_int8_are_those_in_float32(published, whole):
    packed = Clara.load(str(published), precision="int8", device="cpu")
    asked = (["Who designed it?"], [["The opera house by Utzon"]])
    ours, theirs = (c.generate_from_text(*asked, max_new_tokens=3) for c in (packed, whole))
    assert ours == theirs


def test_packed_roles_differ(packed):
    by_role = [packed.latents(TEXTS, role=role) for role in ("compressor", "reasoner")]
    assert (by_role[0] - by_role[1]).abs().max() > 0.1


def test_a_prefix_of_the_latents_is_valid_by_itself(tmp_path, tiny_base):
    folder = make_checkpoint(tmp_path / "run", tiny_base)
    for precision in ("int8", "int4"):
        clara = Clara.load(str(folder), precision=precision, device="cpu")
        few, many = (clara.latents(TEXTS, role="compressor", n_memory=n) for n in (2, 8))
        similar = torch.cosine_similarity(few.float(), many[:, :2].float(), dim=-1)
        assert similar.min() > 0.999


def test_a_text_does_not_depend_on_its_batch(packed):
    alone = torch.cat([packed.latents([text], role="compressor") for text in TEXTS])
    together = packed.latents(TEXTS, role="compressor")
    similar = torch.cosine_similarity(alone.float().flatten(1), together.float().flatten(1))
    assert similar.min() > 0.999
