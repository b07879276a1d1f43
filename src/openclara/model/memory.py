"""The model's own rows: memory tokens and the marks around texts, in a table of their own.

The vocabulary matrix of the base is never resized or trained: ids below zero (see
`data.tokenizer`) are looked up here, all others in the base. Legend: R and B rows, T positions,
M memory tokens, D width, V vocabulary, S slots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from openclara.data.tokenizer import MEM_0, SLOT

TILES = 8
"""Anchored memory tokens that together tile a text once."""


class MemoryTable(nn.Module):
    """Trainable embeddings of SEP, ENC and the memory tokens.

    With `n_vocabulary` the memory tokens are *anchored*: each stands for one stretch of the text
    and carries the embedding of the weightiest token there that no earlier memory token carries,
    both at its input and added to its latent. Token weights fall with frequency (smooth inverse
    frequency, Arora et al. 2017). Learned rows alone start blind: at this size hundreds of steps
    pass before anything flows through them (`docs/experiments.md`). Which token is carried
    depends on the earlier memory tokens alone, so a prefix stays valid by itself.

    Args:
        n_memory: Memory tokens (M); any prefix of them is usable by itself.
        width: Hidden size of the base (D).
        n_vocabulary: Size of the base's vocabulary (V); 0 for learned rows alone, as published.
    """

    token_weight_V: Tensor

    def __init__(self, n_memory: int, width: int, *, n_vocabulary: int = 0) -> None:
        super().__init__()
        self.n_memory = n_memory
        self.anchored = n_vocabulary > 0
        # Row r holds id -r; row 0 does not exist as an id and row 1 (SLOT) is always spliced over.
        self.weight = nn.Parameter(torch.zeros(n_memory - MEM_0, width))
        self.register_buffer("token_weight_V", torch.ones(n_vocabulary))

    @torch.no_grad()
    def initialise(self, vocabulary_VD: Tensor, seed: int) -> None:
        """Start every row as the embedding of some ordinary token.

        Rows drawn around the mean vector start indistinguishable but for their position, as
        those of the published code do; real embeddings start apart and in distribution. Anchored
        memory tokens differ by what they carry, so their own rows start at zero.
        """
        generator = torch.Generator().manual_seed(seed)
        # A BPE vocabulary starts with control tokens and bytes and ends with its rarest merges.
        first = min(512, vocabulary_VD.shape[0] // 4)
        last = max(vocabulary_VD.shape[0] // 2, first + 1)
        picked = torch.randint(first, last, (self.weight.shape[0],), generator=generator)
        self.weight.copy_(vocabulary_VD.detach().cpu()[picked].to(self.weight))
        if self.anchored:
            self.weight[-MEM_0:] = 0.0

    @torch.no_grad()
    def count(self, counts_V: Tensor, *, scale: float = 1e-3) -> None:
        """Set the token weights `scale / (scale + frequency)` from counts in training texts."""
        frequency_V = counts_V.float() / counts_V.sum().clamp(min=1)
        self.token_weight_V.copy_(scale / (scale + frequency_V))

    def embed(
        self, ids_BT: Tensor, vocabulary: nn.Module, latents_SD: Tensor | None = None
    ) -> Tensor:
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

    def anchors(self, ids_RT: Tensor, text_lengths_R: Tensor, n_memory: int) -> Tensor:
        """Positions of the tokens that the memory tokens carry.

        Args:
            ids_RT: (R, T) ids as in `TextBatch`.
            text_lengths_R: (R,) positions before the memory tokens: ENC, BOS, text, EOS.
            n_memory: Memory tokens in use (M).

        Returns:
            (R, M) positions; 0, where ENC stands, for a memory token that finds none left.
        """
        weights_RT = self.token_weight_V[ids_RT.clamp(min=0)].tolist()
        picked = [
            _pick(weights[2 : length - 1], n_memory)
            for weights, length in zip(weights_RT, text_lengths_R.tolist(), strict=True)
        ]
        return torch.tensor(picked, device=ids_RT.device)


def _pick(weights: list[float], n_memory: int) -> list[int]:
    taken: set[int] = set()
    picked = []
    for number in range(n_memory):
        free = (at for at in stretch_tokens(number, len(weights)) if at not in taken)
        best = max(free, key=weights.__getitem__, default=None)
        if best is not None:
            taken.add(best)
        picked.append(0 if best is None else best + 2)
    return picked


def stretch(number: int) -> tuple[float, float]:
    """The stretch of the text that an anchored memory token stands for, as fractions of its length.

    The first `TILES` tokens tile the text; every later power of two adds the second half of each
    stretch there is, so resolution doubles with the number of tokens and no stretch moves. Within
    a level the order is bit-reversed, which spreads any prefix over the whole text.
    """
    if number < TILES:
        at = _reversed_bits(number, TILES.bit_length() - 1)
        return at / TILES, (at + 1) / TILES
    level = number.bit_length()
    n_stretches = 1 << level
    at = 2 * _reversed_bits(number - (n_stretches >> 1), level - 1) + 1
    return at / n_stretches, (at + 1) / n_stretches


def stretch_tokens(number: int, n_tokens: int) -> range:
    """Tokens of a text that the stretch touches; neighbours may share one."""
    start, end = stretch(number)
    return range(math.floor(start * n_tokens), math.ceil(end * n_tokens))


def text_order(n_memory: int) -> list[int]:
    """Numbers of the first memory tokens, by where in the text their stretches start."""
    return sorted(range(n_memory), key=lambda number: (stretch(number), number))


def _reversed_bits(number: int, n_bits: int) -> int:
    return int(f"{number:0{n_bits}b}"[::-1], 2)
