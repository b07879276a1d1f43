"""Going on from a published checkpoint: its prompts, its rows, and its layout again."""

from __future__ import annotations

import json
import random

import pytest
import torch
from published import make_published, untied_base
from tiny import N_MEMORY

from openclara import Clara
from openclara.config import CompressStage, InstructStage, JointStage, RunConfig
from openclara.data.published import (
    PARAPHRASES,
    SYSTEM_PARAPHRASE,
    SYSTEM_QA,
    SYSTEM_QUESTIONS,
    USER_QA,
    USER_QUESTIONS,
    blocks,
)
from openclara.errors import ConfigError
from openclara.model.checkpoint import load_checkpoint
from openclara.model.conversion import convert
from openclara.model.published.reading import read_any
from openclara.training.examples import Example
from openclara.training.run import train
from openclara.training.stages import Collator

PAIRS = (("Who built it?", "Utzon"), ("When?", "In 1973"))


@pytest.fixture(scope="module")
def published(tmp_path_factory, tiny_base):
    root = tmp_path_factory.mktemp("published-training")
    base = untied_base(root / "base", tiny_base)
    return make_published(root / "made", base, roles=("generator", "compressor"))


@pytest.fixture(scope="module")
def clara(published):
    return Clara.load(str(published), precision="fp32")


def prompts_of(clara, stage, *, is_question=True, seed=0):
    encode = clara.tokenizer.encode
    texts = ("The house was built by Utzon.", "A river.", "Trains leave.")
    turns = tuple((q, a) for q, a in zip(*map(encode, zip(*PAIRS, strict=True)), strict=True))
    example = Example(tuple(encode(texts)), (0,), turns, is_question, held_out=False, words=PAIRS)
    collator = Collator(stage, clara.tokenizer, clara.wording)
    batch = collator.batch([example], n_memory=3, rng=random.Random(seed)).prompts
    length = batch.n_tokens
    return batch.ids_BT[0, :length].tolist(), batch.target_mask_BT[0, :length].tolist()


@pytest.mark.parametrize(
    ("stage", "system", "user", "n_documents", "question", "answer"),
    [
        (
            CompressStage(kind="compress"), SYSTEM_QUESTIONS, USER_QUESTIONS, 1, "",
            "Question: Who built it?\nAnswer: Utzon\nQuestion: When?\nAnswer: In 1973",
        ),
        (InstructStage(kind="instruct", k=2), SYSTEM_QA, USER_QA, 2, "Who built it?", "Utzon"),
        (JointStage(kind="joint", k=1), SYSTEM_QA, USER_QA, 1, "Who built it?", "Utzon"),
    ],
)  # fmt: skip
def test_prompts_of_each_stage(clara, stage, system, user, n_documents, question, answer):
    ids, mask = prompts_of(clara, stage)
    expected, n_prompt = clara.wording.with_answer(
        system, user, docs=blocks(n_documents, 3), question=question, answer=answer
    )
    assert tuple(ids) == expected
    assert mask == [False] * n_prompt + [True] * (len(expected) - n_prompt)


def test_a_paraphrase_is_asked_for_in_many_ways(clara):
    asked = set()
    for seed in range(40):
        ids, _ = prompts_of(clara, CompressStage(kind="compress"), is_question=False, seed=seed)
        made = [
            clara.wording.with_answer(
                SYSTEM_PARAPHRASE, user, docs=blocks(1, 3), question="", answer="Utzon"
            )[0]
            for user in PARAPHRASES
        ]
        asked.add(made.index(tuple(ids)))
    assert len(asked) > 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, name in enumerate(("Utzon", "Moore", "Turing", "Curie", "Darwin", "Euler")):
        docs = [f"House {i} is by {name}.", "A river."]
        rows.append({"question": f"Who built {i}?", "docs": docs, "answer": name})
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(output, data, parent, stage):
    tree = {
        "output": output,
        "stage": stage,
        "data": [{"path": "records.jsonl"}],
        "data_root": data,
        "init_from": str(parent),
        "n_memory": (N_MEMORY,),
        "optim": {"steps": 3, "lr": 1e-2, "batch_tokens": 2000},
        "runtime": {"device": "cpu", "precision": "fp32", "log_every": 1, "held_out": 0.0},
    }
    return RunConfig.model_validate(tree)


def test_joint_training_goes_on_and_is_published_again(tmp_path, published, data):
    stage = {"kind": "joint", "k": 1, "n_candidates": 2}
    run = train(recipe(tmp_path / "run", data, published, stage))
    before, after = read_any(published), load_checkpoint(run)
    assert after.card.wording == "published"
    assert (after.card.top_k, after.card.stage) == (2, "joint")
    assert torch.equal(after.head, before.head)
    assert torch.equal(after.memory, before.memory)
    assert set(after.roles) == {"compressor", "reasoner", "generator"}
    for role in ("compressor",):
        assert all(torch.equal(t, after.roles[role][n]) for n, t in before.roles[role].items())
    changed = [
        not torch.equal(t, after.roles["generator"][n])
        for n, t in before.roles["generator"].items()
    ]
    assert any(changed)
    convert(str(run), tmp_path / "published")
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    assert config["training_stage"] == "stage2"
    assert read_any(tmp_path / "published").fingerprint() == after.fingerprint()
    assert Clara.load(str(run)).generate_from_questions(["Who?"], [["A river."]], 2)[0]


def test_full_texts_have_no_published_prompt(tmp_path, published, data):
    with pytest.raises(ConfigError, match="published prompts, which hold no full texts"):
        train(recipe(tmp_path / "run", data, published, {"kind": "text", "k": 1}))
