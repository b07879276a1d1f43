"""Scores of questions with rows of latents."""

from __future__ import annotations

import torch

from openclara.index.comparing import queries


def made(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6))


def test_vectors_without_weight_are_not_compared_and_change_no_score():
    asked, rows = made(2, 6, 8), made(5, 3, 8)
    asked[0, [1, 4]] = 0.0
    asked[1, [0, 1, 2]] = 0.0
    late = queries("late", asked, n_memory=3)
    unit = torch.nn.functional.normalize(rows, dim=-1)
    expected = torch.einsum("qpd,nmd->qpnm", asked, unit).amax(-1).sum(1)
    torch.testing.assert_close(late.scores(rows, late.norms(rows)), expected)
    for question, n_kept in ((0, 4), (1, 3)):
        torch.testing.assert_close(late.exactly(question, rows), expected[question])
        alone = late.only(question)
        assert torch.equal(alone.exactly(0, rows), late.exactly(question, rows))
        vectors, weights = late.vectors(question)
        assert vectors.shape == (n_kept, 1, 8)
        assert weights.tolist() == sorted(weights.tolist(), reverse=True)
        assert weights[-1] > 0


def test_a_question_without_any_weight_scores_nothing():
    late = queries("late", torch.zeros(1, 4, 8), n_memory=3)
    assert late.exactly(0, made(5, 3, 8)).tolist() == [0.0] * 5
    assert late.vectors(0)[0].shape == (1, 1, 8)
