"""What one program sends to a reader by two routes, put together by number."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.inlets import Inlets
from meshmq.frames import Deliver, DeliverBatch, Noted, NotedRow

P, NODE, LINK = b"P" * 16, b"N" * 16, b"link"
LOTS = 1 << 20


class Reading:
    """One reader, that hears from P over a link and by a node where both are."""

    def __init__(self):
        self.inlets = Inlets()
        self.inlets.join(LINK, P)
        self.inlets.open(1, "t", False, 1, LOTS, LOTS)
        self.inlets.on_node(NODE)
        self.inlets.on_their_node(LINK, NODE)
        self.now_ns = limits.SECOND
        self.hear()

    def hear(self):
        self.inlets.sources[LINK].heard_ns = self.now_ns

    def noted(self, number, whole=True, unsure=0):
        row = NotedRow("t", number, unsure)
        self.inlets.on_noted(LINK, Noted(1, whole, (row,)), self.now_ns)

    def row(self, first, count=1, missing=False, source=b""):
        length = 0 if missing else count
        return DeliverBatch("t", first, count, length, 0, 0, 0, 0, missing=missing, source=source)

    def directly(self, first, count=1, missing=False):
        self.hear()
        row = self.row(first, count, missing)
        self.inlets.on_deliver(LINK, Deliver(1, (row,), 0, bytes(row.length)), self.now_ns)

    def by_node(self, first, count=1, missing=False):
        row = self.row(first, count, missing, P)
        self.inlets.on_node_row(1, row, bytes(row.length), self.now_ns)

    def marker(self):
        self.inlets.on_marker(1, P)

    def wait(self, delay_ns):
        self.now_ns += delay_ns
        self.inlets.tick(self.now_ns)

    @property
    def got(self):
        """How many of each batch came, in order."""
        return [a.count - a.skip for a in self.inlets.arrived.get(1, [])]

    @property
    def missed(self):
        return self.inlets.readers[1].missed


@pytest.fixture
def reading():
    return Reading()


def begun(reading, number=1):
    reading.noted(number)
    reading.marker()


def test_directly_waits_for_the_marker_of_what_went_by_the_node(reading):
    reading.by_node(1, 2)
    reading.noted(5)
    reading.directly(5)
    assert reading.got == [2]
    reading.by_node(3, 2)
    assert reading.got == [2, 2]
    reading.marker()
    assert reading.got == [2, 2, 1]
    assert reading.missed == 0


def test_a_marker_that_was_there_first_is_not_waited_for(reading):
    reading.marker()
    reading.noted(5)
    reading.directly(5)
    assert reading.got == [1]


def test_a_marker_that_does_not_come_is_waited_for_a_second(reading):
    reading.by_node(1)
    reading.noted(5)
    reading.directly(5)
    reading.wait(limits.ROUTE_WAIT_NS - 1)
    assert reading.got == [1]
    reading.wait(1)
    assert reading.got == [1, 1]
    assert reading.missed == 3


def test_what_comes_late_has_been_counted(reading):
    test_a_marker_that_does_not_come_is_waited_for_a_second(reading)
    reading.by_node(2, 3)
    assert reading.got == [1, 1]
    assert reading.missed == 3
    assert reading.inlets.returned == [(1, 3, 3)]


@pytest.mark.parametrize("is_first_direct", [True, False])
def test_a_gap_waits_for_the_other_route(reading, is_first_direct):
    begun(reading)
    one, other = reading.directly, reading.by_node
    if not is_first_direct:
        one, other = other, one
    one(1)
    other(3)
    assert reading.got == [1]
    one(2)
    assert reading.got == [1, 1, 1]
    assert reading.missed == 0
    assert reading.inlets.next_deadline_ns() is None


def test_a_gap_is_missing_after_a_second(reading):
    begun(reading)
    reading.by_node(3)
    reading.wait(limits.ROUTE_WAIT_NS)
    assert (reading.got, reading.missed) == ([1], 2)


def test_a_link_that_was_not_heard_is_not_waited_for(reading):
    begun(reading)
    reading.now_ns += limits.ROUTE_HEARD_NS
    reading.by_node(3)
    assert (reading.got, reading.missed) == ([1], 2)


def test_what_is_told_to_be_missing_is_not_waited_for(reading):
    begun(reading)
    reading.directly(1)
    reading.by_node(4)
    reading.directly(2, 2, missing=True)
    assert (reading.got, reading.missed) == ([1, 1], 2)


def test_what_came_by_both_comes_once(reading):
    begun(reading)
    reading.directly(1, 3)
    reading.by_node(2, 4)
    reading.directly(5, 2)
    assert (reading.got, reading.missed) == ([3, 2, 1], 0)


def test_a_link_that_is_lost_is_not_waited_for(reading):
    begun(reading)
    reading.by_node(3)
    reading.inlets.leave(LINK)
    assert (reading.got, reading.missed) == ([1], 2)


def test_a_node_that_is_lost_is_not_waited_for(reading):
    begun(reading)
    reading.directly(3)
    assert reading.got == []
    reading.inlets.on_node(b"")
    assert (reading.got, reading.missed) == ([1], 2)


def test_programs_at_different_nodes_have_one_route(reading):
    reading.inlets.on_their_node(LINK, b"M" * 16)
    reading.noted(5)
    reading.directly(5)
    assert (reading.got, reading.missed) == ([1], 0)


def test_what_waits_comes_in_order(reading):
    begun(reading)
    reading.by_node(6)
    reading.by_node(4, 2)
    reading.wait(limits.ROUTE_WAIT_NS)
    assert (reading.got, reading.missed) == ([2, 1], 3)


def test_a_closed_reader_waits_for_nothing(reading):
    begun(reading)
    reading.by_node(3)
    reading.inlets.close(1)
    assert reading.inlets.next_deadline_ns() is None
    reading.wait(limits.ROUTE_WAIT_NS)


def test_what_is_read_is_credit_of_the_route_that_it_came_by(reading):
    begun(reading)
    reading.directly(1, 10)
    reading.by_node(11, 20)
    feed = reading.inlets.readers[1].feeds[P]
    assert (feed.held_bytes, feed.held_records) == (10, 10)
    assert reading.inlets.consumed(1, 30) == (20, 20)
    assert (feed.held_bytes, feed.held_records) == (0, 0)


def test_a_source_that_only_the_node_reaches_begins_where_it_begins(reading):
    row = DeliverBatch("t", 70, 2, 2, 0, 0, 0, 0, source=b"Q" * 16)
    reading.inlets.on_node_row(1, row, b"..", reading.now_ns)
    gap = row._replace(base_offset=74)
    reading.inlets.on_node_row(1, gap, b"..", reading.now_ns)
    assert (reading.got, reading.missed) == ([2, 2], 2)


def test_what_is_noted_of_another_interest_leaves_what_is_waited_for(reading):
    reading.noted(5, whole=False)
    reading.inlets.on_noted(LINK, Noted(2, False), reading.now_ns)
    reading.directly(5)
    reading.marker()
    assert (reading.got, reading.missed) == ([1], 0)


def test_what_the_node_keeps_is_not_missing_for_having_been_numbered(reading):
    begun(reading)
    reading.directly(1)
    reading.noted(8, unsure=2)  # linked anew; the node was asked of what is from 2 on
    reading.marker()
    assert (reading.got, reading.missed) == ([1], 0)


def test_what_the_node_does_not_keep_is_missing_once_the_next_one_comes(reading):
    begun(reading)
    reading.directly(1)
    reading.noted(8, unsure=2)
    reading.marker()
    reading.directly(8)
    reading.wait(limits.ROUTE_WAIT_NS)
    assert (reading.got, reading.missed) == ([1, 1], 6)


def test_what_came_by_the_node_before_the_interest_was_noted_is_not_passed_over(reading):
    reading.by_node(1)
    reading.by_node(4)
    assert (reading.got, reading.missed) == ([1, 1], 2)
    reading.noted(5)
    reading.marker()
    assert (reading.got, reading.missed) == ([1, 1], 2)
