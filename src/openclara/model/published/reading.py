"""A published checkpoint as one of ours: nothing but tensors is unpickled, no code is run.

Legend: V ordinary tokens of the base, O own tokens, D width, M memory tokens.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from openclara.errors import FormatError, ModelError
from openclara.model.base import find_base
from openclara.model.checkpoint import (
    Card,
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
)
from openclara.model.memory import MemoryTable
from openclara.model.published import LAYOUTS
from openclara.model.published.layout import ADAPTERS, CONFIG, EMBEDDING, FIRST_LAST, HEAD
from openclara.model.published.naming import base_named
from openclara.model.published.record import WRITTEN_BY_US, restored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from openclara.model.adapters import Role
    from openclara.model.base import BaseSource
    from openclara.model.published.layout import PublishedLayout, Settings

ROW_OF = {"AE": 0, "KBTC": 1, "SEP": 2, "ENC": 3}
"""Rows of our memory table. No prompt uses AE or KBTC: they are kept in the two rows that no id
points at, to be written back."""


def read_any(folder: Path, *, base: str | None = None) -> Checkpoint:
    """Read a checkpoint of ours or a published one.

    Args:
        folder: Where it lies.
        base: Takes the place of the base that a published config names.

    Raises:
        ModelError: There is none, or its base is missing or another one.
        FormatError: It is damaged, or of a kind that is not known here.
    """
    if is_checkpoint(folder) or not (folder / CONFIG).is_file():
        return load_checkpoint(folder)
    return read_published(folder, base=base)


def read_published(folder: Path, *, base: str | None = None) -> Checkpoint:
    """Read a published checkpoint.

    Args:
        folder: Holds `config.json`, `adapters.pth` and `decoder_first_last_layers.pth`.
        base: Takes the place of the base that the config names.

    Raises:
        ModelError: The base is missing, or not the one that the checkpoint was trained on.
        FormatError: A file is missing, damaged, or of a kind that is not known here.
    """
    config = _config(folder)
    layout = _layout(folder, config)
    settings = layout.settings(config)
    roles, copies = _adapters(folder, settings)
    rows = _rows(folder, copies)
    source = find_base(base or base_named(settings.base, folder))
    own_OD = _own(rows[EMBEDDING], settings, folder)
    head_OD = _own(rows.get(HEAD, rows[EMBEDDING]), settings, folder)
    check_base(source, rows, n_own=settings.n_own)
    card = Card(
        base=source.name,
        base_sha256=source.sha256,
        n_memory=settings.n_memory,
        default_n_memory=settings.n_memory,
        doc_max_length=settings.doc_max_length,
        rank=settings.rank,
        alpha=settings.alpha,
        latent_gain=1.0,
        stage=settings.stage,
        wording=layout.wording,
        top_k=settings.top_k,
        training=[{"published": config}],
    )
    checkpoint = Checkpoint(card, roles, _table(own_OD, settings), head=head_OD.clone())
    return restored(checkpoint, config[WRITTEN_BY_US]) if WRITTEN_BY_US in config else checkpoint


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise FormatError(f"{path} is not valid JSON; restore it from where it came")
    return config


def _layout(folder: Path, config: Mapping[str, Any]) -> PublishedLayout:
    kind = config.get("model_type")
    for layout in LAYOUTS:
        if layout.model_type == kind:
            return layout
    known = ", ".join(f"{layout.name} ({layout.model_type!r})" for layout in LAYOUTS)
    raise FormatError(
        f"{folder} holds a model of type {kind!r}, not a trained compressor; known besides our own "
        f"are {known}"
    )


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, if it is nothing but tensors in plain containers.

    Raises:
        FormatError: The file is missing, damaged, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notes on files of other pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FormatError(f"{path} is missing; fetch it from where the rest came") from None
    except Exception as error:  # torch raises many unrelated types
        if "weights_only" in str(error):
            raise FormatError(
                f"{path} holds more than tensors and was not loaded, as that could run code; get "
                "the checkpoint from a source you trust"
            ) from None
        raise FormatError(f"{path} is damaged; fetch it again") from None


def _adapters(
    folder: Path, settings: Settings
) -> tuple[dict[Role, dict[str, Tensor]], dict[str, Tensor]]:
    """LoRA tensors by role, and the copies of embedding and head that some files hold besides."""
    path = folder / ADAPTERS
    found = load_tensors(path)
    if not isinstance(found, dict) or not all(isinstance(own, dict) for own in found.values()):
        raise FormatError(f"{path} holds no adapters by name; fetch it again")
    unknown = sorted(found.keys() - settings.roles.keys())
    if unknown:
        raise FormatError(
            f"{path} holds an adapter {unknown[0]!r}, known are {', '.join(settings.roles)}; "
            "remove it, or rename it to one of these"
        )
    roles: dict[Role, dict[str, Tensor]] = {}
    copies: dict[str, Tensor] = {}
    for adapter in (name for name in settings.roles if name in found):
        state = {_plain(name, adapter): tensor for name, tensor in found[adapter].items()}
        for name in (EMBEDDING, HEAD):
            if name in state:
                copy = state.pop(name)
                if name in copies and not torch.equal(copies[name], copy):
                    raise _contradiction(folder, name)
                copies[name] = copy
        _check_lora(state, settings, f"{path}, {adapter}")
        for role in settings.roles[adapter]:
            # Apart in memory: safetensors stores no tensor under two names.
            roles[role] = {name: tensor.clone() for name, tensor in state.items()}
    if not roles:
        raise FormatError(f"{path} holds no adapter; fetch it again")
    return roles, copies


def _plain(name: str, adapter: str) -> str:
    """A tensor's name without what some versions of peft leave in it."""
    name = name.removeprefix("base_model.model.")
    return name.replace(f".lora_A.{adapter}.", ".lora_A.").replace(
        f".lora_B.{adapter}.", ".lora_B."
    )


def _check_lora(state: Mapping[str, Tensor], settings: Settings, where: str) -> None:
    for name, tensor in state.items():
        side = next((s for s in ("A", "B") if name.endswith(f".lora_{s}.weight")), None)
        if side is None or not isinstance(tensor, torch.Tensor) or tensor.dim() != 2:
            raise FormatError(
                f"{where}: {name!r} is no LoRA weight of a linear layer; such a checkpoint cannot "
                "be read"
            )
        other = name.replace(f".lora_{side}.", f".lora_{'B' if side == 'A' else 'A'}.")
        if other not in state:
            raise FormatError(f"{where}: {other!r} is missing; fetch the file again")
        if tensor.shape[0 if side == "A" else 1] != settings.rank:
            raise FormatError(
                f"{where}: {name!r} is not of rank {settings.rank}, as `lora_r` in {CONFIG} says; "
                "correct it there"
            )


def _contradiction(folder: Path, name: str) -> FormatError:
    return FormatError(
        f"the files in {folder} hold different copies of {name!r}; fetch them again, all from one "
        "place"
    )


def _rows(folder: Path, copies: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Embedding and head; where the file of their own is missing, the adapters' copies."""
    path = folder / FIRST_LAST
    rows: dict[str, Tensor] = dict(copies)
    if path.is_file() or not copies:
        rows = load_tensors(path)
        if not isinstance(rows, dict) or EMBEDDING not in rows:
            raise FormatError(f"{path} holds no {EMBEDDING!r}; fetch it again")
        tied = HEAD not in rows
        for name, copy in copies.items():
            if not torch.equal(rows[EMBEDDING if tied else name], copy):
                raise _contradiction(folder, name)
    if EMBEDDING not in rows:
        raise FormatError(f"{path} is missing; fetch it from where the rest came")
    return rows


def _own(rows: Tensor, settings: Settings, folder: Path) -> Tensor:
    if rows.shape[0] <= settings.n_own:
        raise FormatError(
            f"{folder / FIRST_LAST} has {rows.shape[0]} rows, too few for {settings.n_memory} "
            f"memory tokens; correct `doc_max_length` and `compr_rate` in {CONFIG}"
        )
    return rows[-settings.n_own :]


def _table(own_OD: Tensor, settings: Settings) -> Tensor:
    """The own rows in the order of our memory table."""
    table = torch.zeros_like(MemoryTable(settings.n_memory, own_OD.shape[1]).weight.data)
    table = table.to(own_OD.dtype)
    for at, mark in enumerate(settings.marks):
        table[ROW_OF[mark]] = own_OD[settings.n_memory_rows + at]
    memory = own_OD[: settings.n_memory_rows]
    table[-settings.n_memory :] = memory.expand(settings.n_memory, -1)
    return table


def check_base(source: BaseSource, rows: Mapping[str, Tensor], *, n_own: int) -> None:
    """Make sure that a base is the one that embedding and head of a checkpoint come from.

    Args:
        source: The base.
        rows: Embedding, and the head if it is a matrix of its own.
        n_own: Rows of the model's own tokens, which stand last.

    Raises:
        ModelError: It is another base, or there are not that many own tokens.
    """
    for name, theirs in rows.items():
        of_base = read_tensor(source, name)
        if of_base is None:
            continue
        n_rows = theirs.shape[0] - n_own
        same_width = of_base.shape[1:] == theirs.shape[1:]
        known = theirs[: of_base.shape[0]] if same_width else theirs[:0]
        same_R = (of_base[: known.shape[0]].to(theirs.dtype) == known).all(1)
        # Vocabularies may be padded: what is not the base's any more need not be its last row.
        n_same = int(same_R.long().cumprod(0).sum())
        if n_same == n_rows:
            continue
        if n_same > n_rows or (same_width and n_same == of_base.shape[0]):
            raise ModelError(
                f"{theirs.shape[0] - n_same} rows of {name!r} are not those of the base "
                f"{source.name}, but the checkpoint says it has {n_own} tokens of its own; correct "
                f"`doc_max_length` and `compr_rate` in {CONFIG}, or pass base= with another base"
            )
        raise ModelError(
            f"the base {source.name} is not the one the checkpoint was trained on ({name!r} "
            "differs); pass base= with a folder or hub id of that one"
        )


def read_tensor(source: BaseSource, name: str) -> Tensor | None:
    """One tensor of a base, read without the rest; None where the base has none of that name."""
    for path in sorted(source.folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - not a dictionary
                tensor: Tensor = file.get_tensor(name)
                return tensor
    return None
