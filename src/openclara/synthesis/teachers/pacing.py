"""When the next request may go out: limits per minute, pauses a server asks for, and backing off.

Nothing here waits; times are computed and the caller sleeps, so that tests need no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

MINUTE_S = 60.0


@dataclass(slots=True)
class Booking:
    """A place in a window.

    Attributes:
        at: When the request goes out.
        amount: What it counts there.
    """

    at: float
    amount: float


class Window:
    """At most `limit` in any minute; one request larger than that goes alone.

    Args:
        limit: Amount per minute; None is without limit.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._bookings: deque[Booking] = deque()

    def earliest(self, at: float, amount: float) -> float:
        """The first time from `at` on, and not before any booking, with room for `amount`."""
        if self._limit is None:
            return at
        if self._bookings:
            at = max(at, self._bookings[-1].at)
        inside = [one for one in self._bookings if one.at > at - MINUTE_S]
        load = sum(one.amount for one in inside)
        for one in inside:
            if load + amount <= self._limit:
                break
            load -= one.amount
            at = one.at + MINUTE_S
        return at

    def book(self, at: float, amount: float) -> Booking:
        """Take the place at a time that `earliest` gave; the amount may be corrected later."""
        booking = Booking(at, amount)
        if self._limit is not None:
            while self._bookings and self._bookings[0].at <= at - MINUTE_S:
                self._bookings.popleft()
            self._bookings.append(booking)
        return booking


class Pace:
    """Both limits together, and a pause for everybody.

    Args:
        requests_per_minute: None is without limit.
        tokens_per_minute: Read and written together; None is without limit.
    """

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._requests = Window(requests_per_minute)
        self._tokens = Window(tokens_per_minute)
        self._held_until = float("-inf")

    def book(self, now: float, tokens: int) -> Booking:
        """Book a request; it goes out at `at`, and its `amount` of tokens may be corrected."""
        at = now
        while True:
            later = self._tokens.earliest(self._requests.earliest(at, 1), tokens)
            if later == at:
                break
            at = later
        self._requests.book(at, 1)
        return self._tokens.book(at, tokens)

    def hold(self, until: float) -> None:
        """Let nothing out before a time."""
        self._held_until = max(self._held_until, until)

    def wait_s(self, booking: Booking, now: float) -> float:
        """Seconds a booked request still has to wait; 0 or less when it may go."""
        return max(booking.at, self._held_until) - now


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a request is tried again.

    Attributes:
        first_s: After the first failure; doubled after each further one.
        most_s: Never longer, unless the server asks for it.
    """

    first_s: float = 1.0
    most_s: float = 60.0

    def delay_s(self, failures: int, random: Random, retry_after_s: float | None = None) -> float:
        """Seconds to wait: between half and all of the doubled time, and what the server asks.

        Args:
            failures: So far, at least 1.
            random: Spreads requests that failed together.
            retry_after_s: Seconds the server asked for.
        """
        # 2 ** 30 times the first is beyond any `most_s`, and larger powers overflow.
        doubled = min(self.first_s * 2.0 ** min(failures - 1, 30), self.most_s)
        spread = doubled * random.uniform(0.5, 1.0)
        if retry_after_s is None:
            return spread
        return retry_after_s + random.uniform(0.0, min(doubled, 1.0))
