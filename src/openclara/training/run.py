"""A run folder: resolved recipe, metrics, resumable state, checkpoint.

- `run.json`: the resolved recipe and package versions.
- `metrics.jsonl`: one object a line, with step, losses and rates; validation lines besides.
- `state.json`: where the run stood at the last save, and the name of its tensors.
- `state-STEP.safetensors`: float32 parameters and AdamW moments at that save.
- `salience.safetensors`: which tokens anchored memory carries, where this run fitted it.
- `openclara.json`, `adapters.safetensors`: the checkpoint, loadable by `Clara.load`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from openclara.data.wording import OWN, PUBLISHED, make_wording
from openclara.errors import ConfigError, ModelError
from openclara.model.adapters import ROLES, AdapterRoles
from openclara.model.base import (
    choose_device,
    choose_dtype,
    find_base,
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
from openclara.model.published.reading import read_any
from openclara.model.zoo import find_checkpoint
from openclara.training.bases import check_runtime, compile_base, load_training_base
from openclara.training.claiming import check, claim, inherit
from openclara.training.examples import load_examples
from openclara.training.journal import METRICS, Journal
from openclara.training.loop import Trainer
from openclara.training.processes import end_trackers, join, start_trackers, whole
from openclara.training.stages import Collator
from openclara.training.starting import first_roles, generator_of, learn_salience, new_memory
from openclara.training.states import POSITION, restore, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from openclara.config import RunConfig
    from openclara.model.memory import MemoryTable
    from openclara.training.examples import Examples
    from openclara.training.loop import Progress

__all__ = ["POSITION", "build_model", "train"]


def train(
    recipe: RunConfig,
    *,
    on_fit: Callable[[int, int], None] = lambda done, total: None,
    on_start: Callable[[RunConfig, Examples], None] = lambda recipe, examples: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Carry out a recipe, or continue it where it was left.

    Args:
        recipe: What to train.
        on_fit: Called with the parts done and all there are, where it is first fitted which tokens
            anchored memory carries.
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
    from accelerate.utils import set_seed

    parent = None
    if recipe.init_from is not None:
        parent = read_any(find_checkpoint(recipe.init_from))
    recipe = inherit(recipe, parent)
    check(recipe, parent)
    device = choose_device(recipe.runtime.device)
    dtype = choose_dtype(device, recipe.runtime.precision)
    check_runtime(recipe.runtime, device, dtype)
    processes = join(recipe, device, dtype)
    if processes.count > 1:
        device = processes.accelerator.device
    folder = recipe.output
    folder.mkdir(parents=True, exist_ok=True)
    recipe = claim(folder, recipe, processes)
    set_seed(recipe.runtime.seed)
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
    lm = load_training_base(source, recipe.runtime, processes, device=device, dtype=dtype)
    vocabulary_VD = lm.get_input_embeddings().weight
    if parent is not None:
        memory = memory_table(parent, vocabulary_VD)
    else:
        memory = new_memory(recipe, vocabulary_VD, examples)
    reader = None
    if parent is None and recipe.generator_from is not None:
        reader = generator_of(recipe, source.sha256)
    if memory.anchored and (parent is None or recipe.salience):
        learn_salience(
            recipe,
            source,
            parent,
            reader,
            memory,
            tokenizer,
            examples,
            processes,
            device=device,
            dtype=dtype,
            on_part=on_fit,
        )
    model = build_model(recipe, lm, memory, parent, reader, fused=processes.zero_stage < 3)
    before = parent or reader
    history = [] if before is None else before.card.training
    compile_base(model, recipe.runtime, processes, device)
    late = recipe.model.score == "late"
    collator = Collator(
        recipe.stage,
        tokenizer,
        wording,
        query_n_memory=recipe.model.query_n_memory if late else None,
    )
    if not processes.sharded:
        model = model.to(device)
    trainer = Trainer(recipe, model, collator, examples, processes)
    restore(folder, trainer)
    on_start(recipe, examples)
    _carry_out(folder, trainer, on_step=on_step, stop=stop)
    save(folder, trainer)
    if trainer.progress.step == recipe.optim.steps:
        _finish(folder, recipe, model, source.sha256, parent, examples, trainer, history)
    processes.wait()
    return folder


def _carry_out(
    folder: Path,
    trainer: Trainer,
    *,
    on_step: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> None:
    """The steps that are left, written down, validated and saved as often as the recipe says."""
    recipe, processes = trainer.recipe, trainer.processes
    journal = Journal(folder / METRICS, trainer.progress.step, processes)
    start_trackers(processes, recipe)
    started = time.time()
    for progress in trainer.run(on_step=on_step, stop=stop):
        last = progress.step == recipe.optim.steps
        if trainer.logs(progress.step):
            journal.write(progress, seconds=time.time() - started)
        if progress.step % recipe.runtime.validate_every == 0 or last:
            for n_memory in {max(recipe.n_memory), recipe.model.default_n_memory}:
                loss = trainer.validate(n_memory=n_memory)
                journal.write_validation(progress.step, n_memory, trainer.loss_name, loss)
        if progress.step % recipe.runtime.save_every == 0 and not last:
            save(folder, trainer)
    end_trackers(processes)


def build_model(
    recipe: RunConfig,
    lm: Any,
    memory: MemoryTable,
    parent: Checkpoint | None,
    reader: Checkpoint | None = None,
    *,
    fused: bool = True,
) -> ClaraModel:
    """Base with fresh or inherited roles; the only function that knows recipe and model.

    Raises:
        ConfigError: The base has too few layers for latents to enter where the recipe says.
    """
    model = recipe.model
    n_layers = model.latent_layer or None
    if model.latent_layer >= len(lm.model.layers):
        raise ConfigError(
            f"model.latent_layer is {model.latent_layer}, and {model.base} has "
            f"{len(lm.model.layers)} layers; give fewer"
        )
    roles = AdapterRoles(
        lm,
        rank=model.rank,
        alpha=model.alpha,
        dropout=model.dropout,
        fused=fused,
        depths={"compressor": n_layers, "reasoner": n_layers},
    )
    for role, state in first_roles(recipe, parent, reader).items():
        roles.load(role, state)
    trained = parent is not None and "reasoner" in parent.roles
    if not trained and getattr(recipe.stage, "reasoner_from_compressor", False):
        roles.load("reasoner", roles.state("compressor"))
    if recipe.runtime.gradient_checkpointing:
        roles.enable_checkpointing()
    head = parent.head if parent is not None and parent.head.numel() else None
    return ClaraModel(
        roles,
        memory,
        latent_gain=model.latent_gain,
        latent_layer=model.latent_layer,
        score=model.score,
        head_OD=head,
    )


def _finish(
    folder: Path,
    recipe: RunConfig,
    model: ClaraModel,
    base_sha256: str,
    parent: Checkpoint | None,
    examples: Examples,
    trainer: Trainer,
    history: list[dict[str, Any]],
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
        latent_layer=recipe.model.latent_layer,
        stage=recipe.stage.kind,
        training=[*history, made],
        wording=OWN if parent is None else parent.card.wording,
        top_k=TOP_K if parent is None else parent.card.top_k,
    )
    # Put together by all processes, written by one.
    states = {
        role: {name: whole(tensor) for name, tensor in roles.state(role).items()}
        for role in ROLES
        if role in trained
    }
    memory = model.memory
    head = torch.empty(0) if parent is None else parent.head
    salience = memory.salience.state_dict() if memory.anchored else {}
    tensors = (whole(memory.weight.detach()), memory.token_weight_V, salience, head)
    if trainer.processes.first:
        save_checkpoint(folder, Checkpoint(card, states, *tensors))
