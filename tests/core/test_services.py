"""The node's side of requests: who gets what, when, and what the requester hears."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import FrameReceived
from meshmq.frames import (
    EACH,
    ONE,
    RETURNED,
    STREAM,
    Cancel,
    Envelope,
    Grant,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
    Serve,
    Served,
    Unserve,
)
from meshmq.limits import MIB, MS, SECOND
from tests.core.nodes import NodeBench, hello

ASKER, FIRST, SECOND_ONE, THIRD = b"asker", b"one", b"two", b"three"


class Bench(NodeBench):
    """A node that has been up for a while, with short words for requests."""

    def __init__(self):
        super().__init__()
        self.wait(0)
        self.wait(2 * limits.STARTED_NS)
        self.last = 0
        self.known = set()
        for i, link in enumerate((ASKER, FIRST, SECOND_ONE, THIRD)):
            producer = bytes([i]) * 16
            self.connect(link, greeting=hello(producer, producer, name=link.decode()))

    def serve(self, link, service="s", concurrency=1, registration=1):
        self.send(Serve(registration, service, concurrency), link)
        (answer,) = self.take(link, Served)
        return answer

    def ask(self, value=b"v", service="s", kind=ONE, timeout=SECOND, link=ASKER, **more):
        self.last += 1
        given = {"idempotent": False, "window": 0, "headers": b"", **more}
        row = RequestRow(
            self.last, 0, service, timeout, kind, given["idempotent"], given["window"],
            given["headers"], len(value),
        )  # fmt: skip
        self.send(Request((row,), value), link)
        return self.last

    def came(self, link):
        """Requests that came over ``link``: rows with their values; what is sent again, once."""
        found = []
        for frame in self.take(link, Request):
            at = 0
            for row in frame.rows:
                if (link, row.id) not in self.known:
                    found.append((row, frame.payload[at : at + row.length]))
                self.known.add((link, row.id))
                at += row.length
        return found

    def values(self, link):
        return [value for _, value in self.came(link)]

    def answer(self, link, row, value=b"r", **more):
        given = {"has_value": True, "end": True, "length": len(value), **more}
        self.send(Reply((ReplyRow(row.id, **given),), value), link)

    def heard(self, link=ASKER):
        """(id, value or code, end, instance) of each reply that came."""
        found = []
        for frame in self.take(link, Reply):
            at = 0
            for row in frame.rows:
                value = frame.payload[at : at + row.length]
                at += row.length
                found.append((row.id, row.code or value, row.end, row.instance))
        return found

    @property
    def is_idle(self):
        services = self.node.services
        return not services._asked and not services._bytes and not services._backlog


@pytest.fixture
def bench():
    return Bench()


# -- one reply ------------------------------------------------------------------------------------


def test_a_request_reaches_the_instance_and_its_reply_the_requester(bench):
    assert bench.serve(FIRST) == Served(1)
    asked = bench.ask(b"q", headers=b"h")
    ((row, value),) = bench.came(FIRST)
    assert (row.registration, value, row.headers, row.service) == (1, b"q", b"h", "")
    assert row.remaining_ns == SECOND
    bench.answer(FIRST, row, b"a")
    assert bench.heard() == [(asked, b"a", True, "one")]
    assert bench.is_idle


def test_nobody_serves_is_told_at_once(bench):
    asked = bench.ask()
    assert bench.heard() == [(asked, "no-responders", True, "")]
    assert bench.node.services.no_responders == 1
    assert bench.is_idle


def test_in_the_first_second_of_a_node_instances_may_be_on_their_way_back():
    bench = Bench()
    bench.start()
    bench.wait(0)
    for link in (ASKER, FIRST):
        bench.connect(link, greeting=hello(link.ljust(16), link.ljust(16)))
    early, other = bench.ask(), bench.ask(service="other")
    assert bench.heard() == []
    bench.serve(FIRST)
    assert bench.values(FIRST) == [b"v"]
    assert bench.node.next_deadline_ns() <= bench.now_ns + limits.STARTED_NS
    bench.wait(limits.STARTED_NS)
    assert bench.heard() == [
        (early, "deadline-exceeded", True, ""), (other, "deadline-exceeded", True, "")
    ]  # fmt: skip
    patient = bench.ask(service="other", timeout=5 * SECOND)
    assert bench.heard() == [(patient, "no-responders", True, "")]


def test_who_waits_for_nobody_is_told_when_the_first_second_is_over():
    bench = Bench()
    bench.start()
    bench.wait(0)
    bench.connect(ASKER, greeting=hello())
    asked = bench.ask(timeout=60 * SECOND)
    bench.wait(limits.STARTED_NS)
    assert bench.heard() == [(asked, "no-responders", True, "")]
    assert bench.is_idle
    assert bench.node.services.by_name == {}


def test_the_least_busy_instance_gets_it_in_turn_among_equals(bench):
    for link in (FIRST, SECOND_ONE, THIRD):
        bench.serve(link, concurrency=3)
    for i in range(6):
        bench.ask(b"%d" % i)
    rows = {link: bench.came(link) for link in (FIRST, SECOND_ONE, THIRD)}
    assert [[v for _, v in got] for got in rows.values()] == [
        [b"0", b"3"], [b"1", b"4"], [b"2", b"5"]
    ]  # fmt: skip
    bench.answer(SECOND_ONE, rows[SECOND_ONE][0][0])
    bench.ask(b"6")
    assert bench.values(SECOND_ONE) == [b"6"]


def test_without_room_it_waits_and_goes_in_order(bench):
    bench.serve(FIRST)
    for i in range(3):
        bench.ask(b"%d" % i)
    for i in range(3):
        ((row, value),) = bench.came(FIRST)
        assert value == b"%d" % i
        bench.answer(FIRST, row)
    assert len(bench.heard()) == 3
    assert bench.is_idle


def test_an_instance_that_comes_takes_what_waits(bench):
    bench.serve(FIRST)
    bench.ask(b"0")
    bench.ask(b"1")
    bench.serve(SECOND_ONE)
    assert bench.values(SECOND_ONE) == [b"1"]


def test_an_instance_has_no_more_than_so_many_bytes(bench):
    bench.serve(FIRST, concurrency=1000)
    for _ in range(20):
        bench.ask(bytes(MIB), timeout=60 * SECOND)
    got = bench.came(FIRST)
    assert len(got) == 16
    bench.answer(FIRST, got[0][0])
    assert len(bench.came(FIRST)) == 1


def test_requests_of_one_turn_travel_together(bench):
    bench.serve(FIRST, concurrency=5)
    rows = [RequestRow(100 + i, 0, "s", SECOND, ONE, False, 0, b"", 1) for i in range(3)]
    bench.send(Request(tuple(rows), b"abc"), ASKER)
    (frame,) = bench.take(FIRST, Request)
    assert (len(frame.rows), frame.payload) == (3, b"abc")
    answers = tuple(ReplyRow(row.id, True, True, length=1) for row in frame.rows)
    bench.send(Reply(answers, b"xyz"), FIRST)
    (reply,) = bench.take(ASKER, Reply)
    assert [row.id for row in reply.rows] == [100, 101, 102]
    assert reply.payload == b"xyz"


@pytest.mark.parametrize(
    ("serve", "code"),
    [
        (Serve(1, "a..b", 1), "invalid-name"),
        (Serve(1, "$mine", 1), "invalid-name"),
        (Serve(1, "s", 0), "invalid-argument"),
        (Serve(1, "s", limits.CONCURRENCY_MAX + 1), "invalid-argument"),
    ],
)
def test_what_cannot_be_served_is_refused(bench, serve, code):
    bench.send(serve, FIRST)
    (answer,) = bench.take(FIRST, Served)
    assert answer.code == code
    assert bench.node.services.by_name == {}


def test_one_program_serves_so_many_times(bench):
    for i in range(limits.SERVICES_PER_SESSION_MAX):
        assert bench.serve(FIRST, registration=i).code == ""
    assert bench.serve(FIRST, registration=i + 1).code == "limit"
    assert bench.serve(FIRST, registration=0).code == "invalid-argument"
    assert bench.serve(SECOND_ONE, registration=0).code == ""


# -- deadlines and cancelling -----------------------------------------------------------------


def test_at_its_deadline_the_requester_is_told_and_the_instance_stopped(bench):
    bench.serve(FIRST)
    asked = bench.ask()
    ((row, _),) = bench.came(FIRST)
    assert bench.node.next_deadline_ns() <= bench.now_ns + SECOND
    bench.wait(SECOND)
    assert bench.heard() == [(asked, "deadline-exceeded", True, "")]
    assert bench.take(FIRST, Cancel) == [Cancel((row.id,))]
    # Its place is not free before it says so.
    bench.ask(b"next")
    assert bench.came(FIRST) == []
    bench.answer(FIRST, row, b"late")
    assert bench.values(FIRST) == [b"next"]
    assert bench.heard() == []
    assert bench.node.services.late == 1


def test_what_waited_too_long_is_never_handed_out(bench):
    bench.serve(FIRST)
    bench.ask(timeout=10 * SECOND)
    ((busy, _),) = bench.came(FIRST)
    asked = bench.ask(timeout=SECOND)
    bench.now_ns += SECOND  # the timer has not fired yet
    bench.answer(FIRST, busy)
    assert bench.came(FIRST) == []
    assert (asked, "deadline-exceeded", True, "") in bench.heard()
    assert bench.is_idle


def test_the_rest_of_the_time_travels(bench):
    bench.serve(FIRST)
    bench.ask()
    ((row, _),) = bench.came(FIRST)
    bench.ask()
    bench.wait(400 * MS)
    bench.answer(FIRST, row)
    assert bench.came(FIRST)[0][0].remaining_ns == 600 * MS


def test_cancelling_reaches_who_works_on_it(bench):
    bench.serve(FIRST)
    asked, waiting = bench.ask(), bench.ask(b"w")
    ((row, _),) = bench.came(FIRST)
    bench.send(Cancel((asked, waiting, 999)), ASKER)
    assert bench.take(FIRST, Cancel) == [Cancel((row.id,))]
    bench.send(Reply((ReplyRow(row.id, False, True),), b""), FIRST)
    assert bench.heard() == []
    assert bench.came(FIRST) == []
    assert bench.is_idle


def test_a_requester_that_goes_cancels_what_it_asked(bench):
    bench.serve(FIRST, concurrency=2)
    bench.ask()
    ((row, _),) = bench.came(FIRST)
    bench.lose(ASKER)
    assert bench.take(FIRST, Cancel) == [Cancel((row.id,))]
    bench.answer(FIRST, row)
    assert bench.is_idle


# -- instances that go --------------------------------------------------------------------------


def test_what_a_lost_instance_had_is_lost_unless_it_is_idempotent(bench):
    bench.serve(FIRST, concurrency=2)
    once, again = bench.ask(b"once"), bench.ask(b"again", idempotent=True)
    bench.serve(SECOND_ONE)
    bench.lose(FIRST)
    assert bench.heard() == [(once, "instance-lost", True, "")]
    ((row, value),) = bench.came(SECOND_ONE)
    assert value == b"again"
    bench.answer(SECOND_ONE, row)
    assert bench.heard() == [(again, b"r", True, "two")]
    assert bench.is_idle


def test_what_waits_goes_on_to_others_whatever_it_is(bench):
    bench.serve(FIRST)
    lost, waiting = bench.ask(b"0"), bench.ask(b"1")
    bench.serve(SECOND_ONE, concurrency=1)
    bench.ask(b"2")
    assert bench.values(SECOND_ONE) == [b"1"]
    bench.lose(FIRST)
    assert bench.heard() == [(lost, "instance-lost", True, "")]
    assert waiting


def test_the_last_instance_takes_the_hope_of_those_who_wait(bench):
    bench.serve(FIRST)
    lost, waiting, again = bench.ask(), bench.ask(), bench.ask(idempotent=True)
    bench.lose(FIRST)
    assert bench.heard() == [
        (lost, "instance-lost", True, ""), (waiting, "no-responders", True, ""),
        (again, "no-responders", True, ""),
    ]  # fmt: skip
    assert bench.is_idle


def test_an_idempotent_request_does_not_take_one_instance_after_the_other(bench):
    links = [FIRST, SECOND_ONE, THIRD]
    for link in links:
        bench.serve(link)
    asked = bench.ask(idempotent=True, timeout=60 * SECOND)
    for _ in range(limits.REQUEST_ATTEMPTS_MAX):
        (link,) = [link for link in links if bench.came(link)]
        bench.lose(link)
        bench.connect(link, greeting=hello(link.ljust(16), link.ljust(16)))
        bench.serve(link)
    assert bench.heard() == [(asked, "instance-lost", True, "")]
    assert bench.is_idle


def test_an_instance_that_stops_gives_back_what_it_has_not_begun(bench):
    bench.serve(FIRST, concurrency=2)
    first, second = bench.ask(b"1"), bench.ask(b"2")
    (one, _), (two, _) = bench.came(FIRST)
    bench.serve(SECOND_ONE)
    bench.send(Unserve(1), FIRST)
    assert bench.take(FIRST, Served) == [Served(1, ended=True)]
    bench.send(Reply((ReplyRow(two.id, False, True, RETURNED),), b""), FIRST)
    ((row, value),) = bench.came(SECOND_ONE)
    assert value == b"2"
    bench.answer(FIRST, one, b"done")
    bench.answer(SECOND_ONE, row)
    assert [h[:2] for h in bench.heard()] == [(first, b"done"), (second, b"r")]
    bench.ask(b"3")
    assert bench.came(FIRST) == []
    assert len(bench.node.services.by_name["s"].instances) == 1


def test_the_last_one_that_stops_leaves_nobody(bench):
    bench.serve(FIRST)
    one, two = bench.ask(b"1"), bench.ask(b"2")
    ((row, _),) = bench.came(FIRST)
    bench.send(Unserve(1), FIRST)
    assert bench.heard() == [(two, "no-responders", True, "")]
    bench.answer(FIRST, row)
    assert bench.heard() == [(one, b"r", True, "one")]
    assert bench.node.services.by_name == {}


def test_who_gives_back_without_having_stopped_gets_nothing_more(bench):
    bench.serve(FIRST)
    asked = bench.ask()
    ((row, _),) = bench.came(FIRST)
    bench.send(Reply((ReplyRow(row.id, False, True, RETURNED),), b""), FIRST)
    assert bench.came(FIRST) == []
    assert bench.heard() == [(asked, "no-responders", True, "")]


def test_what_was_lost_once_and_then_found_nobody_is_lost(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask(idempotent=True)
    bench.came(FIRST)
    bench.lose(FIRST)
    ((row, _),) = bench.came(SECOND_ONE)
    bench.send(Reply((ReplyRow(row.id, False, True, RETURNED),), b""), SECOND_ONE)
    assert bench.heard() == [(asked, "instance-lost", True, "")]


def test_who_gives_back_before_it_stops_makes_room_for_who_waits_for_it(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask()
    ((row, _),) = bench.came(FIRST)
    each = bench.ask(kind=EACH)
    ((other, _),) = bench.came(SECOND_ONE)
    bench.send(Reply((ReplyRow(row.id, False, True, RETURNED),), b""), FIRST)
    assert bench.heard() == [(each, "no-responders", False, "one")]
    bench.answer(SECOND_ONE, other)
    assert bench.heard() == [(each, b"r", False, "two"), (each, b"", True, "")]
    ((again, _),) = bench.came(SECOND_ONE)
    bench.answer(SECOND_ONE, again)
    assert bench.heard() == [(asked, b"r", True, "two")]


def test_what_is_handed_out_goes_before_the_answer_to_unserve(bench):
    bench.serve(SECOND_ONE, service="t")
    row = RequestRow(1, 0, "t", SECOND, ONE, False, 0, b"", 1)
    node, now = bench.node, bench.now_ns
    for link, body in ((ASKER, Request((row,), b"v")), (SECOND_ONE, Unserve(1))):
        bench.sequences[link, 7] += 1
        envelope = Envelope(7, bench.sequences[link, 7], 0, body)
        bench.perform(node.handle(FrameReceived(link, envelope), now))
    bench.perform(node.end_turn(now))
    kinds = [type(body) for body in bench.take(SECOND_ONE)]
    assert kinds.index(Request) < kinds.index(Served)


# -- one of each ----------------------------------------------------------------------------------


def test_each_instance_is_asked_once_and_the_end_comes_behind_all(bench):
    for link in (FIRST, SECOND_ONE):
        bench.serve(link)
    asked = bench.ask(kind=EACH)
    rows = {link: bench.came(link)[0][0] for link in (FIRST, SECOND_ONE)}
    assert rows[FIRST].kind == ONE
    bench.answer(SECOND_ONE, rows[SECOND_ONE], b"2")
    assert bench.heard() == [(asked, b"2", False, "two")]
    bench.answer(FIRST, rows[FIRST], b"", has_value=False, code="service-error", detail="x")
    assert bench.heard() == [(asked, "service-error", False, "one"), (asked, b"", True, "")]
    assert bench.is_idle


def test_each_waits_for_the_room_of_its_instance(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    bench.ask(b"busy")
    ((busy, _),) = bench.came(FIRST)
    bench.ask(b"all", kind=EACH)
    assert bench.values(SECOND_ONE) == [b"all"]
    assert bench.came(FIRST) == []
    bench.answer(FIRST, busy)
    assert bench.values(FIRST) == [b"all"]


def test_of_each_a_lost_instance_is_told_by_name(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask(kind=EACH)
    ((row, _),) = bench.came(FIRST)
    bench.lose(SECOND_ONE)
    assert bench.heard() == [(asked, "instance-lost", False, "two")]
    bench.answer(FIRST, row)
    assert bench.heard() == [(asked, b"r", False, "one"), (asked, b"", True, "")]
    assert bench.is_idle


def test_each_ends_at_its_deadline_and_when_it_is_cancelled(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=EACH)
    ((row, _),) = bench.came(FIRST)
    waiting = bench.ask(kind=EACH, timeout=500 * MS)
    bench.wait(500 * MS)
    assert bench.heard() == [(waiting, "deadline-exceeded", True, "")]
    bench.send(Cancel((asked,)), ASKER)
    assert bench.take(FIRST, Cancel) == [Cancel((row.id,))]
    bench.answer(FIRST, row)
    assert bench.heard() == []
    assert bench.is_idle


# -- streams --------------------------------------------------------------------------------------


def test_a_stream_passes_and_its_credit_too(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=STREAM, window=10)
    ((row, _),) = bench.came(FIRST)
    assert (row.kind, row.window) == (STREAM, 10)
    bench.answer(FIRST, row, b"a", end=False)
    bench.send(Grant(asked, 5), ASKER)
    assert bench.take(FIRST, Grant) == [Grant(row.id, 5)]
    bench.answer(FIRST, row, b"b", end=False)
    bench.send(Reply((ReplyRow(row.id, False, True),), b""), FIRST)
    assert [h[1:3] for h in bench.heard()] == [(b"a", False), (b"b", False), (b"", True)]
    assert bench.is_idle


def test_credit_for_a_stream_that_waits_is_kept(bench):
    bench.serve(FIRST)
    bench.ask(b"busy")
    ((busy, _),) = bench.came(FIRST)
    asked = bench.ask(kind=STREAM, window=10)
    bench.send(Grant(asked, 5), ASKER)
    bench.answer(FIRST, busy)
    assert bench.came(FIRST)[0][0].window == 15


def test_a_stream_that_has_begun_is_lost_with_its_instance(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask(kind=STREAM, idempotent=True, window=10)
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row, b"a", end=False)
    bench.lose(FIRST)
    assert [h[1:3] for h in bench.heard()] == [(b"a", False), ("instance-lost", True)]
    assert bench.came(SECOND_ONE) == []
    assert asked


# -- bounds ---------------------------------------------------------------------------------------


def test_what_waits_is_bounded_for_all(bench):
    bench.serve(FIRST)
    asked = [bench.ask(bytes(MIB), timeout=60 * SECOND) for _ in range(64)]
    (busy,) = bench.heard()
    assert busy[:2] == (asked[-1], "busy")
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row)
    bench.heard()
    bench.ask(bytes(MIB // 2))
    assert bench.heard() == []


def test_one_program_has_so_many_under_way(bench, monkeypatch):
    monkeypatch.setattr(limits, "REQUESTS_PER_SESSION_MAX", 2)
    bench.serve(FIRST)
    bench.ask()
    bench.ask()
    third = bench.ask()
    assert bench.heard() == [(third, "limit", True, "")]


def test_a_number_that_is_under_way_is_refused(bench):
    bench.serve(FIRST, concurrency=2)
    asked = bench.ask()
    bench.last -= 1
    bench.ask()
    assert bench.heard() == [(asked, "invalid-argument", True, "")]


def test_replies_wait_for_a_requester_that_is_behind_up_to_a_bound(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLY_BACKLOGS_BYTES_MAX", 3 * MIB)
    bench.serve(FIRST, concurrency=100)
    for _ in range(22):
        bench.ask()
    for row, _ in bench.came(FIRST):  # none of them is acknowledged by the requester
        bench.answer(FIRST, row, bytes(MIB))
    heard = bench.heard()
    assert [len(h[1]) for h in heard] == [MIB] * 17
    assert bench.node.services.dropped == 2
    assert not bench.is_idle
    bench.lose(ASKER)
    assert bench.is_idle


def test_deadlines_of_requests_that_are_over_are_forgotten(bench):
    bench.serve(FIRST)
    for _ in range(5000):
        bench.ask(timeout=3600 * SECOND)
        ((row, _),) = bench.came(FIRST)
        bench.answer(FIRST, row)
    assert len(bench.node.services._deadlines) < 2000


def test_a_reply_to_what_another_has_counts_for_nothing(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask()
    ((row, _),) = bench.came(FIRST)
    bench.answer(SECOND_ONE, row, b"forged")
    bench.answer(ASKER, row, b"forged")
    assert bench.heard() == []
    bench.answer(FIRST, row)
    assert bench.heard() == [(asked, b"r", True, "one")]
    assert bench.node.services.late == 2


# -- listings -------------------------------------------------------------------------------------


def test_the_listing_shows_instances_load_and_latency(bench):
    bench.serve(FIRST, concurrency=2)
    bench.ask()
    ((row, _),) = bench.came(FIRST)
    bench.wait(10 * MS)
    bench.answer(FIRST, row)
    bench.ask()
    code, _, body = bench.command("service.list", ASKER, pattern=">")
    ((service),) = body["services"]
    assert code == ""
    assert (service["service"], service["requests"], service["waiting"]) == ("s", 2, 0)
    (instance,) = service["instances"]
    assert instance == {
        "client": "one", "concurrency": 2, "in_flight": 1, "served": 1, "failed": 0,
        "p50_us": 10_240, "p99_us": 10_240, "state": "serving",
    }  # fmt: skip
    assert bench.command("service.list", ASKER, pattern="other")[2] == {"services": []}
