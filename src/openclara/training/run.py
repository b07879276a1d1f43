"""A run folder: resolved recipe, metrics, resumable state, checkpoint.

- `run.json`: the resolved recipe and package versions.
- `metrics.jsonl`: one object a line, with step, losses and rates; validation lines besides.
- `state.json`: where the run stood at the last save, and the name of its tensors.
- `state-STEP.safetensors`: float32 parameters and AdamW moments at that save.
- `openclara.json`, `adapters.safetensors`: the checkpoint, loadable by `Clara.load`.
"""

from __future__ import annotations

import json
import math
import platform
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from openclara.data.wording import OWN, PUBLISHED, make_wording
from openclara.errors import ConfigError, DataError, ModelError
from openclara.model.adapters import ROLES, AdapterRoles
from openclara.model.base import (
    choose_device,
    choose_dtype,
    find_base,
    load_lm,
    load_tokenizer,
)
from openclara.model.checkpoint import (
    TOP_K,
    Card,
    Checkpoint,
    memory_table,
    save_checkpoint,
)
from openclara.model.clara import ClaraModel
from openclara.model.memory import MemoryTable
from openclara.model.published.reading import read_any
from openclara.model.zoo import find_checkpoint
from openclara.training.examples import count_tokens, load_examples
from openclara.training.loop import Progress, Trainer
from openclara.training.stages import Collator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from openclara.config import ModelConfig, RunConfig
    from openclara.training.examples import Examples

RECIPE = "run.json"
METRICS = "metrics.jsonl"
POSITION = "state.json"

INHERITED = (
    "base",
    "n_memory",
    "doc_max_length",
    "rank",
    "alpha",
    "memory",
    "score",
    "query_n_memory",
    "latent_gain",
)
"""Parts of [model] that a stage takes from its parent."""

FREE = ("runtime", "data_root", "output")
"""Parts of a recipe that may differ between two sittings of one run (but for the seed)."""


def train(
    recipe: RunConfig,
    *,
    on_start: Callable[[RunConfig, Examples], None] = lambda recipe, examples: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Carry out a recipe, or continue it where it was left.

    Args:
        recipe: What to train.
        on_start: Called once with the resolved recipe and its data.
        on_step: Called after every optimizer step, for a progress bar.
        stop: Asked before every step; when true the run is saved and left, to be resumed.

    Returns:
        The run folder; it holds a checkpoint that `Clara.load` reads.

    Raises:
        ConfigError: The folder holds a run of another recipe, or the recipe contradicts itself.
        DataError: A record is malformed or none fits.
        ModelError: The base or the parent run cannot be loaded.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    parent = None
    if recipe.init_from is not None:
        parent = read_any(find_checkpoint(recipe.init_from))
    recipe = _inherit(recipe, parent)
    _check(recipe, parent)
    folder = recipe.output
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, recipe)
    set_seed(recipe.runtime.seed)
    device = choose_device(recipe.runtime.device)
    dtype = choose_dtype(device, recipe.runtime.precision)
    source = find_base(recipe.model.base)
    if parent is not None and source.sha256 != parent.card.base_sha256:
        raise ModelError(
            f"the base {source.name} is not the one {recipe.init_from} was trained on (its weights "
            "differ); restore that one"
        )
    name = OWN if parent is None else parent.card.wording
    loaded = load_tokenizer(source, as_written=name == PUBLISHED)
    tokenizer, wording = make_wording(name, loaded)
    examples = load_examples(recipe, tokenizer)
    model = build_model(recipe, load_lm(source, device=device, dtype=dtype), parent, examples)
    # accelerate fixes the precision for the whole process; a second run may want another.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
    )
    late = recipe.model.score == "late"
    collator = Collator(
        recipe.stage,
        tokenizer,
        wording,
        query_n_memory=recipe.model.query_n_memory if late else None,
    )
    trainer = Trainer(recipe, model.to(device), collator, examples, accelerator)
    restore(folder, trainer)
    on_start(recipe, examples)
    log = _Log(folder / METRICS, trainer.progress.step)
    started = time.time()
    for progress in trainer.run(on_step=on_step, stop=stop):
        last = progress.step == recipe.optim.steps
        if trainer.logs(progress.step):
            log.write(progress, seconds=time.time() - started)
        if progress.step % recipe.runtime.validate_every == 0 or last:
            for n_memory in {max(recipe.n_memory), recipe.model.default_n_memory}:
                loss = trainer.validate(n_memory=n_memory)
                log.write_validation(progress.step, n_memory, trainer.loss_name, loss)
        if progress.step % recipe.runtime.save_every == 0 and not last:
            save(folder, trainer)
    save(folder, trainer)
    if trainer.progress.step == recipe.optim.steps:
        _finish(folder, recipe, model, source.sha256, parent, examples, trainer)
    return folder


def _inherit(recipe: RunConfig, parent: Checkpoint | None) -> RunConfig:
    """The recipe with its parent's model part; what it says against that is refused."""
    if parent is None:
        return recipe
    card = parent.card
    inherited = {name: getattr(card, name) for name in INHERITED}
    for name in recipe.model.model_fields_set & inherited.keys():
        if getattr(recipe.model, name) != inherited[name]:
            raise ConfigError(
                f"model.{name} is {getattr(recipe.model, name)!r}, but {recipe.init_from} was "
                f"trained with {inherited[name]!r}; leave it out, or start without init_from"
            )
    if "default_n_memory" not in recipe.model.model_fields_set:
        inherited["default_n_memory"] = card.default_n_memory
    model: ModelConfig = recipe.model.model_copy(update=inherited)
    return recipe.model_copy(update={"model": model})


def _check(recipe: RunConfig, parent: Checkpoint | None) -> None:
    asked_for = [*recipe.n_memory, recipe.model.default_n_memory]
    if recipe.model.score == "late":
        asked_for.append(recipe.model.query_n_memory)
    for n_memory in asked_for:
        if not 1 <= n_memory <= recipe.model.n_memory:
            raise ConfigError(
                f"n_memory, default_n_memory or query_n_memory asks for {n_memory} memory tokens, "
                f"the model has {recipe.model.n_memory}; use numbers from 1 to that"
            )
    if recipe.stage.kind == "text" and parent is not None and parent.card.wording != OWN:
        raise ConfigError(
            f"{recipe.init_from} was trained on the published prompts, which hold no full texts; "
            "start the text stage without init_from"
        )
    if recipe.stage.kind in ("joint", "supervised") and recipe.init_from is None:
        raise ConfigError(
            f"the {recipe.stage.kind} stage needs a trained compressor; set init_from to the run "
            "folder of the stage before it"
        )


def _claim(folder: Path, recipe: RunConfig) -> None:
    """Write the resolved recipe, or make sure the folder's own is the same."""
    resolved = recipe.model_dump(mode="json")
    path = folder / RECIPE
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path} is damaged; give another output folder") from None
        # How a run is carried out may change between sittings; what it learns may not.
        differing = [k for k in resolved if k not in FREE and known.get(k) != resolved[k]]
        if differing or known.get("runtime", {}).get("seed") != resolved["runtime"]["seed"]:
            raise ConfigError(
                f"{folder} holds a run of another recipe ({', '.join(differing) or 'seed'} "
                "differ); give another output folder, or delete that one"
            )
        return
    packages = ("torch", "transformers", "peft", "accelerate", "openclara")
    about = {
        "recipe": resolved,
        "versions": {name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def build_model(
    recipe: RunConfig, lm: Any, parent: Checkpoint | None, examples: Examples
) -> ClaraModel:
    """Base with fresh or inherited roles; the only function that knows recipe and model."""
    model = recipe.model
    roles = AdapterRoles(lm, rank=model.rank, alpha=model.alpha, dropout=model.dropout)
    vocabulary_VD = lm.get_input_embeddings().weight
    if parent is None:
        n_vocabulary = vocabulary_VD.shape[0] if model.memory == "anchored" else 0
        memory = MemoryTable(model.n_memory, vocabulary_VD.shape[1], n_vocabulary=n_vocabulary)
        memory.initialise(vocabulary_VD, recipe.runtime.seed)
        if model.memory == "anchored":
            memory.count(count_tokens(examples.training, vocabulary_VD.shape[0]))
    else:
        memory = memory_table(parent, vocabulary_VD)
        for role, state in parent.roles.items():
            roles.load(role, state)
    trained = parent is not None and "reasoner" in parent.roles
    if not trained and getattr(recipe.stage, "reasoner_from_compressor", False):
        roles.load("reasoner", roles.state("compressor"))
    if recipe.runtime.gradient_checkpointing:
        roles.enable_checkpointing()
    head = parent.head if parent is not None and parent.head.numel() else None
    return ClaraModel(roles, memory, latent_gain=model.latent_gain, score=model.score, head_OD=head)


def save(folder: Path, trainer: Trainer) -> None:
    """Write a resumable state; a kill in between leaves the earlier one."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trainer.parameters.items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for key, value in trainer.optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value)
    tensors["rng"] = torch.get_rng_state()
    progress = trainer.progress
    position = {
        "step": progress.step,
        "micro_step": progress.micro_step,
        "tokens": progress.tokens,
        "state": (name := f"state-{progress.step}.safetensors"),
    }
    # The position names its tensors, so replacing that one small file switches both at once.
    made = folder / f"{name}.part"
    save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, made)
    made.replace(folder / name)
    part = folder / f"{POSITION}.part"
    part.write_text(json.dumps(position) + "\n", encoding="utf-8")
    part.replace(folder / POSITION)
    for old in folder.glob("state-*"):
        if old.name != name:
            old.unlink()


def restore(folder: Path, trainer: Trainer) -> None:
    """Continue from the folder's state, if it has one.

    Raises:
        DataError: The state is damaged.
    """
    path = folder / POSITION
    if not path.is_file():
        return
    try:
        position = json.loads(path.read_text(encoding="utf-8"))
        _apply(load_file(folder / position["state"]), trainer)
        progress = Progress(position["step"], position["micro_step"], position["tokens"])
    except Exception as error:  # json, safetensors and torch raise many unrelated types
        raise DataError(
            f"the saved state in {folder} cannot be read ({type(error).__name__}: {error}); delete "
            f"{POSITION} there to start the run again"
        ) from error
    trainer.progress = progress


@torch.no_grad()
def _apply(tensors: dict[str, torch.Tensor], trainer: Trainer) -> None:
    for name, parameter in trainer.parameters.items():
        parameter.copy_(tensors[f"parameter.{name}"])
        if f"step.{name}" in tensors:
            trainer.optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    torch.set_rng_state(tensors["rng"])


def _finish(
    folder: Path,
    recipe: RunConfig,
    model: ClaraModel,
    base_sha256: str,
    parent: Checkpoint | None,
    examples: Examples,
    trainer: Trainer,
) -> None:
    roles: Any = model.roles
    made = {
        "stage": recipe.stage.kind,
        "steps": trainer.progress.step,
        "tokens": trainer.progress.tokens,
        "examples": len(examples.training),
        "recipe": recipe.model_dump(mode="json", include={"stage", "optim", "n_memory"}),
        "data": [data.model_dump(mode="json") | {"path": data.path.name} for data in recipe.data],
    }
    trained = {*trainer.trained_roles, *(parent.roles if parent else ())}
    card = Card(
        base=recipe.model.base,
        base_sha256=base_sha256,
        n_memory=recipe.model.n_memory,
        default_n_memory=recipe.model.default_n_memory,
        doc_max_length=recipe.model.doc_max_length,
        rank=recipe.model.rank,
        alpha=recipe.model.alpha,
        memory=recipe.model.memory,
        score=recipe.model.score,
        query_n_memory=recipe.model.query_n_memory,
        latent_gain=recipe.model.latent_gain,
        stage=recipe.stage.kind,
        training=[*(parent.card.training if parent else []), made],
        wording=OWN if parent is None else parent.card.wording,
        top_k=TOP_K if parent is None else parent.card.top_k,
    )
    states = {role: roles.state(role) for role in ROLES if role in trained}
    memory = model.memory
    head = torch.empty(0) if parent is None else parent.head
    tensors = (memory.weight.detach(), memory.token_weight_V, head)
    save_checkpoint(folder, Checkpoint(card, states, *tensors))


class _Log:
    """Lines of metrics.jsonl; lines after the step a run resumes from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, progress: Progress, *, seconds: float) -> None:
        # Six digits of each: gradients and late learning rates are far below one.
        values = {name: float(f"{value:.6g}") for name, value in progress.metrics.items()}
        self._append(
            {
                "step": progress.step,
                "tokens": progress.tokens,
                **values,
                "tokens_per_s": round(progress.tokens_per_s, 1),
                "seconds": round(seconds, 1),
            }
        )

    def write_validation(self, step: int, n_memory: int, name: str, loss: float | None) -> None:
        if loss is not None:
            self._append({"step": step, "n_memory": n_memory, f"held_out_{name}": round(loss, 6)})

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _step_of(line: str) -> float:
    try:
        step: float = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut off by a kill: what follows the state is written again anyway
    return step
