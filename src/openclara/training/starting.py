"""What a run starts from: a new memory table, what it carries, a generator that can read."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from openclara.errors import ConfigError
from openclara.model.base import load_lm
from openclara.model.clara import ClaraModel
from openclara.model.memory import MemoryTable
from openclara.model.merged import MergedRoles
from openclara.model.published.reading import read_any
from openclara.model.zoo import find_checkpoint
from openclara.training.examples import count_tokens, load_examples
from openclara.training.salience import fit_salience, states_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from openclara.config import RunConfig
    from openclara.data.tokenizer import TextTokenizer
    from openclara.model.adapters import Role
    from openclara.model.base import BaseSource
    from openclara.model.checkpoint import Checkpoint
    from openclara.training.examples import Examples
    from openclara.training.processes import Processes

SALIENCE = "salience.safetensors"


def new_memory(recipe: RunConfig, vocabulary_VD: Tensor, examples: Examples) -> MemoryTable:
    """A memory table that was never trained; where it is anchored, salience is still to be fitted.

    Args:
        recipe: Says which kind.
        vocabulary_VD: (V, D) input embeddings of the base.
        examples: Their tokens are counted.
    """
    n_vocabulary, width = vocabulary_VD.shape
    anchored = recipe.model.memory == "anchored"
    memory = MemoryTable(
        recipe.model.n_memory,
        width,
        n_vocabulary=n_vocabulary if anchored else 0,
        doc_max_length=recipe.model.doc_max_length,
    )
    memory.initialise(vocabulary_VD, recipe.runtime.seed)
    if anchored:
        memory.count(count_tokens(examples.training, n_vocabulary))
    return memory


def learn_salience(
    recipe: RunConfig,
    source: BaseSource,
    parent: Checkpoint | None,
    reader: Checkpoint | None,
    memory: MemoryTable,
    tokenizer: TextTokenizer,
    examples: Examples,
    processes: Processes,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_part: Callable[[int, int], None],
) -> None:
    """Fit which tokens the anchored memory of a run carries, on its compressor as it is now.

    Done once in the life of a run, by the first process, and then read: whoever continues the run,
    on whatever machine, carries the same tokens. The compressor is loaded for it by itself, merged
    and whole, however the run will divide or pack the base.

    Raises:
        DataError: No record fits.
        ModelError: The files of the base are damaged.
    """
    path = recipe.output / SALIENCE
    if not path.is_file() and processes.first:
        if recipe.salience:
            taught = recipe.model_copy(update={"data": recipe.salience})
            examples = load_examples(taught, tokenizer)
        # That of a reader of text is the base still.
        states = first_roles(recipe, parent, reader).get("compressor", {})
        roles = MergedRoles(
            load_lm(source, device=device, dtype=dtype),
            states={"compressor": states},
            scale=recipe.model.alpha / recipe.model.rank,
        )
        compressor = ClaraModel(
            roles, copy.deepcopy(memory).to(device), latent_layer=recipe.model.latent_layer
        ).eval()
        fitted = fit_salience(
            examples.training,
            tokenizer,
            memory.token_weight_V,
            states_of(compressor, tokenizer),
            seed=recipe.runtime.seed,
            on_part=on_part,
        )
        unfinished = path.with_suffix(".part")
        save_file(fitted.state_dict(), unfinished)
        unfinished.replace(path)
    processes.wait()
    memory.salience.load_state_dict(load_file(path))


def first_roles(
    recipe: RunConfig, parent: Checkpoint | None, reader: Checkpoint | None = None
) -> dict[Role, dict[str, Tensor]]:
    """What the roles start as, where not as the base.

    States that enter a generator halfway must be such as its own first layers give: before any were
    trained so, compressor and reasoner start as the generator.

    Args:
        recipe: The resolved recipe.
        parent: The run it starts from.
        reader: The run whose generator it starts with.
    """
    states = {} if parent is None else dict(parent.roles)
    if reader is not None:
        states["generator"] = reader.roles["generator"]
    made_so = parent is not None and parent.card.latent_layer > 0 and "compressor" in states
    if recipe.model.latent_layer and not made_so and "generator" in states:
        states |= {"compressor": states["generator"], "reasoner": states["generator"]}
    return states


def generator_of(recipe: RunConfig, base_sha256: str) -> Checkpoint:
    """The checkpoint whose generator a recipe without a parent starts with.

    Args:
        recipe: Says which in `generator_from`.
        base_sha256: Identity of the base it must have been trained on.

    Raises:
        ConfigError: There is none, or it has another form.
        ModelError: The run has no checkpoint.
    """
    assert recipe.generator_from is not None
    other = read_any(find_checkpoint(recipe.generator_from))
    mine, card = recipe.model, other.card
    if card.base_sha256 != base_sha256:
        raise ConfigError(
            f"generator_from: {recipe.generator_from} was trained on another base than "
            f"{recipe.model.base}; give a run on this one"
        )
    if "generator" not in other.roles or (card.rank, card.alpha) != (mine.rank, mine.alpha):
        raise ConfigError(
            f"generator_from: {recipe.generator_from} has no generator of rank {mine.rank} and "
            f"alpha {mine.alpha:g}; train one with these, or leave generator_from out"
        )
    return other
