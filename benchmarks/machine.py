"""What every benchmark says of the machine it ran on, and of several timings."""

from __future__ import annotations

from statistics import median

from openclara.evaluation.machine import machine

__all__ = ["machine", "spread"]


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and largest of some timings, and how many there were."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}
