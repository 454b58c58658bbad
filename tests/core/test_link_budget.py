"""bytes_per_second: what comes over a link is bounded, and a short burst is all there is."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.link_budget import LinkBudget
from meshmq.limits import KIB, MS, SECOND

LOG, OTHER = b"o" * 16, b"p" * 16


class Pull:
    """A far node that sends at once all that it has room for, in frames of so many bytes; the line
    carries one byte for so many that are stored."""

    def __init__(self, rate, frame, *logs, shrinks=1, round_trip_ns=10 * MS):
        self.now_ns = 0
        self.frame, self.shrinks = frame, shrinks
        self.budget = LinkBudget(rate, 0)
        self.room = {log: self.budget.first(log, round_trip_ns) for log in logs}
        self.came = dict.fromkeys(logs, 0)
        self.times = []
        self.is_idle = False

    def send(self):
        if self.is_idle:
            return
        for log in self.room:
            while self.room[log] > 0:
                self.room[log] -= self.frame
                size = self.frame // self.shrinks
                self.budget.on_came(size, self.frame)
                self.budget.hold(log, self.frame)
                self.came[log] += size
                self.times.append((self.now_ns, size))

    def run(self, span_ns):
        until_ns = self.now_ns + span_ns
        self.send()
        while True:
            due_ns = self.budget.next_deadline_ns()
            if due_ns is None or due_ns > until_ns:
                break
            self.now_ns = max(self.now_ns + 1, due_ns)
            for log, size in self.budget.grant(self.now_ns):
                self.room[log] += size
            self.send()
        self.now_ns = until_ns

    def most_within(self, span_ns):
        """The most bytes that came within any such span."""
        return max(
            sum(size for at, size in self.times if since <= at < since + span_ns)
            for since, _ in self.times
        )


@pytest.mark.parametrize("shrinks", [1, 5])
@pytest.mark.parametrize(
    ("rate", "frame"), [(100_000, 2 * KIB), (100_000, 64 * KIB), (20_000_000, 64 * KIB)]
)
def test_no_more_comes_than_the_budget_says_and_not_less(rate, frame, shrinks):
    pull = Pull(rate, frame, LOG, OTHER, shrinks=shrinks)
    pull.run(5 * SECOND)
    before = sum(pull.came.values())
    pull.run(60 * SECOND)
    came = sum(pull.came.values()) - before
    assert 0.95 * rate * 60 - frame < came < 1.02 * rate * 60 + frame


def test_two_logs_have_equal_parts():
    pull = Pull(100_000, 4 * KIB, LOG, OTHER)
    pull.run(60 * SECOND)
    assert min(pull.came.values()) > 0.9 * max(pull.came.values())


def test_a_burst_is_short():
    pull = Pull(1_000_000, 4 * KIB, LOG)
    pull.run(10 * SECOND)
    pull.times.clear()
    pull.run(20 * SECOND)
    assert pull.most_within(200 * MS) < 0.35 * pull.budget.rate


def test_a_rest_is_not_made_up_for():
    pull = Pull(1_000_000, 4 * KIB, LOG)
    pull.run(10 * SECOND)
    pull.is_idle = True
    pull.run(60 * SECOND)
    pull.is_idle = False
    pull.times.clear()
    pull.run(SECOND)
    assert sum(size for _, size in pull.times) < 1.5 * pull.budget.rate


def test_nothing_is_due_where_nobody_waits():
    budget = LinkBudget(1000, 0)
    assert budget.next_deadline_ns() is None
    budget.hold(LOG, 500)
    assert budget.next_deadline_ns() is not None
    budget.drop(LOG)
    assert budget.next_deadline_ns() is None
    assert budget.grant(SECOND) == []


def test_a_sender_begins_with_what_its_distance_asks_for():
    assert LinkBudget(1000, 0).first(LOG, 0) == limits.LINK_LEAST_BYTES
    assert LinkBudget(10**6, 0).first(LOG, 250 * MS) == 500_000
    assert LinkBudget(10**12, 0).first(LOG, SECOND) == limits.LINK_CREDIT_BYTES
