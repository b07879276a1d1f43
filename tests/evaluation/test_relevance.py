from __future__ import annotations

from itertools import permutations
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclara.evaluation.relevance import (
    RankingScores,
    expected_random_recall,
    ndcg_at,
    precision_at,
    ranking_scores,
    recall_at,
    reciprocal_rank,
)


@st.composite
def rankings(draw):
    n_candidates = draw(st.integers(1, 12))
    ranked = draw(st.permutations(range(n_candidates)))[: draw(st.integers(0, n_candidates))]
    relevant = draw(st.sets(st.integers(0, n_candidates - 1)))
    n_relevant = len(relevant) + draw(st.integers(0, 3))
    return ranked, relevant, max(n_relevant, 1)


def gain_of(order, relevant, k):
    return sum(
        log(2) / log(rank + 2)
        for rank in range(k)
        if order[rank : rank + 1] and order[rank] in relevant
    )


def test_a_ranking_by_hand():
    # Relevant at ranks 2 and 4, a third one was not retrieved.
    found = ranking_scores([7, 3, 0, 5, 1], {3, 5}, 3)
    assert found == pytest.approx(
        RankingScores(
            recall_1=0,
            recall_3=1 / 3,
            recall_5=2 / 3,
            precision_1=0,
            precision_3=1 / 3,
            precision_5=2 / 5,
            mrr=1 / 2,
            ndcg_10=(0.6309297535714575 + 0.43067655807339306) / (1 + 0.6309297535714575 + 0.5),
        )
    )


def test_nothing_found():
    assert ranking_scores([0, 1], {2}, 1) == (0,) * 8
    assert ranking_scores([], set(), 2) == (0,) * 8


def test_precision_counts_over_k_also_where_fewer_are_ranked():
    assert precision_at([0, 1], {0, 1}, 5) == 2 / 5


@given(rankings())
def test_scores_are_bounded_and_recall_grows_with_k(case):
    ranked, relevant, n_relevant = case
    scores = ranking_scores(ranked, relevant, n_relevant)
    assert all(0 <= value <= 1 + 1e-12 for value in scores)
    recalls = [recall_at(ranked, relevant, n_relevant, k) for k in range(1, 15)]
    assert recalls == sorted(recalls)
    assert recalls[-1] == len(relevant & set(ranked)) / n_relevant
    for k in range(1, 15):
        hits = round(precision_at(ranked, relevant, k) * k)
        assert recall_at(ranked, relevant, n_relevant, k) == hits / n_relevant


@given(rankings(), st.integers(1, 12))
def test_ndcg_agrees_with_the_best_of_all_orders(case, k):
    ranked, relevant, n_relevant = case
    # Those that exist and were not retrieved, at positions of their own.
    missing = {-1 - at for at in range(n_relevant - len(relevant))}
    ideal = gain_of(sorted(relevant | missing), relevant | missing, k)
    assert ndcg_at(ranked, relevant, n_relevant, k) == pytest.approx(
        gain_of(ranked, relevant, k) / ideal
    )


@given(st.sets(st.integers(0, 4), min_size=1), st.integers(1, 6))
def test_no_order_of_all_candidates_beats_the_ideal(relevant, k):
    best = max(ndcg_at(order, relevant, len(relevant), k) for order in permutations(range(5)))
    assert best == pytest.approx(1)


@given(st.integers(1, 8), st.integers(0, 8))
def test_all_relevant_ones_first_is_perfect(n_relevant, n_others):
    ranked = list(range(n_relevant + n_others))
    relevant = range(n_relevant)
    scores = ranking_scores(ranked, relevant, n_relevant)
    assert (scores.mrr, scores.ndcg_10, scores.precision_1) == (1, 1, 1)
    for k in (1, 3, 5):
        assert recall_at(ranked, relevant, n_relevant, k) == min(k, n_relevant) / n_relevant
        assert precision_at(ranked, relevant, k) == min(k, n_relevant) / k


@given(rankings(), st.integers(1, 12))
def test_an_earlier_hit_never_lowers_ndcg(case, at):
    ranked, relevant, n_relevant = case
    if at < len(ranked) and ranked[at] in relevant:
        moved = [*ranked[: at - 1], ranked[at], ranked[at - 1], *ranked[at + 1 :]]
        after = ndcg_at(moved, relevant, n_relevant)
        assert after >= ndcg_at(ranked, relevant, n_relevant) - 1e-12
        assert reciprocal_rank(moved, relevant) >= reciprocal_rank(ranked, relevant)


@pytest.mark.parametrize("n_candidates", range(1, 6))
def test_expected_recall_is_the_mean_over_all_orders(n_candidates):
    orders = list(permutations(range(n_candidates)))
    for n_among in range(n_candidates + 1):
        n_relevant = max(n_among, 1) + 1
        for k in range(1, n_candidates + 3):
            found = [recall_at(order, range(n_among), n_relevant, k) for order in orders]
            expected = expected_random_recall(n_candidates, n_among, n_relevant, k)
            assert expected == pytest.approx(sum(found) / len(found))


def test_no_candidates_recall_nothing():
    assert expected_random_recall(0, 0, 2, 5) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recall_at([0], set(), 0, 1), "leave it out"),
        (lambda: ndcg_at([0], set(), 0), "leave it out"),
        (lambda: ranking_scores([0], set(), 0), "leave it out"),
        (lambda: expected_random_recall(3, 0, 0, 1), "leave it out"),
        (lambda: recall_at([0], {0, 1}, 1, 1), "more than the 1"),
        (lambda: expected_random_recall(3, 2, 1, 1), "more than the 1"),
        (lambda: expected_random_recall(1, 2, 2, 1), "2 of 1 candidates"),
        (lambda: recall_at([0], {0}, 1, 0), "at least 1"),
        (lambda: precision_at([0], {0}, 0), "at least 1"),
        (lambda: expected_random_recall(3, 1, 1, 0), "at least 1"),
        (lambda: recall_at([0, 0], {0}, 1, 2), "ranked twice"),
    ],
)
def test_contradictions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
