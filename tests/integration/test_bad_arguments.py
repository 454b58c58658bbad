"""What no frame has room for is refused where it is given, and costs nobody the connection."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import meshmq
from meshmq.errors import InvalidArgument

FAR = datetime(9999, 12, 31, tzinfo=UTC)
LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)


@pytest.fixture
def mesh(meshmq_node):
    with meshmq.connect(meshmq_node.url) as mesh:
        yield mesh


@pytest.mark.parametrize(
    "start", [2**63, 2**70, FAR, LONG_AGO, "p1-zz", f"p1-{'0' * 32}-{2**64}-0-0"]
)
def test_places_that_there_cannot_be(mesh, start):
    with pytest.raises(InvalidArgument):
        mesh.subscribe("a.b", start=start)
    assert mesh.publish("a.b", b"x").wait(5).offset == 0


@pytest.mark.parametrize("time", [2**63, -(2**70), FAR, LONG_AGO])
def test_times_that_there_cannot_be(mesh, time):
    with pytest.raises(InvalidArgument, match="1678 to 2261"):
        mesh.publish("a.b", b"x", timestamp=time)
    with pytest.raises(InvalidArgument, match="1678 to 2261"):
        mesh.publish_many("a.b", [b"x"], timestamps=[time])
    assert mesh.publish("a.b", b"x", timestamp=2**63 - 1).wait(5).offset == 0


@pytest.mark.parametrize("lsn", [3, 2**31, 2**62, 2**63 - 1, 2**63, 10**19 - 1])
def test_places_behind_the_end_of_the_log(mesh, lsn):
    """Such a place is of this log before it lost its end, or made up; it must not harm the node."""
    mesh.publish("a.b", b"x").wait(5)
    with mesh.subscribe("a.b", start="earliest") as sub:
        (message,) = sub.fetch(1, timeout=5)
    origin = str(message.position).split("-")[1]
    with mesh.subscribe("a.b", start=f"p1-{origin}-{lsn}-999999999-0") as sub:
        mesh.publish("a.b", b"y").wait(5)
        sub.fetch(1, timeout=0.2)
    with mesh.subscribe("a.b", start=f"p1-{'0' * 32}-{lsn}-999999999-0") as sub:
        assert sub.fetch(1, timeout=5)[0].value == b"x"
    assert mesh.publish("a.b", b"z").wait(5).offset == 2


def test_bounds_that_no_node_can_count(mesh):
    for age in (1e300, float("inf"), float("nan"), "99999999999d"):
        with pytest.raises(InvalidArgument):
            mesh.admin.topics.create("a.b", retention=age)
    with pytest.raises(InvalidArgument):
        mesh.admin.topics.create("a.b", retention_bytes="99999999999TB")
    mesh.admin.topics.create("a.b", retention="7d")


def test_a_start_in_the_future_waits(mesh):
    mesh.publish("a.b", b"x").wait(5)
    later = datetime.now(UTC) + timedelta(days=365)
    with mesh.subscribe("a.b", start=later) as sub:
        assert sub.fetch(1, timeout=0.1) == []
