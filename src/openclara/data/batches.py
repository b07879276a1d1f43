"""Integer batches: padding, memory positions, targets. No model, no policy.

Legend: R texts, B prompts, T positions, M memory tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openclara.data.tokenizer import ENC, MEM_0

if TYPE_CHECKING:
    from collections.abc import Sequence

PAD = 0
"""Any valid id: padding stands on the right, where causal attention hides it."""


@dataclass(frozen=True, slots=True, eq=False)
class TextBatch:
    """Texts for the compressor or reasoner, padded on the right.

    Attributes:
        ids_RT: (R, T) ENC, BOS, text, EOS, memory tokens, padding.
        text_lengths_R: (R,) positions before the memory tokens.
        memory_positions_RM: (R, M) where the memory tokens stand.
    """

    ids_RT: Tensor
    text_lengths_R: Tensor
    memory_positions_RM: Tensor

    @property
    def n_tokens(self) -> int:
        """Positions that carry something."""
        return int(self.text_lengths_R.sum()) + self.memory_positions_RM.numel()

    def to(self, device: torch.device | str) -> TextBatch:
        """The same batch on a device."""
        return TextBatch(
            self.ids_RT.to(device),
            self.text_lengths_R.to(device),
            self.memory_positions_RM.to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """Prompts with targets for the generator, padded on the right.

    Attributes:
        ids_BT: (B, T) ids, slots included.
        target_mask_BT: (B, T) true where the id is something the generator must write.
    """

    ids_BT: Tensor
    target_mask_BT: Tensor
    n_tokens: int

    def to(self, device: torch.device | str) -> PromptBatch:
        """The same batch on a device."""
        return PromptBatch(self.ids_BT.to(device), self.target_mask_BT.to(device), self.n_tokens)


def pad_right(rows: Sequence[Sequence[int]], *, value: int) -> Tensor:
    """(len(rows), longest) int64."""
    longest = max(len(row) for row in rows)
    padded = torch.full((len(rows), longest), value, dtype=torch.long)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def text_batch(texts: Sequence[Sequence[int]], *, n_memory: int, bos: int, eos: int) -> TextBatch:
    """Frame texts as ENC, BOS, text, EOS, MEM_0..MEM_{m-1} (paper, section 3.1).

    Args:
        texts: Token ids of each text; never cut here, length is the caller's promise.
        n_memory: Memory tokens behind each text (M).
        bos: Beginning of sequence of the base.
        eos: End of sequence of the base.
    """
    memory = [MEM_0 - j for j in range(n_memory)]
    rows = [[ENC, bos, *text, eos, *memory] for text in texts]
    lengths_R = torch.tensor([len(text) + 3 for text in texts])
    return TextBatch(
        ids_RT=pad_right(rows, value=PAD),
        text_lengths_R=lengths_R,
        memory_positions_RM=lengths_R.unsqueeze(1) + torch.arange(n_memory),
    )


def prompt_batch(prompts: Sequence[Sequence[tuple[Sequence[int], bool]]]) -> PromptBatch:
    """Prompts given as stretches of (ids, is target)."""
    rows = [[i for ids, _ in prompt for i in ids] for prompt in prompts]
    masks = [[int(target) for ids, target in prompt for _ in ids] for prompt in prompts]
    return PromptBatch(
        ids_BT=pad_right(rows, value=PAD),
        target_mask_BT=pad_right(masks, value=0).bool(),
        n_tokens=sum(len(row) for row in rows),
    )
