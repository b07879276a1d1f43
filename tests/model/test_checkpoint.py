"""A checkpoint on disk: what goes in comes out, and what is damaged is refused in one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import openclara
from openclara.errors import FormatError, ModelError
from openclara.model.checkpoint import (
    MANIFEST,
    TENSORS,
    Checkpoint,
    export_peft,
    load_checkpoint,
    save_checkpoint,
)
from openclara.model.zoo import find_checkpoint


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "run")


def manifest(folder):
    return json.loads((folder / MANIFEST).read_text())


def write_manifest(folder, value):
    (folder / MANIFEST).write_text(json.dumps(value))


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 400


def test_round_trip(tiny_model, tmp_path):
    first = load_checkpoint(tiny_model)
    save_checkpoint(tmp_path / "copy", first)
    second = load_checkpoint(tmp_path / "copy")
    assert second.card == first.card
    assert second.fingerprint() == first.fingerprint()
    assert torch.equal(second.memory, first.memory)
    assert second.roles.keys() == first.roles.keys() == {"compressor", "reasoner", "generator"}
    for role, state in first.roles.items():
        assert state.keys() == second.roles[role].keys()
        assert all(torch.equal(state[name], second.roles[role][name]) for name in state)


def test_saving_over_a_checkpoint_replaces_it(folder):
    first = load_checkpoint(folder)
    save_checkpoint(folder, replace(first, memory=first.memory + 1))
    assert torch.equal(load_checkpoint(folder).memory, first.memory + 1)
    assert sorted(path.name for path in folder.iterdir()) == [TENSORS, MANIFEST]


def changed(checkpoint, what):
    roles = {role: dict(state) for role, state in checkpoint.roles.items()}
    card, memory = checkpoint.card, checkpoint.memory
    if what == "base":
        card = replace(card, base_sha256="0" * 64)
    elif what == "alpha":
        card = replace(card, alpha=2 * card.alpha)
    elif what == "latent layer":
        card = replace(card, latent_layer=1)
    elif what == "memory":
        memory = memory + 1
    elif what == "metrics":
        card = replace(card, metrics={"f1": 1.0}, training=[], stage="other")
    else:
        name = next(iter(roles[what]))
        roles[what][name] = roles[what][name] + 1
    return Checkpoint(card, roles, memory, checkpoint.token_weight)


@pytest.mark.parametrize(
    "what", ["base", "alpha", "memory", "latent layer", "compressor", "reasoner"]
)
def test_the_fingerprint_changes_with_what_makes_latents(tiny_model, what):
    checkpoint = load_checkpoint(tiny_model)
    assert changed(checkpoint, what).fingerprint() != checkpoint.fingerprint()


@pytest.mark.parametrize("what", ["generator", "metrics"])
def test_the_fingerprint_does_not_change_with_the_rest(tiny_model, what):
    checkpoint = load_checkpoint(tiny_model)
    assert changed(checkpoint, what).fingerprint() == checkpoint.fingerprint()


@pytest.mark.parametrize("what", ["base", "alpha", "memory", "compressor", "reasoner", "generator"])
def test_documents_latents_do_not_depend_on_who_asks(tiny_model, what):
    checkpoint = load_checkpoint(tiny_model)
    same = changed(checkpoint, what).compressor_fingerprint() == checkpoint.compressor_fingerprint()
    assert same == (what in ("reasoner", "generator"))


def test_a_model_in_memory_has_the_fingerprint_it_has_on_disk(tiny_model):
    stored = load_checkpoint(tiny_model)
    floats = {r: {n: t.float() for n, t in s.items()} for r, s in stored.roles.items()}
    unsaved = replace(stored, roles=floats, memory=stored.memory.float())
    assert unsaved.fingerprint() == stored.fingerprint()


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(ModelError, match=r"openclara\.json is missing") as error:
        load_checkpoint(tmp_path)
    assert one_sentence(error)


@pytest.mark.parametrize("text", ["{", "\x00\x01", ""])
def test_a_manifest_that_is_not_json(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(FormatError, match="not valid JSON") as error:
        load_checkpoint(folder)
    assert one_sentence(error)


@pytest.mark.parametrize("value", [{"version": 2}, {"format": "other"}])
def test_another_format_or_version(folder, value):
    write_manifest(folder, manifest(folder) | value)
    with pytest.raises(FormatError, match="this program reads openclara-checkpoint version 1"):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [[], None, 3, {}])
def test_a_manifest_of_something_else(folder, value):
    write_manifest(folder, value)
    with pytest.raises(FormatError, match="this program reads") as error:
        load_checkpoint(folder)
    assert one_sentence(error)


@pytest.mark.parametrize("field", ["base_sha256", "n_memory", "adapters_sha256"])
def test_a_manifest_without_a_field(folder, field):
    write_manifest(folder, {k: v for k, v in manifest(folder).items() if k != field})
    with pytest.raises(FormatError, match=f"no field `{field}`"):
        load_checkpoint(folder)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "absent", "empty"])
def test_damaged_tensors(folder, damage):
    path = folder / TENSORS
    data = bytearray(path.read_bytes())
    if damage == "absent":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes({"truncated": data[:-100], "flipped": data, "empty": b""}[damage])
    with pytest.raises(FormatError, match="missing or damaged") as error:
        load_checkpoint(folder)
    assert one_sentence(error)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(folder, tmp_path):
    (folder / TENSORS).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(FormatError):
        load_checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


def test_no_module_of_the_package_reads_pickles():
    for path in Path(openclara.__file__).parent.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "import pickle" not in source, path
        assert "torch.load(" not in source or "weights_only=True" in source, path


def test_a_role_that_is_not_there_is_not_exported(tiny_model, tmp_path):
    checkpoint = load_checkpoint(tiny_model)
    fewer = replace(checkpoint, roles={"compressor": checkpoint.roles["compressor"]})
    with pytest.raises(ModelError, match="no generator; it has compressor"):
        export_peft(fewer, "generator", tmp_path)


# ---- names of models ----


def test_a_folder_and_a_subfolder_are_found(tiny_model):
    assert find_checkpoint(str(tiny_model)) == tiny_model
    assert find_checkpoint(str(tiny_model.parent), subfolder=tiny_model.name) == tiny_model


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ModelError, match="no trained model 'nothing-here'; give a zoo name"):
        find_checkpoint("nothing-here")


def test_a_hub_id_is_fetched_without_code(tiny_model, monkeypatch):
    asked = {}

    def snapshot_download(name, *, allow_patterns):
        asked.update(name=name, allow_patterns=allow_patterns)
        return str(tiny_model.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert find_checkpoint("someone/some-model", subfolder=tiny_model.name) == tiny_model
    assert asked["name"] == "someone/some-model"
    assert all(p.endswith((".json", ".safetensors")) for p in asked["allow_patterns"])


def test_a_hub_that_does_not_answer(monkeypatch):
    def snapshot_download(name, **_):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="could not be fetched from the hub") as error:
        find_checkpoint("someone/some-model")
    assert one_sentence(error)
