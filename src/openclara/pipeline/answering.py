"""Answers being written: a batch step by step, or one as a stream of text."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openclara.model.generator import Decoding, Prompt, generate
from openclara.types import Answer, Hit, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openclara.model.adapters import Role
    from openclara.pipeline.clara import Clara


class AnswerStream:
    """Pieces of an answer as they are written."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    @property
    def hits(self) -> tuple[Hit, ...]:
        """What is being answered from; there before the first piece."""
        return tuple(self._answering.hits[0])

    @property
    def answer(self) -> Answer:
        """The answer as far as it is written."""
        return self._answering.answers()[0]

    def __iter__(self) -> Iterator[str]:
        """Pieces of text; joined they are `answer.text` but for spaces at its ends."""
        shown = ""
        for _ in self._answering.steps():
            text = self._answering.text(0)
            # A token may hold part of a character: wait until it is whole.
            if not text.endswith("\ufffd") and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
        if text := self._answering.text(0)[len(shown) :]:
            yield text


@dataclass
class Answering:
    """A batch of answers being written, and what they have cost so far."""

    clara: Clara
    questions: list[str]
    hits: list[list[Hit]]
    prompts: list[Prompt]
    decoding: Decoding
    role: Role | None
    usage: Usage
    clock: float

    def __post_init__(self) -> None:
        self.written: list[list[int]] = [[] for _ in self.questions]

    def steps(self) -> Iterator[None]:
        """Write one token of each answer at a time."""
        tokenizer = self.clara.tokenizer
        steps = generate(
            self.clara.model,
            self.prompts,
            decoding=self.decoding,
            stop_ids=tokenizer.stop_ids,
            role=self.role,
        )
        for step in steps:
            if self.usage.first_token_ms == 0.0:
                self.usage = replace(self.usage, first_token_ms=ms_since(self.clock))
            for ids, token in zip(self.written, step, strict=True):
                if token is not None:
                    ids.append(token)
            yield
        total = ms_since(self.clock)
        first = self.usage.first_token_ms or total
        self.usage = replace(self.usage, first_token_ms=first, total_ms=total)

    def text(self, row: int) -> str:
        """What is written of one answer."""
        return self.clara.tokenizer.decode(self.written[row])

    def answers(self) -> list[Answer]:
        """The answers with hits and usage."""
        return [
            Answer(question, self.text(row).strip(), tuple(self.hits[row]), self._usage(row))
            for row, question in enumerate(self.questions)
        ]

    def _usage(self, row: int) -> Usage:
        return counted(
            self.clara,
            self.questions[row],
            self.hits[row],
            self.prompts[row],
            n_written=len(self.written[row]),
            times=self.usage,
        )


def counted(
    clara: Clara,
    question: str,
    hits: Sequence[Hit],
    prompt: Prompt,
    *,
    n_written: int,
    times: Usage,
) -> Usage:
    """What an answer cost in tokens, beside the times it took.

    Args:
        clara: Who answered.
        question: What the generator was asked.
        hits: What it answered from.
        prompt: What it read.
        n_written: Tokens of the answer.
        times: Milliseconds; its counts are not looked at.
    """
    n_memory = next((h.latents.shape[0] for h in hits if h.latents is not None), 0)
    used = n_memory > 0 and prompt.latents_SD is not None
    text_prompt_tokens = clara.text_prompt_tokens(question, hits) if hits else len(prompt.ids)
    n_read = sum(hit.n_tokens for hit in hits)
    return replace(
        times,
        prompt_tokens=len(prompt.ids),
        completion_tokens=n_written,
        text_prompt_tokens=text_prompt_tokens,
        nominal_rate=clara.card.doc_max_length / n_memory if used else 0.0,
        effective_rate=n_read / (n_memory * len(hits)) if used else 0.0,
    )


def ms_since(started: float) -> float:
    """Milliseconds of wall clock since a reading of `time.perf_counter`."""
    return (time.perf_counter() - started) * 1000.0
