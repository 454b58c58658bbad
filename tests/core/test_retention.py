"""The retention planner: age and bytes at portions, and where to look closer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshmq import limits
from meshmq.core.retention import (
    REFINE_BYTES_MIN,
    Boundary,
    Portion,
    SegmentInfo,
    due_to_roll,
    is_dead,
    live_bytes,
    plan,
)


def portions(*sizes, records=10):
    """Portions of ``records`` records each, one second apart from time 0."""
    return [
        Portion(i + 1, 1, i * records, (i + 1) * records, size, i * limits.SECOND)
        for i, size in enumerate(sizes)
    ]


def test_no_bound_keeps_all():
    assert plan(portions(5, 5, 5), 3, 0, 0, 10**30) == (3, None)
    assert plan([], 3, 1, 1, 10**30) == (3, None)


def test_age_takes_whole_portions():
    held = portions(1, 1, 1)
    second = limits.SECOND
    assert plan(held, 0, 10 * second, 0, 10 * second).first_offset == 0
    assert plan(held, 0, 10 * second, 0, 10 * second + 1).first_offset == 10
    assert plan(held, 0, 10 * second, 0, 12 * second).first_offset == 20
    assert plan(held, 0, 10 * second, 0, 99 * second).first_offset == 30
    assert plan(held, 15, 10 * second, 0, 10 * second + 1).first_offset == 15


def test_bytes_take_portions_while_the_rest_reaches_the_bound():
    assert plan(portions(100, 100, 100), 0, 0, 300, 0) == (0, None)
    assert plan(portions(100, 100, 100), 0, 0, 200, 0) == (10, None)
    held = portions(100, 100, 100)
    assert plan(held, 0, 0, 150, 0) == (10, Boundary(held[1], 50))
    assert plan(held, 0, 0, 1, 0) == (20, Boundary(held[2], 1))


def test_small_excess_waits():
    held = portions(100, 100)
    assert plan(held, 0, 0, 190, 0) == (0, None)
    assert plan(held, 0, 0, 180, 0) == (0, Boundary(held[0], 80))
    large = portions(400 * limits.MIB, 100)
    bound = 400 * limits.MIB
    assert plan(large, 0, 0, bound, 0) == (0, None)
    assert plan(large, 0, 0, bound - REFINE_BYTES_MIN, 0).boundary is not None


def test_what_is_trimmed_already_does_not_count():
    held = portions(100, 100, 100)
    assert live_bytes(held[0], 0) == 100
    assert live_bytes(held[0], 5) == 50
    assert live_bytes(held[0], 10) == 0
    assert plan(held, 10, 0, 200, 0) == (10, None)
    assert plan(held, 5, 0, 250, 0) == (5, None)


@given(
    sizes=st.lists(st.integers(1, 100), max_size=8),
    first=st.integers(0, 90),
    age=st.integers(0, 9),
    bound=st.integers(0, 500),
)
def test_never_backwards_never_less_than_the_bound(sizes, first, age, bound):
    held = portions(*sizes)
    found = plan(held, first, age * limits.SECOND, bound, 9 * limits.SECOND)
    assert found.first_offset >= first
    if not age:
        before = sum(live_bytes(p, first) for p in held)
        after = sum(live_bytes(p, found.first_offset) for p in held)
        assert after >= min(before, bound)
    if found.boundary:
        assert found.boundary.portion.next_offset > found.first_offset
        assert found.boundary.keep_bytes <= bound


def test_dead_segments():
    info = SegmentInfo(1, 1, 9, 0, 0, {1: portions(5)[0], 2: portions(5)[0]})
    assert not is_dead(info, {1: 10, 2: 9})
    assert is_dead(info, {1: 10, 2: 10})
    assert is_dead(info, {1: 11})  # stream 2 was deleted
    assert is_dead(SegmentInfo(1, 1, 9, 0, 0), {1: 0})


def test_rolling_for_age():
    size, second = REFINE_BYTES_MIN, limits.SECOND
    assert due_to_roll(0, size, 400 * second, 101 * second)
    assert not due_to_roll(0, size, 400 * second, 100 * second)
    assert not due_to_roll(0, size - 1, 400 * second, 101 * second)
    assert not due_to_roll(0, size, 0, 10**30)
    assert not due_to_roll(0, size, 1, 10 * second)  # never more often than that
