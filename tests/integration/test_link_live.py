"""Three sites of real nodes: what is live over a link between them."""

from __future__ import annotations

import signal
import time

import pytest

import meshmq
from tests.integration.linked import until
from tests.integration.sites import SiteProcess


def write(node, *links):
    """Its configuration: (site, its nodes, more lines) each."""
    text = ""
    for to, others, more in links:
        places = ", ".join(f'"{other.nodes_url}"' for other in others)
        text += f'[[link]]\nto = "{to}"\nendpoints = [{places}]\ntopics = []\n{more}\n'
    node.config.write_text(text)
    node.signal(signal.SIGHUP)


@pytest.fixture
def three(tmp_path):
    """eu of two nodes, us and ap of one: us has eu's prices live, ap has us's."""
    nodes = {}
    for name in ("eu-1", "eu-2", "us-1", "ap-1"):
        site = name[:2]
        config = tmp_path / f"{name}.toml"
        config.write_text("")
        peers = (nodes["eu-1"].nodes_url,) if name == "eu-2" else ()
        more = ("--site", site, "--config", str(config))
        nodes[name] = SiteProcess(tmp_path / name, name, peers, *more)
        nodes[name].config = config
    live = 'live = ["prices.>"]'
    write(nodes["us-1"], ("eu", [nodes["eu-1"], nodes["eu-2"]], live))
    write(nodes["ap-1"], ("us", [nodes["us-1"]], live))
    yield nodes
    for node in nodes.values():
        assert node.stop() == 0, node.told


def links(node):
    with meshmq.connect(node.url, route="node") as mesh:
        return {row["to"]: row for row in mesh.admin.status()["site"]["links"]}


def numbers(sub, count):
    """Values and sites of so many records, and that no more come."""
    found = []
    deadline = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += sub.fetch(count, timeout=1)
    found += sub.fetch(1, timeout=0.3)
    return [(int(m.value), m.site) for m in found]


def test_live_topics_cross_one_link_with_the_name_of_their_site(three):
    eu, us, ap = three["eu-1"], three["us-1"], three["ap-1"]
    until(lambda: links(us)["eu"]["nodes"] == ["eu-1", "eu-2"], 20)
    until(lambda: links(ap)["us"]["state"] == "linked", 20)
    with (
        meshmq.connect(eu.url, route="node") as writer,
        meshmq.connect(us.url, route="node") as at_us,
        meshmq.connect(ap.url, route="node") as at_ap,
        at_us.subscribe("prices.>") as reader,
        at_us.subscribe("prices.>", scope="site") as own,
        at_ap.subscribe("prices.>") as beyond,
    ):
        writer.admin.topics.create("prices.a", durability="transient")
        at_us.admin.topics.create("prices.a", durability="transient")
        # It does not wait for other sites: so until the first one comes.
        until(
            lambda: writer.publish("prices.a", b"0").wait(10) and reader.fetch(1, timeout=0.2), 20
        )
        reader.fetch(100, timeout=0.5)
        writer.publish_many("prices.a", [b"%d" % i for i in range(1, 501)]).wait(20)
        assert numbers(reader, 500) == [(i, "eu") for i in range(1, 501)]
        assert reader.missed == 0
        at_us.publish("prices.a", b"7").wait(10)
        assert numbers(reader, 1) == [(7, None)]
        assert numbers(own, 1) == [(7, None)]
        until(lambda: at_us.publish("prices.a", b"8").wait(10) and beyond.fetch(1, timeout=0.2), 20)
        assert {m.site for m in beyond.fetch(100, timeout=0.5)} <= {"us"}
    assert links(us)["eu"]["live_received"] >= 501
