"""Checkpoints in the published layout: what they hold arrives, what is wrong is said."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from published import (
    ADAPTERS,
    EMBEDDING,
    HEAD,
    make_published,
    merged_lm,
    special_ids,
    untied_base,
)
from tiny import DOC_MAX_LENGTH, N_MEMORY, RANK, make_base, make_tokenizer, random_roles

from openclara import Clara, Document, LatentIndex
from openclara.data.published import SYSTEM_QA
from openclara.errors import FormatError, ModelError
from openclara.model.generator import Decoding
from openclara.model.published.naming import KNOWN
from openclara.model.published.reading import read_any
from openclara.model.zoo import find_checkpoint

TEXTS = ["The opera house is by Utzon.", "A river.", "Trains leave at nine."]
IDS = special_ids()


def one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert ". " not in message.rstrip(".")
    return message


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_base):
    return untied_base(tmp_path_factory.mktemp("published") / "base", tiny_base)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, base):
    return make_published(tmp_path_factory.mktemp("checkpoint") / "made", base)


@pytest.fixture(scope="module")
def clara(folder):
    return Clara.load(str(folder), precision="fp32")


# ---- the same numbers as a plain computation ----


def tokenised(text):
    return make_tokenizer()(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def plain_latents(base, folder, text, role):
    """ENC, BOS, text, EOS, memory tokens through the resized LM, one text at a time."""
    tokenizer = make_tokenizer()
    ids = [IDS["<ENC>"], tokenizer.bos_token_id, *tokenised(text), tokenizer.eos_token_id]
    ids += [IDS[f"<MEM{i}>"] for i in range(N_MEMORY)]
    lm = merged_lm(base, folder, role)
    states = lm(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    return states[0, -N_MEMORY:]


@pytest.mark.parametrize("role", ["compressor", "reasoner"])
def test_latents(clara, base, folder, role):
    ours = clara.latents(TEXTS, role=role)
    theirs = torch.stack([plain_latents(base, folder, text, role) for text in TEXTS])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)


@torch.no_grad()
def test_an_answer(clara, base, folder):
    """Prompt, slots and greedy tokens through `generate` of transformers."""
    question = "Who designed it?"
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(IDS)})
    block = "".join(name for name in IDS if name.startswith("<MEM")) + "<SEP>"
    messages = [
        {"role": "system", "content": SYSTEM_QA},
        {"role": "user", "content": f"Background:\n{block * 2}\n\nQuestion:{question}"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    lm = merged_lm(base, folder, "generator")
    embedded = lm.get_input_embeddings()(ids).clone()
    latents = [plain_latents(base, folder, text, "compressor") for text in TEXTS[:2]]
    slots = (ids[0] >= IDS["<MEM0>"]) & (ids[0] < IDS["<MEM0>"] + N_MEMORY)
    embedded[0, slots] = torch.cat(latents)
    written = lm.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
    )
    expected = tokenizer.decode(written[0], skip_special_tokens=True).strip()
    assert clara.generate_from_text([question], [TEXTS[:2]], 8) == [expected]


def test_everything_works_on_it(clara, tmp_path):
    index = LatentIndex.open(tmp_path / "index", clara.latent_spec)
    index.add(clara.compress(Document(str(i), text) for i, text in enumerate(TEXTS)))
    (best, *_) = clara.search("A river.", index, k=2, mode="latent")
    assert best.document.text in TEXTS
    for context in ("latents", "text", "none"):
        answer = clara.ask("Who?", index, k=2, context=context, decoding=Decoding(4))
        assert isinstance(answer.text, str)
    assert clara.latent_spec.n_memory == N_MEMORY
    assert clara.card.doc_max_length == DOC_MAX_LENGTH
    index.close()


# ---- what the files may look like ----


def same_tensors(a, b):
    assert a.roles.keys() == b.roles.keys()
    for role, state in a.roles.items():
        assert state.keys() == b.roles[role].keys()
        assert all(torch.equal(t, b.roles[role][name]) for name, t in state.items())
    assert torch.equal(a.memory, b.memory)
    assert torch.equal(a.head, b.head)


def test_every_tensor_arrives(folder, base):
    checkpoint = read_any(folder)
    states = random_roles(merged_lm(base, folder, "generator"), tuple(ADAPTERS)[::-1])
    adapters = torch.load(folder / "adapters.pth", weights_only=True)
    assert states.keys() == checkpoint.roles.keys()
    for role, name in ADAPTERS.items():
        assert checkpoint.roles[role].keys() == adapters[name].keys()
        assert all(torch.equal(t, adapters[name][key]) for key, t in checkpoint.roles[role].items())
    rows = torch.load(folder / "decoder_first_last_layers.pth", weights_only=True)
    expected = ("<AE>", None, "<SEP>", "<ENC>", *(f"<MEM{i}>" for i in range(N_MEMORY)))
    for row, name in zip(checkpoint.memory, expected, strict=True):
        assert torch.equal(row, rows[EMBEDDING][IDS[name]]) if name else not row.any()
    assert torch.equal(checkpoint.head, rows[HEAD][IDS["<MEM0>"] :])
    card = checkpoint.card
    assert (card.n_memory, card.rank, card.alpha, card.top_k) == (N_MEMORY, RANK, 2 * RANK, 2)
    assert (card.stage, card.wording, card.latent_gain) == ("joint", "published", 1.0)


@pytest.mark.parametrize("copies", [("generator", "compressor"), ("generator",)])
@pytest.mark.parametrize("first_last", [True, False])
def test_adapters_with_copies_of_embedding_and_head(tmp_path, base, folder, copies, first_last):
    other = make_published(tmp_path / "made", base, copies=copies, first_last=first_last)
    same_tensors(read_any(other), read_any(folder))


def test_copies_that_contradict(tmp_path, base):
    made = make_published(tmp_path / "made", base, copies=("generator", "compressor"))
    adapters = torch.load(made / "adapters.pth", weights_only=True)
    adapters["encoder_adapter"][EMBEDDING] = adapters["encoder_adapter"][EMBEDDING] + 1
    torch.save(adapters, made / "adapters.pth")
    with pytest.raises(FormatError, match="different copies of 'model") as e:
        read_any(made)
    one_sentence(e)


def test_a_base_with_a_tied_head(tmp_path, tiny_base):
    made = make_published(tmp_path / "made", tiny_base, copies=("generator",))
    assert HEAD not in torch.load(made / "decoder_first_last_layers.pth", weights_only=True)
    checkpoint = read_any(made)
    assert torch.equal(checkpoint.head[:N_MEMORY], checkpoint.memory[-N_MEMORY:])
    assert Clara.load(str(made), precision="fp32").generate_from_text(["Who?"], [TEXTS], 2)


@pytest.mark.parametrize(
    "roles",
    [("generator",), ("compressor",), ("generator", "compressor"), ("compressor", "reasoner")],
)
def test_any_subset_of_roles(tmp_path, base, roles):
    clara = Clara.load(str(make_published(tmp_path / "made", base, roles=roles)))
    assert clara.roles == set(roles)
    if "compressor" not in roles:
        with pytest.raises(ModelError, match="has no compressor, it has generator") as error:
            clara.latents(TEXTS, role="compressor")
        one_sentence(error)
    elif "generator" not in roles:
        assert clara.latents(TEXTS, role="compressor").shape[0] == len(TEXTS)
        with pytest.raises(ModelError, match="has no generator, it has compressor"):
            clara.generate_from_text(["Who?"], [TEXTS])


def test_instruct_answers_with_its_trained_generator(tmp_path, base, clara):
    """Not with a fresh one, and questions choose by the compressor."""
    made = make_published(
        tmp_path / "made", base, roles=("generator", "compressor"), training_stage="stage1_2",
        pure_inference=False,
    )  # fmt: skip
    instruct = Clara.load(str(made), precision="fp32")
    assert instruct.card.stage == "instruct"
    texts = instruct.generate_from_text(["Who designed it?"], [TEXTS], 8)
    assert texts == clara.generate_from_text(["Who designed it?"], [TEXTS], 8)
    again = instruct.generate_from_text(["Who designed it?"], [TEXTS], 8)
    assert again == texts
    _, chosen = instruct.generate_from_questions(["A river."], [TEXTS], 2)
    assert chosen.tolist()[0][0] == 1


def test_one_memory_token_for_all_positions(tmp_path, base):
    made = make_published(tmp_path / "made", base, different_mem_tokens=False)
    memory = read_any(made).memory
    assert memory.shape[0] == N_MEMORY + 4
    assert all(torch.equal(row, memory[4]) for row in memory[5:])


def test_the_token_of_another_training(tmp_path, base):
    made = make_published(tmp_path / "made", base, kbtc_training=True)
    rows = torch.load(made / "decoder_first_last_layers.pth", weights_only=True)[EMBEDDING]
    assert torch.equal(read_any(made).memory[1], rows[-1])


def test_names_with_what_peft_leaves_in_them(tmp_path, base, folder):
    made = make_published(tmp_path / "made", base)
    adapters = torch.load(made / "adapters.pth", weights_only=True)
    spelled = {
        adapter: {
            "base_model.model." + name.replace(".weight", f".{adapter}.weight"): tensor
            for name, tensor in state.items()
        }
        for adapter, state in adapters.items()
    }
    torch.save(spelled, made / "adapters.pth")
    same_tensors(read_any(made), read_any(folder))


# ---- the family it came from ----


def test_pisco(tmp_path, base, folder):
    made = make_published(
        tmp_path / "made", base, roles=("generator", "compressor"), model_type="COCOM"
    )
    checkpoint = read_any(made)
    assert checkpoint.card.top_k == 5
    assert torch.equal(checkpoint.memory, read_any(folder).memory)
    assert Clara.load(str(made)).generate_from_text(["Who?"], [TEXTS], 2)


def test_pisco_with_one_adapter_for_both(tmp_path, base):
    made = make_published(
        tmp_path / "made", base, roles=("generator",), model_type="COCOM", training_form="both"
    )
    checkpoint = read_any(made)
    shared = torch.load(made / "adapters.pth", weights_only=True)["decoder_adapter"]
    for role in ("compressor", "generator"):
        assert all(torch.equal(t, shared[name]) for name, t in checkpoint.roles[role].items())


def test_a_compressor_of_another_kind(tmp_path, base):
    made = make_published(
        tmp_path / "made",
        base,
        model_type="COCOM",
        compr_model_name="google-bert/bert-base-uncased",
    )
    with pytest.raises(FormatError, match="names 'google-bert/bert-base-uncased' as a comp") as e:
        read_any(made)
    one_sentence(e)


def test_a_family_of_another_name(tmp_path, base, folder, monkeypatch):
    """The module that the documentation shows, read from there."""
    page = Path(__file__).parents[2] / "docs" / "published.md"
    (code,) = (b for b in page.read_text().split("```python\n") if "FOO = " in b)
    found = {}
    exec(code.partition("```")[0], found)  # our own page
    known = read_any(folder)
    monkeypatch.setattr("openclara.model.published.reading.LAYOUTS", (found["FOO"],))
    made = make_published(
        tmp_path / "made", base, roles=("generator", "compressor"), model_type="FOO",
        base_model=str(base), lora_rank=RANK,
    )  # fmt: skip
    adapters = torch.load(made / "adapters.pth", weights_only=True)
    named = {"enc": adapters["encoder_adapter"], "dec": adapters["decoder_adapter"]}
    torch.save(named, made / "adapters.pth")
    theirs = read_any(made)
    assert set(theirs.roles) == {"compressor", "generator"}
    assert torch.equal(theirs.memory, known.memory)
    assert theirs.roles["compressor"].keys() == known.roles["compressor"].keys()


# ---- the base ----


def test_a_base_beside_the_checkpoint(tmp_path, base):
    for place, name in (("a/checkpoint", "../base"), ("b/c/checkpoint", "../base")):
        made = make_published(tmp_path / place, base, decoder_model_name=name)
        where = tmp_path / ("a/base" if place[0] == "a" else "b/base")
        shutil.copytree(base, where)
        assert read_any(made).card.base == str(where)


def test_a_path_of_another_machine(tmp_path, base, monkeypatch):
    path = "/mnt/somewhere/models/Our-Base"
    made = make_published(tmp_path / "made", base, decoder_model_name=path)
    with pytest.raises(ModelError, match=f"names its base by the path {path}") as error:
        Clara.load(str(made))
    assert "pass base= with a folder or hub id of Our-Base" in one_sentence(error)
    assert Clara.load(str(made), base=str(base)).card.base == str(base)
    known = make_published(
        tmp_path / "known", base, decoder_model_name="/mnt/x/Mistral-7B-Instruct-v0.2/"
    )
    asked = []

    def snapshot_download(name, **_):
        asked.append(name)
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert read_any(known).card.base == KNOWN["Mistral-7B-Instruct-v0.2"]
    assert asked == ["mistralai/Mistral-7B-Instruct-v0.2"]


def test_another_base_is_refused(tmp_path, folder, tiny_base):
    with pytest.raises(ModelError, match="is not the one the checkpoint was trained on") as error:
        Clara.load(str(folder), base=str(tiny_base))
    one_sentence(error)
    other = make_base(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    assert config["tie_word_embeddings"]
    with pytest.raises(ModelError, match="is not the one the checkpoint was trained on"):
        Clara.load(str(folder), base=str(other))


# ---- names, folders, the hub ----


@pytest.fixture
def repository(tmp_path, folder):
    root = tmp_path / "someone" / "repository"
    for rate in ("compression-128", "compression-16"):
        shutil.copytree(folder, root / rate)
    (root / "README.md").write_text("a card")
    (root / "compression-16" / "modeling_clara.py").write_text("raise SystemExit('ran')")
    return root


def test_a_repository_lists_its_sub_folders(repository):
    with pytest.raises(ModelError, match="sub-folders compression-128, compression-16;") as error:
        Clara.load(str(repository))
    assert "subfolder=" in one_sentence(error)
    loaded = Clara.load(str(repository), subfolder="compression-16")
    assert loaded.latent_spec.model == f"{repository}/compression-16"
    assert find_checkpoint(loaded.latent_spec.model) == repository / "compression-16"


@pytest.fixture
def hub(repository, monkeypatch, tmp_path):
    """A stand-in for the hub client that hands out what the patterns match."""
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        target = tmp_path / "cache"
        for path in repository.rglob("*"):
            relative = path.relative_to(repository)
            if path.is_file() and any(relative.match(pattern) for pattern in allow_patterns):
                if len(relative.parts) != len(Path(allow_patterns[0]).parts) and "*" not in str(
                    allow_patterns
                ):
                    continue
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / relative)
        target.mkdir(exist_ok=True)
        return str(target)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_hub_id_with_a_sub_folder(hub, tmp_path):
    clara = Clara.load("someone/repository", subfolder="compression-16")
    assert clara.latent_spec.model == "someone/repository/compression-16"
    assert find_checkpoint(clara.latent_spec.model) == tmp_path / "cache" / "compression-16"
    fetched = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert fetched == {"config.json", "adapters.pth", "decoder_first_last_layers.pth"}
    assert all(name == "someone/repository" for name, _ in hub)


def test_a_hub_id_without_a_sub_folder(hub, tmp_path):
    with pytest.raises(ModelError, match="sub-folders compression-128, compression-16;") as error:
        Clara.load("someone/repository")
    assert "someone/repository/compression-128" in one_sentence(error)
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_sub_folder_that_is_not_there(hub):
    with pytest.raises(ModelError, match="no trained model in someone/repository/compression-4"):
        Clara.load("someone/repository", subfolder="compression-4")


# ---- what is wrong ----


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["adapters.pth", "decoder_first_last_layers.pth"])
def test_nothing_but_tensors_is_unpickled(tmp_path, base, name):
    made = make_published(tmp_path / "made", base)
    for write in (
        lambda path, value: torch.save(value, path),
        lambda path, value: path.write_bytes(pickle.dumps(value)),
    ):
        write(made / name, {"decoder_adapter": Trap(tmp_path / "sprung")})
        with pytest.raises(FormatError, match="holds more than tensors and was not loaded") as e:
            Clara.load(str(made))
        one_sentence(e)
        assert not (tmp_path / "sprung").exists()


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def resaved(change):
    def write(path):
        value = torch.load(path, weights_only=True)
        change(value)
        torch.save(value, path)

    return write


def set_field(**changes):
    def write(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return write


FIRST = "model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("adapters.pth", cut, "adapters.pth is damaged"),
        ("decoder_first_last_layers.pth", cut, "layers.pth is damaged"),
        ("decoder_first_last_layers.pth", Path.unlink, "layers.pth is missing"),
        ("adapters.pth", resaved(dict.clear), "holds no adapter"),
        (
            "adapters.pth",
            resaved(lambda v: v.update(other_adapter={})),
            "holds an adapter 'other_adapter', known are",
        ),
        ("adapters.pth", resaved(lambda v: v["decoder_adapter"].pop(FIRST)), "is missing"),
        (
            "adapters.pth",
            resaved(lambda v: v["decoder_adapter"].update({"model.norm.weight": torch.ones(3)})),
            "is no LoRA weight",
        ),
        ("decoder_first_last_layers.pth", resaved(lambda v: v.pop(EMBEDDING)), "holds no 'model.e"),
        ("config.json", lambda path: path.write_text("{"), "is not valid JSON"),
        ("config.json", set_field(model_type="llama"), "a model of type 'llama', not a trained"),
        ("config.json", set_field(lora=False), "was trained without LoRA"),
        ("config.json", set_field(lora_r=9), "is not of rank 9"),
        ("config.json", set_field(lora_r="16"), "`lora_r` in config.json must be of type int"),
        ("config.json", set_field(compr_rate=0), "leave no memory token"),
        ("config.json", set_field(decoder_model_name=None), "must be of type str"),
        ("config.json", set_field(doc_max_length=100_000), "too few for 25000 memory tokens"),
        (
            "config.json",
            set_field(doc_max_length=36),
            "11 rows of .* but the checkpoint says it has 12",
        ),
        (
            "config.json",
            set_field(doc_max_length=28),
            "11 rows of .* but the checkpoint says it has 10",
        ),
    ],
)
def test_damage_is_said_in_one_sentence(tmp_path, base, file, damage, message):
    made = make_published(tmp_path / "made", base)
    damage(made / file)
    with pytest.raises((FormatError, ModelError), match=message) as error:
        Clara.load(str(made))
    one_sentence(error)
