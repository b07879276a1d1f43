"""Compression by the workers of a Ray cluster, or by several on this machine.

Actors, not Ray Data: which documents are compressed together decides the last bits of their
latents, and Ray Data cuts its blocks as its scheduler sees fit. Here a window of documents is cut
as the plain path cuts it, compressed by whichever worker is free, written as a part under a name
that follows from its content, and taken in the order of the windows. A worker that dies is started
anew and its window is compressed again under the same name, so each part counts once.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from openclara.errors import ModelError, OpenClaraError
from openclara.index.parts import PartFolder, packed, packed_documents, unpacked_documents
from openclara.integrations.ray_cluster import CPU_THREADS, RETRIES, RayCluster
from openclara.model.zoo import find_checkpoint
from openclara.pipeline.compressing import windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

    from openclara.types import CompressedDocument, Document, LatentSpec, Precision

AHEAD = 3
"""Windows for each worker that are read before the first of them is stored."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What each worker loads; see `Clara.load`.

    Attributes:
        name: Zoo name, folder or hub id; a folder must be there on all machines.
        base: The base, where it is not the one the model names.
        device: `auto`, `cpu` or `cuda`.
        precision: Arithmetic.
        n_memory: Latents for each chunk, as asked for.
        stored_n_memory: Latents for each chunk that the index has already.
    """

    name: str
    base: str | None = None
    device: str = "auto"
    precision: Precision = "auto"
    n_memory: int | None = None
    stored_n_memory: int | None = None


class Made(NamedTuple):
    """What a worker says of a part."""

    n_documents: int
    n_chunks: int
    process: int


class Worker:
    """A model in a process of its own; made anew where that died."""

    def __init__(self, choice: ModelChoice, place: str) -> None:
        self._choice = choice
        self._parts = PartFolder(place)
        self._clara: Any = None

    def ready(self) -> LatentSpec | str:
        """Load the model; what it makes, or the sentence that says why it cannot be loaded."""
        try:
            spec: LatentSpec = self._loaded().latent_spec
        except OpenClaraError as error:
            return str(error)
        return spec

    def compress(self, name: str, content: bytes) -> Made:
        """Write the part of that name, unless it is there."""
        documents = unpacked_documents(content)
        if name in self._parts:
            _, items = self._parts.read(name)
        else:
            clara = self._loaded()
            # One window by itself: `windows` would not cut it, however it counts.
            items = list(clara.compress(documents))
            self._parts.write(name, packed(clara.latent_spec, items))
        return Made(len(items), sum(len(item.chunks) for item in items), os.getpid())

    def _loaded(self) -> Any:
        if self._clara is None:
            from openclara.pipeline import Clara

            choice = self._choice
            clara = Clara.load(
                choice.name,
                base=choice.base,
                device=choice.device,
                precision=choice.precision,
                n_memory=choice.n_memory,
            )
            if choice.n_memory is None and choice.stored_n_memory is not None:
                spec = replace(clara.latent_spec, n_memory=choice.stored_n_memory)
                clara.latent_spec = spec
            self._clara = clara
        return self._clara


class RayWorkers:
    """Workers that hold a model each, for the length of a `with` block.

    Args:
        choice: The model.
        parts: Where finished parts go.
        count: How many; one for each GPU, or for every few cores, if None.
        keep: Leave parts there when an index has them.

    Attributes:
        latent_spec: What the model makes.
        count: How many there are.

    Raises:
        ModelError: Ray is not installed, or the model cannot be loaded.
    """

    latent_spec: LatentSpec

    def __init__(
        self,
        choice: ModelChoice,
        parts: PartFolder,
        *,
        count: int | None = None,
        keep: bool = False,
    ) -> None:
        self.choice = choice
        self.parts = parts
        self.count = count or 0
        self.keep = keep
        self._actors: list[Any] = []
        self._running: dict[Any, int] = {}
        self._cluster = RayCluster()

    def __enter__(self) -> Self:
        """Start them; returns when the first has loaded the model."""
        # Before anything is started; the folder of a model is on every machine, so here as well.
        find_checkpoint(self.choice.name)
        ray = self._cluster.join(self.count)
        try:
            self._actors = self._made(ray)
            answer = ray.get(self._actors[0].ready.remote())
            if isinstance(answer, str):
                raise ModelError(answer)
        except BaseException:
            self.close()
            raise
        self.latent_spec = answer
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, and Ray if it was started for them."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        self._cluster.leave()

    def _made(self, ray: Any) -> list[Any]:
        n_cpus, n_gpus = self._cluster.size()
        on_gpu = self.choice.device != "cpu" and n_gpus > 0
        self.count = self.count or (n_gpus if on_gpu else max(1, n_cpus // CPU_THREADS))
        needs = {"num_cpus": 1 if on_gpu else max(1, n_cpus // self.count)}
        kind = ray.remote(Worker).options(
            **needs,
            num_gpus=1 if on_gpu else 0,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
        return [kind.remote(self.choice, self.parts.place) for _ in range(self.count)]

    def compress(
        self,
        documents: Iterable[Document],
        *,
        on_progress: Callable[[int, int], None] = lambda n_documents, n_chunks: None,
        on_part: Callable[[Made], None] = lambda made: None,
    ) -> RayCompression:
        """As `Clara.compress`, by the workers.

        Args:
            documents: Read as they are needed, on this machine.
            on_progress: Called with the documents and chunks of each part.
            on_part: Called with what the worker says, before the part is taken.
        """
        return RayCompression(self, documents, on_progress, on_part)

    def submit(self, name: str, content: bytes) -> Any:
        """Hand a window to the worker that has least to do; a reference to what comes of it."""
        import ray

        if self._running:
            done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in done:
                del self._running[reference]
        busy = list(self._running.values())
        actor = min(range(self.count), key=busy.count)
        reference = self._actors[actor].compress.remote(name, content)
        self._running[reference] = actor
        return reference


class RayCompression:
    """A stream for `LatentIndex.add`, made by workers, in reading order."""

    def __init__(
        self,
        workers: RayWorkers,
        documents: Iterable[Document],
        on_progress: Callable[[int, int], None],
        on_part: Callable[[Made], None],
    ) -> None:
        self._workers = workers
        self._documents = documents
        self._on_progress = on_progress
        self._on_part = on_part

    def __iter__(self) -> Iterator[CompressedDocument]:
        """Compress every document."""
        return self.skipping(lambda document: False)

    def skipping(self, unchanged: Callable[[Document], bool]) -> Iterator[CompressedDocument]:
        """Compress only the documents for which `unchanged` is false, in order.

        Raises:
            DataError: A document cannot be read; those before it come first.
            OpenClaraError: A window cannot be compressed.
        """
        wanted = (document for document in self._documents if not unchanged(document))
        waiting: deque[tuple[str, Any]] = deque()
        failure: Exception | None = None
        number = 0
        cut = windows(wanted, doc_max_length=self._workers.latent_spec.doc_max_length)
        while True:
            try:
                window = next(cut, None)
            except Exception as error:
                failure = error
                break
            if window is None:
                break
            if window:
                waiting.append(self._submitted(number, window))
                number += 1
            if len(waiting) >= AHEAD * self._workers.count:
                yield from self._taken(*waiting.popleft())
        while waiting:
            yield from self._taken(*waiting.popleft())
        if failure is not None:
            raise failure

    def _submitted(self, number: int, window: Sequence[Document]) -> tuple[str, Any]:
        content = packed_documents(window)
        maker = repr(self._workers.latent_spec).encode()
        name = self._workers.parts.name(number, maker + content)
        return name, self._workers.submit(name, content)

    def _taken(self, name: str, reference: Any) -> Iterator[CompressedDocument]:
        """The documents of a part, once it is finished."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            made = Made(*ray.get(reference))
        except RayActorError as error:
            raise OpenClaraError(
                f"workers died {RETRIES + 1} times over the same documents, most likely for want "
                "of memory; give them more, or run fewer with --workers"
            ) from error
        except RayTaskError as error:
            if isinstance(error.cause, OpenClaraError):
                raise error.cause from None
            raise
        self._on_part(made)
        self._on_progress(made.n_documents, made.n_chunks)
        _, items = self._workers.parts.read(name)
        yield from items
        if not self._workers.keep:
            self._workers.parts.remove(name)
