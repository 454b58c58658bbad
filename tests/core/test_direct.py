"""Programs without a node: links, records and what is missing of them, pushes, requests."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.effects import StateChanged
from meshmq.core.lanes import DONE, FAILED
from meshmq.errors import DeadlineExceeded, InstanceLost, LinkLost, NoResponders
from meshmq.frames import EACH, Deliver
from meshmq.limits import MS, SECOND
from meshmq.names import push_lane
from tests.core.programs import Network


@pytest.fixture
def network():
    return Network()


def pair(network):
    a = network.add("a")
    b = network.add("b", ["a"])
    network.run()
    return a, b


# -- links ------------------------------------------------------------------------------------


def test_who_dials_is_linked(network):
    a, b = pair(network)
    assert [p["name"] for p in a.direct.peers()] == ["b"]
    assert [p["name"] for p in b.direct.peers()] == ["a"]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_two_that_dial_each_other_keep_one_session(network, order):
    first, second = order
    one = network.add(first, [second])
    other = network.add(second, [first])
    network.run(5 * SECOND)
    for program in (one, other):
        assert len(program.direct.links.by_name) == 1
        assert len(program.direct.peers()) == 1
        news = [e.reason for e in program.effects if isinstance(e, StateChanged)]
        assert [text for text in news if text.startswith("lost")] == []
        assert len([text for text in news if text.startswith("linked")]) == 1


def test_who_dials_itself_finds_out(network):
    a = network.add("a", ["a"])
    network.run(5 * SECOND)
    assert not a.direct.peers()
    assert not a.direct.links.by_name


def test_another_mesh_is_refused(network):
    network.add("a")
    b = network.add("b", ["a"], mesh="other")
    network.run()
    assert not b.direct.peers()
    rows = b.direct.links.discovery.rows()
    assert rows[0]["addresses"][0]["reason"] == "mesh-mismatch"


def test_a_link_that_is_lost_is_made_again(network):
    a, b = pair(network)
    network.lose = lambda *_: True
    network.run(4 * SECOND)
    assert not a.direct.peers()
    assert not b.direct.peers()
    network.lose = lambda *_: False
    network.run(4 * SECOND)
    assert a.direct.peers()
    assert b.direct.peers()


def test_programs_that_come_and_go_are_told(network):
    a, b = pair(network)
    network.kill(a)
    network.run(5 * SECOND)
    assert [e.reason for e in b.effects if isinstance(e, StateChanged)] == [
        "directly with other programs", "linked with a", "lost a: nothing was heard for 3 s",
    ]  # fmt: skip
    assert not b.direct.news


def test_a_restarted_program_is_linked_again(network):
    a, b = pair(network)
    network.kill(a)
    network.run(5 * SECOND)
    assert not b.direct.peers()
    again = network.add("a", instance=b"another instance")
    network.run(5 * SECOND)
    assert again.direct.peers()
    assert b.direct.peers()


# -- records ----------------------------------------------------------------------------------


def test_records_come_to_who_wants_them(network):
    a, b = pair(network)
    sub = b.subscribe("x.*")
    network.run()
    assert b.answers == {sub: ""}
    batch = a.publish("x.y", b"1", b"2")
    a.publish("z", b"3")
    network.run()
    assert b.got[sub] == [("x.y", b"1"), ("x.y", b"2")]
    assert batch.state == DONE
    a.publish("x.z", b"4")
    network.run()
    assert b.got[sub][2:] == [("x.z", b"4")]
    assert b.missed[sub] == 0


def test_what_nobody_wants_is_done_at_once(network):
    a, _ = pair(network)
    assert a.publish("x", b"1").state == DONE


def test_a_program_gets_what_it_publishes_itself(network):
    a = network.add("a")
    sub = a.subscribe(">")
    a.publish("x", b"1")
    assert a.values(sub) == [b"1"]


def test_a_batch_is_encoded_once_for_all_who_want_it(network):
    a = network.add("a")
    others = [network.add(name, ["a"]) for name in "bcd"]
    network.run()
    subs = [(p, p.subscribe("x"), p.subscribe(">")) for p in others]
    network.run()
    sent = []

    def watch(sender, receiver, envelope):
        if isinstance(envelope.body, Deliver):
            sent.append(envelope.body)
        return False

    network.lose = watch
    a.publish("x", b"1")
    network.run()
    assert len(sent) == 6
    assert len({id(body.payload) for body in sent}) == 1
    for program, one, two in subs:
        assert program.values(one) == program.values(two) == [b"1"]


def test_who_subscribes_later_gets_what_is_published_from_then_on(network):
    a, b = pair(network)
    a.publish("x", b"1")
    one = b.subscribe("x")
    network.run()
    a.publish("x", b"2")
    network.run()
    two = b.subscribe(">")
    network.run()
    a.publish("x", b"3")
    network.run()
    assert b.values(one) == [b"2", b"3"]
    assert b.values(two) == [b"3"]
    assert b.missed == {one: 0, two: 0}


def test_who_ends_a_subscription_and_opens_it_again_misses_nothing(network):
    a, b = pair(network)
    one = b.subscribe("x")
    network.run()
    a.publish("x", b"1")
    network.run()
    b.close(one)
    network.run()
    a.publish("x", b"2")
    two = b.subscribe("x")
    network.run()
    a.publish("x", b"3")
    network.run()
    assert b.values(two) == [b"3"]
    assert b.missed[two] == 0


def test_a_slow_reader_misses_records_and_is_told_how_many(network):
    a, b = pair(network)
    b.auto = False
    sub = b.subscribe("x", size=50_000)
    network.run()
    total = 0
    value = b"v" * 10_000
    for _ in range(1000):
        a.publish("x", value)
        total += 1
    network.run(2 * limits.STALLED_NS)
    assert a.direct.outlets.dropped
    got = len(b.values(sub))
    while got + b.missed[sub] < total:
        before = got
        b.read(sub, got * 10_004, got)
        b.flush()
        network.run()
        got = len(b.values(sub))
        if got == before:
            break
    network.run(SECOND)
    assert b.missed[sub]
    assert len(b.values(sub)) + b.missed[sub] == total


def test_a_slow_reader_is_told_even_if_nothing_follows_and_it_gives_no_credit(network):
    a, b = pair(network)
    b.auto = False
    sub = b.subscribe("x", size=50_000)
    network.run()
    for _ in range(1000):
        a.publish("x", b"v" * 10_000)
    network.run(2 * limits.STALLED_NS)
    waiting = limits.DIRECT_QUEUE_BYTES_MAX // 10_004
    assert len(b.values(sub)) + b.missed[sub] + waiting == 1000


def test_a_slow_subscription_of_a_program_costs_the_other_nothing(network):
    a, b = pair(network)
    b.auto = False
    slow = b.subscribe("x", size=50_000)
    fast = b.subscribe("x")
    network.run()
    read = 0
    for _ in range(2000):
        a.publish("x", b"v" * 10_000)
        network.run(2 * MS)
        got = len(b.values(fast))
        b.read(fast, (got - read) * 10_004, got - read)
        b.flush()
        read = got
    network.run(SECOND)
    assert len(b.values(fast)) == 2000
    assert not b.missed.get(fast)
    assert b.missed[slow]
    waiting = limits.DIRECT_QUEUE_BYTES_MAX // 10_004
    assert len(b.values(slow)) + b.missed[slow] + waiting == 2000


def test_what_was_published_while_the_link_was_lost_is_missed(network):
    a, b = pair(network)
    sub = b.subscribe(">")
    network.run()
    a.publish("x", b"1", b"2")
    network.run()
    network.lose = lambda *_: True
    a.publish("x", b"3")
    network.run(5 * SECOND)
    a.publish("x", b"4")
    a.publish("y", b"5")
    network.lose = lambda *_: False
    network.run(5 * SECOND)
    assert b.values(sub) == [b"1", b"2"]
    assert b.missed[sub] == 3
    a.publish("y", b"6")
    network.run()
    assert b.values(sub) == [b"1", b"2", b"6"]
    assert b.missed[sub] == 3


def test_a_subscription_made_while_the_link_was_lost_misses_nothing(network):
    a, b = pair(network)
    one = b.subscribe("x")
    network.run()
    a.publish("x", b"1")
    network.run()
    network.lose = lambda *_: True
    network.run(5 * SECOND)
    two = b.subscribe(">")
    a.publish("x", b"2")
    network.lose = lambda *_: False
    network.run(5 * SECOND)
    a.publish("x", b"3")
    network.run()
    assert b.values(one) == [b"1", b"3"]
    assert b.missed[one] == 1
    assert b.values(two) == [b"3"]
    assert not b.missed[two]


def test_a_restarted_publisher_begins_anew(network):
    a, b = pair(network)
    sub = b.subscribe("x")
    network.run()
    a.publish("x", b"1", b"2")
    network.run()
    network.kill(a)
    network.run(5 * SECOND)
    again = network.add("a", instance=b"another instance")
    network.run(5 * SECOND)
    again.publish("x", b"3")
    network.run()
    assert b.values(sub) == [b"1", b"2", b"3"]
    assert b.missed[sub] == 0


def test_a_stalled_reader_holds_up_nobody_for_long(network):
    a, b = pair(network)
    b.subscribe("x")
    network.run()
    network.lose = lambda sender, receiver, _: receiver is b
    batch = a.publish("x", b"1")
    assert batch.state != DONE
    network.run(2 * limits.STALLED_NS)
    assert batch.state == DONE
    assert a.publish("x", b"2").state == DONE


def test_who_has_stalled_is_sent_nothing_until_it_is_heard_of(network):
    a = network.add("a")
    b, c = network.add("b", ["a"]), network.add("c", ["a"])
    network.run()
    slow, fast = b.subscribe("x"), c.subscribe("x")
    network.run()
    sent = []

    def stop(sender, receiver, envelope):
        if receiver is b and isinstance(envelope.body, Deliver):
            sent.append(envelope.body.batches[0].base_offset)
        return receiver is b

    network.lose = stop
    a.publish("x", b"1")
    network.run(limits.STALLED_NS + limits.STALLED_NS // 4)
    for _ in range(100):
        a.publish("x", b"2")
        network.run(3 * MS)
    assert len(c.values(fast)) == 101
    assert set(sent) == {1}
    network.lose = lambda *_: False
    network.run(2 * SECOND)
    assert len(b.values(slow)) == 101


def test_subscribing_waits_for_a_program_that_does_not_answer_and_not_longer(network):
    a, b = pair(network)
    network.lose = lambda sender, receiver, _: sender is a
    sub = b.subscribe("x")
    network.run(limits.NOTED_NS // 2)
    assert sub not in b.answers
    network.run(limits.NOTED_NS)
    assert b.answers[sub] == ""


# -- pushes -----------------------------------------------------------------------------------


def test_each_pushed_record_comes_to_one_program(network):
    a = network.add("a")
    others = [network.add(name, ["a"]) for name in "bcd"]
    network.run()
    pulls = [(p, p.pull("jobs")) for p in others]
    plain = others[0].subscribe("jobs")
    network.run()
    batch = a.publish(push_lane("jobs"), *[b"%d" % i for i in range(30)])
    network.run()
    got = [value for p, number in pulls for value in p.values(number)]
    assert sorted(got, key=int) == [b"%d" % i for i in range(30)]
    assert [len(p.values(number)) for p, number in pulls] == [10, 10, 10]
    assert batch.state == DONE
    assert not others[0].values(plain)


def test_pushes_go_to_who_reads(network):
    a = network.add("a")
    slow, fast = network.add("b", ["a"]), network.add("c", ["a"])
    network.run()
    slow.auto = False
    one, two = slow.pull("jobs", records=4), fast.pull("jobs", records=4)
    network.run()
    for i in range(50):
        a.publish(push_lane("jobs"), b"%d" % i)
        network.run(10 * MS)
    assert len(slow.values(one)) <= 4
    assert len(slow.values(one)) + len(fast.values(two)) == 50


def test_pushes_wait_for_who_pulls(network):
    a, b = pair(network)
    batch = a.publish(push_lane("jobs"), b"1")
    assert batch.state not in (DONE, FAILED)
    network.run(SECOND)
    pull = b.pull("jobs")
    network.run()
    assert b.values(pull) == [b"1"]
    assert batch.state == DONE


def test_pushes_that_nobody_pulls_fail_and_hold_up_nobody(network):
    a, b = pair(network)
    sub = b.subscribe("x")
    network.run()
    batches = [a.publish(push_lane("jobs"), b"1") for _ in range(5)]
    a.client.publisher.add("x", b"2", None, None, None, lambda: 0, -1, None)
    a.flush()
    network.run()
    assert b.values(sub) == [b"2"]
    network.run(2 * limits.PUSH_WAIT_NS)
    assert {batch.state for batch in batches} == {FAILED}
    assert isinstance(batches[0].error, NoResponders)


def test_a_push_on_its_way_to_a_lost_program_is_lost_and_told(network):
    a, b = pair(network)
    b.pull("jobs")
    network.run()
    network.lose = lambda sender, receiver, _: receiver is b
    batch = a.publish(push_lane("jobs"), b"1")
    network.run(5 * SECOND)
    assert batch.state == FAILED
    assert isinstance(batch.error, LinkLost)


def test_a_push_to_a_program_that_says_goodbye_is_told_as_lost(network):
    a, b = pair(network)
    b.pull("jobs")
    network.run()
    network.lose = lambda sender, receiver, _: receiver is b
    batch = a.publish(push_lane("jobs"), b"1")
    b.client.close(network.now_ns)
    b.flush()
    network.run()
    assert batch.state == FAILED
    assert isinstance(batch.error, LinkLost)


def test_a_program_pulls_what_it_pushes_itself(network):
    a = network.add("a")
    pull = a.pull("jobs", records=2)
    for i in range(9):
        a.publish(push_lane("jobs"), b"%d" % i)
    assert len(a.values(pull)) == 9


# -- requests ---------------------------------------------------------------------------------


def test_a_request_is_answered(network):
    a, b = pair(network)
    a.serve("s", lambda incoming: a.answer(incoming, b"hello " + incoming.data))
    network.run()
    call = b.request("s", b"b")
    network.run()
    row, value = call.replies[0]
    assert (value, row.instance, call.error) == (b"hello b", "a", None)


def test_nobody_serves_is_said_at_once_but_for_the_beginning(network):
    a, b = pair(network)
    early = b.request("s")
    network.run(100 * MS)
    assert not early.is_over
    a.serve("s", a.answer)
    network.run(100 * MS)
    assert early.error is None
    assert early.is_over
    network.run(limits.STARTED_NS)
    late = b.request("t")
    assert isinstance(late.error, NoResponders)


def test_serving_is_answered_once_others_know(network):
    a, b = pair(network)
    network.run(limits.STARTED_NS)
    registration = a.serve("s", a.answer)
    assert registration.id not in a.answers
    while registration.id not in a.answers:
        network.run(MS)
    call = b.request("s")
    network.run()
    assert call.error is None


def test_the_instance_with_the_least_gets_it(network):
    a = network.add("a")
    others = [network.add(name, ["a"]) for name in "bcd"]
    network.run()
    held = []
    for program in others:
        program.serve("s", held.append, concurrency=10)
    network.run()
    for _ in range(30):
        a.request("s")
    network.run()
    assert [len(p.client.responder._incoming) for p in others] == [10, 10, 10]


def test_programs_ask_each_other_with_the_same_numbers(network):
    a, b = pair(network)
    c = network.add("c", ["a", "b"])
    network.run()
    a.serve("s", lambda incoming: a.answer(incoming, incoming.data), concurrency=4)
    network.run()
    calls = {name: p.request("s", name) for name, p in ((b"a", a), (b"b", b), (b"c", c))}
    network.run()
    assert {name: call.replies[0][1] for name, call in calls.items()} == {
        name: name for name in calls
    }


def test_an_instance_has_its_concurrency_whoever_asks(network):
    a = network.add("a")
    others = [network.add(name, ["a"]) for name in "bcd"]
    network.run()
    held = []
    a.serve("s", held.append, concurrency=2)
    network.run()
    calls = [p.request("s", timeout_ns=5 * SECOND) for p in others for _ in range(2)]
    late = others[0].request("s", timeout_ns=300 * MS)
    network.run(SECOND)
    assert len(held) == 2
    assert isinstance(late.error, DeadlineExceeded)
    others[1].client.requester.cancel(calls[3])
    others[1].flush()
    network.run()
    done = 0
    while done < len(held):
        a.answer(held[done])
        done += 1
        network.run()
        assert len(held) - done <= 2
    assert all(call.is_over for call in calls)
    assert sum(bool(call.replies) for call in calls) >= 5
    assert a.direct.relay.count == 0


def test_what_waits_at_an_instance_that_stops_goes_to_others(network):
    a = network.add("a")
    b, c = network.add("b", ["a"]), network.add("c", ["a", "b"])
    network.run()
    held = []
    registration = a.serve("s", held.append)
    network.run()
    calls = [p.request("s", timeout_ns=5 * SECOND) for p in (b, c)]
    network.run()
    assert len(held) == 1
    b.serve("s", b.answer)
    network.run()
    a.client.unserve(registration, network.now_ns)
    a.flush()
    network.run()
    answers = sorted(row.instance for call in calls for row, _ in call.replies)
    assert answers == ["b"]
    a.answer(held[0])
    network.run()
    assert {call.replies[0][0].instance for call in calls} == {"a", "b"}


def test_cancelling_and_deadlines_reach_who_works_on_it(network):
    a, b = pair(network)
    held = []
    a.serve("s", held.append, concurrency=2)
    network.run()
    one, two = b.request("s"), b.request("s", timeout_ns=300 * MS)
    network.run()
    b.client.requester.cancel(one)
    b.flush()
    network.run()
    assert all(i.cancelled for i in held)
    assert isinstance(two.error, DeadlineExceeded)


def test_what_a_lost_program_had_is_lost_unless_it_is_idempotent(network):
    a = network.add("a")
    b, c = network.add("b", ["a"]), network.add("c", ["a"])
    network.run()
    b.serve("s", lambda incoming: None, concurrency=9)
    network.run()
    lost = a.request("s", timeout_ns=9 * SECOND)
    again = a.request("s", timeout_ns=9 * SECOND, idempotent=True)
    network.run()
    c.serve("s", c.answer, concurrency=9)
    network.kill(b)
    network.run(5 * SECOND)
    assert isinstance(lost.error, InstanceLost)
    assert again.error is None
    assert again.replies[0][0].instance == "c"


def test_who_asks_all_gets_one_reply_of_each(network):
    a = network.add("a")
    others = [network.add(name, ["a"]) for name in "bc"]
    network.run()
    for program in (a, *others):
        program.serve("s", program.answer)
    network.run()
    call = a.request("s", kind=EACH)
    network.run(SECOND)
    assert sorted(row.instance for row, _ in call.replies) == ["a", "b", "c"]
    assert call.is_over


def test_a_requester_that_is_gone_cancels(network):
    a, b = pair(network)
    held = []
    a.serve("s", held.append)
    network.run()
    b.request("s", timeout_ns=60 * SECOND)
    network.run()
    network.kill(b)
    network.run(5 * SECOND)
    assert held[0].cancelled
    a.answer(held[0])  # goes nowhere


def test_an_instance_that_stops_takes_nothing_more(network):
    a, b = pair(network)
    registration = a.serve("s", a.answer)
    network.run(limits.STARTED_NS)
    a.client.unserve(registration, network.now_ns)
    a.flush()
    network.run()
    assert registration.is_ended
    assert isinstance(b.request("s").error, NoResponders)


def test_topics_beyond_the_most_are_refused_and_nothing_else_is(network, monkeypatch):
    monkeypatch.setattr(limits, "TOPICS_MAX", 8)
    a, b = pair(network)
    own, others = a.subscribe(">"), b.subscribe(">")
    network.run()
    batches = [a.publish(f"t{i}", b"%d" % i) for i in range(10)]
    network.run()
    assert [batch.state for batch in batches] == [DONE] * 8 + [FAILED] * 2
    assert "at most 8 topics" in str(batches[-1].error)
    late = a.subscribe(">")
    again = a.publish("t0", b"again")
    network.run()
    assert again.state == DONE
    assert (len(a.values(own)), len(b.values(others)), a.values(late)) == (9, 9, [b"again"])
    assert a.direct.linked == 1
