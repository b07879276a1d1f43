"""Ranking chunks: exact cosine over memory-mapped shards, BM25 over words, and the two fused."""

# Q questions, N rows, B rows of a block, P memory tokens of a prefix, D width, E = P * D flattened

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.shards import Shard
    from openclara.index.views import View

BLOCK_BYTES = 8 * 2**20
"""Float32 bytes scored at once: small enough to stay in a core's cache between its two reads."""

FUSION_CONSTANT = 60
"""Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet"."""

TOLERANCE = 1e-5
"""More than a blocked float32 product of unit vectors is off; nearer ones are computed again."""


def unit(latents_QPD: Tensor) -> Tensor:
    """Latents flattened to float32 unit vectors, (Q, E); zero stays zero."""
    flat_QE = latents_QPD.detach().cpu().float().flatten(1)
    norms_Q = torch.linalg.vector_norm(flat_QE, dim=1, keepdim=True)
    return flat_QE / torch.where(norms_Q > 0, norms_Q, 1.0)


def nearest(
    view: View,
    queries_QE: Tensor,
    *,
    n_memory: int,
    k: int,
    allowed: npt.NDArray[np.int64] | None,
) -> list[list[int]]:
    """The chunks of highest cosine, exactly.

    Args:
        view: Where to look.
        queries_QE: Unit vectors, (Q, E).
        n_memory: P, so that E = P * D.
        k: How many.
        allowed: Ascending chunk keys to choose from; None for all.

    Returns:
        For each query a few more than k chunk keys, the k nearest among them, in no order: which
        of two nearly equal ones is nearer is for `cosines` to say.
    """
    best = [_Best(k) for _ in range(len(queries_QE))]
    for live in view.live:
        keys_N, rows_N = live.keys, live.rows
        if allowed is not None:
            chosen_N = np.isin(keys_N, allowed, assume_unique=True)
            keys_N, rows_N = keys_N[chosen_N], rows_N[chosen_N]
        if len(rows_N):
            scores_QN = _scores(view.shards[live.record.key], rows_N, queries_QE, n_memory=n_memory)
            for query, scores_N in zip(best, scores_QN, strict=True):
                query.offer(scores_N, keys_N)
    return [query.keys.tolist() for query in best]


def cosines(
    view: View,
    places: Sequence[tuple[int, int]],
    query_E: Tensor,
    *,
    n_memory: int,
) -> list[float]:
    """The cosine of single rows with a query, the same wherever a row is stored.

    Summed in float64 and rounded to float32, so that equal latents get equal scores: a float32
    matrix product differs in its last bits with the size of the block a row happens to be in.

    Args:
        view: Where the rows are.
        places: Shard key and row of each.
        query_E: A unit vector.
        n_memory: P.
    """
    query_64 = query_E.double()
    # A chunk of a few rows at a time bounds the float64 copy.
    found = np.zeros(len(places), dtype=np.float32)
    order = sorted(range(len(places)), key=places.__getitem__)
    for positions in _same_shard(places, order, size=max(1, BLOCK_BYTES // (8 * len(query_E)))):
        shard = view.shards[places[positions[0]][0]]
        rows_N = np.array([places[position][1] for position in positions], dtype=np.int64)
        flat_NE = shard.flattened(rows_N, n_memory).double()
        norms_N = torch.linalg.vector_norm(flat_NE, dim=1)
        products_N = flat_NE @ query_64
        found[positions] = (products_N / torch.where(norms_N > 0, norms_N, 1.0)).float().numpy()
    return found.tolist()


FUNCTION_WORDS = frozenset(
    [
        "a",
        "about",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "by",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "in",
        "into",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "that",
        "the",
        "their",
        "these",
        "they",
        "this",
        "those",
        "to",
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
    ]
)
"""English words that carry structure, not content."""


def words_of(question: str) -> str | None:
    """A question as an FTS5 expression that any of its words satisfies; None where it has no word.

    Whatever the user typed is data: operators, quotes and wildcards become separators. Words that
    most English texts hold are left out while others remain: BM25 gives them next to no weight,
    and each would make the database score nearly every chunk.
    """
    kept = (c if unicodedata.category(c)[0] in "LNM" else " " for c in question)
    words = list(dict.fromkeys("".join(kept).split()))
    words = [word for word in words if word.lower() not in FUNCTION_WORDS] or words
    return " OR ".join(f'"{word}"' for word in words) or None


def by_words(
    connection: sqlite3.Connection,
    expression: str | None,
    *,
    k: int,
    among: Sequence[int] | None,
) -> dict[int, float]:
    """Chunks that hold any of the words, best BM25 first.

    Args:
        connection: In a transaction.
        expression: What `words_of` made.
        k: How many at most.
        among: Chunk keys to choose from; None for all.

    Returns:
        Chunk key to BM25, larger is better; equal scores in the order they were inserted.
    """
    if expression is None:
        return {}
    restriction, parameters = "", [expression]
    if among is not None:
        restriction = "AND rowid IN (SELECT value FROM json_each(?))"
        parameters.append(json.dumps(among))
    query = (
        f"SELECT rowid, bm25(words) AS score FROM words WHERE words MATCH ? {restriction} "
        f"ORDER BY score, rowid LIMIT {k:d}"
    )
    # SQLite's bm25 is negative so that ascending order is best first.
    return {key: -score for key, score in connection.execute(query, parameters)}


def allowed_chunks(
    connection: sqlite3.Connection, condition: str, parameters: Sequence[str | int | float]
) -> npt.NDArray[np.int64]:
    """The chunks of the documents that satisfy an SQL condition, ascending."""
    query = (
        "SELECT chunks.key FROM chunks JOIN documents ON documents.key = chunks.document "
        f"WHERE {condition} ORDER BY chunks.key"
    )
    rows = connection.execute(query, parameters)
    return np.fromiter((key for (key,) in rows), dtype=np.int64)


def fuse(
    cosine: Mapping[int, float], bm25: Mapping[int, float], *, latent_weight: float = 0.5
) -> dict[int, float]:
    """Reciprocal rank fusion of two orders, best first.

    Args:
        cosine: Every candidate with its cosine.
        bm25: Those of them that the words of the question nominated.
        latent_weight: Part of the first order in the sum, 0 to 1.

    Returns:
        Candidate to score, 1.0 for one that leads both orders; ties go to the higher cosine.
    """
    scores = dict.fromkeys(cosine, 0.0)
    for order, weight in ((cosine, latent_weight), (bm25, 1 - latent_weight)):
        for rank, key in enumerate(sorted(order, key=lambda key: (-order[key], key)), start=1):
            scores[key] += weight * (FUSION_CONSTANT + 1) / (FUSION_CONSTANT + rank)
    ranked = sorted(scores, key=lambda key: (-scores[key], -cosine[key], key))
    return {key: scores[key] for key in ranked}


class _Best:
    """The best chunks of one query so far, and those too near to the last of them to tell."""

    def __init__(self, k: int) -> None:
        self._k = k
        self.keys: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._scores: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def offer(self, scores_N: npt.NDArray[np.float32], keys_N: npt.NDArray[np.int64]) -> None:
        scores_N = np.concatenate((self._scores, scores_N))
        keys_N = np.concatenate((self.keys, keys_N))
        if len(scores_N) > self._k:
            last = np.partition(scores_N, -self._k)[-self._k]
            chosen_N = np.flatnonzero(scores_N >= last - TOLERANCE)
            near_N = chosen_N[scores_N[chosen_N] <= last + TOLERANCE]
            # Thousands of copies of one chunk would all be kept; the earliest win the tie anyway.
            if len(near_N) > 2 * self._k + 1024:
                surplus_N = near_N[np.argsort(keys_N[near_N])][2 * self._k + 1024 :]
                chosen_N = np.setdiff1d(chosen_N, surplus_N, assume_unique=True)
            scores_N, keys_N = scores_N[chosen_N], keys_N[chosen_N]
        self._scores, self.keys = scores_N, keys_N


def _scores(
    shard: Shard, rows_N: npt.NDArray[np.int64], queries_QE: Tensor, *, n_memory: int
) -> npt.NDArray[np.float32]:
    """Cosines of some rows of a shard with every query, (Q, N), to about 1e-6."""
    scores_QN = np.empty((len(queries_QE), len(rows_N)), dtype=np.float32)
    size = max(1, BLOCK_BYTES // (4 * queries_QE.shape[1]))
    for start in range(0, len(rows_N), size):
        rows_B = rows_N[start : start + size]
        flat_BE = shard.flattened(rows_B, n_memory)
        norms_B = shard.norms(rows_B, n_memory, flat_BE)
        block_QB = queries_QE @ flat_BE.T / torch.where(norms_B > 0, norms_B, 1.0)
        scores_QN[:, start : start + size] = block_QB.numpy()
    return scores_QN


def _same_shard(
    places: Sequence[tuple[int, int]], order: Sequence[int], *, size: int
) -> Iterator[list[int]]:
    """Positions in `order`, in lists of at most `size` that share a shard."""
    batch: list[int] = []
    for position in order:
        if batch and (len(batch) == size or places[position][0] != places[batch[0]][0]):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
