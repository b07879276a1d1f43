"""Work that is done a little at a time between the steps of answers."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from openclara.pipeline.compressing import Compressing, by_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from openclara.pipeline.clara import Clara
    from openclara.types import Document

Result = TypeVar("Result")

GROUP_POSITIONS = 512
"""Padded positions of one pass between two steps: about as long as a step of a full batch."""

WINDOW_CHUNKS = 32
"""Chunks of documents that are gathered and sorted by length before they are compressed."""


class Chore(Protocol):
    """Something to do in turns."""

    future: Future[Any]
    """What comes of it; cancelled, nothing more is done."""

    def turn(self, clara: Clara) -> bool:
        """Do a little; whether it is finished."""


class Encoding:
    """Latents of texts, (N, M, D), a few texts a turn.

    Args:
        texts: Each at most as long as the model's documents.
        role: Who makes them.
    """

    def __init__(self, texts: Sequence[str], role: Literal["compressor", "reasoner"]) -> None:
        self.future: Future[Tensor] = Future()
        self._texts, self._role = list(texts), role
        self._left: list[list[int]] | None = None
        self._made: dict[int, Tensor] = {}

    def turn(self, clara: Clara) -> bool:
        """As in `Chore`."""
        if self._left is None:
            lengths = [len(ids) for ids in clara.tokenizer.encode(self._texts)]
            n_memory = clara.latent_spec.n_memory
            self._left = list(by_length(lengths, n_memory, most=GROUP_POSITIONS))
        if self._left:
            group = self._left.pop()
            latents_NMD = clara.latents([self._texts[at] for at in group], role=self._role)
            self._made |= zip(group, latents_NMD, strict=True)
        if self._left:
            return False
        made = [self._made[at] for at in range(len(self._texts))]
        _finish(self.future, torch.stack(made) if made else clara.latents([], role=self._role))
        return True


class Doing(Generic[Result]):
    """Anything else that needs the model, in one turn."""

    def __init__(self, work: Callable[[Clara], Result]) -> None:
        self.future: Future[Result] = Future()
        self._work = work

    def turn(self, clara: Clara) -> bool:
        """As in `Chore`."""
        _finish(self.future, self._work(clara))
        return True


def fail(future: Future[Any], error: Exception) -> None:
    """Say that nothing came of it, if anybody still wants to know."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _finish(future: Future[Result], result: Result) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(result)


class SharedCompressing(Compressing):
    """Documents on their way to latents that somebody else makes when there is time.

    Args:
        clara: Chunks the documents.
        documents: What to compress.
        encode: Latents of chunks; raises to end the stream.
    """

    def __init__(
        self,
        clara: Clara,
        documents: Iterable[Document],
        encode: Callable[[list[str]], Tensor],
    ) -> None:
        super().__init__(clara, documents, lambda *counts: None, window_chunks=WINDOW_CHUNKS)
        self._encode = encode

    def _latents(self, texts: list[str], on_batch: Callable[[Sequence[int]], None]) -> Tensor:
        return self._encode(texts)
