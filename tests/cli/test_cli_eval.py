"""`openclara eval`: a recipe in, a report out, errors in one sentence."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("matplotlib")

RECIPE = """
output = "out"
data_root = "."
settings = ["oracle"]
k = 1
max_new_tokens = 3
device = "cpu"
precision = "fp32"

[[tasks]]
name = "two"
records = "two.jsonl"

[[rankers]]
kind = "bm25"
name = "BM25"

[[systems]]
reader = "text"
name = "text"
ranker = "BM25"
model = "{model}"

[[systems]]
reader = "text"
name = "absent"
ranker = "BM25"
model = "nowhere"
optional = true
"""


@pytest.fixture
def recipe(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents = [
        {"title": "A", "text": "Made by Utzon.", "gold": True},
        {"title": "B", "text": "A river."},
    ]
    row = {"question": "Made by whom?", "answers": ["Utzon"], "documents": documents}
    (tmp_path / "two.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    path = tmp_path / "eval.toml"
    path.write_text(RECIPE.format(model=tiny_model))
    return path


def test_a_report_and_what_was_left_out(cli, recipe):
    done = cli("eval", recipe, "--limit", "1")
    assert done.code == 0
    assert "out/report.html" in done.out.replace("\n", "")
    assert "absent was left out: there is no trained model 'nowhere'" in done.err.replace("\n", " ")
    results = json.loads((recipe.parent / "out" / "results.json").read_text())
    assert results["command"].endswith("eval.toml --limit 1")
    assert [row["n"] for row in results["answers"]] == [1]


def test_scores_as_json(cli, recipe):
    done = cli("eval", recipe, "--output", "other", "--json")
    assert json.loads(done.out)["answers"][0]["n"] == 2
    assert (recipe.parent / "other" / "report.md").is_file()


def test_errors_of_a_recipe(cli, recipe):
    assert "there is no recipe" in cli("eval", recipe.parent / "no.toml").sentence()
    assert "k: Input should be greater" in cli("eval", recipe, "--k", "0").sentence()
    assert cli("eval", recipe, "--no-such-field", "1").code == 2
    (recipe.parent / "two.jsonl").unlink()
    assert "two.jsonl" in cli("eval", recipe).sentence().replace("\n", "")
