"""How well a document's latents fit a question's: two scores between -1 and 1.

Legend: B questions, N candidate documents, M memory tokens, P memory tokens of a question, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from torch import Tensor


def cosine_scores(query_BMD: Tensor, latents_BNMD: Tensor) -> Tensor:
    """Cosine of the flattened latents, normalised in float32.

    Args:
        query_BMD: (B, M, D) latents of the questions.
        latents_BNMD: (B, N, M, D) latents of each question's candidates.

    Returns:
        (B, N) float32 scores in [-1, 1].
    """
    query_BF = normalize(query_BMD.float().flatten(1), dim=-1)
    latents_BNF = normalize(latents_BNMD.float().flatten(2), dim=-1)
    return torch.einsum("bf,bnf->bn", query_BF, latents_BNF)


def late_scores(query_BPD: Tensor, weights_BP: Tensor, latents_BNMD: Tensor) -> Tensor:
    """Weighted mean over the question's latents of the best cosine with one of the document's.

    Late interaction (Khattab and Zaharia 2020, ColBERT). Where the flattened cosine compares the
    j-th latents of both alone, here it does not matter which memory token carries what, and a
    question needs no more latents than it has words.

    Args:
        query_BPD: (B, P, D) latents of the questions.
        weights_BP: (B, P) what each counts; rows sum to 1.
        latents_BNMD: (B, N, M, D) latents of each question's candidates.

    Returns:
        (B, N) float32 scores in [-1, 1].
    """
    found_BPD = late_query(query_BPD, weights_BP)
    unit_BNMD = normalize(latents_BNMD.float(), dim=-1)
    return torch.einsum("bpd,bnmd->bnpm", found_BPD, unit_BNMD).amax(-1).sum(-1)


def late_query(query_BPD: Tensor, weights_BP: Tensor) -> Tensor:
    """(B, P, D) float32 latents of length `weights`: a late score is a sum of their best products.

    What an index is asked with, which then need not know the weights.
    """
    return normalize(query_BPD.float(), dim=-1) * weights_BP.float().unsqueeze(-1)
