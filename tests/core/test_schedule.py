"""What is due when, against a plain sorted list."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq.core.schedule import LARGE, Schedule

times = st.integers(0, 20_000)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(times, st.booleans(), times), max_size=60))
def test_it_gives_what_is_due_in_order(todo):
    schedule, plain, now = Schedule(), [], 0
    for n, (due, looks, step) in enumerate(todo):
        schedule.add(due, 1, n, n % 10)
        plain.append((due, 1, n, n % 10))
        if looks:
            now += step // 10
            plain.sort()
            most = 3 if step % 2 else 1000
            due_now = [row for row in plain if row[0] <= now][:most]
            found = schedule.pop_due(now, most)
            assert [row[0] for row in found] == [row[0] for row in due_now]
            for row in found:
                plain.remove(row)
        assert len(schedule) == len(plain)
    assert schedule.next_ms() == (min(plain)[0] if plain else None)
    assert sorted(schedule.pop_due(1 << 60, 1000)) == sorted(plain)


def test_a_million_that_wait_are_packed():
    schedule = Schedule()
    for n in range(1000):
        schedule.add(1_700_000_000_000 + n * 3_600, 1, n, 0)
    assert not schedule._near
    assert sum(map(len, schedule._far.values())) == 1000 * 21
    for n in range(20_000):
        schedule.add(1_700_000_000_000 + n * 1_550_000, 1, n, 0)  # over a year
    assert len(schedule._buckets) == 0
    assert len(schedule._far) < 8_000


def everything(schedule, now, most=1000):
    found = []
    while rows := schedule.pop_due(now, most):
        assert len(rows) <= most
        found += rows
    return found


def test_very_many_of_one_second_come_a_part_at_a_time():
    schedule, second = Schedule(), 1_700_000_000_000
    count = 3 * LARGE
    schedule.add_run(second + 500, 1, 0, count, 0)
    schedule.add(second + 1_200, 1, count, 0)
    while (due := schedule.next_ms()) < second:
        assert schedule.pop_due(due, 1000) == []
    for now in (second - 1, second, second + 499):
        assert schedule.pop_due(now, 1000) == []
    assert schedule.next_ms() in (second + 500, second + 1_000)
    found = everything(schedule, second + 1_000)
    assert sorted(row[2] for row in found) == list(range(count))
    assert schedule.next_ms() == second + 1_200
    assert len(schedule) == 1


def test_very_many_of_one_span_are_all_there_in_time():
    schedule, begin = Schedule(), 1_700_000_000_000
    times = [begin + (n * 7919) % 3_000_000 for n in range(4 * LARGE)]
    for n, due in enumerate(times):
        schedule.add(due, 1, n, 0)
    now, found = begin - 10_000, []
    while schedule:
        now = max(now, schedule.next_ms())
        rows = schedule.pop_due(now, 1000)
        assert all(now - 5_000 < row[0] <= now for row in rows)
        found += rows
    assert sorted(row[0] for row in found) == sorted(times)
