"""Moving an index from a folder into Milvus, or the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from openclara.errors import ConfigError
from openclara.index.addresses import open_index, shown
from openclara.types import Chunk, CompressedDocument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.index.interface import Index
    from openclara.index.reports import AddReport


def migrate(source: str, target: str) -> AddReport:
    """Copy every document with its chunks and latents, bit for bit.

    An interrupted copy is continued by running it again. Documents that the target holds and the
    source does not are kept.

    Args:
        source: Address of an index.
        target: Address of another, made where there is none.

    Raises:
        ConfigError: Both are the same.
        OpenClaraError: One cannot be opened, or the target was made by another model.
    """
    if source == target:
        raise ConfigError(f"source and target are both {shown(source)}: name another target")
    with (
        open_index(source) as origin,
        open_index(target, origin.spec, quantization=origin.quantization) as copy,
    ):
        return copy.add(_compressed(origin))


def _compressed(index: Index) -> Iterator[CompressedDocument]:
    """What was added, as it is stored. Rounding it as it was rounded before changes nothing."""
    spec = index.spec
    for document in index.documents():
        [hits] = index.hits([document.id])
        chunks = tuple(Chunk(hit.start, hit.end, hit.n_tokens) for hit in hits)
        latents = [hit.latents for hit in hits if hit.latents is not None]
        latents_CMD = torch.stack(latents) if latents else torch.empty(0, spec.n_memory, spec.width)
        yield CompressedDocument(document, chunks, latents_CMD)
