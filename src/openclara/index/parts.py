"""Finished pieces of an index that is made elsewhere: each a file, whole or absent.

A part holds some documents, their chunks and latents, and says which model made them; nothing else
is needed to join it to an index. Latents lie in it as they were computed, so an index is the same
whether its documents came in parts or not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from safetensors.torch import load, save

from openclara.errors import DataError, FormatError, IndexMismatch
from openclara.index.layout import COMPARED, write_durably
from openclara.types import Chunk, CompressedDocument, Document, LatentSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORMAT = "openclara-part 1"
PATTERN = "part-*.safetensors"


class PartFolder:
    """A folder of parts: a path that all workers see, or an address that fsspec writes to.

    Args:
        place: Such as `my.index.parts`, or an address in a store of objects: `s3://bucket/parts`.
    """

    def __init__(self, place: str) -> None:
        place = place.removeprefix("file://")
        self.place = place if "://" in place else str(Path(place).absolute())

    def name(self, number: int, content: bytes) -> str:
        """The name of part `number`; another content or model has another name."""
        return PATTERN.replace("*", f"{number:08d}-{hashlib.sha256(content).hexdigest()[:16]}")

    def __contains__(self, name: str) -> bool:
        """Whether a part is finished."""
        system, folder = self._system()
        found: bool = system.exists(f"{folder}/{name}")
        return found

    def names(self) -> list[str]:
        """Finished parts, in their order.

        Raises:
            DataError: There is no such folder, or no part in it.
        """
        system, folder = self._system()
        found = sorted(str(path).rpartition("/")[2] for path in system.glob(f"{folder}/{PATTERN}"))
        if not found:
            raise DataError(f"{self.place} holds no parts of an index; check the place")
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a part; it is there whole or not at all, however often it is written."""
        if "://" in self.place:
            # Stores of objects show one when all of it has arrived.
            system, folder = self._system()
            system.pipe_file(f"{folder}/{name}", content)
            return
        folder_ = Path(self.place)
        folder_.mkdir(parents=True, exist_ok=True)
        # Two workers may write the same part, where one was taken for dead: never the same file.
        write_durably(folder_ / name, content, temporary_suffix=f".{uuid4().hex}.tmp")

    def read(self, name: str) -> tuple[LatentSpec, list[CompressedDocument]]:
        """What a part holds, and what it was made with.

        Raises:
            DataError: It is not there.
            FormatError: It is damaged.
        """
        system, folder = self._system()
        try:
            content = system.cat_file(f"{folder}/{name}")
        except FileNotFoundError as error:
            raise DataError(
                f"the part {name} was finished but is not in {self.place}; choose a folder that "
                "all workers see, with --parts"
            ) from error
        try:
            return unpacked(content)
        except Exception as error:  # safetensors, json and torch raise many unrelated types
            raise FormatError(
                f"the part {name} in {self.place} is damaged ({type(error).__name__}); delete it "
                "and run the same command again"
            ) from error

    def documents(self) -> Iterator[CompressedDocument]:
        """The documents of all parts, in their order.

        Raises:
            DataError: There are none.
            FormatError: A part is damaged.
            IndexMismatch: Parts were made by different models.
        """
        first: LatentSpec | None = None
        for name in self.names():
            spec, items = self.read(name)
            first = first or spec
            if any(getattr(spec, one) != getattr(first, one) for one in COMPARED):
                raise IndexMismatch(
                    f"the parts in {self.place} were made by different models, {first.model} and "
                    f"{spec.model} among them; join those of one model only"
                )
            yield from items

    def spec(self) -> LatentSpec:
        """What the first part was made with.

        Raises:
            DataError: There are none.
            FormatError: It is damaged.
        """
        return self.read(self.names()[0])[0]

    def remove(self, name: str) -> None:
        """Remove a part."""
        system, folder = self._system()
        system.rm_file(f"{folder}/{name}")

    def clear(self) -> None:
        """Remove the folder with all that is left in it, if it is there."""
        system, folder = self._system()
        if system.exists(folder):
            system.rm(folder, recursive=True)

    def _system(self) -> tuple[Any, str]:
        import fsspec

        system, folder = fsspec.core.url_to_fs(self.place)
        return system, str(folder).rstrip("/")


def packed_documents(documents: Sequence[Document]) -> bytes:
    """Documents as bytes, all of each exactly."""
    return json.dumps([_fields(one) for one in documents]).encode()


def unpacked_documents(content: bytes) -> list[Document]:
    """What `packed_documents` was given."""
    return [Document(**fields) for fields in json.loads(content)]


def packed(spec: LatentSpec, items: Sequence[CompressedDocument]) -> bytes:
    """A part as bytes."""
    about = {
        "format": FORMAT,
        "spec": asdict(spec),
        "documents": [
            _fields(item.document)
            | {"chunks": [[one.start, one.end, one.n_tokens] for one in item.chunks]}
            for item in items
        ],
    }
    text = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
    latents_NMD = torch.cat([item.latents for item in items])
    return save({"about": text, "latents": latents_NMD.contiguous()})


def unpacked(content: bytes) -> tuple[LatentSpec, list[CompressedDocument]]:
    """What `packed` was given.

    Raises:
        ValueError: It is something else.
    """
    tensors = load(content)
    about = json.loads(tensors["about"].numpy().tobytes())
    if about["format"] != FORMAT:
        raise ValueError(about["format"])
    return LatentSpec(**about["spec"]), list(_items(about["documents"], tensors["latents"]))


def _items(rows: Sequence[dict[str, Any]], latents_NMD: torch.Tensor) -> Iterator[Any]:
    first = 0
    for row in rows:
        chunks = tuple(Chunk(*values) for values in row.pop("chunks"))
        own_CMD = latents_NMD[first : first + len(chunks)]
        first += len(chunks)
        yield CompressedDocument(Document(**row), chunks, own_CMD)


def _fields(document: Document) -> dict[str, Any]:
    return asdict(document) | {"metadata": dict(document.metadata)}
