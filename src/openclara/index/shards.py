"""Files of latents: append-only safetensors, written whole, read through a memory map."""

# N rows, P memory tokens of a prefix, D width, E = P * D flattened

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from openclara.errors import FormatError
from openclara.index.layout import write_durably
from openclara.index.quantization import bytes_per_chunk, dequantize, shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.comparing import Queries
    from openclara.index.layout import Layout, Manifest

SHARD_BYTES = 64 * 2**20
"""A merged shard grows to this size; one document may still be larger."""


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A shard as the database knows it.

    Attributes:
        key: Its number; never used twice.
        name: Its file.
        rows: Rows of latents in it, dead ones included.
        bytes: Size of the file.
        sha256: Hash of the file.
    """

    key: int
    name: str
    rows: int
    bytes: int
    sha256: str


def write_shard(layout: Layout, stored: dict[str, Tensor], key: int) -> ShardRecord:
    """Write one shard to the disk; it counts once the database records it.

    Args:
        layout: Where.
        stored: What `quantize` returned, at least one row.
        key: An unused number.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    content = save(stored)
    name = layout.shard_name(key)
    write_durably(layout.shard(name), content, temporary_suffix=layout.temporary_suffix)
    rows = next(iter(stored.values())).shape[0]
    return ShardRecord(key, name, rows, len(content), hashlib.sha256(content).hexdigest())


def damage(layout: Layout, record: ShardRecord) -> str | None:
    """What is wrong with the file of a shard, read whole; None when it is what was written.

    Raises:
        OSError: The file exists and cannot be read.
    """
    path = layout.shard(record.name)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path} is missing"
    if size != record.bytes:
        return f"{path} has {size} bytes and was written with {record.bytes}"
    if digest != record.sha256:
        return f"{path} does not have the content that was written"
    return None


def damaged(layout: Layout, problem: str) -> FormatError:
    """The error for damage that `verify` can mend."""
    return FormatError(
        f"{problem}: run `openclara index verify {layout.folder} --repair`, "
        f"which drops the documents concerned, then add the files again"
    )


class Shard:
    """An open shard. Pages are read when touched and shared with other readers."""

    def __init__(self, layout: Layout, manifest: Manifest, record: ShardRecord) -> None:
        """Map the file.

        Raises:
            FileNotFoundError: It is gone; the caller's view may be older than a compaction.
            FormatError: It is truncated or not what was written.
        """
        path = layout.shard(record.name)
        size = path.stat().st_size
        if size != record.bytes:
            raise damaged(layout, f"{path} has {size} bytes and was written with {record.bytes}")
        spec = manifest.spec
        self.record = record
        self.quantization = manifest.quantization
        self.width = spec.width
        try:
            with safe_open(path, framework="pt") as file:
                self._stored: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise damaged(layout, f"{path} cannot be read ({error})") from error
        except RuntimeError as error:
            # torch opens the file once more by itself; a compaction may be quicker.
            if path.exists():
                raise
            raise FileNotFoundError(path) from error
        expected = shapes(self.quantization, n_memory=spec.n_memory, width=spec.width)
        found = {name: tuple(tensor.shape) for name, tensor in self._stored.items()}
        if found != {name: (record.rows, *shape) for name, shape in expected.items()}:
            raise damaged(layout, f"{path} does not hold the latents that were written")
        self._norms: dict[tuple[str, int], npt.NDArray[np.float32]] = {}

    def stored(self, rows_N: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """A copy of some rows as they are stored."""
        index_N = torch.from_numpy(rows_N)
        return {name: tensor[index_N] for name, tensor in self._stored.items()}

    def latents(self, row: int, n_memory: int) -> Tensor:
        """A copy of one row, (P, D): bfloat16 where stored so, else float32."""
        if self.quantization == "bf16":
            return self._stored["latents"][row, :n_memory].clone()
        return self._prefix(slice(row, row + 1), n_memory)[0].clone()

    def prefixes(self, rows_N: npt.NDArray[np.int64], n_memory: int) -> Tensor:
        """The first `n_memory` latents of some rows, (N, M, D) float32."""
        first, last = int(rows_N[0]), int(rows_N[-1])
        # A slice reads the map in place; an index copies first.
        dense = last - first + 1 == len(rows_N)
        index = slice(first, last + 1) if dense else torch.from_numpy(rows_N)
        return self._prefix(index, n_memory)

    def norms(self, rows_N: npt.NDArray[np.int64], latents_NMD: Tensor, asked: Queries) -> Tensor:
        """Norms of some rows as `asked` wants them, computed once for each row and prefix length.

        Args:
            rows_N: Which rows.
            latents_NMD: Their latents.
            asked: What they will be compared with.
        """
        key = (asked.name, asked.n_memory)
        known = self._norms.get(key)
        if known is None or np.isnan(known[rows_N]).any():
            norms = asked.norms(latents_NMD).numpy()
            if known is None:
                known = np.full((self.record.rows, *norms.shape[1:]), np.nan, dtype=np.float32)
                self._norms[key] = known
            known[rows_N] = norms
        return torch.from_numpy(known[rows_N])

    def _prefix(self, index: slice | Tensor, n_memory: int) -> Tensor:
        part = {name: tensor[:, :n_memory][index] for name, tensor in self._stored.items()}
        return dequantize(part, self.quantization, width=self.width)


def gathered(parts: Sequence[tuple[Shard, npt.NDArray[np.int64]]], n_memory: int) -> Tensor:
    """The first `n_memory` latents of rows of several shards, (N, M, D) float32.

    Args:
        parts: Shards and rows of each, together at least one row.
        n_memory: M.
    """
    copies = [shard.stored(rows_N) for shard, rows_N in parts]
    stored = {name: torch.cat([copy[name][:, :n_memory] for copy in copies]) for name in copies[0]}
    first = parts[0][0]
    return dequantize(stored, first.quantization, width=first.width)


def rows_per_shard(manifest: Manifest) -> int:
    """Rows that fill a merged shard."""
    spec = manifest.spec
    row = bytes_per_chunk(manifest.quantization, n_memory=spec.n_memory, width=spec.width)
    return max(1, SHARD_BYTES // row)
