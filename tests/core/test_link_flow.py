"""What may be on its way over a link, on modelled lines."""

from __future__ import annotations

import heapq
import itertools

import pytest

from meshmq import limits
from meshmq.core.feed import Reader
from meshmq.core.link_flow import Flight, LinkFlow
from meshmq.limits import KIB, MIB, MS, SECOND


class Line:
    """A line of so many bytes per second, with a queue before it, to a node that stores what comes
    within ``sync_ns``. Pulses pass through the same queue."""

    def __init__(self, rate, round_trip_ns, frame=64 * KIB, sync_ns=5 * MS):
        self.rate, self.round_trip_ns, self.frame, self.sync_ns = (
            rate,
            round_trip_ns,
            frame,
            sync_ns,
        )
        self.now_ns = 0
        self.free_ns = 0  # when the line is through with what is queued
        self.flow = LinkFlow(lambda: self.now_ns, round_trip_ns)
        self.events = []
        self.count = itertools.count()
        self.delivered = 0
        self.waits = {}  # by flight: how long each frame took until it had arrived
        self.flights = {}
        self.at(0, self.pulse)

    def at(self, delay_ns, call, *what):
        heapq.heappush(self.events, (self.now_ns + delay_ns, next(self.count), call, what))

    def add(self, rank=0, bytes_per_second=None):
        """A log with always more to send, or with one frame of a KiB whenever that is due."""
        flight = Flight(Reader(">", 0, 0), rank)
        self.flow.join(flight)
        self.flights[id(flight)] = self.waits[id(flight)] = []
        if bytes_per_second is None:
            self.flights[id(flight)] = None
        else:
            self.at(0, self.due, flight, bytes_per_second)
        return flight

    def due(self, flight, rate):
        self.flights[id(flight)].append(self.now_ns)
        self.at(KIB * SECOND // rate, self.due, flight, rate)
        self.pump()

    def cross(self, size):
        """When it has arrived, of something that enters the queue now."""
        self.free_ns = max(self.free_ns, self.now_ns) + size * SECOND // self.rate
        return self.free_ns + self.round_trip_ns // 2 - self.now_ns

    def pulse(self):
        self.at(self.cross(64) + self.round_trip_ns // 2, self.on_pulse, self.now_ns)
        self.at(limits.PULSE_NS, self.pulse)

    def on_pulse(self, since_ns):
        self.flow.on_round_trip(self.now_ns - since_ns)
        self.pump()

    def pump(self):
        for flight in self.flow.in_turn():
            waiting = self.flights[id(flight)]
            while (waiting is None or waiting) and self.flow.room(flight) > 0:
                since_ns = self.now_ns if waiting is None else waiting.pop(0)
                self.send(flight, self.frame if waiting is None else KIB, since_ns)

    def send(self, flight, size, since_ns):
        end = (next(self.count) + 1, 0)
        self.flow.on_sent(flight, end, size, size)
        self.at(self.cross(size), self.arrive, flight, end, size, since_ns)

    def arrive(self, flight, end, size, since_ns):
        self.delivered += size
        self.waits[id(flight)] = [*self.waits[id(flight)][-99:], self.now_ns - since_ns]
        self.at(self.sync_ns + self.round_trip_ns // 2, self.stored, flight, end)

    def stored(self, flight, end):
        self.flow.on_stored(flight, end)
        self.pump()

    def run(self, span_ns):
        """Bytes per second that were delivered meanwhile."""
        self.pump()
        until_ns, before = self.now_ns + span_ns, self.delivered
        while self.events and self.events[0][0] <= until_ns:
            self.now_ns, _, call, what = heapq.heappop(self.events)
            call(*what)
        self.now_ns = until_ns
        return (self.delivered - before) * SECOND // span_ns


@pytest.mark.parametrize("round_trip_ms", [0, 1, 20, 100, 200, 400])
def test_distance_costs_no_throughput(round_trip_ms):
    line = Line(40 * MIB, round_trip_ms * MS, frame=256 * KIB)
    line.add()
    line.run(6 * SECOND)
    assert line.run(25 * SECOND) > 0.9 * line.rate


@pytest.mark.parametrize("round_trip_ms", [1, 50, 200])
@pytest.mark.parametrize("frame", [2 * KIB, 20 * KIB])
def test_on_a_thin_line_little_is_on_its_way(round_trip_ms, frame):
    line = Line(125_000, round_trip_ms * MS, frame)
    line.add()
    line.run(5 * SECOND)
    most = 0
    for _ in range(600):
        line.run(100 * MS)
        most = max(most, line.free_ns - line.now_ns)
    assert most < 700 * MS
    assert line.run(10 * SECOND) > 0.9 * line.rate


def test_batches_as_long_as_the_window_go_one_by_one():
    line = Line(125_000, 200 * MS, 64 * KIB)
    line.add()
    line.run(5 * SECOND)
    for _ in range(100):
        line.run(100 * MS)
        assert line.flow.in_flight <= 2 * 64 * KIB
    assert line.run(20 * SECOND) > 0.6 * line.rate


def test_who_goes_first_is_not_held_up_by_the_others():
    line = Line(125_000, 100 * MS, 10 * KIB)
    line.add(rank=1)
    line.run(5 * SECOND)
    first = line.add(rank=0, bytes_per_second=20_000)
    line.run(20 * SECOND)
    assert max(line.waits[id(first)]) < 700 * MS
    assert line.run(5 * SECOND) > 0.9 * line.rate


def test_a_queue_on_the_way_is_not_taken_for_distance():
    line = Line(1 * MIB, 20 * MS, 8 * KIB)
    line.add()
    line.run(120 * SECOND)
    assert line.flow.round_trip_ns < 60 * MS
    assert line.flow.window < 0.5 * line.rate


def test_a_line_that_becomes_thin_is_not_filled():
    line = Line(20 * MIB, 20 * MS, 16 * KIB)
    line.add()
    line.run(10 * SECOND)
    line.rate = 250_000
    line.run(60 * SECOND)
    assert line.flow.window < 250_000
    line.rate = 20 * MIB
    line.run(5 * SECOND)
    assert line.run(5 * SECOND) > 0.9 * line.rate


def test_a_longer_way_is_noticed():
    line = Line(20 * MIB, 5 * MS, 64 * KIB)
    line.add()
    line.run(10 * SECOND)
    line.round_trip_ns = 400 * MS
    line.run(60 * SECOND)
    assert line.run(20 * SECOND) > 0.85 * line.rate


def test_logs_of_one_rank_have_equal_parts():
    line = Line(1 * MIB, 50 * MS, 8 * KIB)
    flights = [line.add() for _ in range(5)]
    line.run(5 * SECOND)
    count = dict.fromkeys(map(id, flights), 0)
    arrive = line.arrive

    def noted(flight, end, size, since_ns):
        count[id(flight)] += size
        arrive(flight, end, size, since_ns)

    line.arrive = noted
    line.run(10 * SECOND)
    assert min(count.values()) > 0.8 * max(count.values())


def test_what_is_on_its_way_is_bounded_however_far_and_fast():
    line = Line(1 << 30, 900 * MS, 1 * MIB)
    for rank in range(4):
        line.add(rank)
    for _ in range(100):
        line.run(200 * MS)
        assert line.flow.in_flight <= limits.LINK_CREDIT_BYTES + 5 * MIB


def test_little_to_send_says_nothing_against_a_line():
    line = Line(20 * MIB, 100 * MS)
    full = line.add()
    line.run(10 * SECOND)
    window = line.flow.window
    line.flow.leave(full)
    line.add(bytes_per_second=2_000)
    line.run(60 * SECOND)
    assert line.flow.window > 0.5 * window


def test_a_log_that_ends_leaves_its_room_to_others():
    line = Line(125_000, 100 * MS)
    one, other = line.add(), line.add()
    line.run(SECOND)
    line.flow.leave(one)
    assert line.flow.in_flight == other.bytes
    assert line.run(10 * SECOND) > 0.5 * line.rate


def test_a_read_under_way_counts_and_a_single_batch_may_always_go():
    now = [0]
    flow = LinkFlow(lambda: now[0])
    one, other = Flight(Reader(">", 50 * KIB, 1)), Flight(Reader(">", 0, 0))
    flow.join(one)
    flow.join(other)
    one.reader.reading = 7
    assert flow.room(other) == limits.LINK_FIRST_BYTES - 50 * KIB
    one.reader.reading = 0
    flow.on_sent(one, (1, 1), 2 * MIB, 2 * MIB)
    assert flow.room(other) == 0
    flow.on_stored(one, (1, 1))
    assert flow.room(other) > 0
