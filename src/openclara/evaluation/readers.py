"""What answers from chosen passages, all behind one method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.evaluation.models import LatentStore
    from openclara.evaluation.shortening import Shortening
    from openclara.model.adapters import Role
    from openclara.model.generator import Decoding
    from openclara.pipeline import Clara
    from openclara.types import Answer, Document, Hit


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the passages chosen for it."""

    question: str
    documents: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer and what it took.

    Attributes:
        text: The answer.
        prompt_tokens: Positions the generator read.
        text_tokens: Positions it would have read with the whole passages.
        stored_bytes: What is kept of the chosen passages to answer from them.
    """

    text: str
    prompt_tokens: int
    text_tokens: int
    stored_bytes: int


class Reader(Protocol):
    """The one method, and what may be done before it is timed."""

    def prepare(self, documents: Sequence[Document]) -> None:
        """Whatever is done once for a passage, whoever asks."""

    def read(self, batch: Sequence[Asked]) -> list[Reading]:
        """Answer a batch."""


class ClosedReader:
    """No passage at all: what the model knows by itself.

    Args:
        clara: The model.
        role: Whose adapter writes; None is the bare base.
        decoding: Length of an answer.
    """

    def __init__(self, clara: Clara, *, role: Role | None, decoding: Decoding) -> None:
        self._clara = clara
        self._role: Role | None = role
        self._decoding = decoding

    def prepare(self, documents: Sequence[Document]) -> None:
        """Nothing."""

    def read(self, batch: Sequence[Asked]) -> list[Reading]:
        """Answer without reading."""
        questions = [asked.question for asked in batch]
        answers = self._clara.answer(
            questions, [()] * len(batch), context="none", role=self._role, decoding=self._decoding
        )
        return [Reading(one.text, one.usage.prompt_tokens, 0, 0) for one in answers]


class TextReader:
    """The passages as text, whole or shortened.

    Args:
        clara: The model.
        role: Whose adapter writes; None is the bare base.
        decoding: Length of an answer.
        shortening: Applied for each question; None reads all of every passage.
    """

    def __init__(
        self,
        clara: Clara,
        *,
        role: Role | None,
        decoding: Decoding,
        shortening: Shortening | None = None,
    ) -> None:
        self._clara = clara
        self._role: Role | None = role
        self._decoding = decoding
        self._shortening = shortening

    def prepare(self, documents: Sequence[Document]) -> None:
        """Nothing: text is read again for every question."""

    def read(self, batch: Sequence[Asked]) -> list[Reading]:
        """Answer from text."""
        shown = [
            list(asked.documents)
            if self._shortening is None
            else self._shortening.shorten(asked.question, asked.documents)
            for asked in batch
        ]
        answers = self._answers([asked.question for asked in batch], shown)
        if self._shortening is None:
            whole = [one.usage.prompt_tokens for one in answers]
        else:
            whole = [self._whole(asked) for asked in batch]
        return [
            Reading(answer.text, answer.usage.prompt_tokens, n_whole, _utf8(asked.documents))
            for answer, n_whole, asked in zip(answers, whole, batch, strict=True)
        ]

    def _answers(
        self, questions: Sequence[str], documents: Sequence[Sequence[Document]]
    ) -> list[Answer]:
        hits = [self._clara.read(own, with_latents=False) for own in documents]
        return self._clara.answer(
            questions, hits, context="text", role=self._role, decoding=self._decoding
        )

    def _whole(self, asked: Asked) -> int:
        hits = self._clara.read(asked.documents, with_latents=False)
        return self._clara.text_prompt_tokens(asked.question, hits)


class LatentReader:
    """The passages as latents, from the store.

    Args:
        clara: Whose generator answers.
        store: The passages' latents, of the same compressor.
        n_memory: Latents of each stretch.
        decoding: Length of an answer.
    """

    def __init__(
        self, clara: Clara, store: LatentStore, *, n_memory: int, decoding: Decoding
    ) -> None:
        self._clara = clara
        self._store = store
        self._n_memory = n_memory
        self._decoding = decoding

    def prepare(self, documents: Sequence[Document]) -> None:
        """Compress what is not stored yet."""
        self._store.add(documents)

    def read(self, batch: Sequence[Asked]) -> list[Reading]:
        """Answer from latents."""
        hits = [
            [hit for own in self._hits(asked) for hit in own if hit.latents is not None]
            for asked in batch
        ]
        answers = self._clara.answer(
            [asked.question for asked in batch], hits, decoding=self._decoding
        )
        readings = []
        for answer, own in zip(answers, hits, strict=True):
            # As an index of this rate keeps them: 16 bits a number.
            n_bytes = sum(2 * hit.latents.numel() for hit in own if hit.latents is not None)
            usage = answer.usage
            readings.append(
                Reading(answer.text, usage.prompt_tokens, usage.text_prompt_tokens, n_bytes)
            )
        return readings

    def _hits(self, asked: Asked) -> list[list[Hit]]:
        return self._store.hits(asked.documents, n_memory=self._n_memory)


def _utf8(documents: Sequence[Document]) -> int:
    return sum(len(f"{d.title}{d.text}".encode(errors="surrogatepass")) for d in documents)
