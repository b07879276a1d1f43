"""Names of trained models: those shipped in the package, run folders, and the hub."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from openclara.errors import ModelError
from openclara.model.checkpoint import MANIFEST, TENSORS, is_checkpoint
from openclara.model.published import LAYOUTS
from openclara.model.published.layout import ADAPTERS, CONFIG, FIRST_LAST

DEFAULT_MODEL = "smollm2-135m"

OURS, PUBLISHED = (MANIFEST, TENSORS, CONFIG), (ADAPTERS, FIRST_LAST)
"""All that is ever fetched of a model: a manifest, a config and tensors, never code."""


def zoo_names() -> list[str]:
    """Models shipped with the package."""
    return sorted(manifest.parent.name for manifest in _zoo().glob(f"*/{MANIFEST}"))


def _zoo() -> Path:
    return Path(str(files("openclara"))) / "zoo"


def find_checkpoint(name: str, *, subfolder: str | None = None) -> Path:
    """Folder of a trained model, ours or a published one.

    Args:
        name: A zoo name, a folder, or a hub id, behind which a folder inside it may follow, such
            as `apple/CLaRa-7B-E2E/compression-16`.
        subfolder: Folder inside it that holds the checkpoint.

    Raises:
        ModelError: There is none of that name.
    """
    local = Path(name).expanduser()
    for root in (_zoo() / name, local):
        folder = root / (subfolder or "")
        if is_model(folder):
            return folder
    parts = name.split("/")
    if len(parts) >= 2 and all(parts) and parts[0] not in (".", "..", "~") and not local.exists():
        inner = "/".join((*parts[2:], *((subfolder,) if subfolder else ())))
        return _from_hub("/".join(parts[:2]), inner)
    if local.is_dir():
        raise _no_model(local / (subfolder or ""), str(local), _inner_models(local))
    raise ModelError(
        f"there is no trained model {name!r}; give a zoo name "
        f"({', '.join(zoo_names()) or 'none'}), the folder of a finished run, or a hub id"
    )


def is_model(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, ours or a published one."""
    published = (folder / CONFIG).is_file() and (folder / ADAPTERS).is_file()
    return is_checkpoint(folder) or published


def _inner_models(root: Path) -> list[str]:
    found = {path.parent.name for path in root.glob(f"*/{MANIFEST}")}
    kinds = {layout.model_type for layout in LAYOUTS}
    for path in root.glob(f"*/{CONFIG}"):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            if json.loads(path.read_text(encoding="utf-8")).get("model_type") in kinds:
                found.add(path.parent.name)
    return sorted(found)


def _no_model(folder: Path, root: str, inner: list[str]) -> ModelError:
    if inner:
        return ModelError(
            f"there is no trained model in {folder} itself, but {root} has the sub-folders "
            f"{', '.join(inner)}; pass one as subfolder= or as {root}/{inner[0]}"
        )
    return ModelError(
        f"{folder} holds no trained model (neither {MANIFEST} nor {CONFIG} with {ADAPTERS}); give "
        f"a zoo name such as {DEFAULT_MODEL}, the folder of a finished run, or a hub id"
    )


def _from_hub(name: str, subfolder: str) -> Path:
    prefix = f"{subfolder}/" if subfolder else ""
    wanted = [f"{prefix}{file}" for file in OURS]
    if not prefix:
        # Small, and enough to say which sub-folders there are.
        wanted += [f"*/{MANIFEST}", f"*/{CONFIG}"]
    asked = f"{name}/{subfolder}" if subfolder else name
    root = _fetch(name, wanted, asked=asked)
    folder = root / subfolder
    if not is_checkpoint(folder) and (folder / CONFIG).is_file():
        root = _fetch(name, [f"{prefix}{file}" for file in PUBLISHED], asked=asked)
        folder = root / subfolder
    if is_model(folder):
        return folder
    if prefix:
        root = _fetch(name, [f"*/{MANIFEST}", f"*/{CONFIG}"], asked=asked)
    raise _no_model(Path(name) / subfolder, name, _inner_models(root))


def _fetch(name: str, wanted: list[str], *, asked: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"the model {asked!r} is neither in the zoo nor a folder here, and could not be "
            f"fetched from the hub ({type(error).__name__}); check the name and the network"
        ) from error
