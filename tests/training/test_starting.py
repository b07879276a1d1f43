"""What a run without a parent starts from: fitted salience, a generator that was trained before."""

from __future__ import annotations

import json
import random

import pytest
import torch
from tiny import plain_lm

from openclara.config import RunConfig
from openclara.data.tokenizer import TextTokenizer
from openclara.errors import ConfigError
from openclara.model.base import find_base, load_tokenizer
from openclara.model.checkpoint import load_checkpoint
from openclara.training.examples import Example
from openclara.training.run import train
from openclara.training.salience import fit_salience
from openclara.training.starting import SALIENCE

VOCABULARY = 400
NAMES = ("Utzon", "Moore", "Lovelace", "Noether", "Turing", "Curie", "Darwin", "Euler")


def recipe(folder, base, data, **parts):
    tree = {
        "output": folder,
        "stage": {"kind": "compress"},
        "data": [{"path": "single.jsonl"}],
        "data_root": data,
        "n_memory": (2, 5),
        "model": {
            "base": str(base),
            "n_memory": 8,
            "default_n_memory": 4,
            "doc_max_length": 32,
            "rank": 4,
            "alpha": 8.0,
            "memory": "anchored",
        },
        "optim": {"steps": 2, "lr": 1e-2, "batch_tokens": 300},
        "runtime": {"device": "cpu", "precision": "fp32", "save_every": 1},
    }
    for name, part in parts.items():
        tree[name] = {**tree[name], **part} if isinstance(part, dict) else part
    return RunConfig.model_validate(tree)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with (folder / "single.jsonl").open("w") as file:
        for at, name in enumerate(NAMES):
            passage = f"The house number {at} was built by {name}."
            row = {"question": ["Who built it?"], "answers": [name], "docs": [passage]}
            file.write(json.dumps(row) + "\n")
    with (folder / "other.jsonl").open("w") as file:
        for at, name in enumerate(NAMES):
            passage = f"The house number {at} was built by {name}."
            row = {"question": ["Which number?"], "answers": [str(at)], "docs": [passage]}
            file.write(json.dumps(row) + "\n")
    return folder


def of_tokens(base):
    """Something to read: for each token its embedding."""
    vocabulary_VD = plain_lm(base).get_input_embeddings().weight.detach()
    return lambda texts: [vocabulary_VD[list(text)] for text in texts]


def alone(salience, read, texts):
    """(R, T) logits of the tokens of texts of one length."""
    ids_RT = torch.tensor(texts)
    states_RTD = torch.stack(read(texts))
    return salience.alone(ids_RT, torch.ones_like(ids_RT, dtype=torch.bool), states_RTD)


def test_tokens_that_answers_hold_become_salient(tiny_base):
    """Whatever follows token 9 is the answer, among tokens that are never one."""
    source = find_base(str(tiny_base))
    tokenizer = TextTokenizer(load_tokenizer(source))
    read = of_tokens(tiny_base)
    rng = random.Random(0)
    examples = []
    for _ in range(400):
        text = [rng.randrange(100, 200) for _ in range(30)]
        at = rng.randrange(3, 28)
        text[at - 1], answer = 9, text[at]
        examples.append(Example((text,), (0,), (([], [answer]),), True, False, ((" ", "-"),)))
    weight_V = torch.full((VOCABULARY,), 0.1)
    told = []
    salience = fit_salience(
        examples[:300], tokenizer, weight_V, read, seed=1, on_part=lambda *part: told.append(part)
    )
    assert told == [(done, 10) for done in range(1, 11)]
    again = fit_salience(examples[:300], tokenizer, weight_V, read, seed=1)
    first, second = salience.state_dict(), again.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    found = 0
    for example in examples[300:]:
        logits_RT = alone(salience, read, example.texts)
        found += example.texts[0][int(logits_RT.argmax()) - 1] == 9
    assert found > 90
    words = [tokenizer.decode([token]) for token in range(VOCABULARY)]
    ends = [token for token, word in enumerate(words) if "\n" in word]
    assert salience.ends_line_V.nonzero().flatten().tolist() == ends
    goes_on = [token for token, word in enumerate(words) if word[:1].isalnum()]
    assert (~salience.begins_word_V).nonzero().flatten().tolist() == goes_on


def test_without_questions_rare_tokens_are_carried(tiny_base):
    tokenizer = TextTokenizer(load_tokenizer(find_base(str(tiny_base))))
    read = of_tokens(tiny_base)
    rng = random.Random(0)
    weight_V = torch.rand(VOCABULARY) ** 2
    texts = [[rng.randrange(100, 130) for _ in range(20)] for _ in range(2000)]
    passages = [
        Example((text,), (), (([1], [50]),), False, False, (("Repeat.", "x"),)) for text in texts
    ]
    salience = fit_salience(passages, tokenizer, weight_V, read, seed=1)
    rarest = weight_V[torch.tensor(texts[:50])].argmax(1)
    assert (alone(salience, read, texts[:50]).argmax(1) == rarest).float().mean() > 0.6


def test_salience_is_fitted_once_and_inherited(tiny_base, data, tmp_path):
    own = train(recipe(tmp_path / "own", tiny_base, data))
    kept = (own / SALIENCE).read_bytes()
    other = train(recipe(tmp_path / "other", tiny_base, data, salience=[{"path": "other.jsonl"}]))
    assert (other / SALIENCE).read_bytes() != kept
    # A run that goes on reads what it began with.
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / SALIENCE).write_bytes((other / SALIENCE).read_bytes())
    moved = train(recipe(tmp_path / "moved", tiny_base, data))
    first, second = load_checkpoint(other).salience, load_checkpoint(moved).salience
    assert all(torch.equal(first[name], second[name]) for name in first)
    later = recipe(tmp_path / "later", tiny_base, data, init_from=str(other))
    later = later.model_copy(update={"stage": later.stage.model_copy(update={"max_pairs": 2})})
    inherited = load_checkpoint(train(later)).salience
    assert all(torch.equal(first[name], inherited[name]) for name in first)


def test_salience_can_be_fitted_anew_on_what_the_compressor_became(tiny_base, data, tmp_path):
    own = train(recipe(tmp_path / "own", tiny_base, data))
    changes = {"init_from": str(own), "stage": {"kind": "read"}}
    anew = recipe(tmp_path / "a", tiny_base, data, salience=[{"path": "other.jsonl"}], **changes)
    given, found = load_checkpoint(own), load_checkpoint(train(anew))
    for name in ("mean_D", "network.read.weight"):
        assert not torch.equal(given.salience[name], found.salience[name])
    # Of a compressor that was trained, and is left as it was.
    of_base = recipe(tmp_path / "b", tiny_base, data, salience=[{"path": "other.jsonl"}])
    untrained = load_checkpoint(train(of_base))
    assert not torch.equal(untrained.salience["mean_D"], found.salience["mean_D"])
    compressor = given.roles["compressor"]
    assert all(
        torch.equal(found.roles["compressor"][name], compressor[name]) for name in compressor
    )
    learned = recipe(
        tmp_path / "c",
        tiny_base,
        data,
        salience=[{"path": "other.jsonl"}],
        model={"memory": "learned"},
    )
    with pytest.raises(ConfigError, match=r"this model's memory is learned; leave it out"):
        train(learned)


def test_salience_fitted_after_a_reader_of_text(tiny_base, data, tmp_path):
    """Which has no compressor yet: the base's states are read."""
    reader = train(recipe(tmp_path / "text", tiny_base, data, stage={"kind": "text"}))
    assert "compressor" not in load_checkpoint(reader).roles
    changes = {"init_from": str(reader), "salience": [{"path": "other.jsonl"}]}
    later = train(recipe(tmp_path / "later", tiny_base, data, **changes))
    given, found = load_checkpoint(reader).salience, load_checkpoint(later).salience
    assert not torch.equal(given["network.read.weight"], found["network.read.weight"])


def test_latents_are_moved_from_the_input_into_the_generator(tiny_base, data, tmp_path):
    own = train(recipe(tmp_path / "own", tiny_base, data))
    changes = {"init_from": str(own), "salience": [{"path": "other.jsonl"}]}
    layer = {"latent_layer": 1}
    moved = recipe(tmp_path / "a", tiny_base, data, model=layer, optim={"lr": 1e-12}, **changes)
    given, found = load_checkpoint(own), load_checkpoint(train(moved))
    assert (given.card.latent_layer, found.card.latent_layer) == (0, 1)
    for role, n_layers in (("compressor", 1), ("generator", 2)):
        for name, tensor in found.roles[role].items():
            torch.testing.assert_close(tensor, given.roles["generator"][name])
        # What lies behind where latents enter is none of the compressor's.
        assert len(found.roles[role]) == n_layers * len(given.roles[role]) / 2
    assert not torch.equal(given.salience["mean_D"], found.salience["mean_D"])
    with pytest.raises(ConfigError, match=r"give records for it under \[\[salience\]\]"):
        train(recipe(tmp_path / "b", tiny_base, data, model=layer, init_from=str(own)))
    # Once moved they stay.
    later = recipe(tmp_path / "c", tiny_base, data, init_from=str(tmp_path / "a"))
    learned = load_checkpoint(train(later))
    assert learned.card.latent_layer == 1
    for name, tensor in found.roles["compressor"].items():
        assert not torch.equal(tensor, learned.roles["compressor"][name])
    back = recipe(tmp_path / "d", tiny_base, data, init_from=str(tmp_path / "a"))
    back = back.model_copy(update={"model": back.model.model_copy(update={"latent_layer": 0})})
    with pytest.raises(ConfigError, match=r"latent_layer is 0, but .* was trained with 1"):
        train(RunConfig.model_validate(back.model_dump()))


def test_latents_cannot_enter_everywhere(tiny_base, data, tmp_path):
    deep = recipe(tmp_path / "a", tiny_base, data, model={"latent_layer": 2})
    with pytest.raises(ConfigError, match=r"latent_layer is 2, and .* has 2 layers; give fewer"):
        train(deep)
    learned = recipe(
        tmp_path / "b", tiny_base, data, model={"latent_layer": 1, "memory": "learned"}
    )
    with pytest.raises(ConfigError, match="is for anchored memory, and this model's is learned"):
        train(learned)


def test_a_generator_that_was_trained_before(tiny_base, data, tmp_path):
    reader = train(
        recipe(
            tmp_path / "text", tiny_base, data, stage={"kind": "text"}, model={"memory": "learned"}
        )
    )
    started = recipe(
        tmp_path / "run", tiny_base, data, generator_from=str(reader), optim={"lr": 1e-12}
    )
    run = load_checkpoint(train(started))
    mine, theirs = run.roles["generator"], load_checkpoint(reader).roles["generator"]
    assert [made["stage"] for made in run.card.training] == ["text", "compress"]
    assert any(tensor.count_nonzero() for name, tensor in theirs.items() if "lora_B" in name)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    # Whose own first layers are to make what enters it.
    halfway = started.model_copy(
        update={
            "output": tmp_path / "w",
            "model": started.model.model_copy(update={"latent_layer": 1}),
        }
    )
    compressor = load_checkpoint(train(halfway)).roles["compressor"]
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in compressor.items())
    with pytest.raises(ConfigError, match=r"no generator of rank 2 and alpha 8"):
        train(
            started.model_copy(
                update={
                    "output": tmp_path / "y",
                    "model": started.model.model_copy(update={"rank": 2}),
                }
            )
        )
    with pytest.raises(ConfigError, match="leave generator_from out"):
        train(
            recipe(
                tmp_path / "z",
                tiny_base,
                data,
                model={"memory": "learned"},
                init_from=str(reader),
                generator_from=str(reader),
            )
        )
