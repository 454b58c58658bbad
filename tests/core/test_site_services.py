"""Requests in a site: which node gets them, and what comes back, whatever happens on the way."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.events import LinkClosed
from meshmq.frames import EACH, ONE, RETURNED, STREAM, Offer, Offers
from tests.core.site_requests import MS, SECOND, TOLD_NS, Asker, Server, is_idle, old_site

LOAD_NS = limits.OFFERS_NS + TOLD_NS
"""By then load is known at all nodes."""


def served_at(net, *places, concurrency=1):
    """One server at each of these nodes, known to all."""
    servers = [Server(net, node, f"{node.name}-server", concurrency=concurrency) for node in places]
    net.run(TOLD_NS)
    return servers


# -- which node -----------------------------------------------------------------------------------


def test_a_request_at_one_node_is_served_at_another():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b)
    asker = Asker(net, a)
    asked = asker.ask(b"q", headers=b"h", timeout=SECOND)
    net.run(TOLD_NS)
    ((row, value),) = server.came()
    assert (value, row.headers, row.service, row.registration) == (b"q", b"h", "", 1)
    assert SECOND - 20 * MS < row.remaining_ns <= SECOND
    server.answer(row, b"a")
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"a", True, "node-1-server")]
    assert is_idle(a)
    assert is_idle(b)


def test_the_own_node_comes_first_and_others_when_it_has_no_room():
    net, (a, b) = old_site(2)
    own, other = served_at(net, a, b, concurrency=2)
    asker = Asker(net, a)
    for i in range(5):
        asker.ask(b"%d" % i)
    net.run(TOLD_NS)
    assert own.values() == [b"0", b"1"]
    assert other.values() == [b"2", b"3"]
    # The last one waits for whoever has room first.
    assert len(a.node.services.by_name["s"].waiting) == 1


def test_what_waits_goes_to_whoever_has_room_first():
    net, (a, b) = old_site(2)
    own, other = served_at(net, a, b)
    asker = Asker(net, a)
    for value in (b"0", b"1", b"2", b"3"):
        asker.ask(value)
    net.run(TOLD_NS)
    assert own.values() == [b"0"]
    ((row, _),) = other.came()
    other.answer(row)
    net.run(TOLD_NS)
    assert other.values() == [b"2"]
    assert own.values() == []


def test_the_least_loaded_sibling_gets_it_and_equals_take_turns():
    net, (a, b, c) = old_site(3)
    small, large = Server(net, b, "b", concurrency=2), Server(net, c, "c", concurrency=16)
    net.run(TOLD_NS)
    asker = Asker(net, a)
    for _ in range(8):
        asker.ask()
    net.run(TOLD_NS)
    assert (len(small.came()), len(large.came())) == (0, 8)

    net, (a, b, c) = old_site(3)
    one, other = served_at(net, b, c, concurrency=8)
    asker = Asker(net, a)
    for _ in range(8):
        asker.ask()
    net.run(TOLD_NS)
    assert (len(one.came()), len(other.came())) == (4, 4)


def test_load_that_others_bring_is_told_and_counts():
    net, (a, b, c) = old_site(3)
    busy, free = served_at(net, b, c, concurrency=4)
    local = Asker(net, b)
    for _ in range(4):
        local.ask()
    net.run(LOAD_NS)
    held = busy.came()
    assert len(held) == 4
    asker = Asker(net, a)
    for _ in range(4):
        asker.ask()
    net.run(TOLD_NS)
    assert (len(busy.came()), len(free.came())) == (0, 4)
    for row, _ in held:
        busy.answer(row)
    net.run(LOAD_NS)
    for _ in range(4):
        asker.ask()
    net.run(TOLD_NS)
    assert (len(busy.came()), len(free.came())) == (4, 0)


def test_who_asks_where_nobody_serves_has_a_share_of_a_busy_sibling():
    """Else those who ask there would be served before it, for ever."""
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b, concurrency=2)
    local, far = Asker(net, b), Asker(net, a)
    for i in range(6):
        local.ask(b"local %d" % i)
    net.run(LOAD_NS)
    for i in range(6):
        far.ask(b"far %d" % i)
    net.run(LOAD_NS)
    for i in range(6, 9):
        local.ask(b"local %d" % i)
    order = []
    while rows := server.came():
        for row, value in rows:
            order.append(value)
            server.answer(row)
        net.run(LOAD_NS)
    assert sorted(order) == sorted(
        [b"local %d" % i for i in range(9)] + [b"far %d" % i for i in range(6)]
    )
    first_far = order.index(b"far 0")
    assert first_far < order.index(b"local 6")


def test_a_service_that_begins_or_ends_is_known_at_once():
    net, (a, b, c) = old_site(3)
    (server,) = served_at(net, b)
    for node in (a, c):
        assert list(node.node.services.by_name["s"].remotes) != []
    server.stop()
    net.run(TOLD_NS)
    for node in (a, b, c):
        assert node.node.services.by_name == {}


def test_nobody_serves_it_anywhere_is_told_at_once():
    net, (a, _) = old_site(2)
    asker = Asker(net, a)
    asked = asker.ask()
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, "no-responders", True, "")]


# -- two that are wrong about each other ----------------------------------------------------------


def test_a_request_never_goes_round_between_two_that_believe_the_other_serves_it():
    net, (a, b) = old_site(2)
    asker = Asker(net, a)
    for node, other in ((a, b), (b, a)):
        link = node.node.site.siblings[other.origin].link
        node.node.services.offer(link, Offer(9, "s", 1, 4, 4, 0), net.now_ns)
    frames = net.frames
    asked = asker.ask(timeout=5 * SECOND)
    net.run(TOLD_NS)
    assert net.frames - frames <= 8
    assert asker.replies() == []  # somebody may be on the way
    net.run(limits.STARTED_NS)
    assert asker.replies() == [(asked, "no-responders", True, "")]
    assert is_idle(a)
    assert is_idle(b)


def test_what_a_sibling_has_nobody_for_goes_to_another_one():
    net, (a, b, c) = old_site(3)
    (server,) = served_at(net, c)
    link = a.node.site.siblings[b.origin].link
    a.node.services.offer(link, Offer(9, "s", 1, 64, 64, 0), net.now_ns)
    asker = Asker(net, a)
    asked = asker.ask()
    net.run(TOLD_NS)
    assert server.answer_all() == 1
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"r", True, "node-2-server")]


def test_what_the_last_instance_gives_back_goes_to_another_node():
    net, (a, b, c) = old_site(3)
    (first,) = served_at(net, b, concurrency=1)
    asker = Asker(net, a)
    asked = asker.ask()
    net.run(TOLD_NS)
    ((row, _),) = first.came()
    (second,) = served_at(net, c)
    first.stop()
    first.fail(row, RETURNED)
    net.run(TOLD_NS)
    assert second.answer_all() == 1
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"r", True, "node-2-server")]


def test_what_waits_at_a_node_whose_last_instance_stops_goes_elsewhere():
    net, (a, b, c) = old_site(3)
    (first,) = served_at(net, b)
    local, far = Asker(net, b), Asker(net, a)
    local.ask(b"local")
    net.run(LOAD_NS)
    asked = far.ask(b"far")
    net.run(TOLD_NS)
    assert len(b.node.services.by_name["s"].guests) == 1
    (second,) = served_at(net, c)
    first.stop()
    net.run(TOLD_NS)
    assert second.answer_all() == 1
    net.run(TOLD_NS)
    assert far.replies() == [(asked, b"r", True, "node-2-server")]


# -- a node is lost -------------------------------------------------------------------------------


def lost_with_its_node(kind=ONE, begun=False, **more):
    """A request is at a node that dies; another one serves, too. What the requester hears, and
    whether the other was asked."""
    net, (a, b, c) = old_site(3)
    (server,) = served_at(net, b)
    asker = Asker(net, a)
    asker.ask(kind=kind, **more)
    net.run(TOLD_NS)
    ((row, _),) = server.came()
    if begun:
        server.answer(row, b"first", end=False)
        net.run(TOLD_NS)
        assert [value for _, value, _, _ in asker.replies()] == [b"first"]
    (other,) = served_at(net, c)
    net.kill(b)
    net.run(TOLD_NS)
    count = other.answer_all()
    net.run(TOLD_NS)
    assert is_idle(a)
    assert is_idle(c)
    return asker.rows(), count


def test_what_a_lost_node_had_is_told_with_its_name():
    ((row, _),), count = lost_with_its_node()
    assert (row.code, row.end, count) == ("instance-lost", True, 0)
    assert "node-1" in row.message
    assert "idempotent=True" in row.message


def test_what_may_be_done_twice_goes_to_another_node():
    ((row, value),), count = lost_with_its_node(idempotent=True)
    assert (row.code, value, row.instance, count) == ("", b"r", "node-2-server", 1)


def test_a_stream_that_has_begun_is_lost_with_its_node():
    ((row, _),), count = lost_with_its_node(STREAM, True, idempotent=True, window=1 << 20)
    assert (row.code, row.end, count) == ("instance-lost", True, 0)


def test_a_stream_that_has_not_begun_may_go_elsewhere():
    ((row, value),), count = lost_with_its_node(STREAM, idempotent=True, window=1 << 20)
    assert (row.code, value, count) == ("", b"r", 1)


def test_of_one_for_each_the_lost_node_is_an_error_among_the_replies():
    net, (a, b, c) = old_site(3)
    own, _, last = served_at(net, a, b, c)
    asker = Asker(net, a)
    asked = asker.ask(kind=EACH)
    net.run(TOLD_NS)
    own.answer_all(b"own")
    last.answer_all(b"last")
    net.kill(b)
    net.run(TOLD_NS)
    heard = asker.replies()
    assert sorted(heard[:-1], key=str) == sorted(
        [(asked, b"own", False, "node-0-server"), (asked, b"last", False, "node-2-server"),
         (asked, "instance-lost", False, "node-1")], key=str
    )  # fmt: skip
    assert heard[-1] == (asked, b"", True, "")
    assert is_idle(a)
    assert is_idle(c)


def test_an_instance_that_is_lost_at_another_node_is_lost_for_who_asked():
    for idempotent in (False, True):
        net, (a, b, c) = old_site(3)
        (server,) = served_at(net, b)
        asker = Asker(net, a)
        asked = asker.ask(idempotent=idempotent)
        net.run(TOLD_NS)
        assert len(server.came()) == 1
        (other,) = served_at(net, c)
        b.handle(LinkClosed(server.link, "gone"))
        net.run(TOLD_NS)
        assert other.answer_all() == idempotent
        net.run(TOLD_NS)
        told = b"r" if idempotent else "instance-lost"
        who = "node-2-server" if idempotent else ""
        assert [h for h in asker.replies() if h[3] == who] == [(asked, told, True, who)]


def test_three_nodes_may_lose_it_and_no_more():
    net, nodes = old_site(5)
    asker = Asker(net, nodes[0])
    asker.ask(idempotent=True, timeout=60 * SECOND)
    served_at(net, *nodes[1:])
    asker.take(object)
    asked = asker.ask(idempotent=True, timeout=60 * SECOND)
    begun = 0
    for _ in range(4):
        net.run(TOLD_NS)
        at = [n for n in nodes[1:] if n.node is not None and n.node.services._asked]
        if not at:
            break
        begun += 1
        net.kill(at[0])
    net.run(TOLD_NS)
    assert begun == limits.REQUEST_ATTEMPTS_MAX
    assert [h[:3] for h in asker.replies()] == [(asked, "instance-lost", True)]


def test_three_instances_of_a_sibling_may_lose_it_and_no_more():
    net, (a, b) = old_site(2)
    servers = [Server(net, b, f"s{i}") for i in range(6)]
    net.run(TOLD_NS)
    asker = Asker(net, a)
    asked = asker.ask(idempotent=True, timeout=60 * SECOND)
    begun = 0
    for _ in servers:
        net.run(TOLD_NS)
        for server in servers:
            if server.came():
                begun += 1
                b.handle(LinkClosed(server.link, "gone"))
    net.run(TOLD_NS)
    assert begun == limits.REQUEST_ATTEMPTS_MAX
    assert [h[:3] for h in asker.replies()] == [(asked, "instance-lost", True)]


def test_who_asks_is_lost_and_its_request_is_cancelled_over_two_hops():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b)
    asker = Asker(net, a)
    asker.ask()
    net.run(TOLD_NS)
    ((row, _),) = server.came()
    net.kill(a)
    net.run(TOLD_NS)
    assert server.cancelled() == [row.id]
    server.fail(row, "deadline-exceeded")
    net.run(TOLD_NS)
    assert is_idle(b)


# -- cancel, deadline, streams --------------------------------------------------------------------


def test_a_cancel_goes_on_and_the_place_is_free_for_what_waits():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b)
    asker = Asker(net, a)
    first, second = asker.ask(b"1"), asker.ask(b"2")
    net.run(TOLD_NS)
    ((row, value),) = server.came()
    assert value == b"1"
    asker.cancel(first)
    net.run(TOLD_NS)
    assert server.cancelled() == [row.id]
    assert server.came() == []  # its place is taken until it says otherwise
    server.fail(row, "deadline-exceeded")
    net.run(TOLD_NS)
    assert server.answer_all() == 1
    net.run(TOLD_NS)
    assert asker.replies() == [(second, b"r", True, "node-1-server")]
    assert is_idle(a)
    assert is_idle(b)


def test_at_its_deadline_the_requester_is_told_and_the_work_stopped():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b)
    asker = Asker(net, a)
    asked = asker.ask(timeout=300 * MS)
    net.run(TOLD_NS)
    ((row, _),) = server.came()
    net.run(300 * MS)
    assert asker.replies() == [(asked, "deadline-exceeded", True, "")]
    assert server.cancelled() == [row.id]
    server.answer(row, b"late")
    net.run(TOLD_NS)
    assert asker.replies() == []
    assert is_idle(a)
    assert is_idle(b)


def test_a_stream_over_two_hops_goes_as_far_as_it_is_granted():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b)
    asker = Asker(net, a)
    asked = asker.ask(kind=STREAM, window=100)
    net.run(TOLD_NS)
    ((row, _),) = server.came()
    assert (row.kind, row.window) == (STREAM, 100)
    server.answer(row, b"x" * 10, end=False)
    net.run(TOLD_NS)
    asker.grant(asked, 42)
    net.run(TOLD_NS)
    assert server.granted() == [(row.id, 42)]
    server.answer(row, b"y", end=False)
    server.answer(row, b"", end=True, has_value=False)
    net.run(TOLD_NS)
    assert asker.replies() == [
        (asked, b"x" * 10, False, "node-1-server"), (asked, b"y", False, "node-1-server"),
        (asked, b"", True, "node-1-server"),
    ]  # fmt: skip
    assert is_idle(a)
    assert is_idle(b)


def test_a_stream_that_outruns_its_grants_ends_the_session_of_its_instance_only():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b)
    asker = Asker(net, a)
    asked = asker.ask(kind=STREAM, window=10)
    net.run(TOLD_NS)
    ((row, _),) = server.came()
    server.answer(row, b"x" * 10, end=False)
    server.answer(row, b"x" * 10, end=False)
    net.run(TOLD_NS)
    heard = asker.replies()
    assert [h[1] for h in heard] == [b"x" * 10, "instance-lost"]
    assert heard[-1][:3] == (asked, "instance-lost", True)
    assert a.siblings() == [b.name]


# -- one of each ----------------------------------------------------------------------------------


def test_one_of_each_comes_from_all_instances_of_all_nodes():
    net, (a, b, c) = old_site(3)
    servers = [Server(net, node, f"{node.name}-{i}") for node in (a, b, c) for i in range(2)]
    net.run(TOLD_NS)
    asker = Asker(net, b)
    asked = asker.ask(kind=EACH)
    net.run(TOLD_NS)
    for server in servers[:-1]:
        assert server.answer_all(server.name.encode()) == 1
    ((row, _),) = servers[-1].came()
    net.run(TOLD_NS)
    heard = asker.replies()
    assert sorted(h[1] for h in heard) == sorted(s.name.encode() for s in servers[:-1])
    assert not any(h[2] for h in heard)
    servers[-1].fail(row, "service-error")
    net.run(TOLD_NS)
    assert asker.replies() == [
        (asked, "service-error", False, servers[-1].name), (asked, b"", True, "")
    ]  # fmt: skip
    assert is_idle(a)
    assert is_idle(b)
    assert is_idle(c)


def test_one_of_each_that_is_cancelled_is_cancelled_at_all_nodes():
    net, (a, b, c) = old_site(3)
    servers = served_at(net, a, b, c)
    asker = Asker(net, a)
    asked = asker.ask(kind=EACH)
    net.run(TOLD_NS)
    rows = [server.came()[0][0] for server in servers]
    asker.cancel(asked)
    net.run(TOLD_NS)
    assert [server.cancelled() for server in servers] == [[row.id] for row in rows]
    for server, row in zip(servers, rows, strict=True):
        server.fail(row, "deadline-exceeded")
    net.run(TOLD_NS)
    assert asker.replies() == []
    assert is_idle(a)
    assert is_idle(b)
    assert is_idle(c)


def test_of_one_of_each_a_sibling_without_instances_says_nothing():
    net, (a, b, c) = old_site(3)
    (server,) = served_at(net, c)
    link = a.node.site.siblings[b.origin].link
    a.node.services.offer(link, Offer(9, "s", 1, 4, 4, 0), net.now_ns)
    asker = Asker(net, a)
    asked = asker.ask(kind=EACH)
    net.run(TOLD_NS)
    server.answer_all()
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"r", False, "node-2-server"), (asked, b"", True, "")]


# -- who may be on the way ------------------------------------------------------------------------


def test_while_a_sibling_joins_a_request_waits_for_what_it_serves():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, a)
    net.kill(b)
    net.run(SECOND)
    b.start([a.address])
    asker = Asker(net, b)
    asked = asker.ask()
    assert net.run(limits.STARTED_NS, lambda: server.answer_all() == 1)
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"r", True, "node-0-server")]


def test_while_another_node_joins_a_request_waits_for_what_it_serves():
    net, (a, b) = old_site(2)
    c = net.add()
    c.start()
    Server(net, c, "c")
    net.run(2 * SECOND)
    c.node.site.look_for((a.address,), net.now_ns)
    c.end_turn()
    assert net.run(SECOND, lambda: c.origin in a.node.site.siblings)
    assert a.siblings() == [b.name]
    asker = Asker(net, a)
    asked = asker.ask()
    net.run(TOLD_NS)
    server = next(p for p in net.programs.values() if p.at is c)
    assert server.answer_all() == 1
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"r", True, "c")]


def test_the_programs_of_a_lost_node_may_be_on_their_way_to_another():
    net, (a, b) = old_site(2)
    served_at(net, b)
    asker = Asker(net, a)
    net.kill(b)
    net.run(TOLD_NS)
    asked = asker.ask()
    net.run(TOLD_NS)
    assert asker.replies() == []
    (moved,) = served_at(net, a)
    assert moved.answer_all() == 1
    net.run(TOLD_NS)
    assert asker.replies() == [(asked, b"r", True, "node-0-server")]


def test_they_are_waited_for_a_second_and_no_longer():
    net, (a, b) = old_site(2)
    served_at(net, b)
    asker = Asker(net, a)
    net.kill(b)
    net.run(TOLD_NS)
    asked, other = asker.ask(), asker.ask(service="never")
    net.run(TOLD_NS)
    assert asker.replies() == [(other, "no-responders", True, "")]
    net.run(limits.STARTED_NS)
    assert asker.replies() == [(asked, "no-responders", True, "")]
    assert is_idle(a)


# -- what is told ---------------------------------------------------------------------------------


def offers(net, nodes):
    """Counts frames with offers from now on."""
    found = []
    for node in nodes:
        links = node.node.site.links
        send = links.send

        def counted(link, body, now_ns, send=send):
            if isinstance(body, Offers):
                found.append(body)
            send(link, body, now_ns)

        links.send = counted
    return found


def test_who_is_idle_tells_nothing_and_a_lone_request_neither():
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b)
    told = offers(net, (a, b))
    asker = Asker(net, a)
    for _ in range(5):
        asker.ask()
        net.run(TOLD_NS)
        server.answer_all()
        net.run(SECOND)
    assert len(asker.replies()) == 5
    assert told == []


def test_load_is_told_no_more_often_than_it_may_be():
    net, (_, b) = old_site(2)
    (server,) = served_at(net, b)
    told = offers(net, (b,))
    asker = Asker(net, b)
    begun_ns = net.now_ns
    for _ in range(50):
        asker.ask()
        net.run(12 * MS)
        assert server.answer_all() == 1
        net.run(15 * MS)
    assert len(told) <= (net.now_ns - begun_ns) // limits.OFFERS_NS + 1


def test_a_thousand_services_are_told_in_a_few_frames_and_a_change_alone():
    net, (a, b) = old_site(2)
    for n in range(4):
        Server(net, b, f"server {n}", *[f"s{n}.{i}" for i in range(250)])
    net.run(LOAD_NS)
    assert len(a.node.services.by_name) == 1000
    net.kill(a)
    net.run(SECOND)
    told = offers(net, (b,))
    a.start([b.address])
    net.run(3 * SECOND)
    assert len(a.node.services.by_name) == 1000
    assert len(told) <= 4
    told.clear()
    Server(net, b, "one more", "other")
    net.run(LOAD_NS)
    assert [(len(frame.rows), frame.whole) for frame in told] == [(1, False)]


def test_a_frame_that_is_missing_is_asked_for():
    net, (a, b) = old_site(2)
    served_at(net, b)
    site, sibling = a.node.site, a.node.site.siblings[b.origin]
    heard = site.services._heard[b.origin]
    gone = Offers(heard.version + 2, rows=(Offer(77, "lost", 1, 1, 1, 0),))
    site.services.on_offers(sibling, gone, net.now_ns)
    a.end_turn()
    net.run(TOLD_NS)
    assert list(heard.offers) == ["s"]
    Server(net, b, "more", "t")
    net.run(TOLD_NS)
    assert sorted(heard.offers) == ["s", "t"]


def test_more_services_than_siblings_are_told_of(monkeypatch):
    monkeypatch.setattr(limits, "OFFERED_MAX", 2)
    net, (a, b) = old_site(2)
    server = Server(net, b, "server", "s1", "s2", "s3")
    net.run(TOLD_NS)
    assert sorted(a.node.services.by_name) == ["s1", "s2"]
    server.stop(1)
    net.run(TOLD_NS)
    assert sorted(a.node.services.by_name) == ["s2", "s3"]


def test_listings_show_all_nodes():
    net, (a, b, c) = old_site(3)
    served_at(net, a, c, concurrency=4)
    Server(net, b, "other", "t")
    asker = Asker(net, c)
    for _ in range(3):
        asker.ask()
    net.run(LOAD_NS)
    shown = {s["service"]: s["nodes"] for s in a.node.site.services.describe(net.now_ns)}
    row = {"instances": 1, "waiting": 0}
    assert shown == {
        "s": [{"node": "node-0", "concurrency": 4, "free": 4, **row},
              {"node": "node-2", "concurrency": 4, "free": 1, **row}],
        "t": [{"node": "node-1", "concurrency": 1, "free": 1, **row}],
    }  # fmt: skip


@pytest.mark.parametrize("kind", [ONE, EACH, STREAM])
def test_a_sibling_has_its_share_of_a_node_and_the_rest_waits(kind, monkeypatch):
    monkeypatch.setattr("meshmq.core.remotes._SHARE_BYTES", 3000)
    net, (a, b) = old_site(2)
    (server,) = served_at(net, b, concurrency=64)
    asker = Asker(net, a)
    for _ in range(12):
        asker.ask(kind=kind, window=1000)
    net.run(TOLD_NS)
    done = 0
    while rows := server.came():
        assert len(rows) <= 5
        for row, _ in rows:
            server.answer(row)
        done += len(rows)
        net.run(TOLD_NS)
    assert done == 12
    assert sum(h[2] for h in asker.replies()) == 12
    assert is_idle(a)
    assert is_idle(b)
