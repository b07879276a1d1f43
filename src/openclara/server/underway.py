"""A question under way, from its arrival to its last event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from openclara.model.continuous import Entry
from openclara.model.generator import Decoding
from openclara.pipeline.answering import counted, ms_since
from openclara.server.asking import Finished, Piece
from openclara.server.looking import Lookup
from openclara.server.showing import Shown
from openclara.types import Usage

if TYPE_CHECKING:
    import asyncio

    from openclara.index import LatentIndex
    from openclara.model.generator import Prompt
    from openclara.pipeline.clara import Clara
    from openclara.server.asking import Event, Question


class Underway:
    """One caller's question; written by the worker, read on the caller's event loop.

    Args:
        question: What is asked.
        index: Where to look.
        loop: Where the caller waits.
        events: What the caller waits at; an exception is the last one.
        k: Stretches to answer from.
    """

    def __init__(
        self,
        question: Question,
        index: LatentIndex,
        loop: asyncio.AbstractEventLoop,
        events: asyncio.Queue[Event | Exception],
        *,
        k: int,
    ) -> None:
        self.question, self.index = question, index
        self.loop, self.events = loop, events
        self.gone = False
        """Set by the caller's side: nobody waits any more."""
        self.over = False
        """Whether the last event is on its way."""
        self.lookup: Lookup | None = None
        if question.context != "none":
            self.lookup = Lookup(
                question.text,
                index,
                k,
                question.mode,
                question.where,
                question.n_memory,
                with_latents=question.context == "latents",
            )
        self.prompt: Prompt | None = None
        self.entry: Entry | None = None
        self._arrived = time.perf_counter()
        self._first_token_ms = 0.0
        self._n_seen = 0
        self._shown = Shown(question.stop)

    @property
    def n_prompt(self) -> int:
        """Positions the generator has to read."""
        return 0 if self.prompt is None else len(self.prompt.ids)

    def prepare(self, clara: Clara) -> None:
        """Make the prompt of what was found."""
        hits = self.lookup.hits if self.lookup else []
        self.prompt = clara.prompt(self._asked, hits, self.question.context)

    def enter(self, stop_ids: frozenset[int]) -> Entry:
        """The answer to be written, from its beginning."""
        assert self.prompt is not None
        asked = self.question
        decoding = Decoding(asked.max_new_tokens, asked.temperature, asked.top_p, asked.seed)
        self.entry = Entry(self.prompt, decoding, stop_ids)
        return self.entry

    def written(self, clara: Clara) -> tuple[int, list[Event]]:
        """Tokens that were written since the last call, and what the caller is to be told."""
        entry = self.entry
        assert entry is not None
        n_new, self._n_seen = len(entry.written) - self._n_seen, len(entry.written)
        complete = entry.ended is not None
        if not n_new and not complete:
            return 0, []
        self._first_token_ms = self._first_token_ms or ms_since(self._arrived)
        text = clara.tokenizer.decode(entry.written)
        piece = self._shown.more(text, complete=complete)
        events: list[Event] = [Piece(piece)] if piece else []
        if complete or self._shown.stopped:
            reason = entry.ended if entry.ended and not self._shown.stopped else "stop"
            events.append(Finished(reason, self._usage(clara, entry)))
        return n_new, events

    @property
    def _asked(self) -> str:
        return self.question.prompt or self.question.text

    def _usage(self, clara: Clara, entry: Entry) -> Usage:
        lookup = self.lookup
        times = Usage(
            embed_ms=lookup.embed_ms if lookup else 0.0,
            search_ms=lookup.search_ms if lookup else 0.0,
            first_token_ms=self._first_token_ms,
            total_ms=ms_since(self._arrived),
        )
        hits = lookup.hits if lookup else []
        n_written = len(entry.written)
        return counted(clara, self._asked, hits, entry.prompt, n_written=n_written, times=times)
