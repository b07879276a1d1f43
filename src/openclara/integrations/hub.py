"""A trained model as a folder for the Hugging Face hub, and its way there."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from openclara.errors import ConfigError, ModelError
from openclara.model.base import DEFAULT_BASE, find_base
from openclara.model.checkpoint import MANIFEST, is_checkpoint, load_checkpoint, save_checkpoint
from openclara.model.conversion import check_new
from openclara.model.published.reading import read_any
from openclara.model.zoo import find_checkpoint

if TYPE_CHECKING:
    from openclara.model.checkpoint import Card

MODULE: Final = "modeling_openclara"
CODE: Final = '''"""Lets transformers load this folder with the installed openclara."""

from openclara.integrations.automodel import OpenClaraConfig, OpenClaraModel

__all__ = ["OpenClaraConfig", "OpenClaraModel"]
'''
CONFIG: Final = {
    "model_type": "openclara",
    "architectures": ["OpenClaraModel"],
    "auto_map": {
        "AutoConfig": f"{MODULE}.OpenClaraConfig",
        "AutoModel": f"{MODULE}.OpenClaraModel",
    },
}
UPLOADED: Final = (
    MANIFEST, "adapters.safetensors", "config.json", f"{MODULE}.py", "README.md",
)  # fmt: skip


class HubApi(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make a repository if there is none."""

    def upload_folder(
        self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str
    ) -> Any:
        """Upload files in one commit."""


def export_hub(
    name: str,
    folder: str | Path,
    *,
    subfolder: str | None = None,
    base: str | None = None,
) -> None:
    """Write a folder that `AutoModel.from_pretrained(folder, trust_remote_code=True)` loads.

    Args:
        name: Zoo name, folder or hub id of a trained model, ours or a published one.
        folder: A new or empty folder.
        subfolder: Folder inside `name`.
        base: Hub id or folder that the exported model is to name as its base.

    Raises:
        ConfigError: The folder is in use.
        ModelError: The model or its base is missing, or `base` is another one.
    """
    folder = Path(folder).expanduser()
    check_new(folder)
    checkpoint = read_any(find_checkpoint(name, subfolder=subfolder), base=base)
    if base is not None and find_base(base).sha256 != checkpoint.card.base_sha256:
        raise ModelError(
            f"{base} is not the base {name!r} was trained on (its weights differ); name the right "
            f"one, {checkpoint.card.base}"
        )
    card = checkpoint.card if base is None else replace(checkpoint.card, base=base)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "made"
        save_checkpoint(made, replace(checkpoint, card=card))
        (made / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        (made / f"{MODULE}.py").write_text(CODE)
        (made / "README.md").write_text(model_card(card, name=folder.name))
        if folder.is_dir():
            folder.rmdir()
        shutil.move(made, folder)


def push_to_hub(
    folder: str | Path, repo_id: str, *, private: bool = True, api: HubApi | None = None
) -> str:
    """Upload an exported folder.

    Args:
        folder: What `export_hub` wrote.
        repo_id: `owner/name` of the repository, made if there is none.
        private: Whether a new repository can be seen by its owner alone.
        api: Stands in for the hub client.

    Returns:
        The address of the model.

    Raises:
        ConfigError: `repo_id` is no name of a repository.
        ModelError: The folder was not exported, names a base that only this machine has, or the
            hub refuses it.
    """
    folder = Path(folder).expanduser()
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ConfigError(f"{repo_id!r} is no repository; give owner/name")
    if not is_checkpoint(folder) or not (folder / f"{MODULE}.py").is_file():
        raise ModelError(f"{folder} was not exported; run `openclara export hub {folder}` first")
    card = load_checkpoint(folder).card
    if card.base != DEFAULT_BASE and Path(card.base).expanduser().is_dir():
        raise ModelError(
            f"the model names its base by the folder {card.base}, which nobody else has; export it "
            "again with --base and the base's hub id"
        )
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    (folder / "README.md").write_text(model_card(card, name=repo_id))
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            allow_patterns=list(UPLOADED),
            commit_message="Trained model for openclara",
        )
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"the hub did not take {repo_id} ({type(error).__name__}); check the name, the network "
            "and that `hf auth login` was done"
        ) from error
    return f"https://huggingface.co/{repo_id}"


def model_card(card: Card, *, name: str) -> str:
    """The `README.md` of an exported model: what it is, how it is used, how it was made."""
    known_base = card.base.count("/") == 1 and not Path(card.base).expanduser().is_dir()
    front = ["library_name: openclara", "pipeline_tag: text-generation"]
    front += [f"base_model: {card.base}"] if known_base else []
    front += ["tags:", "- retrieval-augmented-generation", "- context-compression", "- lora"]
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {name}",
        f"Adapters on `{card.base}` that compress each text of at most {card.doc_max_length} "
        f"tokens into {card.default_n_memory} vectors (up to {card.n_memory}), find documents by "
        f"these vectors and answer from them. Last stage trained: {card.stage}.",
        "    pip install openclara",
        "```python\nfrom transformers import AutoModel\n\n"
        f'model = AutoModel.from_pretrained("{name}", trust_remote_code=True)\n'
        "texts, chosen = model.generate_from_questions(\n"
        '    questions=["Who built it?"],\n'
        '    documents=[["One document ...", "Another ..."]],\n'
        "    max_new_tokens=64,\n)\n```",
        "The module in this folder only names classes of the installed `openclara`. Without it, "
        "and without `trust_remote_code`:",
        f'```python\nfrom openclara import Clara\n\nclara = Clara.load("{name}")\n```',
    ]
    table = _table(card.metrics)
    if table:
        parts += ["## Results", table]
    stages = [made for made in card.training if "stage" in made]
    if stages:
        rows = [
            f"- {made['stage']}: {made.get('steps', '?')} steps, {made.get('examples', '?')} "
            f"examples, {_data(made)}"
            for made in stages
        ]
        parts += ["## Training", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _data(made: dict[str, Any]) -> str:
    names = [str(data.get("path", "?")) for data in made.get("data", [])]
    return ", ".join(names) or "data not recorded"


def _table(metrics: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in sorted(metrics.items())
        if isinstance(value, (int, float, str))
    ]
    return "\n".join(["| measure | value |", "|---|---|", *rows]) if rows else ""
