"""Which tokens of a text are worth carrying: a small network over the states of the compressor.

Legend: R texts, T positions, D width, C channels, V vocabulary, L decays, H heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import dropout, gelu, pad, scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_TITLE = 12
"""Tokens of a first line, at most, that count as a title."""
TITLE_BONUS = 1e4
"""Added to the tokens of a title, which thereby come first: questions name what a passage is about
by it, and without it a reader does not know of whom the rest speaks."""

REPEATED = 1.0
"""Taken from the score of a word that stood before in the text: naming it once is nearly enough."""
SPELLED = 4.0
"""Taken besides from all tokens of such a word but the first: how it goes on was carried before."""

DECAYS = (8.0, 32.0, 128.0)
"""Tokens from the start of a text after which what a place counts has fallen to 1/e."""

MULTIPLIER = 6364136223846793005
"""Odd, and large enough that powers wrap around: that of Knuth's MMIX generator."""

FARTHEST = 6.0
"""Spreads from the mean at which a coordinate is cut: some of a state's are far out."""

CHANNELS = 64
HEADS = 4
WINDOWS = ((7, 1), (5, 1), (5, 2))
"""Tokens that each convolution sees, and how far these are apart."""


class SalienceNetwork(nn.Module):
    """Logits of tokens: how likely each stands in the answer to a question about its text.

    Residual blocks of layer norm and convolution, with one of attention over the whole text after
    the first: what a passage is about shows only in all of it, and the states of a causal LM know
    what stands before them alone. A token that occurred before is marked as such.

    Args:
        width: Size of the states that are read (D).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, CHANNELS, bias=False)
        self.seen_C = nn.Parameter(torch.zeros(CHANNELS))
        self.lead_LC = nn.Parameter(torch.zeros(len(DECAYS), CHANNELS))
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in WINDOWS)
        self.windows = nn.ModuleList(nn.Linear(n * CHANNELS, CHANNELS) for n, _ in WINDOWS)
        self.attention_norm = nn.LayerNorm(CHANNELS)
        self.attention_in = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.attention_out = nn.Linear(CHANNELS, CHANNELS)
        self.logit = nn.Linear(CHANNELS, 1)

    def forward(
        self, inputs_RTD: Tensor, seen_RT: Tensor, inside_RT: Tensor, *, drop: float = 0.0
    ) -> Tensor:
        """(R, T) logits.

        Args:
            inputs_RTD: (R, T, D) what stands for the tokens.
            seen_RT: (R, T) whether the same token stands before.
            inside_RT: (R, T) false at padding, which changes nothing elsewhere.
            drop: Part of the channels dropped, in fitting.
        """
        inside_RT1 = inside_RT.unsqueeze(-1)
        decays_TL = torch.exp(
            -torch.arange(inputs_RTD.shape[1], device=inputs_RTD.device).unsqueeze(1)
            / torch.tensor(DECAYS, device=inputs_RTD.device)
        )
        states_RTC = self.read(inputs_RTD) + seen_RT.unsqueeze(-1) * self.seen_C
        states_RTC = states_RTC + decays_TL.to(inputs_RTD.dtype) @ self.lead_LC
        states_RTC = dropout(states_RTC, drop, training=drop > 0)
        for at, (norm, window) in enumerate(zip(self.norms, self.windows, strict=True)):
            n, apart = WINDOWS[at]
            near_RTK = _beside(norm(states_RTC) * inside_RT1, n, apart)
            states_RTC = states_RTC + dropout(gelu(window(near_RTK)), drop, training=drop > 0)
            if at == 0:
                states_RTC = states_RTC + self._attended(states_RTC, inside_RT)
        logits_RT: Tensor = self.logit(states_RTC).squeeze(-1)
        return logits_RT

    def _attended(self, states_RTC: Tensor, inside_RT: Tensor) -> Tensor:
        """(R, T, C) what attention finds; a text sees all of itself."""
        n_texts, n = inside_RT.shape
        parts = self.attention_in(self.attention_norm(states_RTC)).chunk(3, dim=-1)
        query, key, value = (
            part.view(n_texts, n, HEADS, CHANNELS // HEADS).transpose(1, 2) for part in parts
        )
        # A text without tokens looks at its padding: no row may look at nothing.
        seen_R11T = (inside_RT | ~inside_RT.any(1, keepdim=True)).view(n_texts, 1, 1, n)
        found_RHTC = scaled_dot_product_attention(query, key, value, attn_mask=seen_R11T)
        found: Tensor = self.attention_out(found_RHTC.transpose(1, 2).flatten(2))
        return found


class Salience(nn.Module):
    """Scores of tokens, higher for those that questions and answers are about.

    The score of a token is the highest logit (`SalienceNetwork`) of the tokens of its word, as half
    a name says little to a reader; less where the word stood before; a title comes before all else.
    Fitted (`openclara.training.salience`) on the states of a compressor as it was then, and not
    trained with it.

    Args:
        n_vocabulary: Size of the base's vocabulary (V).
        width: Hidden size of the base (D).
    """

    mean_D: Tensor
    spread_D: Tensor
    ends_line_V: Tensor
    begins_word_V: Tensor

    def __init__(self, n_vocabulary: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("spread_D", torch.ones(width))
        self.register_buffer("ends_line_V", torch.zeros(n_vocabulary, dtype=torch.bool))
        self.register_buffer("begins_word_V", torch.ones(n_vocabulary, dtype=torch.bool))
        with torch.device("meta"):
            network = SalienceNetwork(width)
        self.network = _without_parameters(network)

    def spell(self, words: Sequence[str]) -> None:
        """Take from the V tokens as text which begin a word, and which end a line."""
        for token, word in enumerate(words):
            self.ends_line_V[token] = "\n" in word
            self.begins_word_V[token] = not word[:1].isalnum()

    def forward(self, ids_RT: Tensor, lengths_R: Tensor, states_RTD: Tensor) -> Tensor:
        """Scores of all tokens.

        Args:
            ids_RT: (R, T) tokens of texts, padded on the right with any token.
            lengths_R: (R,) tokens of each.
            states_RTD: (R, T, D) states of the compressor at these tokens, two thirds through it.

        Returns:
            (R, T) float32 scores, minus infinity at padding.
        """
        inside_RT = torch.arange(ids_RT.shape[1], device=ids_RT.device) < lengths_R.unsqueeze(1)
        word_RT = self.begins_word_V[ids_RT].long().cumsum(1)
        scores_RT = _best_of_words(self.alone(ids_RT, inside_RT, states_RTD), word_RT)
        goes_on_RT = ~self.begins_word_V[ids_RT]
        again_RT = _again(ids_RT, word_RT, inside_RT)
        scores_RT = scores_RT - again_RT * (REPEATED + SPELLED * goes_on_RT)
        scores_RT = scores_RT + TITLE_BONUS * self._titles(ids_RT, inside_RT)
        return scores_RT.masked_fill(~inside_RT, -torch.inf)

    def alone(self, ids_RT: Tensor, inside_RT: Tensor, states_RTD: Tensor) -> Tensor:
        """(R, T) float32 logits of tokens by themselves, minus infinity at padding.

        Computed in float64, whatever else is computed in: that adds nothing to how far states
        depend on what a text is batched with. Under autocast float64 stays what it is.
        """
        # Metal has no float64.
        place = torch.device("cpu") if ids_RT.device.type == "mps" else ids_RT.device
        weights = {name: one.to(place).double() for name, one in self.network.named_buffers()}
        inputs_RTD = self.inputs(states_RTD).to(place).double()
        seen_RT, inside = seen_before(ids_RT).to(place), inside_RT.to(place)
        logits_RT: Tensor = functional_call(self.network, weights, (inputs_RTD, seen_RT, inside))
        return logits_RT.float().to(ids_RT.device).masked_fill(~inside_RT, -torch.inf)

    def inputs(self, states_RTD: Tensor) -> Tensor:
        """(R, T, D) float32 states, in spreads from their mean."""
        return self.standard(states_RTD).clamp(-FARTHEST, FARTHEST)

    def standard(self, states: Tensor) -> Tensor:
        """(..., D) float32 states, in spreads from their mean, however far."""
        return (states.float() - self.mean_D) / self.spread_D.clamp(min=1e-6)

    def _titles(self, ids_RT: Tensor, inside_RT: Tensor) -> Tensor:
        """(R, T) 1 at the tokens before the first end of a line, if it comes soon; 0 elsewhere."""
        passed_RT = (self.ends_line_V[ids_RT] & inside_RT).cumsum(1) > 0
        soon_R = passed_RT[:, :LONGEST_TITLE].any(1)
        return (~passed_RT & soon_R.unsqueeze(1)).float()


def _best_of_words(logits_RT: Tensor, word_RT: Tensor) -> Tensor:
    """(R, T) the highest logit of the word that each token belongs to."""
    none_RW = torch.full((len(word_RT), word_RT.shape[1] + 1), -torch.inf).to(logits_RT)
    return none_RW.scatter_reduce(1, word_RT, logits_RT, "amax").gather(1, word_RT)


def _again(ids_RT: Tensor, word_RT: Tensor, inside_RT: Tensor) -> Tensor:
    """(R, T) 1 at the tokens of a word that stands before, in the same text; 0 elsewhere.

    Words are compared by a polynomial of their tokens, modulo two to the 64.
    """
    powers_T = torch.full((ids_RT.shape[1],), MULTIPLIER, device=ids_RT.device).cumprod(0)
    at_RT = torch.arange(ids_RT.shape[1], device=ids_RT.device).expand_as(ids_RT)
    none_RW = torch.zeros(len(word_RT), word_RT.shape[1] + 1, dtype=torch.long).to(ids_RT)
    first_RW = torch.full_like(none_RW, ids_RT.shape[1])
    first_RW = first_RW.scatter_reduce(1, word_RT, at_RT, "amin")
    offset_RT = at_RT - first_RW.gather(1, word_RT)
    terms_RT = (ids_RT + 1) * powers_T[offset_RT] * inside_RT
    key_RW = none_RW.scatter_add(1, word_RT, terms_RT)
    # Words that are not there, by their number alone.
    number_RW = torch.arange(key_RW.shape[1], device=ids_RT.device).expand_as(key_RW)
    there_RW = none_RW.scatter_add(1, word_RT, inside_RT.long()) > 0
    again_RW = seen_before(torch.where(there_RW, key_RW, -number_RW))
    return again_RW.gather(1, word_RT).float()


def seen_before(ids_RT: Tensor) -> Tensor:
    """(R, T) whether the same token stands before, in the same text."""
    order_RT = ids_RT.argsort(dim=1, stable=True)
    sorted_RT = ids_RT.gather(1, order_RT)
    again_RT = pad(sorted_RT[:, 1:] == sorted_RT[:, :-1], (1, 0))
    return torch.zeros_like(again_RT).scatter(1, order_RT, again_RT)


def _without_parameters(network: nn.Module) -> nn.Module:
    """The network with buffers of zeros: no optimizer finds them, and nothing shards them."""
    for module in network.modules():
        for name, one in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, torch.zeros(one.shape))
    return network


def _beside(states_RTC: Tensor, n: int, apart: int) -> Tensor:
    """(R, T, n * C) the `n` states around each position, `apart` from one another."""
    reach, length = n // 2 * apart, states_RTC.shape[1]
    padded_RTC = pad(states_RTC, (0, 0, reach, reach))
    return torch.cat([padded_RTC[:, at : at + length] for at in range(0, 2 * reach + 1, apart)], -1)
