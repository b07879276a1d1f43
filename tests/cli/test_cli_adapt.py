"""`openclara adapt` on a few passages."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest
from towns import document

from openclara import Clara


@pytest.fixture
def corpus(tmp_path):
    rows = [json.dumps(document(number)) for number in range(16)]
    (tmp_path / "towns.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "towns.jsonl"


@pytest.fixture
def model(tiny_model, tmp_path):
    """The tiny model, made to read passages as long as these."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    card = json.loads((folder / "openclara.json").read_text())
    (folder / "openclara.json").write_text(json.dumps(card | {"doc_max_length": 400}))
    return folder


@pytest.fixture
def questions(tmp_path):
    towns = [document(number) for number in range(20, 24)]
    passages = [{"title": one["title"], "text": one["text"]} for one in towns]
    rows = [
        {
            "id": one["id"],
            "question": f"Who drew the plan of {one['title']}?",
            "answers": [one["text"].split("architect ")[1].split(".")[0]],
            "documents": [
                passage | {"gold": passage["title"] == one["title"]} for passage in passages
            ],
        }
        for one in towns
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def adapt(cli, corpus, model, output, *more):
    return cli(
        "adapt", corpus, "--output", output, "--model", model, "--held_out", 0.3,
        "--compress_steps", 2, "--instruct_steps", 2, "--n_memory", "[2, 4]", *more,
    )  # fmt: skip


def test_records_two_runs_and_gains_come_from_one_command(cli, corpus, questions, model, tmp_path):
    output = tmp_path / "adapted"
    done = adapt(cli, corpus, model, output, "--questions", questions, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["model"] == str(output / "instruct")
    sets = {(gain["task"], gain["what"], gain["metric"]): gain for gain in told["gains"]}
    assert {task for task, _, _ in sets} == {"own questions", "held-out records"}
    gain = sets["own questions", "its ranking", "Recall@5"]
    assert gain["n"] == 4
    assert gain["before"][0] == gain["after"][0] == 1.0
    assert gain["difference"] == [0.0, 0.0, 0.0]
    Clara.load(str(output / "instruct"), device="cpu")
    assert (output / "evaluation" / "report.html").is_file()
    with gzip.open(output / "records" / "passages.train.jsonl.gz", "rt") as lines:
        trained = {json.loads(line)["title"] for line in lines}
    with gzip.open(output / "records" / "stage1.held_out.jsonl.gz", "rt") as lines:
        held_out = {json.loads(line)["docs"][0].split("\n")[0] for line in lines}
    assert trained
    assert held_out
    assert not trained & held_out
    # Again, it finds everything there.
    again = adapt(cli, corpus, model, output, "--questions", questions, "--json")
    assert json.loads(again.out) == told
    assert "trained" not in again.err


def test_own_questions_that_cannot_be_read_are_told_before_the_work(cli, corpus, model, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": "a", "question": "Who?", "documents": [{"text": "x", "gold": true}]}')
    output = tmp_path / "adapted"
    sentence = adapt(cli, corpus, model, output, "--questions", path).sentence()
    assert "bad.jsonl, line 1: no answer" in sentence
    assert not output.exists()
