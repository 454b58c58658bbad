"""Two sites of real nodes that mirror each other's topics, as nodes are killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

import meshmq
from tests.integration.sites import ConfiguredNode

RECORDS = 3000


def meshmq_command(*words):
    argv = [sys.executable, "-m", "meshmq", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def link(node, to, others, topics='["flights.>"]'):
    """Has a node pull from another site, by its configuration."""
    places = ", ".join(f'"{other.nodes_url}"' for other in others)
    text = f'[[link]]\nto = "{to}"\nendpoints = [{places}]\ntopics = {topics}\n'
    node.config.write_text(text)
    node.signal(signal.SIGHUP)


@pytest.fixture
def pair(tmp_path):
    """Two nodes, of two sites, that pull from each other."""
    nodes = eu, us = [ConfiguredNode(tmp_path, name) for name in ("eu-1", "us-1")]
    link(eu, "us", [us])
    link(us, "eu", [eu])
    yield eu, us
    for node in nodes:
        assert node.stop() == 0, node.told


def everything(node, count, topic="flights.>"):
    """All that is read there: (topic, offset, value), in order."""
    found = []
    deadline = time.monotonic() + 40
    with (
        meshmq.connect(node.url, route="node") as mesh,
        mesh.subscribe(topic, start="earliest") as s,
    ):
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} came"
            found += s.fetch(10_000, timeout=1)
        found += s.fetch(10_000, timeout=0.5)
    return sorted((m.topic, m.offset, bytes(m.value)) for m in found)


def test_both_sites_have_the_same_records_at_the_same_offsets_over_kills(pair):
    eu, us = pair
    sent = {node.name: [] for node in pair}

    def publish(first):
        for node in pair:
            values = [b"%s %d" % (node.name.encode(), i) for i in range(first, first + RECORDS)]
            with meshmq.connect(node.url, route="node") as mesh:
                mesh.publish_many(f"flights.{node.name}", values).wait(20)
            sent[node.name] += values

    publish(0)
    for round_, victim in enumerate((eu, us), 1):
        victim.kill()
        victim.start()
        publish(round_ * RECORDS)
    total = sum(map(len, sent.values()))
    there = [everything(node, total) for node in pair]
    assert there[0] == there[1]
    for name, values in sent.items():
        mine = [row for row in there[0] if row[0] == f"flights.{name}"]
        assert [row[1] for row in mine] == list(range(len(values)))
        assert [row[2] for row in mine] == values


def test_a_reader_goes_on_at_the_other_site_where_it_was(pair):
    eu, us = pair
    values = [b"%d" % i for i in range(RECORDS)]
    with meshmq.connect(eu.url, route="node") as mesh:
        mesh.publish_many("flights.a", values[: RECORDS // 2]).wait(20)
        mesh.publish_many("flights.a", values[RECORDS // 2 :]).wait(20)
        with mesh.subscribe("flights.a", start="earliest") as sub:
            first = sub.fetch(100, timeout=20)
    with (
        meshmq.connect(us.url, route="node") as mesh,
        mesh.subscribe("flights.a", start=first[-1].position) as sub,
    ):
        rest = []
        while len(first) + len(rest) < RECORDS:
            more = sub.fetch(RECORDS, timeout=20)
            assert more
            rest += more
    assert [m.value for m in first + rest] == values


def test_messages_name_their_site_and_a_scope_leaves_others_out(pair):
    us = pair[1]
    for node in pair:
        with meshmq.connect(node.url, route="node") as mesh:
            mesh.publish("flights.a", node.name.encode()).wait(20)
    with meshmq.connect(us.url, route="node") as mesh:
        with mesh.subscribe("flights.a", start="earliest") as sub:
            got = [sub.fetch(1, timeout=20)[0] for _ in range(2)]
        assert sorted((m.site, m.value) for m in got) == [("eu", b"eu-1"), ("us", b"us-1")]
        with mesh.subscribe("flights.a", start="earliest", scope="site") as sub:
            assert [m.site for m in sub.fetch(2, timeout=1)] == ["us"]
        with pytest.raises(meshmq.InvalidArgument, match="scope is 'site' or 'all'"):
            mesh.subscribe("flights.a", scope="world")
    for scope, sites in (("site", {"us"}), ("all", {"eu", "us"})):
        told = meshmq_command(
            "sub", "flights.a", "--from", "earliest", "--count", str(len(sites)), "--json",
            "--scope", scope, "--url", us.url,
        )  # fmt: skip
        assert {json.loads(line)["site"] for line in told.stdout.splitlines()} == sites


def test_the_topics_that_are_wished_come_and_no_others(pair):
    eu, us = pair
    with meshmq.connect(eu.url, route="node") as mesh:
        mesh.publish("other.a", b"x").wait(20)
        mesh.publish("flights.a", b"y").wait(20)
    assert [row[2] for row in everything(us, 1, ">")] == [b"y"]
    with meshmq.connect(us.url, route="node") as mesh:
        (row,) = mesh.admin.status()["site"]["links"]
    assert (row["to"], row["nodes"]) == ("eu", ["eu-1"])
    assert [(log["name"], log["received"]) for log in row["logs"]] == [("eu/eu-1", 1)]


def test_a_receipt_waits_for_the_other_site_and_says_what_it_waits_for(pair):
    eu, us = pair
    with meshmq.connect(eu.url, route="node") as mesh:
        receipt = mesh.publish("flights.a", b"x", durability="mirrored:1").wait(30)
        assert (receipt.durability, receipt.offset) == ("mirrored:1", 0)
        many = mesh.publish_many("flights.a", [b"%d" % i for i in range(500)],
                                 durability="mirrored:1").wait(30)  # fmt: skip
        assert {r.durability for r in many} == {"mirrored:1"}
        assert len(everything(us, 501)) == 501
        lone = mesh.publish("other", b"x", durability="mirrored:1")
        with pytest.raises(meshmq.DurabilityTimeout, match="does not mirror topic 'other'") as e:
            lone.wait(5)
        assert e.value.receipt.offset == 0
        assert "not mirrored:1 within 5 s: too few other sites have synced it" in str(e.value)
        two = mesh.publish("flights.a", b"y", durability="mirrored:2")
        with pytest.raises(meshmq.DurabilityTimeout, match="1 of 2 sites has it: us"):
            two.wait(5)
        pair_of = mesh.publish_many("flights.a", [b"1", b"2"], durability="mirrored:2")
        with pytest.raises(
            meshmq.DurabilityTimeout, match=r"not mirrored:2 within (1|1\.0|0\.\d{1,3}) s:"
        ):
            pair_of.wait(1)
        assert repr(two).endswith("durability='synced', waiting to be mirrored:2)")
        shown = meshmq_command("topic", "show", "other", "--url", eu.url)
        assert "1 batch waits to be mirrored at 1 site: 0 of 1 sites have it" in shown.stderr
    words = ("--url", eu.url, "--durability")
    done = meshmq_command("pub", "flights.a", "z", *words, "mirrored:1")
    assert (done.returncode, "mirrored:1" in done.stdout) == (0, True), done.stderr
    bad = meshmq_command("pub", "flights.a", "z", *words, "mirrored:0")
    assert bad.returncode == 2
    assert "1 to 16" in " ".join(bad.stderr.split())
    put = meshmq_command("queue", "put", "flights.jobs", "z", *words, "mirrored:1")
    assert (put.returncode, "mirrored:1" in put.stdout) == (0, True), put.stderr
