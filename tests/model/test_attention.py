"""Grouped attention against the textbook formula and against transformers' own kernels."""

from __future__ import annotations

import pytest
import torch
from tiny import plain_lm
from torch import nn

from openclara.model import attention
from openclara.model.attention import grouped_attention
from openclara.model.base import find_base, load_lm

ROWS, HEADS, KEY_HEADS, WIDTH = 2, 4, 2, 8


def by_hand(query, key, value, visible):
    """softmax(q k / sqrt(D)) v in float64; `visible` is (B, T, S)."""
    key, value = (x.double().repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (key, value))
    scores = query.double() @ key.transpose(2, 3) / WIDTH**0.5
    scores = scores.masked_fill(~visible.unsqueeze(1), float("-inf"))
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)


def tensors(n_query, n_keys, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def made(heads, length):
        return torch.randn(ROWS, heads, length, WIDTH, generator=generator, requires_grad=True)

    return made(HEADS, n_query), made(KEY_HEADS, n_keys), made(KEY_HEADS, n_keys)


def causal(n_query, n_keys):
    visible = torch.ones(n_query, n_keys, dtype=torch.bool).tril(n_keys - n_query)
    return visible.expand(ROWS, -1, -1)


def layer():
    module = nn.Module()
    module.num_key_value_groups = HEADS // KEY_HEADS
    module.is_causal = True
    return module.eval()


@pytest.mark.parametrize(("n_query", "n_keys"), [(6, 6), (1, 6), (2, 6)])
def test_without_a_mask_it_is_causal(n_query, n_keys):
    query, key, value = tensors(n_query, n_keys)
    attended, _ = grouped_attention(layer(), query, key, value, None)
    expected = by_hand(query, key, value, causal(n_query, n_keys))
    torch.testing.assert_close(attended.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("additive", [False, True])
def test_gradients_and_values_under_a_left_padded_mask(additive):
    visible = causal(6, 6).clone()
    visible[1, :, :2] = False
    visible[1, :2, 0] = True  # rows that see something, so that the formula is defined
    mask = visible.unsqueeze(1)
    if additive:
        mask = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    ours, theirs = tensors(6, 6), tensors(6, 6)
    attended, _ = grouped_attention(layer(), *ours, mask)
    expected = by_hand(*theirs, visible)
    torch.testing.assert_close(attended.double(), expected, rtol=1e-5, atol=1e-6)
    attended.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_a_row_that_sees_nothing_is_finite_and_harms_no_other():
    query, key, value = tensors(6, 6)
    visible = causal(6, 6).clone()
    visible[1, :, :3] = False
    attended, _ = grouped_attention(layer(), query, key, value, visible.unsqueeze(1))
    attended.sum().backward()
    assert all(torch.isfinite(x).all() for x in (attended, query.grad, key.grad, value.grad))
    expected = by_hand(query, key, value, visible)
    torch.testing.assert_close(attended[1, 3:].double(), expected[1, 3:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attended[0].double(), expected[0], rtol=1e-5, atol=1e-6)


def test_scaling_is_taken_over():
    query, key, value = tensors(4, 4)
    attended, _ = grouped_attention(layer(), query, key, value, None, scaling=0.1)
    expected = by_hand(query * 0.1 * WIDTH**0.5, key, value, causal(4, 4))
    torch.testing.assert_close(attended.double(), expected, rtol=1e-5, atol=1e-6)


def test_long_sequences_go_to_the_fused_kernel_with_the_same_result(monkeypatch):
    query, key, value = tensors(6, 6)
    expected, _ = grouped_attention(layer(), query, key, value, None)
    monkeypatch.setattr(attention, "MAX_POSITIONS", 5)
    monkeypatch.setattr(torch, "bmm", None)
    fused, _ = grouped_attention(layer(), query, key, value, None)
    torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-6)


def test_the_language_model_computes_the_same_as_with_transformers_attention(tiny_base):
    """A left-padded batch, then one cached step."""
    ours = load_lm(find_base(str(tiny_base)), device=torch.device("cpu"), dtype=torch.float32)
    assert ours.config._attn_implementation == attention.NAME
    ids = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :4] = False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    step = torch.tensor([[7], [8]])
    results = []
    with torch.inference_mode():
        for lm in (ours, plain_lm(tiny_base)):
            first = lm(ids, attention_mask=mask.long(), position_ids=positions, use_cache=True)
            longer = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            second = lm(
                step,
                attention_mask=longer.long(),
                position_ids=positions[:, -1:] + 1,
                past_key_values=first.past_key_values,
            )
            results.append((first.logits[mask], second.logits))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
