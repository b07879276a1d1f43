"""`openclara eval`: a recipe, a bar, and where the report is."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import json
import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from openclara.cli import render
from openclara.cli.options import Json
from openclara.cli.training import overrides


def evaluate(
    recipe: Path,
    /,
    *options: Annotated[str, Parameter(allow_leading_hyphen=True)],
    as_json: Json = False,
) -> None:
    """Carry out an evaluation, or go on where it was left, and write the report.

    Args:
        recipe: TOML file, such as recipes/eval.toml.
        options: Any field of the recipe by its name, such as --limit 20 or --output runs/mine.
        as_json: Print the scores as JSON instead.
    """
    from openclara.config import EvalConfig, read_recipe

    config = read_recipe(EvalConfig, recipe, overrides(options, EvalConfig))
    with render.waiting("reading tasks"):
        from openclara.evaluation.runner import evaluate as carry_out
    command = shlex.join(["openclara", "eval", str(recipe), *options])
    with render.phases() as progress:
        folder = carry_out(config, command=command, progress=progress)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if as_json:
        render.json_line(results)
        return
    for left_out in results["skipped"]:
        render.warning(f"{left_out['name']} was left out: {left_out['reason']}")
    render.result(f"the report is {folder / 'report.html'}, as text {folder / 'report.md'}")
