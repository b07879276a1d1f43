"""Scores of rankings and predictions, as one mapping that the report is made from."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from openclara.evaluation.fidelity import fidelity
from openclara.evaluation.machine import machine
from openclara.evaluation.metrics import (
    answer_supported,
    interval,
    macro_interval,
    paired_interval,
    published_scores,
    scores,
)
from openclara.evaluation.relevance import expected_random_recall, ranking_scores, recall_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from openclara.config import EvalConfig
    from openclara.evaluation.tasks import Task

COMPARED = ("f1", "em", "cover")
"""Metrics of which the difference to the reference is given."""

COSTS = ("prompt_tokens", "text_tokens", "stored_bytes", "ms")
CURVE = 10
"""Ranks of the recall curve."""

N_SAMPLES = 12
"""Questions shown with what each system said."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has made.

    Attributes:
        tasks: Questions and labels.
        orders: For task, setting and ranker the order of every question's candidates.
        predictions: For task, setting and system a row for every question.
        rewritten: Passages and what was written again from their latents.
        skipped: Rankers and systems that were left out, and why.
    """

    tasks: Sequence[Task]
    orders: Mapping[tuple[str, str, str], Sequence[Sequence[int]]]
    predictions: Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]
    rewritten: Sequence[Mapping[str, Any]]
    skipped: Mapping[str, str]


def results_of(recipe: EvalConfig, outcome: Outcome, *, command: str) -> dict[str, Any]:
    """Every score, with a 95 % bootstrap interval over questions.

    Averages over tasks weigh each task alike; their intervals resample within tasks.
    """
    systems = [s for s in recipe.systems if s.name not in outcome.skipped]
    rankers = [r for r in recipe.rankers if r.name not in outcome.skipped]
    reference = recipe.reference if recipe.reference not in outcome.skipped else None
    return {
        "recipe": recipe.model_dump(mode="json"),
        "command": command,
        "machine": machine(),
        "k": recipe.k,
        "reference": reference,
        "systems": [
            {
                "name": system.name,
                "reader": system.reader,
                "ranker": getattr(system, "ranker", None),
                "model": system.model if getattr(system, "adapters", True) else None,
                "n_memory": getattr(system, "n_memory", None),
                "shorten": getattr(system, "shorten", None),
            }
            for system in systems
        ],
        "rankers": [
            {"name": one.name, "kind": one.kind, "control": one.kind in ("random", "gold")}
            for one in rankers
        ],
        "skipped": [{"name": n, "reason": reason} for n, reason in outcome.skipped.items()],
        "answers": list(_answers(recipe, outcome, [s.name for s in systems], reference)),
        "retrieval": list(_retrieval(recipe, outcome, [r.name for r in rankers])),
        "fidelity": list(_fidelity(outcome)),
        "samples": _samples(recipe, outcome, [s.name for s in systems]),
    }


def answer_values(task: Task, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Every answer metric of every question; the only place where predictions meet labels."""
    values: dict[str, list[float]] = {}
    for question, labels, row in zip(task.questions, task.labels, rows, strict=True):
        ours = scores(row["text"], labels.answers)
        published = published_scores(row["text"], labels.answers)
        texts = {one.id: one.text for one in question.candidates}
        shown = [texts[name] for name in row["passages"]]
        measured = {
            "f1": ours.f1,
            "em": ours.exact,
            "cover": ours.cover,
            "published_f1": published.f1,
            "published_em": published.exact,
            "published_cover": published.cover,
            "supported": answer_supported(labels.answers, shown),
        }
        for name, value in measured.items():
            values.setdefault(name, []).append(value)
    return values


def _answers(
    recipe: EvalConfig, outcome: Outcome, systems: Sequence[str], reference: str | None
) -> Iterator[dict[str, Any]]:
    for setting in recipe.settings:
        tasks = [task for task in outcome.tasks if task.setting == setting]
        found = {
            (task.name, system): answer_values(
                task, outcome.predictions[task.name, setting, system]
            )
            for task in tasks
            for system in systems
        }
        for system in systems:
            costs = []
            for task in tasks:
                rows = outcome.predictions[task.name, setting, system]
                values = found[task.name, system]
                costs.append(_cost_values(rows))
                against = None if reference is None else found[task.name, reference]
                yield {
                    "task": task.name,
                    "setting": setting,
                    "system": system,
                    "n": len(rows),
                    "metrics": {name: interval(column) for name, column in values.items()},
                    "over_reference": against
                    and {name: paired_interval(values[name], against[name]) for name in COMPARED},
                    **_costs(costs[-1:]),
                }
            if len(tasks) < 2:
                continue
            own = [found[task.name, system] for task in tasks]
            theirs = None if reference is None else [found[task.name, reference] for task in tasks]
            yield {
                "task": "average",
                "setting": setting,
                "system": system,
                "n": sum(len(task.questions) for task in tasks),
                "metrics": {name: macro_interval([v[name] for v in own]) for name in own[0]},
                "over_reference": theirs
                and {
                    name: macro_interval(
                        [
                            [a - b for a, b in zip(v[name], w[name], strict=True)]
                            for v, w in zip(own, theirs, strict=True)
                        ]
                    )
                    for name in COMPARED
                },
                **_costs(costs),
            }


def _cost_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What every answer cost; the rate counts question and template on both sides."""
    values = {name: [float(row[name]) for row in rows] for name in COSTS}
    values["effective_rate"] = [row["text_tokens"] / row["prompt_tokens"] for row in rows]
    return values


def _costs(groups: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """Means of costs and their intervals, each task weighing alike."""
    found = {name: macro_interval([group[name] for group in groups]) for name in groups[0]}
    return {
        "costs": {name: one.mean for name, one in found.items()},
        "cost_intervals": {name: [one.low, one.high] for name, one in found.items()},
    }


def _retrieval(
    recipe: EvalConfig, outcome: Outcome, rankers: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for setting in recipe.settings:
        # Where all candidates are gold there is nothing to rank.
        tasks = [t for t in outcome.tasks if t.setting == setting and setting != "gold"]
        for ranker in rankers:
            every: list[dict[str, list[float]]] = []
            for task in tasks:
                values = ranking_values(task, outcome.orders[task.name, setting, ranker])
                if not values["mrr"]:
                    continue
                every.append(values)
                yield _retrieval_row(task.name, setting, ranker, [values])
            if len(every) > 1:
                yield _retrieval_row("average", setting, ranker, every)


def ranking_values(task: Task, orders: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Every ranking metric of every question that has gold passages."""
    values: dict[str, list[float]] = {"mrr": [], "expected_recall@5": []}
    for question, labels, order in zip(task.questions, task.labels, orders, strict=True):
        if labels.n_relevant == 0:
            continue
        measured = ranking_scores(order, labels.relevant, labels.n_relevant)
        for name, value in _metric_names(measured._asdict()).items():
            values.setdefault(name, []).append(value)
        values["expected_recall@5"].append(
            expected_random_recall(
                len(question.candidates), len(labels.relevant), labels.n_relevant, 5
            )
        )
        for k in range(1, CURVE + 1):
            at = recall_at(order, labels.relevant, labels.n_relevant, k)
            values.setdefault(f"curve {k}", []).append(at)
    return values


def _metric_names(measured: Mapping[str, float]) -> dict[str, float]:
    """`recall_5` as it is shown: `recall@5`."""
    return {re.sub(r"_(\d+)$", r"@\1", name): value for name, value in measured.items()}


def _retrieval_row(
    task: str, setting: str, ranker: str, groups: Sequence[Mapping[str, Sequence[float]]]
) -> dict[str, Any]:
    shown = [n for n in groups[0] if not n.startswith(("curve", "expected"))]
    return {
        "task": task,
        "setting": setting,
        "ranker": ranker,
        "n": sum(len(group["mrr"]) for group in groups),
        "metrics": {name: macro_interval([group[name] for group in groups]) for name in shown},
        "recall_curve": [
            mean(mean(group[f"curve {k}"]) for group in groups) for k in range(1, CURVE + 1)
        ],
        "expected_recall@5": mean(mean(group["expected_recall@5"]) for group in groups),
    }


def _fidelity(outcome: Outcome) -> Iterator[dict[str, Any]]:
    rates = sorted({(row["model"], row["n_memory"]) for row in outcome.rewritten})
    for model, n_memory in rates:
        rows = [r for r in outcome.rewritten if (r["model"], r["n_memory"]) == (model, n_memory)]
        values: dict[str, list[float]] = {}
        for row in rows:
            for name, value in fidelity(row["passage"], row["text"])._asdict().items():
                if value is not None:  # a passage without numbers says nothing of numbers
                    values.setdefault(name, []).append(value)
        yield {
            "model": model,
            "n_memory": n_memory,
            "n": len(rows),
            "metrics": {name: interval(column) for name, column in values.items()},
        }


def _samples(recipe: EvalConfig, outcome: Outcome, systems: Sequence[str]) -> list[dict[str, Any]]:
    places = [(task, at) for task in outcome.tasks for at in range(len(task.questions))]
    chosen = random.Random(recipe.seed).sample(places, min(N_SAMPLES, len(places)))
    return [
        {
            "task": task.name,
            "setting": task.setting,
            "question": task.questions[at].text,
            "answers": list(task.labels[at].answers),
            "predictions": {
                system: outcome.predictions[task.name, task.setting, system][at]["text"]
                for system in systems
            },
        }
        for task, at in chosen
    ]
