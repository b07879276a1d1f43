"""A trained model from one layout into another."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch

from openclara.errors import ConfigError
from openclara.model.checkpoint import Checkpoint, export_peft, is_checkpoint, save_checkpoint
from openclara.model.merging import write_merged
from openclara.model.published.reading import read_any
from openclara.model.published.writing import write_published
from openclara.model.zoo import find_checkpoint

Kind = Literal["openclara", "published", "peft", "merged"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


def convert(
    source: str,
    target: str | Path,
    *,
    to: Kind | None = None,
    subfolder: str | None = None,
    base: str | None = None,
) -> list[str]:
    """Write a trained model in another layout.

    Args:
        source: Zoo name, folder, or hub id.
        target: A new or empty folder.
        to: `openclara`, `published`, `peft` (a folder for each role), or `merged` (the base with
            the generator in it); ours becomes published and the other way round if None.
        subfolder: Folder inside `source`.
        base: Takes the place of the base that a published config names.

    Returns:
        What the user should know of the result, a sentence each.

    Raises:
        ConfigError: The target is in use, or `to` is unknown.
        ModelError: Source or base are missing, or the target's layout cannot express the model.
        FormatError: The source is damaged.
    """
    folder = find_checkpoint(source, subfolder=subfolder)
    if to is None:
        to = "published" if is_checkpoint(folder) else "openclara"
    if to not in KINDS:
        raise ConfigError(f"there is no layout {to!r}; use one of {', '.join(KINDS)}")
    target = Path(target).expanduser()
    check_new(target)
    checkpoint = read_any(folder, base=base)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / "made"
        notes = _write(checkpoint, made, to)
        if target.is_dir():
            target.rmdir()
        shutil.move(made, target)
    return notes


def check_new(target: Path) -> None:
    """Refuse to write over anything.

    Raises:
        ConfigError: There is something.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target} is there already; give a new folder, or empty that one")


def _write(checkpoint: Checkpoint, folder: Path, to: Kind) -> list[str]:
    match to:
        case "published":
            return write_published(checkpoint, folder)
        case "merged":
            write_merged(checkpoint, folder)
            return []
        case "peft":
            for role in checkpoint.roles:
                export_peft(checkpoint, role, folder / role)
            return []
    save_checkpoint(folder, checkpoint)
    return _rounded(checkpoint)


def _rounded(checkpoint: Checkpoint) -> list[str]:
    tensors: list[Any] = [checkpoint.memory, checkpoint.head]
    tensors += [tensor for state in checkpoint.roles.values() for tensor in state.values()]
    wider = {str(t.dtype) for t in tensors if t.numel()} - {str(torch.bfloat16)}
    if not wider:
        return []
    return [f"weights in {', '.join(sorted(wider))} were rounded to bfloat16"]
