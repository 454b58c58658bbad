"""Groups on a full disk: what is given up waits for room, and little is written meanwhile."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import RetentionPlanned, StorageMeasured
from meshmq.core.log import TrimEntry
from meshmq.names import dead_letters_of, lane_of
from tests.core.groups import GroupBench

MIB = limits.MIB
RESERVE = 16 * MIB
LOW = RESERVE  # nothing above the reserve
AMPLE = 4 * RESERVE


class FullBench(GroupBench):
    """A node hears how much room the disk has before its first turn, as from the disk thread."""

    free = AMPLE

    def tell_time(self):
        super().tell_time()
        self.perform(self.node.handle(StorageMeasured(self.free, RESERVE), self.now_ns))


@pytest.fixture
def bench():
    bench = FullBench()
    bench.join()
    bench.done("group.create", group="g", kind="queue", max_deliveries=2)
    bench.put(lane_of("g"), b"a", b"b", b"c")
    bench.consume("g", kind="queue")
    return bench


def measure(bench, free):
    bench.free = free
    bench.handle(StorageMeasured(free, RESERVE))
    bench.settle_down()


def numbers(bench):
    shown = bench.show("g")
    return {name: shown[name] for name in ("records", "dead", "ready", "in_flight", "buried")}


def test_rejected_records_wait_for_room(bench):
    a, b, c = bench.got()
    measure(bench, LOW)
    bench.reject(a, "no good")
    bench.ack(b)
    bench.settle_down()
    assert numbers(bench) == {"records": 2, "dead": 0, "ready": 0, "in_flight": 1, "buried": 0}
    bench.give_back(c)
    bench.wait(10 * limits.SECOND)
    assert [value for value, *_ in bench.got()] == [b"c"], "what was rejected comes to nobody"
    measure(bench, AMPLE)
    assert numbers(bench) == {"records": 1, "dead": 1, "ready": 0, "in_flight": 1, "buried": 1}


def test_they_wait_over_a_restart(bench):
    measure(bench, LOW)
    for item in bench.got():
        bench.reject(item, "no good")
    bench.crash()
    bench.join()
    bench.consume("g", kind="queue")
    bench.wait(5 * limits.SECOND)
    assert bench.values() == []
    assert numbers(bench)["records"] == 3
    measure(bench, AMPLE)
    assert numbers(bench) == {"records": 0, "dead": 3, "ready": 0, "in_flight": 0, "buried": 3}


def test_dead_letters_that_are_put_back_wait_for_room(bench):
    for item in bench.got():
        bench.reject(item)
    bench.settle_down()
    measure(bench, LOW)
    assert bench.done("dlq.replay", group="g") == {"replaying": 3}
    bench.wait(5 * limits.SECOND)
    assert bench.values() == []
    assert numbers(bench)["dead"] == 3
    measure(bench, AMPLE)
    assert sorted(bench.values()) == [b"a", b"b", b"c"]
    assert numbers(bench)["dead"] == 0


def test_copies_take_no_more_than_there_is(bench):
    """Room for one copy of three: the others go on when there is more, and nothing spins."""
    bench.ack(*bench.got())
    for _ in range(3):
        bench.put(lane_of("g"), b"y" * 300_000)
    measure(bench, LOW)
    for item in bench.got():
        bench.reject(item)
    assert dead_letters_of("g") not in bench.disk.state.topics
    measure(bench, RESERVE + 400_000)
    # A real disk is measured with each commit: this one is as it was, until it is said.
    measure(bench, RESERVE + 100_000)
    assert bench.node.admission.waiting_bytes == 0
    first = bench.disk.state.topics[dead_letters_of("g")].next_offset
    assert first > 0
    measure(bench, AMPLE)
    assert numbers(bench)["dead"] == 3


def test_reasons_are_cut_and_nothing_is_handed_out_at_the_end_of_the_reserve(bench):
    a, b, _ = bench.got()
    measure(bench, LOW)
    bench.nack(a, delay_s=1, reason="E" * 1000)
    (mark,) = bench.node.groups.by_name["g"].state.marks.values()
    assert mark.reason == "E" * limits.REASON_CHARACTERS_LOW
    measure(bench, RESERVE // 4 - 1)
    bench.ack(b)  # goes on
    bench.put(lane_of("g"), b"d")
    bench.wait(5 * limits.SECOND)
    assert bench.values() == []
    measure(bench, RESERVE // 4 + 1)  # a little more than just enough is wanted
    assert bench.values() == []
    measure(bench, RESERVE // 2)
    assert b"a" in bench.values()


def test_acks_alone_need_no_room(bench):
    a, b, _ = bench.got()
    measure(bench, LOW)
    assert bench.transact(1, [b], [("t", b"x")]).code == "transaction-failed"
    assert bench.transact(2, [a], []).code == ""


def test_what_is_done_is_given_back_in_small_steps(bench):
    a, *_ = bench.got()
    bench.ack(a)
    bench.handle(RetentionPlanned(()))
    assert not bench.appends
    bench.settle_down()
    measure(bench, LOW)
    bench.handle(RetentionPlanned(()))
    trims = [e for append in bench.appends for e in append.entries if type(e) is TrimEntry]
    assert [trim.first_offset for trim in trims] == [1]
