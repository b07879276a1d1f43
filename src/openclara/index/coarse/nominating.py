"""Which chunks are worth an exact score."""

# N chunks, V vectors of a question, C nearest of each

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from openclara.index.coarse.codes import SCHEME, bits, codes
from openclara.index.coarse.graph import Graph
from openclara.index.coarse.records import graph_records
from openclara.index.coarse.settings import Coarse, available

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.comparing import Queries
    from openclara.index.layout import Layout
    from openclara.types import LatentSpec

SPREAD = 4
"""Candidates for each chunk that one latent of a question nominates: others nominate others."""

EXACT_SHARE = 8
"""A filter that leaves less than one in so many chunks is searched exactly."""

BESIDE = 16
"""Codes looked for beside each latent of a chunk that was found."""

WEIGHTLESS = 0.005
"""Part of a late score below which a question's latent nominates nothing."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """The graphs of one moment.

    Attributes:
        spec: What the latents are.
        chunks: Chunks of the index.
        graphs: Open graphs.
        waiting: Chunk keys in none of them, ascending.
    """

    spec: LatentSpec
    chunks: int
    graphs: Sequence[Graph]
    waiting: npt.NDArray[np.int64]

    @property
    def covers(self) -> bool:
        """Whether it pays to ask them: most chunks are in one."""
        return bool(self.graphs) and 4 * len(self.waiting) < self.chunks

    def nominate(
        self,
        asked: Queries,
        question: int,
        coarse: Coarse,
        allowed: npt.NDArray[np.int64] | None,
    ) -> npt.NDArray[np.int64] | None:
        """Chunk keys to be scored exactly, ascending; dead ones may be among them.

        Args:
            asked: What the questions are compared by.
            question: Which of them.
            coarse: How many are wanted.
            allowed: Ascending chunk keys to choose from; None for all.

        Returns:
            None where all chunks, or all that are allowed, had better be scored.
        """
        wanted = self.chunks if allowed is None else len(allowed)
        if coarse.from_chunks is None or self.chunks < coarse.from_chunks or not self.covers:
            return None
        if wanted <= coarse.candidates or wanted * EXACT_SHARE < self.chunks:
            return None
        if self.spec.score == "flat" and asked.n_memory != self.spec.n_memory:
            return None  # a code is of all latents together, and says nothing of the first few
        held = sum(graph.record.chunks for graph in self.graphs)
        # Codes of dead chunks, of chunks the filter leaves out and of latents that are not
        # compared take places: ask for more.
        alive = max(1, self.chunks - len(self.waiting))
        factor = max(1.0, held / alive) * self.chunks / wanted
        if self.spec.score == "late":
            factor *= self.spec.n_memory / asked.n_memory / SPREAD
        keys_N, scores_N = self._found(asked, question, int(coarse.candidates * factor) + 1)
        waiting = self.waiting
        if allowed is not None:
            chosen_N = np.isin(keys_N, allowed, assume_unique=True)
            keys_N, scores_N = keys_N[chosen_N], scores_N[chosen_N]
            waiting = np.intersect1d(waiting, allowed, assume_unique=True)
        if len(keys_N) > coarse.candidates:
            order = np.argsort(-scores_N, kind="stable")[: coarse.candidates]
            keys_N = keys_N[order]
        return np.union1d(keys_N, waiting)

    def beside(
        self,
        latents_V1D: Tensor,
        n_memory: int,
        allowed: npt.NDArray[np.int64] | None,
    ) -> npt.NDArray[np.int64]:
        """Chunk keys whose codes are near those of some latents, ascending; some may be dead.

        Args:
            latents_V1D: (V, 1, D) latents of the index.
            n_memory: Memory tokens of a chunk that count.
            allowed: Ascending chunk keys to choose from; None for all.
        """
        codes_VB = codes(latents_V1D, self.spec.score)
        parts = [graph.nearest(codes_VB, BESIDE) for graph in self.graphs]
        keys_VC, tokens_VC, _ = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        keys_N = np.unique(keys_VC[(keys_VC >= 0) & (tokens_VC < n_memory)])
        return keys_N if allowed is None else np.intersect1d(keys_N, allowed, assume_unique=True)

    def _found(
        self, asked: Queries, question: int, count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Chunk keys, ascending, and what their codes say of their scores."""
        vectors_VMD, weights_V = asked.vectors(question)
        kept_V = weights_V > WEIGHTLESS * weights_V.sum()
        if not kept_V.any():
            kept_V = torch.ones_like(kept_V)
        codes_VB = codes(vectors_VMD[kept_V], self.spec.score)
        parts = [graph.nearest(codes_VB, count) for graph in self.graphs]
        keys_VC, tokens_VC, differ_VC = (
            np.concatenate(part, axis=1) for part in zip(*parts, strict=True)
        )
        keys_VC = np.where(tokens_VC < asked.n_memory, keys_VC, -1)
        if keys_VC.shape[1] > count:
            best = np.argpartition(differ_VC, count - 1, axis=1)[:, :count]
            keys_VC = np.take_along_axis(keys_VC, best, axis=1)
            differ_VC = np.take_along_axis(differ_VC, best, axis=1)
        return _summed(keys_VC, differ_VC, weights_V[kept_V].numpy(), bits(self.spec))


def _summed(
    keys_VC: npt.NDArray[np.int64],
    differ_VC: npt.NDArray[np.float32],
    weights_V: npt.NDArray[np.float32],
    n_bits: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Chunks with the weighted sum of their best estimated cosines.

    A vector that did not nominate a chunk counts as the worst it nominated (Lee et al. 2023,
    "Rethinking the Role of Token Retrieval in Multi-Vector Retrieval").
    """
    keys_N, inverse = np.unique(keys_VC, return_inverse=True)
    inverse = inverse.reshape(keys_VC.shape)
    scores_N = np.zeros(len(keys_N), dtype=np.float32)
    for of_one, differ_C, weight in zip(inverse, differ_VC, weights_V, strict=True):
        known = np.isfinite(differ_C)
        cosines = np.cos(np.pi / n_bits * differ_C[known])
        gains_N = np.zeros(len(keys_N), dtype=np.float32)
        np.maximum.at(gains_N, of_one[known], cosines - cosines.min(initial=1.0))
        scores_N += weight * gains_N
    real = keys_N >= 0
    return keys_N[real], scores_N[real]


def open_graphs(
    connection: sqlite3.Connection, layout: Layout, spec: LatentSpec, before: Mapping[int, Graph]
) -> Graphs:
    """The graphs of a transaction. One that is missing or damaged is as if it were not built.

    Args:
        connection: In a transaction.
        layout: Where the files are.
        spec: What the latents are.
        before: Graphs that are open already, by key.
    """
    graphs: list[Graph] = []
    for record in graph_records(connection) if available() else []:
        if record.scheme != SCHEME:
            continue
        try:
            graphs.append(before.get(record.key) or Graph(layout, spec, record))
        except (OSError, RuntimeError):
            continue
    (chunks,) = connection.execute("SELECT count(*) FROM chunks").fetchone()
    if not graphs:
        return Graphs(spec, chunks, (), np.empty(0, dtype=np.int64))
    return Graphs(spec, chunks, graphs, _outside(connection, graphs))


def _outside(connection: sqlite3.Connection, graphs: Sequence[Graph]) -> npt.NDArray[np.int64]:
    """Chunk keys in the range of none of the graphs."""
    edges = [0, *(key for graph in graphs for key in (graph.record.first, graph.record.last))]
    gaps = [*zip(edges[::2], edges[1::2], strict=False), (edges[-1], 2**62)]
    query = "SELECT key FROM chunks WHERE key > ? AND key < ? ORDER BY key"
    keys = [key for gap in gaps for (key,) in connection.execute(query, gap)]
    return np.array(keys, dtype=np.int64)


def rows_of(
    connection: sqlite3.Connection, keys_N: npt.NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    """Shard, row and key of those chunks that exist, in the order they lie on the disk."""
    query = (
        "SELECT shard, row, key FROM chunks WHERE key IN (SELECT value FROM json_each(?)) "
        "ORDER BY shard, row"
    )
    return connection.execute(query, (json.dumps(keys_N.tolist()),)).fetchall()
