"""The harness adapter: its task files and scoring without the package, the rest with it."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import plain_lm

import openclara.integrations
from openclara.errors import ConfigError, DataError
from openclara.integrations.lm_eval_tasks import loading, scoring
from openclara.model.checkpoint import load_checkpoint
from openclara.model.generator import Decoding
from openclara.types import Document

ADAPTER = "openclara.integrations.lm_eval"
TASKS = Path(openclara.integrations.__file__).with_name("lm_eval_tasks")
NAMES = ("nq", "hotpotqa", "musique", "2wiki", "squad")
RECORDS = [
    {
        "id": f"q{i}",
        "question": question,
        "answers": answers,
        "documents": [
            {
                "title": "Opera house",
                "text": "The opera house was designed by Utzon.",
                "gold": True,
            },
            {"title": "", "text": f"Train {i} leaves the station at nine. " * (1 + 8 * i)},
        ],
    }
    for i, (question, answers) in enumerate(
        [("Who designed the opera house?", ["Utzon"]), ("When did the train leave?", ["nine", "9"])]
    )
]


@dataclass
class Request:
    """What the adapter reads of an instance of the harness."""

    args: tuple[Any, ...]
    doc: Any = None


def asked(record, **settings):
    return Request(("the context is not read", settings), record)


def closed(context, **settings):
    return Request((context, settings), {"question": "of another task"})


# ---- the task files, without the package ----


def task_config(name):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    config = yaml.load((TASKS / name).read_text(encoding="utf-8"), Loader)
    return (task_config(config.pop("include")) if "include" in config else {}) | config


@pytest.mark.parametrize("name", NAMES)
def test_a_task_file_names_what_is_there(name):
    config = task_config(f"openclara_{name}.yaml")
    assert config["task"] == f"openclara_{name}"
    assert config["dataset_kwargs"] == {"file": f"{name}.jsonl.gz"}
    assert [metric["metric"] for metric in config["metric_list"]] == list(scoring.METRICS)
    for key in ("custom_dataset", "process_results"):
        module, _, function = config[key].rpartition(".")
        assert (TASKS / f"{module}.py").is_file()
        home = importlib.import_module(f"openclara.integrations.lm_eval_tasks.{module}")
        assert callable(getattr(home, function))


def test_every_task_file_is_known_here():
    assert {path.stem for path in TASKS.glob("*.yaml")} == {f"openclara_{name}" for name in NAMES}


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        ("The Utzon!", ["utzon"], (1, 1, 1)),
        ("9", ["nine", "9"], (1, 1, 1)),
        ("Jørn Utzon", ["nobody", "Utzon"], (0, 2 / 3, 1)),
        ("in Sydney", ["Utzon"], (0, 0, 0)),
        ("", ["Utzon"], (0, 0, 0)),
    ],
)
def test_scores_take_the_best_alias(answer, answers, expected):
    scores = scoring.process_results({"answers": answers}, [answer])
    assert tuple(scores.values()) == pytest.approx(expected)
    assert list(scores) == ["em", "f1", "cover_em"]


@pytest.fixture
def data_root(tmp_path):
    lines = "".join(f"{json.dumps(record)}\n" for record in RECORDS)
    (tmp_path / "nq.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "squad.jsonl").write_text(lines)
    return tmp_path


def test_rows_hold_passages_in_order_and_no_labels(data_root):
    first, _ = loading.rows(data_root / "nq.jsonl.gz")
    assert first == {
        "id": "q0",
        "question": "Who designed the opera house?",
        "answers": ["Utzon"],
        "documents": [
            {"title": "Opera house", "text": "The opera house was designed by Utzon."},
            {"title": "", "text": RECORDS[0]["documents"][1]["text"]},
        ],
    }


def test_data_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv(loading.DATA_ROOT, raising=False)
    with pytest.raises(ConfigError, match=r"say where nq\.jsonl\.gz is"):
        loading.oracle(file="nq.jsonl.gz")
    with pytest.raises(DataError, match="there is no file"):
        loading.oracle(file="nq.jsonl.gz", data_root=str(tmp_path), version=1)
    (tmp_path / "nq.jsonl").write_text("\n")
    monkeypatch.setenv(loading.DATA_ROOT, str(tmp_path))
    with pytest.raises(DataError, match="holds no question"):
        loading.oracle(file="nq.jsonl.gz")


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, ADAPTER, raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'openclara\[lm-eval\]'"):
        importlib.import_module(ADAPTER)


# ---- the adapter, with the package ----


@pytest.fixture(scope="module")
def adapter():
    pytest.importorskip("lm_eval", reason="the lm-evaluation-harness is not installed")
    return importlib.import_module(ADAPTER)


@pytest.fixture(scope="module")
def load(adapter, tiny_model):
    def load(**options):
        return adapter.ClaraLM(str(tiny_model), device="cpu", precision="fp32", **options)

    return load


@pytest.mark.parametrize("context", ["latents", "text", "none"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_ask(load, context, batch_size):
    lm = load(context=context, batch_size=batch_size, max_gen_toks=5)
    first, second = RECORDS
    other = first | {"question": "Where is the river?"}
    requests = [asked(first), closed("Say it."), asked(second), asked(other), closed("Again.")]
    expected = []
    for request in requests:
        documents = [
            Document(str(at), one["text"], one["title"])
            for at, one in enumerate(request.doc.get("documents", ()))
        ]
        answer = lm.clara.ask(
            request.doc["question"] if documents else request.args[0],
            documents=documents,
            context=context if documents else "none",
            decoding=Decoding(max_new_tokens=5),
        )
        expected.append(answer.text)
    assert lm.generate_until(requests, disable_tqdm=True) == expected
    assert len(set(expected)) > 2


def test_contexts_differ_and_none_reads_no_document(load):
    texts = {c: load(context=c).generate_until([asked(RECORDS[0])]) for c in ("latents", "text")}
    bare = load(context=None)  # as the harness hands on `context=none`
    assert bare.context == "none"
    without = asked({**RECORDS[0], "documents": []})
    assert bare.generate_until([asked(RECORDS[0])]) == bare.generate_until([without])
    assert len({*map(tuple, texts.values()), tuple(bare.generate_until([without]))}) == 3


def test_settings_of_a_request(load, caplog):
    lm = load(context="none", max_gen_toks=12)
    (whole,) = lm.generate_until([closed("Where?")])
    assert lm.generate_until([closed("Where?", until=[whole[3:5], "\ud800", ""])]) == [
        whole[: whole.index(whole[3:5])]
    ]
    assert lm.generate_until([closed("Where?", until=whole[0])]) == [""]
    (short,) = lm.generate_until([closed("Where?", max_gen_toks=2)])
    assert whole.startswith(short)
    assert len(short) < len(whole)
    assert lm.generate_until([closed("Where?", do_sample=False, temperature=2.0)]) == [whole]
    sampled = {"do_sample": True, "temperature": 3.0, "seed": 5}
    once, again = (lm.generate_until([closed("Where?", **sampled)]) for _ in range(2))
    assert once == again != [whole]
    for _ in range(2):
        lm.generate_until([closed("Where?", num_beams=4)])
    assert [record.message.count("'num_beams'") for record in caplog.records] == [1]


def likelihood_by_hand(lm, plain, context, answer):
    tokenizer = lm.clara.tokenizer
    question = tokenizer.chat.question(tokenizer.encode([context])[0], closed=True)
    wanted = tokenizer.encode([answer])[0]
    with torch.inference_mode():
        logits = plain(torch.tensor([[*question, *wanted]])).logits[0, len(question) - 1 : -1]
    chosen = logits.log_softmax(-1)[range(len(wanted)), wanted]
    return float(chosen.sum()), logits.argmax(-1).tolist() == wanted


@pytest.mark.parametrize("batch_size", [1, 3])
def test_likelihoods_are_those_of_the_plain_model(load, tiny_base, tiny_model, batch_size):
    # As stored: the tensors are rounded when a checkpoint is written.
    plain = plain_lm(tiny_base, load_checkpoint(tiny_model).roles["generator"])
    lm = load(context="none", batch_size=batch_size, max_gen_toks=4)
    pairs = [
        ("Who?", " Utzon"),
        ("", "nine"),
        ("Where is the river? " * 4, " in Sydney"),
        ("A", " "),
    ]
    greedy = lm.clara.ask("Who?", context="none", decoding=Decoding(max_new_tokens=1)).text
    pairs.append(("Who?", f" {greedy}"))
    scored = lm.loglikelihood([Request(pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (own, is_greedy) in zip(pairs, scored, strict=True):
        if continuation == " ":
            assert (own, is_greedy) == (0.0, True)
            continue
        answer = continuation[1:] if continuation[0] == " " else continuation
        expected, is_expected = likelihood_by_hand(lm, plain, context, answer)
        assert own == pytest.approx(expected, abs=1e-4)
        assert is_greedy == is_expected
    assert scored[-1][1]


def test_what_is_not_to_be_had(adapter, load):
    lm = load()
    with pytest.raises(NotImplementedError, match="context=none"):
        lm.loglikelihood([Request(("a", " b"), RECORDS[0])])
    assert load(context="none").loglikelihood([Request(("a", " b"), RECORDS[0])])[0][0] < 0
    with pytest.raises(NotImplementedError, match="running text"):
        lm.loglikelihood_rolling([Request(("a",))])
    with pytest.raises(ConfigError, match="context is 'words'"):
        adapter.ClaraLM("absent", context="words")
    for wrong in ("auto", 0, "-1"):
        with pytest.raises(ConfigError, match="batch_size"):
            adapter.ClaraLM("absent", batch_size=wrong)


def test_the_harness_runs_it(adapter, data_root, tiny_model):
    import lm_eval
    from lm_eval.tasks import TaskManager

    metadata = {"data_root": str(data_root), "context": "text"}
    results = lm_eval.simple_evaluate(
        model="openclara",
        # `cuda:0` is what the harness's command passes where no device is named.
        model_args={"pretrained": str(tiny_model), "context": "text", "max_gen_toks": 4},
        device=None if torch.cuda.is_available() else "cuda:0",
        tasks=["openclara_nq", "openclara_squad"],
        task_manager=TaskManager(
            include_path=str(adapter.TASKS), include_defaults=False, metadata=metadata
        ),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    for task in ("openclara_nq", "openclara_squad"):
        samples = results["samples"][task]
        assert [sample["doc"]["question"] for sample in samples] == [r["question"] for r in RECORDS]
        for sample in samples:
            expected = scoring.process_results(sample["doc"], sample["filtered_resps"])
            assert expected.items() <= sample.items()
            prompt = sample["arguments"][0][0]
            assert "Background:\nOpera house\nThe opera house was designed" in prompt
            assert prompt.endswith(f"\n\nQuestion:\n{sample['doc']['question']}\n\nAnswer:")
        for metric in scoring.METRICS:
            mean = sum(sample[metric] for sample in samples) / len(samples)
            assert results["results"][task][f"{metric},none"] == pytest.approx(mean)
    assert results["config"]["context"] == "text"
    assert results["config"]["n_memory"] is None


def test_the_command(adapter, monkeypatch, capsys):
    from lm_eval import __main__ as harness

    adapter.main([])
    assert capsys.readouterr().out == f"{TASKS}\n"
    seen = []
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(harness, "cli_evaluate", lambda: seen.append(sys.argv[1:]))
    adapter.main(["ls", "tasks"])
    adapter.main(["--tasks", "x", "--include_path=mine"])
    assert seen[0] == ["ls", "tasks", "--include_path", str(TASKS)]
    assert seen[1] == ["--tasks", "x", "--include_path=mine"]

    def refuse():
        raise DataError("there is no file; give one")

    monkeypatch.setattr(harness, "cli_evaluate", refuse)
    with pytest.raises(SystemExit, match="there is no file; give one"):
        adapter.main(["run"])


def test_registered_once_and_beside_the_built_in_models(adapter):
    from lm_eval.api.registry import get_model

    adapter.register()
    assert get_model("openclara") is adapter.ClaraLM
    assert get_model("dummy").__name__ == "DummyLM"
