"""Codes of the chunks of a range of keys: one file, read through a map."""

# N chunks, M memory tokens, B bytes of a code, H of its head

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from openclara.index.coarse.codes import SCHEME, code_bytes, codes, head_bytes
from openclara.index.coarse.estimating import BLOCK_CHUNKS, estimates
from openclara.index.coarse.records import SegmentRecord
from openclara.index.layout import write_durably

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.layout import Layout
    from openclara.types import LatentSpec


class NewSegment:
    """Codes of some chunks in memory.

    Args:
        spec: What the latents are.
        chunks: N, how many will be put in.
    """

    def __init__(self, spec: LatentSpec, chunks: int) -> None:
        self._keys_N = np.empty(chunks, dtype=np.int64)
        self._codes_NMB = np.empty((chunks, spec.n_memory, code_bytes(spec)), dtype=np.uint8)
        self._head = head_bytes(spec)
        self._filled = 0

    def add(self, keys_N: npt.NDArray[np.int64], latents_NMD: Tensor) -> None:
        """Put in some chunks."""
        part = slice(self._filled, self._filled + len(keys_N))
        self._keys_N[part] = keys_N
        self._codes_NMB[part] = codes(latents_NMD)
        self._filled = part.stop

    def write(self, layout: Layout, key: int, first: int, last: int) -> SegmentRecord:
        """Write it to the disk; it counts once the database records it.

        Raises:
            OSError: The disk is full or the folder cannot be written; nothing is left behind.
        """
        n_chunks, n_memory, _ = self._codes_NMB.shape
        # What is read for every question lies in the order in which it is read.
        heads = np.empty(n_chunks * n_memory * self._head, dtype=np.uint8)
        for start in range(0, n_chunks, BLOCK_CHUNKS):
            block_NMH = self._codes_NMB[start : start + BLOCK_CHUNKS, :, : self._head]
            end = start + len(block_NMH)
            one = n_memory * self._head
            heads[start * one : end * one] = block_NMH.transpose(1, 0, 2).reshape(-1)
        tensors = {"keys": self._keys_N, "codes": self._codes_NMB, "heads": heads}
        content = save({name: torch.from_numpy(array) for name, array in tensors.items()})
        name = layout.segment_name(key)
        write_durably(layout.folder / name, content, temporary_suffix=layout.temporary_suffix)
        digest = hashlib.sha256(content).hexdigest()
        return SegmentRecord(key, name, first, last, n_chunks, SCHEME, len(content), digest)


class Segment:
    """Codes on the disk. Pages are read when touched and shared with other readers.

    Attributes:
        record: What the database knows of it.
        keys: (N,) its chunks.
    """

    def __init__(self, layout: Layout, spec: LatentSpec, record: SegmentRecord) -> None:
        """Map the file.

        Raises:
            OSError: It is missing or not as long as it was written.
            SafetensorError: It is not what was written.
            ValueError: It does not hold what its record says.
        """
        path = layout.folder / record.name
        if path.stat().st_size != record.bytes:
            raise OSError(f"{path} is not as long as it was written")
        with safe_open(path, framework="pt") as file:
            self.keys: npt.NDArray[np.int64] = file.get_tensor("keys").numpy()
            self._codes_NMB: npt.NDArray[np.uint8] = file.get_tensor("codes").numpy()
            self._heads: npt.NDArray[np.uint8] = file.get_tensor("heads").numpy()
        if self._codes_NMB.shape != (len(self.keys), spec.n_memory, code_bytes(spec)):
            raise ValueError(f"{path} does not hold the codes that were written")
        self.record = record
        self._spec = spec

    def estimates(self, asked_KV: Tensor, n_memory: int) -> npt.NDArray[np.int32]:
        """Estimated scores of all its chunks by the heads of their codes, in the order of `keys`.

        Args:
            asked_KV: What `asked_codes` returned.
            n_memory: Memory tokens of a chunk that count.
        """
        head = head_bytes(self._spec)
        one = self._spec.n_memory * head
        starts = range(0, len(self.keys), BLOCK_CHUNKS)
        parts = [self._heads[start * one : (start + BLOCK_CHUNKS) * one] for start in starts]
        blocks = [part.reshape(self._spec.n_memory, -1, head)[:n_memory] for part in parts]
        return estimates(blocks, asked_KV[: 8 * head], self._spec.score)

    def closer(
        self, rows_N: npt.NDArray[np.int64], asked_KV: Tensor, n_memory: int
    ) -> npt.NDArray[np.int32]:
        """As `estimates`, of a few rows by their whole codes."""
        starts = range(0, len(rows_N), BLOCK_CHUNKS)
        parts = [rows_N[start : start + BLOCK_CHUNKS] for start in starts]
        blocks = [self._codes_NMB[part][:, :n_memory].transpose(1, 0, 2) for part in parts]
        return estimates(blocks, asked_KV, self._spec.score)


def segment_damage(layout: Layout, record: SegmentRecord) -> str | None:
    """What is wrong with the file of a segment, read whole; None when it is what was written."""
    path = layout.folder / record.name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path} is missing"
    return None if digest == record.sha256 else f"{path} does not have the content that was written"
