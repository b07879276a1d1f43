"""How a text is cut into the spans that anchored memory tokens carry.

A span is a word. One of more tokens than a memory token carries is cut, from its start on; so is a
number, into its digits, as a reader tells apart the tokens of a name sooner than those; and a word
never begins with the end of the line before.

Legend: R texts, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def first_of_spans(
    begins_RT: Tensor, digit_RT: Tensor, ends_line_RT: Tensor, *, longest: int
) -> Tensor:
    """(R, T) whether a span begins at each position.

    Args:
        begins_RT: (R, T) whether a token begins a word.
        digit_RT: (R, T) whether it is a digit.
        ends_line_RT: (R, T) whether it ends a line.
        longest: Tokens of a span, at most.
    """
    at_T = torch.arange(begins_RT.shape[1], device=begins_RT.device)
    after_digit_RT, after_line_RT = (
        pad(one_RT, (1, 0))[:, :-1] for one_RT in (digit_RT, ends_line_RT)
    )
    begins_RT = begins_RT | (digit_RT & after_digit_RT) | after_line_RT
    begun_RT = torch.where(begins_RT, at_T, 0).cummax(1).values
    return (at_T - begun_RT) % longest == 0
