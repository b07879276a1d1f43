"""What an adaptation gained, question by question, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openclara.adaptation.recipes import AFTER, BEFORE
from openclara.evaluation.journal import Journal
from openclara.evaluation.metrics import Interval, interval, paired_interval
from openclara.evaluation.results import answer_values, ranking_values
from openclara.evaluation.tasks import load_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

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
    """Every metric before and after, from a finished evaluation of `evaluation_recipe`.

    Raises:
        DataError: A file of questions is malformed.
    """
    found: list[Gain] = []
    for task in load_tasks(recipe):
        ranked = [
            ranking_values(task, [row["order"] for row in rows])
            for rows in _rows(recipe, task, "rankings.jsonl", "ranker", "reasoner {}")
        ]
        found += _gains(task, "its ranking", RANKING_METRICS, *ranked)
        for read in ("gold passages", "its own choice"):
            answered = [
                answer_values(task, rows)
                for rows in _rows(recipe, task, "predictions.jsonl", "system", f"{{}}, from {read}")
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


def _rows(
    recipe: EvalConfig, task: Task, file: str, kind: str, pattern: str
) -> Iterator[Sequence[dict[str, Any]]]:
    """Of both models, in the order of the questions; the latest row of each counts."""
    with Journal(_existing(recipe.output / file)) as journal:
        rows = list(journal.rows.values())
    for name in (BEFORE, AFTER):
        own = {
            row["id"]: row
            for row in rows
            if row["task"] == task.name and row[kind] == pattern.format(name)
        }
        yield [own[question.id] for question in task.questions]


def _existing(path: Path) -> Path:
    assert path.is_file(), "the evaluation has not been carried out"
    return path
