"""Whether a service keeps what it has acknowledged, and its memory, while it is used and killed.

    python benchmarks/soak.py --minutes 10

On loopback: clients search and ask, add documents, replace them and delete them, and now and then
the service is killed and started again. What it has acknowledged (a job that is done, a deletion
that is answered) must be there in the end, to the letter. Prints JSON; exit code 1 where anything
is lost or comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from machine import machine
from service import Service, fill, start

from openclara.corpus import questions

INDEX = "corpus"
WORDS = [
    "amber",
    "barley",
    "copper",
    "harbour",
    "lantern",
    "meadow",
    "orchard",
    "pewter",
    "quarry",
    "river",
    "saffron",
    "timber",
]


@dataclass
class Known:
    """What the service has acknowledged.

    Attributes:
        texts: Of documents that must be there.
        gone: Ids that must not.
        unsure: Ids of which a request was cut off: either state is right.
    """

    texts: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)


@dataclass
class Soak:
    """The service of the moment and the counts of all of them."""

    root: Path
    log: Path
    service: Service
    until: float
    known: Known = field(default_factory=Known)
    counts: Counter[str] = field(default_factory=Counter)
    resident_mb: list[tuple[float, float]] = field(default_factory=list)
    kills: int = 0

    def over(self) -> bool:
        """Whether time is up."""
        return time.monotonic() >= self.until


def main() -> int:
    """Use, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kill-every", type=float, default=75.0, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, log = Path(folder) / "indexes", Path(folder) / "service.log"
        root.mkdir()
        fill(root / f"{INDEX}.idx", options.model)
        until = time.monotonic() + 60 * options.minutes
        soak = Soak(root, log, start(root, log), until)
        result = asyncio.run(_run(soak, options.kill_every))
        soak.service.stop()
    print(json.dumps({"machine": machine(), "minutes": options.minutes, **result}, indent=2))
    return 1 if result["lost"] or result["came_back"] or result["counts"].get("error") else 0


async def _run(soak: Soak, kill_every: float) -> dict[str, Any]:
    writers = [_write(soak, number) for number in range(2)]
    readers = [_read(soak, number) for number in range(4)]
    await asyncio.gather(_kill(soak, kill_every), _watch(soak), *writers, *readers)
    lost, came_back = await _compare(soak)
    return {
        "kills": soak.kills,
        "acknowledged": len(soak.known.texts),
        "deleted": len(soak.known.gone),
        "cut_off": len(soak.known.unsure),
        "lost": lost,
        "came_back": came_back,
        "counts": dict(soak.counts),
        "resident_mb": [[round(at), round(mb)] for at, mb in soak.resident_mb],
    }


async def _request(soak: Soak, method: str, path: str, **sent: Any) -> httpx.Response | None:
    """A reply, or None where the service went away meanwhile."""
    try:
        async with httpx.AsyncClient(base_url=soak.service.url, timeout=60) as client:
            reply = await client.request(method, path, **sent)
    except httpx.TransportError:
        soak.counts["connection lost"] += 1
        await asyncio.sleep(0.3)
        return None
    soak.counts[f"{reply.status_code}"] += 1
    if reply.status_code == 429:
        await asyncio.sleep(float(reply.headers["Retry-After"]))
    elif reply.status_code >= 500 and reply.status_code != 503:
        soak.counts["error"] += 1
    return reply


async def _read(soak: Soak, number: int) -> None:
    for question in itertools.islice(itertools.cycle(questions()), number * 40, None):
        if soak.over():
            return
        path = "/v1/ask" if number % 2 else "/v1/search"
        body = {"index": INDEX, "question": question.question, "k": 5}
        await _request(soak, "POST", path, json=body)


async def _write(soak: Soak, number: int) -> None:
    dice = random.Random(number)
    known = soak.known
    for at in itertools.count():
        if soak.over():
            return
        own = sorted(one for one in known.texts if one.startswith(f"w{number}-"))
        if own and dice.random() < 0.25:
            await _delete(soak, dice.choice(own))
            continue
        name = dice.choice(own) if own and dice.random() < 0.2 else f"w{number}-{at}"
        text = f"Note {at}. " + " ".join(dice.choices(WORDS, k=60)) + "."
        before = known.texts.pop(name, None)
        known.unsure.add(name)
        reply = await _request(
            soak, "PUT", f"/v1/documents/{name}", params={"index": INDEX}, json={"text": text}
        )
        if reply is not None and reply.status_code == 202:
            if await _done(soak, reply.json()["id"]):
                known.texts[name] = text
                known.gone.discard(name)
                known.unsure.discard(name)
        elif reply is not None and reply.status_code in (429, 503):
            known.unsure.discard(name)
            if before is not None:
                known.texts[name] = before


async def _done(soak: Soak, job: str) -> bool:
    for _ in range(600):
        reply = await _request(soak, "GET", f"/v1/jobs/{job}")
        if reply is None or reply.status_code != 200:
            return False
        status = reply.json()["status"]
        if status not in ("queued", "running"):
            return bool(status == "done")
        await asyncio.sleep(0.2)
    return False


async def _delete(soak: Soak, name: str) -> None:
    known = soak.known
    before = known.texts.pop(name)
    known.unsure.add(name)
    reply = await _request(soak, "DELETE", f"/v1/documents/{name}", params={"index": INDEX})
    if reply is not None and reply.status_code == 200:
        known.gone.add(name)
        known.unsure.discard(name)
    elif reply is not None and reply.status_code in (409, 429, 503):
        known.texts[name] = before
        known.unsure.discard(name)


async def _kill(soak: Soak, every: float) -> None:
    while not soak.over():
        await asyncio.sleep(min(every, max(0.0, soak.until - time.monotonic())))
        if soak.over():
            return
        await asyncio.to_thread(soak.service.stop, signal.SIGKILL)
        soak.kills += 1
        soak.service = await asyncio.to_thread(start, soak.root, soak.log)


async def _watch(soak: Soak) -> None:
    began = time.monotonic()
    while not soak.over():
        # Between a kill and the start after it there is no process to look at.
        with suppress(FileNotFoundError):
            soak.resident_mb.append((time.monotonic() - began, soak.service.resident_mb()))
        await asyncio.sleep(10)


async def _compare(soak: Soak) -> tuple[list[str], list[str]]:
    """Acknowledged documents that are not there as they were given; deleted ones that are."""
    lost, came_back = [], []
    for name, text in soak.known.texts.items():
        reply = await _request(soak, "GET", f"/v1/documents/{name}", params={"index": INDEX})
        if reply is None or reply.status_code != 200 or reply.json()["text"] != text:
            lost.append(name)
    for name in soak.known.gone:
        reply = await _request(soak, "GET", f"/v1/documents/{name}", params={"index": INDEX})
        if reply is None or reply.status_code != 404:
            came_back.append(name)
    return lost, came_back


if __name__ == "__main__":
    sys.exit(main())
