"""Scores against sums written out, in float64."""

from __future__ import annotations

import torch

from openclara.model.scoring import cosine_scores, late_query, late_scores


def test_scores_are_cosines_of_the_flattened_latents():
    generator = torch.Generator().manual_seed(0)
    query_BMD = torch.randn(2, 3, 5, generator=generator).bfloat16()
    latents_BNMD = torch.randn(2, 4, 3, 5, generator=generator).bfloat16()
    scores_BN = cosine_scores(query_BMD, latents_BNMD)
    assert scores_BN.dtype == torch.float32
    for b in range(2):
        for n in range(4):
            a, c = query_BMD[b].double().flatten(), latents_BNMD[b, n].double().flatten()
            expected = (a @ c) / (a.norm() * c.norm())
            torch.testing.assert_close(scores_BN[b, n].double(), expected, rtol=1e-5, atol=1e-6)


def late_case():
    generator = torch.Generator().manual_seed(0)
    query_BPD = torch.randn(2, 3, 5, generator=generator)
    weights_BP = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    return query_BPD, weights_BP, torch.randn(2, 4, 6, 5, generator=generator)


def test_late_scores_are_weighted_best_cosines():
    query_BPD, weights_BP, latents_BNMD = late_case()
    scores_BN = late_scores(query_BPD.bfloat16(), weights_BP, latents_BNMD.bfloat16())
    assert scores_BN.dtype == torch.float32
    for b in range(2):
        for n in range(4):
            expected = 0.0
            for p in range(3):
                q = query_BPD[b, p].bfloat16().double()
                cosines = [
                    float(q @ d / (q.norm() * d.norm()))
                    for d in latents_BNMD[b, n].bfloat16().double()
                ]
                expected += float(weights_BP[b, p]) * max(cosines)
            assert abs(float(scores_BN[b, n]) - expected) < 1e-5


def test_late_scores_do_not_depend_on_the_slot():
    query_BPD, weights_BP, latents_BNMD = late_case()
    turned = late_scores(query_BPD, weights_BP, latents_BNMD.flip(2))
    torch.testing.assert_close(turned, late_scores(query_BPD, weights_BP, latents_BNMD))


def test_a_text_compared_with_itself_scores_one():
    _, _, latents_BNMD = late_case()
    weights_BP = torch.full((2, 6), 1 / 6)
    scores_BN = late_scores(latents_BNMD[:, 1], weights_BP, latents_BNMD)
    torch.testing.assert_close(scores_BN[:, 1], torch.ones(2))
    assert scores_BN.argmax(1).tolist() == [1, 1]


def test_the_query_holds_its_weights():
    query_BPD, weights_BP, _ = late_case()
    found = late_query(query_BPD, weights_BP)
    torch.testing.assert_close(found.norm(dim=-1), weights_BP)
