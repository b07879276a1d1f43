"""What a synthesis will take, before it is begun: tasks, tokens, money, hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.config import SynthesisConfig
    from openclara.synthesis.passages import Passage
    from openclara.synthesis.tasks import Spent

# Per passage: pairs, and tokens written for a set of each kind, are the averages of the paper's
# table 8; half of the passages are taken to need a second round.
_PAIRS = 7.8 + 4.6
_ROUNDS = 1.5
_PARAPHRASES = 1.3
_WRITTEN_QA = 158.2 + 253.9
_WRITTEN_ANSWER, _WRITTEN_VERDICT, _WRITTEN_PARAPHRASE = 8, 25, 108.7
_INSTRUCTIONS = 400
"""Tokens around the document in a request."""
_TOKENS_PER_WORD = 1.35
_SECONDS_PER_REQUEST = 2.0
"""Of a hosted model; only the limits of the endpoint are known beforehand."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be done.

    Attributes:
        passages: Passages without results.
        tasks: Things to ask.
        prompt_tokens: Tokens to read.
        completion_tokens: Tokens to write.
        money: By the recipe's prices, or as measured.
        hours: None where nothing is known of the speed.
        measured_on: Passages whose costs it goes by; 0 where it goes by published averages.
    """

    passages: int
    tasks: int
    prompt_tokens: int
    completion_tokens: int
    money: float
    hours: float | None
    measured_on: int


def estimate(
    left: Sequence[Passage],
    recipe: SynthesisConfig,
    *,
    n_done: int = 0,
    tasks_done: int = 0,
    spent: Spent | None = None,
) -> Estimate:
    """Estimate the work left.

    Args:
        left: Passages without results.
        recipe: Names teacher, limits and prices.
        n_done: Passages with results; where there are any, their averages count.
        tasks_done: Their tasks.
        spent: What these cost.
    """
    n_left = len(left)
    if n_done and spent is not None:
        part = n_left / n_done
        tasks = tasks_done * part
        read, written = spent.prompt_tokens * part, spent.completion_tokens * part
        money = spent.money * part
    else:
        tasks, read, written = _by_averages(left, recipe)
        money = _price(recipe, read, written)
    return Estimate(
        n_left,
        round(tasks),
        round(read),
        round(written),
        money,
        _hours(recipe, tasks, read + written),
        n_done,
    )


def _by_averages(left: Sequence[Passage], recipe: SynthesisConfig) -> tuple[float, float, float]:
    paraphrases = _PARAPHRASES if recipe.quality.paraphrases else 0.0
    asking = 2 * min(_ROUNDS, recipe.quality.rounds)
    tasks = asking + 3 * _PAIRS + 2 * paraphrases
    words = sum(len(passage.full_text.split()) for passage in left)
    read = tasks * (_TOKENS_PER_WORD * words + _INSTRUCTIONS * len(left))
    written = len(left) * (
        _WRITTEN_QA * asking / 2
        + _PAIRS * (2 * _WRITTEN_ANSWER + _WRITTEN_VERDICT)
        + paraphrases * (_WRITTEN_PARAPHRASE + _WRITTEN_VERDICT)
    )
    if recipe.teacher.kind == "rules":
        return tasks * len(left), 0.0, 0.0
    return tasks * len(left), read, written


def _price(recipe: SynthesisConfig, read: float, written: float) -> float:
    teacher = recipe.teacher
    if teacher.kind != "openai":
        return 0.0
    return (read * teacher.price_prompt + written * teacher.price_completion) / 1e6


def _hours(recipe: SynthesisConfig, tasks: float, tokens: float) -> float | None:
    teacher = recipe.teacher
    if teacher.kind != "openai":
        return None
    minutes = [tasks * _SECONDS_PER_REQUEST / teacher.concurrency / 60]
    if teacher.requests_per_minute:
        minutes.append(tasks / teacher.requests_per_minute)
    if teacher.tokens_per_minute:
        minutes.append(tokens / teacher.tokens_per_minute)
    return max(minutes) / 60
