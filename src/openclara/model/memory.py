"""The model's own rows: memory tokens and the marks around texts, in a table of their own.

The vocabulary matrix of the base is never resized or trained: ids below zero (see
`data.tokenizer`) are looked up here, all others in the base. Legend: R and B rows, T positions,
M memory tokens, D width, V vocabulary, S slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from openclara.data.tokenizer import MEM_0, SLOT
from openclara.model.salience import Salience
from openclara.model.spans import first_of_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

BEFORE_TEXT = 2
"""ENC and BOS stand before the first token of a text."""
AROUND_TEXT = BEFORE_TEXT + 1
"""And EOS after the last."""

FADING = 0.7
"""What each further token of a word counts in their sum, before anything is learned."""


class Anchors(NamedTuple):
    """What the memory tokens of R texts carry.

    Attributes:
        at_RM: (R, M) positions of the first tokens carried; 0, where ENC stands, for none.
        n_RM: (R, M) how many tokens each carries, from there on; 0 for none.
        ranks_RM: (R, M) how many of all memory tokens of the table, in use or not, carry what
            stands before it in the text.
    """

    at_RM: Tensor
    n_RM: Tensor
    ranks_RM: Tensor


class MemoryTable(nn.Module):
    """Trainable embeddings of SEP, ENC and the memory tokens.

    With `n_vocabulary` the memory tokens are *anchored*: the j-th carries the j-th most salient
    word of the text, both at its input and added to its latent. Learned rows alone start blind: at
    this size hundreds of steps pass before anything flows through them (`docs/experiments.md`). Of
    a question the rarest words are carried, as its score is weighted (smooth inverse frequency,
    Arora et al. 2017). Which word one carries does not depend on how many memory tokens there are,
    so a prefix stays valid by itself.

    Of the first token of a word its embedding is carried, of each further one its product with a
    learned matrix of that place, all summed: a reader soon tells the tokens apart, and their order.
    A word of more than `carried` tokens is cut into pieces, each with a memory token of its own;
    with `carried` 1 every token has its own. At its input a memory token has the first token alone.

    Args:
        n_memory: Memory tokens (M); any prefix of them is usable by itself.
        width: Hidden size of the base (D).
        n_vocabulary: Size of the base's vocabulary (V); 0 for learned rows alone, as published.
        carried: Tokens of a word that an anchored memory token carries, at most.

    Attributes:
        joins_ODD: (carried - 1, D, D) what the embeddings of further tokens are multiplied by.
    """

    token_weight_V: Tensor
    salience: Salience

    def __init__(
        self, n_memory: int, width: int, *, n_vocabulary: int = 0, carried: int = 1
    ) -> None:
        super().__init__()
        self.n_memory = n_memory
        self.anchored = n_vocabulary > 0
        # Row r holds id -r; row 0 does not exist as an id and row 1 (SLOT) is always spliced over.
        self.weight = nn.Parameter(torch.zeros(n_memory - MEM_0, width))
        self.register_buffer("token_weight_V", torch.ones(n_vocabulary))
        self.salience = Salience(n_vocabulary)
        self.joins_ODD = nn.Parameter(torch.zeros(0, width, width))
        self.widen(carried)

    @property
    def carried(self) -> int:
        """Tokens of a word that one memory token carries, at most."""
        return 1 + len(self.joins_ODD)

    @torch.no_grad()
    def widen(self, carried: int) -> None:
        """Carry so many tokens of a word: what is learned of the first ones stays."""
        one_DD = torch.eye(self.weight.shape[1])
        fading = [FADING**offset * one_DD for offset in range(self.carried, carried)]
        self.joins_ODD = nn.Parameter(torch.cat([self.joins_ODD, *(one[None] for one in fading)]))

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

    @torch.no_grad()
    def anchors(
        self,
        ids_RT: Tensor,
        text_lengths_R: Tensor,
        n_memory: int,
        *,
        by: Literal["salience", "rarity"] = "salience",
    ) -> Anchors:
        """The words that the memory tokens carry.

        Args:
            ids_RT: (R, T) ids as in `TextBatch`.
            text_lengths_R: (R,) positions before the memory tokens: ENC, BOS, text, EOS.
            n_memory: Memory tokens in use (M).
            by: What makes a word worth carrying, that of its best token; of equal words the first
                comes first.
        """
        lengths_R = text_lengths_R - AROUND_TEXT
        longest = max(1, int(lengths_R.max()))
        words_RT = ids_RT[:, BEFORE_TEXT : BEFORE_TEXT + longest].clamp(min=0)
        inside_RT = torch.arange(longest, device=ids_RT.device) < lengths_R.unsqueeze(1)
        if by == "salience":
            scores_RT = self.salience(words_RT, lengths_R)
        else:
            scores_RT = self.token_weight_V[words_RT]
        first_RT = first_of_spans(
            self.salience.begins_word_V[words_RT],
            self.salience.digit_V[words_RT],
            self.salience.ends_line_V[words_RT],
            longest=self.carried,
        )
        span_RT = first_RT.long().cumsum(1).masked_fill(~inside_RT, 0)
        none_RS = torch.full_like(pad(scores_RT, (0, 1)), -torch.inf)
        best_RS = none_RS.scatter_reduce(1, span_RT, scores_RT, "amax")
        scores_RT = best_RS.gather(1, span_RT).masked_fill(~first_RT | ~inside_RT, -torch.inf)
        n_RS = torch.zeros_like(pad(span_RT, (0, 1))).scatter_add(1, span_RT, inside_RT.long())
        n_table = max(self.n_memory, n_memory)
        best_RM = scores_RT.argsort(dim=1, descending=True, stable=True)[:, :n_table]
        empty_RM = scores_RT.gather(1, best_RM).isneginf()
        # Memory tokens that carry nothing stand after those that do.
        place_RM = torch.where(empty_RM, longest, best_RM)
        ranks_RM = place_RM.argsort(dim=1, stable=True).argsort(dim=1)
        at_RM = torch.where(empty_RM, 0, best_RM + BEFORE_TEXT)
        n_RM = n_RS.gather(1, span_RT.gather(1, best_RM)).masked_fill(empty_RM, 0)
        n_missing = n_table - at_RM.shape[1]
        if n_missing > 0:
            rest = torch.arange(at_RM.shape[1], n_table, device=ids_RT.device)
            ranks_RM = torch.cat([ranks_RM, rest.expand(len(at_RM), -1)], dim=1)
            at_RM, n_RM = (pad(one, (0, n_missing)) for one in (at_RM, n_RM))
        return Anchors(at_RM[:, :n_memory], n_RM[:, :n_memory], ranks_RM[:, :n_memory])

    def carried_tokens(
        self, ids_RT: Tensor, text_lengths_R: Tensor, n_memory: int
    ) -> list[list[int]]:
        """The tokens of documents that are carried, in the order of the text; see `anchors`."""
        anchors = self.anchors(ids_RT, text_lengths_R, n_memory)
        carried = []
        for ids, at_M, n_M in zip(*(one.tolist() for one in (ids_RT, *anchors[:2])), strict=True):
            words = sorted(zip(at_M, n_M, strict=True))
            carried.append([ids[at] for first, n in words for at in range(first, first + n)])
        return carried

    def carry(self, embedded_RTD: Tensor, anchors: Anchors) -> tuple[Tensor, Tensor]:
        """What the memory tokens carry; zero for none.

        Args:
            embedded_RTD: (R, T, D) embeddings of texts as in `TextBatch`.
            anchors: Where the words stand.

        Returns:
            (R, M, D) whole words, and (R, M, D) their first tokens alone.
        """
        width = embedded_RTD.shape[2]
        picked = []
        for index_RM, there_RM in self._tokens(anchors):
            picked_RMD = embedded_RTD.gather(1, index_RM.unsqueeze(-1).expand(-1, -1, width))
            picked.append(picked_RMD * there_RM.unsqueeze(-1))
        words_RMD = first_RMD = picked[0]
        for join_DD, further_RMD in zip(self.joins_ODD, picked[1:], strict=True):
            words_RMD = words_RMD + further_RMD @ join_DD.to(further_RMD.dtype)
        return words_RMD, first_RMD

    def rarity(self, ids_RT: Tensor, anchors: Anchors) -> Tensor:
        """(R, M) weight of the rarest token that each memory token carries; 0 for none."""
        weights_RT = self.token_weight_V[ids_RT.clamp(min=0)]
        weights_RM = torch.zeros_like(weights_RT[:, :1])
        for index_RM, there_RM in self._tokens(anchors):
            weights_RM = torch.maximum(weights_RM, weights_RT.gather(1, index_RM) * there_RM)
        return weights_RM

    def _tokens(self, anchors: Anchors) -> Iterator[tuple[Tensor, Tensor]]:
        """(R, M) positions of the first tokens carried, of the second ones, and which there are."""
        for offset in range(self.carried):
            there_RM = offset < anchors.n_RM
            yield torch.where(there_RM, anchors.at_RM + offset, 0), there_RM
