import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from openclara.index.quantization import bytes_per_chunk, dequantize, quantize, shapes

KINDS = ("bf16", "int8", "int4")


def test_int8_by_hand():
    stored = quantize(torch.tensor([[[127.0, -64.0, 0.4, 0.0]]]), "int8")
    assert stored["scales"].tolist() == [[[1.0]]]
    assert stored["codes"].tolist() == [[[127, -64, 0, 0]]]
    assert dequantize(stored, "int8", width=4).tolist() == [[[127.0, -64.0, 0.0, 0.0]]]


def test_int4_by_hand():
    stored = quantize(torch.tensor([[[14.0, -14.0, 2.0]]]), "int4")
    assert stored["scales"].tolist() == [[[2.0]]]
    # Codes 7, -7, 1 are kept as 15, 1, 9 and the missing fourth as 8; the even one is low.
    assert stored["codes"].tolist() == [[[15 + 16 * 1, 9 + 16 * 8]]]
    assert dequantize(stored, "int4", width=3).tolist() == [[[14.0, -14.0, 2.0]]]


def test_groups_have_their_own_scale():
    latents = torch.cat((torch.full((64,), 1.27), torch.full((6,), 1270.0))).view(1, 1, 70)
    stored = quantize(latents, "int8")
    assert stored["scales"].shape == (1, 1, 2)
    assert stored["codes"].shape == (1, 1, 70)
    torch.testing.assert_close(dequantize(stored, "int8", width=70), latents, rtol=0.005, atol=0)


def test_bf16_is_kept_as_it_is():
    latents = torch.randn(3, 4, 5).to(torch.bfloat16)
    stored = quantize(latents, "bf16")
    assert torch.equal(stored["latents"], latents)
    assert dequantize(stored, "bf16", width=5).dtype == torch.float32


@pytest.mark.parametrize(("kind", "bound"), [("bf16", 0.003), ("int8", 0.01), ("int4", 0.12)])
@given(
    seed=st.integers(0, 2**32),
    width=st.sampled_from([8, 33, 64, 100, 576]),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 300.0]),
)
def test_the_error_on_gaussian_latents_is_bounded(kind, bound, seed, width, scale):
    latents = torch.randn(40, 4, width, generator=torch.Generator().manual_seed(seed)) * scale
    back = dequantize(quantize(latents, kind), kind, width=width)
    assert back.shape == latents.shape
    # Squares of 1e-20 are no float32 numbers.
    error, size = (back.double() - latents).pow(2).mean(), latents.double().pow(2).mean()
    assert (error / size).sqrt() < bound


@example(kind="int8", values=[7.5e-38])
@given(
    kind=st.sampled_from(["int8", "int4"]),
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=70),
)
def test_no_value_is_off_by_more_than_a_step(kind, values):
    latents = torch.tensor(values).view(1, 1, -1)
    stored = quantize(latents, kind)
    back = dequantize(stored, kind, width=len(values))
    group = {"int8": 64, "int4": 32}[kind]
    step = stored["scales"].float().repeat_interleave(group, -1)[..., : len(values)]
    # Half a step of rounding; the largest value may lose one more half to the rounded scale. The
    # smallest scales are multiples of 2**-133 in bfloat16, rounded by half of that, 127 steps away.
    assert ((back - latents).abs() <= step * 1.01 + 127 * 2.0**-134).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_no_rows_come_back(kind):
    for rows in (0, 2):
        zeros = torch.zeros(rows, 3, 10)
        assert torch.equal(dequantize(quantize(zeros, kind), kind, width=10), zeros)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_of_what_is_stored_is_the_prefix_of_the_latents(kind):
    latents = torch.randn(5, 4, 70)
    stored = quantize(latents, kind)
    part = {name: tensor[1:3, :2] for name, tensor in stored.items()}
    whole = dequantize(stored, kind, width=70)
    assert torch.equal(dequantize(part, kind, width=70), whole[1:3, :2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [8, 33, 70, 576])
def test_shapes_and_bytes_are_those_of_what_is_stored(kind, width):
    stored = quantize(torch.randn(3, 4, width), kind)
    found = {name: tuple(tensor.shape[1:]) for name, tensor in stored.items()}
    assert found == shapes(kind, n_memory=4, width=width)
    size = sum(tensor.nbytes for tensor in stored.values())
    assert size == 3 * bytes_per_chunk(kind, n_memory=4, width=width)


def test_bytes_by_hand():
    sizes = [bytes_per_chunk(kind, n_memory=16, width=576) for kind in KINDS]
    assert sizes == [16 * 576 * 2, 16 * (576 + 9 * 2), 16 * (288 + 18 * 2)]
