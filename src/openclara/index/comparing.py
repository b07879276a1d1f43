"""How a question's latents are compared with a document's: two scores between -1 and 1.

The model decides which (`LatentSpec.score`). Each is computed twice: quickly for many rows in
float32, and exactly for those that are nominated.
"""

# Q questions, P memory tokens of a question, N rows, M memory tokens of a prefix of a row,
# D width, E = M * D flattened

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from openclara.types import Score


class Queries(Protocol):
    """Latents of Q questions, ready to be compared with rows of M memory tokens.

    Attributes:
        name: Of the score: norms of different scores are different.
        n_memory: M.
    """

    name: Score
    n_memory: int

    def norms(self, latents_NMD: Tensor) -> Tensor:
        """What rows are divided by, (N, ...) float32: the same at every search."""

    def scores(self, latents_NMD: Tensor, norms: Tensor) -> Tensor:
        """(Q, N) float32, to about 1e-6."""

    def only(self, question: int) -> Queries:
        """One of the questions by itself."""

    def vectors(self, question: int) -> tuple[Tensor, Tensor]:
        """What one question is looked up by: V vectors of some memory tokens, and V weights."""

    def exactly(self, question: int, latents_NMD: Tensor) -> Tensor:
        """(N,) of one question, the same whatever rows stand beside a row.

        Summed in float64 and rounded to float32, so that equal latents get equal scores: a float32
        matrix product differs in its last bits with the size of the block a row happens to be in.
        """


def queries(score: Score, latents_QPD: Tensor, *, n_memory: int) -> Queries:
    """Questions as they are compared under a score.

    Args:
        score: `flat` or `late`.
        latents_QPD: As `LatentIndex.search` takes them.
        n_memory: Memory tokens of a row that are compared.
    """
    if score == "late":
        return Late(latents_QPD, n_memory=n_memory)
    return Flat(latents_QPD)


class Flat:
    """Cosine of the flattened latents: the j-th of one with the j-th of the other (paper, 3.2).

    Args:
        latents_QMD: (Q, M, D); a row of zeros scores 0.
    """

    name: Score = "flat"

    def __init__(self, latents_QMD: Tensor) -> None:
        self._latents_QMD = latents_QMD
        self.n_memory = latents_QMD.shape[1]
        flat_QE = latents_QMD.detach().cpu().float().flatten(1)
        self._unit_QE = flat_QE / _divisors(torch.linalg.vector_norm(flat_QE, dim=1, keepdim=True))

    def norms(self, latents_NMD: Tensor) -> Tensor:
        """(N,) lengths of the flattened rows."""
        norms_N: Tensor = torch.linalg.vector_norm(latents_NMD.flatten(1), dim=1)
        return norms_N

    def scores(self, latents_NMD: Tensor, norms: Tensor) -> Tensor:
        """(Q, N) cosines."""
        scores_QN: Tensor = self._unit_QE @ latents_NMD.flatten(1).T / _divisors(norms)
        return scores_QN

    def only(self, question: int) -> Flat:
        """One of the questions by itself."""
        return Flat(self._latents_QMD[question : question + 1])

    def vectors(self, question: int) -> tuple[Tensor, Tensor]:
        """(1, M, D) and (1,): all latents together."""
        latents_1MD = self._latents_QMD[question : question + 1].detach().cpu().float()
        return latents_1MD, torch.ones(1)

    def exactly(self, question: int, latents_NMD: Tensor) -> Tensor:
        """(N,) cosines of one question."""
        flat_NE = latents_NMD.flatten(1).double()
        norms_N = torch.linalg.vector_norm(flat_NE, dim=1)
        scores_N: Tensor = flat_NE @ self._unit_QE[question].double() / _divisors(norms_N)
        return scores_N.float()


class Late:
    """Sum over a question's latents of the best product with one unit latent of the row.

    Late interaction (Khattab and Zaharia 2020, ColBERT). A question's latents have their weight in
    the sum as their length.

    Args:
        latents_QPD: (Q, P, D), lengths of a question summing to 1.
        n_memory: M.
    """

    name: Score = "late"

    def __init__(self, latents_QPD: Tensor, *, n_memory: int) -> None:
        self.n_memory = n_memory
        latents_QPD = latents_QPD.detach().cpu().float()
        # A short question leaves many vectors without weight; they would cost as much as others.
        weights_QP = torch.linalg.vector_norm(latents_QPD, dim=2)
        n_kept = max(1, int((weights_QP > 0).sum(1).max())) if len(weights_QP) else 1
        order_QP = weights_QP.argsort(dim=1, descending=True, stable=True)[:, :n_kept]
        index_QPD = order_QP.unsqueeze(-1).expand(-1, -1, latents_QPD.shape[2])
        self._latents_QPD = latents_QPD.gather(1, index_QPD)

    def norms(self, latents_NMD: Tensor) -> Tensor:
        """(N, M) lengths of the single latents."""
        norms_NM: Tensor = torch.linalg.vector_norm(latents_NMD, dim=2)
        return norms_NM

    def scores(self, latents_NMD: Tensor, norms: Tensor) -> Tensor:
        """(Q, N) sums."""
        n_questions, n_asked, width = self._latents_QPD.shape
        products = self._latents_QPD.reshape(-1, width) @ latents_NMD.flatten(0, 1).T
        products /= _divisors(norms).flatten()
        best: Tensor = products.view(n_questions, n_asked, *norms.shape).amax(-1)
        return best.sum(1)

    def only(self, question: int) -> Late:
        """One of the questions by itself."""
        return Late(self._latents_QPD[question : question + 1], n_memory=self.n_memory)

    def vectors(self, question: int) -> tuple[Tensor, Tensor]:
        """(P, 1, D) and (P,): each latent with a weight by itself, heaviest first."""
        weights_P = torch.linalg.vector_norm(self._latents_QPD[question], dim=1)
        n_kept = max(1, int((weights_P > 0).sum()))
        return self._latents_QPD[question, :n_kept, None], weights_P[:n_kept]

    def exactly(self, question: int, latents_NMD: Tensor) -> Tensor:
        """(N,) sums of one question."""
        latents_NMD = latents_NMD.double()
        norms_NM1 = torch.linalg.vector_norm(latents_NMD, dim=2, keepdim=True)
        unit_NMD = latents_NMD / _divisors(norms_NM1)
        asked_PD = self._latents_QPD[question].double()
        best_NP: Tensor = (unit_NMD @ asked_PD.T).amax(1)
        return best_NP.sum(1).float()


def _divisors(norms: Tensor) -> Tensor:
    """Norms with 1 in place of 0: a latent of zeros stays one."""
    return torch.where(norms > 0, norms, 1.0)
