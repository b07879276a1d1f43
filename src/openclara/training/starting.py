"""What a run without a parent starts from: a new memory table, a generator that can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from openclara.errors import ConfigError
from openclara.model.memory import MemoryTable
from openclara.model.published.reading import read_any
from openclara.model.zoo import find_checkpoint
from openclara.training.examples import count_tokens, load_examples
from openclara.training.salience import fit_salience

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from openclara.config import RunConfig
    from openclara.data.tokenizer import TextTokenizer
    from openclara.model.checkpoint import Checkpoint
    from openclara.training.examples import Examples
    from openclara.training.processes import Processes

SALIENCE = "salience.safetensors"


def new_memory(
    recipe: RunConfig,
    tokenizer: TextTokenizer,
    vocabulary_VD: Tensor,
    examples: Examples,
    processes: Processes,
    *,
    on_fit: Callable[[int, int], None],
) -> MemoryTable:
    """A memory table that was never trained, with what anchors need where they are wanted.

    Salience is fitted once in the life of a run, by the first process, and then read: whoever
    continues the run, on whatever machine, carries the same tokens.
    """
    n_vocabulary, width = vocabulary_VD.shape
    anchored = recipe.model.memory == "anchored"
    memory = MemoryTable(recipe.model.n_memory, width, n_vocabulary=n_vocabulary if anchored else 0)
    memory.initialise(vocabulary_VD, recipe.runtime.seed)
    if not anchored:
        return memory
    memory.count(count_tokens(examples.training, n_vocabulary))
    path = recipe.output / SALIENCE
    if not path.is_file() and processes.first:
        if recipe.salience:
            taught = recipe.model_copy(update={"data": recipe.salience})
            examples = load_examples(taught, tokenizer)
        fitted = fit_salience(
            examples.training,
            tokenizer,
            vocabulary_VD,
            memory.token_weight_V,
            seed=recipe.runtime.seed,
            on_epoch=on_fit,
        )
        unfinished = path.with_suffix(".part")
        save_file(fitted.state_dict(), unfinished)
        unfinished.replace(path)
    processes.wait()
    memory.salience.load_state_dict(load_file(path))
    return memory


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
