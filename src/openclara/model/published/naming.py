"""Which base a config means: hub ids, relative folders, and paths of other people's machines."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from openclara.errors import ModelError

KNOWN: Final = {
    "Mistral-7B-Instruct-v0.2": "mistralai/Mistral-7B-Instruct-v0.2",
    "Phi-4-mini-instruct": "microsoft/Phi-4-mini-instruct",
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "SOLAR-10.7B-Instruct-v1.0": "upstage/SOLAR-10.7B-Instruct-v1.0",
}
"""Bases of published checkpoints, some of which name them by a path of the machine they were
trained on. A wrong guess does no harm: the embedding is compared with the checkpoint's."""


def base_named(name: str, folder: Path) -> str:
    """What to look for where a config names a base.

    Args:
        name: As the config says.
        folder: Where the config lies.

    Returns:
        A folder or a hub id.

    Raises:
        ModelError: It is a path that does not exist here, of a base unknown here.
    """
    written = Path(name).expanduser()
    if written.is_absolute() or name.startswith("."):
        # A relative path may be meant from the checkpoint, from the folder that holds it, or, as
        # transformers reads it, from where the program was started.
        for start in (folder, folder.parent, Path()):
            if (start / written).is_dir():
                return str((start / written).resolve())
        last = PurePosixPath(name.rstrip("/")).name
        if last in KNOWN:
            return KNOWN[last]
        raise ModelError(
            f"the checkpoint in {folder} names its base by the path {name}, which is not on this "
            f"machine; pass base= with a folder or hub id of {last}"
        )
    return name
