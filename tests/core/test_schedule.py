"""What is due when, against a plain sorted list."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq.core.schedule import Schedule

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
    assert sum(map(len, schedule._buckets.values())) == 1000 * 21
