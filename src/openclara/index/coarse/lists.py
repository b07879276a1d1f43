"""Inverted lists of single latents: those near a question's vectors, found without visiting all.

Latents are put in lists around centroids, and each keeps half a byte for every four dimensions
(product quantization, Jégou et al. 2011), which faiss compares in registers (André et al. 2017).
A question's vector visits the lists nearest to it. A chunk is estimated by the products that were
found; each one that was not is at most the last that was, and is taken for that (Lee et al. 2023,
"Rethinking the role of token retrieval in multi-vector retrieval").
"""

# T latents, N chunks, M memory tokens, D width, V vectors of a question

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize, pad

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

MIN_LATENTS = 2**15
"""Fewer are compared one by one as quickly."""

MAX_LISTS = 2048
SAMPLES = 40
"""Latents for each list that its centroid is learned from; faiss warns of fewer than 39."""

VISITED_SHARE = 8
"""One list in so many is visited for each vector: the nearest ones."""

DIMENSIONS = 4
"""Dimensions that share half a byte."""


def sample_size(n_latents: int) -> int:
    """Latents that lists for so many are learned from; 0 where lists do not pay."""
    return SAMPLES * _n_lists(n_latents) if n_latents >= MIN_LATENTS else 0


class Lists:
    """Latents under the numbers in which they were added, from 0."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def learned(cls, sample_TD: Tensor, n_latents: int) -> Lists:
        """Empty lists for `n_latents`, with centroids and codes learned from some of them."""
        faiss = _faiss()
        learned_TD = _filled(normalize(sample_TD, dim=1))
        width = learned_TD.shape[1]
        kind = f"IVF{_n_lists(n_latents)},PQ{width // DIMENSIONS}x4fs"
        index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(learned_TD)
        return cls(index)

    @classmethod
    def read(cls, content_B: npt.NDArray[np.uint8]) -> Lists:
        """What `content` returned."""
        return cls(_faiss().deserialize_index(content_B))

    def content(self) -> npt.NDArray[np.uint8]:
        """All of it, for the disk."""
        content_B: npt.NDArray[np.uint8] = _faiss().serialize_index(self._index)
        return content_B

    def add(self, latents_TD: Tensor) -> None:
        """Put in more latents, (T, D); their lengths do not count."""
        _faiss()
        self._index.add(_filled(normalize(latents_TD, dim=1)))

    def nearest(
        self, vectors_VD: Tensor, count: int, n_memory: int, allowed_T: npt.NDArray[np.bool_] | None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Chunks with a latent among the `count` nearest of any vector.

        Args:
            vectors_VD: A question's vectors; their lengths are their weights.
            count: Latents to find for each vector.
            n_memory: Latents of each chunk, added one after the other.
            allowed_T: Which latents to choose from; None for all.

        Returns:
            Chunks, ascending, and estimates of their scores.
        """
        faiss, selector = _faiss(), None
        if allowed_T is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed_T, bitorder="little"))
        visited = -(-self._index.nlist // VISITED_SHARE)
        products_VC, numbers_VC = self._index.search(
            _filled(vectors_VD),
            min(count, self._index.ntotal),
            params=faiss.SearchParametersIVF(nprobe=visited, sel=selector),
        )
        above_N = np.zeros(self._index.ntotal // n_memory, dtype=np.float32)
        seen_N = np.zeros(len(above_N), dtype=np.bool_)
        least = 0.0
        for products_C, numbers_C in zip(products_VC, numbers_VC, strict=True):
            found_C = numbers_C >= 0
            if not found_C.any():
                continue
            # Best first, so the first of a chunk is its best.
            chunks_K, at_K = np.unique(numbers_C[found_C] // n_memory, return_index=True)
            last = products_C[found_C][-1]
            above_N[chunks_K] += products_C[at_K] - last
            seen_N[chunks_K] = True
            least += float(last)
        chunks_K = np.flatnonzero(seen_N)
        return chunks_K, above_N[chunks_K] + np.float32(least)


def _faiss() -> Any:
    """faiss, with as many threads as torch has."""
    import faiss  # some tenths of a second, and no small index needs it

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def _n_lists(n_latents: int) -> int:
    n_lists: int = 2 ** round(math.log2(n_latents) / 2)
    return min(MAX_LISTS, n_lists)


def _filled(latents_TD: Tensor) -> npt.NDArray[np.float32]:
    """With zeros up to whole half bytes."""
    filled: Tensor = pad(latents_TD, (0, -latents_TD.shape[1] % DIMENSIONS))
    return filled.numpy()
