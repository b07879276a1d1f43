"""What a plan says is near what a model of that shape takes."""

from __future__ import annotations

import json

import pytest
import torch
from test_run import data, made  # noqa: F401 - a fixture
from tiny import RANK, tiny_clara_model

from openclara.cli.app import run
from openclara.data.batches import text_batch
from openclara.errors import ConfigError
from openclara.model.base import find_base
from openclara.model.memory_needs import base_shape
from openclara.training import planning
from openclara.training.planning import activation_bytes, plan_training


def test_activations_are_near_what_autograd_keeps(tiny_base):
    model = tiny_clara_model(tiny_base, merged=False)
    model.roles.train_only(["compressor"])
    batch = text_batch([[5] * 26] * 16, n_memory=8, bos=1, eos=2)
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states, *_ = model.states(batch, "compressor")
    shape = base_shape(find_base(str(tiny_base)))
    n_positions = batch.ids_RT.numel()
    no_logits = n_positions * planning.TARGETS * shape.n_vocabulary * (4 + 8)
    reckoned = activation_bytes(shape, n_positions, torch.float32, checkpointing=False) - no_logits
    assert states.requires_grad
    assert 0.4 < sum(kept.values()) / reckoned < 1.6


def test_adapters_and_moments_are_those_of_the_model(tiny_base, data, tmp_path):  # noqa: F811
    model = tiny_clara_model(tiny_base, merged=False)
    n_role = sum(one.numel() for one in model.roles.named_parameters("generator").values())
    plan = plan_training(made(tmp_path / "run", tiny_base, data), gpu="h100", n_gpus=2)
    assert RANK == 4
    assert plan.adapters == pytest.approx(4 * (3 * n_role + model.memory.weight.numel()), rel=0.01)
    assert plan.optimizer == pytest.approx(
        12 * (2 * n_role + model.memory.weight.numel()), rel=0.01
    )
    # The recipe says fp32.
    assert plan.weights == 4 * sum(
        one.numel() for name, one in model.lm.named_parameters() if "lora" not in name
    )
    assert plan.micro_batches == 4
    assert plan.positions == 6 * 4 * 300
    assert plan.total_sharded < plan.total
    assert not (tmp_path / "run").exists()


def test_twice_the_gpus_do_twice_the_work_in_the_same_time(tiny_base, data, tmp_path):  # noqa: F811
    recipe = made(tmp_path / "run", tiny_base, data)
    one, two = (plan_training(recipe, gpu="a100", n_gpus=n) for n in (1, 2))
    assert two.positions == 2 * one.positions
    assert two.hours == pytest.approx(one.hours)
    with pytest.raises(ConfigError, match="no GPU 'abacus' in the table; use one of a10g"):
        plan_training(recipe, gpu="abacus")


def test_the_plan_of_a_recipe_file(tiny_base, data, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'output = "{tmp_path / "run"}"\nn_memory = [4]\ndata_root = "{data}"\n'
        f'[model]\nbase = "{tiny_base}"\nn_memory = 8\ndefault_n_memory = 4\n'
        '[stage]\nkind = "compress"\n[[data]]\npath = "single.jsonl"\n'
    )
    command = ["train", str(path), "--optim.steps", "7", "--plan"]
    assert run([*command, "--gpus", "8", "--gpu", "h100", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["steps"], plan["n_processes"], plan["device"]) == (7, 8, "h100")
    assert plan["hours"] > 0
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "of the matrix products measured here" in shown
    assert not (tmp_path / "run").exists()
    assert run(["train", str(path), "--gpu", "h100"]) == 2
    assert "are for --plan" in capsys.readouterr().err.replace("\n", " ")
