"""How well a ranking finds what is relevant to one question; means are the caller's.

A question without anything relevant has no recall and is refused: leave it out. The evaluator
published with CLaRa counts it as 0 instead.
"""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class RankingScores(NamedTuple):
    """Metrics of one ranking, each in [0, 1]; the mean of `mrr` over questions is the MRR."""

    recall_1: float
    recall_3: float
    recall_5: float
    precision_1: float
    precision_3: float
    precision_5: float
    mrr: float
    ndcg_10: float


def recall_at(ranked: Sequence[int], relevant: Collection[int], n_relevant: int, k: int) -> float:
    """Share of all that is relevant found among the first k.

    Args:
        ranked: Positions of the candidates, best first, distinct.
        relevant: Positions of the relevant candidates.
        n_relevant: How many relevant ones exist; more than `relevant` holds where the candidates
            were retrieved and miss some.
        k: How many of the ranking count.

    Raises:
        ValueError: Nothing is relevant, or an argument contradicts another.
    """
    _require_relevant(relevant, n_relevant)
    return sum(_gains(ranked, relevant, k)) / n_relevant


def precision_at(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Share of relevant ones among the first k, over k also where fewer are ranked.

    Args:
        ranked: Positions of the candidates, best first, distinct.
        relevant: Positions of the relevant candidates.
        k: How many of the ranking count.

    Raises:
        ValueError: k is not positive, or a position is ranked twice.
    """
    return sum(_gains(ranked, relevant, k)) / k


def reciprocal_rank(ranked: Sequence[int], relevant: Collection[int]) -> float:
    """1 over the rank of the first relevant one, 0 where none is ranked (Voorhees, TREC-8 1999).

    Args:
        ranked: Positions of the candidates, best first, distinct.
        relevant: Positions of the relevant candidates.
    """
    ranks = (rank for rank, position in enumerate(ranked, 1) if position in relevant)
    return 1 / next(ranks, float("inf"))


def ndcg_at(
    ranked: Sequence[int], relevant: Collection[int], n_relevant: int, k: int = 10
) -> float:
    """Normalised discounted cumulative gain of the first k (Järvelin & Kekäläinen 2002).

    Gains are 0 or 1 and discounted by log2(rank + 1) (Burges et al. 2005), as trec_eval does;
    the article itself discounts from the third rank on. The ideal ranking starts with all
    relevant ones that exist, so what the candidates miss lowers the value.

    Args:
        ranked: Positions of the candidates, best first, distinct.
        relevant: Positions of the relevant candidates.
        n_relevant: How many relevant ones exist.
        k: How many of the ranking count.

    Raises:
        ValueError: Nothing is relevant, or an argument contradicts another.
    """
    _require_relevant(relevant, n_relevant)
    found = _discounted(_gains(ranked, relevant, k))
    return found / _discounted([True] * min(k, n_relevant))


def ranking_scores(
    ranked: Sequence[int], relevant: Collection[int], n_relevant: int
) -> RankingScores:
    """Score one ranking by all metrics.

    Args:
        ranked: Positions of the candidates, best first, distinct.
        relevant: Positions of the relevant candidates.
        n_relevant: How many relevant ones exist; more than `relevant` holds where the candidates
            were retrieved and miss some.

    Raises:
        ValueError: Nothing is relevant, or an argument contradicts another.
    """
    return RankingScores(
        recall_1=recall_at(ranked, relevant, n_relevant, 1),
        recall_3=recall_at(ranked, relevant, n_relevant, 3),
        recall_5=recall_at(ranked, relevant, n_relevant, 5),
        precision_1=precision_at(ranked, relevant, 1),
        precision_3=precision_at(ranked, relevant, 3),
        precision_5=precision_at(ranked, relevant, 5),
        mrr=reciprocal_rank(ranked, relevant),
        ndcg_10=ndcg_at(ranked, relevant, n_relevant),
    )


def expected_random_recall(
    n_candidates: int, n_relevant_among: int, n_relevant: int, k: int
) -> float:
    """Recall at k that a uniformly random order of the candidates has in expectation.

    Every relevant candidate is among the first k with probability k / n_candidates.

    Args:
        n_candidates: How many candidates are ranked.
        n_relevant_among: How many of them are relevant.
        n_relevant: How many relevant ones exist.
        k: How many of the ranking count.

    Raises:
        ValueError: Nothing is relevant, or an argument contradicts another.
    """
    _require_relevant(range(n_relevant_among), n_relevant)
    _require_positive(k)
    if n_relevant_among > n_candidates:
        raise ValueError(f"{n_relevant_among} of {n_candidates} candidates cannot be relevant")
    if not n_candidates:
        return 0.0
    return min(k, n_candidates) / n_candidates * n_relevant_among / n_relevant


def _gains(ranked: Sequence[int], relevant: Collection[int], k: int) -> list[bool]:
    _require_positive(k)
    first = ranked[:k]
    if len(set(first)) < len(first):
        raise ValueError("a position is ranked twice; rank each candidate once")
    return [position in relevant for position in first]


def _discounted(gains: Sequence[bool]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _require_positive(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")


def _require_relevant(relevant: Collection[int], n_relevant: int) -> None:
    if n_relevant < 1:
        raise ValueError("a question without relevant candidates cannot be scored; leave it out")
    n_among = len(set(relevant))
    if n_among > n_relevant:
        raise ValueError(
            f"{n_among} candidates are relevant, more than the {n_relevant} that exist"
        )
