"""A site of real nodes."""

from __future__ import annotations

import shutil
import signal
import time

import pytest

import meshmq
from tests.integration.sites import LocalSite, SiteProcess


@pytest.fixture
def site(tmp_path):
    made = LocalSite(tmp_path, 3)
    made.wait_joined()
    yield made
    made.stop()


def test_nodes_join_and_one_that_was_killed_comes_back(site):
    one, two, _ = site.nodes
    two.kill()
    site.wait_joined()
    assert one.siblings() == ["node-3"]
    two.start()
    site.wait_joined()
    assert one.siblings() == ["node-2", "node-3"]


def test_a_node_that_stands_still_is_missed_and_taken_back(site):
    one, two, three = site.nodes
    two.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while one.siblings() != ["node-3"] or three.siblings() != ["node-1"]:
        assert time.monotonic() < deadline
    two.signal(signal.SIGCONT)
    site.wait_joined()


def test_what_may_be_lost_goes_from_node_to_node(site):
    one, two, three = site.nodes
    with (
        meshmq.connect(one.url, route="node") as here,
        meshmq.connect(two.url, route="node") as there,
        meshmq.connect(three.url, route="node") as third,
    ):
        for mesh in (here, there, third):
            mesh.admin.topics.create("live.>", durability="transient")
        with there.subscribe("live.>") as sub, third.subscribe("live.eu") as other:
            here.publish_many("live.eu", [b"%d" % i for i in range(1000)])
            here.publish("live.us", b"x").wait(5)
            got = [m.value for m in (sub.fetch(2000, timeout=0.2) or []) if m.topic == "live.eu"]
            while len(got) < 1000:
                more = sub.fetch(2000, timeout=5)
                assert more
                got += [m.value for m in more if m.topic == "live.eu"]
            assert got == [b"%d" % i for i in range(1000)]
            seen = []
            while len(seen) < 1000:
                more = other.fetch(2000, timeout=5)
                assert more
                seen += [m.value for m in more]
            assert seen == got


def test_a_copied_data_directory_is_refused_in_words_on_both_sides(site, tmp_path):
    one, two, _ = site.nodes
    two.kill()
    shutil.copytree(two.data, tmp_path / "copy")
    two.start()
    site.wait_joined()
    copy = SiteProcess(tmp_path / "copy", "copy", (one.nodes_url, two.nodes_url))
    try:
        deadline = time.monotonic() + 10
        while not _refusals(two) or not _refusals(copy):
            assert time.monotonic() < deadline
        assert copy.siblings() == []
        assert "copies of one data directory" in _refusals(two)
    finally:
        copy.stop()
    assert "data directory" in copy.told
    two.stop()
    assert "copies of one data directory" in two.told


def _refusals(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return " ".join(mesh.admin.status()["site"]["refused"].values())
