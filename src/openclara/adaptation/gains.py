"""What an adaptation gained, question by question, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from openclara.adaptation.recipes import AFTER, BEFORE
from openclara.evaluation.metrics import Interval, interval, paired_interval
from openclara.evaluation.results import answer_values, ranking_values
from openclara.evaluation.runner import carry_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.config import EvalConfig
    from openclara.evaluation.tasks import Task

ANSWER_METRICS = {"F1": "f1", "EM": "em", "cover-EM": "cover"}
RANKING_METRICS = {"Recall@1": "recall@1", "Recall@5": "recall@5", "MRR": "mrr"}


@dataclass(frozen=True, slots=True)
class Gain:
    """One metric on one set of questions.

    Attributes:
        task: The set of questions.
        what: What was measured: answers from the gold passages or from the model's own choice, or
            its ranking.
        metric: Name of the metric.
        n: Questions.
        before: Mean and 95 % bootstrap interval, 0 to 1.
        after: Likewise.
        difference: Of the same questions, paired.
    """

    task: str
    what: str
    metric: str
    n: int
    before: Interval
    after: Interval
    difference: Interval


def gains(recipe: EvalConfig) -> list[Gain]:
    """Every metric before and after, from an evaluation by `evaluation_recipe`.

    What of it has been carried out already is read, not made again.

    Raises:
        OpenClaraError: As `evaluate`.
    """
    outcome = carry_out(recipe)
    found: list[Gain] = []
    for task in outcome.tasks:
        ranked = [
            ranking_values(task, outcome.orders[task.name, task.setting, f"reasoner {name}"])
            for name in (BEFORE, AFTER)
        ]
        found += _gains(task, "its ranking", RANKING_METRICS, *ranked)
        for read in ("gold passages", "its own choice"):
            answered = [
                answer_values(
                    task, outcome.predictions[task.name, task.setting, f"{name}, from {read}"]
                )
                for name in (BEFORE, AFTER)
            ]
            found += _gains(task, f"answers from {read}", ANSWER_METRICS, *answered)
    return found


def _gains(
    task: Task,
    what: str,
    metrics: dict[str, str],
    before: dict[str, list[float]],
    after: dict[str, list[float]],
) -> Iterator[Gain]:
    for name, key in metrics.items():
        old, new = before[key], after[key]
        difference = paired_interval(new, old)
        yield Gain(task.name, what, name, len(old), interval(old), interval(new), difference)
