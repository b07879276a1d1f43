"""Straight-through top-k: hard forward, soft backward, against a loop over the slots."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openclara.model.topk import select, straight_through_topk


@st.composite
def cases(draw):
    """Scores with many ties, how many to choose, a temperature, and an upstream gradient."""
    n_questions, n_documents = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    score = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.26, 0.3, 0.9]) | st.floats(-1, 1, width=32)
    rows = draw(
        st.lists(
            st.lists(score, min_size=n_documents, max_size=n_documents),
            min_size=n_questions,
            max_size=n_questions,
        )
    )
    k = draw(st.integers(1, n_documents))
    seed = draw(st.integers(0, 2**16))
    upstream = torch.randn(
        n_questions, k, n_documents, generator=torch.Generator().manual_seed(seed)
    )
    return torch.tensor(rows), k, draw(st.sampled_from([0.02, 0.3, 1.0])), upstream


def soft_by_hand(scores_BN, chosen_BK, temperature):
    """p_j = softmax(z + log(1 - taken + 1e-8)), one slot after the other, in float64."""
    z_BN = scores_BN.double() / temperature
    taken_BN = torch.zeros_like(z_BN)
    slots = []
    for j in range(chosen_BK.shape[1]):
        slots.append(torch.softmax(z_BN + torch.log(1 - taken_BN + 1e-8), dim=-1))
        one_hot = torch.nn.functional.one_hot(chosen_BK[:, j], z_BN.shape[1])
        taken_BN = torch.clamp(taken_BN + one_hot, max=1.0)
    return torch.stack(slots, dim=1)


@given(cases())
@settings(max_examples=60)
def test_forward_is_exactly_one_hot_by_descending_score(case):
    scores_BN, k, temperature, _ = case
    weights_BKN = straight_through_topk(scores_BN, k=k, temperature=temperature)
    chosen_BK = weights_BKN.argmax(-1)
    one_hot = torch.nn.functional.one_hot(chosen_BK, scores_BN.shape[1]).float()
    assert torch.equal(weights_BKN, one_hot)
    assert all(len(set(row)) == k for row in chosen_BK.tolist())
    best_BK = scores_BN.sort(dim=-1, descending=True).values[:, :k]
    assert torch.equal(scores_BN.gather(1, chosen_BK), best_BK)


def test_rounding_never_shows_in_the_forward_value():
    """Adding the soft weights to the hard ones before taking them away would lose bits."""
    scores_BN = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    weights_BKN = straight_through_topk(scores_BN, k=8, temperature=0.7)
    assert set(weights_BKN.unique().tolist()) == {0.0, 1.0}


@given(cases())
@settings(max_examples=60)
def test_gradient_is_that_of_the_soft_weights(case):
    scores_BN, k, temperature, upstream_BKN = case
    ours = scores_BN.clone().requires_grad_()
    weights_BKN = straight_through_topk(ours, k=k, temperature=temperature)
    (weights_BKN * upstream_BKN).sum().backward()
    theirs = scores_BN.clone().double().requires_grad_()
    soft_BKN = soft_by_hand(theirs, weights_BKN.detach().argmax(-1), temperature)
    (soft_BKN * upstream_BKN).sum().backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=2e-3)


def test_an_item_already_taken_keeps_some_soft_weight():
    """It is penalised by 18.4 nats, not excluded: far ahead, it still pulls at the second slot."""
    scores = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weights = straight_through_topk(scores, k=2, temperature=0.02)
    weights[0, 1, 0].backward()
    p = torch.softmax(torch.tensor([50.0 + torch.log(torch.tensor(1e-8)), 0.0]), 0)
    assert p[0] > 0.99
    torch.testing.assert_close(scores.grad[0, 0], p[0] * p[1] / 0.02, rtol=1e-3, atol=1e-9)


def test_temperature_zero_is_clamped():
    scores = torch.tensor([[0.3, 0.2]], requires_grad=True)
    weights = straight_through_topk(scores, k=2, temperature=0.0)
    assert torch.equal(weights, torch.eye(2).unsqueeze(0))
    weights.sum().backward()
    assert torch.isfinite(scores.grad).all()


def test_select_takes_the_chosen_latents_unchanged():
    generator = torch.Generator().manual_seed(0)
    latents_BNMD = torch.randn(2, 4, 3, 5, generator=generator)
    weights_BKN = straight_through_topk(torch.randn(2, 4, generator=generator), k=3)
    chosen_BK = weights_BKN.argmax(-1)
    expected = torch.stack([latents_BNMD[b, chosen_BK[b]] for b in range(2)])
    assert torch.equal(select(weights_BKN, latents_BNMD), expected)
