"""`convert` and `export hub`: what is written, and one sentence on every mistake."""

from __future__ import annotations

import json

import pytest
from published import make_published, untied_base

from openclara.errors import ConfigError
from openclara.index import LatentIndex
from openclara.pipeline import Clara


@pytest.fixture(scope="module")
def published(tmp_path_factory, tiny_base):
    root = tmp_path_factory.mktemp("cli-published")
    return make_published(root / "made", untied_base(root / "base", tiny_base))


def test_there_and_back(cli, published, tmp_path):
    result = cli("convert", published, tmp_path / "ours")
    assert (result.code, result.out) == (0, f"written to {tmp_path / 'ours'}\n")
    assert cli("convert", tmp_path / "ours", tmp_path / "back").code == 0
    assert (tmp_path / "back" / "adapters.pth").is_file()
    for kind, found in (("peft", "generator/adapter_config.json"), ("merged", "config.json")):
        assert cli("convert", published, tmp_path / kind, "--to", kind).code == 0
        assert (tmp_path / kind / found).is_file()


def test_a_note_goes_to_standard_error(cli, tiny_model, tmp_path):
    result = cli("convert", tiny_model, tmp_path / "published")
    assert result.code == 0
    assert "warning: the published code asks in its own words" in result.err
    assert "warning" not in result.out


def test_mistakes(cli, published, tiny_model, tmp_path):
    target = tmp_path / "target"
    assert "no trained model" in cli("convert", tmp_path / "nothing", target).sentence()
    assert "is there already" in cli("convert", published, published).sentence()
    nowhere = published.parent / "none"
    wrong = cli("convert", published, target, "--base", nowhere).sentence()
    assert f"there is no base model folder {nowhere}" in wrong
    assert cli("convert", published, target, "--to", "onnx").code == 2
    assert cli("convert", published).code == 2
    assert "sub-folders made" in cli("convert", published.parent, target).sentence()
    assert cli("export").code == 0
    assert cli("export", "hub").code == 2
    unknown = cli("export", "hub", target, "--model", tmp_path / "nothing").sentence()
    assert "no trained model" in unknown
    assert not target.exists()


def test_a_published_model_indexes_and_answers(cli, published, documents, tmp_path):
    index = tmp_path / "made.index"
    assert cli("index", "add", index, documents, "--model", published).code == 0
    found = cli("search", index, "Who designed the opera house?", "--json")
    assert found.code == 0
    answer = cli("ask", index, "Who designed the opera house?", "-k", 2, "--json")
    assert answer.code == 0
    assert '"answer"' in answer.out


def test_export(cli, tiny_model, tmp_path):
    result = cli("export", "hub", tmp_path / "exported", "--model", tiny_model)
    assert (result.code, result.out) == (0, f"written to {tmp_path / 'exported'}\n")
    assert (tmp_path / "exported" / "modeling_openclara.py").is_file()
    refused = cli("export", "hub", tmp_path / "again", "--model", tiny_model, "--push", "a/b")
    assert refused.code == 1
    assert "which nobody else has" in refused.err


def test_an_index_goes_to_milvus_and_back(cli, index, tmp_path, monkeypatch):
    pytest.importorskip("milvus_lite")
    milvus = f"milvus:{tmp_path / 'm.db'}"
    assert cli("convert", index, milvus).out.startswith("3 documents copied to milvus:")
    assert cli("convert", milvus, tmp_path / "back").code == 0
    before, after = (
        cli("search", path, "Who?", "--json").out for path in (index, tmp_path / "back")
    )
    assert json.loads(before) == json.loads(after)


def test_milvus_answers_the_models_questions(tiny_model, index, tmp_path):
    pytest.importorskip("milvus_lite")
    from openclara.index.addresses import open_index
    from openclara.index.migration import migrate

    clara = Clara.load(str(tiny_model))
    milvus = f"milvus:{tmp_path / 'm.db'}"
    migrate(str(index), milvus)
    with LatentIndex.open(index) as folder:
        expected = clara.search("Who?", folder, k=3, mode="latent")
    with open_index(milvus) as opened:
        assert clara.search("Who?", opened, k=3) == expected
        assert clara.search("Who?", opened, k=3, mode="latent") == expected
        assert len(clara.ask("Who?", opened, k=2).hits) == 2
        assert len(clara.stream("Who?", opened, k=2).hits) == 2
        with pytest.raises(ConfigError, match="use mode latent"):
            clara.search("Who?", opened, mode="hybrid")
