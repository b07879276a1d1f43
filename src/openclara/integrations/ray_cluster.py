"""Ray, joined where there is a cluster and started on this machine where there is none."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from openclara.errors import ModelError

RETRIES = 3
"""How often work is tried again whose worker died."""

CPU_THREADS = 4
"""Of a worker on a CPU, where the number of workers is not said."""

_STORE_BYTES = 256 * 2**20
"""For what is handed to workers on this machine: texts and numbers; results go to files."""


def find_ray() -> Any:
    """The module `ray`, which is not started by this.

    Raises:
        ModelError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ModelError("engine ray needs ray; run `pip install 'openclara[ray]'`") from error
    return ray


class RayCluster:
    """Where workers run.

    A cluster is used where `RAY_ADDRESS` names one or the program has joined one; else Ray is
    started on this machine, without dashboard and without reports of use, and stopped again.
    """

    def __init__(self) -> None:
        self._started = False

    def join(self, n_workers: int = 0) -> Any:
        """Join or start it; the module `ray`.

        Args:
            n_workers: As many as there is to be room for on this machine.

        Raises:
            ModelError: Ray is not installed.
        """
        ray = find_ray()
        if not ray.is_initialized():
            self._start(ray, n_workers)
        return ray

    def size(self) -> tuple[int, int]:
        """Its CPUs and GPUs."""
        there = find_ray().cluster_resources()
        return int(there.get("CPU", 1)), int(there.get("GPU", 0))

    def leave(self) -> None:
        """Stop Ray if it was started here."""
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def _start(self, ray: Any, n_workers: int) -> None:
        local: dict[str, Any] = {}
        if "RAY_ADDRESS" not in os.environ:
            # Ray makes its workers yield to everything else, and they are the work here.
            os.environ.setdefault("RAY_worker_niceness", "0")
            local = {
                "num_cpus": max(n_workers, os.cpu_count() or 1),
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
            }
        ours = signal.getsignal(signal.SIGTERM)
        ray.init(logging_level="ERROR", log_to_driver=False, **local)
        if threading.current_thread() is threading.main_thread():
            # Ray takes the signal to exit at once, before anything is saved.
            signal.signal(signal.SIGTERM, ours)
        self._started = True
