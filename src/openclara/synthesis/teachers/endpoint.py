"""A teacher behind any endpoint that speaks the protocol of OpenAI's chat completions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import time
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from openclara.errors import TeacherError
from openclara.synthesis.teachers.attempts import Attempts, Settings, Stopped
from openclara.synthesis.teachers.budget import Budget, Prices
from openclara.synthesis.teachers.pacing import Backoff, Pace
from openclara.synthesis.teachers.prompts import prompts_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from openclara.synthesis.tasks import Reply, Task

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class EndpointTeacher:
    """A hosted model, asked many things at once.

    The order of replies is that in which they arrive. The key is read from the environment when
    work begins and is kept nowhere else.

    Args:
        model: As the endpoint calls it.
        base_url: Up to and with the version, such as `https://api.openai.com/v1`.
        key_variable: Environment variable with the API key; a server on this machine needs none.
        concurrency: Requests under way at once.
        requests_per_minute: None is without limit.
        tokens_per_minute: Read and written together; None is without limit.
        attempts: Most requests for one task that may fail before it is given up.
        timeout_s: For a whole request.
        temperature: For questions and paraphrases; answers and verdicts are always greedy.
        seed: Of sampling, for endpoints that heed it.
        max_tokens: Most tokens of a reply; up to four times as many where one was cut off.
        budget: What may be spent; None is without limit.
        prices: For the money in `Spent` and in the budget.
        extra_body: Further fields of each request that only this server knows.
        backoff: Times between attempts.
        clock: Seconds that only grow.
        sleep: Waits for seconds.

    Raises:
        TeacherError: The address is none.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        attempts: int = 6,
        timeout_s: float = 120.0,
        temperature: float = 0.7,
        seed: int = 0,
        max_tokens: int = 1024,
        budget: Budget | None = None,
        prices: Prices | None = None,
        extra_body: Mapping[str, Any] | None = None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise TeacherError(
                "the teacher's base_url is no web address; give one such as "
                "https://api.openai.com/v1 or http://127.0.0.1:8000/v1"
            )
        self.name = model
        self.width = 4 * concurrency
        self.budget = budget or Budget()
        self._base_url = base_url
        self._hostname = address.hostname
        self._key_variable = key_variable
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        settings = Settings(
            model=model,
            # Without a user, a password or a query, which may be secret.
            where=f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}",
            key_variable=key_variable,
            attempts=attempts,
            timeout_s=timeout_s,
            temperature=temperature,
            seed=seed,
            max_tokens=max_tokens,
            prices=prices or Prices(),
            extra_body=dict(extra_body or {}),
            # A server that loses more tasks in a row than are asked at once is not there.
            lost_in_a_row=max(4, concurrency),
        )
        self.fingerprint = _fingerprint(base_url, settings)
        self._attempts = Attempts(
            settings,
            budget=self.budget,
            pace=Pace(requests_per_minute, tokens_per_minute),
            backoff=backoff or Backoff(),
            clock=clock,
            sleep=sleep,
            random=random.Random(),
        )

    def perform(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Reply]]:
        """As in `Teacher`; closing the iterator gives up what is under way.

        Raises:
            TeacherError: The budget is spent, the key is missing or refused, the model, path or
                server is not there, or the server stays away. Run again with the same cache, and
                only what is missing is asked.
        """
        if not tasks:
            return
        key = self._key()
        arrived: SimpleQueue[tuple[int, Reply] | BaseException | None] = SimpleQueue()
        # A loop in a thread of its own: requests go on while the caller works on a reply, and a
        # caller that is inside a loop already can use it.
        loop = asyncio.new_event_loop()
        work = loop.create_task(self._perform(list(tasks), key, arrived))
        thread = Thread(target=_run, args=(loop, work, arrived), daemon=True)
        thread.start()
        try:
            while (item := arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            # A closed loop has nothing under way.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(work.cancel)
            thread.join()

    async def _perform(self, tasks: list[Task], key: str, arrived: SimpleQueue[Any]) -> None:
        client = self._client(key)
        waiting = iter(enumerate(tasks))

        async def worker() -> None:
            for position, task in waiting:
                arrived.put((position, await self._attempts.carry_out(client, task)))

        async with client:
            workers = [worker() for _ in range(min(self._concurrency, len(tasks)))]
            # What is under way when one stops is still waited for: it has been paid.
            ends = await asyncio.gather(*workers, return_exceptions=True)
        errors = [end for end in ends if isinstance(end, BaseException)]
        unexpected = [error for error in errors if not isinstance(error, Stopped)]
        for error in unexpected + errors:
            raise TeacherError(str(error)) if isinstance(error, Stopped) else error

    def _key(self) -> str:
        key = os.environ.get(self._key_variable, "").strip()
        if not key and self._hostname not in _LOOPBACK:
            raise TeacherError(
                f"the environment variable {self._key_variable} holds no API key; set it, or name "
                "another one with key_variable"
            )
        if not key.isascii() or not key.isprintable():
            raise TeacherError(
                f"the environment variable {self._key_variable} holds characters that no API key "
                "has; set it again"
            )
        return key or "none"

    def _client(self, key: str) -> Any:
        try:
            import openai
        except ImportError:
            raise TeacherError(
                "an endpoint as teacher needs the openai package; run "
                "`pip install 'openclara[synthesis]'`"
            ) from None
        # Its debug messages hold whole requests, documents included.
        logger = logging.getLogger("openai")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        return openai.AsyncOpenAI(
            api_key=key, base_url=self._base_url, timeout=self._timeout_s, max_retries=0
        )


def _run(loop: asyncio.AbstractEventLoop, work: asyncio.Task[None], arrived: Any) -> None:
    end: BaseException | None = None
    try:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(work)
    except BaseException as error:  # raised again where the caller waits
        end = error
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        arrived.put(end)


def _fingerprint(base_url: str, settings: Settings) -> str:
    parts = [
        *(base_url, settings.model, settings.temperature, settings.seed, settings.max_tokens),
        *(settings.extra_body, prompts_version()),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
