"""Answer metrics by the SQuAD rules, and intervals by resampling questions."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

RESAMPLES = 2000
"""Bootstrap resamples behind every interval."""


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def normalise(text: str) -> str:
    """Lowercase, without ASCII punctuation, English articles and repeated blanks (SQuAD 1.1)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 where both normalise to the same text."""
    return float(normalise(prediction) == normalise(answer))


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of token precision and recall, tokens counted with multiplicity."""
    predicted, expected = normalise(prediction).split(), normalise(answer).split()
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


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean and 95 % percentile bootstrap interval over questions.

    Args:
        values: One value a question; differences of two systems on the same questions give the
            paired interval of their difference.
        seed: Of the resampling.
    """
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), size=(RESAMPLES, len(array)))
    means = array[picks].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(array.mean()), float(low), float(high))
