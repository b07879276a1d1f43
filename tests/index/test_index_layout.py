import json
import subprocess
import sys
from dataclasses import replace

import pytest
from index_cases import SPEC, compress

from openclara.errors import FormatError, IndexMismatch
from openclara.index import LatentIndex
from openclara.index.layout import Layout, Manifest, read_manifest, write_durably
from openclara.types import Document


@pytest.fixture
def path(tmp_path):
    LatentIndex.open(tmp_path / "my.index", SPEC).close()
    return tmp_path / "my.index"


def test_a_manifest_is_read_as_it_was_written(path):
    assert read_manifest(Layout(path)) == Manifest(SPEC, "bf16")


def test_an_index_is_opened_without_a_spec(path):
    with LatentIndex.open(path) as index:
        assert (index.spec, index.quantization, index.path) == (SPEC, "bf16", path)
        assert (len(index), index.n_chunks) == (0, 0)
        assert index


def test_a_path_is_created_with_its_parents(tmp_path):
    with LatentIndex.open(tmp_path / "a" / "b", SPEC, quantization="int4") as index:
        assert index.quantization == "int4"


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("fingerprint", "xyz", "fingerprint=xyz"),
        ("n_memory", 2, "n_memory=2"),
        ("width", 16, "width=16"),
        ("doc_max_length", 64, "doc_max_length=64"),
    ],
)
def test_another_model_is_refused_with_the_field_and_the_command(path, field, value, shown):
    with pytest.raises(IndexMismatch) as caught:
        LatentIndex.open(path, replace(SPEC, model="other", **{field: value}))
    message = str(caught.value)
    assert shown in message
    assert f"{field}={getattr(SPEC, field)}" in message
    assert "openclara index add NEW_PATH FILES --model other" in message
    assert not any(
        f"{name}=" in message for name in {"n_memory", "width", "quantization"} - {field}
    )


def test_another_name_for_the_same_model_is_accepted(path):
    LatentIndex.open(path, replace(SPEC, model="/elsewhere/tiny")).close()


def test_another_quantization_is_refused(path):
    with pytest.raises(IndexMismatch, match=r"quantization=bf16.*quantization=int8"):
        LatentIndex.open(path, SPEC, quantization="int8")


def test_a_missing_path_says_how_to_make_an_index(tmp_path):
    with pytest.raises(FormatError, match=r"there is no index at .*openclara index add"):
        LatentIndex.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"holds 'thesis.txt'"):
        LatentIndex.open(tmp_path, SPEC)
    with pytest.raises(FormatError, match="is not an openclara index"):
        LatentIndex.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("spec", [SPEC, None])
def test_a_file_is_not_an_index(tmp_path, spec):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="choose another path"):
        LatentIndex.open(tmp_path / "file", spec)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:20],
        lambda text: "[]",
        lambda text: text.replace("openclara-index", "another"),
        lambda text: text.replace('"width": 8', '"width": "8"'),
        lambda text: text.replace('"bf16"', '"bf17"'),
        lambda text: text.replace('"group_size": 1', '"group_size": 3'),
        lambda text: text.replace('"n_memory": 4,', ""),
    ],
)
def test_a_damaged_manifest_is_said_to_be_damaged(path, damage):
    manifest = path / "index.json"
    manifest.write_text(damage(manifest.read_text()))
    with pytest.raises(FormatError, match=r"index.json .*make a new index with"):
        LatentIndex.open(path, SPEC)


def test_another_format_version_is_refused(path):
    manifest = path / "index.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    with pytest.raises(FormatError, match="format version 99"):
        LatentIndex.open(path)


def test_an_interrupted_creation_can_be_tried_again(path):
    (path / "index.json").unlink()
    (path / "index.json.tmp").write_text("{")
    (path / "documents.sqlite").write_bytes(b"half of a database")
    with LatentIndex.open(path, SPEC) as index:
        index.add([compress(Document("a", "some text"))])
        assert index.verify().ok


def test_latents_without_a_manifest_are_not_taken_for_an_interrupted_creation(path):
    with LatentIndex.open(path) as index:
        index.add([compress(Document("a", "some text"))])
    (path / "index.json").unlink()
    before = sorted(p.name for p in path.iterdir())
    with pytest.raises(FormatError, match=r"index.json is missing: restore it"):
        LatentIndex.open(path, SPEC)
    assert sorted(p.name for p in path.iterdir()) == before


def test_a_durable_write_is_whole_or_absent(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(5, "broken")

    write_durably(tmp_path / "a", b"one", temporary_suffix=".tmp")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="broken"):
        write_durably(tmp_path / "a", b"two", temporary_suffix=".tmp")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"one")]


def test_the_layout_is_read_without_torch():
    code = "import sys, openclara.index.layout as _; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
