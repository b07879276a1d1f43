"""A service on a port of its own, in a thread: for every test that talks to one."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
from plain_engine import PlainEngine

from openclara.server.app import create_app
from openclara.server.library import Library
from openclara.server.running import Server, listen
from openclara.server.settings import Settings
from openclara.types import Document

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = [
    Document("opera", "The opera house in Sydney was designed by the architect Utzon.", "Opera",
             "opera.txt", {"year": 1973}),
    Document("rivers/angara", "The river Angara flows out of Lake Baikal. " * 5, "Angara",
             "rivers/angara.md", {"year": 2001}),
    Document("train", "The first train left the station of York in the year 1825.", "Train",
             "train.txt", {"year": 1825, "lang": "en"}),
]  # fmt: skip


DEFAULT = Settings()


@dataclass
class Running:
    """A service that runs.

    Attributes:
        url: Where.
        client: An httpx client of it, with the key if there is one.
        engine: What answers.
        service: What the routes share; look, from its event loop only change.
        server: What accepts connections.
    """

    url: str
    client: httpx.Client
    engine: Any
    service: Any
    server: Server
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def call(self, function, *arguments):
        """Run a plain function on the event loop of the service."""

        async def run():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(30)

    def stop(self) -> None:
        """As Ctrl-C does, and wait."""
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive(), "the service does not stop"


@contextmanager
def serving(
    clara,
    given=(),
    root: Path | None = None,
    *,
    key: str | None = None,
    settings: Settings = DEFAULT,
    make_engine=PlainEngine,
):
    """Serve indexes until the block ends."""
    library = Library(clara.latent_spec, given, root)
    sock = listen("127.0.0.1", 0)
    ready = threading.Event()
    found: dict[str, Any] = {}

    async def serve():
        engine = make_engine(clara)
        app = create_app(engine, library, settings)
        server = Server(app, settings)
        found.update(engine=engine, service=app.state.service, server=server)
        found["loop"] = asyncio.get_running_loop()
        task = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        ready.set()
        await task

    def run():
        try:
            asyncio.run(serve())
        except BaseException as error:  # told in the thread of the test
            found["error"] = error
            ready.set()

    thread = threading.Thread(target=run, name="service")
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    thread.start()
    ready.wait(60)
    if "error" in found:
        raise found["error"]
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        running = Running(url, client, thread=thread, **found)
        try:
            yield running
        finally:
            if isinstance(running.engine, PlainEngine):
                # Not waited for: a service that is ending may close its loop before.
                with suppress(RuntimeError):
                    running.loop.call_soon_threadsafe(running.engine.go_on)
            running.stop()
    assert "error" not in found, found["error"]
