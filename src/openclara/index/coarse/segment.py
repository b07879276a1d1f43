"""Codes of the chunks of a range of keys: one file, read through a map."""

# N chunks, M memory tokens, B bytes of a code, H of its head,
# S chunks of a sample, T latents, D width, V vectors of a question, K bits of a code

from __future__ import annotations

import hashlib
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from openclara.index.coarse.codes import SCHEME, code_bytes, codes, head_bytes
from openclara.index.coarse.estimating import BLOCK_CHUNKS, estimates
from openclara.index.coarse.lists import Lists, sample_size
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

    Attributes:
        sample: So many of the chunks `learn` is to be given first, evenly chosen; 0 for none.
    """

    def __init__(self, spec: LatentSpec, chunks: int) -> None:
        late = spec.score == "late"
        self.sample = -(-sample_size(chunks * spec.n_memory) // spec.n_memory) if late else 0
        self._keys_N = np.empty(chunks, dtype=np.int64)
        self._codes_NMB = np.empty((chunks, spec.n_memory, code_bytes(spec)), dtype=np.uint8)
        self._head = 0 if late else head_bytes(spec)
        self._lists: Lists | None = None
        self._filled = 0

    def learn(self, latents_SMD: Tensor) -> None:
        """Find the centroids of the lists that all chunks go into."""
        n_latents = self._codes_NMB.shape[0] * self._codes_NMB.shape[1]
        self._lists = Lists.learned(latents_SMD.flatten(0, 1), n_latents)

    def add(self, keys_N: npt.NDArray[np.int64], latents_NMD: Tensor) -> None:
        """Put in some chunks."""
        part = slice(self._filled, self._filled + len(keys_N))
        self._keys_N[part] = keys_N
        self._codes_NMB[part] = codes(latents_NMD)
        if self._lists is not None:
            self._lists.add(latents_NMD.flatten(0, 1))
        self._filled = part.stop

    def write(self, layout: Layout, key: int, first: int, last: int) -> SegmentRecord:
        """Write it to the disk; it counts once the database records it.

        Raises:
            OSError: The disk is full or the folder cannot be written; nothing is left behind.
        """
        arrays: dict[str, npt.NDArray[Any]] = {"keys": self._keys_N, "codes": self._codes_NMB}
        metadata = {}
        if self._head:
            arrays["heads"] = self._heads()
        if self._lists is not None:
            arrays["lists"] = self._lists.content()
            metadata["lists"] = _hash(arrays["lists"])
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        content = save(tensors, metadata)
        name = layout.segment_name(key)
        write_durably(layout.folder / name, content, temporary_suffix=layout.temporary_suffix)
        digest = hashlib.sha256(content).hexdigest()
        n_chunks = len(self._keys_N)
        return SegmentRecord(key, name, first, last, n_chunks, SCHEME, len(content), digest)

    def _heads(self) -> npt.NDArray[np.uint8]:
        """What is read for every question, in the order in which it is read."""
        n_chunks, n_memory, _ = self._codes_NMB.shape
        one = n_memory * self._head
        heads = np.empty(n_chunks * one, dtype=np.uint8)
        for start in range(0, n_chunks, BLOCK_CHUNKS):
            block_NMH = self._codes_NMB[start : start + BLOCK_CHUNKS, :, : self._head]
            end = start + len(block_NMH)
            heads[start * one : end * one] = block_NMH.transpose(1, 0, 2).reshape(-1)
        return heads


class Segment:
    """Codes on the disk. Pages are read when touched and shared with other readers.

    Lists are read into memory when they are first asked.

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
            held = set(file.keys())
            self.keys: npt.NDArray[np.int64] = file.get_tensor("keys").numpy()
            self._codes_NMB: npt.NDArray[np.uint8] = file.get_tensor("codes").numpy()
            self._heads = file.get_tensor("heads").numpy() if "heads" in held else None
            self._written = file.get_tensor("lists").numpy() if "lists" in held else None
            self._digest = (file.metadata() or {}).get("lists")
        if self._codes_NMB.shape != (len(self.keys), spec.n_memory, code_bytes(spec)):
            raise ValueError(f"{path} does not hold the codes that were written")
        self.record = record
        self._spec = spec
        self._lock = Lock()
        self._lists: Lists | None = None

    def first_estimates(
        self,
        vectors_VD: Tensor,
        asked_KV: Tensor,
        n_memory: int,
        count: int,
        allowed: npt.NDArray[np.int64] | None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32] | None]:
        """Rows of chunks that may be among the best, and estimates of their scores.

        Those of lists are scores, those of heads are in the order of scores. Where there are
        neither, all rows that are allowed, and None.

        Args:
            vectors_VD: The question.
            asked_KV: What `asked_codes` returned for it.
            n_memory: Memory tokens of a chunk that count.
            count: Latents to find in lists, for each vector.
            allowed: Ascending chunk keys to choose from; None for all.
        """
        allowed_N = None if allowed is None else np.isin(self.keys, allowed, assume_unique=True)
        rows_N = np.arange(len(self.keys)) if allowed_N is None else np.flatnonzero(allowed_N)
        if self._heads is not None:
            return rows_N, self._by_heads(self._heads, asked_KV, n_memory)[rows_N]
        lists = self._opened()
        if lists is None:
            return rows_N, None
        allowed_T = None
        if allowed_N is not None or n_memory < self._spec.n_memory:
            counted_M = np.arange(self._spec.n_memory) < n_memory
            chosen_N = np.ones(len(self.keys), np.bool_) if allowed_N is None else allowed_N
            allowed_T = (chosen_N[:, None] & counted_M).ravel()
        return lists.nearest(vectors_VD, count, self._spec.n_memory, allowed_T)

    def closer(
        self, rows_N: npt.NDArray[np.int64], asked_KV: Tensor, n_memory: int
    ) -> npt.NDArray[np.int32]:
        """Estimated scores of a few rows by their whole codes."""
        starts = range(0, len(rows_N), BLOCK_CHUNKS)
        parts = [rows_N[start : start + BLOCK_CHUNKS] for start in starts]
        blocks = [self._codes_NMB[part][:, :n_memory].transpose(1, 0, 2) for part in parts]
        return estimates(blocks, asked_KV, self._spec.score)

    def _by_heads(
        self, heads: npt.NDArray[np.uint8], asked_KV: Tensor, n_memory: int
    ) -> npt.NDArray[np.float32]:
        head = head_bytes(self._spec)
        one = self._spec.n_memory * head
        starts = range(0, len(self.keys), BLOCK_CHUNKS)
        parts = [heads[start * one : (start + BLOCK_CHUNKS) * one] for start in starts]
        blocks = [part.reshape(self._spec.n_memory, -1, head)[:n_memory] for part in parts]
        found_N = estimates(blocks, asked_KV[: 8 * head], self._spec.score)
        return found_N.astype(np.float32)

    def _opened(self) -> Lists | None:
        """Its lists; None where it is small, or where they cannot be read.

        They are parsed by code that trusts them, so their hash is compared first.
        """
        with self._lock:
            if self._written is not None:
                if _hash(self._written) == self._digest:
                    with suppress(RuntimeError):  # of a later version of faiss
                        self._lists = Lists.read(self._written)
                self._written = None
            return self._lists


def _hash(content_B: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(content_B.data).hexdigest()


def segment_damage(layout: Layout, record: SegmentRecord) -> str | None:
    """What is wrong with the file of a segment, read whole; None when it is what was written."""
    path = layout.folder / record.name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path} is missing"
    return None if digest == record.sha256 else f"{path} does not have the content that was written"
