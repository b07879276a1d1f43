"""What orders a question's candidates, all behind one method."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

import torch

from openclara.data.records import framed
from openclara.evaluation.bm25 import Bm25, best_first
from openclara.index.comparing import queries
from openclara.index.ranking import fuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from openclara.evaluation.dense import DenseEncoder
    from openclara.evaluation.models import LatentStore
    from openclara.evaluation.tasks import Question
    from openclara.index.comparing import Queries
    from openclara.pipeline import Clara
    from openclara.types import Document


class RankerOfQuestions(Protocol):
    """The one method."""

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """For each question all positions of its candidates, best first."""


class Given:
    """The order of the record, or of the nomination."""

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """As they come."""
        return [list(range(len(question.candidates))) for question in questions]


class Random:
    """Control: no ranker should fall below it.

    Args:
        seed: With the question's id it sets the order.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """Shuffled, the same way each time."""
        orders = Given().rank(questions)
        for question, order in zip(questions, orders, strict=True):
            random.Random(f"{self._seed} {question.id}").shuffle(order)
        return orders


class Gold:
    """Control: the labels themselves. Only the runner makes one, for it alone has them.

    Args:
        relevant: For each question id the positions of its gold passages.
    """

    def __init__(self, relevant: Mapping[str, frozenset[int]]) -> None:
        self._relevant = relevant

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """Gold passages first, else as they come."""
        return [
            sorted(order, key=lambda at, gold=self._relevant[question.id]: at not in gold)  # type: ignore[misc]
            for question, order in zip(questions, Given().rank(questions), strict=True)
        ]


class Lexical:
    """BM25, words weighed by all candidates of all questions together."""

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """By descending score."""
        return [best_first(torch.tensor(row).numpy()) for row in self.scores(questions)]

    def scores(self, questions: Sequence[Question]) -> list[list[float]]:
        """For each question the score of each candidate."""
        documents = _distinct(questions)
        bm25 = Bm25([framed(document.title, document.text) for document in documents.values()])
        places = {name: at for at, name in enumerate(documents)}
        rows = []
        for question in questions:
            scores_N = bm25.scores(question.text)
            rows.append([float(scores_N[places[one.id]]) for one in question.candidates])
        return rows


class Dense:
    """Cosine of a sentence encoder's vectors.

    Args:
        encoder: What makes them.
    """

    def __init__(self, encoder: DenseEncoder) -> None:
        self._encoder = encoder

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """By descending cosine."""
        documents = _distinct(questions)
        texts = [framed(document.title, document.text) for document in documents.values()]
        vectors_ND = self._encoder.encode(texts)
        queries_QD = self._encoder.encode([question.text for question in questions])
        places = {name: at for at, name in enumerate(documents)}
        orders = []
        for question, query_D in zip(questions, queries_QD, strict=True):
            own = [places[document.id] for document in question.candidates]
            orders.append(best_first((vectors_ND[own] @ query_D).numpy()))
        return orders


class Latent:
    """Score of the reasoner's latents with the stored ones; a passage counts by its best stretch.

    Args:
        clara: Whose reasoner reads the questions.
        store: The passages' latents, of the same compressor.
        n_memory: Memory tokens compared.
    """

    def __init__(self, clara: Clara, store: LatentStore, *, n_memory: int) -> None:
        self._clara = clara
        self._store = store
        self._n_memory = n_memory

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """By descending cosine."""
        return [best_first(torch.tensor(row).numpy()) for row in self.scores(questions)]

    def scores(self, questions: Sequence[Question]) -> list[list[float]]:
        """For each question the score of each candidate."""
        self._store.add(list(_distinct(questions).values()))
        texts = [question.text for question in questions]
        latents_QPD = self._clara.reason(texts, n_memory=self._n_memory)
        asked = queries(self._clara.latent_spec.score, latents_QPD, n_memory=self._n_memory)
        return [
            [_best(asked, at, latents_CMD) for latents_CMD in self._hits(question)]
            for at, question in enumerate(questions)
        ]

    def _hits(self, question: Question) -> list[Tensor]:
        found = self._store.hits(question.candidates, n_memory=self._n_memory)
        return [
            torch.stack([hit.latents for hit in hits if hit.latents is not None])
            if hits
            else torch.zeros(1, 1)
            for hits in found
        ]


class Hybrid:
    """Latents and BM25 fused by rank, as a search of an index does.

    Args:
        latent: The one side.
        latent_weight: Its part in the fusion.
    """

    def __init__(self, latent: Latent, *, latent_weight: float) -> None:
        self._latent = latent
        self._latent_weight = latent_weight

    def rank(self, questions: Sequence[Question]) -> list[list[int]]:
        """By descending fused score."""
        rows = zip(self._latent.scores(questions), Lexical().scores(questions), strict=True)
        orders = []
        for cosines, words in rows:
            # Lexical search finds only what shares a word with the question.
            bm25 = {at: score for at, score in enumerate(words) if score > 0}
            fused = fuse(dict(enumerate(cosines)), bm25, latent_weight=self._latent_weight)
            orders.append(list(fused))
        return orders


def _best(asked: Queries, question: int, latents_CMD: Tensor) -> float:
    if latents_CMD.dim() < 3:
        return -1.0  # a passage without text
    return float(asked.exactly(question, latents_CMD.float()).max())


def _distinct(questions: Sequence[Question]) -> dict[str, Document]:
    return {one.id: one for question in questions for one in question.candidates}
