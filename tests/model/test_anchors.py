"""Anchored memory tokens: what each carries; prefixes and padding stay exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import N_MEMORY, plain_lm, random_roles, tiny_clara_model

from openclara.data.batches import text_batch
from openclara.model.checkpoint import load_checkpoint, memory_table, save_checkpoint
from openclara.model.memory import TILES, MemoryTable, stretch, text_order

TEXTS = [[20, 30, 40], [50], list(range(60, 90)), [], [20] * 9]
BOS, EOS, GAIN = 1, 2, 0.5


@pytest.fixture(scope="module")
def model(tiny_base):
    built = tiny_clara_model(tiny_base)
    vocabulary_VD = built.vocabulary.weight
    generator = torch.Generator().manual_seed(0)
    anchored = MemoryTable(N_MEMORY, vocabulary_VD.shape[1], n_vocabulary=vocabulary_VD.shape[0])
    anchored.initialise(vocabulary_VD, seed=2)
    anchored.count(torch.randint(0, 50, (vocabulary_VD.shape[0],), generator=generator))
    built.memory, built.latent_gain = anchored, GAIN
    return built.eval()


def encode(model, texts, n_memory=N_MEMORY):
    with torch.inference_mode():
        batch = text_batch(texts, n_memory=n_memory, bos=BOS, eos=EOS)
        return model.encode(batch, "compressor")


def anchors_by_hand(text, weight_V, n_memory):
    """Of each stretch the weightiest token that no earlier memory token carries."""
    left = list(enumerate(float(weight_V[i]) for i in text))
    picked = []
    for start, end in map(stretch, range(n_memory)):
        first, last = math.floor(start * len(text)), math.ceil(end * len(text))
        free = [(-weight, at) for at, weight in left if first <= at < last]
        at = min(free)[1] if free else None
        left = [item for item in left if item[0] != at]
        picked.append(at)
    return picked


def test_latents_are_the_final_states_plus_what_they_carry(model, tiny_base):
    compressor = plain_lm(tiny_base, random_roles(plain_lm(tiny_base))["compressor"])
    words, own = compressor.get_input_embeddings().weight, model.memory.weight.detach()
    encoded = encode(model, TEXTS)
    for row, text in enumerate(TEXTS):
        picked = anchors_by_hand(text, model.memory.token_weight_V, N_MEMORY)
        nothing = torch.zeros(words.shape[1])
        carried = torch.stack([nothing if at is None else words[text[at]] for at in picked])
        framed = torch.cat([own[3:4], words[[BOS, *text, EOS]], own[4:] + carried])
        with torch.inference_mode():
            states = compressor(inputs_embeds=framed[None], output_hidden_states=True)
        final_TD = states.hidden_states[-1][0]
        close = {"rtol": 1e-4, "atol": 1e-4}
        expected = final_TD[-N_MEMORY:] + carried / GAIN
        torch.testing.assert_close(encoded.latents_RMD[row], expected, **close)
        torch.testing.assert_close(
            encoded.memory_mean_RD[row], final_TD[-N_MEMORY:].mean(0), **close
        )


def test_padded_latents_are_the_unpadded_ones(model):
    together = encode(model, TEXTS).latents_RMD
    for row, text in enumerate(TEXTS):
        alone = encode(model, [text]).latents_RMD[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_memory", [1, 3, 7])
def test_a_prefix_of_the_latents_is_what_fewer_memory_tokens_give(model, n_memory):
    whole = encode(model, TEXTS).latents_RMD[:, :n_memory]
    fewer = encode(model, TEXTS, n_memory).latents_RMD
    torch.testing.assert_close(whole, fewer, rtol=1e-4, atol=1e-4)


@given(
    texts=st.lists(st.lists(st.integers(0, 9), max_size=40), min_size=1, max_size=3),
    n_memory=st.integers(1, 40),
)
@settings(max_examples=60)
def test_every_token_is_carried_once_at_most(texts, n_memory):
    memory = MemoryTable(40, 3, n_vocabulary=10)
    memory.count(torch.tensor([5, 5, 1, 0, 9, 9, 9, 2, 3, 100]))
    batch = text_batch(texts, n_memory=n_memory, bos=1, eos=2)
    found = memory.anchors(batch.ids_RT, batch.text_lengths_R, n_memory).tolist()
    for text, row in zip(texts, found, strict=True):
        expected = anchors_by_hand(text, memory.token_weight_V, n_memory)
        assert row == [0 if at is None else at + 2 for at in expected]
        carried = [at for at in row if at]
        assert len(set(carried)) == len(carried)


def test_rare_tokens_weigh_more():
    memory = MemoryTable(4, 3, n_vocabulary=3)
    memory.count(torch.tensor([0, 1, 999]), scale=1e-3)
    assert memory.token_weight_V.tolist() == pytest.approx([1.0, 0.5, 1e-3 / (1e-3 + 0.999)])


def test_the_weights_are_kept_exactly_on_disk(tiny_base, tiny_model, tmp_path):
    """Rounded to bf16 most rare tokens would tie, and other ones be carried than in training."""
    words = plain_lm(tiny_base).get_input_embeddings().weight
    counts = torch.arange(words.shape[0])
    memory = MemoryTable(N_MEMORY, words.shape[1], n_vocabulary=words.shape[0])
    memory.count(counts)
    stored = replace(load_checkpoint(tiny_model), token_weight=memory.token_weight_V)
    save_checkpoint(tmp_path, stored)
    again = memory_table(load_checkpoint(tmp_path), words)
    assert again.anchored
    assert torch.equal(again.token_weight_V, memory.token_weight_V)
    assert load_checkpoint(tmp_path).fingerprint() == stored.fingerprint()
    assert stored.fingerprint() != load_checkpoint(tiny_model).fingerprint()


def test_prompts_take_the_latents_in_the_order_of_the_text(model, tiny_base):
    latents_NMD = torch.arange(2 * 5 * 1.0).view(2, 5, 1)
    order = sorted(range(5), key=lambda number: stretch(number)[0])
    assert order != list(range(5))
    expected = torch.cat([latents_NMD[0, order], latents_NMD[1, order]])
    assert torch.equal(model.in_reading_order(latents_NMD), expected)
    assert torch.equal(
        tiny_clara_model(tiny_base).in_reading_order(latents_NMD), latents_NMD.view(10, 1)
    )


def test_the_first_stretches_tile_the_text():
    spans = [stretch(number) for number in text_order(TILES)]
    assert spans == [(i / TILES, (i + 1) / TILES) for i in range(TILES)]
    # Any prefix is spread over the text: the first two stand in different halves.
    assert {start >= 0.5 for start, _ in (stretch(0), stretch(1))} == {False, True}


@pytest.mark.parametrize("n_tokens", [16, 32, 64])
def test_later_stretches_are_different_and_finer(n_tokens):
    spans = [stretch(number) for number in range(n_tokens)]
    assert len(set(spans)) == n_tokens
    assert all(0 <= start < end <= 1 for start, end in spans)
    assert {end - start for start, end in spans[n_tokens // 2 :]} == {1 / n_tokens}
