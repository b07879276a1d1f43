"""How many questions a service answers over HTTP: many clients at once against one at a time.

    python benchmarks/load.py --seconds 60

A service of its own on loopback, over the bundled corpus. Each client asks the next question as
soon as it has an answer, and waits as long as it is told where the service is full. One client and
all of them take turns, so that a machine that slows down does not favour one side. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import httpx
from machine import machine, spread
from service import fill, start

from openclara.corpus import questions

if TYPE_CHECKING:
    from service import Service

INDEX = "corpus"


def main() -> None:
    """Start, load, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0, help="of all clients at once")
    parser.add_argument("--rounds", type=int, default=3, help="that the seconds are split in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "indexes"
        root.mkdir()
        fill(root / f"{INDEX}.idx", options.model)
        service = start(root, Path(folder) / "service.log")
        try:
            result = asyncio.run(_measure(service, options))
        finally:
            service.stop()
    print(json.dumps({"machine": machine(), "model": options.model, **result}, indent=2))


async def _measure(service: Service, options: argparse.Namespace) -> dict[str, Any]:
    await _load(service, 2, 5.0)
    sides: dict[str, list[dict[str, Any]]] = {"one": [], "many": []}
    memory = [service.resident_mb()]
    for _ in range(options.rounds):
        share = options.seconds / options.rounds
        sides["one"].append(await _load(service, 1, share / 2))
        sides["many"].append(await _load(service, options.clients, share))
        memory.append(service.resident_mb())
    ratios = [
        many["answers_per_s"] / one["answers_per_s"]
        for one, many in zip(sides["one"], sides["many"], strict=True)
    ]
    return {
        "clients": options.clients,
        "sides": {name: _joined(rounds) for name, rounds in sides.items()},
        "ratio": spread(ratios),
        "resident_mb": memory,
    }


async def _load(service: Service, n_clients: int, seconds: float) -> dict[str, Any]:
    """Closed-loop clients for so long; answers that are under way at the end are awaited."""
    asked = itertools.cycle(questions())
    taken: list[float] = []
    statuses: Counter[str] = Counter()
    began = time.perf_counter()

    async def ask(client: httpx.AsyncClient) -> None:
        while time.perf_counter() - began < seconds:
            sent = time.perf_counter()
            body = {"index": INDEX, "question": next(asked).question, "k": 5, "max_tokens": 32}
            try:
                reply = await client.post("/v1/ask", json=body)
            except httpx.TransportError as error:
                statuses[type(error).__name__] += 1
                continue
            statuses[str(reply.status_code)] += 1
            if reply.status_code == 200:
                taken.append(1000 * (time.perf_counter() - sent))
            elif reply.status_code == 429:
                await asyncio.sleep(float(reply.headers["Retry-After"]))

    async with httpx.AsyncClient(
        base_url=service.url, timeout=180, limits=httpx.Limits(max_connections=n_clients)
    ) as client:
        await asyncio.gather(*(ask(client) for _ in range(n_clients)))
    elapsed = time.perf_counter() - began
    return {
        "answers": len(taken),
        "answers_per_s": len(taken) / elapsed,
        "ms": taken,
        "statuses": statuses,
        "seconds": elapsed,
    }


def _joined(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    taken = sorted(ms for one in rounds for ms in one["ms"])
    statuses: Counter[str] = Counter()
    for one in rounds:
        statuses.update(one["statuses"])
    at = quantiles(taken, n=100)
    return {
        "answers": len(taken),
        "answers_per_s": spread([one["answers_per_s"] for one in rounds]),
        "p50_ms": at[49],
        "p95_ms": at[94],
        "p99_ms": at[98],
        "statuses": dict(statuses),
        "seconds": sum(one["seconds"] for one in rounds),
    }


if __name__ == "__main__":
    main()
