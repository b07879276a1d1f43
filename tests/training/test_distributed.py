"""Several processes carry out the run of one: same losses and parameters, resumed on any number."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_run import data, made, state_of, stopping_after, timeless  # noqa: F401 - a fixture

from openclara.errors import ConfigError, ModelError
from openclara.model.checkpoint import MANIFEST, TENSORS
from openclara.training.batches import Terms
from openclara.training.claiming import RECIPE
from openclara.training.run import train

# Each launch is two processes: never two launches at once.
pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.timeout(900)]

STEPS = 6
CHAINS = Path(__file__).with_name("chains.py")
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
STAGES = ("compress", "instruct", "joint")


def recipe_of(kind, output, base, root, parents, *, accumulate):
    """A stage with dropout, and with the contrastive loss where there is one."""
    parent = {"compress": None, "instruct": "compress", "joint": "instruct"}[kind]
    return made(
        output,
        base,
        root,
        kind,
        None if parent is None else parents / parent,
        optim={"accumulate": accumulate, "steps": STEPS},
        **({} if kind == "joint" else {"stage": {"contrast": 0.3}}),
    )


def launched(*arguments, environment=None):
    """Two processes started by torchrun, on a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def entry(recipe, **more):
    return {"recipe": recipe.model_dump(mode="json", exclude_unset=True), **more}


def by_one(root, base, records, *, then):
    """Three stages by one process, and half of the last for others, `then`, to go on with.

    Returns how recipes of such runs are made: of which stage, in whose folder, with how many
    micro-batches a step.
    """

    def recipe(kind, who, accumulate):
        return recipe_of(
            kind, root / who / kind, base, records, root / "one", accumulate=accumulate
        )

    for kind in STAGES:
        train(recipe(kind, "one", 2))
    train(recipe("joint", then, 2), **stopping_after(3))
    return recipe


@pytest.fixture(scope="module")
def runs(tiny_base, data, tmp_path_factory):  # noqa: F811
    """Folders of the same three stages by one process, by two, by two that share tensors, and by
    one after two and two after one."""
    root = tmp_path_factory.mktemp("runs")
    recipe = by_one(root, tiny_base, data, then="one then two")
    plan = []
    for kind in STAGES:
        plan.append(entry(recipe(kind, "two", 1)))
        plan.append(entry(recipe(kind, "sharded", 1), environment=SHARDED))
    plan.append(entry(recipe("instruct", "two then one", 1), stop_after=3))
    plan.append(entry(recipe("compress", "sharded then one", 1), stop_after=3, environment=SHARDED))
    plan.append(entry(recipe("joint", "one then two", 2)))
    (root / "plan.json").write_text(json.dumps(plan))
    process = launched(CHAINS, root / "plan.json")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    for kind, who in (("instruct", "two then one"), ("compress", "sharded then one")):
        position = json.loads((root / who / kind / "state.json").read_text())
        assert (position["step"], position["micro_step"]) == (3, 6)
        assert not (root / who / kind / MANIFEST).exists()
        train(recipe(kind, who, 1))
    return root


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("who", ["two", "sharded"])
def test_two_processes_train_as_one_with_the_same_global_batch(runs, kind, who):
    same(runs / "one" / kind, runs / who / kind)


@pytest.mark.parametrize(
    ("who", "kind"),
    [("two then one", "instruct"), ("one then two", "joint"), ("sharded then one", "compress")],
)
def test_a_run_continues_on_another_number_of_processes(runs, who, kind):
    same(runs / "one" / kind, runs / who / kind)


def same(expected, found, *, atol=1e-6, unlogged=frozenset()):
    """Both runs have the same parameters, moments, losses and trained tensors."""
    first, second = state_of(expected), state_of(found)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=atol, msg=name)
    first_lines, second_lines = timeless(expected), timeless(found)
    assert len(first_lines) == len(second_lines)
    for one, other in zip(first_lines, second_lines, strict=True):
        one = {name: value for name, value in one.items() if name not in unlogged}
        other = {name: value for name, value in other.items() if name not in unlogged}
        assert one.keys() == other.keys()
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    trained = load_file(found / TENSORS)
    for name, tensor in load_file(expected / TENSORS).items():
        # Written in bf16: a last bit there is a hundred times what the masters may differ by.
        torch.testing.assert_close(trained[name], tensor, rtol=1e-2, atol=atol, msg=name)


def test_a_signal_to_the_launcher_saves_the_run_once(tiny_base, data, tmp_path):  # noqa: F811
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
output = "{tmp_path / "run"}"
data_root = "{data}"
n_memory = [2]
[model]
base = "{tiny_base}"
n_memory = 2
default_n_memory = 2
doc_max_length = 32
rank = 2
[stage]
kind = "compress"
[[data]]
path = "single.jsonl"
[optim]
steps = 1000000
batch_tokens = 256
[runtime]
device = "cpu"
held_out = 0
log_every = 1
"""
    )
    process = launched("-m", "openclara", "train", recipe)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not metrics.is_file():
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    position = json.loads((tmp_path / "run" / "state.json").read_text())
    assert position["step"] >= 1, output
    assert position["micro_step"] == 2 * position["step"]
    assert output.count("saved at step") == 1
    assert "Traceback (most recent call last)" not in output.partition("saved at step")[0]


# ---- how much each micro-batch counts ----


def test_shares_of_a_step_are_by_terms_and_make_averaging_good():
    totals = Terms(30, 4, 0)
    first, second = (
        terms.shares(totals, n_processes=2) for terms in (Terms(10, 1, 0), Terms(20, 3, 0))
    )
    assert [(one + other) / 2 for one, other in zip(first, second, strict=True)] == [1, 1, 0]
    assert first == (2 / 3, 0.5, 0.0)


def test_two_micro_batches_count_by_their_tokens_as_one_large_one(tiny_base, data, tmp_path):  # noqa: F811
    """The answer loss of a step is the mean over its tokens, not over its micro-batches."""
    parts = {
        "stage": {"alignment": 0.0},
        "data": [{"path": "records.jsonl", "limit": 2}],
        "n_memory": (4,),
        "model": {"dropout": 0.0},
        "runtime": {"held_out": 0.0},
    }
    losses = []
    # One example a micro-batch, or both in one.
    for name, tokens, accumulate in (("apart", 64, 2), ("together", 4096, 1)):
        optim = {"steps": 1, "batch_tokens": tokens, "accumulate": accumulate}
        recipe = made(tmp_path / name, tiny_base, data, optim=optim, **parts)
        train(recipe)
        losses.append(timeless(tmp_path / name)[0])
    assert losses[0]["answer"] == pytest.approx(losses[1]["answer"], rel=1e-5)
    assert losses[0]["gradient_norm"] == pytest.approx(losses[1]["gradient_norm"], rel=1e-4)


# ---- what is refused ----


def test_a_number_of_processes_that_cannot_share_a_run(tiny_base, data, tmp_path):  # noqa: F811
    recipe = made(tmp_path / "run", tiny_base, data, optim={"steps": 1, "accumulate": 1})
    train(recipe)
    about = json.loads((tmp_path / "run" / RECIPE).read_text())
    assert about["micro_batches"] == 1
    from openclara.training.claiming import claim
    from openclara.training.processes import join

    processes = join(recipe, torch.device("cpu"), torch.float32)
    processes.count = 2
    with pytest.raises(ConfigError, match="which 2 processes cannot share evenly"):
        claim(tmp_path / "run", recipe, processes)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("quantization", "int4", "quantization int4 needs a CUDA device and this run is on cpu"),
        ("attention", "flash_attention_2", "needs a CUDA device and bf16, and this run is on cpu"),
        ("trackers", ["mlflow"], "mlflow, which is not installed; run `pip install mlflow`"),
    ],
)
def test_what_this_machine_does_not_have(tiny_base, data, tmp_path, field, value, sentence):  # noqa: F811
    recipe = made(tmp_path / "run", tiny_base, data, runtime={field: value})
    with pytest.raises((ConfigError, ModelError), match=sentence):
        train(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("ACCELERATE_USE_FSDP", "asks for FSDP, which here is version 2 on GPUs"),
        ("ACCELERATE_USE_DEEPSPEED", "needs deepspeed; run `pip install deepspeed`"),
    ],
)
def test_a_launcher_that_asks_for_too_much(
    tiny_base,
    data,  # noqa: F811
    tmp_path,
    monkeypatch,
    variable,
    sentence,
):
    if variable.endswith("DEEPSPEED") and find_spec("deepspeed"):
        pytest.skip("deepspeed is installed")
    monkeypatch.setenv(variable, "true")
    with pytest.raises((ConfigError, ModelError), match=sentence):
        train(made(tmp_path / "run", tiny_base, data))
    assert not (tmp_path / "run").exists()


def test_the_fused_kernel_of_torch_trains_as_our_own(tiny_base, data, tmp_path):  # noqa: F811
    norms = []
    for attention in ("auto", "sdpa"):
        runtime = {"attention": attention}
        recipe = made(tmp_path / attention, tiny_base, data, optim={"steps": 2}, runtime=runtime)
        train(recipe)
        norms.append(timeless(tmp_path / attention)[0]["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_recipes_of_the_launcher_name_files_that_are_there():
    folder = Path(__file__).parents[2] / "recipes"
    for path in sorted((folder / "accelerate").glob("*.yaml")):
        for line in path.read_text().splitlines():
            name, _, value = line.strip().partition(": ")
            if name == "deepspeed_config_file":
                # accelerate refuses such a file beside it.
                assert "\nmixed_precision" not in path.read_text()
                settings = json.loads((folder.parent / value).read_text())
                assert settings["zero_optimization"]["stage"] == int(path.stem[-1])


def test_zero_keeps_adapters_whole():
    from openclara.training.zero import WHOLE_BELOW

    path = Path(__file__).parents[2] / "recipes" / "accelerate" / "zero3.json"
    zero = json.loads(path.read_text())["zero_optimization"]
    assert zero["stage3_param_persistence_threshold"] == WHOLE_BELOW
