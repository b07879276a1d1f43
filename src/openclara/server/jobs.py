"""Documents compressed in the background, a group at a time; what counts as done is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from starlette.concurrency import run_in_threadpool

from openclara.errors import Busy, DataError, IndexBusy, OpenClaraError
from openclara.server import logs
from openclara.server.failures import Failure, failure
from openclara.server.uploads import Skipped
from openclara.types import Document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from openclara.server.asking import Engine
    from openclara.server.journal import Journal
    from openclara.server.library import Library, Served

Status = Literal["queued", "running", "done", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("queued", "running", "done", "failed", "cancelled")

GROUP_DOCUMENTS = 8
"""Committed together, and lost together where the process dies."""

GROUP_CHARS = 200_000
SHOWN_IDS = 1000
SHOWN_SKIPPED = 1000
BUSY_WAITS_S = (0.5, 1, 2, 4, 8, 16)
"""Pauses before a group is tried again while another process writes to the index."""

Items = Iterable[Document | Skipped]


@dataclass(slots=True)
class Job:
    """What clients are told of a job.

    Attributes:
        id: Its name.
        index: Name of the index.
        status: Where it stands.
        documents_done: In the index, those among them that it held already included.
        documents_total: Read so far.
        chunks_done: Stretches of the documents that are done.
        ids: Of the documents that are done, as far as they are kept.
        skipped: What could not be read.
        error: Why it failed.
        created: ISO 8601 in UTC.
        finished: Likewise.
    """

    id: str
    index: str
    status: Status = "queued"
    documents_done: int = 0
    documents_total: int = 0
    chunks_done: int = 0
    ids: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    created: str = ""
    finished: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status not in ("queued", "running")


class Stopped(Exception):  # noqa: N818 - reads as the sentence it is
    """A job is not to go on."""


@dataclass(slots=True)
class _Work:
    job: Job
    items: Iterator[Document | Skipped]
    folder: Path | None
    cancelled: bool = False


class Jobs:
    """One job at a time, in the order they came: there is one model."""

    def __init__(
        self, engine: Engine, library: Library, journal: Journal, *, most_waiting: int
    ) -> None:
        self._engine = engine
        self._library = library
        self._journal = journal
        self._most_waiting = most_waiting
        self._waiting: deque[_Work] = deque()
        self._running: _Work | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work; on the event loop that serves."""
        self._task = asyncio.create_task(self._work())

    def stop_soon(self) -> None:
        """Begin no further group."""
        self._closing = True

    async def close(self, *, drain_s: float) -> None:
        """Finish the group under way, and say of the rest that it was interrupted."""
        self.stop_soon()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=drain_s)
            self._task.cancel()
            await asyncio.wait([self._task])
        for work in self._waiting:
            self._end(work, "failed", interrupted(work.job))

    # ---- what clients ask ----

    def submit(
        self,
        index: str,
        items: Items,
        *,
        total: int = 0,
        skipped: Iterable[Skipped] = (),
        folder: Path | None = None,
    ) -> Job:
        """Queue documents for an index.

        Args:
            index: Its name.
            items: The documents, read as they are needed.
            total: How many they are, where that is known.
            skipped: What is known not to be readable.
            folder: Removed when the job ends.

        Raises:
            Failure: The service stops, or too many jobs wait; the folder is removed.
        """
        if self._closing or len(self._waiting) >= self._most_waiting:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            if self._closing:
                raise Failure(503, "the service is stopping; try again in a moment")
            raise Failure(
                429, "too many jobs wait already; try again when one is done", retry_after_s=10
            )
        job = Job(secrets.token_hex(8), index, documents_total=total, created=now())
        work = _Work(job, iter(items), folder)
        for one in skipped:
            self._skip(work, one)
        self._journal.write(job)
        self._waiting.append(work)
        self._wake.set()
        return job

    def get(self, name: str) -> Job:
        """A job.

        Raises:
            Failure: There is none of that id.
        """
        job = self._journal.jobs.get(name)
        if job is None:
            raise Failure(404, "there is no job of that id; old ones are forgotten")
        return job

    def all(self) -> list[Job]:
        """All that are remembered, newest first."""
        return list(reversed(self._journal.jobs.values()))

    def cancel(self, name: str) -> Job:
        """Stop a job after the group under way; what is done stays.

        Raises:
            Failure: There is none of that id, or it has ended.
        """
        job = self.get(name)
        if job.ended:
            raise Failure(409, f"the job is {job.status} already; there is nothing to cancel")
        for work in [*self._waiting, *([self._running] if self._running else [])]:
            if work.job is job:
                work.cancelled = True
                if work in self._waiting:
                    self._waiting.remove(work)
                    self._end(work, "cancelled")
        return job

    def counts(self) -> dict[str, int]:
        """How many jobs are remembered of each status."""
        counted = Counter(job.status for job in list(self._journal.jobs.values()))
        return {status: counted[status] for status in STATUSES}

    # ---- the work ----

    async def _work(self) -> None:
        while not self._closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._running = self._waiting.popleft()
            try:
                await self._do(self._running)
            except asyncio.CancelledError:
                self._end(self._running, "failed", interrupted(self._running.job))
                raise
            finally:
                self._running = None

    async def _do(self, work: _Work) -> None:
        job = work.job
        job.status = "running"
        self._journal.write(job)
        try:
            while group := await run_in_threadpool(self._next_group, work):
                self._check(work)
                await self._add(work, group)
                self._check(work)
        except Stopped:
            if work.cancelled:
                self._end(work, "cancelled")
            else:
                self._end(work, "failed", interrupted(job))
        except Exception as error:
            if not isinstance(error, OpenClaraError | Failure):
                logs.failed("job failed", error, job=job.id)
            self._end(work, "failed", failure(error, self._library.cleaned))
        else:
            nothing = not job.documents_total and bool(job.skipped)
            message = "no document could be read; see what was skipped, and why"
            self._end(work, *(("failed", Failure(400, message)) if nothing else ("done", None)))

    def _next_group(self, work: _Work) -> list[Document]:
        group: list[Document] = []
        n_chars = 0
        for item in work.items:
            if isinstance(item, Skipped):
                self._skip(work, item)
                continue
            group.append(item)
            n_chars += len(item.text)
            if len(group) >= GROUP_DOCUMENTS or n_chars >= GROUP_CHARS:
                break
        read = work.job.documents_done + len(group)
        work.job.documents_total = max(work.job.documents_total, read)
        return group

    async def _add(self, work: _Work, group: list[Document]) -> None:
        """Add a group, waiting for another process that writes, or for room in the engine."""
        job = work.job
        for pause in itertools.chain(BUSY_WAITS_S, [None]):
            try:
                n_chunks = await self._compress(job.index, group)
                break
            except (IndexBusy, Busy):
                if pause is None:
                    raise
                await asyncio.sleep(pause)
                self._check(work)
        job.documents_done += len(group)
        job.chunks_done += n_chunks
        job.ids += [document.id for document in group][: SHOWN_IDS - len(job.ids)]

    async def _compress(self, index: str, group: list[Document]) -> int:
        async with self._library.writing(index):
            served = await run_in_threadpool(self._library.get, index)
            await self._engine.compress(group, served.index)
            return await run_in_threadpool(_count_chunks, served, group)

    def _check(self, work: _Work) -> None:
        if work.cancelled or self._closing:
            raise Stopped

    def _skip(self, work: _Work, item: Skipped) -> None:
        if len(work.job.skipped) < SHOWN_SKIPPED:
            reason = self._library.cleaned(item.reason)
            work.job.skipped.append({"file": item.file, "reason": reason})

    def _end(self, work: _Work, status: Status, error: Failure | None = None) -> None:
        job = work.job
        job.status = status
        job.error = None if error is None else error.body["error"]
        job.finished = now()
        if work.folder is not None:
            shutil.rmtree(work.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the disk may be what failed
            self._journal.write(job)
        logs.event(
            "job ended",
            job=job.id,
            index=job.index,
            status=status,
            documents=job.documents_done,
            chunks=job.chunks_done,
            skipped=len(job.skipped),
        )


def _count_chunks(served: Served, group: list[Document]) -> int:
    try:
        return sum(len(hits) for hits in served.index.hits([document.id for document in group]))
    except DataError:
        return 0  # another process removed one of them meanwhile


def interrupted(job: Job) -> Failure:
    """Why a job failed whose process ended before it."""
    return Failure(
        503,
        f"the service stopped when {job.documents_done:,} documents were in the index; "
        "send the others again",
        code="interrupted",
    )


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
