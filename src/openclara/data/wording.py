"""The words around a question, as ids with slots: what a generator was trained to read.

A checkpoint names its wording (`openclara.json`, field `wording`); a model answers in that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from openclara.data.prompts import PARAPHRASE_REQUEST
from openclara.data.published import PublishedTokenizer, PublishedWording
from openclara.data.tokenizer import TextTokenizer
from openclara.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN: Final = "own"
PUBLISHED: Final = "published"


class Wording(Protocol):
    """Prompts of one kind of model. Slots are `SLOT`, each block of them is ended by `SEP`."""

    @property
    def n_shared(self) -> int:
        """Leading ids of a prompt on latents or texts that come from the template alone."""

    def from_latents(self, question: str, *, n_documents: int, n_memory: int) -> tuple[int, ...]:
        """A question on documents that are given as latents."""

    def from_text(self, question: str, passages: Sequence[str]) -> tuple[int, ...]:
        """The same question on the full texts."""

    def closed(self, question: str) -> tuple[int, ...]:
        """A question on nothing."""

    def paraphrase(self, *, n_documents: int, n_memory: int) -> tuple[int, ...]:
        """A request to put documents into other words."""


class OwnWording:
    """The prompts of `data/prompts.py`, each part tokenised by itself."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def n_shared(self) -> int:
        """As in `Wording`."""
        return len(self._tokenizer.chat.before_background)

    def from_latents(self, question: str, *, n_documents: int, n_memory: int) -> tuple[int, ...]:
        """As in `Wording`."""
        chat = self._tokenizer.chat
        asked = self._tokenizer.encode([question])[0]
        background = chat.background(n_documents, n_memory)
        return (*chat.before_background, *background, *chat.question(asked))

    def from_text(self, question: str, passages: Sequence[str]) -> tuple[int, ...]:
        """As in `Wording`."""
        chat = self._tokenizer.chat
        asked, *texts = self._tokenizer.encode([question, *passages])
        return (*chat.before_background, *chat.text_background(texts), *chat.question(asked))

    def closed(self, question: str) -> tuple[int, ...]:
        """As in `Wording`."""
        return self._tokenizer.chat.question(self._tokenizer.encode([question])[0], closed=True)

    def paraphrase(self, *, n_documents: int, n_memory: int) -> tuple[int, ...]:
        """As in `Wording`."""
        return self.from_latents(PARAPHRASE_REQUEST, n_documents=n_documents, n_memory=n_memory)


def make_wording(name: str, tokenizer: Any) -> tuple[TextTokenizer, Wording]:
    """A wording by its name, and the tokenizer that goes with it.

    Args:
        name: `own` or `published`.
        tokenizer: The base's own.

    Raises:
        FormatError: There is no such wording.
    """
    if name == OWN:
        text_tokenizer = TextTokenizer(tokenizer)
        return text_tokenizer, OwnWording(text_tokenizer)
    if name == PUBLISHED:
        published = PublishedTokenizer(tokenizer)
        return published, PublishedWording(published)
    raise FormatError(
        f"the checkpoint asks for the wording {name!r}, this program knows {OWN} and {PUBLISHED}; "
        "use the program that wrote it"
    )
