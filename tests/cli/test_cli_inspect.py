"""`openclara inspect`: files, texts, questions, stored documents; for people and programs."""

from __future__ import annotations

import json

import pytest

TEXT = "The opera house in Sydney was designed by Utzon."
VIEW = [
    "number", "norm", "state_norm", "words", "nearest", "cosine", "carried",
]  # fmt: skip
SUMMARY = ["mean_norm", "mean_cosine", "words", "recovered", "carried"]


def test_json_is_one_object(cli, tiny_model, documents):
    result = cli(
        "inspect", documents / "river.txt", TEXT, "--question", "Who designed it?",
        "--model", tiny_model, "--n-memory", 3, "--top", 2, "--json",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    record = json.loads(result.out)
    assert list(record) == ["model", "inspected"]
    assert record["model"] == str(tiny_model)
    *stretches, asked = record["inspected"]
    assert [one["kind"] for one in stretches] == ["document"] * len(stretches)
    assert stretches[0]["id"].endswith("river.txt")
    assert stretches[0]["title"] == "river"
    assert stretches[-1]["id"] == "text 1"
    assert stretches[-1]["text"] == TEXT
    assert (asked["kind"], asked["id"], asked["text"]) == ("question", None, "Who designed it?")
    assert asked["role"] == "reasoner"
    for one in record["inspected"]:
        assert list(one["summary"]) == SUMMARY
        assert one["reading_order"] == [0, 1, 2]
        assert len(one["latents"]) == 3
        for view in one["latents"]:
            assert list(view) == VIEW
            assert len(view["words"]) <= 2
            place = view["nearest"]
            assert one["text"][place["start"] : place["end"]] == place["text"]


def test_a_table_for_people(cli, tiny_model):
    result = cli("inspect", TEXT, "--question", "Who?", "--model", tiny_model)
    assert (result.code, result.err) == (0, "")
    head, *_ = result.out.splitlines()
    assert head.startswith("document  text 1  ")
    assert head.endswith(" tokens → 4 latents, compressor")
    for part in ("decodes to", "nearest", "question  Who?", "distinct words", "mean norm"):
        assert part in result.out
    assert "carries" not in result.out


def test_documents_of_an_index(cli, index):
    shown = cli("inspect", "--index", index, "--id", "opera.txt", "--id", "train.txt", "--json")
    inspected = json.loads(shown.out)["inspected"]
    assert list(dict.fromkeys(one["id"] for one in inspected)) == ["opera.txt", "train.txt"]
    assert {len(one["latents"]) for one in inspected} == {4}
    fewer = cli(
        "inspect", "--index", index, "--id", "opera.txt", "--question", "Who?",
        "--n-memory", 2, "--json",
    )  # fmt: skip
    assert {len(one["latents"]) for one in json.loads(fewer.out)["inspected"]} == {2}
    # Without a document the index tells which model, and how many latents.
    (asked,) = json.loads(cli("inspect", "--index", index, "--question", "Who?", "--json").out)[
        "inspected"
    ]
    assert len(asked["latents"]) == 4


def test_a_text_from_standard_input(cli, tiny_model):
    result = cli("inspect", "-", "--model", tiny_model, "--json", stdin=TEXT.encode())
    assert json.loads(result.out)["inspected"][0]["text"] == TEXT


def test_control_characters_do_not_reach_the_terminal(cli, tiny_model):
    result = cli("inspect", "sesame \x1b[2J\x07 [b]x[/b]", "--model", tiny_model, "--top", 40)
    assert result.code == 0
    assert "\x1b" not in result.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["no-such-file.txt"], "does not exist"),
        (["folder/*.md"], "matches no"),
        ([""], "a text is empty"),
        (["Fine.", " \n"], "a text is empty"),
        (["--question", " "], "the question is empty"),
        (["Fine.", "--n-memory", 9], "up to 8"),
    ],
)
def test_what_cannot_be_inspected(cli, tiny_model, arguments, part):
    assert part in cli("inspect", *arguments, "--model", tiny_model).sentence()


def test_what_an_index_cannot_show(cli, index, other_model):
    stored = ("inspect", "--index", index, "--id")
    assert "no document 'nothing'" in cli(*stored, "nothing").sentence()
    assert "this index keeps 4" in cli(*stored, "opera.txt", "--n-memory", 5).sentence()
    assert "fingerprint" in cli(*stored, "opera.txt", "--model", other_model).sentence()
    assert "there is no index" in cli("inspect", "--index", "none", "--id", "a").sentence()


@pytest.mark.parametrize("arguments", [[], ["--id", "a"], ["--index", "i"], ["--jsn"]])
def test_wrong_usage(cli, arguments):
    result = cli("inspect", *arguments)
    assert (result.code, result.out) == (2, "")
    assert "openclara inspect --help" in result.err
