"""The cache with room to grow against the one of transformers."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import plain_lm
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from openclara.model.cache import ROOM, RoomyLayer, roomy_cache


@given(lengths=st.lists(st.integers(1, ROOM), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_it_holds_what_the_copying_layer_holds(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = RoomyLayer(), DynamicLayer()
    for length in lengths:
        new = torch.randn(2, 2, 3, length, 4, generator=generator)
        for found, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_after_a_reset_it_is_empty():
    layer = RoomyLayer()
    layer.update(*torch.ones(2, 1, 1, 5, 4))
    layer.reset()
    assert layer.get_seq_length() == 0
    keys, _ = layer.update(*torch.zeros(2, 2, 1, 3, 4))
    assert keys.shape == (2, 1, 3, 4)


@torch.no_grad()
def test_a_model_decodes_with_it_as_without(tiny_base):
    lm = plain_lm(tiny_base)
    prompt = torch.randint(3, 300, (2, 7), generator=torch.Generator().manual_seed(0))
    said = [
        lm.generate(prompt, past_key_values=cache, max_new_tokens=80, do_sample=False)
        for cache in (roomy_cache(lm.config), DynamicCache(config=lm.config))
    ]
    assert torch.equal(*said)
