"""Limits per minute and times between attempts, without a clock."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from openclara.synthesis.teachers.pacing import MINUTE_S, Backoff, Pace

AMOUNTS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 100)), min_size=1, max_size=40)


@given(AMOUNTS, st.integers(1, 6), st.integers(50, 300))
def test_no_minute_holds_more_than_the_limits(arrivals, requests: int, tokens: int) -> None:
    pace, now, gone = Pace(requests, tokens), 0.0, []
    for after, amount in arrivals:
        now += after
        booking = pace.book(now, amount)
        assert booking.at >= now
        gone.append((booking.at, amount))
    times = [at for at, _ in gone]
    assert times == sorted(times)
    for end, _ in gone:
        inside = [amount for at, amount in gone if end - MINUTE_S + 1e-6 < at <= end]
        assert len(inside) <= requests
        assert sum(inside) <= tokens or len(inside) == 1


def test_without_limits_nothing_waits_and_what_was_not_used_is_given_back() -> None:
    free = Pace(None, None)
    assert all(free.wait_s(free.book(5.0, 10**9), 5.0) == 0 for _ in range(100))
    pace = Pace(None, 100)
    first = pace.book(0.0, 100)
    first.amount = 40
    assert pace.book(1.0, 60).at == 1.0
    assert pace.book(2.0, 60).at == MINUTE_S + 1.0


def test_a_pause_holds_everybody() -> None:
    pace = Pace(None, None)
    waiting = pace.book(0.0, 1)
    pace.hold(30.0)
    pace.hold(10.0)
    assert pace.wait_s(waiting, 4.0) == 26.0


@given(st.integers(1, 2000), st.floats(0.1, 10), st.floats(10, 100), st.integers(0, 9))
def test_waits_lie_between_half_and_all_of_the_doubled_time(failures, first, most, seed) -> None:
    delay = Backoff(first, most).delay_s(failures, random.Random(seed))
    doubled = min(most, first * 2.0 ** min(failures - 1, 900))
    assert doubled / 2 <= delay <= doubled


@given(st.floats(0, 500), st.integers(1, 9))
def test_what_the_server_asks_is_waited_and_hardly_more(asked: float, failures: int) -> None:
    delay = Backoff().delay_s(failures, random.Random(0), asked)
    assert asked <= delay <= asked + 1.0
