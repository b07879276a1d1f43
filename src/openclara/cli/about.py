"""`openclara info`: what is installed here, what it would run on, and what a model would need."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from openclara.cli import render
from openclara.cli.estimating import show_needs
from openclara.cli.options import Json

if TYPE_CHECKING:
    import torch

PACKAGES = ("openclara", "torch", "transformers", "peft", "accelerate", "safetensors")


def info(
    *,
    model: str | None = None,
    base: str | None = None,
    device: str = "auto",
    as_json: Json = False,
) -> None:
    """Show versions, device, arithmetic, models and folders; nothing of it is fetched.

    With a model, show instead what memory it would need at each precision.

    Args:
        model: Zoo name, run folder or hub id; it and its base are fetched if they are not here.
        base: Folder or hub id of the base model, instead of the one the model names.
        device: auto, cpu, cuda, cuda:1 or mps; where the model would be loaded.
        as_json: Print JSON instead.
    """
    if model is not None:
        show_needs(model, base=base, device=device, as_json=as_json)
        return
    import torch

    from openclara.model.base import cache_folder, choose_device, choose_dtype
    from openclara.model.zoo import DEFAULT_MODEL, zoo_names

    here = choose_device(device)
    dtype = str(choose_dtype(here)).removeprefix("torch.")
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    about = {
        "versions": versions,
        "device": _device_name(here),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "cache": str(cache_folder()),
        "models": zoo_names(),
        "default_model": DEFAULT_MODEL,
        "base": _default_base(),
    }
    if as_json:
        render.json_line(about)
        return
    render.fields(
        [
            *versions.items(),
            ("device", f"{about['device']}, {render.counted(torch.get_num_threads(), 'thread')}"),
            ("arithmetic", dtype),
            ("cache", str(about["cache"])),
            ("models", ", ".join(zoo_names()) or "none shipped"),
            ("default base", _BASE_STATES[str(about["base"])]),
        ]
    )


_BASE_STATES = {
    "ready": "in the cache, ready",
    "installed": "installed as a package; converted when first used",
    "absent": "not here; fetched when first used",
}


def _default_base() -> str:
    from openclara.model.base import GGUF_FILE, GGUF_MODULE, MARKER, cache_folder, converted_folder

    if (converted_folder() / MARKER).is_file():
        return "ready"
    if find_spec(GGUF_MODULE) or (cache_folder() / "gguf" / GGUF_FILE).is_file():
        return "installed"
    return "absent"


def _device_name(device: "torch.device") -> str:
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
