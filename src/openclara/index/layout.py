"""The index folder as it lies on disk: its file names and its manifest. Imports no torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

from openclara.errors import FormatError, IndexMismatch
from openclara.types import LatentSpec, Score

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Quantization = Literal["bf16", "int8", "int4"]
"""How latents are stored: as they are, or in one byte or half a byte a value."""

FORMAT = "openclara-index"
VERSION = 1
GROUP_SIZE: Mapping[Quantization, int] = {"bf16": 1, "int8": 64, "int4": 32}
"""Values along the width that share one scale."""

COMPARED = ("fingerprint", "n_memory", "width", "doc_max_length", "score")
"""Spec fields that make latents incomparable; the model's name may change, its fingerprint not."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Every file name of an index.

    Attributes:
        folder: The index itself.
        manifest_name: What the latents are; written last when an index is made.
        database_name: Documents, chunks and words; its transactions are the moment of truth.
        lock_name: Held by the one process that writes.
        shard_pattern: Files of latents, append-only and never renamed.
        segment_pattern: Codes of the coarse stage, derived from the shards.
        obsolete_pattern: Graphs of an earlier coarse stage; the next write removes them.
        temporary_suffix: Marks a file that is still being written.
    """

    folder: Path
    manifest_name: str = "index.json"
    database_name: str = "documents.sqlite"
    lock_name: str = "writer.lock"
    shard_pattern: str = "latents-*.safetensors"
    segment_pattern: str = "coarse-*.safetensors"
    obsolete_pattern: str = "coarse-*.usearch"
    temporary_suffix: str = ".tmp"

    @property
    def manifest(self) -> Path:
        """The manifest."""
        return self.folder / self.manifest_name

    @property
    def database(self) -> Path:
        """The SQLite file, without its write-ahead log."""
        return self.folder / self.database_name

    @property
    def lock(self) -> Path:
        """The writer's lock."""
        return self.folder / self.lock_name

    def shard(self, name: str) -> Path:
        """The shard of that name."""
        return self.folder / name

    def shard_name(self, number: int) -> str:
        """The name of shard `number`, counted from 1."""
        return self.shard_pattern.replace("*", f"{number:06d}")

    def segment_name(self, number: int) -> str:
        """The name of segment `number`, counted from 1."""
        return self.segment_pattern.replace("*", f"{number:06d}")

    def database_files(self) -> list[Path]:
        """The SQLite file and its companions, those that exist."""
        return sorted(self.folder.glob(f"{self.database_name}*"))

    def shard_files(self) -> list[Path]:
        """The shards on disk, recorded or not."""
        return sorted(self.folder.glob(self.shard_pattern))

    def segment_files(self) -> list[Path]:
        """The segments on disk, recorded or not."""
        patterns = (self.segment_pattern, self.obsolete_pattern)
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))

    def temporary_files(self) -> list[Path]:
        """What an interrupted write left."""
        return sorted(self.folder.glob(f"*{self.temporary_suffix}"))

    def owns(self, path: Path) -> bool:
        """Whether `path` is named like a file of an index."""
        name = path.name.removesuffix(self.temporary_suffix)
        return (
            name in (self.manifest_name, self.lock_name)
            or name.startswith(self.database_name)
            or path.with_name(name).match(self.shard_pattern)
            or path.with_name(name).match(self.segment_pattern)
            or path.with_name(name).match(self.obsolete_pattern)
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """What every latent of an index shares.

    Attributes:
        spec: The model side.
        quantization: The storage side.
    """

    spec: LatentSpec
    quantization: Quantization

    def to_json(self) -> str:
        """The text of `index.json`."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "spec": asdict(self.spec),
            "quantization": self.quantization,
            "group_size": GROUP_SIZE[self.quantization],
        }
        return json.dumps(content, indent=2) + "\n"

    def check(
        self, spec: LatentSpec | None, quantization: Quantization | None, path: Path | str
    ) -> None:
        """Refuse another model or another storage.

        Args:
            spec: What the caller's model makes; None accepts any.
            quantization: What the caller asks for; None accepts any.
            path: The index, for the message.

        Raises:
            IndexMismatch: A field differs.
        """
        wanted = {} if spec is None else {name: getattr(spec, name) for name in COMPARED}
        stored = {name: getattr(self.spec, name) for name in COMPARED}
        if quantization is not None:
            wanted["quantization"], stored["quantization"] = quantization, self.quantization
        different = [name for name in wanted if wanted[name] != stored[name]]
        if not different:
            return
        ours = ", ".join(f"{name}={stored[name]}" for name in different)
        theirs = ", ".join(f"{name}={wanted[name]}" for name in different)
        name = self.spec.model if spec is None else spec.model
        raise IndexMismatch(
            f"the index {path} (model {self.spec.model}) was made with {ours}, but {theirs} was "
            f"asked for: make a new index with `openclara index add NEW_PATH FILES --model {name}`"
        )


def write_durably(path: Path, content: bytes, *, temporary_suffix: str) -> None:
    """Write a file that is either whole or absent, also after a power cut.

    Args:
        path: The final name.
        content: All of it.
        temporary_suffix: Added to the name until the content is on the disk.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(path.name + temporary_suffix)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(layout: Layout) -> Manifest:
    """Read and check `index.json`.

    Raises:
        FormatError: It is missing, damaged or of another format version.
    """
    path = layout.manifest
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(_absent(layout)) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged ({error}): {_restore(layout)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{path} does not describe an openclara index: {_restore(layout)}")
    if content.get("version") != VERSION:
        raise FormatError(
            f"{path} has format version {content.get('version')} and this openclara reads version "
            f"{VERSION}: use the openclara that wrote it, or {_new_index()}"
        )
    return _parse(content, layout)


def _parse(content: Mapping[str, object], layout: Layout) -> Manifest:
    quantization = next(
        (name for name in get_args(Quantization) if name == content.get("quantization")), None
    )
    spec = content.get("spec")
    texts = ("model", "fingerprint", "score")
    types = {f.name: (str if f.name in texts else int) for f in fields(LatentSpec)}
    if isinstance(spec, dict):
        spec = {"score": "flat", **spec}  # the only one there was before it was written down
    if (
        quantization is None
        or content.get("group_size") != GROUP_SIZE[quantization]
        or not isinstance(spec, dict)
        or {name: type(value) for name, value in spec.items()} != types
        or spec["score"] not in get_args(Score)
    ):
        raise FormatError(
            f"{layout.manifest} is damaged (a field is missing or of the wrong type): "
            f"{_restore(layout)}"
        )
    return Manifest(LatentSpec(**spec), quantization)


def _absent(layout: Layout) -> str:
    if not layout.folder.exists():
        return (
            f"there is no index at {layout.folder}: "
            f"make one with `openclara index add {layout.folder} FILES`"
        )
    if layout.folder.is_dir() and layout.shard_files():
        return f"{layout.manifest} is missing: {_restore(layout)}"
    return f"{layout.folder} is not an openclara index: choose another path or {_new_index()}"


def _restore(layout: Layout) -> str:
    return f"restore it from a backup of {layout.folder} or {_new_index()}"


def _new_index() -> str:
    return "make a new index with `openclara index add NEW_PATH FILES`"
