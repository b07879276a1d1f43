"""What a published config cannot hold of our own checkpoints, kept in one field of it.

The published code ignores fields it does not know. With them a checkpoint that comes back is the
same, down to its fingerprint, so an index made before stays usable.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from openclara.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openclara.model.checkpoint import Checkpoint

WRITTEN_BY_US: Final = "openclara"
UNUSED_ROW: Final = 1
"""A row of the memory table that no published token corresponds to."""

KEPT: Final = (
    "default_n_memory", "doc_max_length", "stage", "latent_weight", "wording", "top_k", "training",
    "metrics",
)  # fmt: skip


def record(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is to be kept."""
    card = asdict(checkpoint.card)
    row = checkpoint.memory[UNUSED_ROW].bfloat16().contiguous().view(torch.uint8)
    return {
        "identity": checkpoint.identity(),
        "card": {name: card[name] for name in KEPT},
        "unused_row": base64.b64encode(row.numpy().tobytes()).decode(),
    }


def restored(checkpoint: Checkpoint, kept: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint of ours that was written in the published layout, as it was.

    One that was trained further by the published code is another model, which learned its prompts.

    Raises:
        FormatError: The field was damaged.
    """
    try:
        card = replace(checkpoint.card, **{name: kept["card"][name] for name in KEPT})
        row = torch.frombuffer(bytearray(base64.b64decode(kept["unused_row"])), dtype=torch.uint8)
        memory = checkpoint.memory.clone()
        memory[UNUSED_ROW] = row.view(torch.bfloat16).to(memory.dtype)
        known = str(kept["identity"])
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise FormatError(
            f"the field `{WRITTEN_BY_US}` of config.json is damaged; restore the file, or remove "
            "the field"
        ) from None
    ours = replace(checkpoint, card=card, memory=memory, head=torch.empty(0))
    return ours if ours.identity() == known else checkpoint
