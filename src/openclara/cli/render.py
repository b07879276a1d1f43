"""What the user sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from openclara.index import AddReport
    from openclara.types import Document, Hit, Usage

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

PREVIEW_CHARACTERS = 160
WIDEST_TABLE = 120
"""Columns; in wider ones the eye loses its line."""

# A document may hold escape sequences that would move the cursor or rename the terminal.
_CONTROLS = dict.fromkeys(
    (*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}"
)


def plain(text: str) -> str:
    """A text from outside, harmless to a terminal."""
    return text.translate(_CONTROLS)


# -- sentences ------------------------------------------------------------------------------------


def error(message: str) -> None:
    """Say why the command failed."""
    err.print(Text.assemble(("error: ", "bold red"), plain(message)), soft_wrap=True)


def warning(message: str) -> None:
    """Say what the user should know although the command goes on."""
    err.print(Text.assemble(("warning: ", "bold yellow"), plain(message)), soft_wrap=True)


def note(message: str) -> None:
    """Say how the work goes."""
    err.print(Text(plain(message), style="dim"), soft_wrap=True)


def result(message: str) -> None:
    """Print one line of what was asked for."""
    out.print(Text(plain(message)), soft_wrap=True)


def json_line(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    # In an encoding that is not Unicode's every character has to be escaped.
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    line = json.dumps(value, ensure_ascii=ascii_only)
    # Lone surrogates cannot be encoded either; as JSON escapes they can.
    line = "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in line)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def traceback() -> None:
    """Show the traceback of the error that is being handled."""
    err.print_exception()


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """A spinner for the length of the block; nothing where standard error is no terminal."""
    if not err.is_terminal:
        yield
        return
    with err.status(Text(plain(message), style="dim")):
        yield


def fields(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(plain(value)))
    out.print(table)


def size(n_bytes: float) -> str:
    """Bytes as a person reads them: `9.4 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is due: `1,234 chunks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# -- progress -------------------------------------------------------------------------------------


class AddingProgress:
    """Documents on their way into an index: read, compressed, stored."""

    def __init__(self, progress: Progress, n_files: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("compressing", total=n_files, details="")
        self._sources: set[str] = set()
        self._n_read = self._n_compressed = self._n_chunks = self._n_unchanged = 0
        self._started: float | None = None

    def reading(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents, counted as they are read."""
        for document in documents:
            self._started = self._started or time.perf_counter()
            self._sources.add(document.source or document.id)
            self._n_read += 1
            yield document

    def compressed(self, n_documents: int, n_chunks: int) -> None:
        """Count what the model has done."""
        self._n_compressed += n_documents
        self._n_chunks += n_chunks
        self._show()

    def stored(self, report: AddReport) -> None:
        """Count what needed no compression."""
        self._n_unchanged = report.unchanged
        self._show()

    @property
    def rate(self) -> float:
        """Documents compressed for each second since the first was read."""
        if self._started is None:
            return 0.0
        return self._n_compressed / (time.perf_counter() - self._started)

    def _show(self) -> None:
        done = self._n_compressed + self._n_unchanged
        # One file may hold many documents, and reading runs ahead of compressing.
        files = len(self._sources) * done / max(self._n_read, 1)
        details = (
            f"{counted(done, 'document')} · {counted(self._n_chunks, 'chunk')} · "
            f"{self.rate:.1f} documents/s"
        )
        self._progress.update(self._task, completed=files, details=details)


@contextmanager
def adding(n_files: int | None) -> Iterator[AddingProgress]:
    """A bar for documents that are added; `n_files` is None where it cannot be known."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[details]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        yield AddingProgress(progress, n_files)


@contextmanager
def steps(description: str, total: int, *, completed: int = 0) -> Iterator[Steps]:
    """A bar for a known number of steps."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[details]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=total, completed=completed, details="")
        yield Steps(progress, task)


class Steps:
    """A bar that is told how far the work is."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    @property
    def shown(self) -> bool:
        """Whether there is a terminal to show it on."""
        return not self._progress.disable

    def at(self, completed: int, details: str = "") -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=completed, details=details)


@contextmanager
def phases() -> Iterator[Phases]:
    """A bar for work that has several parts, each of a length known when it begins."""
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        yield Phases(progress)


class Phases:
    """A bar that is told of one part after the other; a line each where there is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, visible=False)

    def begin(self, what: str, total: int) -> None:
        """A part begins."""
        if self._progress.disable:
            note(f"{what} ({total:,})")
            return
        self._progress.reset(self._task, description=plain(what), total=total, visible=True)

    def advance(self, done: int) -> None:
        """So much more of it is done."""
        self._progress.advance(self._task, done)


# -- hits and answers -----------------------------------------------------------------------------


def hits(found: Sequence[Hit]) -> None:
    """Print passages as a numbered list: title, score, span, first words."""
    for number, hit in enumerate(found, start=1):
        title = plain(hit.document.title or hit.document.id)
        place = f"{hit.document.id} [{hit.start:,}–{hit.end:,}]"
        head = Text.assemble(
            (f"[{number}] ", "cyan"), (title, "bold"), f"  {hit.score:.3f}  ", (plain(place), "dim")
        )
        out.print(head, soft_wrap=True)
        out.print(Text(f"    {preview(hit.text)}", style="dim"), soft_wrap=True)


def preview(text: str, most: int = PREVIEW_CHARACTERS) -> str:
    """The first words of a text, on one line."""
    # Only the start is looked at: a stretch may be a whole page.
    words = " ".join(plain(text[: 2 * most]).split())
    return words if len(words) <= most else f"{words[:most].rsplit(' ', 1)[0]} …"


def streamed(pieces: Iterable[str]) -> None:
    """Print an answer while it is written."""
    begun = False
    for piece in pieces:
        shown = plain(piece if begun else piece.lstrip())
        begun = begun or bool(shown)
        out.file.write(shown)
        out.file.flush()
    out.file.write("\n")


def question(text: str) -> None:
    """Print a question above its answer."""
    out.print(Text(plain(text), style="bold"), soft_wrap=True)


def blank() -> None:
    """Print an empty line."""
    out.print()


def meter(usage: Usage) -> None:
    """Print what an answer cost, on one line."""
    parts = [counted(usage.prompt_tokens, "prompt token")]
    if usage.nominal_rate:
        parts[0] += f" (full text: {usage.text_prompt_tokens:,})"
        parts.append(f"rate {usage.nominal_rate:.1f} nominal, {usage.effective_rate:.1f} effective")
    parts.append(
        f"embed {usage.embed_ms:.0f} ms, search {usage.search_ms:.0f} ms, "
        f"first token {usage.first_token_ms:.0f} ms, total {usage.total_ms:.0f} ms"
    )
    out.print(Text(" · ".join(parts), style="dim"), soft_wrap=True)


# -- tables ---------------------------------------------------------------------------------------


def answers(rows: Iterable[tuple[str, str, bool, str, Sequence[tuple[str, bool]]]]) -> None:
    """Print questions beside their answers.

    Args:
        rows: Question, answer, whether it is right, expected answer, and cited titles, each with
            whether the question needs that passage.
    """
    table = Table(
        box=SIMPLE_HEAD,
        show_lines=True,
        header_style="bold",
        pad_edge=False,
        width=min(out.width, WIDEST_TABLE),
    )
    table.add_column("question", ratio=27)
    table.add_column("answer (latents)", ratio=19, overflow="fold")
    table.add_column("expected", ratio=13)
    table.add_column("passages cited, best first", ratio=36)
    for asked, answer, right, expected, cited in rows:
        mark = ("✓ ", "bold green") if right else ("✗ ", "bold red")
        table.add_row(Text(asked), Text.assemble(mark, plain(answer)), expected, _titles(cited))
    out.print(table)


def _titles(cited: Sequence[tuple[str, bool]]) -> Text:
    parts = []
    # Several stretches of one document are one citation here.
    for title, needed in dict.fromkeys(cited):
        # No space before the tick: a line would break there.
        style = "bold green" if needed else "dim"
        parts.append(Text(f"{plain(title)}{'✓' if needed else ''}", style=style))
    return Text(", ", style="dim").join(parts)
