"""Latents: the states after the final norm at the memory positions, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from tiny import N_MEMORY, make_tokenizer, plain_lm, random_roles, tiny_clara_model

from openclara.data.batches import text_batch
from openclara.data.tokenizer import MEM_0, SEP, SLOT
from openclara.model.memory import MemoryTable

TEXTS = [[20, 30, 40], [50], [60, 70, 80, 90, 100, 110, 120], []]
BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def model(tiny_base):
    return tiny_clara_model(tiny_base)


@pytest.fixture(scope="module")
def compressor(tiny_base):
    """The compressor as transformers alone computes it."""
    return plain_lm(tiny_base, random_roles(plain_lm(tiny_base))["compressor"])


def encode(model, texts, n_memory, role="compressor"):
    with torch.inference_mode():
        return model.encode(text_batch(texts, n_memory=n_memory, bos=BOS, eos=EOS), role)


def framed_embeddings(model, lm, text, n_memory):
    """ENC, BOS, text, EOS, MEM_0..; ENC is row 3 of the table and MEM_0 row 4."""
    words = lm.get_input_embeddings().weight
    own = model.memory.weight
    return torch.cat([own[3:4], words[[BOS, *text, EOS]], own[4 : 4 + n_memory]])


def test_latents_are_the_final_states_at_the_memory_positions(model, compressor):
    encoded = encode(model, TEXTS, 5)
    for row, text in enumerate(TEXTS):
        with torch.inference_mode():
            embedded = framed_embeddings(model, compressor, text, 5).unsqueeze(0)
            states = compressor(inputs_embeds=embedded, output_hidden_states=True).hidden_states
        final_TD = states[-1][0]
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(encoded.latents_RMD[row], final_TD[-5:], **close)
        torch.testing.assert_close(encoded.text_mean_RD[row], final_TD[:-5].mean(0), **close)
        torch.testing.assert_close(encoded.memory_mean_RD[row], final_TD[-5:].mean(0), **close)


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
def test_padded_latents_are_the_unpadded_ones(model, role):
    together = encode(model, TEXTS, N_MEMORY, role).latents_RMD
    for row, text in enumerate(TEXTS):
        alone = encode(model, [text], N_MEMORY, role).latents_RMD[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)


def test_padding_on_the_left_with_a_mask_gives_the_same_latents(model, compressor):
    ours = encode(model, TEXTS, 4).latents_RMD
    rows = [framed_embeddings(model, compressor, text, 4) for text in TEXTS]
    longest = max(len(row) for row in rows)
    embedded = torch.full((len(rows), longest, rows[0].shape[1]), 9.0)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for at, row in enumerate(rows):
        embedded[at, longest - len(row) :] = row.detach()
        mask[at, longest - len(row) :] = 1
    with torch.inference_mode():
        states = compressor(
            inputs_embeds=embedded,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            output_hidden_states=True,
        ).hidden_states[-1]
    torch.testing.assert_close(ours, states[:, -4:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_memory", [1, 3, 7])
def test_a_prefix_of_the_latents_is_what_fewer_memory_tokens_give(model, n_memory):
    whole = encode(model, TEXTS, N_MEMORY).latents_RMD
    fewer = encode(model, TEXTS, n_memory).latents_RMD
    torch.testing.assert_close(whole[:, :n_memory], fewer, rtol=1e-5, atol=1e-5)


def test_texts_and_roles_give_different_latents(model):
    first, second = encode(model, [[20, 30], [20, 31]], 4).latents_RMD
    assert (first - second).abs().max() > 0.01
    other = encode(model, [[20, 30]], 4, "reasoner").latents_RMD[0]
    assert (first - other).abs().max() > 0.01


# ---- the table of memory tokens and marks ----


def test_ids_below_zero_are_rows_of_the_own_table(model):
    vocabulary = model.vocabulary
    ids = torch.tensor([[5, SEP, MEM_0, MEM_0 - 2]])
    embedded = model.memory.embed(ids, vocabulary)[0]
    own = model.memory.weight
    expected = torch.stack([vocabulary.weight[5], own[2], own[4], own[6]])
    assert torch.equal(embedded, expected)


def test_latents_go_into_the_slots_in_reading_order(model):
    latents = torch.arange(3 * 32.0).view(3, 32)
    ids = torch.tensor([[SLOT, 5, SLOT], [6, SLOT, 7]])
    embedded = model.memory.embed(ids, model.vocabulary, latents)
    assert torch.equal(embedded[0, 0], latents[0])
    assert torch.equal(embedded[0, 2], latents[1])
    assert torch.equal(embedded[1, 1], latents[2])
    assert torch.equal(embedded[1, 2], model.vocabulary.weight[7])


@pytest.mark.parametrize("n_latents", [None, 1, 3])
def test_slots_and_latents_must_be_as_many(model, n_latents):
    latents = None if n_latents is None else torch.zeros(n_latents, 32)
    with pytest.raises(ValueError, match="2 slots"):
        model.memory.embed(torch.tensor([[SLOT, SLOT]]), model.vocabulary, latents)


def test_the_table_starts_from_ordinary_tokens_by_seed(tiny_base):
    words = plain_lm(tiny_base).get_input_embeddings().weight
    tables = [MemoryTable(N_MEMORY, 32) for _ in range(3)]
    for table, seed in zip(tables, (1, 1, 2), strict=True):
        table.initialise(words, seed)
    first, again, other = (table.weight for table in tables)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    control = words[: len(make_tokenizer().all_special_ids)]
    for row in first:
        assert any(torch.equal(row, word) for word in words)
        assert not any(torch.equal(row, word) for word in control)
