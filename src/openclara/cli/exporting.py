"""`openclara export`: a trained model for other programs."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

from pathlib import Path

from openclara.cli import render
from openclara.cli.options import Flag


def hub(
    folder: Path,
    /,
    *,
    model: str | None = None,
    subfolder: str | None = None,
    base: str | None = None,
    push: str | None = None,
    public: Flag = False,
) -> None:
    """Write a folder that transformers' AutoModel loads with trust_remote_code=True.

    Args:
        folder: New folder to write.
        model: Zoo name, folder or hub id of the model; smollm2-135m if not given.
        subfolder: Folder inside the model that holds the checkpoint.
        base: Hub id that the exported model is to name as its base.
        push: Upload it to this repository (owner/name) of the Hugging Face hub.
        public: Let everybody see a repository that is made for it.
    """
    with render.waiting("reading the model and its base"):
        from openclara.integrations.hub import export_hub, push_to_hub
        from openclara.model.zoo import DEFAULT_MODEL

        export_hub(model or DEFAULT_MODEL, folder, subfolder=subfolder, base=base)
    render.result(f"written to {folder}")
    if push is not None:
        with render.waiting(f"uploading to {push}"):
            address = push_to_hub(folder, push, private=not public)
        render.result(f"uploaded to {address}")
