"""Continuous decoding against `generate`: an answer is its own, whatever comes and goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_clara_model
from transformers import MistralConfig, MistralForCausalLM

from openclara.data.tokenizer import SEP, SLOT
from openclara.errors import ModelError
from openclara.model import continuous
from openclara.model.continuous import DecodingBatch, Entry
from openclara.model.generator import Decoding, Prompt, generate
from openclara.model.merged import MergedRoles
from openclara.model.ragged import BLOCK

NEVER: frozenset[int] = frozenset()
START = (1, 20, 21)


@pytest.fixture(scope="module")
def model(tiny_base):
    return tiny_clara_model(tiny_base)


def latents(n, seed):
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


def prompt(seed, n_tokens, n_slots, *, shared=True):
    ids = torch.randint(3, 300, (n_tokens,), generator=torch.Generator().manual_seed(seed))
    slots = (*[SLOT] * n_slots, SEP) if n_slots else ()
    own = latents(n_slots, seed) if n_slots else None
    return Prompt((*START, *slots, *ids.tolist()), own, n_shared=len(START) if shared else 0)


def alone(model, entry):
    steps = generate(model, [entry.prompt], decoding=entry.decoding, stop_ids=entry.stop_ids)
    return [row[0] for row in steps]


def test_an_answer_is_what_generate_writes(model):
    entry = Entry(prompt(0, 9, 4), Decoding(max_new_tokens=20), NEVER)
    batch = DecodingBatch(model)
    batch.join([entry])
    while len(batch):
        batch.step()
    assert entry.written == alone(model, entry)
    assert entry.ended == "length"
    assert len(set(entry.written)) > 2


PROMPTS = st.builds(
    prompt,
    st.integers(0, 30),
    st.integers(1, 40),
    st.integers(0, 6),
    shared=st.booleans(),
)
DECODINGS = st.builds(
    Decoding,
    max_new_tokens=st.integers(0, 90),
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.8]),
    seed=st.integers(0, 5),
)
# Some of the ids that the tiny model likes to write, so that answers end at all lengths.
STOPS = st.frozensets(st.integers(0, 400), max_size=12)
ARRIVALS = st.tuples(PROMPTS, DECODINGS, STOPS)


@given(
    rounds=st.lists(
        st.tuples(st.lists(ARRIVALS, max_size=4), st.integers(0, 12), st.floats(0, 1)),
        min_size=1,
        max_size=5,
    ),
    chance=st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_whatever_comes_and_goes_beside_it_an_answer_is_its_own(model, rounds, chance):
    batch, entries, cancelled = DecodingBatch(model), [], set()
    for arrivals, n_steps, leave_at in rounds:
        new = [Entry(*arrival) for arrival in arrivals]
        entries += new
        batch.join(new)
        for step in range(n_steps):
            if batch.entries and step == int(leave_at * n_steps):
                gone = chance.choice(batch.entries)
                cancelled.add(id(gone))
                batch.leave(gone)
            batch.step()
    while len(batch):
        batch.step()
    for entry in entries:
        expected = alone(model, entry)
        if id(entry) in cancelled:
            assert entry.written == expected[: len(entry.written)]
        else:
            assert entry.written == expected
            full = len(expected) == entry.decoding.max_new_tokens
            assert entry.ended == ("length" if full else "stop")
    assert batch.cache_bytes == 0


def test_a_seed_gives_the_same_text_whatever_it_is_batched_with(model):
    decoding = Decoding(max_new_tokens=15, temperature=1.0, seed=3)
    lonely, crowded = (Entry(prompt(1, 5, 2), decoding, NEVER) for _ in range(2))
    others = [Entry(prompt(n, 4 + n, 0), replace(decoding, seed=n), NEVER) for n in range(2, 7)]
    for group in ([lonely], [*others[:3], crowded, *others[3:]]):
        batch = DecodingBatch(model)
        batch.join(group)
        while len(batch):
            batch.step()
    assert lonely.written == crowded.written == alone(model, lonely)
    assert lonely.written != others[0].written


def test_without_a_seed_two_answers_differ(model):
    decoding = Decoding(max_new_tokens=30, temperature=1.5)
    entries = [Entry(prompt(1, 5, 2), decoding, NEVER) for _ in range(2)]
    batch = DecodingBatch(model)
    batch.join(entries)
    while len(batch):
        batch.step()
    assert entries[0].written != entries[1].written


def test_a_vacant_row_is_taken_before_a_new_one(model):
    entries = [Entry(prompt(n, 5, 2), Decoding(max_new_tokens=50), NEVER) for n in range(4)]
    batch = DecodingBatch(model)
    batch.join(entries)
    held = batch.cache_bytes
    batch.leave(entries[1])
    late = Entry(prompt(9, 5, 2), Decoding(max_new_tokens=50), NEVER)
    batch.join([late])
    assert batch.cache_bytes == held
    assert batch.entries == [entries[0], late, entries[2], entries[3]]


def test_room_is_given_back_when_many_rows_or_a_long_one_are_gone(model):
    batch = DecodingBatch(model)
    short = Entry(prompt(0, 5, 0), Decoding(max_new_tokens=60), NEVER)
    long = Entry(prompt(1, 10 * BLOCK, 0), Decoding(max_new_tokens=60), NEVER)
    batch.join([short])
    batch.step()
    little = batch.cache_bytes
    others = [Entry(prompt(n, 5, 0), Decoding(max_new_tokens=60), NEVER) for n in range(2, 12)]
    batch.join([long, *others])
    batch.step()
    assert batch.cache_bytes > 20 * little
    for entry in (long, *others):
        batch.leave(entry)
    batch.step()
    assert batch.cache_bytes <= 2 * little
    while len(batch):
        batch.step()
    assert short.written == alone(model, short)
    assert batch.cache_bytes == 0


def test_growing_copies_once_in_a_block(model, monkeypatch):
    copies = []
    grown = continuous.RaggedCache.fit.__globals__["_grown"]
    monkeypatch.setattr(
        "openclara.model.ragged._grown", lambda *args: copies.append(1) or grown(*args)
    )
    batch = DecodingBatch(model)
    batch.join([Entry(prompt(0, 5, 0), Decoding(max_new_tokens=4 * BLOCK), NEVER)])
    while len(batch):
        batch.step()
    assert 0 < len(copies) <= 3 * 2 * 2


def test_a_base_with_sliding_attention_is_refused(tiny_base):
    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    sliding = tiny_clara_model(tiny_base)
    sliding.lm = MistralForCausalLM(config).eval()
    sliding.roles = MergedRoles(sliding.lm, states={}, scale=1.0)
    with pytest.raises(ModelError, match="every position in every layer"):
        DecodingBatch(sliding)
