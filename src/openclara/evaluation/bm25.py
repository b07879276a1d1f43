"""BM25 over texts in memory: the lexical baseline, and what nominates from an open corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from openclara.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


class Bm25:
    """BM25 (Robertson et al. 1994) with English stop words and Snowball stems, through bm25s.

    Args:
        texts: N texts; their statistics weigh the words.

    Raises:
        ConfigError: bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
            import Stemmer
        except ImportError:
            raise ConfigError(
                "evaluation needs bm25s and PyStemmer; run `pip install 'openclara[eval]'`"
            ) from None
        self._n_texts = len(texts)
        self._tokenize: Any = lambda lines: bm25s.tokenize(
            lines,
            # Its own pattern drops words of one character, and so the digits of many answers.
            token_pattern=r"(?u)\b\w+\b",
            stopwords="en",
            stemmer=Stemmer.Stemmer("english"),
            return_ids=False,
            show_progress=False,
        )
        tokens = self._tokenize(list(texts))
        # bm25s cannot index nothing at all.
        self._index = bm25s.BM25() if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def scores(self, question: str) -> npt.NDArray[np.float32]:
        """(N,) scores; zero for a text that shares no word with the question."""
        (words,) = self._tokenize([question])
        if self._index is None or not words:
            return np.zeros(self._n_texts, dtype=np.float32)
        scores: npt.NDArray[np.float32] = self._index.get_scores(words)
        return scores

    def best(self, question: str, k: int) -> list[int]:
        """Positions of the k best texts, best first; of equal ones the earlier first."""
        return best_first(self.scores(question))[:k]


def best_first(scores_N: npt.NDArray[np.floating[Any]]) -> list[int]:
    """Positions by descending score; of equal ones the earlier first."""
    order: list[int] = np.argsort(-scores_N, kind="stable").tolist()
    return order
