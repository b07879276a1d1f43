"""How much of a text survives being written again from its latents.

Words by ROUGE; facts by the numbers, dates and names of the source that the other text still holds.
Everything here is by rule and for English: it needs no model, gives the same result everywhere, and
misses or mistakes some names. The evaluator published with CLaRa finds entities by a spaCy model
instead, so its share of entities cannot be compared with ours.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from openclara.data.facts import entities, numbers, preserved
from openclara.evaluation.metrics import token_f1

if TYPE_CHECKING:
    from collections.abc import Sequence


class FidelityScores(NamedTuple):
    """What of a source another text holds, each in [0, 1], None where the source has no such item.

    Attributes:
        rouge_1: F1 of words.
        rouge_l: F1 of the longest common subsequence of words.
        numbers: Share of the source's numbers and dates found.
        entities: Share of the source's names found.
    """

    rouge_1: float
    rouge_l: float
    numbers: float | None
    entities: float | None


def fidelity(source: str, rewritten: str) -> FidelityScores:
    """Score what another text holds of a source.

    Args:
        source: The text that was compressed.
        rewritten: What was written from its latents.
    """
    return FidelityScores(
        rouge_1=rouge_1(source, rewritten),
        rouge_l=rouge_l(source, rewritten),
        numbers=preserved(numbers(source), rewritten),
        entities=preserved(entities(source), rewritten),
    )


# --- words -----------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")


def rouge_1(source: str, rewritten: str) -> float:
    """ROUGE-1 F (Lin 2004): F1 of words, counted with multiplicity.

    Words are lowercased runs of letters and digits, as in the package rouge-score without its
    stemmer, here in any script. Two texts without words are equal.
    """
    return token_f1(_rouge_words(rewritten), _rouge_words(source))


def rouge_l(source: str, rewritten: str) -> float:
    """ROUGE-L F (Lin 2004): F1 by the longest common subsequence of words of the whole texts."""
    expected, predicted = _rouge_words(source), _rouge_words(rewritten)
    if not expected or not predicted:
        return float(expected == predicted)
    return 2 * _common_subsequence(expected, predicted) / (len(expected) + len(predicted))


def _rouge_words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    ids = {word: at for at, word in enumerate(dict.fromkeys([*a, *b]))}
    row_ids, column_ids = ([ids[word] for word in words] for words in (a, b))
    columns = np.array(column_ids)
    lengths = np.zeros(len(b) + 1, dtype=np.int64)
    for word in row_ids:
        extended = np.maximum(lengths[1:], lengths[:-1] + (columns == word))
        lengths[1:] = np.maximum.accumulate(extended)
    return int(lengths[-1])
