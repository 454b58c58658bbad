"""Ages under a wall clock that jumps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshmq.core.log_time import JUMP_NS, JUMPS_MAX, LogTime
from meshmq.limits import SECOND

HOUR = 3600 * SECOND


def test_without_jumps_age_is_a_difference():
    time = LogTime()
    for second in range(100):
        time.observe(1_000 * HOUR + second * SECOND, second * SECOND)
    assert time.oldest_ns(2_000 * HOUR, HOUR) == 1_999 * HOUR


def test_an_hour_ahead_ages_nothing():
    time = LogTime()
    time.observe(1_000 * HOUR, 0)
    time.observe(1_001 * HOUR + SECOND, SECOND)  # one second later, an hour ahead
    now = 1_001 * HOUR + SECOND
    assert time.oldest_ns(now, HOUR // 2) == 1_000 * HOUR - HOUR // 2 + SECOND
    later = now + HOUR
    assert time.oldest_ns(later, HOUR // 2) == later - HOUR // 2  # after the jump: as ever


def test_steering_and_jumps_back_are_no_jumps_ahead():
    time = LogTime()
    time.observe(1_000 * HOUR, 0)
    time.observe(1_000 * HOUR + SECOND + JUMP_NS, SECOND)
    time.observe(999 * HOUR, 2 * SECOND)
    assert time.oldest_ns(1_000 * HOUR, HOUR) == 999 * HOUR


def test_what_is_remembered_is_bounded():
    time = LogTime()
    for i in range(1000):
        time.observe(i * HOUR, i)
    assert len(time._jumps) == JUMPS_MAX


@given(st.lists(st.tuples(st.integers(1, 600), st.integers(-7200, 7200)), max_size=30),
       st.integers(1, 4000))  # fmt: skip
def test_nothing_is_ever_taken_early(steps, age):
    """Against the truth: (append time, real second) of a record at every look."""
    time, real, offset, newest = LogTime(), 0, 10_000, 0
    records = []
    for passed, jump in steps:
        real += passed
        offset += jump
        wall = (real + offset) * SECOND
        newest = max(newest, wall)
        time.observe(wall, real * SECOND)
        records.append((newest, real))
        oldest = time.oldest_ns(newest, age * SECOND)
        for append_time, second in records:
            if append_time < oldest:
                assert real - second >= age - 2 * len(records)  # a step up to JUMP_NS is not seen
