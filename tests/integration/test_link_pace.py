"""Links of real nodes: thin lines, budgets, compression."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest

import meshmq
from meshmq.testing.relay import Relay
from tests.integration.sites import SiteProcess
from tests.integration.test_site_links import everything

THIN = 125_000  # bytes per second: 1 Mbit/s


def until(is_true, timeout=60.0):
    end = time.monotonic() + timeout
    while not (found := is_true()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)
    return found


@pytest.fixture
def eu(tmp_path):
    node = SiteProcess(tmp_path / "eu", "eu-1", (), "--site", "eu")
    yield node
    assert node.stop() == 0, node.told


@pytest.fixture
def us(tmp_path):
    config = tmp_path / "us.toml"
    config.write_text("")
    node = SiteProcess(tmp_path / "us", "us-1", (), "--site", "us", "--config", str(config))
    node.config = config
    yield node
    assert node.stop() == 0, node.told


def pull(node, url, **more):
    lines = [f"{key} = {json.dumps(value)}" for key, value in more.items()]
    node.config.write_text("\n".join(["[[link]]", 'to = "eu"', f'endpoints = ["{url}"]',
                                      'topics = ["flights.>"]', *lines]))  # fmt: skip
    node.signal(signal.SIGHUP)


def link_of(mesh):
    """As status has it; until the node has read its configuration there is none."""
    rows = mesh.admin.status()["site"]["links"]
    return rows[0] if rows else {"state": "", "logs": []}


def test_a_line_that_one_record_fills_for_long_is_not_taken_for_dead(eu, us):
    values = [random.Random(i).randbytes(600_000) for i in range(2)]  # 4.8 s each: a link is lost
    with Relay(0.01, THIN) as relay, meshmq.connect(us.url, route="node") as at_us:  # after 3 s
        pull(us, relay.to(eu.nodes_url))
        until(lambda: link_of(at_us)["state"] == "linked")
        with meshmq.connect(eu.url, route="node") as at_eu:
            for value in values:
                at_eu.publish("flights.a", value).wait(10)
        assert [value for _, _, value in everything(us, 2)] == values
        stats = relay.stats()
        assert stats["accepted"] == stats["connections"] == 2  # control and data, as at first
        assert max(stats["carried"]) < 1.2 * sum(map(len, values))  # nothing was sent twice


def test_what_crosses_compressed_costs_little_of_the_line_and_is_what_was_published(eu, us):
    values = [b'{"flight": "LH%d", "gate": "A%d", "state": "boarding"}' % (i, i % 60)
              for i in range(5000)]  # fmt: skip
    with Relay() as relay, meshmq.connect(us.url, route="node") as at_us:
        with meshmq.connect(eu.url, route="node") as at_eu:
            for i in range(0, len(values), 100):
                at_eu.publish_many("flights.a", values[i : i + 100]).wait(10)
        pull(us, relay.to(eu.nodes_url), compression="zstd")
        until(lambda: sum(log["received"] for log in link_of(at_us)["logs"]) == len(values))
        assert [value for _, _, value in everything(us, len(values))] == values
        assert max(relay.stats()["carried"]) < sum(map(len, values)) // 2


def test_a_budget_is_kept_and_lifted_while_the_node_runs(eu, us):
    values = [random.Random(i).randbytes(1000) for i in range(3000)]
    with meshmq.connect(eu.url, route="node") as at_eu:
        for i in range(0, len(values), 10):
            at_eu.publish_many("flights.a", values[i : i + 10]).wait(10)
    with Relay() as relay, meshmq.connect(us.url, route="node") as at_us:
        url = relay.to(eu.nodes_url)
        begin = time.monotonic()
        pull(us, url, bytes_per_second="200kB")
        until(lambda: sum(log["received"] for log in link_of(at_us)["logs"]) >= 500)
        carried, seconds = max(relay.stats()["carried"]), time.monotonic() - begin
        assert carried < 200_000 * (seconds + 1)  # which does not ask for speed
        pull(us, url)
        assert [value for _, _, value in everything(us, len(values))] == values
