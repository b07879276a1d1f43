"""The report says what the numbers say, and nothing in the data becomes markup."""

from __future__ import annotations

import json
import random
import re
import sys
from html.parser import HTMLParser
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from openclara.errors import ConfigError
from openclara.evaluation.figures import placed, spread
from openclara.evaluation.metrics import scores
from openclara.evaluation.report import comparison, one_line, write_report

TASKS = {"NQ": 100, "HotpotQA": 100, "MuSiQue": 100, "2Wiki": 96}
CLARA, TEXT, PISCO = "smollm2-135m", "runs/baselines/text", "runs/baselines/pisco"
SYSTEMS = (
    # name, reader, ranker, model, n_memory, shorten, F1, prompt tokens, stored bytes, ms
    ("closed book", "none", None, CLARA, None, None, 0.089, 36, 0, 210),
    ("full text, untuned", "text", "BM25", None, None, None, 0.149, 812, 3160, 1650),
    ("full text, tuned", "text", "BM25", TEXT, None, None, 0.402, 812, 3160, 1580),
    ("first 16 tokens each", "text", "BM25", TEXT, None, "cut", 0.171, 131, 3160, 400),
    ("best sentences, 16 tokens each", "text", "BM25", TEXT, None, "sentences", 0.231, 129, 3160,
     420),
    ("LLMLingua-2, 16 tokens each", "text", "BM25", TEXT, None, "llmlingua", 0.188, 134, 3160, 610),
    ("PISCO-like, 16x", "latents", "BM25", PISCO, 16, None, 0.124, 141, 94208, 420),
    ("latents, 16x", "latents", "BM25", CLARA, 16, None, 0.151, 141, 94208, 430),
    ("latents, 4x", "latents", "BM25", CLARA, 64, None, 0.228, 402, 376832, 840),
    ("reasoner and latents, 16x", "latents", "reasoner", CLARA, 16, None, 0.118, 138, 91392, 425),
)  # fmt: skip
RANKERS = (
    # name, kind, control, recall@1
    ("random", "random", True, 0.11),
    ("BM25", "bm25", False, 0.44),
    ("MiniLM", "dense", False, 0.52),
    ("reasoner", "latent", False, 0.15),
    ("hybrid", "hybrid", False, 0.47),
    ("gold", "gold", True, 0.62),
)
REFERENCE = "full text, tuned"


def between(mean, width=0.035):
    return [mean, max(0.0, mean - width), min(1.0, mean + width)]


def answer_row(rng, task, n, setting, system):
    name, _, _, _, _, _, f1, prompt, stored, ms = system
    harder = 0.75 if setting == "normal" else 1.0
    f1 = f1 * harder * rng.uniform(0.8, 1.2) if task != "average" else f1 * harder
    width = 0.07 if task != "average" else 0.035
    lower = [(metric, f1 * part) for metric, part in (("f1", 1.0), ("em", 0.6), ("cover", 0.85))]
    metrics = {metric: between(value, width) for metric, value in lower}
    metrics |= {f"published_{metric}": between(0.95 * value, width) for metric, value in lower}
    metrics["supported"] = between(0.0 if name == "closed book" else 0.66 * harder, width)
    full = {
        metric: 0.402 * harder * part for metric, part in (("f1", 1), ("em", 0.6), ("cover", 0.85))
    }
    over = {m: [metrics[m][0] - full[m] + d for d in (0, -0.031, 0.03)] for m in full}
    text = 0.0 if name == "closed book" else 812.0
    return {
        "task": task, "setting": setting, "system": name, "n": n, "metrics": metrics,
        "over_reference": {m: [0.0] * 3 for m in full} if name == REFERENCE else over,
        "costs": {"prompt_tokens": prompt + 0.3, "text_tokens": text, "stored_bytes": stored,
                  "ms": ms + 0.25, "effective_rate": text / prompt},
        "cost_intervals": {"prompt_tokens": [prompt - 2, prompt + 3.0]},
    }  # fmt: skip


def ranking_row(rng, task, n, setting, ranker):
    name, _, _, first = ranker
    most = 0.84 if setting == "normal" else 1.0
    first *= most * (rng.uniform(0.9, 1.1) if task != "average" else 1.0)
    curve = [
        most * (1 - (1 - first / most) * (1 - (k - 1) / 9) ** (1 + 3 * first)) for k in range(1, 11)
    ]
    if name == "gold":
        curve = [first, *[most] * 9]
    if name == "random":
        curve = [most * k / 10 for k in range(1, 11)]
    values = {
        "recall@1": curve[0],
        "recall@3": curve[2],
        "recall@5": curve[4],
        "precision@1": min(1.0, 1.5 * curve[0]),
        "precision@3": curve[2] / 2,
        "precision@5": curve[4] / 3,
        "mrr": 0.5 + curve[0] / 2,
        "ndcg@10": 0.4 + 0.6 * curve[0],
    }
    return {
        "task": task, "setting": setting, "ranker": name, "n": n,
        "metrics": {metric: between(value) for metric, value in values.items()},
        "recall_curve": curve, "expected_recall@5": 0.5 * most,
    }  # fmt: skip


def make_results(*, systems=SYSTEMS, settings=("oracle", "normal"), tasks=None):
    """A made-up evaluation of the shape that results.py gives."""
    rng = random.Random(0)
    tasks = TASKS if tasks is None else tasks
    every = tasks if len(tasks) == 1 else {**tasks, "average": sum(tasks.values())}
    says = ("Jørn Utzon", "the Danish architect Jørn Utzon", "Henry Moore", "", "in 1957, by Utzon")
    system_fields = ("name", "reader", "ranker", "model", "n_memory", "shorten")
    missing = "there is no trained model at runs/baselines/supervised; train one, or name another"
    return {
        "recipe": {"limit": 100, "n_candidates": 10, "seed": 0, "batch": 16, "max_new_tokens": 24},
        "command": "openclara eval recipes/eval.toml",
        "machine": {"processor": "AMD EPYC", "threads": 2, "cuda": None, "torch": "2.13.0+cpu",
                    "python": "3.11.7"},
        "k": 5,
        "reference": REFERENCE,
        "systems": [dict(zip(system_fields, one, strict=False)) for one in systems],
        "rankers": [dict(zip(("name", "kind", "control"), r, strict=False)) for r in RANKERS],
        "skipped": [{"name": "reasoner, supervised", "reason": missing}],
        "answers": [
            answer_row(rng, task, n, setting, one)
            for setting in settings for one in systems for task, n in every.items()
        ],
        "retrieval": [
            ranking_row(rng, task, n, setting, one)
            for setting in settings for one in RANKERS for task, n in every.items()
        ],
        "fidelity": [
            {"model": "smollm2-135m", "n_memory": m, "n": 50,
             "metrics": {"entities": between(0.31 + m / 300), "numbers": between(0.22 + m / 300),
                         "rouge_1": between(0.4 + m / 300), "rouge_l": between(0.3 + m / 300)}}
            for m in (16, 64)
        ],
        "samples": [
            {"task": task, "setting": setting, "answers": ["Jørn Utzon", "Utzon"],
             "question": f"Who designed the opera house that opened in Sydney in {1973 + number}?",
             "predictions": {one[0]: rng.choice(says) for one in systems}}
            for number in range(2) for task in tasks for setting in settings
        ],
    }  # fmt: skip


# --- reading it back -----------------------------------------------------------------------------

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Reader(HTMLParser):
    """Checks that tags balance, and keeps ids, links and the cells of every table."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.links, self.tables, self.text = [], [], [], [], [], []
        self.attributes = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute comes twice in {tag}"
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


def markdown_tables(text):
    """Title, and rows of cells, of every table but those of sample answers."""
    found = []
    for title, block in re.findall(r"^(.+):\n\n((?:\|.*\n)+)", text, re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        rows = [[re.sub(r"\\(.)", r"\1", cell).strip() for cell in line] for line in lines]
        found.append((title, [rows[0], *rows[2:]]))
    return found


def shown(interval):
    mean, low, high = (f"{100 * value:.1f}".replace("-", "−") for value in interval)
    return f"{mean} [{low}, {high}]"


def plain(rows):
    return [[cell.replace("**", "") for cell in row] for row in rows]


def row_of(results, part, **named):
    (row,) = [r for r in results[part] if all(r[k] == v for k, v in named.items())]
    return row


@pytest.fixture(scope="module")
def results():
    return make_results()


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report") / "new"
    write_report(results, folder)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def report_of(results, folder):
    pytest.importorskip("matplotlib")
    write_report(results, folder)
    return (folder / "report.md").read_text("utf-8"), (folder / "report.html").read_text("utf-8")


# --- files ---------------------------------------------------------------------------------------


def test_what_is_written(folder, results):
    assert {path.name for path in folder.iterdir()} == {
        "results.json", "report.md", "report.html", "figures",
    }  # fmt: skip
    assert json.loads((folder / "results.json").read_text()) == results
    kinds = ("prompt-tokens", "stored-bytes", "recall")
    names = {f"{kind}-{setting}" for kind in kinds for setting in ("oracle", "normal")}
    files = {path.name for path in (folder / "figures").iterdir()}
    assert files == {f"{name}.{end}" for name in names for end in ("svg", "png")}


def test_two_runs_write_the_same_bytes(folder, results, tmp_path):
    write_report(results, tmp_path)
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_figures_are_svg_without_a_date_and_png(folder):
    for path in (folder / "figures").glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r"\d{4}-\d{2}-\d{2}|metadata", path.read_text())
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_figures_name_every_system_and_ranker(folder):
    def words(name):
        return set(ElementTree.parse(folder / "figures" / name).getroot().itertext())

    for setting in ("oracle", "normal"):
        for kind in ("prompt-tokens", "stored-bytes"):
            assert {one[0] for one in SYSTEMS} <= words(f"{kind}-{setting}.svg")
        rankers = {f"{name}, control" if control else name for name, _, control, _ in RANKERS}
        assert rankers <= words(f"recall-{setting}.svg")


def test_without_matplotlib_it_says_what_to_install(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'openclara\[eval\]'"):
        write_report(results, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results


# --- numbers -------------------------------------------------------------------------------------


def test_every_number_of_the_tables_is_the_one_given(text, results):
    tables = markdown_tables(text)
    tasks = [*TASKS, "average"]
    settings = ("oracle", "normal")
    by_task = [rows for title, rows in tables if title == "F1 by task, per cent"]
    all_metrics = [rows for title, rows in tables if title.startswith("All metrics")]
    costs = [rows for title, rows in tables if title.startswith("For each question")]
    published = [rows for title, rows in tables if "setting; average over tasks" in title]
    for setting, f1, every, cost, other in zip(
        settings, by_task, all_metrics, costs, published, strict=True
    ):
        counts = [f"{task} (n = {TASKS.get(task, 396)})" for task in tasks]
        assert f1[0] == ["system", *counts, "F1 over reference"]
        for at, (name, *_) in enumerate(SYSTEMS, 1):
            rows = [row_of(results, "answers", setting=setting, task=t, system=name) for t in tasks]
            note = " (reference)" if name == REFERENCE else ""
            assert plain(f1)[at][:-1] == [name + note, *(shown(r["metrics"]["f1"]) for r in rows)]
            metrics, over = rows[-1]["metrics"], rows[-1]["over_reference"]
            differences = [shown(over[m]) for m in ("f1", "em", "cover")] if not note else ["–"] * 3
            assert f1[at][-1] == differences[0]
            assert plain(every)[at][1:] == [
                *(shown(metrics[m]) for m in ("f1", "em", "cover")),
                *differences,
                shown(metrics["supported"]),
            ]
            assert plain(other)[at][1:] == [
                shown(metrics[f"published_{m}"]) for m in ("f1", "em", "cover")
            ]
            paid = rows[-1]["costs"]
            amounts = [f"{paid[c]:,.0f}" for c in ("prompt_tokens", "text_tokens")]
            low, high = rows[-1]["cost_intervals"]["prompt_tokens"]
            amounts[0] += f" [{low:,.0f}, {high:,.0f}]"
            amounts += [f"{paid['effective_rate']:.1f}"]
            amounts += [f"{paid[c]:,.0f}" for c in ("stored_bytes", "ms")]
            nothing = ("0", "0.0")
            assert plain(cost)[at][1:] == ["–" if a in nothing else a for a in amounts]


def test_retrieval_tables_hold_the_numbers_given(text, results):
    tables = markdown_tables(text)
    names = ("recall@1", "recall@3", "recall@5", "mrr", "ndcg@10")
    main = [rows for title, rows in tables if title == "Average over tasks (n = 396), per cent"]
    labels = {"Recall@1": "recall@1", "Recall@5": "recall@5", "MRR": "mrr", "nDCG@10": "ndcg@10"}
    for at, setting in enumerate(("oracle", "normal")):
        for row, (ranker, _, control, _) in zip(plain(main[at])[1:], RANKERS, strict=True):
            own = row_of(results, "retrieval", setting=setting, task="average", ranker=ranker)
            note = " (control)" if control else ""
            assert row == [ranker + note, *(shown(own["metrics"][name]) for name in names)]
        for label, name in labels.items():
            rows = [rows for title, rows in tables if title == f"{label} by task, per cent"][at]
            for row, (ranker, *_) in zip(plain(rows)[1:], RANKERS, strict=False):
                found = [
                    row_of(results, "retrieval", setting=setting, task=task, ranker=ranker)
                    for task in TASKS
                ]
                assert row[1:] == [shown(one["metrics"][name]) for one in found]
            if label == "Recall@5":
                chance = f"{100 * results['retrieval'][0]['expected_recall@5']:.1f}"
                expected = chance if setting == "oracle" else "42.0"
                assert rows[-1] == ["chance (expected)", *[expected] * len(TASKS)]


def test_fidelity_and_what_was_left_out(text):
    tables = dict(markdown_tables(text))
    assert plain(tables["Per cent"])[0][1:3] == ["latents", "passages"]
    assert plain(tables["Per cent"])[1] == [
        "smollm2-135m", "16", "50", *(shown(between(v + 16 / 300)) for v in (0.31, 0.22, 0.4, 0.3)),
    ]  # fmt: skip
    assert tables["Left out"][1][0] == "reasoner, supervised"
    assert "there is no trained model" in tables["Left out"][1][1]


def test_the_page_has_the_tables_of_the_markdown(text, page):
    def cells(rows):
        return [[re.sub(r"[()\s*]|best", "", cell) for cell in row] for row in rows]

    assert [cells(rows) for rows in Reader(page).tables] == [
        cells(rows) for _, rows in markdown_tables(text)
    ]


def test_the_best_competitor_of_a_column_is_marked(text, page):
    tables = dict(reversed(markdown_tables(text)))
    average = [row[5] for row in tables["F1 by task, per cent"][1:]]
    assert [cell.startswith("**") for cell in average] == [s[0] == REFERENCE for s in SYSTEMS]
    ranked = [row[1] for row in tables["Average over tasks (n = 396), per cent"][1:]]
    assert [cell.startswith("**") for cell in ranked] == [r[0] == "MiniLM" for r in RANKERS]
    costs = [row[1] for row in tables["For each question; average over tasks (n = 396)"][1:]]
    assert [c for c in costs if c.startswith("**")] == [
        "**129** [127, 132]"
    ]  # closed book reads 36
    marked = [cell for _, rows in markdown_tables(text) for row in rows for cell in row]
    assert page.count("(best)") == sum(cell.startswith("**") for cell in marked)


# --- sentences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (
            [-0.123, -0.149, -0.098],
            "12.3 F1 points below full text [9.8, 14.9]; interval excludes zero",
        ),
        ([0.021, 0.004, 0.04], "2.1 F1 points above full text [0.4, 4.0]; interval excludes zero"),
        (
            [0.012, -0.005, 0.029],
            "cannot be told apart from full text: +1.2 F1 points [−0.5, 2.9]; "
            "interval includes zero",
        ),
        (
            [-0.012, -0.029, 0.0],
            "cannot be told apart from full text: −1.2 F1 points [−2.9, 0.0]; "
            "interval includes zero",
        ),
        (
            [0.0, 0.0, 0.0],
            "cannot be told apart from full text: 0.0 F1 points [0.0, 0.0]; interval includes zero",
        ),
        # Rounded to a tenth, this bound would contradict the sentence.
        ([0.02, 0.0003, 0.04], "2.0 F1 points above full text [0.03, 4.0]; interval excludes zero"),
    ],
)
def test_a_difference_in_words(difference, said):
    assert comparison(difference, "full text") == said


def test_latents_are_compared_with_the_reference_in_every_setting(tmp_path):
    results = make_results()
    differences = {"latents, 16x": [-0.1, -0.12, -0.08], "latents, 4x": [0.05, 0.02, 0.08],
                   "PISCO-like, 16x": [0.01, -0.02, 0.04]}  # fmt: skip
    for row in results["answers"]:
        if row["task"] == "average" and row["system"] in differences:
            row["over_reference"]["f1"] = differences[row["system"]]
    text, page = report_of(results, tmp_path)
    opening = text[text.index("## In short") : text.index("## Answers")]
    for setting in ("oracle", "normal"):
        for said in (
            "latents, 16x**: 10.0 F1 points below full text, tuned [8.0, 12.0]; interval excludes "
            "zero. It reads 141 prompt tokens, the reference 812.",
            "latents, 4x**: 5.0 F1 points above full text, tuned [2.0, 8.0]; interval excludes "
            "zero. It reads 402 prompt tokens, the reference 812.",
            "PISCO-like, 16x**: cannot be told apart from full text, tuned: +1.0 F1 points "
            "[−2.0, 4.0]; interval includes zero. It reads 141 prompt tokens, the reference 812.",
        ):
            assert f"- **{setting} · {said}\n" in opening
    assert opening.count("- **") == 2 * sum(one[1] == "latents" for one in SYSTEMS)
    assert "reasoner, supervised" in opening
    assert "10.0 F1 points below full text, tuned [8.0, 12.0]" in page


def test_rankers_are_compared_with_chance(tmp_path):
    results = make_results(settings=("oracle",))
    recalls = {"BM25": [0.8, 0.7, 0.9], "MiniLM": [0.5, 0.4, 0.6], "reasoner": [0.3, 0.2, 0.4]}
    for row in results["retrieval"]:
        if row["ranker"] in recalls:
            row["metrics"]["recall@5"] = recalls[row["ranker"]]
    text, _ = report_of(results, tmp_path)
    expected = "a random order is expected to reach 50.0 %"
    assert f"**BM25**: Recall@5 80.0 % [70.0, 90.0]; {expected}: above chance." in text
    assert f"**MiniLM**: Recall@5 50.0 % [40.0, 60.0]; {expected}: not told apart from" in text
    assert f"**reasoner**: Recall@5 30.0 % [20.0, 40.0]; {expected}: below chance." in text
    assert "**random**: Recall" not in text


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_else(page):
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    assert len(reader.links) > 10
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(reader.tags)
    assert not {"src", "srcset", "action", "background"} & {name for name, _ in reader.attributes}
    assert not re.search(r"@import|url\((?!#)", page)
    addresses = re.findall(r'(?<!xmlns=")(?<!xlink=")https?://', page)
    assert addresses == []
    assert reader.tags.count("svg") == 6
    assert "prefers-color-scheme: dark" in page


def test_references_inside_a_drawing_stay_inside_it(page):
    for drawing in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        root = ElementTree.fromstring(drawing)
        ids = {node.get("id") for node in root.iter() if node.get("id")}
        used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', drawing))
        assert used
        assert used == ids


def test_right_answers_are_marked(page, text, results):
    said = [
        scores(prediction, sample["answers"])
        for sample in results["samples"]
        for prediction in sample["predictions"].values()
    ]
    n_right = sum(bool(one.exact) for one in said)
    n_holding = sum(bool(one.cover and not one.exact) for one in said)
    assert min(n_right, n_holding) > 0
    assert page.count("✓ right") == page.count('<div class="right">') == n_right
    assert page.count("✓ holds the answer") == page.count('<div class="holds">') == n_holding
    assert text.count("| right |") == n_right
    assert text.count("| holds the answer |") == n_holding


# --- hostile data --------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "a | b\n\n# heading\n| c | d |",
    "</td></table><img src=x onerror=alert(1)>",
    "[link](javascript:alert(1)) ![i](http://example.org/i.png)",
    "[a][b] [b]: http://example.org",
    "`code` **bold** _em_ ~~gone~~ $x^2$ \\| \\",
    "&lt;b&gt; &amp; \"quoted\" 'single'",
    "null \x00 escape \x1b[31m half \ud800 turn \u202e end \ufffe",
    "```\nfence",
    "<!-- comment",
    "]]> <![CDATA[ ]]>",
    "${title} $contents %s {0}",
    "漢字 عربي 🙂",
)


def hostile_results():
    """Every text that comes from data, recipes or models is replaced, each place by another."""
    names = [f"{bad} {at}" for at, bad in enumerate(HOSTILE)]
    systems = [
        (name, *one[1:]) for name, one in zip(names, SYSTEMS, strict=False)
    ]  # the third is the reference
    results = make_results(systems=systems, settings=("oracle", "gold"), tasks={names[0]: 5})
    results["reference"] = names[2]
    results["command"] = "openclara eval 'a\n``` b <script>'"
    results["machine"]["processor"] = names[0]
    for row in results["systems"]:
        row["model"] = row["ranker"] = row["shorten"] = names[1]
    for at, row in enumerate(results["rankers"]):
        for ranked in results["retrieval"]:
            ranked["ranker"] = names[at] if ranked["ranker"] == row["name"] else ranked["ranker"]
        row["name"] = row["kind"] = names[at]
    results["skipped"] = [{"name": bad, "reason": bad} for bad in names]
    for row in results["fidelity"]:
        row["model"] = names[3]
    for sample, bad in zip(results["samples"], names, strict=False):
        sample["question"], sample["answers"] = bad, names
        sample["predictions"] = dict(zip(sample["predictions"], names, strict=False))
    return results


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("hostile")
    write_report(hostile_results(), folder)
    return folder


def test_hostile_texts_are_harmless_in_the_page(hostile_folder, page):
    text = (hostile_folder / "report.html").read_text(encoding="utf-8")
    reader = Reader(text)
    assert set(reader.tags) <= set(Reader(page).tags)
    assert not any(name.startswith("on") for name, _ in reader.attributes)
    assert all(link.startswith("#") for link in reader.links)
    visible = "".join(reader.text)
    for bad in HOSTILE:
        assert one_line(bad) in visible, bad
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_hostile_texts_are_harmless_in_markdown(hostile_folder):
    text = (hostile_folder / "report.md").read_text(encoding="utf-8")
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inline = [child for token in parsed for child in token.children or ()]
    kinds = {token.type for token in [*parsed, *inline]}
    assert (
        not {"html_block", "html_inline", "link_open", "code_inline", "em_open", "s_open"} & kinds
    )
    images = [token.attrs["src"] for token in inline if token.type == "image"]
    assert images
    assert all(src.startswith("figures/") for src in images)
    headings = [
        parsed[at + 1].content for at, token in enumerate(parsed) if token.type == "heading_open"
    ]
    assert "heading" not in " ".join(headings)
    texts = [
        "".join(child.content for child in token.children)
        for token in parsed
        if token.type == "inline"
    ]
    for at, bad in enumerate(HOSTILE):
        cells = texts[texts.index("reason") + 1 :]  # of the table of what was left out
        assert cells[2 * at : 2 * at + 2] == [one_line(f"{bad} {at}")] * 2


def test_hostile_names_are_harmless_in_figures(hostile_folder):
    files = list((hostile_folder / "figures").glob("*.svg"))
    assert len(files) == 6
    for path in files:
        assert not [
            node for node in ElementTree.parse(path).getroot().iter() if "script" in node.tag
        ]


def test_names_that_a_legend_would_leave_out_or_that_are_long(tmp_path):
    results = make_results(settings=("oracle",), systems=SYSTEMS[:1])
    results["reference"] = None
    for row in results["answers"]:
        row["over_reference"] = None
    for ranked in results["retrieval"]:
        ranked["ranker"] = {"BM25": "_hidden", "hybrid": "h" * 80}.get(
            ranked["ranker"], ranked["ranker"]
        )
    results["rankers"][1]["name"], results["rankers"][4]["name"] = "_hidden", "h" * 80
    report_of(results, tmp_path)
    words = set(ElementTree.parse(tmp_path / "figures" / "recall-oracle.svg").getroot().itertext())
    assert {"_hidden", "h" * 33 + "…"} <= words


def test_texts_become_single_lines():
    tree = {"a\nb": ["c\td  e", ("f\x00g",), 1, None], "h": "\u202eI\ud800"}
    assert one_line(tree) == {"a b": ["c d e", ["f g"], 1, None], "h": "I\ufffd"}


# --- less than everything ------------------------------------------------------------------------


def test_one_task_without_reference_extras_or_retrieval(tmp_path):
    results = make_results(settings=("gold",), tasks={"NQ": 1})
    results |= {"reference": None, "skipped": [], "fidelity": [], "samples": [], "retrieval": []}
    for row in results["answers"]:
        row["over_reference"] = None
    text, page = report_of(results, tmp_path)
    Reader(page)
    assert "# Evaluation: 10 systems, 1 task\n" in text
    assert "over reference" not in text
    assert not re.search(
        "## (Fidelity|Sample|Retrieval)|average|Left out", text.split("## How to")[0]
    )
    assert {path.name for path in (tmp_path / "figures").glob("*.svg")} == {
        "prompt-tokens-gold.svg", "stored-bytes-gold.svg",
    }  # fmt: skip


def test_passages_without_numbers_leave_a_gap(tmp_path):
    results = make_results(settings=("oracle",))
    del results["fidelity"][0]["metrics"]["numbers"]
    text, _ = report_of(results, tmp_path)
    assert dict(markdown_tables(text))["Per cent"][1][4] == "–"


def test_where_latents_are_the_reference_the_others_are_compared_with_them(tmp_path):
    results = make_results(settings=("oracle",))
    results["reference"] = "latents, 4x"
    text, _ = report_of(results, tmp_path)
    opening = text[text.index("## In short") : text.index("## Answers")]
    assert opening.count("- **") == len(SYSTEMS) - 1
    assert "- **oracle · closed book**: " in opening


# --- labels --------------------------------------------------------------------------------------


def overlap(one, other):
    return min(one[2], other[2]) > max(one[0], other[0]) and (
        min(one[3], other[3]) > max(one[1], other[1])
    )


def test_labels_of_a_crowd_cover_neither_each_other_nor_a_point():
    rng = random.Random(1)
    frame = (0.0, 0.0, 340.0, 220.0)
    anchors = [(rng.uniform(100, 180), rng.uniform(40, 160)) for _ in range(10)]
    points = [(x - 4, y - 4, x + 4, y + 4) for x, y in anchors]
    boxes = placed([(rng.uniform(40, 130), 10.0) for _ in anchors], anchors, points, frame)
    assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
    assert not any(overlap(box, point) for box in boxes for point in points)
    assert all(min(b) >= 0 and b[2] <= 340 and b[3] <= 220 for b in boxes)


def test_a_label_alone_stands_right_of_its_point():
    (box,) = placed([(50.0, 10.0)], [(100.0, 100.0)], [], (0.0, 0.0, 300.0, 200.0))
    assert box == pytest.approx((107, 95, 157, 105))


@given(st.lists(st.floats(0, 500), max_size=12), st.floats(0.5, 20))
def test_spread_keeps_the_order_and_the_gap(values, gap):
    moved = spread(values, gap)
    order = sorted(range(len(values)), key=lambda at: values[at])
    for one, other in pairwise(order):
        assert moved[other] - moved[one] >= gap - 1e-6
    if all(b - a >= gap for a, b in pairwise(sorted(values))):
        assert moved == pytest.approx(values)
