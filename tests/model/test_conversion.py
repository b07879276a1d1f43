"""From one layout into another and back: bit for bit, or one sentence why not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from published import CONFIG, HEAD, make_published, merged_lm, special_ids, untied_base
from safetensors.torch import load_file
from tiny import N_MEMORY, anchored_memory, make_checkpoint, plain_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

from openclara import Clara
from openclara.errors import ConfigError, ModelError
from openclara.model.checkpoint import load_checkpoint, save_checkpoint
from openclara.model.conversion import convert
from openclara.model.published.reading import read_any

QUESTION, TEXTS = "Who designed it?", ["The opera house is by Utzon.", "A river."]
ADAPTERS, FIRST_LAST = "adapters.pth", "decoder_first_last_layers.pth"


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_base):
    return untied_base(tmp_path_factory.mktemp("conversion") / "base", tiny_base)


@pytest.fixture(scope="module")
def published(tmp_path_factory, base):
    return make_published(tmp_path_factory.mktemp("conversion") / "published", base)


def loaded(path):
    return torch.load(path, weights_only=True)


def same_files(a, b):
    theirs, ours = loaded(a / ADAPTERS), loaded(b / ADAPTERS)
    assert theirs.keys() == ours.keys()
    for adapter, state in theirs.items():
        assert list(state) == list(ours[adapter]) or state.keys() == ours[adapter].keys()
        assert all(torch.equal(t, ours[adapter][name]) for name, t in state.items())
        assert all(t.dtype == ours[adapter][name].dtype for name, t in state.items())
    theirs, ours = loaded(a / FIRST_LAST), loaded(b / FIRST_LAST)
    assert theirs.keys() == ours.keys()
    assert all(
        torch.equal(t, ours[name]) and t.dtype == ours[name].dtype for name, t in theirs.items()
    )
    config_a, config_b = (json.loads((f / "config.json").read_text()) for f in (a, b))
    named = ("compr_base_model_name",)
    assert {**config_a, **dict.fromkeys(named)} == {**config_b, **dict.fromkeys(named)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"roles": ("generator", "compressor"), "training_stage": "stage1_2"},
        {"roles": ("compressor",), "training_stage": "stage1"},
        {"different_mem_tokens": False},
        {"kbtc_training": True},
        {"doc_max_length": 30, "compr_rate": 4},
        {"model_type": "COCOM", "roles": ("generator", "compressor")},
        {"model_type": "COCOM", "roles": ("generator",), "training_form": "both"},
    ],
    ids=str,
)
def test_published_there_and_back(tmp_path, base, changes):
    made = make_published(tmp_path / "published", base, **changes)
    assert convert(str(made), tmp_path / "ours") == []
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        "openclara.json",
        "adapters.safetensors",
    }
    assert convert(str(tmp_path / "ours"), tmp_path / "back") == []
    same_files(made, tmp_path / "back")
    assert read_any(made).fingerprint() == load_checkpoint(tmp_path / "ours").fingerprint()


def test_published_with_a_tied_base_there_and_back(tmp_path, tiny_base):
    made = make_published(tmp_path / "published", tiny_base)
    convert(str(made), tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "back")
    same_files(made, tmp_path / "back")
    assert HEAD not in loaded(tmp_path / "back" / FIRST_LAST)


def test_answers_survive(tmp_path, published):
    convert(str(published), tmp_path / "ours")
    texts = [
        Clara.load(str(folder), precision="fp32").generate_from_text([QUESTION], [TEXTS], 8)
        for folder in (published, tmp_path / "ours")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("with_reasoner", [True, False])
def test_ours_there_and_back(tmp_path, base, with_reasoner):
    ours = make_checkpoint(tmp_path / "ours", base, with_reasoner=with_reasoner)
    (note, *_) = convert(str(ours), tmp_path / "published")
    assert "asks in its own words, which this model was not trained on" in note
    convert(str(tmp_path / "published"), tmp_path / "back")
    tensors = [load_file(folder / "adapters.safetensors") for folder in (ours, tmp_path / "back")]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(t, tensors[1][name]) for name, t in tensors[0].items())
    before, after = load_checkpoint(ours), load_checkpoint(tmp_path / "back")
    assert after.card == before.card
    assert after.fingerprint() == before.fingerprint()


@torch.no_grad()
def test_what_the_published_code_would_load_is_ours(tmp_path, base):
    """Put together as that code does: resized, rows and adapters laid over."""
    ours = make_checkpoint(tmp_path / "ours", base)
    convert(str(ours), tmp_path / "published")
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    assert config["decoder_model_name"] == str(base)
    assert config["doc_max_length"] // config["compr_rate"] == N_MEMORY
    assert config["pure_inference"] is True
    assert config["auto_map"] == CONFIG["auto_map"]
    clara = Clara.load(str(ours), precision="fp32", n_memory=N_MEMORY)
    ids, tokenizer = special_ids(), clara.tokenizer
    text = tokenizer.encode([TEXTS[0]])[0]
    row = [ids["<ENC>"], tokenizer.bos, *text, tokenizer.eos]
    row += [ids[f"<MEM{i}>"] for i in range(N_MEMORY)]
    lm = merged_lm(base, tmp_path / "published", "compressor")
    states = lm(torch.tensor([row]), output_hidden_states=True).hidden_states[-1]
    expected = clara.latents(TEXTS[:1], role="compressor")[0]
    torch.testing.assert_close(states[0, -N_MEMORY:], expected, rtol=0, atol=5e-5)


def test_one_trained_further_there_is_another_model(tmp_path, base):
    ours = make_checkpoint(tmp_path / "ours", base)
    convert(str(ours), tmp_path / "published")
    adapters = loaded(tmp_path / "published" / ADAPTERS)
    for tensor in adapters["decoder_adapter"].values():
        tensor += 1
    torch.save(adapters, tmp_path / "published" / ADAPTERS)
    assert read_any(tmp_path / "published").card.wording == "published"


def test_an_uneven_length(tmp_path, base):
    ours = make_checkpoint(tmp_path / "ours", base)
    checkpoint = load_checkpoint(ours)
    save_checkpoint(ours, replace(checkpoint, card=replace(checkpoint.card, doc_max_length=30)))
    convert(str(ours), tmp_path / "published")
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    assert config["doc_max_length"] // config["compr_rate"] == N_MEMORY
    assert config["doc_max_length"] <= 30
    convert(str(tmp_path / "published"), tmp_path / "back")
    assert load_checkpoint(tmp_path / "back").card.doc_max_length == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": "anchored"}, "memory tokens are anchored, the published layout has learned"),
        ({"score": "late"}, "compares latents by a late score, the published code by the cosine"),
        ({"latent_gain": 0.5}, "multiplies latents by 0.5, the published code cannot"),
        ({"alpha": 4.0}, "LoRA alpha 4 at rank 4, the published code fixes it at twice the rank"),
    ],
)
def test_what_the_published_code_cannot_express(tmp_path, base, changes, message):
    ours = make_checkpoint(tmp_path / "ours", base)
    checkpoint = load_checkpoint(ours)
    memory = anchored_memory(plain_lm(base).get_input_embeddings().weight)
    changed = replace(checkpoint, card=replace(checkpoint.card, **changes))
    save_checkpoint(ours, replace(changed, salience=memory.salience.state_dict()))
    with pytest.raises(ModelError, match=message) as error:
        convert(str(ours), tmp_path / "published")
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"ours"}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft's, about transformers
def test_each_role_as_a_peft_adapter(tmp_path, base, published):
    from peft import PeftModel

    convert(str(published), tmp_path / "peft", to="peft")
    roles = {path.name for path in (tmp_path / "peft").iterdir()}
    assert roles == {"compressor", "reasoner", "generator"}
    ids = torch.tensor([[5, 9, 30, 7]])
    checkpoint = read_any(published)
    for role in roles:
        state = {name: tensor.float() for name, tensor in checkpoint.roles[role].items()}
        expected = plain_lm(base, state)(ids).logits
        lm = PeftModel.from_pretrained(plain_lm(base), tmp_path / "peft" / role)
        torch.testing.assert_close(lm(ids).logits, expected, rtol=0, atol=1e-4)


def test_the_merged_generator(tmp_path, base, published):
    convert(str(published), tmp_path / "merged", to="merged")
    assert not list((tmp_path / "merged").glob("*.pth"))
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    state = {name: t.float() for name, t in read_any(published).roles["generator"].items()}
    expected = plain_lm(base, state)
    for name, tensor in expected.state_dict().items():
        stored = lm.state_dict()[name]
        torch.testing.assert_close(stored, tensor.bfloat16().float(), rtol=0, atol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template is not None
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["rope_theta"] == config.get("rope_parameters", config)["rope_theta"]


def test_an_unmerged_base_is_not_touched(tmp_path, base, published):
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    for kind in ("openclara", "published", "peft", "merged"):
        convert(str(published), tmp_path / kind, to=kind)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_a_target_that_is_in_use(tmp_path, published):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="is there already; give a new folder"):
        convert(str(published), tmp_path / "full")
    (tmp_path / "empty").mkdir()
    convert(str(published), tmp_path / "empty")
    assert (tmp_path / "empty" / "openclara.json").is_file()


def test_wider_weights_are_rounded_and_said_so(tmp_path, base):
    made = make_published(tmp_path / "published", base)
    adapters = loaded(made / ADAPTERS)
    wide = {a: {n: t.float() for n, t in state.items()} for a, state in adapters.items()}
    torch.save(wide, made / ADAPTERS)
    (note,) = convert(str(made), tmp_path / "ours")
    assert note == "weights in torch.float32 were rounded to bfloat16"


def test_a_base_elsewhere(tmp_path, base):
    made = make_published(tmp_path / "published", base, decoder_model_name="/gone/base")
    moved = shutil.copytree(base, tmp_path / "base")
    convert(str(made), tmp_path / "ours", base=str(moved))
    assert load_checkpoint(tmp_path / "ours").card.base == str(moved)
