"""The report of an evaluation: what it says, and the files it is written to."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from openclara.evaluation.figures import draw
from openclara.evaluation.metrics import scores
from openclara.evaluation.page import Cell, Sample, Section, Table, html, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from openclara.evaluation.figures import Drawing

ABSENT = "–"

SETTINGS = {
    "oracle": "The candidates of a question are the passages of its own record, gold ones among "
    "them; the best k are read.",
    "normal": "The candidates of a question are nominated by BM25 from the whole corpus, and gold "
    "passages may be missing; the best k are read.",
    "gold": "The gold passages alone are read, so that search plays no part.",
}

HOW_TO_READ = (
    ("Intervals", "In brackets stands the 95 % bootstrap interval over questions. Averages weigh "
     "tasks alike, and their intervals resample questions within tasks."),
    ("Differences", "The difference to the reference is paired: both systems answer the same "
     "questions. Where its interval includes zero, the two cannot be told apart on these "
     "questions; where it excludes zero by a little, remember that one comparison in twenty does "
     "so by chance."),
    *((name, text) for name, text in SETTINGS.items()),
    ("Controls", "Controls are not competitors. No ranker should fall below the random order, and "
     "none can surpass the gold one, which is made from the labels. They are never marked as "
     "best."),
    ("Bold", "Bold is the best value of a column; among costs, of the systems that read passages."),
    ("F1, EM, cover-EM", "Words shared with the answer; equal to it; all words of it present. "
     "Texts are normalised by the rules of SQuAD 1.1, and the accepted answer that suits best "
     "counts."),
    ("Answer in the passages", "How often an accepted answer stands word for word in one of the "
     "passages chosen for the system, before they are shortened or compressed; yes and no never "
     "do. It says what search leaves to be read."),
    ("Prompt tokens", "Positions that the generator reads, question and template among them; full "
     "text is what they would be with the whole passages, and the effective rate divides the two."),
    ("Stored bytes", "What is kept of the passages read for a question: latents at 16 bits a "
     "number, or text in UTF-8. Latents are usually the larger: they save reading, not storage."),
    ("Milliseconds", "To read and answer, in batches, shortening included; ranking and compressing "
     "are not. They hold for the machine named at the end."),
)  # fmt: skip

UNFAIR = (
    ("Gold passages are short", "In the public files gold passages are shorter than the other "
     "candidates. A ranker can gain from length alone, and full text is cheaper on gold passages "
     "than on retrieved ones."),
    ("BM25 nominates", "In the normal setting BM25 chooses the candidates. No ranker can find what "
     "it misses: the gold control shows the most that can be reached."),
    ("One base, small", "A small base reads full text imperfectly too. Distances between systems "
     "may differ with a larger one."),
)  # fmt: skip

METRICS = (
    ("F1", "f1"),
    ("EM", "em"),
    ("cover-EM", "cover"),
)
RANKING = (
    ("Recall@1", "recall@1"),
    ("Recall@3", "recall@3"),
    ("Recall@5", "recall@5"),
    ("MRR", "mrr"),
    ("nDCG@10", "ndcg@10"),
    ("Precision@1", "precision@1"),
    ("Precision@3", "precision@3"),
    ("Precision@5", "precision@5"),
)
BY_TASK = ("Recall@1", "Recall@5", "MRR", "nDCG@10")

FIDELITY = (
    ("entities", "entities"),
    ("numbers", "numbers"),
    ("ROUGE-1", "rouge_1"),
    ("ROUGE-L", "rouge_l"),
)


def write_report(results: Mapping[str, Any], folder: Path) -> None:
    """Write `results.json`, `figures/`, `report.md` and `report.html`.

    Args:
        results: As `openclara.evaluation.results` makes them.
        folder: Where to; made if it is not there.

    Raises:
        ConfigError: matplotlib is not installed; `results.json` is written by then.
    """
    drawn = folder / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    _write(folder / "results.json", json.dumps(results, indent=1).encode() + b"\n")
    shown = one_line(results)
    report = _Report(shown)
    drawings = draw(shown, report.overall)
    sections = report.sections(drawings)
    for drawing in drawings:
        _write(drawn / f"{drawing.name}.svg", drawing.svg.encode())
        _write(drawn / f"{drawing.name}.png", drawing.png)
    _write(folder / "report.md", markdown(report.title, sections).encode())
    _write(folder / "report.html", html(report.title, sections).encode())


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def one_line(value: Any) -> Any:
    """Every text in a tree as a single line without control characters, direction marks or halves.

    Args:
        value: Anything JSON can hold.
    """
    if isinstance(value, str):
        text = re.sub(r"[\u202a-\u202e\u2066-\u2069]", "", value)
        text = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)
        return " ".join(re.sub(r"[\ud800-\udfff]", "\ufffd", text).split())
    if isinstance(value, dict):
        return {one_line(key): one_line(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [one_line(item) for item in value]
    return value


# --- what it says ------------------------------------------------------------------------------


class _Report:
    def __init__(self, results: Mapping[str, Any]) -> None:
        self._results = results
        self._systems = [one["name"] for one in results["systems"]]
        self._reads = {one["name"]: one["reader"] for one in results["systems"]}
        self._controls = {one["name"] for one in results["rankers"] if one["control"]}
        self._reference: str | None = results["reference"]
        self._answers = {(r["setting"], r["task"], r["system"]): r for r in results["answers"]}
        self._ranked = {(r["setting"], r["task"], r["ranker"]): r for r in results["retrieval"]}
        self._tasks: dict[str, list[str]] = {}
        for setting, task, _ in self._answers:
            tasks = self._tasks.setdefault(setting, [])
            if task not in tasks:
                tasks.append(task)
        self.overall = {
            setting: "average" if "average" in tasks else tasks[0]
            for setting, tasks in self._tasks.items()
        }
        n_tasks = len({task for tasks in self._tasks.values() for task in tasks} - {"average"})
        self.title = f"Evaluation: {_many(len(self._systems), 'system')}, {_many(n_tasks, 'task')}"

    def sections(self, drawings: Sequence[Drawing]) -> list[Section]:
        of = {(one.kind, one.setting): one for one in drawings}
        found = [Section("In short", self._opening(), points=self._in_short())]
        for setting in self._tasks:
            found.append(
                Section(
                    f"Answers, {setting} setting",
                    [SETTINGS.get(setting, "")],
                    tables=[self._by_task(setting), self._all_metrics(setting)],
                    figures=[of["prompt_tokens", setting]],
                )
            )
        for setting in self._tasks:
            found.append(
                Section(
                    f"Costs, {setting} setting",
                    tables=[self._costs(setting)],
                    figures=[of["stored_bytes", setting]],
                )
            )
        for setting in self._tasks:
            if ("recall", setting) in of:
                found.append(
                    Section(
                        f"Retrieval, {setting} setting",
                        [SETTINGS.get(setting, "")],
                        points=self._against_chance(setting),
                        tables=list(self._retrieval(setting)),
                        figures=[of["recall", setting]],
                    )
                )
        found += [
            Section(
                "Scores of the published evaluator",
                ["For comparison with published numbers only: the first accepted answer alone "
                 "counts, and texts are compared as the evaluator published with CLaRa does."],
                tables=[self._published(setting) for setting in self._tasks],
            )
        ]  # fmt: skip
        if self._results["fidelity"]:
            found.append(self._fidelity())
        found.append(self._samples())
        found.append(Section("How to read this", points=HOW_TO_READ))
        found.append(Section("Known unfairness", points=UNFAIR))
        found.append(self._compared())
        found.append(self._made())
        return found

    # -- sentences --------------------------------------------------------------------------

    def _opening(self) -> list[str]:
        names = [one["name"] for one in self._results["skipped"]]
        against = f"Systems are compared with {self._reference}. " if self._reference else ""
        text = f"{against}Each answers from at most {self._results['k']} passages."
        left_out = f"Left out, with reasons further below: {'; '.join(names)}." if names else ""
        return [text, left_out] if left_out else [text]

    def _in_short(self) -> list[tuple[str, str]]:
        found = []
        for setting, task in self.overall.items():
            rows = {name: self._answers[setting, task, name] for name in self._systems}
            if self._reference is not None:
                ours = [n for n in self._systems if self._reads[n] == "latents"]
                if self._reference in ours:
                    ours = self._systems
                tokens = f"{rows[self._reference]['costs']['prompt_tokens']:,.0f}"
                found += [
                    (
                        f"{name}, {setting}",
                        f"{comparison(rows[name]['over_reference']['f1'], self._reference)}. It "
                        f"reads {rows[name]['costs']['prompt_tokens']:,.0f} prompt tokens, the "
                        f"reference {tokens}.",
                    )
                    for name in ours
                    if name != self._reference
                ]
        return found

    def _against_chance(self, setting: str) -> list[tuple[str, str]]:
        task = self.overall[setting]
        found = []
        for ranker in self._rankers(setting, task):
            if ranker not in self._controls:
                row = self._ranked[setting, task, ranker]
                mean, low, high = row["metrics"]["recall@5"]
                chance = row["expected_recall@5"]
                verdict = (
                    "above chance" if low > chance
                    else "below chance" if high < chance
                    else "not told apart from chance"
                )  # fmt: skip
                shown = _share((mean, low, high))
                text = (
                    f"Recall@5 {shown.text} % {shown.quiet}, where a random order is expected to "
                    f"reach {_percent(chance)} %: {verdict}."
                )
                found.append((ranker, text))
        return found

    # -- tables -----------------------------------------------------------------------------

    def _rows(self, setting: str, task: str) -> list[Mapping[str, Any]]:
        return [self._answers[setting, task, name] for name in self._systems]

    def _rankers(self, setting: str, task: str) -> list[str]:
        names = [one["name"] for one in self._results["rankers"]]
        return [name for name in names if (setting, task, name) in self._ranked]

    def _of_systems(self, title: str, columns: Iterable[Sequence[Cell]]) -> Table:
        names = [
            Cell(name, "reference" if name == self._reference else "") for name in self._systems
        ]
        header, *rows = zip([Cell("system"), *names], *columns, strict=True)
        return Table(title, header, rows)

    def _differences(self, setting: str, label: str, metric: str) -> list[Cell]:
        rows = self._rows(setting, self.overall[setting])
        return [
            Cell(f"{label} over reference"),
            *(
                Cell(ABSENT)
                if row["system"] == self._reference
                else _difference(row["over_reference"][metric])
                for row in rows
            ),
        ]

    def _by_task(self, setting: str) -> Table:
        columns = []
        for task in self._tasks[setting]:
            rows = self._rows(setting, task)
            header = Cell(task, f"n = {rows[0]['n']:,}")
            columns.append([header, *_shares([row["metrics"]["f1"] for row in rows])])
        if self._reference is not None:
            columns.append(self._differences(setting, "F1", "f1"))
        return self._of_systems("F1 by task, per cent", columns)

    def _all_metrics(self, setting: str) -> Table:
        rows = self._rows(setting, self.overall[setting])
        shown = (*METRICS, ("answer in the passages", "supported"))
        columns = [
            [Cell(label), *_shares([row["metrics"][name] for row in rows])] for label, name in shown
        ]
        if self._reference is not None:
            columns[3:3] = [self._differences(setting, *metric) for metric in METRICS]
        return self._of_systems(f"All metrics, {self._overall_name(setting)}", columns)

    def _published(self, setting: str) -> Table:
        rows = self._rows(setting, self.overall[setting])
        columns = [
            [Cell(label), *_shares([row["metrics"][f"published_{name}"] for row in rows])]
            for label, name in METRICS
        ]
        return self._of_systems(f"{setting} setting, {self._overall_name(setting)}", columns)

    def _overall_name(self, setting: str) -> str:
        task = self.overall[setting]
        n = self._rows(setting, task)[0]["n"]
        what = "average over tasks" if task == "average" else task
        return f"{what}, per cent (n = {n:,})"

    def _costs(self, setting: str) -> Table:
        rows = self._rows(setting, self.overall[setting])
        reading = [self._reads[row["system"]] != "none" for row in rows]
        columns = []
        for label, name, best, form in (
            ("prompt tokens", "prompt_tokens", min, "{:,.0f}"),
            ("full-text tokens", "text_tokens", None, "{:,.0f}"),
            ("effective rate", "effective_rate", max, "{:,.1f}"),
            ("stored bytes", "stored_bytes", min, "{:,.0f}"),
            ("ms per answer", "ms", min, "{:,.0f}"),
        ):
            values = [row["costs"][name] for row in rows]
            texts = [
                form.format(value) if reads or name in ("prompt_tokens", "ms") else ABSENT
                for value, reads in zip(values, reading, strict=True)
            ]
            cells = [Cell(text) for text in texts]
            columns.append([Cell(label), *_with_best(cells, values, reading, best)])
        task = self.overall[setting]
        what = "average over tasks" if task == "average" else task
        return self._of_systems(f"Per question, {what} (n = {rows[0]['n']:,})", columns)

    def _retrieval(self, setting: str) -> Iterable[Table]:
        task = self.overall[setting]
        names = self._rankers(setting, task)
        free = [name not in self._controls for name in names]
        first = [
            Cell("ranker"),
            *(Cell(n, "" if f else "control") for n, f in zip(names, free, strict=True)),
        ]
        columns = [
            [
                Cell(label),
                *_shares([self._ranked[setting, task, n]["metrics"][metric] for n in names], free),
            ]
            for label, metric in RANKING
        ]
        n_all = self._ranked[setting, task, names[0]]["n"]
        what = "average over tasks" if task == "average" else task
        header, *rows = zip(first, *columns, strict=True)
        yield Table(f"{what}, per cent (n = {n_all:,})", header, rows)
        if task != "average":
            return
        tasks = [t for t in self._tasks[setting] if (setting, t, names[0]) in self._ranked]
        for label, metric in RANKING:
            if label in BY_TASK:
                columns = []
                for one in tasks:
                    found = [self._ranked[setting, one, n] for n in names]
                    columns.append(
                        [
                            Cell(one, f"n = {found[0]['n']:,}"),
                            *_shares([r["metrics"][metric] for r in found], free),
                        ]
                    )
                header, *rows = zip(first, *columns, strict=True)
                if label == "Recall@5":
                    expected = [
                        _percent(self._ranked[setting, one, names[0]]["expected_recall@5"])
                        for one in tasks
                    ]
                    rows.append((Cell("chance", "expected"), *map(Cell, expected)))
                yield Table(f"{label} by task, per cent", header, rows, folded=True)

    def _fidelity(self) -> Section:
        rows = self._results["fidelity"]
        columns = [
            [Cell("model"), *(Cell(row["model"]) for row in rows)],
            [Cell("latents"), *(Cell(f"{row['n_memory']:,}") for row in rows)],
            [Cell("passages"), *(Cell(f"{row['n']:,}") for row in rows)],
        ]
        for label, name in FIDELITY:
            columns.append([Cell(label), *_shares([row["metrics"].get(name) for row in rows])])
        header, *body = zip(*columns, strict=True)
        text = (
            "Gold passages written again from their latents: how many of their names and numbers "
            "are still there, and how many of their words."
        )
        return Section(
            "Fidelity of latents", [text], tables=[Table("Kept, per cent", header, body)]
        )

    def _samples(self) -> Section:
        samples = [
            Sample(
                question=one["question"],
                where=f"{one['task']}, {one['setting']} setting",
                answers=one["answers"],
                said=[
                    (system, text, _mark(text, one["answers"]))
                    for system, text in one["predictions"].items()
                ],
            )
            for one in self._results["samples"]
        ]
        text = "Questions drawn by lot, not chosen. Right is equal to an accepted answer."
        return Section("Sample answers", [text], samples=samples)

    def _compared(self) -> Section:
        systems = [
            (
                Cell(one["name"]),
                Cell({"latents": "latents", "text": "text", "none": "nothing"}[one["reader"]]),
                Cell(one["ranker"] or ABSENT),
                Cell(one["model"] or "bare base"),
                Cell(
                    f"{one['n_memory']:,}"
                    if one["n_memory"]
                    else "default"
                    if one["reader"] == "latents"
                    else ABSENT
                ),
                Cell(one["shorten"] or ABSENT),
            )
            for one in self._results["systems"]
        ]
        header = [
            Cell(t) for t in ("system", "reads", "ranker", "model", "latents", "shortened by")
        ]
        rankers = [
            (Cell(one["name"]), Cell(one["kind"]), Cell("yes" if one["control"] else "no"))
            for one in self._results["rankers"]
        ]
        tables = [
            Table("Systems", header, systems, words=True),
            Table("Rankers", [Cell("ranker"), Cell("kind"), Cell("control")], rankers, words=True),
        ]
        skipped = [(Cell(one["name"]), Cell(one["reason"])) for one in self._results["skipped"]]
        if skipped:
            tables.append(Table("Left out", [Cell("name"), Cell("reason")], skipped, words=True))
        return Section("What was compared", tables=tables)

    def _made(self) -> Section:
        on = self._results["machine"]
        points = [
            ("Processor", f"{on['processor']}, {_many(on['threads'], 'thread')}"),
            ("CUDA", on["cuda"] or "none"),
            ("Versions", f"torch {on['torch']}, Python {on['python']}"),
        ]
        recipe = self._results["recipe"]
        for label, name in (
            ("Most questions of a task", "limit"),
            ("Candidates nominated in the normal setting", "n_candidates"),
            ("Longest answer, tokens", "max_new_tokens"),
            ("Questions in a batch", "batch"),
            ("Seed", "seed"),
            ("Precision", "precision"),
        ):
            if recipe.get(name) is not None:
                points.append((label, str(recipe[name])))
        text = "All scores, with the whole recipe, are in results.json beside this file. Made by:"
        return Section("How it was made", [text], self._results["command"], points)


def comparison(difference: Sequence[float], reference: str) -> str:
    """Whether an F1 is above or below that of the reference, in words.

    Args:
        difference: Mean, low and high of the paired difference.
        reference: What it is compared with.
    """
    mean, low, high = difference
    if low > 0:
        return (
            f"{_percent(mean)} F1 points above {reference} [{_bound(low)}, {_bound(high)}]; "
            "interval excludes zero"
        )
    if high < 0:
        return (
            f"{_percent(-mean)} F1 points below {reference} [{_bound(-high)}, {_bound(-low)}]; "
            "interval excludes zero"
        )
    shown = _difference(difference)
    return (
        f"cannot be told apart from {reference}: {shown.text} F1 points {shown.quiet}; "
        "interval includes zero"
    )


def _mark(prediction: str, answers: Sequence[str]) -> str:
    if not answers:
        return ""
    found = scores(prediction, answers)
    return "right" if found.exact else "holds the answer" if found.cover else ""


# --- cells -------------------------------------------------------------------------------------


def _shares(
    values: Sequence[Sequence[float] | None], competing: Sequence[bool] | None = None
) -> list[Cell]:
    cells = [Cell(ABSENT) if value is None else _share(value) for value in values]
    means = [-1.0 if value is None else value[0] for value in values]
    return _with_best(cells, means, competing or [True] * len(cells), max)


def _with_best(
    cells: Sequence[Cell],
    values: Sequence[float],
    competing: Sequence[bool],
    best: Callable[[Iterable[float]], float] | None,
) -> list[Cell]:
    """Mark the best of those that compete, and what looks the same; nothing where all are alike."""
    rivals = [at for at, competes in enumerate(competing) if competes and cells[at].text != ABSENT]
    if best is None or len({cells[at].text for at in rivals}) < 2:
        return list(cells)
    top = cells[rivals[[values[at] for at in rivals].index(best(values[at] for at in rivals))]].text
    return [
        Cell(cell.text, cell.quiet, at in rivals and cell.text == top)
        for at, cell in enumerate(cells)
    ]


def _share(interval: Sequence[float]) -> Cell:
    mean, low, high = interval
    return Cell(_percent(mean), f"[{_percent(low)}, {_percent(high)}]")


def _difference(interval: Sequence[float]) -> Cell:
    mean, low, high = interval
    text = _percent(mean)
    sign = "" if text.startswith("−") or not text.strip("0.") else "+"
    return Cell(sign + text, f"[{_percent(low)}, {_percent(high)}]")


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}".replace("-", "−")


def _bound(share: float) -> str:
    """As `_percent`, but what is not zero does not look like zero."""
    text = _percent(share)
    return text if text.strip("0.") else f"{100 * share:.1g}"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
