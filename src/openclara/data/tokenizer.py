"""Text to token ids. Control tokens come from the template alone: text stays text."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import jinja2

from openclara.data import prompts
from openclara.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Ids below zero are rows of the model's own table (see model/memory.py). No text can tokenise to
# them, so "<MEM0>" or an end-of-turn marker typed in a document never becomes a control token.
SLOT: Final = -1
"""A position that a latent is spliced into."""
SEP: Final = -2
"""Ends one document's block of latents."""
ENC: Final = -3
"""Starts every text that is compressed."""
MEM_0: Final = -4
"""The first memory token; the j-th is `MEM_0 - j`."""


class TextTokenizer:
    """A Hugging Face tokenizer that never reads control tokens out of user text."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError("the base's tokenizer has no end of sequence; choose another base")
        if tokenizer.chat_template is None:
            raise ModelError(
                "the base's tokenizer has no chat template; choose an instruction-tuned base"
            )
        self.inner = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.bos: int = self.eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text by itself, no control tokens added or recognised."""
        if not texts:
            return []
        ids: list[list[int]] = self.inner(
            [encodable(text) for text in texts],
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
        )["input_ids"]
        return ids

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character span of each token of each text, half-open."""
        if not texts:
            return []
        spans: list[list[tuple[int, int]]] = self.inner(
            [encodable(text) for text in texts],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )["offset_mapping"]
        return spans

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens left out."""
        text: str = self.inner.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    @cached_property
    def chat(self) -> Chat:
        """The base's chat template, taken apart around the user's text."""
        return Chat(self)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the end of sequence and the template's end of turn."""
        after_answer = self.chat.after_answer
        return frozenset({self.eos, *after_answer[:1]})


def encodable(text: str) -> str:
    """A text with lone surrogates, which UTF-8 cannot hold, replaced one for one."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


class Chat:
    """Template pieces as ids. Each piece is rendered once, so user text is never templated."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        with_background = self._pieces(prompts.SYSTEM, prompts.USER_WITH_BACKGROUND)
        self.before_background = with_background[0]
        self.before_question = with_background[1]
        self.before_answer = with_background[2]
        # A template that ends no turn leaves it to the end of sequence.
        self.after_answer = with_background[3] or (tokenizer.eos,)
        closed = self._pieces(prompts.SYSTEM_CLOSED, prompts.USER_QUESTION_ONLY)
        self.before_closed_question = closed[0]
        # A second turn starts as the closed-book one does, without the system turn before it.
        self.before_next_question = self._next_turn()
        self._between = self._ids("\n\n")

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            text: str = self._tokenizer.inner.apply_chat_template(messages, tokenize=False)
        except jinja2.TemplateError as error:
            raise ModelError(
                f"the base's chat template refuses a system turn or two questions ({error}); "
                "choose another base"
            ) from error
        return text

    def _ids(self, text: str) -> tuple[int, ...]:
        ids = self._tokenizer.inner(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tuple(ids)

    def _pieces(self, system: str, user: str) -> list[tuple[int, ...]]:
        rendered = self._render(
            [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
                {"role": "assistant", "content": prompts.ANSWER_MARK},
            ]
        )
        marks = (prompts.BACKGROUND_MARK, prompts.QUESTION_MARK, prompts.ANSWER_MARK)
        pieces = []
        for mark in marks:
            if mark not in user and mark != prompts.ANSWER_MARK:
                continue
            before, found, rendered = rendered.partition(mark)
            if not found:
                raise ModelError("the base's chat template drops part of the message")
            pieces.append(self._ids(before))
        pieces.append(self._ids(rendered))
        return pieces

    def _next_turn(self) -> tuple[int, ...]:
        user = {"role": "user", "content": prompts.USER_QUESTION_ONLY}
        reply = {"role": "assistant", "content": prompts.ANSWER_MARK}
        system = {"role": "system", "content": prompts.SYSTEM}
        rendered = self._render([system, user, reply, user, reply])
        between = rendered.split(prompts.ANSWER_MARK)[1].partition(prompts.QUESTION_MARK)[0]
        # The end of the previous turn belongs to its answer: it is what the generator must write.
        end = self.after_answer
        ids = self._ids(between)
        return ids[len(end) :] if ids[: len(end)] == end else ids

    def background(self, n_documents: int, n_memory: int) -> tuple[int, ...]:
        """Slots for the latents of `n_documents`, each block ended by SEP."""
        return ((SLOT,) * n_memory + (SEP,)) * n_documents

    def text_background(self, texts: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Full passages in place of latents, given as ids, a blank line between them."""
        parts = [(*(self._between if at else ()), *ids) for at, ids in enumerate(texts)]
        return tuple(i for part in parts for i in part)

    def question(self, question_ids: Sequence[int], *, closed: bool = False) -> tuple[int, ...]:
        """From the end of the background, or the start if `closed`, to the answer's first token."""
        before = self.before_closed_question if closed else self.before_question
        return (*before, *question_ids, *self.before_answer)
