"""Ranking chunks: exact scores over memory-mapped shards, BM25 over words, and the two fused."""

# Q questions, N rows, B rows of a block, M memory tokens of a prefix, D width

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from openclara.index.shards import gathered

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from openclara.index.comparing import Queries
    from openclara.index.shards import Shard
    from openclara.index.views import LiveRows, View

BLOCK_BYTES = 8 * 2**20
"""Float32 bytes scored at once: small enough to stay in a core's cache between its two reads."""

FUSION_CONSTANT = 60
"""Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet"."""

TOLERANCE = 1e-5
"""More than a blocked float32 product of unit vectors is off; nearer ones are computed again."""


def nearest(
    view: View,
    among: Sequence[LiveRows],
    asked: Queries,
    n_queries: int,
    *,
    k: int,
    allowed: npt.NDArray[np.int64] | None,
) -> list[list[int]]:
    """The chunks of highest score, exactly.

    Args:
        view: Where to look.
        among: Rows to choose from.
        asked: What the questions are compared by.
        n_queries: Q.
        k: How many.
        allowed: Ascending chunk keys to choose from; None for all.

    Returns:
        For each query a few more than k chunk keys, the k nearest among them, in no order: which
        of two nearly equal ones is nearer is for `exact` to say.
    """
    best = [_Best(k) for _ in range(n_queries)]
    for live in among:
        keys_N, rows_N = live.keys, live.rows
        if allowed is not None:
            chosen_N = np.isin(keys_N, allowed, assume_unique=True)
            keys_N, rows_N = keys_N[chosen_N], rows_N[chosen_N]
        if len(rows_N):
            scores_QN = _scores(view.shards[live.record.key], rows_N, asked, n_queries)
            for query, scores_N in zip(best, scores_QN, strict=True):
                query.offer(scores_N, keys_N)
    return [query.keys.tolist() for query in best]


def nearest_of(
    view: View, few: Sequence[LiveRows], asked: Queries, *, k: int
) -> npt.NDArray[np.int64]:
    """As `nearest`, for one question and rows that lie scattered over many shards.

    Returns:
        The chunk keys, best first; the last are equally near.
    """
    best = _Best(k)
    width = next((shard.width for shard in view.shards.values()), 1)
    size = max(1, BLOCK_BYTES // (4 * asked.n_memory * width))
    for block in _blocks(few, size=size):
        parts = [(view.shards[live.record.key], live.rows) for live in block]
        latents_BMD = gathered(parts, asked.n_memory)
        scores_1B = asked.scores(latents_BMD, asked.norms(latents_BMD)).numpy()
        best.offer(scores_1B[0], np.concatenate([live.keys for live in block]))
    return best.ordered()


def exact(
    view: View, places: Sequence[tuple[int, int]], asked: Queries, question: int
) -> list[float]:
    """The score of single rows with a question, the same wherever a row is stored.

    Args:
        view: Where the rows are.
        places: Shard key and row of each.
        asked: What the questions are compared by.
        question: Which of them.
    """
    # A chunk of a few rows at a time bounds the float64 copy.
    found = np.zeros(len(places), dtype=np.float32)
    order = sorted(range(len(places)), key=places.__getitem__)
    width = next((shard.width for shard in view.shards.values()), 1)
    size = max(1, BLOCK_BYTES // (8 * asked.n_memory * width))
    for positions in _same_shard(places, order, size=size):
        shard = view.shards[places[positions[0]][0]]
        rows_N = np.array([places[position][1] for position in positions], dtype=np.int64)
        latents_NMD = shard.prefixes(rows_N, asked.n_memory)
        found[positions] = asked.exactly(question, latents_NMD).numpy()
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

    def ordered(self) -> npt.NDArray[np.int64]:
        """The keys, best first."""
        return self.keys[np.argsort(-self._scores, kind="stable")]

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
    shard: Shard, rows_N: npt.NDArray[np.int64], asked: Queries, n_queries: int
) -> npt.NDArray[np.float32]:
    """Scores of some rows of a shard with every query, (Q, N), to about 1e-6."""
    scores_QN = np.empty((n_queries, len(rows_N)), dtype=np.float32)
    size = max(1, BLOCK_BYTES // (4 * asked.n_memory * shard.width))
    for start in range(0, len(rows_N), size):
        rows_B = rows_N[start : start + size]
        latents_BMD = shard.prefixes(rows_B, asked.n_memory)
        norms = shard.norms(rows_B, latents_BMD, asked)
        scores_QN[:, start : start + size] = asked.scores(latents_BMD, norms).numpy()
    return scores_QN


def _blocks(few: Sequence[LiveRows], *, size: int) -> Iterator[list[LiveRows]]:
    """The same rows in lists of `size` together."""
    block: list[LiveRows] = []
    room = size
    for live in few:
        start = 0
        while start < len(live.rows):
            end = min(len(live.rows), start + room)
            block.append(replace(live, keys=live.keys[start:end], rows=live.rows[start:end]))
            room, start = room - (end - start), end
            if not room:
                yield block
                block, room = [], size
    if block:
        yield block


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
