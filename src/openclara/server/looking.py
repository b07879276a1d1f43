"""Finding what several callers look for at once: one pass of the reasoner, one search an index."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from openclara.pipeline.answering import ms_since

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from torch import Tensor

    from openclara.index import LatentIndex
    from openclara.pipeline.clara import Clara
    from openclara.types import Hit, Mode


@dataclass(slots=True, eq=False)
class Lookup:
    """One search, and what came of it.

    Attributes:
        text: What is searched for.
        index: Where.
        k: Hits wanted.
        mode: How to search.
        where: Filters.
        n_memory: Latents of each stretch; all that are stored if None.
        with_latents: Whether hits carry them.
        hits: What was found.
        error: Why nothing could be.
        embed_ms: The pass of the reasoner that it took part in.
        search_ms: The search that it took part in.
    """

    text: str
    index: LatentIndex
    k: int
    mode: Mode
    where: tuple[str, ...] = ()
    n_memory: int | None = None
    with_latents: bool = False
    hits: list[Hit] = field(default_factory=list)
    error: Exception | None = None
    embed_ms: float = 0.0
    search_ms: float = 0.0
    latents_PD: Tensor | None = None

    @property
    def n_used(self) -> int:
        """Latents of each stretch."""
        return self.index.spec.n_memory if self.n_memory is None else self.n_memory


def look_up(clara: Clara, lookups: Sequence[Lookup]) -> None:
    """Find what each asks for, or why it cannot be; those that cannot do not disturb the others."""
    for own in lookups:
        _apart([own], lambda group: clara.check([group[0].text], group[0].index))
    # Under a late score a question has as many latents as the model gives it, whatever it is for.
    flat = clara.card.score == "flat"
    embedded = [own for own in _sound(lookups) if own.mode != "lexical" or own.with_latents]
    for group in _grouped(embedded, lambda own: own.n_used if flat else None):
        _apart(group, lambda group: _embed(clara, group))
    for group in _grouped(
        _sound(lookups),
        lambda own: (
            id(own.index), own.k, own.mode, own.where, own.n_used, own.with_latents
        ),
    ):  # fmt: skip
        _apart(group, lambda group: _search(clara, group))


def _embed(clara: Clara, lookups: Sequence[Lookup]) -> None:
    started = time.perf_counter()
    latents_QPD = clara.reason([own.text for own in lookups], n_memory=lookups[0].n_used)
    spent = ms_since(started)
    for own, latents_PD in zip(lookups, latents_QPD, strict=True):
        own.latents_PD, own.embed_ms = latents_PD, spent


def _search(clara: Clara, lookups: Sequence[Lookup]) -> None:
    """Search for lookups that differ in their text alone."""
    started = time.perf_counter()
    first = lookups[0]
    latents = [own.latents_PD for own in lookups if own.latents_PD is not None]
    found = first.index.search(
        [own.text for own in lookups],
        torch.stack(latents) if latents else None,
        k=first.k,
        mode=first.mode,
        where=first.where,
        n_memory=first.n_used,
        latent_weight=clara.card.latent_weight,
        with_latents=first.with_latents,
    )
    spent = ms_since(started)
    for own, hits in zip(lookups, found, strict=True):
        own.hits, own.search_ms = hits, spent


def _apart(lookups: Sequence[Lookup], work: Callable[[Sequence[Lookup]], None]) -> None:
    """Do it for all together, or, where that fails, for each alone."""
    try:
        work(lookups)
    except Exception as error:
        if len(lookups) == 1:
            lookups[0].error = error
            return
        for own in lookups:
            _apart([own], work)


def _sound(lookups: Sequence[Lookup]) -> list[Lookup]:
    return [own for own in lookups if own.error is None]


def _grouped(
    lookups: Sequence[Lookup], key: Callable[[Lookup], Hashable]
) -> Iterable[list[Lookup]]:
    groups: dict[Hashable, list[Lookup]] = defaultdict(list)
    for own in lookups:
        groups[key(own)].append(own)
    return groups.values()
