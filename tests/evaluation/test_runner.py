"""A whole evaluation on a tiny model: what it writes, that it goes on after a kill, and honesty."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from small_eval import NAMES, recipe_of, write_task

from openclara.errors import ModelError
from openclara.evaluation import runner
from openclara.evaluation.journal import Journal, key_of
from openclara.evaluation.readers import Reading, TextReader
from openclara.evaluation.runner import evaluate

pytest.importorskip("bm25s")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    write_task(folder)
    return folder


@pytest.fixture(scope="module")
def finished(folder, tiny_model):
    recipe = recipe_of(folder, tiny_model)
    return evaluate(recipe, command="openclara eval x.toml")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


def row_of(results, part, **named):
    (row,) = [r for r in results[part] if all(r[k] == v for k, v in named.items())]
    return row


def test_what_it_writes(finished):
    results = results_in(finished)
    assert {row["system"] for row in results["answers"]} == {
        "closed book", "full text", "sentences", "latents",
    }  # fmt: skip
    assert {row["setting"] for row in results["answers"]} == {"oracle", "normal"}
    assert len(results["answers"]) == 8
    rows = lines(finished / "predictions.jsonl")
    assert len({row["key"] for row in rows}) == len(rows)
    # Without a passage the setting makes no difference: asked once, scored twice.
    assert sum(row["system"] == "closed book" for row in rows) == 8
    assert len(lines(finished / "rankings.jsonl")) == 8 * 5 * 2
    assert (finished / "report.md").is_file()
    assert (finished / "report.html").is_file()
    assert results["skipped"] == []
    assert {row["n"] for row in results["fidelity"]} == {3}
    for row in results["answers"]:
        for name, (mean, low, high) in row["metrics"].items():
            assert 0 <= low <= mean <= high <= 1, name


def test_predictions_in_the_form_of_flashrag(finished):
    paths = sorted((finished / "flashrag").iterdir())
    assert len(paths) == 8
    rows = json.loads((finished / "flashrag" / "houses.oracle.full-text.json").read_text())
    own = [r for r in lines(finished / "predictions.jsonl") if r["system"] == "full text"]
    said = {row["id"]: row["text"] for row in own if row["setting"] == "oracle"}
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(8)]
    assert rows[0]["golden_answers"] == ["Lovelace", "somebody"]
    assert set(rows[0]["output"]["metric_score"]) == {"em", "f1"}
    assert len(rows[0]["output"]["retrieval_result"]) == 2
    assert {row["id"]: row["output"]["pred"] for row in rows} == said


def test_the_gold_control_finds_everything_and_the_random_one_what_chance_does(finished):
    results = results_in(finished)
    gold = row_of(results, "retrieval", ranker="gold", setting="oracle")
    assert gold["metrics"]["recall@1"] == [1, 1, 1]
    chance = row_of(results, "retrieval", ranker="random", setting="oracle")
    low, high = chance["metrics"]["recall@5"][1:]
    assert low <= chance["expected_recall@5"] <= high
    assert gold["recall_curve"] == [1.0] * 10


def test_a_system_differs_from_itself_by_nothing(finished):
    results = results_in(finished)
    own = row_of(results, "answers", system="full text", setting="oracle")
    assert own["over_reference"] == {name: [0, 0, 0] for name in ("f1", "em", "cover")}


def test_costs_are_those_of_the_prompts(finished):
    results = results_in(finished)
    costs = {
        row["system"]: row["costs"] for row in results["answers"] if row["setting"] == "oracle"
    }
    for row in results["answers"]:
        for name, (low, high) in row["cost_intervals"].items():
            assert low - 1e-9 <= row["costs"][name] <= high + 1e-9
    assert costs["closed book"]["stored_bytes"] == 0
    assert costs["latents"]["prompt_tokens"] < costs["full text"]["prompt_tokens"]
    assert costs["full text"]["effective_rate"] == 1
    assert costs["latents"]["effective_rate"] > 1
    assert costs["sentences"]["text_tokens"] == pytest.approx(costs["full text"]["text_tokens"])


def test_a_second_run_makes_nothing_new(finished, folder, tiny_model, monkeypatch):
    before = (finished / "predictions.jsonl").read_bytes()
    monkeypatch.setattr(TextReader, "read", None)
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    again = evaluate(recipe_of(folder, tiny_model), command="openclara eval x.toml")
    assert (again / "predictions.jsonl").read_bytes() == before


class Killed(BaseException):
    """As a signal would end the process."""


@pytest.mark.parametrize("after", [1, 4])
def test_it_goes_on_where_a_kill_left_it(
    finished, folder, tiny_model, tmp_path, monkeypatch, after
):
    recipe = recipe_of(folder, tiny_model, output=tmp_path / "out")
    add, n_adds = Journal.add, []

    def dying(self, rows):
        n_adds.append(1)
        if len(n_adds) > 10 + after:
            raise Killed
        add(self, rows)

    monkeypatch.setattr(Journal, "add", dying)
    with pytest.raises(Killed):
        evaluate(recipe, command="openclara eval x.toml")
    monkeypatch.setattr(Journal, "add", add)
    path = tmp_path / "out" / "predictions.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"key": "cut off')
    evaluate(recipe, command="openclara eval x.toml")
    assert path.read_bytes().startswith(kept)

    def said(folder):
        return {r["key"]: r["text"] for r in lines(folder / "predictions.jsonl")}

    assert said(tmp_path / "out") == said(finished)
    ours, theirs = results_in(tmp_path / "out"), results_in(finished)
    for a, b in zip(ours["answers"], theirs["answers"], strict=True):
        assert a["metrics"] == b["metrics"]


def test_a_cheat_has_nothing_to_read_answers_from(folder, tiny_model, tmp_path, monkeypatch):
    """A planted system that searches everything it is handed for the labels of the questions."""
    seen = []

    def words(value, depth=0):
        if depth > 6 or callable(value):
            return set()
        if isinstance(value, str):
            return {value}
        if isinstance(value, dict):
            return set().union(*(words(v, depth + 1) for v in (*value.keys(), *value.values())))
        if isinstance(value, list | tuple | set | frozenset):
            return set().union(*(words(v, depth + 1) for v in value)) if value else set()
        slots = getattr(type(value), "__slots__", None)
        names = list(slots) if slots else list(getattr(value, "__dict__", {}))
        return words([getattr(value, name, None) for name in names], depth + 1)

    class Cheat:
        def prepare(self, documents):
            seen.append(words(list(documents)))

        def read(self, batch):
            seen.append(words(list(batch)))
            return [Reading("somebody", 1, 1, 1) for _ in batch]

    monkeypatch.setattr(runner, "TextReader", lambda *args, **rest: Cheat())
    recipe = recipe_of(folder, tiny_model, output=tmp_path / "out")
    evaluate(recipe, command="openclara eval x.toml")
    found = set().union(*seen)
    assert not found & {"somebody", *NAMES}  # whole aliases; passages hold names inside sentences
    results = results_in(tmp_path / "out")
    # Were answers handed on, this is what would give it away: a perfect score.
    assert row_of(results, "answers", system="full text", setting="oracle")["metrics"]["em"][0] == 1


def test_what_is_missing_is_left_out_with_its_reason_or_ends_the_run(folder, tiny_model, tmp_path):
    base = recipe_of(folder, tiny_model)
    absent = {"kind": "latent", "name": "absent", "model": str(tmp_path / "no"), "optional": True}
    using = {"reader": "latents", "name": "using", "ranker": "absent", "model": str(tiny_model)}
    tree = base.model_dump(mode="json")
    tree |= {"output": str(tmp_path / "out"), "rankers": [*tree["rankers"], absent]}
    tree["systems"] = [*tree["systems"], using]
    changed = type(base).model_validate(tree)
    results = results_in(evaluate(changed, command="c"))
    reasons = {one["name"]: one["reason"] for one in results["skipped"]}
    assert "there is no trained model" in reasons["absent"]
    assert reasons["using"] == "its ranker, absent, was left out"
    tree["rankers"][-1]["optional"] = False
    with pytest.raises(ModelError, match="there is no trained model"):
        evaluate(type(base).model_validate(tree), command="c")


def test_what_an_answer_follows_from_makes_it_anew(finished, folder, tiny_model, tmp_path):
    path = shutil.copytree(finished, tmp_path / "out") / "predictions.jsonl"
    before = {row["key"] for row in lines(path)}
    again = recipe_of(folder, tiny_model, output=path.parent, precision="bf16", settings=["oracle"])
    evaluate(again, command="c")
    assert len({row["key"] for row in lines(path)} - before) == 4 * 8


def test_keys_follow_from_their_parts():
    assert key_of({"b": 1, "a": [2]}, "x") == key_of({"a": [2], "b": 1}, "x")
    assert key_of("x", "y") != key_of("xy")
