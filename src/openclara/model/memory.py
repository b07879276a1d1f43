"""The model's own rows: memory tokens and the marks around texts, in a table of their own.

The vocabulary matrix of the base is never resized or trained: ids below zero (see
`data.tokenizer`) are looked up here, all others in the base. Legend: B rows, T positions,
M memory tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openclara.data.tokenizer import MEM_0, SLOT


class MemoryTable(nn.Module):
    """Trainable embeddings of SEP, ENC and the memory tokens.

    Args:
        n_memory: Memory tokens (M); any prefix of them is usable by itself.
        width: Hidden size of the base (D).
    """

    def __init__(self, n_memory: int, width: int) -> None:
        super().__init__()
        self.n_memory = n_memory
        # Row r holds id -r; row 0 does not exist as an id and row 1 (SLOT) is always spliced over.
        self.weight = nn.Parameter(torch.zeros(n_memory - MEM_0, width))

    @torch.no_grad()
    def initialise(self, vocabulary_VD: Tensor, seed: int) -> None:
        """Start every row as the embedding of some ordinary token.

        Rows drawn around the mean vector start indistinguishable but for their position, as
        those of the published code do; real embeddings start apart and in distribution.
        """
        generator = torch.Generator().manual_seed(seed)
        # A BPE vocabulary starts with control tokens and bytes and ends with its rarest merges.
        first = min(512, vocabulary_VD.shape[0] // 4)
        last = max(vocabulary_VD.shape[0] // 2, first + 1)
        picked = torch.randint(first, last, (self.weight.shape[0],), generator=generator)
        self.weight.copy_(vocabulary_VD.detach().cpu()[picked].to(self.weight))

    def embed(self, ids_BT: Tensor, vocabulary: nn.Module, latents_SD: Tensor | None = None) -> Tensor:
        """Input embeddings of mixed ids.

        Args:
            ids_BT: (B, T) ids; below zero are rows of this table.
            vocabulary: The base's input embedding.
            latents_SD: (S, D) what goes into the S slots, in reading order.

        Returns:
            (B, T, D) in the dtype of the vocabulary.

        Raises:
            ValueError: The number of slots is not S.
        """
        own_BT = ids_BT < 0
        text_BTD = vocabulary(ids_BT.clamp(min=0))
        own_BTD = self.weight[(-ids_BT).clamp(min=0)].to(text_BTD.dtype)
        embedded_BTD = torch.where(own_BT.unsqueeze(-1), own_BTD, text_BTD)
        slot_BT = ids_BT == SLOT
        n_slots = 0 if latents_SD is None else latents_SD.shape[0]
        if int(slot_BT.sum()) != n_slots:
            raise ValueError(f"{int(slot_BT.sum())} slots for {n_slots} latents")
        if latents_SD is None:
            return embedded_BTD
        return embedded_BTD.masked_scatter(slot_BT.unsqueeze(-1), latents_SD.to(embedded_BTD.dtype))
