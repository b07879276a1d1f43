"""Synthesis as a job of Ray Data: each row is a shard of passages, each worker has a teacher.

What a shard becomes depends on its passages and on the replies alone, so here, other than where
documents are compressed, Ray Data may hand shards out as it sees fit. Rows hold numbers; passages,
replies and finished shards are files in the output folder. A worker that dies is started anew and
finds what its shard was answered; a shard shows under its name once, when it is whole.
"""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from openclara.errors import ConfigError
from openclara.integrations.ray_cluster import CPU_THREADS, RayCluster, find_ray
from openclara.integrations.ray_shards import EVERY_S, Job, ShardWorker
from openclara.synthesis.ledger import Ledger
from openclara.synthesis.replies import WorkFolder
from openclara.synthesis.teachers.budget import added

if TYPE_CHECKING:
    from collections.abc import Callable

    from openclara.config import TeacherConfig
    from openclara.synthesis.tasks import Teacher
    from openclara.synthesis.work import Work

LET_GO_S = 30.0
"""How long workers are waited for when the driver goes down with an error."""


class RaySynthesis:
    """Makes the missing shards of a synthesis with workers of Ray; see `synthesize(make=...)`.

    Args:
        workers: How many; one for each GPU where the teacher runs there, one for each CPU where it
            is rules, else one for every few CPUs, if None. Never more than there are shards, or
            than the teacher may be asked at once or in a minute.
        on_start: Called with the number there will be.

    Raises:
        ModelError: Ray is not installed.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        on_start: Callable[[int], None] = lambda n_workers: None,
    ) -> None:
        find_ray()
        self._workers = workers
        self._on_start = on_start

    def __call__(self, work: Work, teacher: Teacher) -> bool:
        """Make what is missing; False if it was stopped before the end.

        Raises:
            ConfigError: Ray has no room for the workers.
            ModelError: A worker cannot load the teacher.
            TeacherError: The teacher can do no more, or the budget is spent.
            OpenClaraError: Workers died over and over, or were lost.
        """
        # Ray prints what befalls its workers, where results are expected.
        with redirect_stdout(sys.stderr):
            return self._carried_out(work, teacher)

    def _carried_out(self, work: Work, teacher: Teacher) -> bool:
        cluster = RayCluster()
        ray = cluster.join(self._workers or 0)
        try:
            files = WorkFolder(work.folder)
            if not work.missing or self._job(work, teacher, files, cluster, ray):
                with work.cache() as cache:
                    files.absorb(cache)
                files.clear()
                return True
            return False
        finally:
            cluster.leave()

    def _job(
        self, work: Work, teacher: Teacher, files: WorkFolder, cluster: RayCluster, ray: Any
    ) -> bool:
        recipe = work.recipe
        count, needs = _places(self._workers, work, cluster)
        with work.cache() as cache:
            if recipe.retry_failed:
                cache.forget_failed()
                files.forget_failed()
            files.prepare(work.missing, cache)
        work.shards.forget_parts()
        paid = added(work.progress.spent, files.paid(number for number, _ in work.missing))
        ledger = _beside(ray, Ledger).remote(recipe.teacher, paid)
        job = Job(
            recipe.model_copy(update={"teacher": share(recipe.teacher, count)}),
            work.folder.absolute(),
            work.shards.identity,
            teacher.fingerprint,
        )
        self._on_start(count)
        numbers = [number for number, _ in work.missing]
        running = _Running(job, ledger, numbers, count, needs)
        try:
            _watch(running, work, ledger, ray)
        finally:
            ray.kill(ledger)
        return running.finished == set(numbers)


def share(teacher: TeacherConfig, n_workers: int) -> TeacherConfig:
    """A teacher as one of several workers may use it: limits divided, rounded down, at least 1."""
    if teacher.kind == "rules":
        return teacher
    if teacher.kind == "local":
        # Workers need not stand in the folder where the command was given.
        base = Path(teacher.base)
        return (
            teacher.model_copy(update={"base": str(base.absolute())}) if base.exists() else teacher
        )
    limits = {
        name: max(1, limit // n_workers)
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute")
        if (limit := getattr(teacher, name)) is not None
    }
    return teacher.model_copy(update=limits)


def _places(asked: int | None, work: Work, cluster: RayCluster) -> tuple[int, dict[str, float]]:
    """How many workers there are, and what each needs."""
    teacher = work.recipe.teacher
    n_cpus, n_gpus = cluster.size()
    on_gpu = teacher.kind == "local" and teacher.device != "cpu" and n_gpus > 0
    if asked is not None and asked > (n_gpus if on_gpu else n_cpus):
        there = f"{n_gpus} GPUs" if on_gpu else f"{n_cpus} CPUs"
        raise ConfigError(f"Ray has no room for {asked} workers on {there}; give fewer --workers")
    by_threads = n_cpus if teacher.kind == "rules" else max(1, n_cpus // CPU_THREADS)
    count = asked or (n_gpus if on_gpu else by_threads)
    most = [len(work.missing)]
    if teacher.kind == "openai":
        most += [teacher.concurrency, teacher.requests_per_minute or teacher.concurrency]
    count = min(count, *most)
    # Only a local model keeps more than one CPU busy.
    threads = max(1, n_cpus // count) if teacher.kind == "local" and not on_gpu else 1
    return count, {"num_cpus": threads, "num_gpus": 1 if on_gpu else 0}


def _beside(ray: Any, kind: type) -> Any:
    """An actor on the driver's machine: it is lost only where the driver is."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=here)


class _Running(Thread):
    """The job, in a thread: the main one shows progress and hears signals."""

    def __init__(
        self, job: Job, ledger: Any, numbers: list[int], count: int, needs: dict[str, float]
    ) -> None:
        super().__init__(daemon=True)
        self._job, self._ledger, self._numbers = job, ledger, numbers
        self._count, self._needs = count, needs
        self.finished: set[int] = set()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for row in self._rows():
                if row["finished"]:
                    self.finished.add(int(row["number"]))
        except BaseException as error:  # raised again where the driver waits
            self.error = error

    def _rows(self) -> Any:
        data = _quiet_ray_data()
        rows = [{"number": number} for number in self._numbers]
        shards = data.from_items(rows, override_num_blocks=len(rows))
        # One shard at a time: none waits behind a busy worker while another is idle.
        pool = data.ActorPoolStrategy(size=self._count, max_tasks_in_flight_per_actor=1)
        made = shards.map(
            ShardWorker, fn_constructor_args=(self._job, self._ledger), compute=pool, **self._needs
        )
        return made.iter_rows()


def _quiet_ray_data() -> Any:
    """The module, told to show no bars and plans, and to be patient: a shard may take hours."""
    import ray.data

    data: Any = ray.data
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)
    return data


def _watch(running: _Running, work: Work, ledger: Any, ray: Any) -> None:
    """Say where the job stands until it ends."""
    before = replace(work.progress)

    def look() -> None:
        now = ray.get(ledger.progress.remote())
        work.progress = replace(
            now,
            passages=before.passages,
            done=before.done + now.done,
            pairs=before.pairs + now.pairs,
        )
        work.watching.moved(work.progress)

    running.start()
    try:
        while running.is_alive():
            running.join(EVERY_S)
            look()
            if work.watching.stop():
                ray.get(ledger.stop.remote())
    finally:
        if running.is_alive():
            ray.get(ledger.stop.remote())
            running.join(LET_GO_S)
    look()
    if (error := ray.get(ledger.error.remote())) is not None:
        raise error
    if running.error is not None:
        raise running.error
