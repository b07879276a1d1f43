"""A running `openclara serve` for the benchmarks that load it, and what it holds of memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from openclara import Clara, LatentIndex
from openclara.corpus import passages

if TYPE_CHECKING:
    from collections.abc import Sequence

READY_S = 120.0


@dataclass
class Service:
    """A process that serves indexes on loopback.

    Attributes:
        process: The process.
        url: Where it listens.
    """

    process: subprocess.Popen[str]
    url: str

    def resident_mb(self) -> float:
        """What the process holds of memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1000 if found else 0.0

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it and wait."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def fill(path: Path, model: str) -> None:
    """Make an index of the bundled corpus."""
    clara = Clara.load(model)
    with LatentIndex.open(path, clara.latent_spec) as index:
        index.add(clara.compress(passages()))


def start(root: Path, log: Path, options: Sequence[str] = ()) -> Service:
    """Serve every index below a folder on a free port, and wait until it is ready.

    Raises:
        RuntimeError: It does not come up.
    """
    command = [sys.executable, "-m", "openclara", "serve", "--root", str(root), "--port", "0"]
    with log.open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    if found is None:
        raise RuntimeError(f"the service said {line!r}; see {log}")
    service = Service(process, found[0])
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{service.url}/readyz", timeout=5).status_code == 200:
                return service
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service is not ready after {READY_S:.0f} s; see {log}")
