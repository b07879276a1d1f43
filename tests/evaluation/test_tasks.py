"""Questions, candidates and labels, and that nothing of the labels is in what systems are given."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from small_eval import NAMES, recipe_of, write_task

from openclara.errors import ConfigError, DataError
from openclara.evaluation.tasks import Question, load_tasks, passage

pytest.importorskip("bm25s")


@pytest.fixture
def folder(tmp_path):
    write_task(tmp_path)
    return tmp_path


def test_settings(folder):
    recipe = recipe_of(folder, "any", settings=["oracle", "normal", "gold"])
    oracle, normal, gold = load_tasks(recipe)
    assert [t.setting for t in (oracle, normal, gold)] == ["oracle", "normal", "gold"]
    assert {len(q.candidates) for q in oracle.questions} == {5}
    assert {len(q.candidates) for q in normal.questions} == {4}
    assert {len(q.candidates) for q in gold.questions} == {1}
    for task in (oracle, normal, gold):
        for question, labels in zip(task.questions, task.labels, strict=True):
            assert labels.n_relevant == 1
            for at, document in enumerate(question.candidates):
                right = labels.answers[0] in document.text
                assert right == (at in labels.relevant), (task.setting, question.text)
    assert [labels.relevant for labels in oracle.labels] == [frozenset({2})] * 8


def test_a_question_says_nothing_of_what_is_right(folder):
    (task, _) = load_tasks(recipe_of(folder, "any"))
    assert {field.name for field in fields(Question)} == {"id", "text", "candidates"}
    for question, labels in zip(task.questions, task.labels, strict=True):
        assert not set(labels.answers) & {question.id, question.text}
        for document in question.candidates:
            assert not document.metadata
            assert document.id == passage(document.title, document.text).id
            assert not document.source


def test_a_gold_passage_the_nomination_misses_still_counts(folder):
    rows = [json.loads(line) for line in (folder / "houses.jsonl").read_text().splitlines()]
    rows[0]["question"] = "river?"
    (folder / "houses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task,) = load_tasks(recipe_of(folder, "any", settings=["normal"]))
    assert task.labels[0].relevant == frozenset()
    assert task.labels[0].n_relevant == 1


def test_questions_are_drawn_by_seed_in_their_order(folder):
    drawn = {
        seed: [q.id for q in load_tasks(recipe_of(folder, "any", limit=3, seed=seed))[0].questions]
        for seed in range(6)
    }
    again = load_tasks(recipe_of(folder, "any", limit=3, seed=4))[0].questions
    assert [q.id for q in again] == drawn[4]
    assert all(ids == sorted(ids) and len(ids) == 3 for ids in drawn.values())
    assert len({tuple(ids) for ids in drawn.values()}) > 1


def test_an_open_task_in_the_form_of_flashrag(folder):
    (folder / "open.jsonl").write_text(
        json.dumps({"id": "a", "question": "Who built house number 3?", "golden_answers": ["x"]})
        + "\n"
    )
    (folder / "contents.jsonl").write_text(
        "".join(
            json.dumps({"id": str(i), "contents": f"House {i}\nBuilt by {name}."}) + "\n"
            for i, name in enumerate(NAMES)
        )
    )
    tasks = [{"name": "open", "records": "open.jsonl", "corpus": "contents.jsonl"}]
    (task,) = load_tasks(recipe_of(folder, "any", tasks=tasks, settings=["normal"]))
    assert task.setting == "normal"
    assert task.questions[0].candidates[0].title == "House 3"
    assert task.labels[0].answers == ("x",)


def test_what_cannot_be_evaluated(folder):
    tasks = [{"name": "houses", "records": "houses.jsonl"}]
    with pytest.raises(ConfigError, match="no task can be had in the normal setting"):
        load_tasks(recipe_of(folder, "any", tasks=tasks))
    line = (folder / "houses.jsonl").read_text().splitlines()[0]
    (folder / "houses.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(DataError, match="'q0' comes twice"):
        load_tasks(recipe_of(folder, "any"))
    (folder / "houses.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no question"):
        load_tasks(recipe_of(folder, "any"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reference": "nobody"}, "reference names a system 'nobody'"),
        ({"rankers": [{"kind": "random", "name": "other"}]}, "names a ranker 'BM25'"),
        ({"tasks": [{"name": "a", "records": "b"}] * 2}, "two tasks are named 'a'"),
    ],
)
def test_a_recipe_that_contradicts_itself(folder, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe_of(folder, "any", **changes)
