"""`openclara synthesize`: a recipe, what it will take, a bar, and what came out."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter

from openclara.cli import render
from openclara.cli.options import AtLeastOne, Flag, Json
from openclara.cli.training import overrides, signals

if TYPE_CHECKING:
    from openclara.config import SynthesisConfig
    from openclara.errors import DataError
    from openclara.synthesis.estimate import Estimate
    from openclara.synthesis.passages import Reading
    from openclara.synthesis.run import Make, Outcome, Progress


def synthesize(
    recipe: Path,
    /,
    *options: Annotated[str, Parameter(allow_leading_hyphen=True)],
    engine: Literal["plain", "ray"] = "plain",
    workers: AtLeastOne | None = None,
    estimate: Flag = False,
    as_json: Json = False,
) -> int:
    """Make training data from documents by a recipe, or go on where it was left.

    Every reply is kept as it comes: after Ctrl-C, a kill or a spent budget the same command goes
    on and pays for nothing twice.

    Args:
        recipe: TOML file, such as recipes/synthesize.toml.
        options: Any field of the recipe by its dotted name, such as --limit 100 or
            --teacher.budget_money 5.
        engine: This program by itself, or workers of Ray: on this machine, or on the cluster that
            RAY_ADDRESS names.
        workers: Workers of Ray; by teacher and machine if left out.
        estimate: Read the documents, say what it would take, and stop.
        as_json: Print counts as JSON instead.

    Returns:
        0 if the records are written, 128 and the signal's number if a signal stopped it.
    """
    from openclara.config import SynthesisConfig, read_recipe

    config = read_recipe(SynthesisConfig, recipe, overrides(options, SynthesisConfig))
    said = ["openclara", "synthesize", str(recipe), *options]
    make = None
    if engine == "ray":
        said += ["--engine", "ray", *(["--workers", str(workers)] if workers else [])]
        make = _by_workers(workers)
    elif workers is not None:
        raise CycloptsError(msg="--workers is for --engine ray")
    return carry_out(
        config, command=shlex.join(said), make=make, estimate=estimate, as_json=as_json
    )


def _by_workers(workers: int | None) -> "Make":
    from openclara.integrations.ray_synthesis import RaySynthesis

    def started(n_workers: int) -> None:
        render.note(f"{render.counted(n_workers, 'worker')} of Ray, with a teacher each")

    return RaySynthesis(workers=workers, on_start=started)


def carry_out(
    config: "SynthesisConfig",
    *,
    command: str,
    make: "Make | None" = None,
    estimate: bool = False,
    as_json: bool = False,
    say: Callable[[str], None] = render.result,
) -> int:
    """Synthesize with a bar, and say where the records are; the exit code."""
    from openclara.synthesis.run import Watching, synthesize
    from openclara.synthesis.work import carry_out as make_here

    with signals() as received, _Display() as display:
        outcome = synthesize(
            config,
            make=make or make_here,
            watching=Watching(
                read=display.read,
                planned=display.planned,
                moved=display.moved,
                unreadable=display.unreadable,
                stop=lambda: bool(received),
            ),
            command=command,
            estimate_only=estimate,
        )
    if as_json:
        render.json_line(_as_json(outcome, display.estimate))
    elif outcome.finished:
        _say(outcome, config.output, say)
    elif not estimate:
        progress = outcome.progress
        say(
            f"saved after {progress.done:,} of {progress.passages:,} passages; "
            "run the same command to continue"
        )
    return 128 + received[0] if received and not outcome.finished else 0


def _say(outcome: "Outcome", folder: Path, say: Callable[[str], None]) -> None:
    for name, n_lines in outcome.records.items():
        say(f"{n_lines:>9,}  {folder / name}")
    say(f"the report is {folder / 'report.html'}, as text {folder / 'report.md'}")


def _as_json(outcome: "Outcome", estimate: "Estimate | None") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "finished": outcome.finished,
        "records": outcome.records,
        **asdict(outcome.progress),
        "estimate": estimate and asdict(estimate),
    }


class _Display:
    """A bar on a terminal, a line now and then in a log file."""

    LINE_EVERY_S = 30.0

    def __init__(self) -> None:
        self._steps: render.Steps | None = None
        self._bar: Any = None
        self._began = self._last_line = time.monotonic()
        self.estimate: Estimate | None = None

    def __enter__(self) -> "_Display":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def unreadable(self, error: "DataError") -> None:
        """Say which document is left out."""
        render.warning(f"skipped: {error}")

    def read(self, reading: "Reading") -> None:
        """Say what was read."""
        left_out = reading.short + reading.repeated + reading.beyond_limit
        render.note(
            f"{render.counted(reading.documents, 'document')}, "
            f"{render.counted(reading.passages, 'passage')}, {left_out:,} left out"
        )

    def planned(self, estimate: "Estimate", n_passages: int) -> None:
        """Say what is left, and begin the bar."""
        self.estimate, n_left = estimate, estimate.passages
        render.note(self._sentence(estimate))
        self._bar = render.steps("synthesizing", n_passages, completed=n_passages - n_left)
        self._steps = self._bar.__enter__()
        self._began = self._last_line = time.monotonic()

    def _sentence(self, estimate: "Estimate") -> str:
        if not estimate.passages:
            return "every passage is done; writing the records"
        parts = [f"about {estimate.tasks:,} tasks"]
        tokens = estimate.prompt_tokens + estimate.completion_tokens
        if tokens:
            parts.append(
                f"{tokens / 1e6:,.2f} M tokens ({estimate.prompt_tokens / 1e6:,.2f} M read)"
            )
        if estimate.money:
            parts.append(f"{estimate.money:,.2f} in money")
        if estimate.hours is not None:
            parts.append(f"{estimate.hours:,.1f} h")
        basis = (
            f"as in the {estimate.measured_on:,} done"
            if estimate.measured_on
            else "by published averages"
        )
        left = render.counted(estimate.passages, "passage")
        return f"{left} to do: {', '.join(parts)}, {basis}"

    def moved(self, progress: "Progress") -> None:
        """Move the bar, or write a line now and then where there is none."""
        if self._steps is None:
            return
        now = time.monotonic()
        seconds = now - self._began
        parts = [f"{progress.pairs:,} pairs", f"{progress.asked / max(seconds, 1e-9):,.1f} tasks/s"]
        if progress.spent.money:
            parts.append(f"{progress.spent.money:,.2f} in money")
        if progress.failed:
            parts.append(f"{progress.failed:,} failed")
        details = " · ".join(parts)
        self._steps.at(progress.done, details)
        if not self._steps.shown and now - self._last_line >= self.LINE_EVERY_S:
            self._last_line = now
            render.note(f"{progress.done:,} of {progress.passages:,} passages · {details}")
