"""How the harness scores an answer to one of our tasks: by our own metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openclara.evaluation.metrics import best, cover_match, exact_match, f1

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METRICS = {"em": exact_match, "f1": f1, "cover_em": cover_match}
"""Metrics by the names that the task files list."""


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one answer, each metric against the alias that suits it best.

    Args:
        doc: A row of the task.
        results: The answer, alone in a list.
    """
    (answer,) = results
    return {name: best(metric, answer, doc["answers"]) for name, metric in METRICS.items()}
