"""`openclara train RECIPE --plan`: what a run will take, as a table or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from openclara.cli import render
from openclara.errors import ModelError

if TYPE_CHECKING:
    from openclara.config import RunConfig
    from openclara.training.planning import TrainingPlan


def show_plan(recipe: RunConfig, *, gpu: str | None, n_gpus: int, as_json: bool) -> None:
    """Print the plan of a recipe; nothing is trained or written."""
    with render.waiting("looking at the base"):
        from openclara.training.planning import plan_training

        plan = plan_training(_with_parent(recipe), gpu=gpu, n_gpus=n_gpus)
    if as_json:
        derived = {
            "total": plan.total,
            "total_sharded": plan.total_sharded,
            "hours": plan.hours,
        }
        render.json_line(asdict(plan) | derived)
    else:
        _show(plan)


def _with_parent(recipe: RunConfig) -> RunConfig:
    from openclara.model.published.reading import read_any
    from openclara.model.zoo import find_checkpoint
    from openclara.training.claiming import inherit

    if recipe.init_from is None:
        return recipe
    try:
        parent = read_any(find_checkpoint(recipe.init_from))
    except ModelError:
        render.warning(f"{recipe.init_from} is not there yet; the recipe's own [model] counts")
        return recipe
    return inherit(recipe, parent)


def _show(plan: TrainingPlan) -> None:
    from openclara.training.planning import CPU_UTILISATION, UTILISATION

    size = render.size
    of = "" if plan.memory is None else f" of {size(plan.memory)}"
    speed = (
        f"{CPU_UTILISATION:.0%} of the matrix products measured here"
        if plan.memory is None
        else f"{UTILISATION:.0%} of the peak, assumed"
    )
    rows = [
        ("on", f"{plan.n_processes} × {plan.device}"),
        ("steps", f"{plan.steps:,}, micro-batches each: {plan.micro_batches:,}"),
        ("tokens", f"at most {plan.positions:,}, padding included"),
        ("base", f"{size(plan.weights)} on each"),
        ("adapters", size(plan.adapters)),
        ("gradients, moments", size(plan.optimizer)),
        ("activations", size(plan.activations)),
        ("memory on each", f"{size(plan.total)}{of}"),
    ]
    if plan.n_processes > 1:
        rows.append(("base divided", f"{size(plan.total_sharded)}{of} (fsdp2, zero3)"))
    rows.append(("speed", f"{plan.flops_per_s / 1e12:,.2f} TFLOP/s ({speed})"))
    rows.append(("time", f"about {_duration(plan.hours)}"))
    render.fields(rows)
    if plan.memory is not None and plan.total > plan.memory:
        render.warning(
            "that does not fit; use runtime.gradient_checkpointing, a smaller optim.batch_tokens, "
            "runtime.quantization int4, or divide the base with recipes/accelerate/fsdp2.yaml"
        )


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:,.1f} minutes"
