"""What a recipe may say beside its parent and beside the run that its folder holds already."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from openclara.data.wording import OWN
from openclara.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from openclara.config import ModelConfig, RunConfig
    from openclara.model.checkpoint import Checkpoint
    from openclara.training.processes import Processes

RECIPE = "run.json"

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
    "latent_layer",
)
"""Parts of [model] that a stage takes from its parent."""

FREE = ("runtime", "data_root", "output")
"""Parts of a recipe that may differ between two sittings of one run (but for the seed)."""


def inherit(recipe: RunConfig, parent: Checkpoint | None) -> RunConfig:
    """The recipe with its parent's model part.

    Raises:
        ConfigError: The recipe says something else.
    """
    if parent is None:
        return recipe
    card = parent.card
    inherited = {name: getattr(card, name) for name in INHERITED}
    given = recipe.model.model_fields_set & inherited.keys()
    if "latent_layer" in given and not card.latent_layer:
        # Raised from the input: `training.starting` says what the roles start as.
        inherited["latent_layer"] = recipe.model.latent_layer
    for name in given:
        if getattr(recipe.model, name) != inherited[name]:
            raise ConfigError(
                f"model.{name} is {getattr(recipe.model, name)!r}, but {recipe.init_from} was "
                f"trained with {inherited[name]!r}; leave it out, or start without init_from"
            )
    if "default_n_memory" not in recipe.model.model_fields_set:
        inherited["default_n_memory"] = card.default_n_memory
    model: ModelConfig = recipe.model.model_copy(update=inherited)
    return recipe.model_copy(update={"model": model})


def check(recipe: RunConfig, parent: Checkpoint | None) -> None:
    """Refuse a recipe that contradicts itself or its parent.

    Raises:
        ConfigError: It does.
    """
    asked_for = [*recipe.n_memory, recipe.model.default_n_memory]
    if recipe.model.score == "late":
        asked_for.append(recipe.model.query_n_memory)
    for n_memory in asked_for:
        if not 1 <= n_memory <= recipe.model.n_memory:
            raise ConfigError(
                f"n_memory, default_n_memory or query_n_memory asks for {n_memory} memory tokens, "
                f"the model has {recipe.model.n_memory}; use numbers from 1 to that"
            )
    if recipe.generator_from is not None and parent is not None:
        raise ConfigError(
            f"init_from brings the generator of {recipe.init_from}; leave generator_from out"
        )
    if recipe.model.latent_layer and recipe.model.memory == "learned":
        raise ConfigError(
            "model.latent_layer is for anchored memory, and this model's is learned; leave it out, "
            "or set model.memory to anchored"
        )
    raised = parent is not None and recipe.model.latent_layer != parent.card.latent_layer
    if raised and not recipe.salience:
        raise ConfigError(
            "model.latent_layer makes the compressor another one, so what memory carries must be "
            "learned anew; give records for it under [[salience]]"
        )
    if recipe.salience and recipe.model.memory == "learned":
        raise ConfigError(
            "[[salience]] teaches which tokens anchored memory carries, and this model's memory is "
            "learned; leave it out"
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


def claim(folder: Path, recipe: RunConfig, processes: Processes) -> RunConfig:
    """Write the resolved recipe, or make sure the folder's own is the same.

    Returns:
        The recipe, with as many micro-batches for each process as give the optimizer steps that
        the run began with.

    Raises:
        ConfigError: The folder holds a run of another recipe, or one that so many processes
            cannot share.
        DataError: The folder's recipe is damaged.
    """
    resolved = recipe.model_dump(mode="json")
    path = folder / RECIPE
    known = _known(path)
    # Nobody writes before all have read.
    processes.wait()
    if known is None:
        if processes.first:
            _write(path, resolved, recipe.optim.accumulate * processes.count)
        return recipe
    n_micro = known.get("micro_batches", known["recipe"]["optim"]["accumulate"])
    accumulate = recipe.optim.accumulate
    if accumulate * processes.count != n_micro and n_micro % processes.count == 0:
        # The same command on another number of processes.
        accumulate = n_micro // processes.count
    elif accumulate * processes.count != n_micro:
        raise ConfigError(
            f"{folder} holds a run of {n_micro} micro-batches a step, which {processes.count} "
            f"processes cannot share evenly; continue it on a number that divides {n_micro}"
        )
    _compare(folder, resolved, known["recipe"], shared=n_micro // processes.count)
    optim = recipe.optim.model_copy(update={"accumulate": accumulate})
    return recipe.model_copy(update={"optim": optim})


def _known(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known["recipe"]["optim"]["accumulate"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is damaged; give another output folder") from None
    return known


def _compare(folder: Path, new: dict[str, Any], old: dict[str, Any], *, shared: int) -> None:
    """Refuse a recipe under which the run would learn something else."""
    if new["optim"]["accumulate"] == shared:
        # As many as before for an optimizer step, on another number of processes.
        new = new | {"optim": new["optim"] | {"accumulate": old["optim"]["accumulate"]}}
    # How a run is carried out may change between sittings; what it learns may not.
    differing = [name for name in new if name not in FREE and old.get(name) != new[name]]
    if differing or old.get("runtime", {}).get("seed") != new["runtime"]["seed"]:
        raise ConfigError(
            f"{folder} holds a run of another recipe ({', '.join(differing) or 'seed'} "
            "differ); give another output folder, or delete that one"
        )


def _write(path: Path, resolved: dict[str, Any], n_micro: int) -> None:
    packages = ("torch", "transformers", "peft", "accelerate", "openclara")
    about = {
        "recipe": resolved,
        "micro_batches": n_micro,
        "versions": {name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
