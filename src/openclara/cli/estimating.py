"""What a model needs of memory: the table of `openclara info --model`, the line before loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from openclara.cli import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.model.placement import Plan

LARGE_BASE = 1_000_000_000
"""Bytes of a base from which on loading it is announced."""


def announce(plan: Plan) -> None:
    """Say what a large base will need, before the machine gets busy."""
    needs, place = plan.needs, plan.place
    if needs.base < LARGE_BASE:
        return
    parts = (
        f"base {render.size(needs.base)}, roles {render.size(needs.roles + needs.own)}, "
        f"at work {render.size(needs.working)}"
    )
    free = "" if plan.available is None else f"; {render.size(plan.available)} are free"
    render.note(
        f"loading {plan.base} at {place.weights} on {place.device}: about "
        f"{render.size(needs.total)} ({parts}){free}"
    )


def show_needs(model: str, *, base: str | None, device: str, as_json: bool) -> None:
    """Print what a model would need at each precision; no tensor of its base is read."""
    with render.waiting(f"looking at {model}"):
        from openclara.model.base import find_base
        from openclara.model.placement import estimates
        from openclara.model.published.reading import read_any
        from openclara.model.zoo import find_checkpoint

        checkpoint = read_any(find_checkpoint(model), base=base)
        source = find_base(base or checkpoint.card.base)
        plans = estimates(source, checkpoint, device=device)
    if as_json:
        render.json_line({"model": model, "base": source.name, "memory": [_row(p) for p in plans]})
    else:
        _table(plans)


def _row(plan: Plan) -> dict[str, Any]:
    return {
        "precision": plan.place.weights,
        "roles": "merged" if plan.merged else "adapters",
        "device": str(plan.place.device),
        "base_bytes": plan.needs.base,
        "roles_bytes": plan.needs.roles + plan.needs.own,
        "working_bytes": plan.needs.working,
        "total_bytes": plan.needs.total,
        "available_bytes": plan.available,
        "fits": plan.fits if plan.available is not None else None,
    }


def _table(plans: Sequence[Plan]) -> None:
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in ("precision", "roles"):
        table.add_column(name)
    for name in ("base", "roles take", "at work", "in all"):
        table.add_column(name, justify="right")
    table.add_column("fits here")
    for plan in plans:
        needs = plan.needs
        sizes = (needs.base, needs.roles + needs.own, needs.working, needs.total)
        fits = ("yes" if plan.fits else "no") if plan.available is not None else "unknown"
        roles = "merged" if plan.merged else "adapters"
        table.add_row(plan.place.weights, roles, *map(render.size, sizes), fits)
    render.out.print(table)
    free = {plan.place.device.type: plan.available for plan in plans}
    for device, available in free.items():
        if available is not None:
            render.result(f"{render.size(available)} free on {device}")
