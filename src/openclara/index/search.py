"""Searching: from questions to hits."""

# Q questions, P memory tokens of a question, M of a chunk, D width

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch

from openclara.errors import ConfigError, DataError
from openclara.index import database as db
from openclara.index.comparing import queries
from openclara.index.ranking import (
    allowed_chunks,
    by_words,
    exact,
    fuse,
    nearest,
    nearest_of,
    words_of,
)
from openclara.index.writing import find
from openclara.types import Hit, Mode

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from openclara.index.coarse.settings import Coarse
    from openclara.index.comparing import Queries
    from openclara.index.views import View
    from openclara.types import Document, LatentSpec


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk with what it is ordered by."""

    key: int
    score: float
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk is: in which document, and in which row of which shard."""

    document: int
    start: int
    end: int
    n_tokens: int
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class Search:
    """A search whose arguments fit.

    Attributes:
        questions: Q texts.
        queries: The questions as they are compared; None only for a lexical search.
        n_memory: Memory tokens of a chunk that are compared and returned.
        k: Hits for each question.
        mode: How to rank.
        pool: Candidates from each side of a hybrid search.
        latent_weight: Part of the latents in a hybrid search, 0 to 1.
        with_latents: Whether hits carry latents.
        coarse: When and how many chunks are nominated before they are scored.
    """

    questions: Sequence[str]
    queries: Queries | None
    n_memory: int
    k: int
    mode: Mode
    pool: int
    latent_weight: float
    with_latents: bool
    coarse: Coarse

    @classmethod
    def checked(
        cls,
        spec: LatentSpec,
        questions: Sequence[str],
        latents_QPD: Tensor | None,
        *,
        n_memory: int | None,
        k: int,
        mode: Mode,
        pool: int,
        latent_weight: float,
        with_latents: bool,
        coarse: Coarse,
    ) -> Search:
        """Refuse arguments that do not fit the index or each other.

        Raises:
            ConfigError: A number, the mode or the shape of the latents is wrong.
            DataError: A question is empty, or its latents are not finite.
        """
        if isinstance(questions, str):
            raise ConfigError("questions come in a list, also a single one")
        if mode not in get_args(Mode):
            raise ConfigError(
                f"the search mode {mode!r} does not exist: use {', '.join(get_args(Mode))}"
            )
        if not 0 <= latent_weight <= 1:
            raise ConfigError(f"latent_weight must be from 0 to 1, not {latent_weight}")
        if k < 1 or pool < 1:
            raise ConfigError(f"k and pool must be at least 1, not {k} and {pool}")
        for position, question in enumerate(questions):
            if not question.strip():
                raise DataError(f"question {position} is empty: ask something")
        if n_memory is not None and not 1 <= n_memory <= spec.n_memory:
            raise ConfigError(
                f"n_memory is {n_memory}, this index keeps {spec.n_memory} latents a chunk; "
                "use a number from 1 to that"
            )
        asked, compared = None, n_memory or spec.n_memory
        if latents_QPD is not None:
            _check_latents(latents_QPD, len(questions), spec, n_memory)
            if spec.score == "flat":
                compared = latents_QPD.shape[1]
            asked = queries(spec.score, latents_QPD, n_memory=compared)
        elif mode != "lexical":
            raise ConfigError(
                f"a {mode} search needs the latents of its questions: use mode lexical"
            )
        return cls(
            questions, asked, compared, k, mode, max(pool, k), latent_weight, with_latents, coarse
        )

    def run(
        self,
        connection: sqlite3.Connection,
        view: View,
        filtered: tuple[str, list[str | int | float]] | None,
    ) -> list[list[Hit]]:
        """Rank the chunks of one moment.

        Args:
            connection: In a transaction of that moment.
            view: The latents of that moment.
            filtered: An SQL condition on documents and its parameters; None for all.

        Returns:
            For each question its hits, best first.
        """
        allowed = None if filtered is None else allowed_chunks(connection, *filtered)
        among = None if allowed is None else allowed.tolist()
        nominated: list[list[int]] = [[] for _ in self.questions]
        if self.queries is not None and self.mode != "lexical":
            nominated = self._nominated(connection, view, self.queries, allowed)
        ranked = [
            self._ranked(connection, view, question, near, among)
            for question, near in enumerate(nominated)
        ]
        return self._hits(connection, view, ranked)

    def _nominated(
        self,
        connection: sqlite3.Connection,
        view: View,
        asked: Queries,
        allowed: npt.NDArray[np.int64] | None,
    ) -> list[list[int]]:
        """For each question a few more chunks than are wanted by latents, the best among them."""
        k = self.k if self.mode == "latent" else self.pool
        found: dict[int, list[int]] = {}
        for question in range(len(self.questions)):
            keys_N = view.segments.nominate(asked, question, self.coarse, allowed)
            if keys_N is None:
                break  # the numbers decide this, so it is the same for every question
            rows = view.rows(connection, keys_N)
            if sum(len(live.rows) for live in rows) >= k:
                near_N = nearest_of(view, rows, asked.only(question), k=k)
                found[question] = list(map(int, near_N))
        if len(found) < len(self.questions):
            every = nearest(
                view, view.live(connection), asked, len(self.questions), k=k, allowed=allowed
            )
            found = dict(enumerate(every)) | found
        return [found[question] for question in range(len(self.questions))]

    def _ranked(
        self,
        connection: sqlite3.Connection,
        view: View,
        question: int,
        near: Sequence[int],
        among: Sequence[int] | None,
    ) -> list[Ranked]:
        """The best chunks for one question, at most k."""
        bm25: dict[int, float] = {}
        expression = None if self.mode == "latent" else words_of(self.questions[question])
        if self.mode == "lexical":
            bm25 = by_words(connection, expression, k=self.k, among=among)
        elif self.mode == "hybrid":
            bm25 = by_words(connection, expression, k=self.pool, among=among)
            near = sorted({*near, *bm25})
        cosine: dict[int, float] = {}
        if self.queries is not None:
            keys = list(bm25) if self.mode == "lexical" else near
            places = _places(connection, keys)
            spots = [(places[key].shard, places[key].row) for key in keys]
            values = exact(view, spots, self.queries, question)
            cosine = dict(zip(keys, values, strict=True))
        match self.mode:
            case "lexical":
                scores = bm25
            case "latent":
                scores = dict(sorted(cosine.items(), key=lambda item: (-item[1], item[0])))
            case "hybrid":
                scores = fuse(cosine, bm25, latent_weight=self.latent_weight)
        return [
            Ranked(key, score, cosine.get(key)) for key, score in list(scores.items())[: self.k]
        ]

    def _hits(
        self, connection: sqlite3.Connection, view: View, ranked: Sequence[Sequence[Ranked]]
    ) -> list[list[Hit]]:
        places = _places(connection, {hit.key for hits in ranked for hit in hits})
        documents = _documents(connection, {place.document for place in places.values()})
        return [
            [self._hit(view, hit, places[hit.key], documents) for hit in hits] for hits in ranked
        ]

    def _hit(self, view: View, ranked: Ranked, place: Place, documents: dict[int, Document]) -> Hit:
        latents_PD = None
        if self.with_latents:
            latents_PD = view.shards[place.shard].latents(place.row, self.n_memory)
        return Hit(
            document=documents[place.document],
            start=place.start,
            end=place.end,
            score=ranked.score,
            n_tokens=place.n_tokens,
            latents=latents_PD,
            cosine=ranked.cosine,
        )


def stretches(
    connection: sqlite3.Connection, view: View, name: str, n_memory: int
) -> list[Hit] | None:
    """Every chunk of the document of that id with its latents, in reading order; None without it.

    Args:
        connection: In a transaction of that moment.
        view: The latents of that moment.
        name: Id of the document.
        n_memory: Latents wanted of each chunk.
    """
    known = find(connection, name)
    if known is None:
        return None
    query = "SELECT key FROM chunks WHERE document = ? ORDER BY start"
    keys = [key for (key,) in connection.execute(query, (known.key,))]
    places, documents = _places(connection, keys), _documents(connection, [known.key])
    return [
        Hit(
            document=documents[known.key],
            start=places[key].start,
            end=places[key].end,
            score=0.0,
            n_tokens=places[key].n_tokens,
            latents=view.shards[places[key].shard].latents(places[key].row, n_memory),
        )
        for key in keys
    ]


def _check_latents(
    latents_QPD: Tensor, n_questions: int, spec: LatentSpec, n_memory: int | None
) -> None:
    shape = tuple(latents_QPD.shape)
    if len(shape) != 3 or shape[0] != n_questions or shape[2] != spec.width:
        raise ConfigError(
            f"the latents of {n_questions} questions have shape {shape} where this index needs "
            f"({n_questions}, 1 to {spec.n_memory}, {spec.width}): make them with its model"
        )
    if spec.score == "flat" and not 1 <= shape[1] <= spec.n_memory:
        raise ConfigError(
            f"the questions have {shape[1]} memory tokens and the index {spec.n_memory}: "
            f"ask with 1 to {spec.n_memory}"
        )
    if spec.score == "flat" and n_memory not in (None, shape[1]):
        raise ConfigError(
            f"the questions have {shape[1]} memory tokens and n_memory is {n_memory}: a flat score "
            "compares as many of each"
        )
    if not torch.isfinite(latents_QPD).all():
        raise DataError(
            "the latents of a question are not finite: make them in float32 or bfloat16"
        )


def _places(connection: sqlite3.Connection, keys: Iterable[int]) -> dict[int, Place]:
    query = (
        "SELECT key, document, start, end, n_tokens, shard, row FROM chunks "
        "WHERE key IN (SELECT value FROM json_each(?))"
    )
    rows = connection.execute(query, (json.dumps(list(keys)),))
    return {key: Place(*columns) for key, *columns in rows}


def _documents(connection: sqlite3.Connection, keys: Iterable[int]) -> dict[int, Document]:
    query = (
        f"SELECT documents.key, {db.DOCUMENT_COLUMNS} FROM documents "
        "WHERE key IN (SELECT value FROM json_each(?))"
    )
    rows = connection.execute(query, (json.dumps(list(keys)),))
    return {key: db.to_document(tuple(columns)) for key, *columns in rows}
