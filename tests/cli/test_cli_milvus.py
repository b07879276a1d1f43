"""The verbs of an index on one in embedded Milvus, and one sentence on every mistake."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from openclara.data.reading import read_documents
from openclara.index import MilvusIndex, milvus_connection
from openclara.index.parts import PartFolder, packed
from openclara.pipeline import Clara

pytest.importorskip("milvus_lite")

from milvus_lite.server_manager import server_manager_instance

QUESTION = "Who designed it?"


@pytest.fixture
def cli(cli):
    """Each command finds embedded Milvus as a process of its own would."""

    def alone(*arguments, **options):
        server_manager_instance.release_all()
        return cli(*arguments, **options)

    return alone


@pytest.fixture
def absent(tmp_path):
    """Where there is no index."""
    return f"milvus:{tmp_path / 'm.db'}"


@pytest.fixture
def milvus(cli, absent, documents, tiny_model):
    """An index of `documents`."""
    result = cli("index", "add", absent, documents, "--model", tiny_model)
    assert (result.code, result.err) == (0, "")
    assert result.out == "added 3, updated 0, unchanged 0, 7 chunks\n"
    return absent


def test_adding_again_compresses_only_what_changed(cli, milvus, documents, tmp_path, monkeypatch):
    texts = []
    latents = Clara.latents

    def counting(self, batch, *, role, **options):
        texts.extend(batch if role == "compressor" else [])
        return latents(self, batch, role=role, **options)

    monkeypatch.setattr(Clara, "latents", counting)
    again = cli("index", "add", milvus, documents)
    assert again.out == "added 0, updated 0, unchanged 3 (nothing compressed for them), 0 chunks\n"
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "river.txt").write_bytes((documents / "river.txt").read_bytes())
    (moved / "opera.txt").write_text("Utzon won.", encoding="utf-8")
    result = cli("index", "add", milvus, moved, "--json")
    assert json.loads(result.out) == {
        "added": 0, "updated": 2, "unchanged": 0, "chunks": 1, "skipped": [],
    }  # fmt: skip
    assert texts == ["opera\nUtzon won."]


def test_the_answers_are_those_of_a_folder(cli, milvus, index):
    found = [
        json.loads(cli("search", path, QUESTION, "-k", 2, "--json", *mode).out)["hits"]
        for path, mode in ((milvus, ()), (index, ("--mode", "latent")))
    ]
    for hit, twin in zip(*found, strict=True):
        assert hit.pop("score") == pytest.approx(twin.pop("score"), abs=1e-5)
        assert hit == twin
    asked = ("--max-new-tokens", 3, "-k", 2, "--json")
    ours, theirs = (
        json.loads(cli("ask", path, QUESTION, *asked, *mode).out)
        for path, mode in ((milvus, ()), (index, ("--mode", "latent")))
    )
    assert ours["answer"] == theirs["answer"]
    streamed = cli("ask", milvus, QUESTION, "--max-new-tokens", 3, "-k", 2)
    assert streamed.out.split("\n\n[1] ")[0].strip() == ours["answer"].strip()
    lines = b"Who?\nWhere?\n"
    assert len(cli("search", milvus, "-", "--json", stdin=lines).out.splitlines()) == 2


def test_info(cli, milvus, tiny_model):
    about = json.loads(cli("index", "info", milvus, "--json").out)
    spec = asdict(Clara.load(str(tiny_model)).latent_spec)
    assert about == {
        "path": milvus, "documents": 3, "chunks": 7, "spec": spec, "quantization": "bf16",
    }  # fmt: skip
    shown = cli("index", "info", milvus).out
    for part in (milvus, "7 of at most", str(tiny_model), "a chunk, as bf16"):
        assert part in shown
    for part in ("shards", "size", "coarse"):
        assert part not in shown


def test_delete(cli, milvus):
    result = cli("index", "delete", milvus, "opera.txt", "nothing", "--where", "id~river")
    assert result.out == "removed 2 documents, 1 left\n"
    assert "nothing" in result.err
    hits = json.loads(cli("search", milvus, QUESTION, "--json").out)["hits"]
    assert {hit["id"] for hit in hits} == {"train.txt"}


def test_inspect(cli, milvus, index):
    stored = ("--id", "opera.txt", "--question", QUESTION, "--json")
    ours, theirs = (
        json.loads(cli("inspect", "--index", at, *stored).out) for at in (milvus, index)
    )
    assert ours == theirs
    assert [one["kind"] for one in ours["inspected"]][-2:] == ["document", "question"]


def test_options_of_a_new_index(cli, absent, documents, tiny_model):
    options = ("--n-memory", 2, "--quantization", "int8", "--model", tiny_model)
    assert cli("index", "add", absent, documents, *options).code == 0
    assert cli("index", "add", absent, documents).code == 0
    about = json.loads(cli("index", "info", absent, "--json").out)
    assert (about["spec"]["n_memory"], about["quantization"]) == (2, "int8")


def test_no_index(cli, absent, tmp_path):
    for verb in (
        ("search", absent, QUESTION),
        ("ask", absent, QUESTION),
        ("index", "info", absent),
        ("index", "delete", absent, "a"),
        ("inspect", "--index", absent, "--id", "a"),
        ("convert", absent, tmp_path / "copy"),
    ):
        sentence = cli(*verb).sentence()
        assert sentence.startswith("there is no index")
        assert f"openclara index add {absent} FILES" in sentence
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_when_nothing_is_added(cli, absent, documents, tiny_model, tmp_path):
    sentence = cli("index", "add", absent, documents, "--model", tmp_path / "none").sentence()
    assert "no trained model" in sentence
    assert "does not exist" in cli("index", "add", absent, "none", "--model", tiny_model).sentence()
    assert list(tmp_path.iterdir()) == []


def test_index_of_another_model(cli, milvus, other_model, documents):
    for verb in (
        ("search", milvus, QUESTION),
        ("ask", milvus, QUESTION),
        ("inspect", "--index", milvus, "--id", "opera.txt"),
        ("index", "add", milvus, documents),
    ):
        sentence = cli(*verb, "--model", other_model).sentence()
        assert milvus in sentence
        assert "fingerprint" in sentence


def test_what_milvus_cannot(cli, milvus):
    for mode in ("hybrid", "lexical"):
        for verb in ("search", "ask"):
            sentence = cli(verb, milvus, QUESTION, "--mode", mode).sentence()
            assert sentence.endswith(f"use mode latent, not {mode}")
    for verb in ("search", "ask"):
        assert "leave --exact out" in cli(verb, milvus, QUESTION, "--exact").sentence()
    for verb in (("index", "compact"), ("index", "verify"), ("serve",), ("mcp",)):
        assert f"openclara convert {milvus} FOLDER" in cli(*verb, milvus).sentence()
    assert (
        "no document 'nothing'" in cli("inspect", "--index", milvus, "--id", "nothing").sentence()
    )


def test_a_server_that_is_not_there(cli):
    address = "milvus:http://127.0.0.1:1"
    sentence = cli("search", address, QUESTION).sentence()
    assert sentence.startswith("Milvus at http://127.0.0.1:1 cannot be reached")
    assert sentence.endswith("check the address, or start it")


def test_packages_that_are_missing(cli, absent, documents, tiny_model, monkeypatch):
    monkeypatch.setattr(milvus_connection, "find_spec", lambda name: None)
    result = cli("index", "add", absent, documents, "--model", tiny_model)
    assert "pip install 'openclara[milvus]'" in result.sentence()


def test_workers_of_ray_need_a_place_for_parts(cli, absent, documents, tmp_path):
    result = cli("index", "add", absent, documents, "--engine", "ray")
    assert result.code == 2
    assert result.err.startswith("error: --engine ray needs --parts for an index in Milvus")
    assert list(tmp_path.iterdir()) == []


def test_what_was_compressed_before_an_error_is_kept(cli, milvus, documents, tmp_path, monkeypatch):
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.txt").write_text("All is well.", encoding="utf-8")
    (more / "b.txt").write_bytes("Ein schöner Tag.".encode("latin-1"))
    result = cli("index", "add", milvus, more, "--on-unreadable", "stop")
    assert "b.txt" in result.sentence()
    assert json.loads(cli("index", "info", milvus, "--json").out)["documents"] == 4


def test_finished_parts_are_joined(cli, absent, documents, tiny_model, tmp_path):
    clara = Clara.load(str(tiny_model))
    given = list(read_documents(str(documents)))
    parts = PartFolder(str(tmp_path / "parts"))
    content = packed(clara.latent_spec, list(clara.compress(given)))
    parts.write(parts.name(0, content), content)
    join = ("index", "join", absent, parts.place)
    assert cli(*join).out == "added 3, updated 0, unchanged 0, 7 chunks\n"
    assert json.loads(cli(*join, "--json").out)["unchanged"] == 3
    with MilvusIndex.open(absent.removeprefix("milvus:")) as joined:
        assert joined.spec == clara.latent_spec
        assert list(joined.documents()) == given
