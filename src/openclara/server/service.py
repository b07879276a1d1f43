"""What the routes share: the engine, the library and the rest, made once for each service."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from openclara.server import logs
from openclara.server.failures import failure
from openclara.server.jobs import Jobs
from openclara.server.journal import Journal
from openclara.server.keys import KeyFile
from openclara.server.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request

    from openclara.server.asking import Engine
    from openclara.server.failures import Failure
    from openclara.server.library import Library
    from openclara.server.settings import Settings


class Service:
    """One running service."""

    def __init__(self, engine: Engine, library: Library, settings: Settings) -> None:
        self.engine = engine
        self.library = library
        self.settings = settings
        self.limits = settings.limits
        self.keys = None if settings.keys is None else KeyFile(settings.keys)
        self.metrics = Metrics(engine, library)
        self.ready = False
        self.draining = False
        self._jobs: Jobs | None = None
        self._journal: Journal | None = None
        self.metrics.watch_jobs(lambda: {} if self._jobs is None else self._jobs.counts())

    @property
    def jobs(self) -> Jobs:
        """The jobs; there while the service runs."""
        assert self._jobs is not None
        return self._jobs

    @property
    def journal(self) -> Journal:
        """What is remembered of them; likewise."""
        assert self._journal is not None
        return self._journal

    def drain(self) -> None:
        """Take nothing new, and begin no further group of documents; also from a signal."""
        self.draining = True
        if self._jobs is not None:
            self._jobs.stop_soon()

    def failure(self, error: Exception) -> Failure:
        """The refusal that an exception comes to."""
        return failure(error, self._cleaned)

    def _cleaned(self, sentence: str) -> str:
        if self.keys is not None:
            sentence = sentence.replace(str(self.keys.path), "the file of keys")
        return self.library.cleaned(sentence)

    def logged(self, error: Exception) -> Failure:
        """The same where a response is under way already; what is our fault is logged."""
        refusal = self.failure(error)
        if refusal.status_code == 500:
            logs.failed("answer failed", error)
        return refusal

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the start of the event loop's work to the end of the last job."""
        with Journal(self.settings.state) as self._journal:
            self._jobs = Jobs(
                self.engine, self.library, self._journal,
                most_waiting=self.limits.jobs_waiting,
            )  # fmt: skip
            self._jobs.start()
            self.ready = True
            try:
                yield
            finally:
                self.ready = False
                self.drain()
                await self._jobs.close(drain_s=self.settings.drain_s)
                await self.engine.close(drain_s=self.settings.drain_s)
                self.library.close()


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service
