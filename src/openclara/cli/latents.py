"""Latents as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from openclara.cli.render import WIDEST_TABLE, counted, out, plain, preview

if TYPE_CHECKING:
    from openclara.pipeline.inspecting import Inspection, Place

WIDEST_WORD = 16
BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥"}


def inspection(one: Inspection) -> None:
    """Print the latents of one text, in the order of the text, and what they come to."""
    _head(one)
    width = min(out.width, WIDEST_TABLE)
    anchored = one.carried is not None
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, width=width)
    table.add_column("#", justify="right", style="dim", no_wrap=True)
    if anchored:
        table.add_column("carries", max_width=WIDEST_WORD, no_wrap=True, overflow="ellipsis")
    table.add_column("decodes to", ratio=3)
    table.add_column("nearest", max_width=WIDEST_WORD, no_wrap=True, overflow="ellipsis")
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("norm", justify="right", no_wrap=True)
    for number in one.order:
        view = one.latents[number]
        row: list[Text | str] = [str(number)]
        if anchored:
            row.append(Text("–", style="dim") if view.carried is None else _shown(view.carried))
        words = Text(", ").join(Text(plain(word.text)) for word in view.words)
        table.add_row(*row, words, _shown(view.nearest), f"{view.cosine:.2f}", f"{view.norm:.1f}")
    out.print(table)
    out.print(Text(_summary(one)), soft_wrap=True)


def _head(one: Inspection) -> None:
    document = one.document
    if one.kind == "question":
        name, place = preview(document.text), ""
    else:
        name = plain(document.title or document.id)
        place = f"{document.id} [{one.start:,}–{one.end:,}]  " if document.title else ""
    size = f"{counted(one.n_tokens, 'token')} → {counted(len(one.latents), 'latent')}"
    head = Text.assemble(
        (f"{one.kind}  ", "cyan"),
        (f"{name}  ", "bold"),
        (plain(f"{place}{size}, {one.role}"), "dim"),
    )
    out.print(head, soft_wrap=True)


def _shown(place: Place) -> Text:
    """A place in a cell; blanks, which would not be seen, by their signs."""
    if place.text.strip():
        return Text(plain(place.text))
    return Text("".join(BLANKS.get(character, "␣") for character in place.text))


def _summary(one: Inspection) -> str:
    parts = [f"mean norm {one.mean_norm:.1f}"]
    if one.mean_cosine is not None:
        parts.append(f"mean cosine of two latents {one.mean_cosine:.2f}")
    parts.append(f"of {counted(one.n_words, 'distinct word')} {one.recovered:.0%} decoded")
    if one.carried is not None:
        parts[-1] += f", {one.carried:.0%} carried"
    return " · ".join(parts)
