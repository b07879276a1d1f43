"""The model's own rows: memory tokens and the marks around texts, in a table of their own.

The vocabulary matrix of the base is never resized or trained: ids below zero (see
`data.tokenizer`) are looked up here, all others in the base. Legend: R and B rows, T positions,
M memory tokens, D width, V vocabulary, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openclara.data.tokenizer import MEM_0, SLOT
from openclara.model.salience import Salience

BEFORE_TEXT = 2
"""ENC and BOS stand before the first token of a text."""
AROUND_TEXT = BEFORE_TEXT + 1
"""And EOS after the last."""


class Anchors(NamedTuple):
    """What the memory tokens of R texts carry.

    Attributes:
        at_RM: (R, M) positions of the tokens carried; 0, where ENC stands, for none.
        places_RM: (R, M) how many tokens of the text stand before; of those that carry none, places
            after the text.
    """

    at_RM: Tensor
    places_RM: Tensor


class MemoryTable(nn.Module):
    """Trainable embeddings of SEP, ENC and the memory tokens.

    With `n_vocabulary` the memory tokens are *anchored*: the j-th carries the embedding of the j-th
    most salient token of the text, both at its input and added to its latent. Learned rows alone
    start blind: at this size hundreds of steps pass before anything flows through them
    (`docs/experiments.md`). Of a question the rarest tokens are carried, as its score is weighted
    (smooth inverse frequency, Arora et al. 2017). Which token one carries does not depend on how
    many memory tokens there are, so a prefix stays valid by itself.

    Args:
        n_memory: Memory tokens (M); any prefix of them is usable by itself.
        width: Hidden size of the base (D).
        n_vocabulary: Size of the base's vocabulary (V); 0 for learned rows alone, as published.
        doc_max_length: Tokens of the longest text, whose places anchored memory tokens tell.
    """

    token_weight_V: Tensor
    salience: Salience

    def __init__(
        self, n_memory: int, width: int, *, n_vocabulary: int = 0, doc_max_length: int = 0
    ) -> None:
        super().__init__()
        self.n_memory = n_memory
        self.n_places = max(n_memory, doc_max_length)
        self.anchored = n_vocabulary > 0
        # Row r holds id -r; row 0 does not exist as an id and row 1 (SLOT) is always spliced over.
        self.weight = nn.Parameter(torch.zeros(n_memory - MEM_0, width))
        self.register_buffer("token_weight_V", torch.ones(n_vocabulary))
        self.salience = Salience(n_vocabulary, width)

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

    def standard(self, states: Tensor) -> Tensor:
        """(..., D) states in spreads from the mean of those that `salience` was fitted on."""
        return self.salience.standard(states).to(states.dtype)

    def restored(self, standard: Tensor) -> Tensor:
        """(..., D) float32 states of which `standard` made these."""
        return standard.float() * self.salience.spread_D.clamp(min=1e-6) + self.salience.mean_D

    @torch.no_grad()
    def anchors(
        self,
        ids_RT: Tensor,
        text_lengths_R: Tensor,
        n_memory: int,
        states_RTD: Tensor | None = None,
    ) -> Anchors:
        """The tokens that the memory tokens carry.

        Args:
            ids_RT: (R, T) ids as in `TextBatch`.
            text_lengths_R: (R,) positions before the memory tokens: ENC, BOS, text, EOS.
            n_memory: Memory tokens in use (M).
            states_RTD: (R, T, D) what `ClaraModel.text_states` gives, up to the longest text at
                least: the most salient tokens are carried. Without them the rarest are. Of equal
                ones the first is carried first.
        """
        lengths_R = text_lengths_R - AROUND_TEXT
        longest = max(1, int(lengths_R.max()))
        words_RT = ids_RT[:, BEFORE_TEXT : BEFORE_TEXT + longest].clamp(min=0)
        if states_RTD is not None:
            inner_RTD = states_RTD[:, BEFORE_TEXT : BEFORE_TEXT + longest]
            scores_RT = self.salience(words_RT, lengths_R, inner_RTD)
        else:
            inside_RT = torch.arange(longest, device=ids_RT.device) < lengths_R.unsqueeze(1)
            scores_RT = self.token_weight_V[words_RT].masked_fill(~inside_RT, -torch.inf)
        n_table = max(self.n_memory, n_memory)
        best_RM = scores_RT.argsort(dim=1, descending=True, stable=True)[:, :n_table]
        empty_RM = scores_RT.gather(1, best_RM).isneginf()
        at_RM = torch.where(empty_RM, 0, best_RM + BEFORE_TEXT)
        # Of those that carry nothing the best are what stands after the text, in order.
        places_RM = best_RM
        n_missing = n_table - at_RM.shape[1]
        if n_missing > 0:
            rest = torch.arange(at_RM.shape[1], n_table, device=ids_RT.device)
            places_RM = torch.cat([places_RM, rest.expand(len(at_RM), -1)], dim=1)
            at_RM = torch.nn.functional.pad(at_RM, (0, n_missing))
        return Anchors(at_RM[:, :n_memory], places_RM[:, :n_memory])
