"""What a teacher may spend, and what it has spent."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from openclara.synthesis.tasks import Spent

_BYTES_PER_TOKEN = 4
_PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Money per million tokens, in any currency.

    Attributes:
        prompt: Of tokens read.
        completion: Of tokens written.
    """

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What a request costs."""
        read, written = prompt_tokens * self.prompt, completion_tokens * self.completion
        return (read + written) / _PER_MILLION


def added(first: Spent, second: Spent) -> Spent:
    """The sum of two costs."""
    return Spent(
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        requests=first.requests + second.requests,
        money=first.money + second.money,
    )


def estimated_tokens(text: str) -> int:
    """Tokens of a text by its length in bytes, for servers that do not count them."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


class Budget:
    """An account that says when it is empty.

    It is asked before each request, so what it ends up over by is what was under way.

    Args:
        tokens: Most tokens, read and written together; None is without limit.
        money: Most money, in the currency of the prices; None is without limit.
    """

    def __init__(self, tokens: int | None = None, money: float | None = None) -> None:
        self._tokens = tokens
        self._money = money
        self._lock = Lock()
        self.spent = Spent()

    def charge(self, cost: Spent) -> None:
        """Add a cost."""
        with self._lock:
            self.spent = added(self.spent, cost)

    def exhausted(self) -> str:
        """What has been used up, in words; empty while there is some left."""
        used = self.spent.prompt_tokens + self.spent.completion_tokens
        if self._tokens is not None and used >= self._tokens:
            return f"{used:,} of {self._tokens:,} tokens"
        if self._money is not None and self.spent.money >= self._money:
            return f"{self.spent.money:.2f} of {self._money:.2f} in money"
        return ""
