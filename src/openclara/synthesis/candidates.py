"""Passages that stand beside the one that answers: found by search, and not answering too."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from typing import TYPE_CHECKING, Protocol, Self

from openclara.data.facts import phrase
from openclara.index.ranking import by_words, words_of
from openclara.synthesis.quality import holds_answer, overlap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from openclara.config import CandidatesConfig
    from openclara.pipeline import Clara
    from openclara.synthesis.passages import Passage

# As in an index: stems of words, without accents, nothing but the words kept.
_WORDS = """
create virtual table words using fts5(
  title, body, content='', tokenize='porter unicode61 remove_diacritics 2'
)
"""

_MORE = 3
"""Passages looked at for each one wanted: some of the best answer too, or are near-copies."""


class Finder(Protocol):
    """Whoever ranks passages for a question."""

    def best(self, question: str, k: int, *, for_training: bool) -> list[int]:
        """Positions of the k best passages, best first.

        Args:
            question: The question.
            k: How many at most.
            for_training: Leave out passages that are held out.
        """


class WordFinder:
    """BM25 of words, in a database that vanishes with this object.

    Args:
        passages: What to find.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        training = [at for at, passage in enumerate(passages) if not passage.held_out]
        self._every = _words_table(passages, range(len(passages)))
        self._training = (
            self._every if len(training) == len(passages) else _words_table(passages, training)
        )

    def best(self, question: str, k: int, *, for_training: bool) -> list[int]:
        """As in `Finder`."""
        table = self._training if for_training else self._every
        return list(by_words(table, words_of(question), k=k, among=None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._every.close()
        self._training.close()


def _words_table(passages: Sequence[Passage], positions: Sequence[int]) -> sqlite3.Connection:
    # An empty name: on disk where memory does not do, and gone when closed.
    table = sqlite3.connect("", isolation_level=None)
    table.execute(_WORDS)
    table.execute("begin")
    rows = ((at, passages[at].title, passages[at].text) for at in positions)
    table.executemany("insert into words (rowid, title, body) values (?, ?, ?)", rows)
    table.execute("commit")
    return table


class LatentFinder:
    """Latents and words, through an index of the passages that is kept for the next sitting.

    Args:
        passages: What to find.
        clara: The model.
        path: Folder of the index.
    """

    def __init__(self, passages: Sequence[Passage], clara: Clara, path: Path) -> None:
        from openclara.index import LatentIndex
        from openclara.types import Document

        self._clara = clara
        self._index = LatentIndex.open(path, clara.latent_spec)
        documents = [
            Document(str(at), one.text, one.title, metadata={"held_out": int(one.held_out)})
            for at, one in enumerate(passages)
        ]
        self._index.add(clara.compress(documents))

    def best(self, question: str, k: int, *, for_training: bool) -> list[int]:
        """As in `Finder`."""
        where = ("held_out=0",) if for_training else ()
        hits = self._clara.search(question, self._index, k=k, where=where)
        return list(dict.fromkeys(int(hit.document.id) for hit in hits))


def beside(
    at: int,
    question: str,
    answer: str,
    passages: Sequence[Passage],
    finder: Finder,
    rules: CandidatesConfig,
    *,
    n_wanted: int,
    seed: int,
) -> list[int]:
    """Passages to stand beside the answering one: the best found, then any, by seed.

    None of them holds the answer's words in sequence, as is usual for negatives (DPR, Karpukhin et
    al. 2020), nor shares so many words with the answering passage that it is nearly the same.

    Args:
        at: Position of the answering passage.
        question: What it answers.
        answer: With what.
        passages: All there are.
        finder: Ranks them.
        rules: Say what is nearly the same.
        n_wanted: How many.
        seed: Of the draw where search finds too few.

    Returns:
        Positions, best first; fewer than wanted where the corpus has no more.
    """
    for_training = not passages[at].held_out
    words = _words(passages[at])
    chosen: list[int] = []
    found = finder.best(question, _MORE * n_wanted + 1, for_training=for_training)
    for other in (*found, *_drawn(len(passages), f"{seed} {at} {question}", 20 * n_wanted)):
        if len(chosen) == n_wanted:
            break
        one = passages[other]
        if (
            other != at
            and other not in chosen
            and not (for_training and one.held_out)
            and not holds_answer(answer, one.full_text)
            and overlap(words, _words(one)) < rules.duplicate
        ):
            chosen.append(other)
    return chosen


def _drawn(n_passages: int, salt: str, most: int) -> Iterator[int]:
    """Positions in an order that follows from the salt; of a large corpus only some."""
    rng = drawing(salt)
    if n_passages <= most:
        yield from rng.sample(range(n_passages), n_passages)
    else:
        yield from (rng.randrange(n_passages) for _ in range(most))


def drawing(salt: str) -> random.Random:
    """A source of chance that follows from a text, the same in every process."""
    return random.Random(int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big"))


def _words(passage: Passage) -> frozenset[str]:
    return frozenset(phrase(passage.text).split())
