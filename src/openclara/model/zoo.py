"""Names of trained models: those shipped in the package, run folders, and the hub."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from openclara.errors import ModelError
from openclara.model.checkpoint import MANIFEST, is_checkpoint

DEFAULT_MODEL = "smollm2-135m"


def zoo_names() -> list[str]:
    """Models shipped with the package."""
    return sorted(manifest.parent.name for manifest in _zoo().glob(f"*/{MANIFEST}"))


def _zoo() -> Path:
    return Path(str(files("openclara"))) / "zoo"


def find_checkpoint(name: str, *, subfolder: str | None = None) -> Path:
    """Folder of a trained model.

    Args:
        name: A zoo name, a folder, or a hub id.
        subfolder: Folder inside it that holds the checkpoint.

    Raises:
        ModelError: There is none of that name.
    """
    for root in (_zoo() / name, Path(name).expanduser()):
        folder = root / (subfolder or "")
        if is_checkpoint(folder):
            return folder
    if name.count("/") == 1 and not Path(name).expanduser().exists():
        return _from_hub(name, subfolder)
    raise ModelError(
        f"there is no trained model {name!r}; give a zoo name "
        f"({', '.join(zoo_names()) or 'none'}), the folder of a finished run, or a hub id"
    )


def _from_hub(name: str, subfolder: str | None) -> Path:
    from huggingface_hub import snapshot_download

    prefix = f"{subfolder}/" if subfolder else ""
    wanted = [f"{prefix}*.json", f"{prefix}*.safetensors"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"the model {name!r} is neither in the zoo nor a folder here, and could not be fetched "
            f"from the hub ({type(error).__name__}); check the name and the network"
        ) from error
    return folder / (subfolder or "")
