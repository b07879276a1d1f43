"""The verbs, and how their errors become sentences and exit codes."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from openclara.cli import (
    about,
    adapting,
    asking,
    converting,
    demo,
    evaluating,
    exporting,
    indexing,
    inspecting,
    mcp,
    render,
    serving,
    synthesizing,
    training,
)
from openclara.cli.options import Flag
from openclara.errors import OpenClaraError

OK, USERS_ERROR, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def _version() -> str:
    from openclara import __version__

    return __version__


app = App(
    name="openclara",
    help="Answers from documents that were compressed once into a few vectors each.",
    version=_version,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
# In the order of a first acquaintance. None of these modules imports torch before it is called.
app.command(demo.demo, sort_key=0)
index = App(name="index", help="Make, fill and look after an index.", sort_key=1)
app.command(index)
index.command(indexing.add, sort_key=0)
index.command(indexing.info, sort_key=1)
index.command(indexing.delete, sort_key=2)
index.command(indexing.compact, sort_key=3)
index.command(indexing.verify, sort_key=4)
index.command(indexing.join, sort_key=5)
app.command(asking.search, sort_key=2)
app.command(asking.ask, sort_key=3)
app.command(inspecting.inspect, sort_key=4)
app.command(serving.serve, sort_key=4)
keys = App(name="keys", help="Make and remove API keys of the service.", sort_key=4)
app.command(keys)
keys.command(serving.add, sort_key=0)
keys.command(serving.list_keys, name="list", sort_key=1)
keys.command(serving.remove, sort_key=2)
app.command(mcp.mcp, sort_key=4)
app.command(training.train, sort_key=5)
app.command(evaluating.evaluate, name="eval", sort_key=5)
app.command(synthesizing.synthesize, sort_key=5)
app.command(adapting.adapt, sort_key=5)
app.command(converting.convert, sort_key=6)
export = App(name="export", help="Write a model for other programs.", sort_key=7)
app.command(export)
export.command(exporting.hub)
app.command(about.info, sort_key=8)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Flag = False,
) -> int | None:
    """Run one command.

    Args:
        tokens: The command and its arguments.
        debug: Show the traceback of an error.
    """
    try:
        result: int | None = app(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except (OpenClaraError, OSError, KeyboardInterrupt) as error:
        if debug:
            render.traceback()
        return _explain(error)
    return result


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        0 fine, 1 the user's error, 2 wrong usage, 130 interrupted.
    """
    try:
        result: int | None = app.meta(
            list(arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        render.error(f"{str(error).rstrip('. ')}; see `openclara {_command(arguments)}--help`")
        return WRONG_USAGE
    return OK if result is None else result


def main() -> None:
    """The entry point of the `openclara` program."""
    # The libraries below write their own notes and progress bars; ours say what matters.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "--debug" not in sys.argv and not sys.warnoptions:
        warnings.simplefilter("ignore")
    sys.exit(run(sys.argv[1:]))


def _explain(error: OpenClaraError | OSError | KeyboardInterrupt) -> int:
    """Say in one sentence what happened; the exit code."""
    match error:
        case KeyboardInterrupt():
            render.error("interrupted; what was finished is kept, run the same command to go on")
            return INTERRUPTED
        case BrokenPipeError():
            # The reader, such as `head`, has what it wanted; Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = f" at {error.filename}" if error.filename else ""
            render.error(f"the disk is full{where}; free space and run the command again")
        case PermissionError():
            render.error(
                f"{error.filename or 'a file'} may not be read or written; change its permissions, "
                "or use another folder"
            )
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            reason = (error.strerror or str(error)).lower()
            render.error(f"{place}{reason}; check the path and run the command again")
        case _:
            render.error(str(error))
    return USERS_ERROR


def _command(arguments: Sequence[str]) -> str:
    """The words of a command line that name the command, each followed by a space."""
    words = []
    level = app
    for word in arguments:
        if word not in level or word.startswith("-"):
            break
        words.append(word)
        if word not in ("index", "export", "keys"):
            break
        level = level[word]
    return "".join(f"{word} " for word in words)
