"""Who compresses documents for `index add`: this program, or workers of Ray."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import CycloptsError

from openclara.cli import render
from openclara.cli.loading import load_model_to_add, model_to_add
from openclara.index.addresses import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.cli.options import EngineOptions, ModelOptions
    from openclara.integrations.ray_engine import RayWorkers
    from openclara.pipeline import Clara


@contextmanager
def compressor(
    address: str, model: ModelOptions, options: EngineOptions, *, n_memory: int | None
) -> Iterator[Clara | RayWorkers]:
    """What makes the latents of an index, and says which they are.

    Args:
        address: Of the index, which need not exist.
        model: Which model the user says.
        options: Who compresses.
        n_memory: Latents for each passage, in a new index.
    """
    if options.engine == "plain":
        if options.workers is not None or options.parts is not None:
            raise CycloptsError(msg="--workers and --parts are for --engine ray")
        yield load_model_to_add(address, model, n_memory=n_memory)
        return
    from openclara.index.parts import PartFolder
    from openclara.integrations.ray_engine import ModelChoice, RayWorkers

    if model.device_map is not None:
        raise CycloptsError(msg="--device-map is for one program; --engine ray has a GPU a worker")
    if options.parts is None and address.startswith(PREFIX):
        raise CycloptsError(msg="--engine ray needs --parts for an index in Milvus")
    name, stored = model_to_add(address, model)
    choice = ModelChoice(name, model.base, model.device, model.precision, n_memory, stored)
    parts = PartFolder(options.parts or f"{Path(address).absolute()}.parts")
    workers = RayWorkers(choice, parts, count=options.workers, keep=options.parts is not None)
    with render.waiting("starting workers; each loads the model"):
        workers.__enter__()
    try:
        render.note(f"{render.counted(workers.count, 'worker')} of Ray, with {name} each")
        yield workers
    finally:
        workers.close()
        if options.parts is None:
            parts.clear()
