"""Which tokens of a text are worth carrying: a linear score of each token and its neighbours.

Legend: R texts, T positions, K offsets, V vocabulary, L decays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_TITLE = 12
"""Tokens of a first line, at most, that count as a title."""
TITLE_BONUS = 1e4
"""Added to the tokens of a title, which thereby come first: questions name what a passage is about
by it, and without it a reader does not know of whom the rest speaks."""

REACH = 2
"""Tokens to either side that say how salient the one between them is."""
OFFSETS = 2 * REACH + 1

DECAYS = (8.0, 32.0, 128.0)
"""Tokens from the start of a text after which salience of a place has fallen to 1/e."""

SPREAD = 3
"""Tokens to either side that gain from a salient one: a name alone, without its words, says
little to a reader."""
SPREAD_WEIGHT = 4.0
"""What the mean over them counts beside the token's own score; by hand on training questions."""


class Salience(nn.Module):
    """Scores of tokens, higher for those that questions and answers are about.

    The score of the token at `t` is `Σ_k around[id(t + k), k] + Σ_l lead_l exp(-t / decay_l)`, plus
    `SPREAD_WEIGHT` times the mean of that over the tokens from `t - SPREAD` to `t + SPREAD`; a
    title comes before all else. The rows are fitted once (`openclara.training.salience`) and never
    change afterwards.

    Args:
        n_vocabulary: Size of the base's vocabulary (V).
    """

    around_VK: Tensor
    lead_L: Tensor
    ends_line_V: Tensor

    def __init__(self, n_vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("around_VK", torch.zeros(n_vocabulary, OFFSETS))
        self.register_buffer("lead_L", torch.zeros(len(DECAYS)))
        self.register_buffer("ends_line_V", torch.zeros(n_vocabulary))

    def mark_line_ends(self, tokens: Sequence[int]) -> None:
        """Say which tokens end a line, and thereby a title."""
        self.ends_line_V[list(tokens)] = 1.0

    def forward(self, ids_RT: Tensor, lengths_R: Tensor) -> Tensor:
        """Scores of all tokens, with what they gain from their neighbours.

        Args:
            ids_RT: (R, T) tokens of texts, padded on the right with any token.
            lengths_R: (R,) tokens of each.

        Returns:
            (R, T) float32 scores, minus infinity at padding. A row is the same to the bit
            whatever it is batched with.
        """
        inside_RT = torch.arange(ids_RT.shape[1], device=ids_RT.device) < lengths_R.unsqueeze(1)
        own_RT = self.alone(ids_RT, inside_RT)
        near_RT = _windows(own_RT, SPREAD) / _windows(inside_RT.float(), SPREAD).clamp(min=1)
        scores_RT = own_RT + SPREAD_WEIGHT * near_RT + TITLE_BONUS * self._titles(ids_RT, inside_RT)
        return scores_RT.masked_fill(~inside_RT, -torch.inf)

    def _titles(self, ids_RT: Tensor, inside_RT: Tensor) -> Tensor:
        """(R, T) 1 at the tokens before the first end of a line, if it comes soon; 0 elsewhere."""
        passed_RT = (self.ends_line_V[ids_RT] * inside_RT).cumsum(1) > 0
        soon_R = passed_RT[:, :LONGEST_TITLE].any(1)
        return (~passed_RT & soon_R.unsqueeze(1)).float()

    def alone(self, ids_RT: Tensor, inside_RT: Tensor) -> Tensor:
        """(R, T) scores of tokens by themselves, 0 where `inside_RT` is false."""
        decays_TL = decays(ids_RT.shape[1]).to(self.lead_L.device)
        lead_T = _added([decays_TL[:, at] * self.lead_L[at] for at in range(len(DECAYS))])
        return (around(self.around_VK, ids_RT, inside_RT) + lead_T) * inside_RT


def around(around_VK: Tensor, ids_RT: Tensor, inside_RT: Tensor) -> Tensor:
    """(R, T) sums of what the tokens near each position add to it."""
    parts_RTK = around_VK[ids_RT] * inside_RT.unsqueeze(-1)
    padded_RTK = pad(parts_RTK, (0, 0, REACH, REACH))
    n = ids_RT.shape[1]
    return _added([padded_RTK[:, k : k + n, k] for k in range(OFFSETS)])


def decays(n: int) -> Tensor:
    """(n, L) how near the start of a text each position is."""
    return torch.exp(-torch.arange(n).unsqueeze(1) / torch.tensor(DECAYS))


def _windows(values_RT: Tensor, reach: int) -> Tensor:
    """(R, T) sums over the positions at most `reach` away."""
    n = values_RT.shape[1]
    padded_RT = pad(values_RT, (reach, reach))
    return _added([padded_RT[:, at : at + n] for at in range(2 * reach + 1)])


def _added(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, term by term: torch's own order of summing changes with the shape."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
