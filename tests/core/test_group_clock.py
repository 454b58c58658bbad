"""Retries where somebody sets the node's clock back: they wait their delay, and no longer."""

from __future__ import annotations

import pytest

from meshmq.limits import MS, SECOND
from tests.core.groups import GroupBench

HOUR = 3600 * SECOND


@pytest.fixture
def bench():
    bench = GroupBench()
    bench.join()
    bench.consume("g", "a")
    bench.put("a", b"1")
    return bench


def restart(bench):
    bench.crash()
    bench.join()
    bench.consume("g", "a")


@pytest.mark.parametrize("has_restart", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_what_failed_before_the_clock_was_set_back_comes_when_its_delay_is_over(
    bench, has_restart, times
):
    """The simulator found it (seed 217 of copies): it came an hour later."""
    bench.nack(bench.got()[0], delay_s=5)
    for _ in range(times):
        bench.wall_ns -= HOUR
        if has_restart:
            restart(bench)
        bench.tick_clock()
    bench.wait(5 * SECOND - 2 * MS)
    assert bench.values() == []
    bench.wait(3 * MS)
    ((value, _, _, row),) = bench.got()
    assert (value, row.attempt, row.maybe_duplicate) == (b"1", 2, has_restart)
    bench.nack((value, row.number, 0, row), delay_s=1)
    bench.wait(SECOND + MS)
    assert bench.values() == [b"1"]


def test_a_time_that_somebody_gave_stays_as_it_is(bench):
    bench.nack(bench.got()[0], delay_s=5)
    stream = bench.node.topics.by_name["a"].entry.stream
    due_ms = (bench.wall_ns + bench.now_ns) // MS + 10_000
    assert bench.node.groups.by_name["g"].reschedule(stream, 0, due_ms)
    bench.wall_ns -= 60 * SECOND
    bench.tick_clock()
    bench.wait(69 * SECOND)
    assert bench.values() == []
    bench.wait(2 * SECOND)
    assert bench.values() == [b"1"]


def test_a_clock_that_is_set_right_again_makes_nothing_come_twice(bench):
    bench.nack(bench.got()[0], delay_s=5)
    for by_ns in (-HOUR, HOUR):
        bench.wall_ns += by_ns
        bench.tick_clock()
    bench.wait(2 * SECOND)
    assert bench.values() == [b"1"]
    bench.wait(6 * SECOND)
    assert bench.values() == []
