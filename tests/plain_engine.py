"""An engine that answers one question at a time and can be held between two tokens."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from openclara.errors import Busy
from openclara.model.generator import Decoding
from openclara.server.asking import Finished, Found, Load, Piece


class PlainEngine:
    """Everything that touches the model runs on one thread, in the order it came.

    `hold` stops it between two tokens for as long as it is set, so that a test can look at a
    question that is being answered.
    """

    def __init__(self, clara, *, most_waiting=64):
        self._clara = clara
        self._thread = ThreadPoolExecutor(1, "engine")
        self._turn = asyncio.Lock()
        self._most_waiting = most_waiting
        self._free = asyncio.Event()
        self._free.set()
        self._load = Load()
        self.closed = False

    def hold(self):
        self._free.clear()

    def go_on(self):
        self._free.set()

    @property
    def load(self):
        return self._load

    def _count(self, **changes):
        values = {name: getattr(self._load, name) + by for name, by in changes.items()}
        self._load = replace(self._load, **values)

    async def _on_thread(self, work, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def ask(self, question, index):
        if self._load.waiting >= self._most_waiting:
            self._count(refused=1)
            raise Busy("too many questions wait; try again in a moment", 2.0)
        self._count(waiting=1)
        entered = False
        try:
            async with self._turn:
                self._count(waiting=-1, running=1)
                entered = True
                async for event in self._answer(question, index):
                    yield event
                self._count(answered=1)
        except (asyncio.CancelledError, GeneratorExit):
            self._count(cancelled=1)
            raise
        finally:
            self._count(**({"running": -1} if entered else {"waiting": -1}))

    async def _answer(self, question, index):
        def start():
            decoding = Decoding(
                max_new_tokens=question.max_new_tokens,
                temperature=question.temperature,
                top_p=question.top_p,
                seed=question.seed,
            )
            stream = self._clara.stream(
                question.text, index, k=question.k, context=question.context, mode=question.mode,
                where=question.where, n_memory=question.n_memory, decoding=decoding,
            )  # fmt: skip
            if question.prompt:
                inner = stream._answering
                inner.questions = [question.prompt]
                inner.prompts = [self._clara.prompt(question.prompt, stream.hits, question.context)]
            return stream

        stream = await self._on_thread(start)
        yield Found(stream.hits)
        pieces = iter(stream)
        text, shown = "", 0
        reason = None
        longest = max((len(stop) for stop in question.stop), default=0)
        while reason is None:
            await self._free.wait()
            piece = await self._on_thread(next, pieces, None)
            if piece is None:
                break
            text += piece
            self._count(tokens=1, steps=1)
            ends = [text.find(stop, max(0, shown)) for stop in question.stop]
            found = min((at for at in ends if at >= 0), default=None)
            if found is not None:
                text, reason = text[:found], "stop"
            until = len(text) if reason else max(shown, len(text) - longest + 1 if longest else
                                                 len(text))  # fmt: skip
            if text[shown:until]:
                yield Piece(text[shown:until])
                shown = until
        if text[shown:]:
            yield Piece(text[shown:])
        usage = stream.answer.usage
        full = usage.completion_tokens >= question.max_new_tokens
        yield Finished(reason or ("length" if full else "stop"), usage)

    async def search(self, question, index, *, k, mode, where):
        return await self._on_thread(
            lambda: self._clara.search(question, index, k=k, mode=mode, where=where)
        )

    async def embed(self, texts, role):
        return await self._on_thread(lambda: self._clara.latents(self._clara.cut(texts), role=role))

    async def compress(self, documents, index):
        def work():
            spec = self._clara.latent_spec
            self._clara.latent_spec = replace(spec, n_memory=index.spec.n_memory)
            try:
                report = index.add(self._clara.compress(documents))
            finally:
                self._clara.latent_spec = spec
            return report.added + report.updated

        return await self._on_thread(work)

    async def run(self, work):
        return await self._on_thread(work, self._clara)

    async def close(self, *, drain_s):
        self.closed = True
        self._thread.shutdown()
