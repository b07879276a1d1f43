"""`openclara convert`: a trained model from one layout into another."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

from pathlib import Path
from typing import Literal

from openclara.cli import render


def convert(
    source: str,
    target: Path,
    /,
    *,
    to: Literal["openclara", "published", "peft", "merged"] | None = None,
    subfolder: str | None = None,
    base: str | None = None,
) -> None:
    """Write a trained model in another layout.

    Without --to, a published checkpoint becomes one of openclara and the other way round.

    Args:
        source: Zoo name, run folder, published checkpoint, or hub id.
        target: New folder to write.
        to: openclara, published, peft (one adapter for each role), or merged (the base with the
            generator in it, as a plain causal LM).
        subfolder: Folder inside the source that holds the checkpoint.
        base: Folder or hub id of the base, where the one that the source names is not here.
    """
    with render.waiting(f"reading {source} and its base"):
        from openclara.model.conversion import convert as carry_out

        notes = carry_out(source, target, to=to, subfolder=subfolder, base=base)
    for note in notes:
        render.warning(note)
    render.result(f"written to {target}")
