"""The logit lens and its neighbours against transformers alone."""

from __future__ import annotations

import pytest
import torch
from tiny import N_MEMORY, anchored_memory, plain_lm, random_roles, tiny_clara_model

from openclara.model.lens import examine, logit_lens, mean_pairwise_cosine, nearest
from openclara.model.places import PLACE

BOS, EOS, GAIN = 1, 2, 0.5
TEXT = [20, 30, 40, 50, 60, 20, 70, 80, 90]
FRAME = {"bos": BOS, "eos": EOS}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def learned(tiny_base):
    return tiny_clara_model(tiny_base)


@pytest.fixture(scope="module")
def anchored(tiny_base):
    built = tiny_clara_model(tiny_base)
    built.memory, built.latent_gain = anchored_memory(built.vocabulary.weight), GAIN
    return built.eval()


@pytest.fixture(scope="module")
def halfway(tiny_base):
    """Its latents enter the generator after the first of two layers."""
    built = tiny_clara_model(tiny_base, latent_layer=1)
    built.memory = anchored_memory(built.vocabulary.weight)
    return built.eval()


def states_by_hand(model, base, role, carried_MD):
    """Final states of ENC, BOS, text, EOS, memory as transformers computes them."""
    lm = plain_lm(base, random_roles(plain_lm(base))[role])
    words, own = lm.get_input_embeddings().weight, model.memory.weight.detach()
    framed = torch.cat([own[3:4], words[[BOS, *TEXT, EOS]], own[4:] + carried_MD])
    with torch.inference_mode():
        return lm(inputs_embeds=framed[None], output_hidden_states=True).hidden_states[-1][0]


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
def test_a_learned_latent_is_its_state(learned, tiny_base, role):
    found = examine(learned, TEXT, role, n_memory=N_MEMORY, **FRAME)
    states = states_by_hand(learned, tiny_base, role, 0.0)
    torch.testing.assert_close(found.text_states_TD, states[2 : 2 + len(TEXT)], **CLOSE)
    torch.testing.assert_close(found.states_MD, states[-N_MEMORY:], **CLOSE)
    assert torch.equal(found.latents_MD, found.states_MD)
    assert found.anchors == ()
    assert found.order == tuple(range(N_MEMORY))


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
def test_an_anchored_latent_is_its_state_and_what_it_carries(anchored, tiny_base, role):
    found = examine(anchored, TEXT, role, n_memory=N_MEMORY, **FRAME)
    if role == "compressor":
        lm = plain_lm(tiny_base, random_roles(plain_lm(tiny_base))[role])
        # Two thirds of its two layers.
        lm.model.layers = lm.model.layers[:1]
        own, embedding = anchored.memory.weight.detach(), lm.get_input_embeddings().weight
        framed = torch.cat([own[3:4], embedding[[BOS, *TEXT, EOS]]])
        with torch.inference_mode():
            states = lm(inputs_embeds=framed[None], output_hidden_states=True).hidden_states[-1]
        inner = states[:, 2 : 2 + len(TEXT)]
        lengths = torch.tensor([len(TEXT)])
        scores = anchored.memory.salience(torch.tensor([TEXT]), lengths, inner)[0]
    else:
        scores = anchored.memory.token_weight_V[torch.tensor(TEXT)]
    expected = sorted(range(len(TEXT)), key=lambda at: -float(scores[at]))[:N_MEMORY]
    assert list(found.anchors) == expected
    assert [expected[number] for number in found.order] == sorted(expected)
    words = plain_lm(tiny_base).get_input_embeddings().weight
    carried_MD = torch.stack([words[TEXT[at]] for at in expected])
    states = states_by_hand(anchored, tiny_base, role, carried_MD)
    assert (found.states_MD[:, :PLACE] == 0).all()
    beyond = (slice(None), slice(PLACE, None))
    torch.testing.assert_close(found.states_MD[beyond], states[-N_MEMORY:][beyond], **CLOSE)
    difference = (found.latents_MD - found.states_MD)[beyond]
    torch.testing.assert_close(difference, carried_MD[beyond] / GAIN, **CLOSE)


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
def test_a_latent_that_enters_halfway_is_a_state_in_spreads(halfway, tiny_base, role):
    found = examine(halfway, TEXT, role, n_memory=N_MEMORY, **FRAME)
    lm = plain_lm(tiny_base, random_roles(plain_lm(tiny_base))[role])
    words, own = lm.get_input_embeddings().weight, halfway.memory.weight.detach()
    salience = halfway.memory.salience
    framed = torch.cat([own[3:4], words[[BOS, *TEXT, EOS]]])
    with torch.inference_mode():
        # What goes into the second layer; the last of `hidden_states` is after the norm.
        read = lm(inputs_embeds=framed[None], output_hidden_states=True).hidden_states[1]
    if role == "compressor":
        inner, lengths = read[:, 2 : 2 + len(TEXT)], torch.tensor([len(TEXT)])
        scores = salience(torch.tensor([TEXT]), lengths, inner)[0]
    else:
        scores = halfway.memory.token_weight_V[torch.tensor(TEXT)]
    expected = sorted(range(len(TEXT)), key=lambda at: -float(scores[at]))[:N_MEMORY]
    assert list(found.anchors) == expected
    # Each memory token reads the text from where the token stands that it carries.
    framed = torch.cat([framed, own[4:] + words[[TEXT[at] for at in expected]]])
    positions = torch.tensor([[*range(len(TEXT) + 3), *(at + 2 for at in expected)]])
    with torch.inference_mode():
        states = lm(
            inputs_embeds=framed[None],
            position_ids=positions,
            attention_mask=torch.ones_like(positions),
            output_hidden_states=True,
        ).hidden_states[1][0]
    standard = (states - salience.mean_D) / salience.spread_D
    torch.testing.assert_close(found.text_states_TD, standard[2 : 2 + len(TEXT)], **CLOSE)
    beyond = (slice(None), slice(PLACE, None))
    torch.testing.assert_close(found.latents_MD[beyond], standard[-N_MEMORY:][beyond], **CLOSE)
    assert torch.equal(found.latents_MD[beyond], found.states_MD[beyond])
    stored = examine(halfway, TEXT, role, n_memory=N_MEMORY, stored_MD=found.latents_MD, **FRAME)
    assert torch.equal(stored.latents_MD, found.latents_MD)


def test_the_lens_of_a_state_halfway_is_the_norm_and_the_head(halfway, tiny_base):
    states_MD = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    _, ids_ML = logit_lens(halfway, states_MD, 3)
    salience, lm = halfway.memory.salience, plain_lm(tiny_base)
    with torch.inference_mode():
        logits = lm.lm_head(lm.model.norm(states_MD * salience.spread_D + salience.mean_D))
    assert torch.equal(ids_ML, logits.topk(3).indices)


def test_a_token_that_finds_nothing_to_carry(anchored):
    found = examine(anchored, [20], "compressor", n_memory=3, **FRAME)
    assert found.anchors == (0, None, None)
    assert found.order == (0, 1, 2)
    assert torch.equal(found.latents_MD[1:, PLACE:], found.states_MD[1:, PLACE:])


def test_stored_latents_are_examined_as_they_are_stored(anchored):
    fresh = examine(anchored, TEXT, "compressor", n_memory=4, **FRAME)
    rounded_MD = fresh.latents_MD.bfloat16()
    stored = examine(anchored, TEXT, "compressor", n_memory=4, stored_MD=rounded_MD, **FRAME)
    assert torch.equal(stored.latents_MD, rounded_MD.float())
    carried_MD = (fresh.latents_MD - fresh.states_MD)[:, PLACE:]
    expected = rounded_MD.float()[:, PLACE:] - carried_MD
    torch.testing.assert_close(stored.states_MD[:, PLACE:], expected, **CLOSE)
    assert (stored.anchors, stored.order) == (fresh.anchors, fresh.order)


def test_the_lens_is_the_head_of_the_base(learned, tiny_base):
    states_MD = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    probabilities_ML, ids_ML = logit_lens(learned, states_MD, 7)
    # The tiny base ties its head to its input embedding.
    words = plain_lm(tiny_base).get_input_embeddings().weight.double()
    for state, probabilities, ids in zip(states_MD, probabilities_ML, ids_ML, strict=True):
        logits = words @ state.double()
        expected = (logits - logits.logsumexp(0)).exp()
        assert ids.tolist() == expected.argsort(descending=True)[:7].tolist()
        torch.testing.assert_close(probabilities.double(), expected[ids], rtol=1e-4, atol=1e-6)


def test_what_is_written_next_is_what_the_lens_reads(tiny_base, learned):
    """A text state under the bare base decodes to what the base itself would write after it."""
    lm = plain_lm(tiny_base)
    with torch.inference_mode():
        out = lm(input_ids=torch.tensor([TEXT]), output_hidden_states=True)
    _, ids = logit_lens(learned, out.hidden_states[-1][0], 1)
    assert ids[:, 0].tolist() == out.logits[0].argmax(-1).tolist()


def test_nearest_by_hand():
    generator = torch.Generator().manual_seed(0)
    states_MD, text_TD = (
        torch.randn(4, 8, generator=generator),
        torch.randn(6, 8, generator=generator),
    )
    cosines, positions = nearest(states_MD, text_TD)
    for m, state in enumerate(states_MD.double()):
        row = [float(state @ t / (state.norm() * t.norm())) for t in text_TD.double()]
        assert positions[m] == row.index(max(row))
        assert float(cosines[m]) == pytest.approx(max(row), rel=1e-5)
    assert nearest(3.0 * text_TD, text_TD)[1].tolist() == list(range(6))
    with pytest.raises(ValueError, match="no nearest"):
        nearest(states_MD, text_TD[:0])


def test_mean_pairwise_cosine_by_hand():
    latents_MD = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    pairs = [
        torch.cosine_similarity(latents_MD[i].double(), latents_MD[j].double(), dim=0)
        for i in range(5)
        for j in range(i)
    ]
    assert mean_pairwise_cosine(latents_MD) == pytest.approx(float(sum(pairs)) / 10, abs=1e-12)
    assert mean_pairwise_cosine(latents_MD[:1]) is None
    assert mean_pairwise_cosine(latents_MD[:1].repeat(3, 1)) == pytest.approx(1.0)
