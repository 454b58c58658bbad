"""What two sites have of one log is compared by sums, from their disks: each difference is found,
with the side that is wrong."""

from __future__ import annotations

import json

import pytest

from meshmq import limits
from meshmq.frames import Command, Result
from meshmq.limits import MS, SECOND
from tests.core.sites import Program
from tests.core.test_copies import flip
from tests.core.test_replication import fill, linked


class Verifier:
    """A program that asks step by step."""

    def __init__(self, net, node):
        self.net, self.node = net, node
        self.program = Program(net, node)
        self.count = 0

    def step(self, place=None, site="us", **more):
        self.count += 1
        said = {"site": site, "topic": None, "place": place, **more}
        self.program.send(Command(self.count, "link.verify", json.dumps(said).encode()))
        assert self.net.run(90 * SECOND, lambda: self.program.find(Result))
        (result,) = self.program.take(Result)
        return result if result.code else json.loads(result.body)

    def all(self, **more):
        """(differences, records that were compared)."""
        found, records, place = [], 0, None
        while True:
            step = self.step(place, **more)
            found += step["differences"]
            if step["done"]:
                return found, records
            place, records = step["place"], records + step["records"]


def pair(count=30):
    net, sites = linked("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, count)
    fill(net, us, count, "orders.us")
    fill(net, eu, 3, "not.wished")
    net.run(3 * SECOND)
    return net, eu, us


@pytest.fixture(params=[limits.VERIFY_PART_BYTES, 3])
def parts(request, monkeypatch):
    """Large parts, and such that a range has many, and a stream many ranges."""
    monkeypatch.setattr(limits, "VERIFY_PART_BYTES", request.param)
    monkeypatch.setattr(limits, "VERIFY_RANGE_BYTES", 4 * request.param)


def test_what_is_equal_is_equal(parts):
    net, eu, _ = pair()
    found, records = Verifier(net, eu).all()
    assert (found, records) == ([], 60)
    found, records = Verifier(net, eu).all(topic="orders.eu")
    assert (found, records) == ([], 30)


@pytest.mark.parametrize("side", ["here", "there"])
def test_each_damaged_batch_is_named_with_its_side_and_mended(parts, side):
    net, eu, us = pair()
    at = eu if side == "here" else us
    for commit in at.disk.commits[2:]:
        for slot, batch in enumerate(commit.batches):
            stream = at.disk.state.streams[batch.stream].topic
            if not stream.name.startswith("orders"):
                continue
            at.disk.flipped.add((commit.lsn, slot))
            found, _ = Verifier(net, eu).all()
            (row,) = found
            assert (row["topic"], row["offset"], row["count"]) == (
                stream.name, batch.base_offset, batch.count,
            )  # fmt: skip
            others = {"here": "whole", "there": "whole", side: "damaged"}
            assert (row["here"], row["there"]) == (others["here"], others["there"])
            net.run(2 * SECOND)
            assert not at.disk.flipped
    assert Verifier(net, eu).all()[0] == []


def test_what_is_damaged_on_both_sides_is_told(parts):
    net, eu, us = pair()
    flip(eu.disk, "orders.eu", 7)
    flip(us.disk, "orders.eu", 7, eu.origin)
    ((row,), _) = Verifier(net, eu).all()
    assert (row["offset"], row["here"], row["there"]) == (7, "damaged", "damaged")


def test_what_is_whole_and_differs_is_told(parts):
    net, eu, us = pair()
    for i, commit in enumerate(us.disk.commits):
        for slot, b in enumerate(commit.batches):
            if us.disk.state.streams[b.stream].topic.name == "orders.eu" and b.base_offset == 5:
                changed = list(commit.batches)
                changed[slot] = b._replace(payload=b.payload[:-1] + b"?")
                us.disk.commits[i] = commit._replace(batches=tuple(changed))
    ((row,), _) = Verifier(net, eu).all()
    assert (row["offset"], row["here"], row["there"]) == (5, "whole", "whole")
    assert row["log"] == eu.name


def test_live_traffic_and_a_mirror_that_is_behind_are_no_difference(parts):
    net, eu, us = pair()
    verifier = Verifier(net, eu)
    place, program = None, Program(net, eu)
    for i in range(40):
        program.publish("orders.eu", b"live %d" % i)
        step = verifier.step(place)
        assert step["differences"] == []
        if step["done"]:
            break
        place = step["place"]
    assert step["done"]
    net.cut(us, eu, one_way=True)
    program.publish("orders.eu", b"not there")
    net.run(100 * MS)
    net.heal()
    assert verifier.all()[0] == []


def test_a_link_that_is_not_there_or_ends_is_told():
    net, eu, us = pair()
    verifier = Verifier(net, eu)
    assert "not linked with site 'asia' now; it is with us" in verifier.step(site="asia").message
    net.cut(eu, us)
    assert "the comparison with us/node-1 stopped" in verifier.step().message
    assert verifier.step({"a": 1}, site="us").code


@pytest.mark.parametrize("side", ["eu", "us"])
def test_all_is_compared_of_a_topic_that_came_by_several_strands(parts, side):
    net, eu, us = pair(12)
    (wish,) = net.links_of[us]
    for i, priority in enumerate([("orders.eu",), (), ("orders.us", "orders.eu")]):
        us.node.site.set_links((wish._replace(priority=priority),), net.now_ns)
        us.end_turn()
        fill(net, eu, 12, first=12 + 12 * i)
        net.run(3 * SECOND)
    mirror = us.node.site.copies.mirrors.by_origin[eu.origin]
    assert max(map(len, mirror.topics.by_source.values())) > 1
    asks, other = (eu, "us") if side == "eu" else (us, "eu")
    assert Verifier(net, asks).all(site=other, topic="orders.eu") == ([], 48)
    for offset in (3, 35, 36, 46):
        flip(us.disk, "orders.eu", offset, eu.origin)
        found, records = Verifier(net, asks).all(site=other, topic="orders.eu")
        assert ([row["offset"] for row in found], records) == ([offset], 48)
        net.run(2 * SECOND)
    assert Verifier(net, asks).all(site=other, topic="orders.eu") == ([], 48)
