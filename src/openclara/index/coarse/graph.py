"""One graph of codes (HNSW, Malkov and Yashunin 2016), made by usearch, read through a map."""

# V vectors, B bytes of a code, C nearest of each

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from openclara.index.coarse.codes import SCHEME, bits, vectors_per_chunk
from openclara.index.coarse.records import GraphRecord
from openclara.index.layout import sync_folder

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from openclara.index.layout import Layout
    from openclara.types import LatentSpec

CONNECTIVITY = 16
EXPANSION_ADD = 64
EXPANSION_SEARCH = 4
"""Codes that are looked at for each one wanted: questions lie far from all documents, and a graph
leads astray there."""


class NewGraph:
    """A graph in memory, about 0.5 kB a vector."""

    def __init__(self, spec: LatentSpec) -> None:
        self._per_chunk = vectors_per_chunk(spec)
        self._index = _empty(spec)
        self.chunks = 0

    def add(self, keys_N: npt.NDArray[np.int64], codes_VB: npt.NDArray[np.uint8]) -> None:
        """Add the codes of some chunks, a chunk's codes one after the other."""
        tokens = np.arange(self._per_chunk)
        labels = (keys_N[:, None] * self._per_chunk + tokens).ravel().astype(np.uint64)
        self._index.add(labels, codes_VB, threads=torch.get_num_threads())
        self.chunks += len(keys_N)

    def write(self, layout: Layout, key: int, first: int, last: int) -> GraphRecord:
        """Write it to the disk; it counts once the database records it.

        Raises:
            OSError: The disk is full or the folder cannot be written; nothing is left behind.
        """
        name = layout.graph_name(key)
        path = layout.folder / name
        temporary = path.with_name(name + layout.temporary_suffix)
        try:
            _save(self._index, temporary)
            size, digest = temporary.stat().st_size, _sha256(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        return GraphRecord(key, name, first, last, self.chunks, SCHEME, size, digest)


class Graph:
    """A graph on the disk. Pages are read when touched and shared with other readers."""

    def __init__(self, layout: Layout, spec: LatentSpec, record: GraphRecord) -> None:
        """Map the file.

        Raises:
            OSError: It is missing or not as long as it was written.
        """
        self.record = record
        self._per_chunk = vectors_per_chunk(spec)
        # One code of all latents together has so many bits that all others are nearly as far: a
        # graph over such leaves many unreachable. They are few, one a chunk, so all are compared.
        self._every = spec.score == "flat"
        path = layout.folder / record.name
        if path.stat().st_size != record.bytes:
            raise OSError(f"{path} is not as long as it was written")
        self._index = _empty(spec)
        self._index.view(path)
        # usearch keeps one working set for each of its threads, not for each of ours.
        self._lock = threading.Lock()

    def nearest(
        self, codes_VB: npt.NDArray[np.uint8], count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The stored codes that differ least from each of V codes.

        Args:
            codes_VB: What is looked for.
            count: How many for each, C at most.

        Returns:
            (V, C) chunk keys, -1 where fewer were found; (V, C) memory tokens; (V, C) bits in
            which they differ, ascending.
        """
        count = min(count, len(self._index))
        with self._lock:
            self._index.expansion_search = max(EXPANSION_SEARCH * count, EXPANSION_ADD)
            found = self._index.search(
                codes_VB, count, threads=torch.get_num_threads(), exact=self._every
            )
        shape = (len(codes_VB), -1)
        labels = np.asarray(found.keys).astype(np.int64).reshape(shape)
        differ = np.asarray(found.distances, dtype=np.float32).reshape(shape)
        if hasattr(found, "counts"):
            absent = np.arange(labels.shape[1]) >= np.asarray(found.counts)[:, None]
            labels[absent], differ[absent] = -self._per_chunk, np.inf
        return labels // self._per_chunk, labels % self._per_chunk, differ


def graph_damage(layout: Layout, record: GraphRecord) -> str | None:
    """What is wrong with the file of a graph, read whole; None when it is what was written."""
    path = layout.folder / record.name
    try:
        whole = path.stat().st_size == record.bytes and _sha256(path) == record.sha256
    except FileNotFoundError:
        return f"{path} is missing"
    return None if whole else f"{path} does not have the content that was written"


def _empty(spec: LatentSpec) -> Any:
    from usearch.index import Index

    return Index(
        ndim=bits(spec),
        metric="hamming",
        dtype="b1",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        enable_key_lookups=False,
    )


def _save(index: Any, path: Path) -> None:
    try:
        index.save(path)
    except RuntimeError as error:
        # usearch does not say which; a full disk is by far the likeliest.
        raise OSError(28, f"the graph could not be written ({error})", str(path)) from error
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
