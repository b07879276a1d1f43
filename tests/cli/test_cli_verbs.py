"""Every verb on good input: what it prints, and what it leaves."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from openclara.index import LatentIndex
from openclara.index.coarse.settings import Coarse
from openclara.index.search import Search
from openclara.pipeline import Clara
from openclara.types import Usage

HIT = ["id", "score", "title", "text", "source", "start", "end"]


@pytest.fixture
def compressed(monkeypatch):
    """Texts that the model was made to compress."""
    texts = []
    latents = Clara.latents

    def counting(self, batch, *, role, **options):
        if role == "compressor":
            texts.extend(batch)
        return latents(self, batch, role=role, **options)

    monkeypatch.setattr(Clara, "latents", counting)
    return texts


def test_adding_the_same_folder_again_compresses_nothing(
    cli, documents, tiny_model, tmp_path, compressed
):
    first = cli("index", "add", tmp_path / "i", documents, "--model", tiny_model)
    assert (first.code, first.err) == (0, "")
    n_chunks = len(compressed)
    assert first.out == f"added 3, updated 0, unchanged 0, {n_chunks} chunks\n"
    compressed.clear()
    again = cli("index", "add", tmp_path / "i", documents)
    assert again.out == (
        "added 0, updated 0, unchanged 3 (nothing compressed for them), 0 chunks\n"
    )
    assert compressed == []


def test_the_folder_that_holds_the_index_can_be_added(cli, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("One.", encoding="utf-8")
    assert cli("index", "add", "my.index", ".", "--model", tiny_model).code == 0
    again = cli("index", "add", "my.index", ".", "--json")
    assert (again.code, again.err) == (0, "")
    assert json.loads(again.out) == {
        "added": 0, "updated": 0, "unchanged": 1, "chunks": 0, "skipped": [],
    }  # fmt: skip


def test_a_changed_file_is_compressed_alone(cli, index, tmp_path, documents, compressed):
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "opera.txt").write_text("Utzon won.", encoding="utf-8")
    result = cli("index", "add", index, folder, "--json")
    assert json.loads(result.out) == {
        "added": 0, "updated": 1, "unchanged": 0, "chunks": 1, "skipped": [],
    }  # fmt: skip
    assert compressed == ["opera\nUtzon won."]


def test_documents_from_standard_input(cli, tiny_model, tmp_path):
    lines = b'{"id": "a", "text": "One."}\n{"id": "b", "text": "Two."}\n'
    result = cli("index", "add", tmp_path / "i", "-", "--model", tiny_model, stdin=lines)
    assert result.out == "added 2, updated 0, unchanged 0, 2 chunks\n"


def test_options_of_a_new_index(cli, documents, tiny_model, tmp_path):
    options = ("--n-memory", 2, "--quantization", "int8", "--model", tiny_model)
    assert cli("index", "add", tmp_path / "i", documents, *options).code == 0
    about = json.loads(cli("index", "info", tmp_path / "i", "--json").out)
    assert about["spec"]["n_memory"] == 2
    assert about["quantization"] == "int8"
    # Reading and adding need not be told any of it again.
    assert cli("index", "add", tmp_path / "i", documents).code == 0
    assert cli("ask", tmp_path / "i", "Who?", "--max-new-tokens", 2).code == 0


def test_a_model_folder_is_found_from_elsewhere(cli, documents, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    assert cli("index", "add", tmp_path / "i", documents, "--model", tiny_model.name).code == 0
    monkeypatch.chdir(tmp_path)
    assert cli("search", "i", "Who?").code == 0


def test_info_of_an_index(cli, index, tiny_model):
    about = json.loads(cli("index", "info", index, "--json").out)
    assert about["documents"] == 3
    assert about["spec"]["model"] == str(tiny_model)
    assert about["total_bytes"] == about["latent_bytes"] + about["database_bytes"]
    shown = cli("index", "info", index).out
    assert "3" in shown
    assert str(tiny_model) in shown


def test_info_tells_of_the_coarse_stage_and_exact_leaves_it_aside(cli, index, monkeypatch):
    assert "none, made by the first change from 20,000 chunks on" in cli("index", "info", index).out
    with LatentIndex.open(index, coarse=Coarse(from_chunks=0, candidates=1)) as opened:
        opened.compact()
    shown = " ".join(cli("index", "info", index).out.split())
    assert "codes of 7 chunks in 1 file" in shown
    assert "coarse stage" in shown
    asked = []
    monkeypatch.setattr(Search, "checked", noting(Search.checked, asked))
    assert cli("search", index, "Who?", "--exact").code == 0
    assert cli("search", index, "Who?").code == 0
    assert [options["coarse"].from_chunks for options in asked] == [None, 20_000]


def noting(real, asked):
    def checked(*arguments, **options):
        asked.append(options)
        return real(*arguments, **options)

    return checked


def test_reading_an_index_loads_no_model(cli, index, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Clara, "load", refuse)
    for verb in (["index", "info"], ["index", "verify"], ["index", "compact"]):
        assert cli(*verb, index).code == 0
    assert cli("index", "delete", index, "river.txt").code == 0
    assert cli("search", index, "architect", "--mode", "lexical").code == 0


def test_delete_then_compact(cli, index):
    result = cli("index", "delete", index, "opera.txt", "nothing", "--where", "id~river")
    assert result.out == "removed 2 documents, 1 left\n"
    assert "nothing" in result.err
    report = json.loads(cli("index", "compact", index, "--json").out)
    assert report["removed_rows"] > 0
    assert json.loads(cli("index", "info", index, "--json").out)["dead_rows"] == 0


def test_verify_and_repair(cli, index):
    assert cli("index", "verify", index).out == "everything is as it was written\n"
    shard = next(index.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    found = cli("index", "verify", index)
    assert found.code == 1
    assert shard.name in found.out
    assert "--repair" in found.err
    report = json.loads(cli("index", "verify", index, "--repair", "--json").out)
    assert report["ok"] is False
    assert sorted(report["dropped"]) == ["opera.txt", "river.txt", "train.txt"]
    assert cli("index", "verify", index).code == 0


@pytest.mark.parametrize("mode", ["hybrid", "latent", "lexical"])
def test_search_json(cli, index, mode):
    result = cli("search", index, "Who was the architect?", "--mode", mode, "--json", "-k", 2)
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    assert list(answer) == ["question", "hits"]
    assert answer["question"] == "Who was the architect?"
    assert 1 <= len(answer["hits"]) <= 2
    for hit in answer["hits"]:
        assert list(hit) == HIT
        assert len(hit["text"]) == hit["end"] - hit["start"]


def test_search_filters(cli, index):
    found = json.loads(cli("search", index, "where?", "--where", "id~river", "--json").out)
    assert {hit["id"] for hit in found["hits"]} == {"river.txt"}


def test_search_for_a_person(cli, index):
    result = cli("search", index, "architect", "--mode", "lexical")
    assert result.out.startswith("[1] opera")
    assert "The opera house" in result.out or "architect" in result.out


def test_ask_json(cli, index):
    result = cli("ask", index, "Who designed it?", "--json", "--max-new-tokens", 3)
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    assert list(answer) == ["question", "answer", "hits", "usage"]
    assert all(list(hit) == HIT for hit in answer["hits"])
    assert list(answer["usage"]) == [field.name for field in fields(Usage)]
    assert answer["usage"]["text_prompt_tokens"] > 0
    assert answer["usage"]["completion_tokens"] <= 3


def test_streamed_and_whole_answers_are_the_same(cli, index):
    asked = ("ask", index, "Who designed it?", "--max-new-tokens", 5)
    whole = json.loads(cli(*asked, "--json").out)["answer"]
    for options in ((), ("--no-stream",)):
        result = cli(*asked, *options)
        assert result.code == 0
        assert result.out.split("\n\n[1] ")[0].strip() == whole.strip()
        assert "first token" in result.out


@pytest.mark.parametrize("context", ["latents", "text", "none"])
def test_ask_from_each_context(cli, index, context):
    asked = ("ask", index, "Who?", "--context", context, "--max-new-tokens", 2, "--json")
    answer = json.loads(cli(*asked).out)
    assert bool(answer["hits"]) == (context != "none")
    assert bool(answer["usage"]["nominal_rate"]) == (context == "latents")


def test_sampling_is_repeatable(cli, index):
    asked = ("ask", index, "Who?", "--temperature", 1, "--seed", 7, "--max-new-tokens", 8, "--json")
    assert json.loads(cli(*asked).out)["answer"] == json.loads(cli(*asked).out)["answer"]


def test_questions_from_standard_input(cli, index):
    lines = "Who designed it?\n\nWhere is the rivière?\n".encode()
    for verb in ("ask", "search"):
        result = cli(verb, index, "-", "--json", stdin=lines)
        answers = [json.loads(line) for line in result.out.splitlines()]
        assert [a["question"] for a in answers] == ["Who designed it?", "Where is the rivière?"]
    shown = cli("ask", index, "-", "--max-new-tokens", 2, stdin=lines).out
    assert shown.index("Who designed it?") < shown.index("Where is the rivière?")


def test_more_hits_asked_for_than_there_are(cli, index):
    n_chunks = json.loads(cli("index", "info", index, "--json").out)["chunks"]
    for verb in ("search", "ask"):
        result = cli(verb, index, "Who?", "-k", 1000, "--json")
        assert result.code == 0
        assert len(json.loads(result.out)["hits"]) == n_chunks


def test_an_index_without_documents_answers_and_says_so(cli, index):
    cli("index", "delete", index, "--where", "id~.txt")
    result = cli("ask", index, "Who?", "--max-new-tokens", 2)
    assert result.code == 0
    assert "no passage was found" in result.err


def test_control_characters_of_a_document_do_not_reach_the_terminal(cli, index, tmp_path):
    evil = tmp_path / "evil.txt"
    evil.write_text("sesame \x1b[2J\x07 [b]x[/b]", encoding="utf-8")
    assert cli("index", "add", index, evil).code == 0
    result = cli("search", index, "sesame", "--mode", "lexical")
    assert "\x1b" not in result.out
    assert "[b]x[/b]" in result.out
    found = json.loads(cli("search", index, "sesame", "--mode", "lexical", "--json").out)
    assert found["hits"][0]["text"] == evil.read_text(encoding="utf-8")


def test_info(cli, tmp_path):
    about = json.loads(cli("info", "--json").out)
    assert about["versions"]["torch"]
    assert about["base"] in ("ready", "installed", "absent")
    assert Path(about["cache"]).is_absolute()
    assert "arithmetic" in cli("info").out


def test_demo(cli, tiny_model):
    record = json.loads(cli("demo", "--model", tiny_model, "--questions", 2, "--json").out)
    assert len(record["questions"]) == 2
    assert record["index"]["documents"] == 90
    assert 0 <= record["right"] <= 2
    shown = cli("demo", "--model", tiny_model, "--questions", 2)
    assert "nothing was compressed" in shown.err
    for part in ("Sydney", "Jorn Utzon", "of 2 answers", "prompt", "full text", "openclara ask"):
        assert part in shown.out
