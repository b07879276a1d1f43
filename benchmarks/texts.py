"""Passages of a wanted length, cut from the bundled corpus."""

from __future__ import annotations

from itertools import cycle, islice

from openclara import Document
from openclara.corpus import passages


def passages_of(n_words: int, count: int) -> list[Document]:
    """`count` different passages of exactly `n_words` words."""
    words = cycle(" ".join(document.text for document in passages()).split())
    made = []
    for number in range(count):
        made.append(Document(id=f"w{n_words}-{number}", text=" ".join(islice(words, n_words))))
        next(words)  # so that a second turn through the corpus cuts it elsewhere
    return made
