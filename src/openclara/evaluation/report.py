"""The report of an evaluation: what it says, and the files it is written to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from openclara.evaluation.figures import AVERAGE, draw, overall_tasks
from openclara.evaluation.metrics import scores
from openclara.reports.page import Cell, Sample, Section, Table, html, markdown
from openclara.reports.writing import one_line, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from openclara.evaluation.figures import Drawing

ABSENT = "–"

SETTINGS = {
    "oracle": "Candidates are the passages of the question's own record, gold ones among them.",
    "normal": "Candidates are nominated by BM25 from the whole corpus; gold ones may be missing.",
    "gold": "The gold passages alone are read, so that search plays no part.",
}

HOW_TO_READ = (
    ("Intervals", "In brackets stands the 95 % bootstrap interval over questions. Averages weigh "
     "tasks alike; their intervals resample questions within tasks."),
    ("Differences", "Differences to the reference are paired: both systems answer the same "
     "questions. Where the interval includes zero, these questions cannot tell the two apart. "
     "Where it barely excludes zero, remember that one in twenty comparisons of equals does."),
    *((f"The {name} setting", text) for name, text in SETTINGS.items()),
    ("Controls", "Controls are not competitors and are never marked as best. No ranker should fall "
     "below the random order; none can surpass the gold one, which is made from the labels."),
    ("Bold", "The best value of a column; of costs, among the systems that read passages."),
    ("F1, EM, cover-EM", "F1 weighs the words shared with an accepted answer; EM asks for the same "
     "text, cover-EM for all of its words. Texts are normalised by the rules of SQuAD 1.1, and the "
     "accepted answer that suits best counts."),
    ("Answer in the passages", "How often an accepted answer stands word for word in one of the "
     "passages chosen for the system, before they are shortened or compressed. Yes and no never "
     "count as found. It shows what ranking leaves to be read."),
    ("Prompt tokens", "Positions that the generator reads, with question and template. Full-text "
     "tokens are what they would be with the whole passages; the effective rate divides the two."),
    ("Stored bytes", "What is kept of the passages that a question is answered from: latents at 16 "
     "bits a number, or text in UTF-8."),
    ("Milliseconds", "To read and to answer, in batches, shortening included; ranking and "
     "compressing are not. They hold for the machine named at the end."),
)  # fmt: skip

UNFAIR = (
    ("Gold passages are short", "In the public files they are shorter than the other candidates. A "
     "ranker may gain from length alone."),
    ("BM25 nominates", "In the normal setting BM25 chooses the candidates, so no ranker can find "
     "what it misses. The gold control shows the most that can be reached."),
    ("A small base", "A small base answers imperfectly even from the full text. With a larger one, "
     "distances between systems may differ."),
)  # fmt: skip

ANSWER_METRICS = {"F1": "f1", "EM": "em", "cover-EM": "cover"}
RANKING_METRICS = {
    "Recall@1": "recall@1",
    "Recall@3": "recall@3",
    "Recall@5": "recall@5",
    "MRR": "mrr",
    "nDCG@10": "ndcg@10",
}
PRECISION = {f"Precision@{k}": f"precision@{k}" for k in (1, 3, 5)}
BY_TASK = ("Recall@1", "Recall@5", "MRR", "nDCG@10")
FIDELITY_METRICS = {
    "names": "entities",
    "numbers": "numbers",
    "ROUGE-1": "rouge_1",
    "ROUGE-L": "rouge_l",
}
CONDITIONS = {
    "Most questions of a task": "limit",
    "Candidates nominated in the normal setting": "n_candidates",
    "Longest answer, tokens": "max_new_tokens",
    "Questions in a batch": "batch",
    "Arithmetic": "precision",
    "Seed": "seed",
}


def write_report(results: Mapping[str, Any], folder: Path) -> None:
    """Write `results.json`, `figures/`, `report.md` and `report.html`.

    Args:
        results: As `openclara.evaluation.results` makes them.
        folder: Where to; made if it is not there.

    Raises:
        ConfigError: matplotlib is not installed; `results.json` is written by then.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", json.dumps(results, indent=1).encode() + b"\n")
    shown = one_line(results)
    drawings = draw(shown)
    report = _Report(shown, drawings)
    sections = report.sections()
    for drawing in drawings:
        write_whole(folder / "figures" / f"{drawing.name}.svg", drawing.svg.encode())
        write_whole(folder / "figures" / f"{drawing.name}.png", drawing.png)
    write_whole(folder / "report.md", markdown(report.title, sections).encode())
    write_whole(folder / "report.html", html(report.title, sections).encode())


# --- what it says ------------------------------------------------------------------------------


class _Report:
    def __init__(self, results: Mapping[str, Any], drawings: Sequence[Drawing]) -> None:
        self._results = results
        self._drawn = {(one.kind, one.setting): one for one in drawings}
        self._systems = [one["name"] for one in results["systems"]]
        self._reads = {one["name"]: one["reader"] for one in results["systems"]}
        self._controls = {one["name"] for one in results["rankers"] if one["control"]}
        self._reference: str | None = results["reference"]
        self._answers = {(r["setting"], r["task"], r["system"]): r for r in results["answers"]}
        self._ranked = {(r["setting"], r["task"], r["ranker"]): r for r in results["retrieval"]}
        self._overall = overall_tasks(results["answers"])
        self._overall_ranked = overall_tasks(results["retrieval"])
        n_tasks = len({row["task"] for row in results["answers"]} - {AVERAGE})
        self.title = f"Evaluation: {_many(len(self._systems), 'system')}, {_many(n_tasks, 'task')}"

    def sections(self) -> list[Section]:
        found = [Section("In short", list(self._opening()), points=list(self._in_short()))]
        found += [self._answering(setting) for setting in self._overall]
        found += [self._costs(setting) for setting in self._overall]
        found += [self._retrieval(setting) for setting in self._overall_ranked]
        found.append(
            Section(
                "Scores of the published evaluator",
                ["For comparison with published numbers: the first accepted answer alone counts, "
                 "and texts are compared as the evaluator published with CLaRa does."],
                tables=[self._published(setting) for setting in self._overall],
            )
        )  # fmt: skip
        if self._results["fidelity"]:
            found.append(self._fidelity())
        if self._results["samples"]:
            found.append(self._samples())
        found += [
            Section("How to read this", points=HOW_TO_READ),
            Section("Known unfairness", points=UNFAIR),
            self._compared(),
            self._made(),
        ]
        return found

    # -- sentences --------------------------------------------------------------------------

    def _opening(self) -> Iterator[str]:
        against = f"Systems are compared with {self._reference}. " if self._reference else ""
        yield f"{against}Each answers from at most {_many(self._results['k'], 'passage')}."
        names = [one["name"] for one in self._results["skipped"]]
        if names:
            yield f"Left out, for reasons given below: {'; '.join(names)}."

    def _in_short(self) -> Iterator[tuple[str, str]]:
        if self._reference is None:
            return
        others = [name for name in self._systems if name != self._reference]
        latents = [name for name in others if self._reads[name] == "latents"]
        # Where latents are the reference, it is the others that are compared with them.
        shown = others if self._reads[self._reference] == "latents" else latents
        for setting, task in self._overall.items():
            reference = self._answers[setting, task, self._reference]["costs"]["prompt_tokens"]
            for name in shown:
                row = self._answers[setting, task, name]
                said = comparison(row["over_reference"]["f1"], self._reference)
                tokens = f"{row['costs']['prompt_tokens']:,.0f}"
                yield (
                    f"{setting} · {name}",
                    f"{said}. It reads {tokens} prompt tokens, the reference {reference:,.0f}.",
                )

    def _against_chance(self, setting: str) -> Iterator[tuple[str, str]]:
        for row in self._ranked_rows(setting, self._overall_ranked[setting]):
            if row["ranker"] in self._controls:
                continue
            (_, low, high), chance = row["metrics"]["recall@5"], row["expected_recall@5"]
            verdict = (
                "above" if low > chance else "below" if high < chance else "not told apart from"
            )
            shown = _share(row["metrics"]["recall@5"])
            yield (
                row["ranker"],
                f"Recall@5 {shown.text} % {shown.quiet}; a random order is expected to reach "
                f"{_percent(chance)} %: {verdict} chance.",
            )

    # -- answers ----------------------------------------------------------------------------

    def _rows(self, setting: str, task: str) -> list[Mapping[str, Any]]:
        return [self._answers[setting, task, name] for name in self._systems]

    def _of_systems(self, title: str, columns: Iterable[Sequence[Cell]]) -> Table:
        notes = ["reference" if name == self._reference else "" for name in self._systems]
        return _table(title, [Cell("system"), *map(Cell, self._systems, notes)], columns)

    def _answering(self, setting: str) -> Section:
        tasks = dict.fromkeys(row["task"] for row in self._results["answers"])
        columns = []
        for task in tasks:
            if (setting, task, self._systems[0]) in self._answers:
                rows = self._rows(setting, task)
                header = Cell(task, f"n = {rows[0]['n']:,}")
                columns.append([header, *_shares([row["metrics"]["f1"] for row in rows])])
        columns += self._differences(setting, ["F1"])
        return Section(
            f"Answers, {setting} setting",
            [SETTINGS[setting]] if setting in SETTINGS else [],
            tables=[
                self._of_systems("F1 by task, per cent", columns),
                self._all_metrics(setting),
            ],
            figures=[self._drawn["prompt_tokens", setting]],
        )

    def _differences(self, setting: str, labels: Iterable[str]) -> Iterator[list[Cell]]:
        if self._reference is None:
            return
        rows = self._rows(setting, self._overall[setting])
        for label in labels:
            cells = [_difference(row["over_reference"][ANSWER_METRICS[label]]) for row in rows]
            cells[self._systems.index(self._reference)] = Cell(ABSENT)
            yield [Cell(f"{label} over reference"), *cells]

    def _all_metrics(self, setting: str) -> Table:
        task = self._overall[setting]
        rows = self._rows(setting, task)
        reading = [self._reads[name] != "none" for name in self._systems]
        columns = [
            *_metric_columns(rows, ANSWER_METRICS),
            *self._differences(setting, ANSWER_METRICS),
            *_metric_columns(rows, {"answer in the passages": "supported"}, reading),
        ]
        return self._of_systems(f"All metrics; {_scope(rows[0])}, per cent", columns)

    def _published(self, setting: str) -> Table:
        rows = self._rows(setting, self._overall[setting])
        metrics = {label: f"published_{name}" for label, name in ANSWER_METRICS.items()}
        title = f"{setting.capitalize()} setting; {_scope(rows[0])}, per cent"
        return self._of_systems(title, _metric_columns(rows, metrics))

    def _costs(self, setting: str) -> Section:
        rows = self._rows(setting, self._overall[setting])
        reading = [self._reads[name] != "none" for name in self._systems]
        columns = []
        for label, name, best, form in (
            ("prompt tokens", "prompt_tokens", min, "{:,.0f}"),
            ("full-text tokens", "text_tokens", None, "{:,.0f}"),
            ("effective rate", "effective_rate", max, "{:,.1f}"),
            ("stored bytes", "stored_bytes", min, "{:,.0f}"),
            ("ms per answer", "ms", min, "{:,.0f}"),
        ):
            values = [row["costs"][name] for row in rows]
            spans = [row.get("cost_intervals", {}).get(name) for row in rows]
            cells = [
                Cell(form.format(value), _span(form, span)) if value else Cell(ABSENT)
                for value, span in zip(values, spans, strict=True)
            ]
            columns.append([Cell(label), *_with_best(cells, values, reading, best)])
        return Section(
            f"Costs, {setting} setting",
            tables=[self._of_systems(f"For each question; {_scope(rows[0])}", columns)],
            figures=[self._drawn["stored_bytes", setting]],
        )

    # -- retrieval --------------------------------------------------------------------------

    def _ranked_rows(self, setting: str, task: str) -> list[Mapping[str, Any]]:
        names = [one["name"] for one in self._results["rankers"]]
        return [self._ranked[setting, task, name] for name in names]

    def _retrieval(self, setting: str) -> Section:
        names = [one["name"] for one in self._results["rankers"]]
        free = [name not in self._controls for name in names]
        notes = ["" if competes else "control" for competes in free]
        first = [Cell("ranker"), *map(Cell, names, notes)]
        rows = self._ranked_rows(setting, self._overall_ranked[setting])
        scope = _scope(rows[0])
        main = _metric_columns(rows, RANKING_METRICS, free)
        precision = _metric_columns(rows, PRECISION, free)
        tables = [_table(f"{scope[0].upper()}{scope[1:]}, per cent", first, main)]
        tables.append(_table(f"Precision; {scope}, per cent", first, precision, folded=True))
        tasks = [t for s, t, n in self._ranked if (s, n) == (setting, names[0]) and t != AVERAGE]
        for label in BY_TASK if len(tasks) > 1 else ():
            columns = []
            for task in tasks:
                rows = self._ranked_rows(setting, task)
                cells = _shares([row["metrics"][RANKING_METRICS[label]] for row in rows], free)
                columns.append([Cell(task, f"n = {rows[0]['n']:,}"), *cells])
                if label == "Recall@5":
                    columns[-1].append(Cell(_percent(rows[0]["expected_recall@5"])))
            chance = [Cell("chance", "expected")] if label == "Recall@5" else []
            title = f"{label} by task, per cent"
            tables.append(_table(title, [*first, *chance], columns, folded=True))
        return Section(
            f"Retrieval, {setting} setting",
            [SETTINGS[setting]] if setting in SETTINGS else [],
            points=list(self._against_chance(setting)),
            tables=tables,
            figures=[self._drawn["recall", setting]],
        )

    # -- the rest ---------------------------------------------------------------------------

    def _fidelity(self) -> Section:
        rows = self._results["fidelity"]
        columns = [
            [Cell("latents"), *(Cell(f"{row['n_memory']:,}") for row in rows)],
            [Cell("passages"), *(Cell(f"{row['n']:,}") for row in rows)],
            *_metric_columns(rows, FIDELITY_METRICS),
        ]
        text = (
            "Gold passages written again from their latents: the share of their names and numbers "
            "that is still there, and the overlap of words."
        )
        first = [Cell("model"), *(Cell(row["model"]) for row in rows)]
        return Section("Fidelity of latents", [text], tables=[_table("Per cent", first, columns)])

    def _samples(self) -> Section:
        samples = [
            Sample(
                question=one["question"],
                where=f"{one['task']}, {one['setting']} setting",
                answers=one["answers"],
                said=[
                    (system, text, _verdict(text, one["answers"]))
                    for system, text in one["predictions"].items()
                ],
            )
            for one in self._results["samples"]
        ]
        text = (
            "Drawn by lot, not chosen. Right is what equals an accepted answer; what has all words "
            "of one holds the answer."
        )
        return Section("Sample answers", [text], samples=samples)

    def _compared(self) -> Section:
        systems = [
            (
                one["name"],
                {"none": "nothing"}.get(one["reader"], one["reader"]),
                one["ranker"] or ABSENT,
                one["model"] or "bare base",
                str(one["n_memory"] or ("default" if one["reader"] == "latents" else ABSENT)),
                one["shorten"] or ABSENT,
            )
            for one in self._results["systems"]
        ]
        rankers = [
            (one["name"], one["kind"], "yes" if one["control"] else "no")
            for one in self._results["rankers"]
        ]
        skipped = [(one["name"], one["reason"]) for one in self._results["skipped"]]
        tables = [
            _words("Systems", "system|reads|ranker|model|latents|shortened by", systems),
            _words("Rankers", "ranker|kind|control", rankers),
        ]
        if skipped:
            tables.append(_words("Left out", "name|reason", skipped))
        return Section("What was compared", tables=tables)

    def _made(self) -> Section:
        machine, recipe = self._results["machine"], self._results["recipe"]
        points = [
            ("Processor", f"{machine['processor']}, {_many(machine['threads'], 'thread')}"),
            ("CUDA", machine["cuda"] or "none"),
            ("Versions", f"torch {machine['torch']}, Python {machine['python']}"),
        ]
        for label, name in CONDITIONS.items():
            if recipe.get(name) is not None:
                points.append((label, str(recipe[name])))
        text = "The whole recipe and every score are in results.json beside this file. Made by:"
        return Section("How it was made", [text], self._results["command"], points)


def comparison(difference: Sequence[float], reference: str) -> str:
    """In words, whether an F1 is above or below that of the reference.

    Args:
        difference: Mean, low and high of the paired difference.
        reference: What it is compared with.
    """
    mean, low, high = difference
    if low > 0 or high < 0:
        way = "above" if low > 0 else "below"
        near, far = sorted((abs(low), abs(high)))
        return (
            f"{_percent(abs(mean))} F1 points {way} {reference} [{_bound(near)}, {_bound(far)}]; "
            "interval excludes zero"
        )
    shown = _difference(difference)
    return (
        f"cannot be told apart from {reference}: {shown.text} F1 points {shown.quiet}; "
        "interval includes zero"
    )


def _verdict(prediction: str, answers: Sequence[str]) -> str:
    if not answers:
        return ""
    found = scores(prediction, answers)
    return "right" if found.exact else "holds the answer" if found.cover else ""


# --- cells -------------------------------------------------------------------------------------


def _table(
    title: str,
    first: Sequence[Cell],
    columns: Iterable[Sequence[Cell]],
    *,
    folded: bool = False,
) -> Table:
    header, *rows = zip(first, *columns, strict=True)
    return Table(title, header, rows, folded=folded)


def _words(title: str, header: str, rows: Iterable[Sequence[str]]) -> Table:
    cells = [[Cell(text) for text in row] for row in rows]
    return Table(title, [Cell(text) for text in header.split("|")], cells, words=True)


def _metric_columns(
    rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, str],
    competing: Sequence[bool] | None = None,
) -> list[list[Cell]]:
    return [
        [Cell(label), *_shares([row["metrics"].get(name) for row in rows], competing)]
        for label, name in metrics.items()
    ]


def _shares(
    values: Sequence[Sequence[float] | None], competing: Sequence[bool] | None = None
) -> list[Cell]:
    cells = [Cell(ABSENT) if value is None else _share(value) for value in values]
    means = [0.0 if value is None else value[0] for value in values]
    return _with_best(cells, means, competing or [True] * len(cells), max)


def _with_best(
    cells: Sequence[Cell],
    values: Sequence[float],
    competing: Sequence[bool],
    best: Callable[[Iterable[float]], float] | None,
) -> list[Cell]:
    """Mark the best that competes, and what looks the same; nothing where all look the same."""
    rivals = {at for at, cell in enumerate(cells) if competing[at] and cell.text != ABSENT}
    if best is None or len({cells[at].text for at in rivals}) < 2:
        return list(cells)
    first = best(values[at] for at in rivals)
    shown = {cells[at].text for at in rivals if values[at] == first}
    return [
        Cell(cell.text, cell.quiet, at in rivals and cell.text in shown)
        for at, cell in enumerate(cells)
    ]


def _scope(row: Mapping[str, Any]) -> str:
    what = "average over tasks" if row["task"] == AVERAGE else row["task"]
    return f"{what} (n = {row['n']:,})"


def _share(interval: Sequence[float]) -> Cell:
    mean, low, high = interval
    return Cell(_percent(mean), f"[{_percent(low)}, {_percent(high)}]")


def _difference(interval: Sequence[float]) -> Cell:
    shown = _share(interval)
    return Cell("+" + shown.text, shown.quiet) if round(interval[0], 3) > 0 else shown


def _span(form: str, span: Sequence[float] | None) -> str:
    return f"[{', '.join(form.format(bound) for bound in span)}]" if span else ""


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}".replace("-", "−")


def _bound(share: float) -> str:
    """As `_percent`, but what is not zero does not look like zero."""
    text = _percent(share)
    return text if text.strip("0.") else f"{100 * share:.1g}"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
