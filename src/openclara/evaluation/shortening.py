"""Text compressors: what a reader of text can do about a budget of tokens."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from openclara.data.sentences import Boundary, sentence_cuts
from openclara.errors import ModelError
from openclara.evaluation.bm25 import Bm25, best_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.data.tokenizer import TextTokenizer
    from openclara.types import Document


class Shortening(Protocol):
    """The one method."""

    def shorten(self, question: str, documents: Sequence[Document]) -> list[Document]:
        """The same passages, shorter; those that nothing is left of are left out."""


class Cut:
    """The first tokens of each passage.

    Args:
        tokenizer: Counts.
        tokens_per_passage: How many are kept.
    """

    def __init__(self, tokenizer: TextTokenizer, tokens_per_passage: int) -> None:
        self._tokenizer = tokenizer
        self._budget = tokens_per_passage

    def shorten(self, question: str, documents: Sequence[Document]) -> list[Document]:
        """Title and text cut together, title first."""
        return [_cut(document, self._budget, self._tokenizer) for document in documents]


class BestSentences:
    """The sentences that BM25 likes best for the question, in the order of the text.

    Args:
        tokenizer: Counts.
        tokens_per_passage: Budget, spent over all passages together.
    """

    def __init__(self, tokenizer: TextTokenizer, tokens_per_passage: int) -> None:
        self._tokenizer = tokenizer
        self._tokens_per_passage = tokens_per_passage

    def shorten(self, question: str, documents: Sequence[Document]) -> list[Document]:
        """Whole sentences while they fit; the best one is cut if none does."""
        sentences = [
            (at, sentence) for at, one in enumerate(documents) for sentence in _sentences(one.text)
        ]
        if not sentences:
            return []
        lengths = [len(ids) for ids in self._tokenizer.encode([s for _, s in sentences])]
        left = self._tokens_per_passage * len(documents)
        order = best_first(Bm25([text for _, text in sentences]).scores(question))
        chosen = []
        for place in order:
            if lengths[place] <= left:
                chosen.append(place)
                left -= lengths[place]
        if not chosen:
            at, text = sentences[order[0]]
            return [_cut(replace(documents[at], title="", text=text), left, self._tokenizer)]
        kept: dict[int, list[str]] = {}
        for place in sorted(chosen):
            at, text = sentences[place]
            kept.setdefault(at, []).append(text)
        return [
            replace(documents[at], title="", text=" ".join(texts)) for at, texts in kept.items()
        ]


class LlmLingua:
    """LLMLingua-2 (Pan et al. 2024): a token classifier keeps what carries meaning.

    Args:
        compressor: Folder or hub id of its model.
        tokenizer: Counts.
        tokens_per_passage: Budget, spent over all passages together.

    Raises:
        ModelError: The package or the model is not there.
    """

    def __init__(
        self, compressor: str | None, tokenizer: TextTokenizer, tokens_per_passage: int
    ) -> None:
        if importlib.util.find_spec("llmlingua") is None:
            raise ModelError("LLMLingua-2 needs its package; run `pip install llmlingua`")
        if compressor is None:
            raise ModelError(
                "LLMLingua-2 needs its model; name a folder or hub id as `compressor`, such as "
                "microsoft/llmlingua-2-xlm-roberta-large-meetingbank"
            )
        from llmlingua import PromptCompressor

        try:
            self._compressor: Any = PromptCompressor(compressor, use_llmlingua2=True)
        except Exception as error:  # whatever the hub client and transformers raise
            raise ModelError(
                f"the LLMLingua-2 model {compressor!r} cannot be loaded ({type(error).__name__}); "
                "give a folder that holds it"
            ) from error
        self._tokenizer = tokenizer
        self._tokens_per_passage = tokens_per_passage

    def shorten(self, question: str, documents: Sequence[Document]) -> list[Document]:
        """Each passage at the rate that spends the budget."""
        texts = [document.text for document in documents]
        n_tokens = sum(len(ids) for ids in self._tokenizer.encode(texts))
        rate = min(1.0, self._tokens_per_passage * len(documents) / max(n_tokens, 1))
        made = self._compressor.compress_prompt_llmlingua2(texts, rate=rate)
        return [
            replace(document, title="", text=text)
            for document, text in zip(documents, made["compressed_prompt_list"], strict=True)
            if text.strip()
        ]


def _cut(document: Document, n_tokens: int, tokenizer: TextTokenizer) -> Document:
    title, text = document.title, document.text
    titled, spans = tokenizer.offsets([title, text])
    if len(titled) >= n_tokens:
        return replace(document, title="", text=title[: titled[n_tokens - 1][1]])
    left = n_tokens - len(titled)
    return replace(document, text=text if len(spans) <= left else text[: spans[left - 1][1]])


def _sentences(text: str) -> list[str]:
    ends = [at for at, kind in sentence_cuts(text, 0, len(text)) if kind <= Boundary.SENTENCE]
    parts = [text[a:b].strip() for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [part for part in parts if part]
