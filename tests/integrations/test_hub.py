"""Exported folders: the article's two snippets, unchanged, and the way to the hub."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from published import make_published, untied_base
from tiny import make_checkpoint
from transformers import AutoModel

from openclara import Clara
from openclara.errors import ConfigError, ModelError
from openclara.integrations.automodel import OpenClaraModel
from openclara.integrations.hub import export_hub, model_card, push_to_hub
from openclara.model.checkpoint import load_checkpoint, save_checkpoint

DOCUMENTS = [["The opera house is by Utzon.", "A river.", "Trains leave at nine."]]
QUESTIONS = ["Who designed it?"]


@pytest.fixture(scope="module", autouse=True)
def _modules(tmp_path_factory):
    """Where transformers copies the modules it runs: not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
        patch.setattr(sys, "path", list(sys.path))
        yield


@pytest.fixture(scope="module", params=["ours", "published"])
def trained(request, tmp_path_factory, tiny_base):
    root = tmp_path_factory.mktemp("trained")
    if request.param == "ours":
        return make_checkpoint(root / "ours", tiny_base)
    return make_published(root / "published", untied_base(root / "base", tiny_base))


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_hub(str(trained), folder)
    return folder


def test_the_snippet_with_retrieval(folder, trained):
    model = AutoModel.from_pretrained(str(folder), trust_remote_code=True).to("cpu")
    documents, questions = DOCUMENTS, QUESTIONS
    output, topk_indices = model.generate_from_questions(
        questions=questions, documents=documents, max_new_tokens=64
    )
    clara = Clara.load(str(trained))
    texts, chosen = clara.generate_from_questions(questions, documents, 64)
    assert (output, topk_indices.tolist()) == (texts, chosen.tolist())
    assert topk_indices.dtype == torch.long
    assert isinstance(output[0], str)


def test_the_snippet_without_retrieval(folder, trained):
    model = AutoModel.from_pretrained(str(folder), trust_remote_code=True).to("cpu")
    documents, questions = DOCUMENTS, QUESTIONS
    output = model.generate_from_text(questions=questions, documents=documents, max_new_tokens=64)
    assert output == Clara.load(str(trained)).generate_from_text(questions, documents, 64)
    paraphrases = model.generate_from_paraphrase(questions, documents, 4)
    assert paraphrases == Clara.load(str(trained)).generate_from_paraphrase(questions, documents, 4)


def test_nothing_runs_unless_the_user_says_so(folder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModel.from_pretrained(str(folder))
    code = (folder / "modeling_openclara.py").read_text()
    assert "def " not in code
    assert Clara.load(str(folder)).generate_from_text(QUESTIONS, DOCUMENTS, 2)


def test_what_else_code_for_torch_models_does(folder):
    model = OpenClaraModel.from_pretrained(str(folder), torch_dtype=torch.float32)
    assert model.device.type == "cpu"
    assert not model.training
    assert model.eval().to("cpu") is model
    loaded = model.clara
    assert model.to(torch.float32).clara is loaded
    assert model.bfloat16().clara is not loaded
    assert model.clara.model.vocabulary.weight.dtype == torch.bfloat16
    assert model.cpu().float().clara.model.vocabulary.weight.dtype == torch.float32
    with torch.no_grad():
        assert model.generate_from_text(QUESTIONS, DOCUMENTS, 2)
    for call in (model.half, lambda: model.to("cpu", torch.float16)):
        with pytest.raises(ConfigError, match=r"dtype is torch.float16"):
            call()
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="there is no device 'cuda'"):
            model.cuda()


def test_options_of_the_published_code(folder):
    model = OpenClaraModel.from_pretrained(str(folder), generation_top_k=1)
    _, chosen = model.generate_from_questions(QUESTIONS, DOCUMENTS, 2)
    assert chosen.shape == (1, 1)
    with pytest.warns(UserWarning, match="pure_inference, training_stage has no effect"):
        OpenClaraModel.from_pretrained(str(folder), training_stage="stage2", pure_inference=True)
    with pytest.raises(ConfigError, match="device_map"):
        OpenClaraModel.from_pretrained(str(folder), device_map={"": 0})


# ---- to the hub ----


class Hub:
    """A stand-in for the hub's client."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.error is not None:
            raise self.error
        self.calls.append(("create", repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        self.calls.append(("upload", repo_id, folder_path, tuple(allow_patterns)))


@pytest.fixture
def portable(folder, tmp_path):
    """An exported model whose base has a hub id."""
    checkpoint = load_checkpoint(folder)
    card = replace(
        checkpoint.card,
        base="someone/base-model",
        metrics={"answers": 0.5, "n": 100, "by_set": {"a": 1}},
        training=[{"stage": "compress", "steps": 10, "examples": 5, "data": [{"path": "x.gz"}]}],
    )
    target = tmp_path / "portable"
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    save_checkpoint(target, replace(checkpoint, card=card))
    return target


def test_pushing(portable):
    hub = Hub()
    (portable / "private notes.txt").touch()
    assert push_to_hub(portable, "me/my-model", api=hub) == "https://huggingface.co/me/my-model"
    (created, uploaded) = hub.calls
    assert created == ("create", "me/my-model", True, True)
    assert uploaded[:3] == ("upload", "me/my-model", str(portable))
    assert set(uploaded[3]) == {
        "openclara.json", "adapters.safetensors", "config.json", "modeling_openclara.py",
        "README.md",
    }  # fmt: skip
    card = (portable / "README.md").read_text()
    assert 'AutoModel.from_pretrained("me/my-model", trust_remote_code=True)' in card
    assert 'Clara.load("me/my-model")' in card
    assert "base_model: someone/base-model" in card
    assert "| answers | 0.5 |" in card
    assert "| n | 100 |" in card
    assert "- compress: 10 steps, 5 examples, x.gz" in card


def test_a_card_without_numbers(folder):
    card = model_card(load_checkpoint(folder).card, name="model")
    assert "## Results" not in card
    assert "base_model:" not in card


@pytest.mark.parametrize("name", ["model", "a/b/c", "/b", ""])
def test_a_name_that_is_no_repository(portable, name):
    with pytest.raises(ConfigError, match="is no repository; give owner/name"):
        push_to_hub(portable, name, api=Hub())


def test_what_cannot_be_pushed(folder, trained, portable, tiny_model):
    hub = Hub()
    with pytest.raises(ModelError, match="which nobody else has; export it again with --base"):
        push_to_hub(folder, "me/my-model", api=hub)
    with pytest.raises(ModelError, match="was not exported"):
        push_to_hub(tiny_model, "me/my-model", api=hub)
    assert hub.calls == []
    with pytest.raises(ModelError, match=r"did not take me/my-model \(ConnectionError\)"):
        push_to_hub(portable, "me/my-model", api=Hub(ConnectionError("no route")))


def test_another_base_is_not_named(trained, tmp_path, tiny_base):
    other = untied_base(tmp_path / "other", tiny_base)
    changed = other / "model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: tensor + 1 for name, tensor in load_file(changed).items()}, changed)
    with pytest.raises(ModelError, match="is not the"):
        export_hub(str(trained), tmp_path / "exported", base=str(other))
    assert json.loads((other / "config.json").read_text())
    assert not (tmp_path / "exported").exists()
