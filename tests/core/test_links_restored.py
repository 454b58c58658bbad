"""A backup of a node's disk that is put back, where other sites have mirrors of its log."""

from __future__ import annotations

import copy

import pytest

from meshmq.frames import Confirm
from meshmq.frames_copies import LogOffer, LogOffers, Strand
from meshmq.limits import MS, SECOND
from tests.core.sites import Program
from tests.core.test_replication import begin, fill, linked


def answers(program):
    return [c for frame in program.take(Confirm) for c in frame.confirmations]


def restored(early=5, late=5, sites=("eu", "us")):
    """Sites that mirror each other, of which eu was killed and has an older disk: (network, eu,
    the others)."""
    net, found = linked(*sites)
    eu, others = found["eu"][0], [found[site][0] for site in sites if site != "eu"]
    fill(net, eu, early)
    net.run(2 * SECOND)
    old = copy.deepcopy(eu.disk)
    fill(net, eu, late, first=early)
    net.run(2 * SECOND)
    net.kill(eu)
    if late:
        eu.disk = old
    eu.far_nodes = len(others)
    return net, eu, others


@pytest.mark.parametrize("sites", [("eu", "us"), ("eu", "us", "ap")])
def test_a_node_takes_no_records_before_its_links_have_shown_that_its_disk_is_old(sites):
    net, eu, others = restored(sites=sites)
    if len(others) > 1:  # one that is nearer and has nothing
        net.kill(others[1])
        others[1].disk = type(eu.disk)(b"x" * 16)
        begin(others[1])
    begin(eu)
    program = Program(net, eu)
    codes = []
    for first in range(1, 40):
        program.publish("orders.eu", b"new", first=first)
        net.run(50 * MS)
        codes += [c.code for c in answers(program)]
    assert set(codes) <= {"busy", "log-behind"}
    assert codes[-1] == "log-behind"
    (news,) = [line for line in eu.node.site.links.news if "log renew" in line]
    assert f"node us/{others[0].name} knows of a copy of it" in news


def test_a_node_whose_links_are_cut_takes_records_soon_all_the_same():
    net, eu, (us,) = restored(late=0)
    net.kill(us)
    begin(eu)
    program = Program(net, eu)
    program.publish("orders.eu", b"new")
    net.run(4 * SECOND)
    assert [c.code for c in answers(program)] == ["busy"]
    net.run(2 * SECOND)
    program.publish("orders.eu", b"new", first=1)  # again, as programs do
    net.run(SECOND)
    assert [c.code for c in answers(program)] == [""]


def test_a_mirror_of_which_one_part_goes_further_than_the_log_shows_it_too():
    net, eu, _ = restored(late=0)
    begin(eu)
    net.run(2 * SECOND)
    (far,) = eu.node.site.far.values()
    claim = (("orders.>",), ())
    strands = (Strand(0, 0, 1, 0, (claim,)), Strand(1, 1, 500, 0, (claim,)))
    row = LogOffer(eu.origin, eu.name, eu.site, 1, 0, *claim, (), strands)
    eu.node.site.replication.on_body(far, LogOffers((row,)), net.now_ns)
    assert eu.node.site.copies.own.behind.lsn == 500
