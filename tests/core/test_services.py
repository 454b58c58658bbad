"""The node's side of requests: who gets what, when, and what the requester hears."""

from __future__ import annotations

import pytest

from meshmq import codec, limits
from meshmq.core import outgoing
from meshmq.core.events import FrameReceived
from meshmq.frames import (
    EACH,
    ONE,
    RETURNED,
    STREAM,
    Cancel,
    Envelope,
    Grant,
    Nothing,
    Refuse,
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
    """A node that has been up for a while, with short words for requests.

    Attributes:
        deaf: links that acknowledge nothing; others do with whatever they send.
    """

    def __init__(self):
        super().__init__()
        self.deaf = set()
        self.wait(0)
        self.wait(2 * limits.STARTED_NS)
        self.last = 0
        self.known = set()
        for i, link in enumerate((ASKER, FIRST, SECOND_ONE, THIRD)):
            producer = bytes([i]) * 16
            self.connect(link, greeting=hello(producer, producer, name=link.decode()))

    def send(self, body, link, session=7):
        self.sequences[link, session] += 1
        self.handle(FrameReceived(link, self.envelope(body, link, self.sequences[link, session])))

    def envelope(self, body, link, sequence):
        peer = self.node.peers.get(link)
        ack = peer.session.sent if peer is not None and link not in self.deaf else 0
        return Envelope(7, sequence, ack, body)

    def acknowledge(self, link):
        """Acknowledge all that came, from now on too."""
        self.deaf.discard(link)
        self.handle(FrameReceived(link, self.envelope(Nothing(), link, 0)))

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

    def told(self, link=ASKER):
        """The text of each reply that came."""
        return [row.message for frame in self.take(link, Reply) for row in frame.rows]

    @property
    def is_idle(self):
        services = self.node.services
        outgoing = services.outgoing
        kept = services._asked or services._bytes or services._shares or services._stuck
        return not (kept or outgoing.backlog or outgoing.boxes)


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
    for i in range(20):
        bench.ask(bytes(MIB), timeout=60 * SECOND, link=(ASKER, SECOND_ONE)[i % 2])
        bench.acknowledge(FIRST)
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
    assert "topic" not in answer.message
    assert bench.node.services.by_name == {}


def test_one_program_serves_so_many_times(bench):
    for i in range(limits.SERVICES_PER_SESSION_MAX):
        assert bench.serve(FIRST, registration=i).code == ""
    assert bench.serve(FIRST, registration=i + 1).code == "limit"
    assert bench.serve(FIRST, registration=0).code == "invalid-argument"
    assert bench.serve(SECOND_ONE, registration=0).code == ""


def test_nobody_walks_over_all_instances_for_one_request(bench):
    for i in range(3):
        bench.serve(FIRST, registration=i)
    service = bench.node.services.by_name["s"]

    class Unwalked(dict):
        def __iter__(self):
            raise AssertionError("somebody walks over all instances")

        values = items = __iter__

    service.instances = Unwalked(service.instances)
    bench.ask()
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row)
    assert [h[1] for h in bench.heard()] == [b"r"]


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
    bench.ask(b"3")
    (late,) = bench.told()
    assert late.startswith("nobody serves 's' any more: its last instance takes nothing new")
    bench.answer(FIRST, row)
    assert bench.heard() == [(one, b"r", True, "one")]
    assert bench.node.services.by_name == {}
    bench.ask(b"4")
    (never,) = bench.told()
    assert never.startswith("nobody serves 's': start a program that does, or look for the name")


def test_who_is_told_that_its_instance_is_lost_is_told_what_helps_if_that_does(bench):
    for more, is_helped in (({}, True), ({"idempotent": True}, False), ({"kind": EACH}, False)):
        bench.connect(FIRST)
        bench.serve(FIRST)
        bench.ask(**more)
        bench.lose(FIRST)
        told = bench.told()[0]
        assert told.startswith("the instance of 's' that had the request went away")
        assert ("idempotent=True" in told) == is_helped


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


def test_of_each_the_value_is_counted_once_and_every_part_costs_something(bench):
    for link in (FIRST, SECOND_ONE, THIRD):
        for i in range(100):
            bench.serve(link, registration=i)
    bench.ask(bytes(MIB), kind=EACH)
    held = bench.node.services.held_bytes()
    assert held == MIB + 301 * limits.REQUEST_OVERHEAD_BYTES
    for link in (FIRST, SECOND_ONE, THIRD):
        rounds = []
        while rows := bench.came(link):
            rounds.append(len(rows))
            for row, _ in rows:
                bench.answer(link, row)
        assert sum(rounds) == 100
        assert rounds[0] == 16  # over a link it is a value for each
    assert bench.is_idle
    first = bench.node.services.by_name["s"].instances[FIRST, 0]
    assert first.held_bytes == 0


def test_each_to_more_instances_than_its_share_holds_is_refused(bench, monkeypatch):
    monkeypatch.setattr(limits, "REQUESTS_SHARE_BYTES_MAX", 20 * limits.REQUEST_OVERHEAD_BYTES)
    for i in range(18):
        bench.serve(FIRST, registration=i)
    asked = bench.ask(b"", kind=EACH)
    assert bench.heard() == []
    more = bench.ask(b"", kind=EACH)
    assert bench.heard() == [(more, "busy", True, "")]
    assert len(bench.came(FIRST)) == 18
    assert asked


def test_each_waits_while_instances_may_be_on_their_way_back():
    bench = Bench()
    bench.start()
    bench.wait(0)
    for link in (ASKER, FIRST, SECOND_ONE):
        bench.connect(link, greeting=hello(link.ljust(16), link.ljust(16), name=link.decode()))
    bench.serve(FIRST)
    asked = bench.ask(kind=EACH, timeout=5 * SECOND)
    nobody = bench.ask(kind=EACH, timeout=5 * SECOND, service="nobody")
    hasty = bench.ask(kind=EACH, timeout=limits.STARTED_NS // 2, service="nobody")
    gone = bench.ask(kind=EACH, timeout=5 * SECOND, service="gone")
    bench.send(Cancel((gone,)), ASKER)
    assert bench.came(FIRST) == []
    assert [s["waiting"] for s in bench.node.services.describe(bench.now_ns)] == [2, 1]
    bench.wait(limits.STARTED_NS // 2)
    assert bench.heard() == [(hasty, "deadline-exceeded", True, "")]
    bench.serve(SECOND_ONE)
    assert bench.node.next_deadline_ns() <= bench.now_ns + limits.STARTED_NS // 2
    bench.wait(limits.STARTED_NS // 2)
    assert bench.heard() == [(nobody, "no-responders", True, "")]
    for link in (FIRST, SECOND_ONE):
        ((row, _),) = bench.came(link)
        bench.answer(link, row)
    assert [h[1:] for h in bench.heard()] == [
        (b"r", False, "one"), (b"r", False, "two"), (b"", True, "")
    ]  # fmt: skip
    assert asked
    assert bench.is_idle


def test_who_waits_for_instances_to_come_back_is_found_by_those():
    bench = Bench()
    bench.start()
    bench.wait(0)
    for link in (ASKER, FIRST):
        bench.connect(link, greeting=hello(link.ljust(16), link.ljust(16), name=link.decode()))
    bench.ask(b"each", kind=EACH, timeout=5 * SECOND)
    bench.send(Cancel((bench.ask(),)), ASKER)  # and then nobody else wants the service
    bench.serve(FIRST)
    bench.wait(limits.STARTED_NS)
    assert bench.values(FIRST) == [b"each"]


def test_each_waits_for_no_more_than_half_of_its_time():
    bench = Bench()
    bench.start()
    bench.wait(0)
    for link in (ASKER, FIRST):
        bench.connect(link, greeting=hello(link.ljust(16), link.ljust(16), name=link.decode()))
    bench.serve(FIRST)
    asked = bench.ask(kind=EACH, timeout=limits.STARTED_NS // 2)
    bench.ask(b"t", kind=EACH, timeout=3 * limits.STARTED_NS // 2, service="t")
    assert bench.node.next_deadline_ns() <= bench.now_ns + limits.STARTED_NS // 4
    bench.wait(limits.STARTED_NS // 4)
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row)
    assert [h[:2] for h in bench.heard()] == [(asked, b"r"), (asked, b"")]
    bench.wait(limits.STARTED_NS // 2)  # half of the other's is over, and nobody is there
    bench.serve(FIRST, "t", registration=2)
    assert bench.came(FIRST) == []
    bench.wait(limits.STARTED_NS // 4)
    assert bench.values(FIRST) == [b"t"]


# -- streams --------------------------------------------------------------------------------------


def test_a_stream_passes_and_its_credit_too(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=STREAM, window=100)
    ((row, _),) = bench.came(FIRST)
    assert (row.kind, row.window) == (STREAM, 100)
    bench.answer(FIRST, row, b"a", end=False)
    bench.send(Grant(asked, 5), ASKER)
    assert bench.take(FIRST, Grant) == [Grant(row.id, 5)]
    bench.answer(FIRST, row, b"b", end=False)
    bench.send(Reply((ReplyRow(row.id, False, True),), b""), FIRST)
    assert [h[1:3] for h in bench.heard()] == [(b"a", False), (b"b", False), (b"", True)]
    assert bench.is_idle


def test_a_stream_that_is_given_back_has_its_whole_window(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    bench.ask(kind=STREAM, window=10)
    ((row, _),) = bench.came(FIRST)
    bench.send(Reply((ReplyRow(row.id, False, True, RETURNED),), b""), FIRST)
    assert bench.came(SECOND_ONE)[0][0].window == 10


def test_credit_for_a_stream_that_waits_is_kept(bench):
    bench.serve(FIRST)
    bench.ask(b"busy")
    ((busy, _),) = bench.came(FIRST)
    asked = bench.ask(kind=STREAM, window=10)
    bench.send(Grant(asked, 5), ASKER)
    bench.answer(FIRST, busy)
    assert bench.came(FIRST)[0][0].window == 15


def test_credit_that_a_new_hand_out_counts_is_not_sent_behind_it():
    waiting = outgoing.Outgoing(lambda link: (0, 0), lambda: False)
    waiting.grant(FIRST, 7, 5)  # for an instance that gives it back before this leaves
    row = RequestRow(7, 2, "", SECOND, STREAM, False, 15, b"", 0)  # for another of the program
    waiting.request(FIRST, row, b"")
    waiting.grant(FIRST, 7, 1)
    assert waiting.take() == [(FIRST, Request((row,), b"")), (FIRST, Grant(7, 1))]


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


def test_one_program_has_its_share_of_the_bytes_under_way(bench):
    bench.serve(FIRST)
    asked = [bench.ask(bytes(MIB), timeout=60 * SECOND) for _ in range(16)]
    ((number, code, _, _),) = bench.heard()
    assert (number, code) == (asked[-1], "busy")
    bench.ask(bytes(MIB), link=SECOND_ONE)
    assert bench.heard(SECOND_ONE) == []
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row)
    bench.heard()
    bench.ask(bytes(MIB // 2))
    assert bench.heard() == []


def test_what_waits_is_bounded_for_all(bench, monkeypatch):
    monkeypatch.setattr(limits, "REQUESTS_BYTES_MAX", 20 * MIB)
    bench.serve(FIRST)
    for _ in range(15):
        bench.ask(bytes(MIB), timeout=60 * SECOND)
    asked = [bench.ask(bytes(MIB), link=SECOND_ONE) for _ in range(5)]
    assert bench.heard() == []
    assert [h[:2] for h in bench.heard(SECOND_ONE)] == [(asked[-1], "busy")]


def test_who_cancels_pays_no_more_for_the_bytes_of_what_is_at_work(bench):
    bench.serve(FIRST, concurrency=20)
    for kind in (ONE, EACH):
        for _ in range(10):
            asked = bench.ask(bytes(MIB), kind=kind, timeout=60 * SECOND)
            bench.send(Cancel((asked,)), ASKER)
    assert bench.heard() == []
    assert len(bench.came(FIRST)) == 16
    assert 0 < bench.node.services.held_bytes() < MIB


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


# -- what a link takes ----------------------------------------------------------------------------


def answer_all(bench, count, size, link=ASKER):
    """So many requests of ``link`` are answered with so many bytes each."""
    for _ in range(count):
        bench.ask(link=link)
        ((row, _),) = bench.came(FIRST)
        bench.answer(FIRST, row, bytes(size))


def test_replies_wait_for_a_requester_that_is_behind_up_to_its_share(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLY_BACKLOG_BYTES_MAX", 3 * MIB + MIB // 2)
    bench.serve(FIRST)
    bench.deaf.add(ASKER)
    answer_all(bench, 22, MIB)
    assert [len(h[1]) for h in bench.heard()] == [MIB] * 16  # their rows weigh, too
    outgoing = bench.node.services.outgoing
    assert outgoing.dropped == 3
    assert 3 * MIB + 6 * 96 + 3 * 50 < bench.node.services.held_bytes() < 3 * MIB + 6 * 300
    answer_all(bench, 1, 1)  # the last of its share
    bench.acknowledge(ASKER)
    assert [h[1] for h in bench.heard()] == [bytes(MIB)] * 3 + ["link-lost"] * 3 + [bytes(1)]
    assert bench.is_idle


def test_another_requester_is_untouched_by_who_does_not_take_its_replies(bench):
    bench.serve(FIRST)
    bench.deaf.add(ASKER)
    answer_all(bench, 40, MIB)
    assert bench.node.services.outgoing.dropped == 9  # 16 were sent, 15 are its share
    answer_all(bench, 20, MIB, SECOND_ONE)
    assert {h[1] for h in bench.heard(SECOND_ONE)} == {bytes(MIB)}
    assert bench.node.services.outgoing.dropped == 9
    bench.lose(ASKER)
    assert bench.is_idle


def test_who_takes_not_even_what_is_told_of_its_replies_is_let_go(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLIES_UNACKED_BYTES", 1000)
    monkeypatch.setattr(limits, "REPLY_BACKLOG_BYTES_MAX", 1000)
    monkeypatch.setattr(limits, "REPLY_TOLD_BYTES_MAX", 1000)
    bench.serve(FIRST, concurrency=2)
    bench.ask()
    ((held, _),) = bench.came(FIRST)
    bench.deaf.add(ASKER)
    answer_all(bench, 13, 100)
    assert bench.closed == []
    for _ in range(10):
        bench.ask(service="nobody")
        if bench.closed:
            break
    assert bench.closed == [ASKER]
    (refusal,) = bench.take(ASKER, Refuse)
    assert refusal.code == "busy"
    assert "does not take its replies" in refusal.message
    assert bench.take(FIRST, Cancel) == [Cancel((held.id,))]
    bench.answer(FIRST, held)
    assert bench.is_idle


def test_when_all_wait_too_much_who_has_most_bears_it(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLIES_UNACKED_BYTES", -1)
    monkeypatch.setattr(limits, "REPLY_BACKLOGS_BYTES_MAX", 10 * MIB)
    monkeypatch.setattr(limits, "REPLY_BACKLOG_BYTES_MAX", 8 * MIB)
    bench.serve(FIRST)
    answer_all(bench, 6, MIB)
    answer_all(bench, 3, MIB, SECOND_ONE)
    outgoing = bench.node.services.outgoing
    answer_all(bench, 2, MIB)  # its own are dropped, for it has most
    assert (outgoing.dropped, bench.closed) == (2, [])
    answer_all(bench, 1, MIB, SECOND_ONE)
    assert (outgoing.dropped, bench.closed) == (8, [ASKER])
    assert outgoing.backlog == outgoing.boxes[SECOND_ONE].reply_bytes > 4 * MIB
    monkeypatch.setattr(limits, "REPLIES_UNACKED_BYTES", 16 * MIB)
    bench.acknowledge(SECOND_ONE)
    assert [h[1] for h in bench.heard(SECOND_ONE)] == [bytes(MIB)] * 4
    assert bench.is_idle


def test_many_that_acknowledge_nothing_together_are_sent_no_more_than_the_budget(bench):
    bench.node.sessions._unacked_max = 4 * MIB
    bench.serve(FIRST)
    links = (ASKER, SECOND_ONE, THIRD)
    bench.deaf.update(links)
    for _ in range(8):
        for link in links:
            answer_all(bench, 1, MIB, link)
    assert bench.node.sessions.unacked_bytes < 4 * MIB + 3 * 300 + MIB
    bench.connect(b"other")
    answer_all(bench, 1, MIB, b"other")  # who has acknowledged everything gets its own
    assert [h[1] for h in bench.heard(b"other")] == [bytes(MIB)]
    for link in links * 8:
        bench.acknowledge(link)
        bench.deaf.add(link)
    assert [[h[1] for h in bench.heard(link)] for link in links] == [[bytes(MIB)] * 8] * 3
    assert bench.is_idle


def test_an_instance_that_acknowledges_nothing_is_handed_little_when_others_do_so_too(bench):
    bench.node.sessions._unacked_max = 4 * MIB
    bench.deaf.update((FIRST, SECOND_ONE))
    bench.serve(FIRST, concurrency=100)
    for _ in range(5):
        bench.ask(bytes(MIB))
    bench.serve(SECOND_ONE, service="t", concurrency=100)
    for _ in range(5):
        bench.ask(bytes(40_000), service="t")
    assert [len(bench.came(link)) for link in (FIRST, SECOND_ONE)] == [5, 2]
    bench.acknowledge(SECOND_ONE)
    assert len(bench.came(SECOND_ONE)) == 2
    bench.acknowledge(SECOND_ONE)
    assert len(bench.came(SECOND_ONE)) == 1


def test_what_cannot_leave_is_not_made_up_in_each_turn(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLIES_UNACKED_BYTES", -1)
    for _ in range(100):
        bench.ask(service="nobody")
    looked = []
    size_of = outgoing._size_of
    monkeypatch.setattr(
        outgoing, "is_one_frame", lambda count, size: False
    )  # else none is looked at
    monkeypatch.setattr(outgoing, "_size_of", lambda item: looked.append(item) or size_of(item))
    bench.acknowledge(FIRST)
    assert not looked
    monkeypatch.setattr(limits, "REPLIES_UNACKED_BYTES", MIB)
    bench.acknowledge(FIRST)
    assert len(looked) >= 100
    assert bench.is_idle


def test_errors_without_a_value_are_counted_as_memory_too(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLIES_UNACKED_BYTES", -1)
    for _ in range(10):
        bench.ask(service="n" * 200)
    assert bench.node.services.held_bytes() > 10 * 300


def test_many_small_replies_do_not_overrun_a_session(bench):
    bench.serve(FIRST, concurrency=1)
    bench.deaf.add(ASKER)
    answer_all(bench, limits.SERVICES_UNACKED_FRAMES + 100, 1)
    session = bench.node.peers[ASKER].session
    assert session.unacked_count == limits.SERVICES_UNACKED_FRAMES
    assert session.unacked_bytes > 90 * session.unacked_count
    bench.take(ASKER)
    bench.acknowledge(ASKER)
    (frame,) = bench.take(ASKER, Reply)
    assert len(frame.rows) == 100
    assert bench.is_idle


def test_all_registrations_of_a_program_share_what_its_session_takes(bench, monkeypatch):
    monkeypatch.setattr(limits, "REQUESTS_UNACKED_BYTES", 3 * MIB)
    for i in range(8):
        bench.serve(FIRST, registration=i, service=f"s{i % 2}", concurrency=10)
    bench.deaf.add(FIRST)
    for i in range(8):
        bench.ask(bytes(MIB), service=f"s{i % 2}", timeout=60 * SECOND)
    each = bench.ask(b"all", service="s0", kind=EACH, timeout=60 * SECOND)
    got = bench.came(FIRST)
    assert len(got) == 3
    bench.serve(FIRST, registration=8, service="new")
    bench.ask(b"new", service="new")
    assert bench.came(FIRST) == []
    # Another session is not held up, nor is this one once it has acknowledged.
    bench.serve(SECOND_ONE, service="s1")
    got += bench.came(SECOND_ONE)
    assert len(got) == 4
    while len(got) < 13:
        bench.acknowledge(FIRST)
        bench.deaf.add(FIRST)
        more = bench.came(FIRST)
        assert 0 < len(more) <= 7
        got += more
    assert [len(value) for _, value in got].count(MIB) == 8
    assert [value for _, value in got].count(b"new") == 1
    assert each


def test_replies_wait_behind_the_requests_of_the_same_link(bench, monkeypatch):
    monkeypatch.setattr(limits, "REPLIES_UNACKED_BYTES", MIB)
    bench.serve(FIRST)
    bench.serve(SECOND_ONE, "t", concurrency=2)
    for _ in range(2):
        bench.ask(link=FIRST, service="t")
    asked = [row for row, _ in bench.came(SECOND_ONE)]
    request = RequestRow(1, 0, "s", SECOND, ONE, False, 0, b"", MIB)
    replies = tuple(ReplyRow(row.id, True, True, length=1) for row in asked)
    # In one turn.
    for link, body in (
        (ASKER, Request((request,), bytes(MIB))),
        (SECOND_ONE, Reply(replies, b"ab")),
    ):
        bench.sequences[link, 7] += 1
        envelope = bench.envelope(body, link, bench.sequences[link, 7])
        bench.perform(bench.node.handle(FrameReceived(link, envelope), bench.now_ns))
    bench.perform(bench.node.end_turn(bench.now_ns))
    assert len(bench.came(FIRST)) == 1
    assert bench.heard(FIRST) == []
    bench.acknowledge(FIRST)
    assert [h[1] for h in bench.heard(FIRST)] == [b"a", b"b"]


def test_small_requests_do_not_overrun_a_session(bench, monkeypatch):
    monkeypatch.setattr(limits, "SERVICES_UNACKED_FRAMES", 10)
    bench.serve(FIRST, concurrency=100)
    bench.acknowledge(FIRST)
    bench.deaf.add(FIRST)
    asked = [bench.ask(timeout=60 * SECOND) for _ in range(20)]
    stream = bench.ask(kind=STREAM, window=1, timeout=60 * SECOND)
    assert len(bench.came(FIRST)) == 10
    bench.send(Cancel((asked[0],)), ASKER)
    bench.send(Cancel((asked[1],)), ASKER)
    assert bench.take(FIRST, Cancel) == []
    bench.acknowledge(FIRST)
    assert [len(frame.ids) for frame in bench.take(FIRST, Cancel)] == [2]
    assert len(bench.came(FIRST)) == 11
    bench.deaf.add(FIRST)
    for _ in range(30):
        bench.send(Grant(stream, 1), ASKER)
    grants = [grant.bytes for grant in bench.take(FIRST, Grant)]
    assert len(grants) <= 10
    bench.acknowledge(FIRST)
    grants += [grant.bytes for grant in bench.take(FIRST, Grant)]
    assert sum(grants) == 30


def test_frames_to_instances_are_cut_by_headers_too(bench):
    bench.serve(FIRST, concurrency=1000)
    headers = bytes(limits.HEADER_BYTES_MAX)
    rows = [RequestRow(i, 0, "s", SECOND, ONE, False, 0, headers, 0) for i in range(1000)]
    bench.turn(*[Request(tuple(rows[i : i + 50]), b"") for i in range(0, 1000, 50)], link=ASKER)
    frames = bench.take(FIRST, Request)
    assert sum(len(frame.rows) for frame in frames) == 1000
    for frame in frames:
        header = codec.encode(Envelope(7, 1, 1, frame))[0]
        assert len(header) <= limits.FRAME_HEADER_BYTES_MAX


def test_a_requester_that_goes_is_cancelled_in_one_frame(bench):
    bench.serve(FIRST, concurrency=50)
    for _ in range(50):
        bench.ask()
    ids = tuple(row.id for row, _ in bench.came(FIRST))
    bench.lose(ASKER)
    assert bench.take(FIRST, Cancel) == [Cancel(ids)]


def test_grants_of_one_turn_are_one_for_each_stream(bench):
    bench.serve(FIRST, concurrency=2)
    one, two = (bench.ask(kind=STREAM, window=10) for _ in range(2))
    ids = [row.id for row, _ in bench.came(FIRST)]
    bench.turn(*[Grant(n, size) for n, size in ((one, 1), (two, 2), (one, 4))], link=ASKER)
    assert bench.take(FIRST, Grant) == [Grant(ids[0], 5), Grant(ids[1], 2)]


# -- breaches of instances ------------------------------------------------------------------------


def test_a_window_is_never_more_than_the_largest(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=STREAM, window=1 << 63)
    ((row, _),) = bench.came(FIRST)
    assert row.window == limits.STREAM_WINDOW_BYTES_MAX
    bench.send(Grant(asked, 1 << 63), ASKER)
    assert bench.take(FIRST, Grant) == []
    bench.answer(FIRST, row, bytes(10), end=False)
    bench.send(Grant(asked, 1 << 63), ASKER)
    assert bench.take(FIRST, Grant) == [Grant(row.id, 10 + limits.RECORD_OVERHEAD_BYTES)]


def test_an_instance_may_exceed_its_window_by_one_value(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=STREAM, window=10)
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row, bytes(100), end=False)
    bench.send(Grant(asked, 100 + limits.RECORD_OVERHEAD_BYTES), ASKER)
    bench.answer(FIRST, row, bytes(100), end=False)
    bench.answer(FIRST, row, b"last", end=True)  # who is cancelled ends with it
    assert [len(h[1]) for h in bench.heard()] == [100, 100, 4]
    assert bench.closed == []


def breach(bench, row, data=b"", **more):
    """An instance answers so; what the requester hears. The instance's session is over."""
    reply = ReplyRow(row.id, **{"has_value": bool(data), "end": False, **more}, length=len(data))
    bench.send(Reply((reply, reply), 2 * data), FIRST)
    assert bench.closed == [FIRST]
    (refusal,) = bench.take(FIRST, Refuse)
    assert refusal.code == "bad-frame"
    assert "'s' answered with" in refusal.message
    assert bench.node.bad_frames == 1
    return bench.heard()


def test_who_sends_more_of_a_stream_than_was_granted_is_in_breach(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=STREAM, window=10)
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row, bytes(10), end=False)
    assert breach(bench, row, b"more") == [
        (asked, bytes(10), False, "one"), (asked, "instance-lost", True, "")
    ]  # fmt: skip
    assert bench.is_idle


def test_empty_values_of_a_stream_have_a_bound_too(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=STREAM, window=3 * limits.RECORD_OVERHEAD_BYTES)
    ((row, _),) = bench.came(FIRST)
    for _ in range(3):
        bench.answer(FIRST, row, b"", end=False)
    assert bench.closed == []
    bench.answer(FIRST, row, b"", end=False)
    assert bench.closed == [FIRST]
    assert [h[1] for h in bench.heard()] == [b""] * 3 + ["instance-lost"]
    assert asked


def test_nobody_need_wait_for_a_stream_to_be_in_breach_of_its_window(bench):
    bench.serve(FIRST)
    asked = bench.ask(kind=STREAM, window=10)
    ((row, _),) = bench.came(FIRST)
    bench.send(Cancel((asked,)), ASKER)
    bench.answer(FIRST, row, bytes(10), end=False)
    assert breach(bench, row, b"more") == []
    assert bench.is_idle


@pytest.mark.parametrize("kind", [ONE, EACH, STREAM])
@pytest.mark.parametrize(
    ("data", "more"),
    [
        (b"", {"code": "no-such-code", "end": True}),
        (b"", {"code": "no-responders", "end": True}),  # would say that nothing was done
        (b"v", {"code": "service-error", "end": True}),
        (b"v", {"code": RETURNED, "end": True}),
    ],
)
def test_what_an_instance_may_not_answer_is_a_breach(bench, kind, data, more):
    bench.serve(FIRST)
    asked = bench.ask(kind=kind, window=10)
    ((row, _),) = bench.came(FIRST)
    ends = [(asked, "instance-lost", True, "")]
    if kind == EACH:
        ends = [(asked, "instance-lost", False, "one"), (asked, b"", True, "")]
    assert breach(bench, row, data, **more) == ends
    assert bench.is_idle


@pytest.mark.parametrize(
    "more",
    [
        {"code": "service-error"}, {"code": RETURNED, "end": True}, {"code": "busy", "end": True},
        {"code": ""},
    ],
)  # fmt: skip
def test_a_stream_that_has_begun_ends_once_whatever_its_instance_says(bench, more):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask(kind=STREAM, idempotent=True, window=1000)
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row, b"a", end=False)
    assert breach(bench, row, **more) == [
        (asked, b"a", False, "one"), (asked, "instance-lost", True, "")
    ]  # fmt: skip
    assert bench.came(SECOND_ONE) == []
    assert bench.is_idle


def test_a_breach_before_anything_came_costs_an_idempotent_request_one_instance(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask(idempotent=True)
    ((row, _),) = bench.came(FIRST)
    assert breach(bench, row, code="?", end=True) == []
    ((row, _),) = bench.came(SECOND_ONE)
    bench.answer(SECOND_ONE, row)
    assert bench.heard() == [(asked, b"r", True, "two")]


def test_an_instance_that_was_given_too_much_may_say_so(bench):
    bench.serve(FIRST)
    bench.serve(SECOND_ONE)
    asked = bench.ask()
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row, b"", has_value=False, code="busy")
    assert bench.heard() == [(asked, "busy", True, "one")]
    again = bench.ask(idempotent=True)
    ((row, _),) = bench.came(SECOND_ONE)
    bench.lose(SECOND_ONE)
    ((row, _),) = bench.came(FIRST)
    bench.answer(FIRST, row, b"", has_value=False, code="busy")
    assert bench.heard() == [(again, "instance-lost", True, "one")]  # one of them may have done it


@pytest.mark.parametrize("kind", [ONE, STREAM])
def test_an_end_without_a_reply_is_none_when_time_is_over(bench, kind):
    bench.serve(FIRST)
    asked = bench.ask(kind=kind, window=10)
    ((row, _),) = bench.came(FIRST)
    bench.now_ns += SECOND  # the instance's timer has fired, the node's has not
    bench.send(Reply((ReplyRow(row.id, False, True),), b""), FIRST)
    assert bench.heard() == [(asked, "deadline-exceeded", True, "one")]
    assert bench.is_idle


# -- what is kept ---------------------------------------------------------------------------------


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


def test_a_session_that_what_is_sent_to_it_ends_is_lost_in_the_same_turn(bench, monkeypatch):
    bench.serve(FIRST, concurrency=5)
    bench.ask()
    bench.came(FIRST)
    full = bench.node.peers[FIRST].session.unacked_count
    monkeypatch.setattr(limits, "SESSION_UNACKED_FRAMES_MAX", full)
    bench.ask(link=SECOND_ONE)
    assert FIRST not in bench.node.peers
    assert [said for _, said, *_ in bench.heard(ASKER)] == ["instance-lost"]
