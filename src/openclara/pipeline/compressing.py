"""Documents on their way to latents: gathered in windows, batched by length."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from openclara.types import Chunk, CompressedDocument, Document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from openclara.pipeline.clara import Clara

WINDOW_CHUNKS = 256
"""Chunks gathered before they are sorted by length and batched."""

BATCH_POSITIONS = 2048
"""Padded positions of one compressor batch; larger ones fall out of a CPU's cache."""


class Compressing:
    """Documents on their way to latents; nothing happens until it is iterated."""

    def __init__(
        self,
        clara: Clara,
        documents: Iterable[Document],
        on_progress: Callable[[int, int], None],
        *,
        window_chunks: int = WINDOW_CHUNKS,
    ) -> None:
        self._clara = clara
        self._documents = documents
        self._on_progress = on_progress
        self._window_chunks = window_chunks

    def __iter__(self) -> Iterator[CompressedDocument]:
        """Compress every document."""
        return self.skipping(lambda document: False)

    def skipping(self, unchanged: Callable[[Document], bool]) -> Iterator[CompressedDocument]:
        """Compress only the documents for which `unchanged` is false, in order.

        Where a document cannot be read, those before it are compressed first.
        """
        for window in self._windows(unchanged):
            yield from self._compress(window)

    def _windows(
        self, unchanged: Callable[[Document], bool]
    ) -> Iterator[list[tuple[Document, list[Chunk]]]]:
        window: list[tuple[Document, list[Chunk]]] = []
        n_chunks = 0
        try:
            for document in self._documents:
                if unchanged(document):
                    continue
                chunks = self._clara.chunk(document)
                window.append((document, chunks))
                n_chunks += len(chunks)
                if n_chunks >= self._window_chunks:
                    yield window
                    window, n_chunks = [], 0
        except Exception:
            # Not on Ctrl-C: who presses it does not want to wait for a whole window.
            yield window
            raise
        yield window

    def _compress(
        self, window: Sequence[tuple[Document, list[Chunk]]]
    ) -> Iterator[CompressedDocument]:
        clara = self._clara
        texts = [text for document, chunks in window for text in clara._framed(document, chunks)]
        latents_CMD = self._latents(texts, self._counting(window))
        sizes = [len(chunks) for _, chunks in window]
        split = torch.split(latents_CMD, sizes)
        for (document, chunks), own_CMD in zip(window, split, strict=True):
            yield CompressedDocument(document, tuple(chunks), own_CMD.clone())

    def _latents(self, texts: list[str], on_batch: Callable[[Sequence[int]], None]) -> Tensor:
        """(C, M, D) latents of chunks."""
        return self._clara.latents(texts, role="compressor", on_batch=on_batch)

    def _counting(
        self, window: Sequence[tuple[Document, list[Chunk]]]
    ) -> Callable[[Sequence[int]], None]:
        """Told which chunks of a window are done, tells how many documents became whole."""
        owners = [at for at, (_, chunks) in enumerate(window) for _ in chunks]
        left = Counter(owners)

        def count(positions: Sequence[int]) -> None:
            left.subtract(owners[position] for position in positions)
            whole = {owners[position] for position in positions if not left[owners[position]]}
            self._on_progress(len(whole), len(positions))

        return count


def by_length(
    lengths: Sequence[int], n_memory: int, *, most: int = BATCH_POSITIONS
) -> Iterator[list[int]]:
    """Positions in batches of like length; each batch within `most` positions when padded."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (lengths[at] + n_memory + 3) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
