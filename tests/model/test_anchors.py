"""Anchored memory tokens: what each carries; prefixes, padding and the order of the text."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import (
    DOC_MAX_LENGTH,
    N_MEMORY,
    anchored_memory,
    plain_lm,
    random_roles,
    tiny_clara_model,
)

from openclara.data.batches import text_batch
from openclara.data.tokenizer import SEP, SLOT
from openclara.errors import FormatError
from openclara.index.quantization import dequantize, quantize
from openclara.model.checkpoint import load_checkpoint, memory_table, save_checkpoint
from openclara.model.memory import MemoryTable
from openclara.model.places import (
    ARC,
    FURTHEST,
    LENGTH,
    PLACE,
    in_text_order,
    steps,
    write_places,
)
from openclara.model.salience import (
    CHANNELS,
    DECAYS,
    HEADS,
    LONGEST_TITLE,
    WINDOWS,
    Salience,
    seen_before,
)

LINE_END = 7
TEXTS = [[20, 30, 40], [50], list(range(60, 90)), [], [20] * 9, [11, 12, LINE_END, *range(40, 60)]]
BOS, EOS, GAIN = 1, 2, 0.5


@pytest.fixture(scope="module")
def model(tiny_base):
    built = tiny_clara_model(tiny_base)
    built.memory = anchored_memory(built.vocabulary.weight, line_ends=[LINE_END])
    built.latent_gain = GAIN
    return built.eval()


def encode(model, texts, n_memory=N_MEMORY, role="compressor"):
    with torch.inference_mode():
        batch = text_batch(texts, n_memory=n_memory, bos=BOS, eos=EOS)
        return model.encode(batch, role)


def salience_by_hand(text, salience, states_TD):
    """Scores token by token, as the classes describe them, in numpy."""
    weights = {name: one.double().numpy() for name, one in salience.state_dict().items()}
    logits = logits_by_hand(text, weights, states_TD.double().numpy())
    begins = [weights["begins_word_V"][token] for token in text]
    words = np.cumsum(begins)
    spelled = [tuple(np.array(text)[words == word]) for word in words]
    again = [
        any(spelled[other] == spelled[at] for other in range(at) if words[other] < words[at])
        for at in range(len(text))
    ]
    less = [again[at] * (1 if begins[at] else 5) for at in range(len(text))]
    scores = [max(logits[words == word]) - less[at] for at, word in enumerate(words)]
    if LINE_END in text[:LONGEST_TITLE]:
        scores = [score + 1e4 * (at < text.index(LINE_END)) for at, score in enumerate(scores)]
    return scores


def states_by_hand(base, model, text):
    """What the compressor makes of a text's tokens, as transformers computes it."""
    lm = plain_lm(base, random_roles(plain_lm(base))["compressor"])
    # Two thirds of its two layers.
    lm.model.layers = lm.model.layers[:1]
    words, own = lm.get_input_embeddings().weight, model.memory.weight.detach()
    framed = torch.cat([own[3:4], words[[BOS, *text, EOS]]])
    with torch.inference_mode():
        states = lm(inputs_embeds=framed[None], output_hidden_states=True).hidden_states[-1][0]
    return states[2 : 2 + len(text)]


def logits_by_hand(text, weights, states_TD):
    """The network position by position: sums over what stands beside, softmax over all."""
    if not text:
        return np.zeros(0)
    of = {name.removeprefix("network."): one for name, one in weights.items()}

    def linear(name, given):
        return of[f"{name}.weight"] @ given + of[f"{name}.bias"]

    def normed(name, given):
        centred = given - given.mean()
        unit = centred / math.sqrt((centred**2).mean() + 1e-5)
        return unit * of[f"{name}.weight"] + of[f"{name}.bias"]

    def gelu(given):
        return np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in given])

    places = range(len(text))
    inputs_TD = np.clip((states_TD - weights["mean_D"]) / weights["spread_D"], -6, 6)
    states = []
    for at, token in enumerate(text):
        lead = sum(math.exp(-at / far) * of["lead_LC"][i] for i, far in enumerate(DECAYS))
        read = of["read.weight"] @ inputs_TD[at]
        states.append(read + (token in text[:at]) * of["seen_C"] + lead)
    for block, (n, apart) in enumerate(WINDOWS):
        before = [normed(f"norms.{block}", state) for state in states]
        nothing = np.zeros(CHANNELS)
        for at in places:
            near = [at + apart * (k - n // 2) for k in range(n)]
            beside = [before[k] if 0 <= k < len(text) else nothing for k in near]
            states[at] = states[at] + gelu(linear(f"windows.{block}", np.concatenate(beside)))
        if block == 0:
            parts = [linear("attention_in", normed("attention_norm", one)) for one in states]
            query, key, value = np.split(np.array(parts), 3, axis=1)
            found = np.zeros((len(text), CHANNELS))
            size = CHANNELS // HEADS
            for head in range(HEADS):
                own = slice(head * size, (head + 1) * size)
                likeness = np.exp(query[:, own] @ key[:, own].T / math.sqrt(size))
                found[:, own] = likeness / likeness.sum(1, keepdims=True) @ value[:, own]
            states = [states[at] + linear("attention_out", found[at]) for at in places]
    return np.array([linear("logit", state)[0] for state in states])


def picked_by_hand(scores, n_memory):
    order = sorted(range(len(scores)), key=lambda at: -scores[at])[:n_memory]
    return [*order, *[None] * (n_memory - len(order))]


def places_by_hand(picked, n_tokens):
    """Where in the text each picked token stands; those that pick nothing come after it."""
    after = itertools.count(n_tokens)
    return [next(after) if at is None else at for at in picked]


def test_salience_against_a_loop(model):
    salience = model.memory.salience
    longest = max(map(len, TEXTS))
    # Padding that ends a line makes no title.
    ids_RT = torch.tensor([text + [LINE_END] * (longest - len(text)) for text in TEXTS])
    states_RTD = 5 * torch.randn(
        len(TEXTS), longest, len(salience.mean_D), generator=torch.Generator().manual_seed(0)
    )
    scores_RT = salience(ids_RT, torch.tensor([len(text) for text in TEXTS]), states_RTD)
    for text, scores_T, states_TD in zip(TEXTS, scores_RT, states_RTD, strict=True):
        states_TD = states_TD[: len(text)]
        by_hand = salience_by_hand(text, salience, states_TD)
        expected = torch.tensor(by_hand, dtype=torch.float32)
        torch.testing.assert_close(scores_T[: len(text)], expected, rtol=1e-4, atol=1e-3)
        assert scores_T[len(text) :].isneginf().all()
        ids_T = torch.tensor(text, dtype=torch.long)
        alone = salience(ids_T[None], torch.tensor([len(text)]), states_TD[None])[0]
        assert torch.equal(scores_T[: len(text)], alone)


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
def test_latents_are_the_final_states_plus_what_they_carry(model, tiny_base, role):
    lm = plain_lm(tiny_base, random_roles(plain_lm(tiny_base))[role])
    words, own = lm.get_input_embeddings().weight, model.memory.weight.detach()
    encoded = encode(model, TEXTS, role=role)
    for row, text in enumerate(TEXTS):
        if role == "reasoner":
            scores = [float(model.memory.token_weight_V[i]) for i in text]
        else:
            states_TD = states_by_hand(tiny_base, model, text)
            scores = salience_by_hand(text, model.memory.salience, states_TD)
        picked = picked_by_hand(scores, N_MEMORY)
        nothing = torch.zeros(words.shape[1])
        carried = torch.stack([nothing if at is None else words[text[at]] for at in picked])
        framed = torch.cat([own[3:4], words[[BOS, *text, EOS]], own[4:] + carried])
        with torch.inference_mode():
            states = lm(inputs_embeds=framed[None], output_hidden_states=True)
        final_TD = states.hidden_states[-1][0]
        close = {"rtol": 1e-4, "atol": 1e-4}
        expected = final_TD[-N_MEMORY:] + carried / GAIN
        places = places_by_hand(picked, len(text))
        angles = [ARC * ((place + 0.5) / DOC_MAX_LENGTH - 0.5) for place in places]
        length = 0.0 if role == "reasoner" else LENGTH / GAIN
        expected[:, :PLACE] = length * torch.tensor([[math.cos(a), math.sin(a)] for a in angles])
        torch.testing.assert_close(encoded.latents_RMD[row], expected, **close)
        torch.testing.assert_close(
            encoded.memory_mean_RD[row], final_TD[-N_MEMORY:].mean(0), **close
        )
        weights = torch.tensor(
            [0.0 if at is None else float(model.memory.token_weight_V[text[at]]) for at in picked]
        )
        expected_weights = weights / max(float(weights.sum()), 1e-9)
        torch.testing.assert_close(encoded.weights_RM[row], expected_weights, **close)


def test_latents_are_the_same_where_something_may_learn(model, tiny_base):
    """The text is then read twice: as far as salience goes, and before the memory tokens."""
    batch = text_batch(TEXTS, n_memory=N_MEMORY, bos=BOS, eos=EOS)
    training = tiny_clara_model(tiny_base, merged=False)
    training.memory, training.latent_gain = model.memory, GAIN
    training.roles.lm.train()
    learning = training.encode(batch, "compressor")
    expected = encode(model, TEXTS)
    for name in ("latents_RMD", "text_mean_RD", "memory_mean_RD", "weights_RM"):
        found, wanted = getattr(learning, name).detach(), getattr(expected, name)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_padded_latents_are_the_unpadded_ones(model):
    together = encode(model, TEXTS).latents_RMD
    for row, text in enumerate(TEXTS):
        alone = encode(model, [text]).latents_RMD[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
@pytest.mark.parametrize("n_memory", [1, 3, 7])
def test_a_prefix_of_the_latents_is_what_fewer_memory_tokens_give(model, n_memory, role):
    whole = encode(model, TEXTS, role=role).latents_RMD[:, :n_memory]
    fewer = encode(model, TEXTS, n_memory, role=role).latents_RMD
    torch.testing.assert_close(whole, fewer, rtol=1e-4, atol=1e-4)


@given(
    texts=st.lists(st.lists(st.integers(0, 9), max_size=40), min_size=1, max_size=3),
    n_memory=st.integers(1, 40),
    by=st.sampled_from(["salience", "rarity"]),
)
@settings(max_examples=60)
def test_the_best_tokens_are_carried_once_each(texts, n_memory, by):
    memory = anchored_memory(torch.randn(10, 3), n_memory=40, line_ends=[LINE_END])
    batch = text_batch(texts, n_memory=n_memory, bos=1, eos=2)
    states_RTD = torch.randn(len(texts), int(batch.text_lengths_R.max()), 3)
    given_states = states_RTD if by == "salience" else None
    found = memory.anchors(batch.ids_RT, batch.text_lengths_R, n_memory, given_states)
    rows = zip(texts, *(one.tolist() for one in found), states_RTD, strict=True)
    for text, at_M, places_M, states_TD in rows:
        carried = [at - 2 for at in at_M if at]
        assert len(set(carried)) == len(carried) == min(n_memory, len(text))
        assert all(0 <= at < len(text) for at in carried)
        assert at_M == [*(at + 2 for at in carried), *[0] * (n_memory - len(carried))]
        if by == "salience":
            inner_TD = states_TD[2 : 2 + len(text)]
            scores = salience_by_hand(text, memory.salience, inner_TD)
        else:
            scores = [float(memory.token_weight_V[i]) for i in text]
        left = [score for at, score in enumerate(scores) if at not in carried]
        taken = [scores[at] for at in carried]
        assert taken == pytest.approx(sorted(taken, reverse=True), abs=2e-3)
        assert not left or min(taken) >= max(left) - 2e-3
        assert places_M == places_by_hand([at - 2 if at else None for at in at_M], len(text))


def test_a_title_is_carried_first(model):
    text = TEXTS[-1]
    batch = text_batch([text], n_memory=3, bos=BOS, eos=EOS)
    states_RTD = model.text_states(batch)
    found = model.memory.anchors(batch.ids_RT, batch.text_lengths_R, 3, states_RTD)
    assert set(found.at_RM[0, :2].tolist()) == {2, 3}
    late = [*range(40, 40 + LONGEST_TITLE), LINE_END, 90]
    salience = Salience(100, 3)
    salience.spell(["\n" if token == LINE_END else " a" for token in range(100)])
    scores = salience(torch.tensor([late]), torch.tensor([len(late)]), torch.ones(1, len(late), 3))
    assert scores.unique().tolist() == [0.0]


def test_the_tokens_of_a_word_are_carried_together(model):
    """Whichever of them is salient; and of words that are equal in that, the first comes first."""
    text = [20, 22, 24, 25, 28, 31, 30]
    salience = model.memory.salience
    states_TD = torch.randn(len(text), len(salience.mean_D))
    scores = salience(torch.tensor([text]), torch.tensor([len(text)]), states_TD[None])[0].tolist()
    assert scores[2] == scores[3] == scores[4] == scores[5]
    assert len(set(scores)) == 3
    by_hand = salience_by_hand(text, salience, states_TD)
    assert max(by_hand[2:6]) == pytest.approx(scores[2], abs=1e-4)


def test_a_word_that_stood_before_is_not_spelled_again(model):
    """Of a word carried before, the first token may be again, and the others hardly ever."""
    text = [20, 22, 50, 51, 20, 22, 24]
    salience = model.memory.salience
    states_TD = torch.randn(1, len(salience.mean_D)).expand(1, len(text), -1)
    ids_RT = torch.tensor([text])
    whole = salience(ids_RT, torch.tensor([len(text)]), states_TD)[0]
    begins = salience.begins_word_V[ids_RT[0]]
    again = [at for at in range(4, 7) if not begins[at]]
    assert again
    assert all(whole[at] < whole[4] - 3 for at in again)


@given(st.lists(st.lists(st.integers(0, 5), min_size=7, max_size=7), min_size=1, max_size=4))
def test_seen_before(texts):
    expected = [[token in text[:at] for at, token in enumerate(text)] for text in texts]
    assert seen_before(torch.tensor(texts)).tolist() == expected


def test_rare_tokens_weigh_more():
    memory = MemoryTable(4, 3, n_vocabulary=3)
    memory.count(torch.tensor([0, 1, 999]), scale=1e-3)
    assert memory.token_weight_V.tolist() == pytest.approx([1.0, 0.5, 1e-3 / (1e-3 + 0.999)])


def test_what_is_carried_is_kept_exactly_on_disk(tiny_base, tiny_model, tmp_path):
    """Rounded to bf16 many tokens would tie, and other ones be carried than in training."""
    words = plain_lm(tiny_base).get_input_embeddings().weight
    memory = anchored_memory(words)
    given = load_checkpoint(tiny_model)
    stored = replace(
        given,
        card=replace(given.card, memory="anchored"),
        token_weight=memory.token_weight_V,
        salience=memory.salience.state_dict(),
    )
    save_checkpoint(tmp_path, stored)
    again = memory_table(load_checkpoint(tmp_path), words)
    assert again.anchored
    assert torch.equal(again.token_weight_V, memory.token_weight_V)
    for name, tensor in memory.salience.state_dict().items():
        assert torch.equal(again.salience.state_dict()[name], tensor)
    assert load_checkpoint(tmp_path).fingerprint() == stored.fingerprint()
    other = replace(stored, salience=anchored_memory(words, seed=9).salience.state_dict())
    assert other.fingerprint() != stored.fingerprint() != given.fingerprint()
    for earlier in ({}, {"around_VK": torch.zeros(3, 5)}):
        save_checkpoint(tmp_path, replace(stored, salience=earlier))
        with pytest.raises(FormatError, match=r"by an earlier version.*train it anew"):
            load_checkpoint(tmp_path)


def test_prompts_take_the_latents_in_the_order_of_the_text(model, tiny_base):
    encoded = encode(model, TEXTS[2:3] + TEXTS[5:], 5)
    read = model.in_reading_order(encoded.latents_RMD)
    expected, orders = [], []
    for text, latents_MD in zip(TEXTS[2:3] + TEXTS[5:], encoded.latents_RMD, strict=True):
        states_TD = states_by_hand(tiny_base, model, text)
        picked = picked_by_hand(salience_by_hand(text, model.memory.salience, states_TD), 5)
        order = sorted(range(5), key=picked.__getitem__)
        expected.append(latents_MD[order])
        orders.append(order)
    assert any(order != sorted(order) for order in orders)
    assert torch.equal(read, torch.cat(expected))
    learned = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    assert torch.equal(tiny_clara_model(tiny_base).in_reading_order(learned), learned.view(10, 3))


@torch.inference_mode()
def test_latents_stand_as_far_apart_as_what_they_carry(model):
    text = TEXTS[2]
    latents_RMD = encode(model, [text, TEXTS[0]], 5).latents_RMD
    picked = picked_by_hand(salience_by_hand(text, model.memory.salience, states_of(model)), 5)
    gaps = [min(b - a, FURTHEST) for a, b in itertools.pairwise(sorted(picked))]
    assert len(set(gaps)) > 1
    # Of the second text three are carried, side by side, and two memory tokens carry nothing.
    ids = [1, 9, *[SLOT] * 5, SEP, *[SLOT] * 5, SEP, 8, 8]
    expected = [1, 1, 1, *gaps, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    latents_SD = model.in_reading_order(latents_RMD)
    embedded_BTD, steps_BT = model.embed(torch.tensor([ids]), latents_SD)
    assert steps_BT.tolist() == [expected]
    spliced = embedded_BTD[0][torch.tensor(ids) == SLOT]
    assert spliced[:, :PLACE].abs().max() == 0
    torch.testing.assert_close(spliced[:, PLACE:], latents_SD[:, PLACE:] * GAIN)
    assert model.embed(torch.tensor([[1, 2]]), None)[1] is None


def states_of(model):
    """What salience reads of the long text."""
    batch = text_batch([TEXTS[2]], n_memory=1, bos=BOS, eos=EOS)
    return model.text_states(batch)[0, 2 : 2 + len(TEXTS[2])]


@pytest.mark.parametrize("stored", ["bf16", "int8", "int4"])
def test_places_outlive_storage(stored):
    """64 latents as large as those of the default model, in any order, at any prefix."""
    generator = torch.Generator().manual_seed(0)
    n_memory, n_places, gain = 64, 256, 0.03
    places_RM = torch.stack(
        [torch.randperm(n_places, generator=generator)[:n_memory] for _ in range(20)]
    )
    latents = 4.6 * torch.randn(20, n_memory, 576, generator=generator)
    marked = write_places(latents, places_RM, n_places=n_places, length=LENGTH / gain)
    rounded = dequantize(quantize(marked, stored), stored, width=576)
    for n in (16, n_memory):
        found = in_text_order(rounded[:, :n])
        order = places_RM[:, :n].argsort(dim=1)
        expected = torch.stack([one[at] for one, at in zip(rounded, order, strict=True)])
        gaps = places_RM[:, :n].sort(dim=1).values.diff(dim=1).clamp(max=FURTHEST)
        read = torch.stack([steps(one, n_places=n_places)[1:] for one in found])
        if stored == "bf16":
            assert torch.equal(found, expected)
            assert torch.equal(read, gaps)
        if stored == "int8":
            assert torch.equal(found, expected)
            assert (read - gaps).abs().max() <= 1
            assert (read == gaps).float().mean() > 0.9
        # Where each comes, after where it should: four bits move it by a few places at most.
        came = torch.cdist(found[..., PLACE:], expected[..., PLACE:]).argmin(2)
        moved = (came - torch.arange(n)).abs()
        assert moved.max() <= 4
        assert moved.float().mean() < 1
    # No document gains or loses by where its latents stand.
    lengths = marked[..., :PLACE].norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, LENGTH / gain))


def test_gradients_reach_every_latent_but_its_place():
    latents = torch.randn(2, 4, 6, requires_grad=True)
    places_RM = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]])
    marked = write_places(latents, places_RM, n_places=4, length=LENGTH / GAIN)
    factors = torch.arange(2 * 4 * 6.0).view(2, 4, 6)
    (in_text_order(marked) * factors).sum().backward()
    expected = torch.stack([factors[row][places_RM[row]] for row in range(2)])
    expected[..., :PLACE] = 0.0
    assert torch.equal(latents.grad, expected)
