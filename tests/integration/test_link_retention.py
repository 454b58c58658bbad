"""A site keeps its mirrors by its own word, set and changed in the settings of real nodes."""

from __future__ import annotations

import re
import signal

import pytest

import meshmq
from tests.integration.linked import until
from tests.integration.sites import ConfiguredNode
from tests.integration.test_cli_site import run
from tests.integration.test_cli_sites import links

SIZE = 20_000
COUNT = 200  # some 4 MB


@pytest.fixture
def sites(tmp_path):
    """A node of us, and one of eu that pulls from it."""
    nodes = [ConfiguredNode(tmp_path, name) for name in ("us-1", "eu-1")]
    yield nodes
    for node in nodes:
        assert node.stop() == 0, node.told


def set_link(node, other, *lines):
    """The settings of the only link of a node are these now."""
    text = f'[[link]]\nto = "{other.name[:2]}"\nendpoints = ["{other.nodes_url}"]\n'
    node.config.write_text("\n".join([text + 'topics = [">"]', *lines, ""]))
    node.signal(signal.SIGHUP)


def publish(node, topic, first, count, size=SIZE):
    with meshmq.connect(node.url, route="node") as mesh:
        values = [b"%d" % i + bytes(size) for i in range(first, first + count)]
        for i in range(0, count, 20):
            mesh.publish_many(topic, values[i : i + 20]).wait(20)


def first(node, topic, end):
    """The first offset of a topic that a reader gets at a node, which has all from there to
    ``end``."""
    with (
        meshmq.connect(node.url, route="node") as mesh,
        mesh.subscribe(topic, start="earliest") as sub,
    ):
        found = []
        while not found or found[-1] < end - 1:
            batch = sub.fetch(50, timeout=20)
            assert batch, f"nothing came behind {found[-1:]}"
            found += [msg.offset for msg in batch]
    assert found == [*range(found[0], end)]
    return found[0]


def begin_of(node, topic):
    """The first offset that a reader gets now; more may go while it reads."""
    with (
        meshmq.connect(node.url, route="node") as mesh,
        mesh.subscribe(topic, start="earliest") as sub,
    ):
        return sub.fetch(1, timeout=20)[0].offset


def kept_from(node, topic):
    """The same of its own log, as the node says it."""
    with meshmq.connect(node.url, route="node") as mesh:
        return mesh.admin.topics.show(topic)["first_offset"]


def logs(node):
    """Those that are mirrored there."""
    return [log for row in links(node) for log in row["logs"]]


def restart(node):
    assert node.stop() == 0, node.told
    node.start()


def test_a_retention_of_a_link_holds_at_once_over_restarts_and_until_it_is_taken_out(sites):
    us, eu = sites
    set_link(eu, us)
    publish(us, "flights.a", 0, COUNT)
    assert first(eu, "flights.a", COUNT) == 0
    set_link(eu, us, 'retention = "7d"', 'retention_bytes = "1MB"')
    until(lambda: begin_of(eu, "flights.a") > COUNT // 2, 30)
    begin = first(eu, "flights.a", COUNT)
    assert kept_from(us, "flights.a") == 0
    shown = run(eu, "link", "show", "us")[0]
    assert re.search("\nretention: +7 days, 1,000,000 bytes of each topic\n", shown), shown
    assert "less than there" in shown
    restart(eu)
    publish(us, "flights.a", COUNT, 50)
    assert first(eu, "flights.a", COUNT + 50) >= begin
    publish(us, "flights.b", 0, 1)
    publish(eu, "flights.b", 0, 1)
    until(lambda: "7 days, 1,000,000 by" in run(eu, "topic", "show", "flights.b")[0], 20)
    set_link(eu, us)  # what the owner keeps
    until(lambda: "retention:" not in run(eu, "link", "show", "us")[0], 30)
    begin = first(eu, "flights.a", COUNT + 50)
    publish(us, "flights.a", COUNT + 50, 150)
    assert first(eu, "flights.a", COUNT + 200) == begin


def test_a_site_keeps_what_the_other_one_has_trimmed(sites):
    us, eu = sites
    set_link(eu, us, 'retention = "30d"')
    publish(us, "flights.a", 0, COUNT)
    assert first(eu, "flights.a", COUNT) == 0
    with meshmq.connect(us.url, route="node") as mesh:
        mesh.admin.topics.create("flights.a", retention_bytes="1MB")
    until(lambda: kept_from(us, "flights.a") > COUNT // 2, 30)
    publish(us, "flights.a", COUNT, 20)
    assert first(eu, "flights.a", COUNT + 20) == 0


def test_what_goes_first_and_since_when_are_changed_in_the_settings(sites):
    us, eu = sites
    publish(us, "flights.a", 0, 5, 10)
    set_link(eu, us, 'since = "2020-01-01"')
    until(lambda: logs(eu), 20)
    assert logs(eu)[0]["since"] > 1_500_000_000 * 10**9
    set_link(eu, us, 'priority = ["audit.>", "flights.>"]')
    until(lambda: links(eu)[0]["priority"] == ["audit.>", "flights.>"], 20)
    until(lambda: [log["strands"] for log in logs(eu)] == [4], 20)
    publish(us, "audit.a", 0, 10, 10)
    publish(us, "other", 0, 10, 10)
    # `since` is what a mirror began with: one that is there has what it has.
    assert logs(eu)[0]["since"] > 1_500_000_000 * 10**9
    set_link(eu, us, 'priority = ["flights.>"]')
    until(lambda: links(eu)[0]["priority"] == ["flights.>"], 20)
    set_link(eu, us)
    until(lambda: links(eu)[0]["priority"] == [], 20)
