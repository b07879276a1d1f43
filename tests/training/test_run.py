"""A run: what it writes, that it learns, that it resumes bit for bit, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_checkpoint

from openclara.config import OptimConfig, RunConfig, read_recipe
from openclara.errors import ConfigError, DataError, ModelError
from openclara.model.adapters import AdapterRoles
from openclara.model.checkpoint import MANIFEST, TENSORS, load_checkpoint
from openclara.model.compiled import can_compile
from openclara.training.loop import learning_rate
from openclara.training.run import train

STEPS = 6
NAMES = ("Utzon", "Moore", "Lovelace", "Noether", "Turing", "Curie", "Darwin", "Euler")
KINDS = {
    "compress": {"kind": "compress"},
    "instruct": {"kind": "instruct", "k": 2},
    "joint": {"kind": "joint", "k": 2, "n_candidates": 3, "temperature": 0.5},
}
BASELINES = {
    "text": {"kind": "text", "k": 2},
    "supervised": {"kind": "supervised", "n_candidates": 3, "temperature": 0.5},
    "read": {"kind": "read", "k": 2},
}
COUPLING = {
    f"gradient_{of}_{part}"
    for of in ("scores", "query")
    for part in ("representation", "probability", "coupled", "agreement")
} | {"choice_entropy", "gradient_norm_reasoner", "gradient_norm_generator"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two dozen records on eight passages, each with three candidates."""
    folder = tmp_path_factory.mktemp("data")
    passages = [f"The house number {i} was built by {name}." for i, name in enumerate(NAMES)]
    with (folder / "records.jsonl").open("w") as file:
        for i, name in enumerate(NAMES):
            for question in ("Who built it?", f"Who built number {i}?", "By whom?"):
                docs = [passages[i], passages[i - 1], passages[i - 2]]
                row = {"question": question, "docs": docs, "answer": name, "pos_index": [0]}
                file.write(json.dumps(row) + "\n")
    with (folder / "single.jsonl").open("w") as file:
        for passage, name in zip(passages, NAMES, strict=True):
            row = {"question": ["Who?", "By whom?"], "answers": [name, name], "docs": [passage]}
            file.write(json.dumps(row) + "\n")
    return folder


def made(output, base, root, kind="compress", parent=None, **parts):
    tree = {
        "output": output,
        "stage": {**KINDS, **BASELINES}[kind],
        "data": [{"path": "single.jsonl" if kind == "compress" else "records.jsonl"}],
        "data_root": root,
        "n_memory": (2, 5),
        "optim": {"steps": STEPS, "lr": 1e-2, "batch_tokens": 300, "accumulate": 2},
        "runtime": {
            "device": "cpu",
            "precision": "fp32",
            "log_every": 1,
            "validate_every": 3,
            "held_out": 0.2,
        },
    }
    if parent is None:
        tree["model"] = {
            "base": str(base),
            "n_memory": 8,
            "default_n_memory": 4,
            "doc_max_length": 32,
            "rank": 4,
            "alpha": 8.0,
            "dropout": 0.1,
        }
    else:
        tree["init_from"] = str(parent)
        tree["model"] = {"dropout": 0.1}
    for name, part in parts.items():
        tree[name] = {**tree[name], **part} if isinstance(part, dict) else part
    return RunConfig.model_validate(tree)


@pytest.fixture(scope="module")
def chain(tiny_base, data, tmp_path_factory):
    """The three stages one after the other, uninterrupted."""
    root = tmp_path_factory.mktemp("runs")
    folders, parent = {}, None
    for kind in KINDS:
        recipe = made(root / kind, tiny_base, data, kind, parent)
        folders[kind] = parent = train(recipe)
    return folders


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder):
    times = {"seconds", "tokens_per_s"}
    return [{k: v for k, v in line.items() if k not in times} for line in lines(folder)]


def state_of(folder):
    return load_file(folder / json.loads((folder / "state.json").read_text())["state"])


def stopping_after(n_steps):
    done = []
    return {"on_step": lambda progress: done.append(1), "stop": lambda: len(done) >= n_steps}


# ---- resuming ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(chain, tiny_base, data, tmp_path, kind):
    parent = {"compress": None, "instruct": chain["compress"], "joint": chain["instruct"]}[kind]
    recipe = made(tmp_path / "run", tiny_base, data, kind, parent)
    train(recipe, **stopping_after(3))
    assert not (tmp_path / "run" / MANIFEST).exists()
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 3
    torch.manual_seed(12345)  # a resumed run takes nothing from the process it runs in
    train(recipe)
    whole, resumed = state_of(chain[kind]), state_of(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    assert any(name.startswith("exp_avg_sq.") for name in whole)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert timeless(chain[kind]) == timeless(tmp_path / "run")
    assert (chain[kind] / TENSORS).read_bytes() == (tmp_path / "run" / TENSORS).read_bytes()


def test_a_run_that_was_killed_goes_on_from_its_last_save(chain, tiny_base, data, tmp_path):
    recipe = made(tmp_path / "run", tiny_base, data, runtime={"save_every": 2})

    def die(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, on_step=die)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "ans')  # killed while writing
    train(recipe)
    assert (chain["compress"] / TENSORS).read_bytes() == (tmp_path / "run" / TENSORS).read_bytes()
    assert timeless(chain["compress"]) == timeless(tmp_path / "run")
    assert len(list((tmp_path / "run").glob("state-*"))) == 1


def test_a_finished_run_is_left_as_it_is(chain, tiny_base, data, tmp_path):
    folder = shutil.copytree(chain["compress"], tmp_path / "run")
    steps = []
    train(made(folder, tiny_base, data), on_step=steps.append)
    assert steps == []
    assert (folder / TENSORS).read_bytes() == (chain["compress"] / TENSORS).read_bytes()
    assert lines(folder) == lines(chain["compress"])


def test_gradient_checkpointing_changes_no_bit_of_a_run(
    chain, tiny_base, data, tmp_path, monkeypatch
):
    contexts, recompute_context = [], AdapterRoles.recompute_context

    def counted(roles):
        contexts.append(roles.active)
        return recompute_context(roles)

    monkeypatch.setattr(AdapterRoles, "recompute_context", counted)
    recipe = made(tmp_path / "run", tiny_base, data, runtime={"gradient_checkpointing": True})
    train(recipe)
    assert (chain["compress"] / TENSORS).read_bytes() == (tmp_path / "run" / TENSORS).read_bytes()
    n_passes = STEPS * 2 * 2  # micro-batches, layers
    assert contexts.count("compressor") == contexts.count("generator") == n_passes


def test_runs_of_different_precision_in_one_process(tiny_base, data, tmp_path):
    for precision in ("fp32", "bf16", "fp32"):
        runtime = {"device": "cpu", "precision": precision}
        recipe = made(
            tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}",
            tiny_base,
            data,
            optim={"steps": 1},
            runtime=runtime,
        )
        assert (train(recipe) / "openclara.json").is_file()


@pytest.mark.skipif(not can_compile("cpu"), reason="torch's compiler needs g++ here")
def test_a_compiled_run_learns_the_same_and_resumes_bit_for_bit(tiny_base, data, tmp_path):
    parts = {"model": {"dropout": 0.0}, "stage": {"contrast": 0.3}}
    recipes = [
        made(tmp_path / name, tiny_base, data, runtime={"compile": compiled}, **parts)
        for name, compiled in (("plain", False), ("compiled", True), ("resumed", True))
    ]
    train(recipes[2], **stopping_after(3))
    plain, compiled, resumed = (timeless(train(recipe)) for recipe in recipes)
    assert compiled == resumed
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-5)


def test_what_cannot_be_compiled_is_refused_or_left_as_it_is(tiny_base, data, tmp_path):
    wanted = made(tmp_path / "run", tiny_base, data, runtime={"compile": True})
    with pytest.raises(ConfigError, match=r"compile cannot be: .*; set it to auto or false"):
        train(wanted)
    train(made(tmp_path / "auto", tiny_base, data, runtime={"compile": "auto"}))
    train(made(tmp_path / "plain", tiny_base, data))
    assert timeless(tmp_path / "auto") == timeless(tmp_path / "plain")


def test_anchored_memory_resumes_and_is_inherited(tiny_base, data, tmp_path):
    def recipe(name):
        return made(tmp_path / name, tiny_base, data, model={"memory": "anchored"})

    train(recipe("whole"))
    train(recipe("resumed"), **stopping_after(3))
    train(recipe("resumed"))
    first, second = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "resumed")
    assert first.fingerprint() == second.fingerprint()
    weights = first.token_weight.float()
    assert weights.unique().numel() > 3
    later = made(
        tmp_path / "later", tiny_base, data, "instruct", tmp_path / "whole", optim={"steps": 1}
    )
    inherited = load_checkpoint(train(later))
    assert inherited.card.memory == "anchored"
    assert torch.equal(inherited.token_weight, first.token_weight)
    read = made(tmp_path / "read", tiny_base, data, "read", later.output, optim={"steps": 1})
    reader = load_checkpoint(train(read))
    # Reading leaves stored latents valid.
    assert reader.fingerprint() == inherited.fingerprint()
    assert reader.identity() != inherited.identity()


# ---- what a run writes and learns ----


def test_metrics_have_their_fields(chain):
    for kind, folder in chain.items():
        steps = [line for line in lines(folder) if "lr" in line]
        assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
        expected = {"step", "tokens", "answer", "n_memory", "lr", "gradient_norm"}
        expected |= {"tokens_per_s", "seconds"}
        expected |= COUPLING if kind == "joint" else {"alignment"}
        assert all(line.keys() == expected for line in steps)
        assert steps[0]["tokens"] < steps[-1]["tokens"]
        validated = [line for line in lines(folder) if "held_out_answer" in line]
        assert {(line["step"], line["n_memory"]) for line in validated} == {
            (step, n) for step in (3, 6) for n in (4, 5)
        }


def test_the_roles_share_the_norm_of_the_gradient(chain):
    for line in lines(chain["joint"]):
        if "lr" in line:
            parts = (line["gradient_norm_reasoner"], line["gradient_norm_generator"])
            assert sum(part**2 for part in parts) == pytest.approx(
                line["gradient_norm"] ** 2, rel=1e-4
            )
            assert line["gradient_query_representation"] > 0


def test_how_often_is_logged_changes_no_bit_of_a_run(chain, tiny_base, data, tmp_path):
    """The diagnostics of the joint stage are made on logged steps alone, and touch nothing."""
    recipe = made(tmp_path / "run", tiny_base, data, "joint", chain["instruct"])
    recipe = recipe.model_copy(
        update={"runtime": recipe.runtime.model_copy(update={"log_every": 4})}
    )
    train(recipe)
    logged = [line for line in timeless(chain["joint"]) if line["step"] in (4, STEPS)]
    assert [line for line in timeless(tmp_path / "run") if "lr" in line] == [
        line for line in logged if "lr" in line
    ]
    whole, other = state_of(chain["joint"]), state_of(tmp_path / "run")
    assert all(torch.equal(tensor, other[name]) for name, tensor in whole.items())


def test_only_the_listed_rates_are_drawn(chain):
    drawn = {
        line["n_memory"] for folder in chain.values() for line in lines(folder) if "lr" in line
    }
    assert drawn == {2, 5}


def test_each_stage_trains_its_own_roles_only(chain):
    first, second, third = (load_checkpoint(chain[kind]) for kind in KINDS)
    assert first.roles.keys() == second.roles.keys() == {"compressor", "generator"}
    assert third.roles.keys() == {"compressor", "reasoner", "generator"}

    def same(a, b):
        return all(torch.equal(a[name], b[name]) for name in a)

    assert not same(first.roles["compressor"], second.roles["compressor"])
    assert not torch.equal(first.memory, second.memory)
    assert same(second.roles["compressor"], third.roles["compressor"])
    assert torch.equal(second.memory, third.memory)
    assert not same(second.roles["generator"], third.roles["generator"])
    assert not same(third.roles["reasoner"], third.roles["compressor"])


def test_the_card_tells_how_it_was_made(chain, tiny_base):
    card = load_checkpoint(chain["joint"]).card
    assert [made["stage"] for made in card.training] == ["compress", "instruct", "joint"]
    assert (card.base, card.n_memory, card.default_n_memory) == (str(tiny_base), 8, 4)
    assert (card.rank, card.alpha, card.doc_max_length) == (4, 8.0, 32)
    assert all(made["steps"] == STEPS for made in card.training)
    assert [made["data"][0]["path"] for made in card.training] == [
        "single.jsonl",
        "records.jsonl",
        "records.jsonl",
    ]
    about = json.loads((chain["joint"] / "run.json").read_text())
    assert about["recipe"]["model"]["n_memory"] == 8
    assert about["versions"]["torch"] == torch.__version__


def test_the_reasoner_starts_as_the_compressor_or_as_it_was(chain, tiny_base, data, tmp_path):
    still = {"optim": {"lr": 1e-12, "steps": 1}}
    first = made(tmp_path / "a", tiny_base, data, "joint", chain["instruct"], **still)
    fresh = load_checkpoint(train(first)).roles
    again = made(tmp_path / "b", tiny_base, data, "joint", chain["joint"], **still)
    kept, before = load_checkpoint(train(again)).roles, load_checkpoint(chain["joint"]).roles
    for name, tensor in fresh["compressor"].items():
        assert torch.equal(fresh["reasoner"][name], tensor)
        assert torch.equal(kept["reasoner"][name], before["reasoner"][name])


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_one_batch_by_heart(chain, tiny_base, data, tmp_path, kind):
    parent = {"compress": None, "instruct": chain["compress"], "joint": chain["instruct"]}[kind]
    recipe = made(
        tmp_path / "run", tiny_base, data, kind, parent,
        data=[{"path": "records.jsonl", "limit": 2}],
        n_memory=(5,),
        optim={"steps": 25, "accumulate": 1, "warmup_ratio": 0.0},
        runtime={"held_out": 0.0, "validate_every": 100},
    )  # fmt: skip
    train(recipe)
    answers = [line["answer"] for line in lines(tmp_path / "run")]
    assert min(answers[-3:]) < 0.5 * answers[0]
    assert not any("held_out_answer" in line for line in lines(tmp_path / "run"))


def test_learning_rate_by_hand():
    optim = OptimConfig(lr=1.0, steps=10, warmup_ratio=0.2, min_lr_ratio=0.1)
    expected = {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.1 + 0.45 * (1 + 0.5**0.5), 6: 0.55, 10: 0.1, 99: 0.1}
    for step, rate in expected.items():
        assert learning_rate(optim, step) == pytest.approx(rate), step
    constant = OptimConfig(lr=0.5, steps=10, warmup_ratio=0.0, min_lr_ratio=1.0)
    assert {learning_rate(constant, step) for step in range(12)} == {0.5}


# ---- what is refused ----


def test_another_recipe_in_the_same_folder(chain, tiny_base, data, tmp_path):
    folder = shutil.copytree(chain["compress"], tmp_path / "run")
    with pytest.raises(ConfigError, match=r"another recipe .optim differ"):
        train(made(folder, tiny_base, data, optim={"lr": 0.5}))
    with pytest.raises(ConfigError, match=r"another recipe .seed differ"):
        train(made(folder, tiny_base, data, runtime={"seed": 1}))
    train(made(folder, tiny_base, data, runtime={"log_every": 2}))  # how, not what


def test_a_damaged_recipe_in_the_folder(tiny_base, data, tmp_path):
    for text in ("{", "[]", "{}"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(DataError, match=r"run\.json is damaged"):
            train(made(tmp_path, tiny_base, data))


@pytest.mark.parametrize(
    ("field", "value"), [("n_memory", 16), ("rank", 8), ("base", "other"), ("latent_gain", 0.5)]
)
def test_contradicting_the_parent(chain, tiny_base, data, tmp_path, field, value):
    recipe = made(
        tmp_path / "run", tiny_base, data, "instruct", chain["compress"], model={field: value}
    )
    with pytest.raises(ConfigError, match=rf"model\.{field} is .* was trained with"):
        train(recipe)


def test_repeating_what_the_parent_says_is_fine(chain, tiny_base, data, tmp_path):
    recipe = made(
        tmp_path / "run", tiny_base, data, "instruct", chain["compress"],
        model={"rank": 4, "n_memory": 8}, optim={"steps": 1},
    )  # fmt: skip
    assert load_checkpoint(train(recipe)).card.rank == 4


def held_out(folder, name):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[f"held_out_{name}"] for line in lines if f"held_out_{name}" in line]


def test_a_reader_of_text_is_a_generator_and_nothing_else(tiny_base, data, tmp_path):
    folder = train(made(tmp_path / "run", tiny_base, data, "text", n_memory=(8,)))
    assert set(load_checkpoint(folder).roles) == {"generator"}
    assert held_out(folder, "answer")


def test_labels_move_the_reasoner_and_leave_stored_latents_valid(tiny_base, data, chain, tmp_path):
    recipe = made(
        tmp_path / "run", tiny_base, data, "supervised", chain["instruct"], optim={"steps": 16}
    )
    before, after = (load_checkpoint(f) for f in (chain["instruct"], train(recipe)))
    for role, state in before.roles.items():
        for name, tensor in state.items():
            assert torch.equal(tensor, after.roles[role][name])
    assert torch.equal(before.memory, after.memory)
    assert set(after.roles) == {*before.roles, "reasoner"}
    assert held_out(tmp_path / "run", "ranking")
    losses = [line["ranking"] for line in lines(tmp_path / "run") if "ranking" in line]
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("kind", ["joint", "supervised"])
def test_a_later_stage_without_a_parent(tiny_base, data, tmp_path, kind):
    with pytest.raises(ConfigError, match=f"the {kind} stage needs a trained compressor"):
        train(made(tmp_path / "run", tiny_base, data, kind))


def test_a_parent_that_is_not_there(tiny_base, data, tmp_path):
    with pytest.raises(ModelError, match="there is no trained model"):
        train(made(tmp_path / "run", tiny_base, data, "joint", tmp_path / "nothing"))


def test_a_parent_on_another_base(tiny_base, data, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    parent = make_checkpoint(tmp_path / "parent", base)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="its weights differ"):
        train(made(tmp_path / "run", base, data, "instruct", parent))


@pytest.mark.parametrize("rates", [(0, 2), (9,), (-1,)])
def test_rates_the_model_does_not_have(tiny_base, data, tmp_path, rates):
    with pytest.raises(ConfigError, match="use numbers from 1 to that"):
        train(made(tmp_path / "run", tiny_base, data, n_memory=rates))


def test_no_source_of_that_name(tiny_base, data, tmp_path):
    recipe = made(
        tmp_path / "run", tiny_base, data, data=[{"path": "single.jsonl", "sources": ["nothing"]}]
    )
    with pytest.raises(DataError, match=r"check .*sources"):
        train(recipe)


def test_data_that_is_not_there(tiny_base, data, tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        train(made(tmp_path / "run", tiny_base, data, data=[{"path": "nothing.jsonl"}]))


@pytest.mark.parametrize("damage", ["truncated", "absent", "position", "incomplete", "misshapen"])
def test_a_damaged_state(chain, tiny_base, data, tmp_path, damage):
    folder = shutil.copytree(chain["compress"], tmp_path / "run")
    tensors = folder / f"state-{STEPS}.safetensors"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "absent":
        tensors.unlink()
    elif damage == "position":
        (folder / "state.json").write_text('{"step": 3')
    else:
        state = load_file(tensors)
        state["parameter.memory"] = torch.zeros(1, 3)
        if damage == "incomplete":
            del state["parameter.memory"]
        save_file(state, tensors)
    with pytest.raises(
        DataError, match=r"delete state\.json there to start the run again"
    ) as error:
        train(made(folder, tiny_base, data))
    assert str(folder) in str(error.value)


# ---- recipes ----

RECIPE = """
output = "run"
[stage]
kind = "compress"
[[data]]
path = "a.jsonl"
"""


def test_a_recipe_with_overrides(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    recipe = read_recipe(RunConfig, path, {"optim.lr": 0.5, "stage.alignment": 0.0})
    assert (recipe.optim.lr, recipe.stage.alignment) == (0.5, 0.0)
    assert read_recipe(RunConfig, path).optim.lr == OptimConfig().lr


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (RECIPE + "\n[optim]\nsteeps = 3", {}, r"optim\.steeps: Extra inputs"),
        (RECIPE + "\n[optim]\nsteps = 0", {}, r"optim\.steps: .* \(got 0\)"),
        (RECIPE.replace('"compress"', '"other"'), {}, "stage: .*other"),
        (RECIPE.replace('[[data]]\npath = "a.jsonl"', ""), {}, "data: Field required"),
        (RECIPE, {"n_memory": []}, "n_memory: "),
        (RECIPE, {"output.path": 1}, "output.path does not name a field"),
        ("output = ", {}, "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_named_by_its_field(tmp_path, text, overrides, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(RunConfig, path, overrides)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no recipe"):
        read_recipe(RunConfig, tmp_path / "recipe.toml")
