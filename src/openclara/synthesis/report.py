"""The report of a synthesis: what came out, what did not and why, and samples to read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openclara.reports.page import INK, Cell, Extract, Section, Table, html, markdown
from openclara.reports.writing import one_line, write_whole
from openclara.synthesis.tally import KINDS, N_SAMPLES, PARAPHRASE_STEPS, STEPS
from openclara.synthesis.tasks import Spent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from openclara.config import SynthesisConfig
    from openclara.synthesis.composed import Composed
    from openclara.synthesis.passages import Reading
    from openclara.synthesis.tally import Tally

HOW_CHECKED = (
    ("Fit to ask", "A question has from 3 to 60 words, does not point at its text (such as by "
     "“according to the passage”), and no earlier one of the passage asks the same."),
    ("Found in the passage", "Every number and date of an answer is among the passage's; its "
     "words, or those of each part of a list, stand there in sequence. An answer that only repeats "
     "its question does not count."),
    ("Judged right", "The teacher is shown passage, question and answer and says whether the "
     "answer is complete, supported and adds nothing. A verdict never replaces a rule."),
    ("Answered alike again", "The teacher answers the accepted question once more from the "
     "passage; numbers must be the same, words must largely be."),
    ("Coverage", "Part of the numbers, dates and names of a passage, found by rule, that its "
     "accepted pairs mention. Below the recipe's target more questions are asked; below its "
     "minimum all pairs of the passage are rejected."),
    ("Paraphrases", "Every number and name of the passage is still there, no number or name is "
     "new, and not too many runs of four words are copied."),
)  # fmt: skip


def write_report(
    folder: Path,
    tally: Tally,
    reading: Reading,
    records: Mapping[str, int],
    recipe: SynthesisConfig,
    *,
    teacher: str,
    command: str = "",
) -> None:
    """Write `report.md`, `report.html` and the figure of the former.

    Args:
        folder: Where to.
        tally: What became of the passages.
        reading: What was read.
        records: Lines of each file.
        recipe: What was asked for.
        teacher: Name of the teacher.
        command: How to get it again.
    """
    title = f"Synthesis: {_many(_n_pairs(tally), 'pair')} from {_many(tally.passages, 'passage')}"
    sections = [
        _in_short(tally, teacher),
        _yield(tally, reading),
        _rejections(tally),
        _coverage(tally),
        _cost(tally),
        _files(records),
        _samples(tally),
        Section("How items are checked", points=HOW_CHECKED),
        _made(recipe, teacher, command),
    ]
    (folder / "figures").mkdir(exist_ok=True)
    for section in sections:
        for figure in section.figures:
            write_whole(folder / "figures" / f"{figure.name}.svg", figure.svg.encode())
    write_whole(folder / "report.md", markdown(title, sections).encode())
    write_whole(folder / "report.html", html(title, sections).encode())


def _n_pairs(tally: Tally) -> int:
    return tally.accepted["simple"] + tally.accepted["complex"]


def _in_short(tally: Tally, teacher: str) -> Section:
    pairs, passages = _n_pairs(tally), tally.passages
    mean = tally.coverage_sum / passages if passages else 0.0
    points = [
        ("Accepted", f"{_many(tally.accepted['simple'], 'simple pair')}, "
         f"{_many(tally.accepted['complex'], 'complex pair')} and "
         f"{_many(tally.accepted['paraphrase'], 'paraphrase')}."),
        ("Per passage", f"{pairs / max(1, passages):.1f} pairs; "
         f"{_many(tally.without, 'passage')} without any."),
        ("Coverage", f"{_percent(mean)} of a passage's facts on average; "
         f"{_many(tally.reached, 'passage')} at {_percent(tally.target)}, which was aimed at, "
         "or more."),
        ("Teacher", teacher),
    ]  # fmt: skip
    if tally.failed:
        tasks = sum(tally.tasks.values())
        points.append(
            ("Failed tasks", f"{tally.failed:,} of {_many(tasks, 'task')} brought nothing usable; "
             "set retry_failed = true and run the same command to ask them again.")
        )  # fmt: skip
    return Section("In short", points=_clean(points))


def _yield(tally: Tally, reading: Reading) -> Section:
    rows = []
    for kind in KINDS[:2]:
        passed = tally.passing(kind)
        rows.append([Cell(kind), *_steps(passed)])
    pairs = Table("Pairs", [Cell("kind"), *map(Cell, STEPS)], rows)
    passed = tally.passing("paraphrase")
    paraphrases = Table(
        "Paraphrases", [Cell(""), *map(Cell, PARAPHRASE_STEPS)],
        [[Cell("paraphrase"), *_steps(passed)]],
    )  # fmt: skip
    read = Table(
        "Passages",
        [Cell(""), Cell("number")],
        [
            [Cell("documents read"), Cell(f"{reading.documents:,}")],
            [Cell("passages cut from them"), Cell(f"{reading.passages:,}")],
            [Cell("left out: too short"), Cell(f"{reading.short:,}")],
            [Cell("left out: same words as an earlier one"), Cell(f"{reading.repeated:,}")],
            [Cell("left out: beyond the limit"), Cell(f"{reading.beyond_limit:,}")],
            [Cell("asked about"), Cell(f"{tally.passages:,}")],
            [Cell("of them held out"), Cell(f"{tally.held_out:,}")],
        ],
    )
    what = "How many items are left after each step, and what part of those before it."
    return Section("Yield of each stage", [what], tables=[pairs, paraphrases, read])


def _steps(passed: list[int]) -> Iterator[Cell]:
    before = passed[0]
    for number in passed:
        part = f"{_percent(number / before)}" if before else ""
        yield Cell(f"{number:,}", part if number is not passed[0] else "")
        before = number


def _rejections(tally: Tally) -> Section:
    rows, examples = [], []
    totals: Counter[str] = Counter()
    for (_, reason), number in tally.rejected.items():
        totals[reason] += number
    for reason, number in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        of_kinds = [tally.rejected[kind, reason] for kind in KINDS]
        rows.append(
            [Cell(reason), Cell(f"{number:,}"), *(Cell(f"{n:,}" if n else "–") for n in of_kinds)]
        )
        for item in (one for kind in KINDS for one in tally.examples.get((kind, reason), ())):
            said = item.text + (f" – {item.detail}" if item.detail else "")
            texts = reason, item.question or "(paraphrase)", _short(said)
            examples.append([Cell(text) for text in one_line(texts)])
    header = [Cell("reason"), Cell("items"), *map(Cell, KINDS)]
    tables = [Table("Reasons", header, rows)]
    if examples:
        header = [Cell("reason"), Cell("question"), Cell("answer or paraphrase – remark")]
        tables.append(Table("Examples", header, examples, words=True, folded=True))
    if not rows:
        return Section("Rejected items", ["Nothing was rejected."])
    return Section("Rejected items", ["All of them are in rejected.jsonl."], tables=tables)


def _coverage(tally: Tally) -> Section:
    names = [f"{10 * tenth} to {10 * tenth + 10} %" for tenth in range(10)] + ["100 %"]
    counts = [tally.coverage[tenth] for tenth in range(11)]
    rows = [
        [Cell(name), Cell(f"{n:,}"), Cell(_percent(n / max(1, tally.passages)))]
        for name, n in zip(names, counts, strict=True)
    ]
    table = Table(
        "Passages by coverage", [Cell("facts covered"), Cell("passages"), Cell("share")], rows,
        folded=True,
    )  # fmt: skip
    rounds = Table(
        "Rounds of questions",
        [Cell("rounds"), Cell("passages")],
        [[Cell(str(n)), Cell(f"{tally.rounds[n]:,}")] for n in sorted(tally.rounds)],
    )
    labels = [str(10 * tenth) for tenth in range(10)] + ["100"]
    caption = "Passages by the part of their facts that accepted pairs mention, in per cent."
    figure = Bars("coverage", caption, bars(labels, counts))
    return Section("Coverage", tables=[rounds, table], figures=[figure])


def _cost(tally: Tally) -> Section:
    spent, pairs = tally.spent, _n_pairs(tally)
    rows = [
        ("requests, failed ones included", f"{spent.requests:,}"),
        ("tokens read", f"{spent.prompt_tokens:,}"),
        ("tokens written", f"{spent.completion_tokens:,}"),
        ("tokens for each accepted pair",
         f"{(spent.prompt_tokens + spent.completion_tokens) / max(1, pairs):,.0f}"),
        ("money, at the recipe's prices", f"{spent.money:,.2f}"),
        ("money for a thousand accepted pairs", f"{1000 * spent.money / max(1, pairs):,.2f}"),
    ]  # fmt: skip
    tasks = Table(
        "Tasks",
        [Cell("kind"), Cell("tasks")],
        [[Cell(kind), Cell(f"{n:,}")] for kind, n in sorted(tally.tasks.items())],
    )
    if spent == Spent():
        return Section("Cost", ["This teacher needs no tokens and costs nothing."], tables=[tasks])
    table = Table("Spent", [Cell(""), Cell("number")], [[Cell(a), Cell(b)] for a, b in rows])
    return Section("Cost", tables=[table, tasks])


def _files(records: Mapping[str, int]) -> Section:
    rows = [[Cell(name), Cell(f"{n:,}")] for name, n in records.items()]
    return Section("Files", tables=[Table("Records", [Cell("file"), Cell("lines")], rows)])


def _samples(tally: Tally) -> Section:
    samples = tally.samples()
    what = (
        f"{_many(len(samples), 'passage')} drawn by chance, at most {N_SAMPLES}, with all that was "
        "accepted. Read them: rules and judges miss things."
    )
    return Section("Samples to read", [what], extracts=list(map(_extract, samples)))


def _extract(one: Composed) -> Extract:
    pairs = _clean((pair.question, pair.answer) for pair in one.pairs)
    where = f"{one.passage.id}; {one.n_covered:,} of {one.n_facts:,} facts covered"
    title = one.passage.title or one.passage.id
    title, where, text = one_line((title, where, one.passage.text))
    return Extract(title, where, text, pairs, one_line(one.paraphrase or ""))


def _made(recipe: SynthesisConfig, teacher: str, command: str) -> Section:
    quality = recipe.quality
    points = [
        ("Teacher", teacher),
        ("Documents", ", ".join(recipe.documents)),
        ("Seed", str(recipe.seed)),
        ("Longest passage, tokens", f"{recipe.passages.doc_max_length:,}"),
        ("Tokens counted by", recipe.passages.base or "an estimate"),
        ("Rounds at most", str(quality.rounds)),
        ("Coverage aimed at, and least", f"{quality.coverage:g}, {quality.min_coverage:g}"),
        ("Candidates found by", recipe.candidates.model or "BM25"),
    ]
    return Section("How this was made", code=command, points=_clean(points))


# --- small things --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bars:
    """A figure of bars."""

    name: str
    caption: str
    svg: str


def bars(labels: list[str], counts: list[int]) -> str:
    """Bars with their counts above and labels below, as SVG.

    Args:
        labels: One for each bar.
        counts: Likewise.
    """
    width, height, most = 44, 150, max([*counts, 1])
    parts = []
    for at, (label, count) in enumerate(zip(labels, counts, strict=True)):
        left, tall = 10 + at * width, round(height * count / most, 1)
        top, middle = 30 + height - tall, left + (width - 8) / 2
        parts.append(
            f'<rect x="{left}" y="{top:g}" width="{width - 8}" height="{tall:g}" fill="#2f7fc1"/>'
            f'<text x="{middle:g}" y="{top - 5:g}">{count:,}</text>'
            f'<text x="{middle:g}" y="{height + 47}">{label}</text>'
        )
    total = 12 + len(labels) * width
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height + 55}">'
        f'<g font-family="sans-serif" font-size="12" text-anchor="middle" fill="{INK}">'
        f'<line x1="6" y1="{height + 30}" x2="{total - 8}" y2="{height + 30}" stroke="{INK}"/>'
        f"{''.join(parts)}</g></svg>"
    )


def _clean(points: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(one_line(lead), one_line(text)) for lead, text in points]


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} …"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
