"""What a node tells of how its links do."""

from __future__ import annotations

from types import SimpleNamespace

from meshmq.core.link_rates import MARKS_MAX, RATES_NS, LinkRates, Meter, _Come, catch_up
from meshmq.limits import MS, SECOND
from tests.core.test_link_pace import change, publish, pulling


def test_a_rate_is_that_of_the_last_seconds():
    meter = Meter()
    for i in range(300):
        meter.add(10, i * 100 * MS)
    assert 90 < meter.rate(30 * SECOND) < 110
    assert meter.total == 3000
    assert meter.rate(30 * SECOND + 2 * RATES_NS) == 0


def test_a_topic_is_behind_since_the_other_site_had_more_than_there_is_here():
    come = _Come()
    for second in range(60):
        # 10 records a second there; here they come 7 s later.
        come.mark(10 * second, max(0, 10 * (second - 7)), second * SECOND)
        if second > 10:
            behind = come.behind_ns(10 * (second - 7), second * SECOND)
            assert 5 * SECOND <= behind <= 8 * SECOND
    assert come.behind_ns(590, 60 * SECOND) == 0


def test_marks_are_bounded_and_keep_the_oldest():
    come = _Come()
    for i in range(1, 10_000):
        come.mark(i, 0, i * SECOND)
    assert len(come.marks) <= MARKS_MAX + 1
    assert come.behind_ns(0, 10_000 * SECOND) == 9_999 * SECOND


def test_when_all_will_be_there_is_told_only_if_it_will():
    assert catch_up(0, 0, 5) == 0
    assert catch_up(100, 30, 10) == 5
    assert catch_up(100, 10, 10) is None


def test_a_link_that_is_slow_says_how_far_it_is():
    net, sites = pulling("eu", "us", bytes_per_second=50_000, compression="zstd")
    (eu,), (us,) = sites["eu"], sites["us"]
    change(net, us, compression="none")
    publish(net, eu, 1000, 2048)
    net.run(15 * SECOND)
    (link,) = us.node.site.describe(net.now_ns)["links"]
    (log,) = link["logs"]
    (topic,) = log["topics"]
    flow = link["flow"]
    assert flow["lag"] == topic["lag"] == log["lag"]["orders.eu"] > 0
    assert abs(topic["lag_bytes"] / topic["lag"] - 2052) < 20
    assert topic["lag_seconds"] == flow["lag_seconds"] > 2
    assert 10_000 < flow["bytes_per_second"] < 70_000
    assert flow["ratio"] == 1
    assert flow["in_flight"] > 0
    assert 5 < flow["catch_up_seconds"] < 60
    assert flow["last_error"] is None
    change(net, us, bytes_per_second=0)
    net.run(12 * SECOND)
    (link,) = us.node.site.describe(net.now_ns)["links"]
    assert (link["flow"]["lag"], link["flow"]["lag_seconds"], link["flow"]["in_flight"]) == (
        0,
        0,
        0,
    )
    assert link["flow"]["catch_up_seconds"] == 0


def test_a_link_says_what_went_wrong_last_also_when_it_is_well_again():
    net, sites = pulling("eu", "us", compression="zstd")
    (eu,), (us,) = sites["eu"], sites["us"]
    publish(net, eu, 20, 500)
    net.run(2 * SECOND)
    net.cut(eu, us)
    net.run(8 * SECOND)
    net.heal()
    net.run(10 * SECOND)
    (link,) = us.node.site.describe(net.now_ns)["links"]
    assert link["state"] == "linked"
    assert link["flow"]["last_error"] == f"the link with eu/{eu.name} was lost"
    assert link["flow"]["last_error_seconds"] > 5
    assert link["flow"]["ratio"] > 3


def test_a_problem_is_the_last_error_once_it_stands():
    """A mirror that turns to another source has none for a moment."""
    rates = LinkRates()
    mirror = SimpleNamespace(
        origin=b"o", ends={}, problem="no copy", shown="us/us-1", linked=SimpleNamespace(site="us")
    )
    told = lambda: rates.link("us", (), [], 0)["last_error"]  # noqa: E731
    rates.tick([mirror], 0)
    mirror.problem = ""
    rates.tick([mirror], 1)
    mirror.problem = "no copy"
    rates.tick([mirror], 2)
    assert told() is None
    rates.tick([mirror], 3)
    assert told() == "us/us-1: no copy"
