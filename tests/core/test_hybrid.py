"""Programs with links to each other and a node, which comes and goes."""

from __future__ import annotations

import json

import pytest

from meshmq import limits
from meshmq.core.events import LinkClosed
from meshmq.core.lanes import DONE, FAILED, WAITING
from meshmq.core.requester import DIRECTLY
from meshmq.core.subscriber import Start
from meshmq.frames import (
    EACH,
    START_EARLIEST,
    SUBSCRIPTION,
    Deliver,
    Interest,
    Interests,
    Introduce,
    Publish,
    Request,
    Subscribed,
)
from meshmq.limits import SECOND
from meshmq.testing.disk import Disk
from tests.core.programs import Network, Station

NODE = "tcp://127.0.0.1:5757"


@pytest.fixture
def network():
    return made()


def made():
    found = Network()
    found.sent = []
    found.lose = lambda sender, receiver, envelope: found.watch(sender, receiver, envelope.body)
    found.cuts = set()
    found.late = {}

    def watch(sender, receiver, body):
        found.sent.append((sender, receiver, body))
        return (sender, receiver) in found.cuts

    found.watch = watch
    return found


def create(program, pattern, durability="transient"):
    """A policy at the node."""
    wish = json.dumps({"pattern": pattern, "durability": durability}).encode()
    program.client.command("topic.create", wish, program.network.now_ns)
    program.flush()
    program.network.run()


def told(network, *names):
    """Programs that were told the node."""
    node = Station(network, NODE)
    programs = [network.add(name, node=NODE) for name in names]
    network.run()
    create(programs[0], "live.>")
    return node, *programs


def met(network):
    """Two that talk directly: ``a`` publishes on live.x, ``b`` has subscribed."""
    node, a, b = told(network, "a", "b")
    sub = b.subscribe("live.>")
    network.run()
    for value in (b"1", b"2", b"3"):  # by the node; the node asks; directly
        a.publish("live.x", value)
        network.run()
    assert b.values(sub) == [b"1", b"2", b"3"]
    return node, a, b, sub


def by(network, sender, receiver, kind=(Deliver, Publish, Request)):
    """Frames with records or requests from one to the other since the last time."""
    found = [b for s, r, b in network.sent if (s, r) == (sender, receiver) and isinstance(b, kind)]
    network.sent.clear()
    return found


def cut(network, one, other):
    network.cuts |= {(one, other), (other, one)}


def test_a_program_without_a_node_takes_the_one_that_it_finds(network):
    a, b = network.add("a", [NODE]), network.add("b", ["a"])
    network.run(SECOND)
    assert (a.client.state, b.client.state) == ("brokerless", "brokerless")
    sub = b.subscribe("x")
    network.run()
    first = a.publish("x", b"before")
    network.run()
    assert b.values(sub) == [b"before"]
    assert first.route == "direct"
    Station(network, NODE)
    network.run(20 * SECOND)
    assert a.client.state == "connected"
    second = a.publish("x", b"after")
    network.run()
    assert second.state == DONE
    assert (second.route, second.base_offset) == ("node", 0)
    assert b.values(sub) == [b"before", b"after"]  # it heard of the node from the other


def test_numbers_go_on_where_a_node_comes(network):
    a, b = network.add("a", [NODE]), network.add("b", ["a", NODE])
    network.run(SECOND)
    sub = b.subscribe("live.x")
    network.run()
    for value in (b"1", b"2"):
        a.publish("live.x", value)
    network.run()
    node = Station(network, NODE)
    network.run(20 * SECOND)
    assert {a.client.state, b.client.state} == {"connected"}
    create(a, "live.>")
    for i in range(3, 9):
        a.publish("live.x", b"%d" % i)
        network.run()
    assert b.values(sub) == [b"%d" % i for i in range(1, 9)]
    assert b.missed.get(sub, 0) == 0
    assert node.node.streams.repeated == 0
    assert by(network, a, b)


def test_the_node_introduces_those_who_meet_and_is_not_needed_any_more(network):
    node, a, b, sub = met(network)
    by(network, a, node)
    batch = a.publish("live.x", b"4")
    network.run()
    assert b.values(sub)[-1] == b"4"
    assert batch.route == "direct"
    assert by(network, a, node) == []


def test_a_program_that_was_told_its_node_talks_to_nobody_else(network):
    _, _, b, _ = met(network)
    stranger = network.add("stranger", ["b"])
    network.run()
    assert stranger.direct.linked == 0
    assert b.direct.linked == 1


def test_more_than_was_allowed_ends_the_link(network):
    _, a, b, _ = met(network)
    secret = b.subscribe("secret.>")
    network.run()
    shown = [i for _, _, body in network.sent if isinstance(body, Interests) for i in body.add]
    assert all(interest.name != "secret.>" for interest in shown)
    (link,) = a.direct._by_link.values()
    a.direct.links.send(link, Deliver(secret, (), 0, b""), network.now_ns)
    a.flush()
    network.run(SECOND // 20)
    assert ("connected", "lost a: closed here") in b.states


def test_a_link_ends_with_what_was_allowed(network):
    _, a, b, sub = met(network)
    network.cuts = {(a, None)}
    for program in (a, b):
        for run, permit in list(program.direct.links.permits.by_instance.items()):
            allowed = tuple(permit.patterns), tuple(permit.services)
            program.direct.introduce(Introduce(run, "", (), *allowed, SECOND), network.now_ns)
    network.run(3 * SECOND)
    assert (a.direct.linked, b.direct.linked) == (0, 0)
    a.publish("live.x", b"4")
    network.run()
    assert b.values(sub)[-1] == b"4"  # by the node


def test_a_direct_way_that_is_cut_is_left_for_the_node(network):
    node, a, b, sub = met(network)
    cut(network, a, b)
    a.publish("live.x", b"lost")
    network.run(limits.ROUTE_SILENT_NS + SECOND // 10)
    a.publish("live.x", b"by the node")
    network.run(SECOND // 20)
    assert b.values(sub)[-1] == b"by the node"
    assert b.missed[sub] == 1
    network.cuts.clear()
    network.run(20 * SECOND)
    by(network, a, node)
    a.publish("live.x", b"again")
    network.run()
    a.publish("live.x", b"directly")
    network.run()
    assert b.values(sub)[-2:] == [b"again", b"directly"]
    assert b.missed[sub] == 1


def test_a_node_that_stops_or_dies_is_not_missed_by_what_may_be_lost(network):
    node, a, b, sub = met(network)
    node.is_stopped = True
    for i in range(4, 60):
        a.publish("live.x", b"%d" % i)
        network.run(SECOND // 10)
    network.kill(node)
    for i in range(60, 70):
        a.publish("live.x", b"%d" % i)
        network.run(SECOND)
    assert b.values(sub) == [b"%d" % i for i in range(1, 70)]
    assert (a.client.state, b.missed.get(sub, 0)) == ("reconnecting", 0)


def test_what_is_kept_waits_for_the_node(network):
    node, a, b, _ = met(network)
    kept = [a.publish("kept", b"1")]
    network.run()
    network.kill(node)
    network.run(4 * SECOND)
    kept.append(a.publish("kept", b"2"))
    unknown = a.publish("never.seen", b"1")
    network.run(SECOND)
    assert [batch.state for batch in kept] == [DONE, WAITING]
    assert unknown.state == WAITING  # it may be one that a node keeps
    Station(network, NODE, node.disk)
    network.run(10 * SECOND)
    assert {batch.state for batch in (*kept, unknown)} == {DONE}
    sub = b.client.subscribe("kept", Start(START_EARLIEST), 1 << 20, 100, network.now_ns)
    b.flush()
    network.run()
    assert b.values(sub) == [b"1", b"2"]


def test_a_topic_that_becomes_durable_goes_directly_no_more(network):
    node, a, b, _ = met(network)
    node.node.topics.by_name["live.x"].entry = node.node.topics.by_name["live.x"].entry._replace(
        durable=True
    )
    a.publish("live.x", b"4", pin=a.client.publisher.node)
    network.run()
    by(network, a, b)
    batch = a.publish("live.x", b"5")
    network.run()
    assert batch.base_offset is not None
    assert by(network, a, b) == []


def test_requests_go_directly_once_they_have_met(network):
    node, a, b = told(network, "a", "b")
    b.serve("s", b.answer)
    network.run()
    first = a.request("s")
    network.run()
    assert (first.is_over, first.error, first.way) == (True, None, "node")
    second = a.request("s")
    network.run()
    assert (second.is_over, second.error, second.way) == (True, None, "direct")
    network.kill(node)
    third = a.request("s")
    network.run()
    assert (third.error, third.way) == (None, "direct")


def serving(network):
    node, a, b = told(network, "a", "b")
    b.serve("s", b.answer, concurrency=10)
    network.run()
    a.request("s")
    network.run()
    return node, a, b


def test_an_idempotent_request_that_got_stuck_is_asked_again_by_the_node(network):
    _, a, b = serving(network)
    cut(network, a, b)
    safe, other = a.request("s", idempotent=True, timeout_ns=5 * SECOND), a.request("s")
    network.run(2 * SECOND)
    assert (safe.is_over, safe.error, safe.way, len(safe.replies)) == (True, None, "node", 1)
    assert other.error is not None
    later = a.request("s", timeout_ns=SECOND)
    network.run()
    assert (later.is_over, later.error, later.way) == (True, None, "node")


def test_each_instance_has_its_share_of_what_goes_directly(network):
    _, a, b, c, d = told(network, "a", "b", "c", "d")
    has = {program: [] for program in (b, c, d)}
    for program in (b, c):
        program.serve("s", has[program].append)
    network.run()
    a.request("s")  # by the node: whichever has it, all are introduced
    network.run()
    for program in (b, c):
        for incoming in has[program]:
            program.answer(incoming)
        has[program].clear()
    d.serve("s", has[d].append)  # so is one that comes later
    network.run()
    calls = [a.request("s") for _ in has]
    network.run()
    assert [len(incoming) for incoming in has.values()] == [1, 1, 1]
    assert {call.way for call in calls} == {"direct"}


def test_a_request_that_was_given_back_is_asked_again_by_the_node(network):
    node, a, b = serving(network)
    c = network.add("c", node=NODE)
    cut(network, a, c)
    c.serve("s", c.answer)
    network.run()
    registration = next(iter(b.client.responder.registrations.values()))
    b.client.unserve(registration, network.now_ns)
    b.flush()
    call = a.request("s")
    network.run()
    assert (call.is_over, call.error) == (True, None)
    assert call.way == "node"
    assert node.node.services.by_name["s"].requests == 2


def test_a_request_that_no_node_was_there_for_says_so(network):
    node, a, _ = serving(network)
    network.kill(node)
    network.run(4 * SECOND)
    call = a.request("elsewhere")
    network.run(2 * SECOND)
    assert "no node was there in time" in str(call.error)


def test_a_request_to_all_goes_by_the_node(network):
    _, a, _ = serving(network)
    call = a.request("s", kind=EACH)
    network.run(SECOND)
    assert (call.is_over, call.error, call.way) == (True, None, "node")


def test_a_pin_holds(network):
    node, a, b, sub = met(network)
    by(network, a, node)
    direct = a.publish("live.x", b"4", pin=a.client.publisher.direct)
    network.run()
    assert (direct.route, by(network, a, node)) == ("direct", [])
    node_only = a.publish("live.x", b"5", pin=a.client.publisher.node)
    network.run()
    assert (node_only.route, by(network, a, b)) == ("node", [])
    assert b.values(sub)[-2:] == [b"4", b"5"]
    b.serve("s", b.answer)
    network.run()
    call = a.request("s", pin=DIRECTLY)
    network.run()
    assert call.error.code == "no-responders"  # not met for that
    assert a.request("s", pin="node").pin == "node"


def test_more_programs_than_one_serves_itself_are_served_by_the_node(network):
    names = [f"p{i}" for i in range(limits.DIRECT_FANOUT_MAX + 1)]
    node, a, *others = told(network, "a", *names)
    subs = [(p, p.subscribe("live.>")) for p in others[:-1]]
    network.run()
    for i in range(4):
        a.publish("live.x", b"%d" % i)
        network.run()
    assert a.direct.linked == limits.DIRECT_FANOUT_MAX
    last = (others[-1], others[-1].subscribe("live.>"))
    network.run()
    # All of them are linked, by a hair: the node introduces no more.
    a.publish("live.x", b"4")
    network.run()
    assert all(p.values(s)[-1] == b"4" for p, s in [*subs, last])
    assert all(p.missed.get(s, 0) == 0 for p, s in [*subs, last])
    assert by(network, a, node)


def test_a_subscription_is_open_once_the_node_and_the_others_say_so(network):
    node, _, b, _ = met(network)
    node.is_stopped = True
    sub = b.client.subscribe("live.y", Start(), 1 << 20, 100, network.now_ns)
    b.flush()
    network.run(SECOND)
    assert sub not in b.answers
    node.go_on()
    network.run()
    assert b.answers[sub] == ""


def test_a_subscription_without_the_node_is_open_when_the_others_say_so(network):
    node, _, b, _ = met(network)
    node.is_stopped = True
    sub = b.client.subscribe("live.y", Start(), 1 << 20, 100, network.now_ns)
    b.flush()
    network.kill(node)
    network.run(5 * SECOND)
    assert b.answers[sub] == ""


def test_a_node_that_is_back_before_the_others_have_answered_is_waited_for(network):
    node, a, b, _ = met(network)
    b.client.handle(LinkClosed(b.client._link, "cut"), network.now_ns)
    b.flush()
    assert not b.client.has_node
    sub = b.client.subscribe("live.>", Start(), 1 << 20, 100, network.now_ns)

    def watch(sender, receiver, body):
        return receiver is b and (sender is a or isinstance(body, Subscribed))

    network.watch = watch
    b.flush()
    network.run(SECOND // 2)
    assert b.client.has_node
    assert sub not in b.answers
    network.watch = lambda sender, receiver, body: sender is node and isinstance(body, Subscribed)
    network.run(2 * SECOND)
    assert sub not in b.answers
    network.watch = lambda *_: False
    network.run(2 * SECOND)
    assert b.answers[sub] == ""


def test_an_instance_ends_at_the_node_and_for_the_others(network):
    node, a, b = serving(network)
    registration = next(iter(b.client.responder.registrations.values()))
    b.client.unserve(registration, network.now_ns)
    b.flush()
    assert not registration.is_ended
    network.run()
    assert registration.is_ended
    assert not node.node.services.by_name
    assert not a.direct.serves("s")


def test_more_that_is_allowed_leaves_what_was_as_it_was(network):
    _, a, b, sub = met(network)
    b.serve("s", b.answer)
    network.run()
    a.request("s")
    network.run()  # the node allows the service, too
    assert a.direct.serves("s")
    a.publish("live.x", b"4")
    network.run()
    assert b.values(sub)[-1] == b"4"


def test_who_hears_later_of_what_is_allowed_knows_what_the_other_wants(network):
    _, a, b, _ = met(network)
    b.serve("s", b.answer)
    network.run()
    held = []

    def lose(sender, receiver, envelope):
        is_late = receiver is a and isinstance(envelope.body, Introduce)
        if is_late:
            held.append(envelope)
        return is_late

    network.lose = lose
    a.request("s")
    network.run(SECOND // 20)
    assert held
    assert not a.direct.serves("s")
    network.lose = lambda *_: False
    network.run(2 * SECOND)  # it is sent again
    assert a.direct.serves("s")


def test_credit_for_what_is_not_known_to_be_allowed_yet_is_kept(network):
    _, a, b, _ = met(network)
    create(a, "more.>")
    more = b.subscribe("more.>", records=2)
    network.run()
    network.lose = lambda _, receiver, e: receiver is a and isinstance(e.body, Introduce)
    a.publish("more.x", b"0")
    network.run(SECOND // 20)
    network.lose = lambda *_: False
    network.run(2 * SECOND)
    for i in range(1, 9):
        a.publish("more.x", b"%d" % i)
        network.run()
    assert b.values(more) == [b"%d" % i for i in range(9)]
    assert b.missed.get(more, 0) == 0


def test_a_program_hears_of_the_node_from_those_who_are_at_it(network):
    Station(network, NODE)
    a, b = network.add("a", [NODE]), network.add("b", ["a"])
    network.run(5 * SECOND)
    assert (a.client.state, b.client.state) == ("connected", "connected")


def test_what_is_not_allowed_directly_comes_by_the_node(network):
    _, a, b, sub = met(network)
    create(a, "more.>")
    more = b.subscribe("more.>")
    network.run()
    for i in range(3):
        a.publish("more.x", b"%d" % i)
        a.publish("live.x", b"x%d" % i)
        network.run()
    assert b.values(more) == [b"0", b"1", b"2"]
    assert b.values(sub)[-3:] == [b"x0", b"x1", b"x2"]
    assert (b.missed.get(more, 0), b.missed.get(sub, 0)) == (0, 0)
    assert a.publish("more.x", b"3").route == ""  # not confirmed yet
    network.run()
    batch = a.publish("more.x", b"4")
    network.run()
    assert batch.route == "direct"  # by now the node allows it


def recreate(network, program, durability):
    program.client.command("topic.delete", b'{"topic":"live.x"}', network.now_ns)
    program.flush()
    network.run()
    create(program, "live.x", durability)


def published(network, program, numbers):
    for i in numbers:
        batch = program.publish("live.x", b"%d" % i)
        network.run()
        assert batch.state == DONE


def test_what_is_transient_again_is_no_repeat_of_what_it_was_before(network):
    _, a, b, sub = met(network)
    recreate(network, a, "durable")
    published(network, a, range(4, 9))
    recreate(network, a, "transient")
    published(network, a, range(9, 14))
    # 4 went directly, too, before the node said what the topic is now.
    assert b.values(sub) == [b"%d" % i for i in (1, 2, 3, 4, *range(4, 14))]
    assert b.missed[sub] == 4  # numbers of what came as the node kept it, which has others there


def test_nor_is_it_where_nodes_come_and_go_that_keep_it_or_not(network):
    node, a, b, sub = met(network)
    published(network, a, range(4, 6))
    for run, durability, numbers in (
        (b"N" * 16, "durable", range(6, 11)), (b"M" * 16, "transient", range(11, 16))
    ):  # fmt: skip
        network.kill(node)
        network.run(SECOND)
        node = Station(network, NODE, Disk(run))
        other = network.add(f"for {durability}", node=NODE)
        network.run()
        create(other, "live.>", durability)
        network.run(10 * SECOND)
        published(network, a, numbers)
    assert b.values(sub) == [b"%d" % i for i in range(1, 16)]


def test_those_who_are_gone_take_no_place_of_who_is_introduced_now(network):
    _, a, b = told(network, "a", "b")
    sub = b.subscribe("live.>")
    for i in range(limits.DIRECT_PEERS_MAX):
        gone = network.add(f"gone {i}", node=NODE)
        network.run(SECOND // 100)
        gone.publish("live.x", b"hello")
        network.run(SECOND // 100)
        gone.client.close(network.now_ns)
        gone.flush()
        network.kill(gone)
    network.run()
    for value in (b"1", b"2", b"3"):
        batch = a.publish("live.x", value)
        network.run()
    assert batch.route == "direct"
    assert b.values(sub)[-3:] == [b"1", b"2", b"3"]
    assert len(b.direct.links.permits.by_instance) == limits.DIRECT_PEERS_MAX


def test_what_was_on_its_way_when_less_was_allowed_comes(network):
    _, a, b, sub = met(network)
    run = a.client._identity.instance
    for value in (b"4", b"5"):
        a.publish("live.x", value)  # the node leaves it to the direct way
    # A node that was started again has not seen yet by what they met: its grant is a smaller one.
    b.direct.introduce(Introduce(run, "", (), ("other",), (), SECOND * 60), network.now_ns)
    b.flush()
    network.run(SECOND // 20)
    assert b.values(sub)[-2:] == [b"4", b"5"]
    for value in (b"6", b"7", b"8"):
        a.publish("live.x", value)
        network.run(SECOND // 20)
    assert b.values(sub)[3:] == [b"4", b"5", b"6", b"7", b"8"]
    assert b.missed.get(sub, 0) == 0
    assert a.direct.linked == 1


def test_what_one_may_give_no_longer_comes_by_the_node_whatever_else_is_wanted(network):
    _, a, b, sub = met(network)
    reader, publisher = b.client._identity.instance, a.client._identity.instance
    minute_ns = SECOND * 60
    # The publisher alone has heard yet that less is allowed, the reader that something else is.
    a.direct.introduce(Introduce(reader, "", (), ("other",), (), minute_ns), network.now_ns)
    patterns = ("live.>", "other")
    b.direct.introduce(Introduce(publisher, "", (), patterns, (), minute_ns), network.now_ns)
    b.subscribe("other")
    network.run()
    for value in (b"4", b"5"):
        a.publish("live.x", value)
        network.run()
    assert b.values(sub)[3:] == [b"4", b"5"]
    assert b.missed.get(sub, 0) == 0


def test_who_was_linked_keeps_his_permit_whoever_comes(network):
    _, a, b, _ = met(network)
    for i in range(2 * limits.DIRECT_PEERS_MAX):
        run = b"%16d" % i
        b.direct.introduce(Introduce(run, "", (), ("live.>",), (), SECOND * 60), network.now_ns)
    assert a.client._identity.instance in b.direct.links.permits.by_instance
    assert len(b.direct.links.permits.by_instance) == limits.DIRECT_PEERS_MAX


def test_who_wants_too_much_before_it_is_allowed_ends_the_link_alone(network):
    _, a, b, _ = met(network)
    (link,) = a.direct._by_link.values()
    for start, pattern, count in (
        (1000, "live.>", 1500),
        (3000, "late", 1),
        (4000, "live.>", 1500),
    ):
        wants = [Interest(start + i, SUBSCRIPTION, pattern, 0) for i in range(count)]
        frame = Interests(a.direct.wishes.version, False, tuple(wants), (), a.client.origin)
        a.direct.links.send(link, frame, network.now_ns)
    a.subscribe("late")
    network.run()
    create(a, "late")
    b.publish("late", b"1")  # the node allows it now
    network.run(SECOND // 20)
    assert b.client.state == "connected"
    assert any(reason.startswith("lost a") for _, reason in b.states)


def test_a_program_that_lists_two_nodes_is_at_the_other_one_when_its_own_is_gone(network):
    other = "tcp://127.0.0.1:5758"
    for seed in range(10):
        first = Station(network, NODE)
        a = network.add(f"a{seed}", [NODE, other])
        network.run(SECOND)
        assert a.client.state == "connected"
        Station(network, other, Disk(b"N" * 16))
        network.kill(first)
        network.run(2 * limits.LINK_SILENT_NS + 3 * SECOND)
        assert (a.client.state, a.client.node_address) == ("connected", other)
        del network.programs[other]
        network.kill(a)


def test_a_busy_instance_is_passed_over_whoever_has_made_it_busy(network):
    _, a, b = told(network, "a", "b")
    c = network.add("c", node=NODE)
    b.serve("s", lambda incoming: None)  # it never answers
    network.run()
    stuck = a.request("s", timeout_ns=60 * SECOND)  # by the node, which introduces the two
    network.run()
    assert a.direct.serves("s")
    c.serve("s", c.answer)
    network.run()
    calls = [a.request("s") for _ in range(4)]
    network.run(SECOND // 2)
    assert [(call.is_over, call.error) for call in calls] == [(True, None)] * 4
    assert not stuck.is_over


def test_what_was_begun_directly_and_then_asked_in_vain_may_have_been_done(network):
    _, a, b = told(network, "a", "b")
    b.serve("s", lambda incoming: None, concurrency=10)  # it never answers
    network.run()
    a.request("s")  # by the node, which introduces the two
    network.run()
    call = a.request("s", idempotent=True, timeout_ns=20 * SECOND)
    network.run(SECOND // 20)
    assert call.way == DIRECTLY
    network.kill(b)
    network.run(10 * SECOND)
    assert call.is_over
    assert (call.error.code, call.error.outcome) == ("link-lost", "unknown")


def test_what_was_on_its_way_directly_when_it_closes_may_have_come(network):
    a, b = network.add("a"), network.add("b", ["a"])
    network.run()
    b.subscribe("x")
    network.run()
    network.cuts = {(a, b)}
    batch = a.publish("x", b"1")
    network.cuts = set()
    a.client.close(network.now_ns)
    assert (batch.state, batch.error.outcome) == (FAILED, "unknown")
