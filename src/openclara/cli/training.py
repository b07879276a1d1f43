"""`openclara train`: a recipe, what is laid over it, and a bar."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import difflib
import json
import os
import signal
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, get_args

from cyclopts import CycloptsError, Parameter

from openclara.cli import render
from openclara.cli.options import AtLeastOne, Flag, Json
from openclara.cli.planning import show_plan

if TYPE_CHECKING:
    from pydantic import BaseModel

    from openclara.config import RunConfig
    from openclara.training.examples import Examples
    from openclara.training.loop import Progress


def train(
    recipe: Path,
    /,
    *options: Annotated[str, Parameter(allow_leading_hyphen=True)],
    plan: Flag = False,
    gpu: str | None = None,
    gpus: AtLeastOne = 1,
    as_json: Json = False,
) -> int:
    """Carry out a training recipe, or go on where it was left.

    Ctrl-C saves the run before it stops; the same command goes on from there. Launched by torchrun
    or accelerate, several processes share the run.

    Args:
        recipe: TOML file, such as recipes/compress.toml.
        options: Any field of the recipe by its dotted name, such as --optim.lr 1e-4 or
            --output runs/mine.
        plan: Show what the run would take of memory and time, and train nothing.
        gpu: Plan for this kind of GPU, such as h100, instead of the CPU here.
        gpus: Plan for so many.
        as_json: Print the plan as JSON.

    Returns:
        0 if the run is finished, 128 and the signal's number if a signal stopped it.
    """
    from openclara.config import RunConfig, read_recipe

    config = read_recipe(RunConfig, recipe, overrides(options, RunConfig))
    if plan:
        show_plan(config, gpu=gpu, n_gpus=gpus, as_json=as_json)
        return 0
    if gpu is not None or gpus != 1 or as_json:
        raise CycloptsError(msg="--gpu, --gpus and --json are for --plan")
    # The launcher's word for which process this is.
    with _silent(os.environ.get("RANK", "0") != "0"):
        return carry_out(config)


def carry_out(config: "RunConfig", *, say: Callable[[str], None] = render.result) -> int:
    """Train with a bar, and say where the model is; the exit code."""
    with render.waiting("loading base, model and data"):
        from openclara.training.processes import leave
        from openclara.training.run import train
    with signals() as received, _Display(config) as display:
        folder = train(
            config,
            on_fit=display.fitted,
            on_start=display.started,
            on_step=display.stepped,
            stop=lambda: bool(received),
        )
    step = saved_step(folder)
    leave()
    if step < config.optim.steps:
        say(f"saved at step {step:,}; run the same command to continue")
        # The signal may have reached another process alone.
        return 128 + (received[0] if received else signal.SIGTERM)
    say(f"trained {step:,} steps; the model is in {folder}")
    return 0


def overrides(options: Sequence[str], kind: "type[BaseModel]") -> dict[str, Any]:
    """Read `--optim.lr 1e-4` and `--optim.lr=1e-4` as values of dotted names.

    Args:
        options: Words of the command line.
        kind: The tree of models whose fields may be named.

    Raises:
        CycloptsError: An option is no field of a recipe, or lacks its value.
    """
    known = sorted(field_names(kind))
    values: dict[str, Any] = {}
    words = iter(options)
    for word in words:
        if not word.startswith("--"):
            raise CycloptsError(msg=f"expected an option such as --optim.lr, found {word!r}")
        name, given, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean --{near[0]}?" if near else ""
            raise CycloptsError(msg=f"a recipe has no field {name!r}{hint}")
        text = value if given else next(words, None)
        if text is None:
            raise CycloptsError(msg=f"--{name} lacks its value")
        values[name] = _value(text)
    return values


def field_names(model: "type[BaseModel]", prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields of a tree of models."""
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        # A union of models, as of the stages, has the fields of each.
        kinds = [field.annotation] if isinstance(field.annotation, type) else []
        kinds += [kind for kind in get_args(field.annotation) if isinstance(kind, type)]
        models = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if field.annotation in models or len(models) > 1:
            for kind in models:
                yield from field_names(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def saved_step(folder: Path) -> int:
    """Steps of the run that are on disk; 0 for a new one."""
    from openclara.training.run import POSITION

    path = folder / POSITION
    if not path.is_file():
        return 0
    step: int = json.loads(path.read_text(encoding="utf-8"))["step"]
    return step


def _value(text: str) -> Any:
    """A value as TOML has it; anything else is a string, so that paths need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@contextmanager
def _silent(quiet: bool) -> Iterator[None]:
    """Show nothing but errors for the length of the block, if so: of many processes one speaks."""
    consoles = (render.out, render.err)
    before = [console.quiet for console in consoles]
    for console in consoles:
        console.quiet = console.quiet or quiet
    try:
        yield
    finally:
        for console, was in zip(consoles, before, strict=True):
            console.quiet = was


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or termination instead of dying of it; the second one counts.

    Of several processes each may get the same one twice, from the terminal or Slurm and from the
    launcher, which kills what takes too long: there the second one does not count.
    """
    received: list[int] = []
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if launched:
            return
        render.note("saving; press Ctrl-C again to stop without")
        signal.signal(number, earlier[number])

    earlier: dict[int, Any] = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Display:
    """A bar on a terminal, lines in a log file."""

    def __init__(self, config: "RunConfig") -> None:
        self._config = config
        self._loss = "ranking" if config.stage.kind == "supervised" else "answer"
        self._bar = render.steps("training", config.optim.steps)
        self._began = time.perf_counter()
        self._tokens_before: int | None = None

    def __enter__(self) -> "_Display":
        self._steps = self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def fitted(self, done: int, total: int) -> None:
        """Say how far the fit before the first step is."""
        details = f"learning what memory carries, {done} of {total} parts done"
        self._steps.at(0, details)
        if not self._steps.shown:
            render.note(details)

    def started(self, config: "RunConfig", examples: "Examples") -> None:
        """Say what is trained on, and where."""
        n_held_out, n_too_long = len(examples.held_out), examples.n_too_long
        render.note(
            f"{config.stage.kind} stage on {len(examples.training):,} examples, {n_held_out:,} "
            f"held out, {n_too_long:,} left out as too long; in {config.output}"
        )
        self._began = time.perf_counter()

    def stepped(self, progress: "Progress") -> None:
        """Move the bar, or write a line now and then where there is none."""
        if self._tokens_before is None:
            # The first step of a sitting: a continued run has tokens of earlier ones.
            self._tokens_before = progress.tokens
            self._began = time.perf_counter()
        seconds = time.perf_counter() - self._began
        tokens = progress.tokens - self._tokens_before
        rate = f" · {tokens / seconds:,.0f} tokens/s" if tokens else ""
        details = f"loss {progress.metrics[self._loss]:.3f}{rate}"
        self._steps.at(progress.step, details)
        if progress.step % self._config.runtime.log_every == 0 and not self._steps.shown:
            render.note(f"step {progress.step:,} of {self._config.optim.steps:,} · {details}")
