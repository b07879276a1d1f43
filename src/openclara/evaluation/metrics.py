"""Answer metrics by the SQuAD rules, and intervals by resampling questions."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

_CLOSED = frozenset({"yes", "no", "noanswer"})
_BOOLEANS = {"True": "yes", "False": "no"}

RESAMPLES = 2000
"""Bootstrap resamples behind every interval."""
_PICKS_AT_ONCE = 1 << 20


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class AnswerScores(NamedTuple):
    """How well one prediction answers one question, each in [0, 1]."""

    exact: float
    f1: float
    cover: float


def normalise(text: str) -> str:
    """Lowercase, without ASCII punctuation, English articles and repeated blanks (SQuAD 1.1)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 where both normalise to the same text."""
    return float(normalise(prediction) == normalise(answer))


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall, tokens counted with multiplicity."""
    return token_f1(normalise(prediction).split(), normalise(answer).split())


def token_f1(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of two multisets of tokens; two empty ones are equal."""
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * shared / (len(predicted) + len(expected))


def cover_match(prediction: str, answer: str) -> float:
    """1 where every token of the answer occurs among those of the prediction."""
    return float(set(normalise(answer).split()) <= set(normalise(prediction).split()))


def best(metric: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The metric against the alias that suits the prediction best."""
    return max(metric(prediction, answer) for answer in answers)


def scores(prediction: str, answers: Sequence[str]) -> AnswerScores:
    """Score by the rules of SQuAD 1.1: each metric against the alias that suits it best.

    Args:
        prediction: The answer of the system.
        answers: All accepted answers.

    Raises:
        ValueError: There is no accepted answer.
    """
    _require_answers(answers)
    return AnswerScores(
        exact=best(exact_match, prediction, answers),
        f1=best(f1, prediction, answers),
        cover=best(cover_match, prediction, answers),
    )


def published_scores(prediction: str, answers: Sequence[str]) -> AnswerScores:
    """Score as the evaluator published with CLaRa does, for comparison with its numbers.

    It differs from `scores` thrice: only the first answer counts, whatever follows; the exact texts
    "True" and "False", on either side, mean yes and no; and F1 follows the evaluator of HotpotQA
    (Yang et al. 2018), which gives 0 where one side alone is yes, no or "noanswer", and where no
    token is shared, so also where both sides are empty. An empty answer is covered by anything.

    Args:
        prediction: The answer of the system.
        answers: All accepted answers, the one to score against first.

    Raises:
        ValueError: There is no accepted answer.
    """
    _require_answers(answers)
    predicted, expected = (
        normalise(_BOOLEANS.get(text, text)) for text in (prediction, answers[0])
    )
    is_closed = predicted in _CLOSED or expected in _CLOSED
    is_equal = predicted == expected
    is_zero = not predicted or (is_closed and not is_equal)
    return AnswerScores(
        exact=float(is_equal),
        f1=0.0 if is_zero else token_f1(predicted.split(), expected.split()),
        cover=float(set(expected.split()) <= set(predicted.split())),
    )


def answer_supported(answers: Sequence[str], passages: Sequence[str]) -> float:
    """1 where a passage holds the answer: the tokens of an alias in sequence, all normalised.

    This is the usual test of whether a retrieved passage can carry the answer (DPR, Karpukhin et
    al. 2020, "has answer"), under the normalisation of SQuAD 1.1. Whether a yes or a no is right
    does not show in the words of a passage, so the aliases yes, no and "noanswer" support nothing,
    and neither do aliases that normalise to nothing; leave questions with only such aliases out of
    a mean.

    Args:
        answers: All accepted answers.
        passages: What was read; the tokens must lie within one passage.
    """
    aliases = {normalise(answer) for answer in answers} - _CLOSED - {""}
    texts = [f" {normalise(passage)} " for passage in passages]
    return float(any(f" {alias} " in text for alias in aliases for text in texts))


def _require_answers(answers: Sequence[str]) -> None:
    if not answers:
        raise ValueError("a question without an accepted answer cannot be scored; leave it out")


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean and 95 % percentile bootstrap interval over questions.

    Args:
        values: One value a question; differences of two systems on the same questions give the
            paired interval of their difference.
        seed: Of the resampling.

    Raises:
        ValueError: There is no question.
    """
    means = _resampled_means(values, np.random.default_rng(seed))
    return _percentile_interval(np.mean(values, dtype=np.float64), means)


def paired_interval(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean of a - b and its 95 % percentile bootstrap interval over questions.

    Args:
        a: One value a question.
        b: The values of another system on the same questions in the same order.
        seed: Of the resampling.

    Raises:
        ValueError: The two do not have the same number of questions, or none.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired; score the same questions")
    return interval([one - other for one, other in zip(a, b, strict=True)], seed=seed)


def macro_interval(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Interval:
    """Mean over groups of their means, and its 95 % stratified bootstrap interval.

    Questions are resampled within their group (Efron & Tibshirani 1993), so the groups, such as
    data sets, are taken as given and count alike whatever their sizes.

    Args:
        groups: One value a question, by group; paired differences give the interval of theirs.
        seed: Of the resampling.

    Raises:
        ValueError: There is no group, or one without questions.
    """
    if not groups:
        raise ValueError("an interval needs at least one group of questions")
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(group, rng) for group in groups], axis=0)
    return _percentile_interval(np.mean([np.mean(group) for group in groups]), means)


def _resampled_means(values: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    if not len(values):
        raise ValueError("an interval needs at least one question")
    array = np.asarray(values, dtype=np.float64)
    # A block at a time: all picks at once take gigabytes from a hundred thousand questions on.
    block = max(1, _PICKS_AT_ONCE // len(array))
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        picks = rng.integers(0, len(array), size=(rows, len(array)))
        means[start : start + rows] = array[picks].mean(axis=1)
    return means


def _percentile_interval(mean: np.floating, means: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(mean), float(low), float(high))
