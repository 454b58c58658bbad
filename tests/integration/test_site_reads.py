"""Durable topics at a site of real nodes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

import meshmq
from meshmq import InvalidArgument


def write(node, topic, *values):
    with meshmq.connect(node.url, route="node") as mesh:
        mesh.publish_many(topic, list(values)).wait(10)


def take(sub, count):
    """So many messages, or the test has failed."""
    found = []
    while len(found) < count:
        more = sub.fetch(count - len(found), timeout=10)
        assert more, (len(found), count)
        found += more
    return found


def streams(messages):
    """Values by stream, each in the order they came, with offsets that follow each other."""
    found = {}
    for m in messages:
        mine = found.setdefault((m.topic, m.origin), [])
        assert m.offset == len(mine)
        mine.append(m.value)
    return sorted(found.values())


def test_a_replay_at_any_node_has_what_was_published_at_all(site):
    for node in site.nodes:
        write(node, "orders.eu", *[b"%s %d" % (node.name.encode(), i) for i in range(500)])
    want = [[b"%s %d" % (n.name.encode(), i) for i in range(500)] for n in site.nodes]
    for node in site.nodes:
        with meshmq.connect(node.url) as mesh, mesh.subscribe("orders.>", start="earliest") as sub:
            assert streams(take(sub, 1500)) == want
            assert (sub.missed, sub.away) == (0, ())


def test_new_is_what_is_published_from_now_on_at_every_node(site):
    one, two, three = site.nodes
    for node in site.nodes:
        write(node, "t", b"old")
    with meshmq.connect(one.url) as mesh, mesh.subscribe("t") as sub:
        write(three, "t", b"3")
        write(two, "t", b"2")
        write(one, "t", b"1")
        assert sorted(m.value for m in take(sub, 3)) == [b"1", b"2", b"3"]
        assert sub.fetch(1, timeout=0) == []


def test_a_time_counts_in_all_logs(site):
    for node in site.nodes:
        write(node, "t", b"before")
    time.sleep(0.002)  # clocks tell times apart
    now = datetime.now(UTC)
    for node in site.nodes:
        write(node, "t", node.name.encode())
    with (
        meshmq.connect(site.nodes[0].url) as mesh,
        mesh.subscribe("t", start=now) as sub,
    ):
        assert sorted(m.value for m in take(sub, 3)) == [b"node-1", b"node-2", b"node-3"]


def test_a_position_is_for_all_logs_at_whatever_node(site):
    for node in site.nodes:
        write(node, "t", *[b"%s %d" % (node.name.encode(), i) for i in range(20)])
    with (
        meshmq.connect(site.nodes[0].url) as mesh,
        mesh.subscribe("t", start="earliest") as sub,
    ):
        messages = take(sub, 60)
    for at in (0, 7, 20, 33, 58):
        position = messages[at].position
        rest = [m.value for m in messages[at + 1 :]]
        for node, start in zip(site.nodes, (position, str(position), position), strict=True):
            with meshmq.connect(node.url) as mesh, mesh.subscribe("t", start=start) as sub:
                assert sorted(m.value for m in take(sub, len(rest))) == sorted(rest)
                assert sub.fetch(1, timeout=0.05) == []


def test_whose_node_is_away_is_told_and_what_it_has_comes_later(site):
    one, two, _ = site.nodes
    write(two, "t", b"1", b"2")
    told = []
    with (
        meshmq.connect(one.url, on_state=told.append) as mesh,
        mesh.subscribe("t", start="earliest") as sub,
    ):
        assert [m.value for m in take(sub, 2)] == [b"1", b"2"]
        write(two, "t", b"3")
        assert [m.value for m in take(sub, 1)] == [b"3"]
        two.kill()
        deadline = time.monotonic() + 10
        while sub.away != ("node-2",):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with mesh.subscribe("t", start="earliest") as other:
            assert other.away == ("node-2",)
            two.start()
            write(two, "t", b"4")
            assert [m.value for m in take(sub, 1)] == [b"4"]
            assert [m.value for m in take(other, 4)] == [b"1", b"2", b"3", b"4"]
            assert (sub.away, other.away) == ((), ())
        assert any("node node-2 is away" in change.reason for change in told)


def test_the_asyncio_client_has_the_same(site):
    one, two, three = site.nodes
    write(two, "t", b"1")
    write(three, "t", b"2")

    async def main():
        async with (
            meshmq.aio.connect(one.url) as mesh,
            mesh.subscribe("t", start="earliest") as sub,
        ):
            found = []
            while len(found) < 2:
                found += await sub.fetch(2, timeout=10)
            assert sub.away == ()
            return found

    found = asyncio.run(main())
    assert sorted(m.value for m in found) == [b"1", b"2"]
    assert len({m.origin for m in found}) == 2


def until(is_true):
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("route", ["node", "auto"])
def test_what_is_much_is_read_at_its_own_node_and_by_our_own_when_that_dies(site, route):
    home, owner, _ = site.nodes
    found, count = [], 0

    def more():
        nonlocal count
        with meshmq.connect(owner.url, route="node") as writer:
            for _ in range(10):
                writer.publish_many("t", [b"%d" % i for i in range(count, count + 50)]).wait(10)
                count += 50
        found.extend(int(m.value) for m in take(sub, count - len(found)))

    with (
        meshmq.connect(home.url, route=route) as mesh,
        mesh.subscribe("t", start="earliest") as sub,
    ):
        until(lambda: more() or sub.direct == ("node-2",))
        more()
        with meshmq.connect(owner.url, route="node") as other:
            assert other.admin.status()["sessions"]["readers"] == 1
        owner.kill()
        until(lambda: sub.away == ("node-2",))
        assert sub.direct == ()
        owner.start()
        until(lambda: more() or sub.direct == ("node-2",))
        assert found == list(range(count))
        assert (sub.missed, sub.away) == (0, ())


def test_a_program_may_read_all_by_its_node(site):
    home, owner, _ = site.nodes
    with meshmq.connect(home.url, direct_reads=False) as mesh, mesh.subscribe("t") as sub:
        write(owner, "t", *[b"%0*d" % (1000, i) for i in range(500)])
        assert len(take(sub, 500)) == 500
        assert sub.direct == ()
    with pytest.raises(InvalidArgument, match="direct_reads"):
        meshmq.connect(home.url, direct_reads="no")
