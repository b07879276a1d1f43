"""`openclara adapt`: records from a corpus, two short runs on them, and what they gained."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from openclara.cli import render, synthesizing, training
from openclara.cli.options import Json
from openclara.data.records import open_text
from openclara.errors import ConfigError

if TYPE_CHECKING:
    from openclara.adaptation.gains import Gain
    from openclara.config import AdaptConfig


def adapt(
    corpus: str,
    /,
    *options: Annotated[str, Parameter(allow_leading_hyphen=True)],
    as_json: Json = False,
) -> int:
    """Make the model at home in a corpus, and measure what that gained.

    Records are synthesised from its documents, a compress and an instruct run train on them, and
    the model is asked before and after about documents that were held out. Ctrl-C saves; the same
    command goes on.

    Args:
        corpus: A file, a folder or a pattern, as for `index add`.
        options: --output, --model, --teacher.kind, --questions and all other fields of
            `AdaptConfig` (docs/synthesis.md).
        as_json: Print the gains as JSON instead.

    Returns:
        0 if it is finished, 128 and the signal's number if a signal stopped it.
    """
    from openclara.config import AdaptConfig, make_recipe

    given = training.overrides(options, AdaptConfig)
    config = make_recipe(AdaptConfig, {"corpus": [corpus], **given})
    command = shlex.join(["openclara", "adapt", corpus, *options])
    if config.questions is not None:
        _check_questions(config)
    stopped = _synthesized(config, command)
    if stopped:
        return stopped
    # Said before the training, not after it.
    _held_out(config)
    stopped = _trained(config)
    if stopped:
        return stopped
    found = _evaluated(config, command)
    if as_json:
        render.json_line({"model": str(_adapted(config)), "gains": [asdict(one) for one in found]})
    else:
        _say(found, config)
    return 0


def _check_questions(config: "AdaptConfig") -> None:
    """Read the own questions once before the work, which their faults would waste."""
    from openclara.adaptation.recipes import evaluation_recipe
    from openclara.evaluation.tasks import load_tasks

    load_tasks(evaluation_recipe(config, None))


def _synthesized(config: "AdaptConfig", command: str) -> int:
    with render.waiting("reading the model"):
        from openclara.adaptation.recipes import synthesis_recipe
        from openclara.model.published.reading import read_any
        from openclara.model.zoo import find_checkpoint

        card = read_any(find_checkpoint(config.model)).card
    return synthesizing.carry_out(synthesis_recipe(config, card), command=command, say=render.note)


def _trained(config: "AdaptConfig") -> int:
    from openclara.adaptation.passages import write_passages
    from openclara.adaptation.recipes import compress_recipe, instruct_recipe

    records = config.output / "records"
    stages = (
        compress_recipe(config, records / "stage1.train.jsonl.gz", write_passages(records)),
        instruct_recipe(config, records / "stage2.train.jsonl.gz"),
    )
    for recipe in stages:
        if training.saved_step(recipe.output) < recipe.optim.steps:
            stopped = training.carry_out(recipe, say=render.note)
            if stopped:
                return stopped
    return 0


def _evaluated(config: "AdaptConfig", command: str) -> "list[Gain]":
    from openclara.adaptation.recipes import evaluation_recipe

    recipe = evaluation_recipe(config, _held_out(config))
    with render.waiting("reading questions"):
        from openclara.adaptation.gains import gains
        from openclara.evaluation.runner import evaluate
    with render.phases() as progress:
        evaluate(recipe, command=command, progress=progress)
    return gains(recipe)


def _held_out(config: "AdaptConfig") -> Path | None:
    """The held-out records, where there are any.

    Raises:
        ConfigError: There are none, and no own questions, so nothing could be measured.
    """
    path = config.output / "records" / "stage3.held_out.jsonl.gz"
    with open_text(path) as lines:
        if any(line.strip() for line in lines):
            return path
    if config.questions is None:
        raise ConfigError(
            "no document was held out with a question, so no gain could be measured; raise "
            "--held_out, or give --questions"
        )
    return None


def _adapted(config: "AdaptConfig") -> Path:
    return config.output / "instruct"


def _say(found: "Sequence[Gain]", config: "AdaptConfig") -> None:
    header = ("questions", "what", "metric", "n", "before", "after", "difference")
    rows = [
        (
            one.task,
            one.what,
            one.metric,
            f"{one.n:,}",
            _percent(one.before),
            _percent(one.after),
            _percent(one.difference),
        )
        for one in found
    ]
    render.table(header, rows)
    report = config.output / "evaluation" / "report.html"
    render.result(f"the model is in {_adapted(config)}, the whole report is {report}")


def _percent(value: Sequence[float]) -> str:
    mean, low, high = (100 * part for part in value)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
