"""The parts a report is made of, and how they are shown: as one HTML page, or as Markdown.

Every text in them is data: it is shown as it stands and never becomes markup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


INK = "#757b84"
"""Lines and letters of a figure: a grey of like contrast (4.2) on white and near black. On a page
it becomes the colour of the page's text."""


class Figure(Protocol):
    """A drawing."""

    @property
    def name(self) -> str:
        """Of its file, without a suffix."""

    @property
    def caption(self) -> str:
        """What it shows, in a sentence."""

    @property
    def svg(self) -> str:
        """With text as text, on no background."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a table.

    Attributes:
        text: What is read first.
        quiet: What is read second: an interval, a number of questions.
        best: Whether it is the best of its column.
    """

    text: str
    quiet: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; the first cell of each names it.

    Attributes:
        title: What the values are.
        header: One cell for each column.
        rows: As many cells each.
        words: Whether the columns hold words, not numbers.
        folded: Whether a page may fold it away.
    """

    title: str
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    words: bool = False
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A question and what was said.

    Attributes:
        question: What was asked.
        where: Task and setting.
        answers: What is accepted.
        said: Each system, what it said, and the verdict: "right", "holds the answer", or nothing.
    """

    question: str
    where: str
    answers: Sequence[str]
    said: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Extract:
    """A text, and what was made of it.

    Attributes:
        title: Heading.
        where: Where it comes from.
        text: The text.
        pairs: Questions on it and their answers.
        rewritten: The same in other words; empty where there are none.
    """

    title: str
    where: str
    text: str
    pairs: Sequence[tuple[str, str]]
    rewritten: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; what it holds is shown in this order.

    Attributes:
        title: Heading.
        paragraphs: Text.
        code: A command.
        points: A list; the first of each pair says what the second is about.
        tables: Values.
        figures: Figures; they follow the first table.
        samples: Questions.
        extracts: Texts.
    """

    title: str
    paragraphs: Sequence[str] = ()
    code: str = ""
    points: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    samples: Sequence[Sample] = ()
    extracts: Sequence[Extract] = ()


# --- HTML --------------------------------------------------------------------------------------


def html(title: str, sections: Sequence[Section]) -> str:
    """The report as one page that needs no network, no server and no script.

    Args:
        title: Heading.
        sections: What it says.
    """
    template = files(__package__ or "").joinpath("page.html").read_text(encoding="utf-8")
    places = [f"s{number}" for number in range(1, len(sections) + 1)]
    contents = "\n".join(
        f'<li><a href="#{place}">{escape(section.title)}</a></li>'
        for place, section in zip(places, sections, strict=True)
    )
    body = "\n".join(
        f'<section id="{place}">\n<h2>{escape(section.title)}</h2>\n{_section(section)}</section>'
        for place, section in zip(places, sections, strict=True)
    )
    return Template(template).substitute(title=escape(title), contents=contents, body=body)


def _section(section: Section) -> str:
    parts = [f"<p>{escape(text)}</p>" for text in section.paragraphs]
    if section.code:
        parts.append(f"<pre><code>{escape(section.code)}</code></pre>")
    if section.points:
        parts.append(_points(section.points))
    tables = [_table(table) for table in section.tables]
    parts += [*tables[:1], *map(_figure, section.figures), *tables[1:]]
    parts += map(_sample, section.samples)
    parts += map(_extract, section.extracts)
    return "\n".join(parts) + "\n"


def _points(points: Iterable[tuple[str, str]], kind: str = "points") -> str:
    rows = (f"<div><dt>{_data(lead)}</dt><dd>{_data(text)}</dd></div>" for lead, text in points)
    return "\n".join([f'<dl class="{kind}">', *rows, "</dl>"])


def _extract(extract: Extract) -> str:
    parts = [
        f"<h3>{_data(extract.title)}</h3>",
        f"<p><small>{_data(extract.where)}</small></p>",
        f"<blockquote>{_data(extract.text)}</blockquote>",
    ]
    if extract.pairs:
        parts.append(_points(extract.pairs, "pairs"))
    if extract.rewritten:
        parts.append("<p><small>In other words:</small></p>")
        parts.append(f"<blockquote>{_data(extract.rewritten)}</blockquote>")
    return "\n".join(["<article>", *parts, "</article>"])


def _table(table: Table) -> str:
    wide = (
        f'<div class="wide" role="region" aria-label="{escape(table.title)}" tabindex="0">'
        f'<table class="{"words" if table.words else "numbers"}">'
    )
    head = "".join(f'<th scope="col">{_cell(cell)}</th>' for cell in table.header)
    rows = "\n".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    title = escape(table.title)
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    if table.folded:
        return f"<details><summary>{title}</summary>\n{wide}\n{body}\n</details>"
    return f"{wide}\n<caption><span>{title}</span></caption>\n{body}"


def _cell(cell: Cell) -> str:
    text = _data(cell.text)
    if cell.best:
        text = f'<strong>{text}<span class="unseen"> (best)</span></strong>'
    return f"{text} <small>{_data(cell.quiet)}</small>" if cell.quiet else text


def _sample(sample: Sample) -> str:
    accepted = "; ".join(_data(answer) for answer in sample.answers)
    said = "\n".join(
        f'<div class="{verdict.partition(" ")[0] or "other"}"><dt>{_data(system)}</dt>'
        f"<dd>{_data(text) if text else '<small>(nothing)</small>'}"
        + (f" <small>✓ {escape(verdict)}</small>" if verdict else "")
        + "</dd></div>"
        for system, text, verdict in sample.said
    )
    return (
        f"<article>\n<h3>{_data(sample.question)}</h3>\n"
        f"<p><small>{_data(sample.where)}; accepted:</small> {accepted}</p>\n"
        f'<dl class="said">\n{said}\n</dl>\n</article>'
    )


def _figure(drawing: Figure) -> str:
    caption = escape(drawing.caption)
    return (
        f'<figure><div class="wide">{_inline(drawing)}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _inline(drawing: Figure) -> str:
    """A drawing inside the page: ids are its own, text takes the colour of the page's text."""
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<style\b.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    svg = re.sub(
        r' id="([^"]*)"', lambda m: f' id="{drawing.name}-{m[1]}"' if m[1] in used else "", svg
    )
    svg = re.sub(r'(url\(|href=")#(?=[\w-])', rf"\1#{drawing.name}-", svg)
    svg = svg.replace(INK, "currentColor")
    size = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')
    label = escape(drawing.caption)
    return size.sub(
        lambda m: (
            f'<svg viewBox="{m[1]}" role="img" aria-label="{label}"'
            ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        ),
        svg,
        count=1,
    ).strip()


def _data(text: str) -> str:
    """Text whose direction does not spill over its surroundings."""
    return escape(text) if text.isascii() else f"<bdi>{escape(text)}</bdi>"


# --- Markdown ----------------------------------------------------------------------------------


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The report in GitHub's Markdown, with its figures beside it.

    Args:
        title: Heading.
        sections: What it says.
    """
    blocks = [f"# {_plain(title)}"]
    for section in sections:
        blocks.append(f"## {_plain(section.title)}")
        blocks += _blocks(section)
    return "\n\n".join(blocks) + "\n"


def _blocks(section: Section) -> Iterator[str]:
    yield from map(_plain, section.paragraphs)
    if section.code:
        longest = max(map(len, re.findall("`+", section.code)), default=0)
        fence = "`" * max(3, longest + 1)
        yield f"{fence}\n{section.code}\n{fence}"
    if section.points:
        yield "\n".join(f"- **{_plain(lead)}**: {_plain(text)}" for lead, text in section.points)
    tables = [_lines(table) for table in section.tables]
    yield from tables[:1]
    for drawing in section.figures:
        yield f"![{_plain(drawing.caption)}](figures/{drawing.name}.svg)"
    yield from tables[1:]
    for sample in section.samples:
        accepted = "; ".join(map(_plain, sample.answers))
        yield f"**{_plain(sample.question)}** ({_plain(sample.where)}; accepted: {accepted})"
        header = (Cell("system"), Cell("answer"), Cell(""))
        rows = [tuple(map(Cell, one)) for one in sample.said]
        yield _lines(Table("", header, rows, words=True))
    for extract in section.extracts:
        yield from _quoted(extract)


def _quoted(extract: Extract) -> Iterator[str]:
    yield f"**{_plain(extract.title)}** ({_plain(extract.where)})"
    yield f"> {_plain(extract.text)}"
    if extract.pairs:
        yield "\n".join(f"- {_plain(asked)} **{_plain(said)}**" for asked, said in extract.pairs)
    if extract.rewritten:
        yield f"In other words:\n\n> {_plain(extract.rewritten)}"


def _lines(table: Table) -> str:
    align = "|---" if table.words else "|---:"
    title = [_plain(table.title) + ":", ""] if table.title else []
    rows = [_row(table.header), "|---" + align * (len(table.header) - 1) + "|"]
    return "\n".join([*title, *rows, *map(_row, table.rows)])


def _row(cells: Iterable[Cell]) -> str:
    texts = []
    for cell in cells:
        text, quiet = _plain(cell.text), _plain(cell.quiet)
        text = f"**{text}**" if cell.best else text
        quiet = quiet if quiet.startswith("[") else f"({quiet})"
        texts.append(f"{text} {quiet}" if cell.quiet else text)
    return "| " + " | ".join(texts) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_~|#$])", r"\\\1", text)
    # A bracket alone is no link, so that [8.6, 11.0] can stay as it is.
    return re.sub(r"\](?=[(\[:])", r"\\]", text)
