"""What the latents of a text say: their words, what they carry, where in the text they look.

Legend: M memory tokens, D width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from openclara.model.lens import examine, logit_lens, mean_pairwise_cosine, nearest
from openclara.pipeline.clara import Clara, checked_n_memory
from openclara.types import Chunk, Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from openclara.index.interface import Index
    from openclara.model.adapters import Role
    from openclara.model.lens import Examined
    from openclara.types import Hit

KEPT = 50
"""Likeliest tokens of a latent among which words are looked for (as in the paper)."""

WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of `Inspection.text`.

    Attributes:
        text: Its characters.
        start: First character.
        end: One past the last character.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class LensWord:
    """A token that the LM head reads in a latent, without the blank before it."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class LatentView:
    """One latent.

    Attributes:
        number: Of its memory token, from 0.
        norm: Euclidean norm of the latent.
        state_norm: The same without what it carries.
        words: What the LM head reads in its state, likeliest first; tokens without a letter or
            digit are left out, and of those that differ in case or blanks the likeliest is kept.
        nearest: The word around the text token whose final state has the highest cosine with it.
        cosine: That cosine.
        carried: The token it carries, as a place in the text; None where it carries none.
    """

    number: int
    norm: float
    state_norm: float
    words: tuple[LensWord, ...]
    nearest: Place
    cosine: float
    carried: Place | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """The latents of one text that was read at once: a stretch of a document, or a question.

    Attributes:
        kind: What it is.
        document: Where the text is from; a question stands as a document of its own.
        role: Who read it.
        start: First character of the stretch in `document.text`.
        end: One past its last character.
        text: What was read, the title above the stretch; places point into it.
        n_tokens: Tokens of that text.
        latents: In the order of their numbers.
        order: Numbers of the latents in the order of the text, as prompts have them.
        mean_norm: Mean of the latents' norms.
        mean_cosine: Mean cosine of two different latents; None for a single one.
        n_words: Distinct words of the text, case aside.
        recovered: Share of them that the shown words hold, whole or in all their pieces.
        carried: Share of them that the carried tokens hold; None where memory is learned rows.
    """

    kind: Literal["document", "question"]
    document: Document
    role: Role
    start: int
    end: int
    text: str
    n_tokens: int
    latents: tuple[LatentView, ...]
    order: tuple[int, ...]
    mean_norm: float
    mean_cosine: float | None
    n_words: int
    recovered: float
    carried: float | None


def inspect_document(
    clara: Clara, document: Document, *, n_memory: int | None = None, top: int = 5
) -> list[Inspection]:
    """Look into the latents of a document's stretches, freshly made, in reading order.

    Args:
        clara: The model.
        document: What to read.
        n_memory: Latents of each stretch; the model's own number if None.
        top: Words for each latent, at most.

    Raises:
        ConfigError: `n_memory` is out of range.
    """
    n_memory = checked_n_memory(n_memory or clara.latent_spec.n_memory, clara.card)
    return [
        _stretch(clara, document, chunk, n_memory=n_memory, top=top)
        for chunk in clara.chunk(document)
    ]


def inspect_stored(
    clara: Clara,
    index: Index,
    ids: Sequence[str],
    *,
    n_memory: int | None = None,
    top: int = 5,
) -> list[Inspection]:
    """Look into the latents that an index holds of some documents, rounded as they are stored.

    Args:
        clara: The model that made the index.
        index: Where they are.
        ids: Which documents.
        n_memory: Only the first so many latents of each stretch; all that are stored if None.
        top: Words for each latent, at most.

    Raises:
        IndexMismatch: The index was made by another model.
        DataError: There is no document of an id.
        ConfigError: `n_memory` is out of range.
    """
    clara.check([], index)
    hits = [hit for own in index.hits(ids, n_memory=n_memory) for hit in own]
    return inspect_hits(clara, hits, top=top)


def inspect_hits(clara: Clara, hits: Sequence[Hit], *, top: int = 5) -> list[Inspection]:
    """Look into the latents that hits of an index of this model carry.

    Args:
        clara: The model.
        hits: From `hits` of an index.
        top: Words for each latent, at most.
    """
    return [
        _stretch(
            clara,
            hit.document,
            Chunk(hit.start, hit.end, hit.n_tokens),
            n_memory=hit.latents.shape[0],
            top=top,
            stored_MD=hit.latents,
        )
        for hit in hits
        if hit.latents is not None
    ]


def inspect_question(
    clara: Clara, question: str, *, n_memory: int | None = None, top: int = 5
) -> Inspection:
    """Look into the latents that a question is searched with.

    Args:
        clara: The model.
        question: What is asked.
        n_memory: Latents; the model's own number if None.
        top: Words for each latent, at most.

    Raises:
        DataError: The question is empty.
        ConfigError: `n_memory` is out of range.
    """
    clara.check([question], None)
    n_memory = checked_n_memory(n_memory or clara.latent_spec.n_memory, clara.card)
    (text,) = clara.cut([question])
    document = Document(id="question", text=question)
    chunk = Chunk(len(question) - len(text), len(question), 0)
    return _inspect(clara, _Read("question", document, chunk, text), n_memory, top)


def _stretch(
    clara: Clara,
    document: Document,
    chunk: Chunk,
    *,
    n_memory: int,
    top: int,
    stored_MD: Tensor | None = None,
) -> Inspection:
    (text,) = clara._framed(document, [chunk])
    return _inspect(clara, _Read("document", document, chunk, text), n_memory, top, stored_MD)


@dataclass(frozen=True, slots=True)
class _Read:
    kind: Literal["document", "question"]
    document: Document
    chunk: Chunk
    text: str


def _inspect(
    clara: Clara, read: _Read, n_memory: int, top: int, stored_MD: Tensor | None = None
) -> Inspection:
    tokenizer = clara.tokenizer
    (ids,) = tokenizer.encode([read.text])
    role = clara.acting("reasoner" if read.kind == "question" else "compressor")
    examined = examine(
        clara.model,
        ids,
        role,
        n_memory=n_memory,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        stored_MD=stored_MD,
    )
    spelled = _Spelled(clara, read.text, ids)
    views = _views(clara, examined, spelled, top)
    anchored = clara.model.memory.anchored
    carried = [spelled.pieces[at] for at in examined.anchors if at is not None]
    return Inspection(
        kind=read.kind,
        document=read.document,
        role=role,
        start=read.chunk.start,
        end=read.chunk.end,
        text=read.text,
        n_tokens=len(ids),
        latents=tuple(views),
        order=examined.order,
        mean_norm=sum(view.norm for view in views) / len(views),
        mean_cosine=mean_pairwise_cosine(examined.latents_MD),
        n_words=len(spelled.words),
        recovered=spelled.share(word.text for view in views for word in view.words),
        carried=spelled.share(carried) if anchored else None,
    )


def _views(clara: Clara, examined: Examined, spelled: _Spelled, top: int) -> list[LatentView]:
    n_vocabulary = clara.model.lm.lm_head.weight.shape[0]
    probabilities_ML, ids_ML = logit_lens(
        clara.model, examined.states_MD, min(n_vocabulary, max(KEPT, 2 * top))
    )
    cosines_M, positions_M = nearest(examined.states_MD, examined.text_states_TD)
    norms_M, state_norms_M = examined.latents_MD.norm(dim=1), examined.states_MD.norm(dim=1)
    views = []
    for number, at in enumerate(positions_M.tolist()):
        anchor = examined.anchors[number] if examined.anchors else None
        carried = None if anchor is None else spelled.place(anchor, anchor)
        views.append(
            LatentView(
                number=number,
                norm=float(norms_M[number]),
                state_norm=float(state_norms_M[number]),
                words=_lens_words(
                    clara, ids_ML[number].tolist(), probabilities_ML[number].tolist(), top
                ),
                nearest=spelled.word_around(at),
                cosine=float(cosines_M[number]),
                carried=carried,
            )
        )
    return views


def _lens_words(
    clara: Clara, ids: Sequence[int], probabilities: Sequence[float], top: int
) -> tuple[LensWord, ...]:
    words: dict[str, LensWord] = {}
    for token, probability in zip(ids, probabilities, strict=True):
        piece = clara.tokenizer.decode([token]).strip()
        if len(words) < top and WORD.search(piece):
            words.setdefault(piece.casefold(), LensWord(piece, probability))
    return tuple(words.values())


class _Spelled:
    """A text, its tokens and its words, each found from the other."""

    def __init__(self, clara: Clara, text: str, ids: Sequence[int]) -> None:
        self.text = text
        self._spans = clara.tokenizer.offsets([text])[0]
        self.pieces = [clara.tokenizer.decode([token]) for token in ids]
        self._words = [match.span() for match in WORD.finditer(text)]
        self.words: dict[str, set[str]] = {}
        for start, end in self._words:
            parts = {
                piece.strip().casefold()
                for piece, (first, last) in zip(self.pieces, self._spans, strict=True)
                if first < end and start < last and WORD.search(piece)
            }
            self.words.setdefault(text[start:end].casefold(), parts)

    def place(self, first: int, last: int) -> Place:
        """Tokens `first` to `last`, without blanks around them where anything else is there."""
        start, end = self._spans[first][0], self._spans[last][1]
        whole = self.text[start:end]
        if whole.strip():
            start += len(whole) - len(whole.lstrip())
            end -= len(whole) - len(whole.rstrip())
        return Place(self.text[start:end], start, end)

    def word_around(self, token: int) -> Place:
        """The word that a token is part of; the token itself where it is part of none."""
        place = self.place(token, token)
        for start, end in self._words:
            if start < place.end and place.start < end:
                return Place(self.text[start:end], start, end)
        return place

    def share(self, shown: Iterable[str]) -> float:
        """Share of the words that are among those shown, whole or in all their pieces."""
        known = {piece.strip().casefold() for piece in shown}
        found = [
            word in known or 0 < len(parts) == len(parts & known)
            for word, parts in self.words.items()
        ]
        return sum(found) / len(found) if found else 0.0
