"""What no frame has room for is refused where it is given, and costs nobody the connection."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from multiprocessing.reduction import ForkingPickler

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


# -- what is of another type ----------------------------------------------------------------------

JUNK = (
    None, 5, -1, 0, 2.5, float("nan"), float("inf"), True, "x", "\ud800", "", b"x", b"", [], ["a"],
    {}, {"a": 1}, object(), (1, 2),
)  # fmt: skip
JOB = "j1-" + "0" * 32 + "-m-1"
CALLS = {
    "publish": {"topic": "t", "value": b"v"},
    "publish_many": {"topic": "t", "values": [b"v"]},
    "enqueue": {"queue": "q", "value": b"v"},
    "enqueue_many": {"queue": "q", "values": [b"v"]},
    "subscribe": {"pattern": "t"},
    "consume": {"pattern": "t", "group": "g"},
    "work": {"queue": "q"},
    "cancel": {"queue": "q", "job_id": JOB},
    "reschedule": {"queue": "q", "job_id": JOB, "delay": 1},
    "last_sequence": {"topic": "t"},
    "worker": {"queue": "q", "start": False},
    "transaction": {},
    "admin.topics.create": {"pattern": "t"},
    "admin.topics.list": {},
    "admin.topics.show": {"topic": "t"},
    "admin.topics.delete": {"topic": "none"},
    "admin.groups.create": {"group": "g", "pattern": "t"},
    "admin.groups.show": {"group": "g"},
    "admin.groups.seek": {"group": "g", "start": "new"},
    "admin.groups.set": {"group": "g", "rate": 0},
    "admin.queues.create": {"queue": "q"},
    "admin.queues.purge": {"queue": "q"},
    "admin.dlq.list": {"group": "q"},
    "admin.dlq.replay": {"group": "q", "wanted": [1]},
    "admin.dlq.purge": {"group": "q", "wanted": [1]},
}


def junk_calls(mesh):
    """Each call with each argument replaced by each piece of junk, and how to say it."""
    for path, good in CALLS.items():
        call = mesh
        for name in path.split("."):
            call = getattr(call, name)
        for parameter in inspect.signature(call).parameters.values():
            if parameter.kind != parameter.VAR_KEYWORD:
                for junk in JUNK:
                    arguments = {**good, parameter.name: junk}
                    yield f"{path}({parameter.name}={junk!r})", call, arguments


def test_junk_is_refused_in_words_and_costs_nobody_the_connection(mesh):
    for told, call, arguments in junk_calls(mesh):
        try:
            made = call(**arguments)
        except meshmq.MeshError:
            continue
        except Exception as error:
            pytest.fail(f"{told}: {error!r}")
        if isinstance(made, meshmq.Subscription | meshmq.Consumer):
            made.close()
    assert mesh.publish("a.b", b"x").wait(5).offset == 0


def test_the_asyncio_client_refuses_the_same(meshmq_node):
    async def main():
        async with meshmq_node.aconnect() as mesh:
            for told, call, arguments in junk_calls(mesh):
                try:
                    made = call(**arguments)
                    if inspect.isawaitable(made):
                        made = await made
                except meshmq.MeshError:
                    continue
                except Exception as error:
                    pytest.fail(f"{told}: {error!r}")
                if hasattr(made, "close"):
                    await made.close()
            assert (await (await mesh.publish("a.b", b"x")).wait(5)).offset == 0

    asyncio.run(main())


def test_connect_takes_no_junk(meshmq_node):
    for name in inspect.signature(meshmq.connect).parameters:
        for junk in JUNK:
            for connect in (meshmq.connect, meshmq.aio.connect):
                try:
                    made = connect(**{"url": meshmq_node.url, "timeout": 1.0, name: junk})
                except meshmq.MeshError:
                    continue
                if isinstance(made, meshmq.Mesh):
                    made.close()
    with pytest.raises(InvalidArgument, match="timeout is a number of seconds, not '5'"):
        meshmq.connect(meshmq_node.url, timeout="5")


@pytest.mark.parametrize("count", [0, -1, None, "5", True, 2.5])
def test_fetch_takes_a_number_from_one(mesh, count):
    mesh.enqueue("jobs", b"x").wait(5)
    with mesh.subscribe("a") as sub, mesh.work("jobs") as worker:
        for reader in (sub, worker):
            with pytest.raises(InvalidArgument, match="max_records is at least 1"):
                reader.fetch(count, timeout=0)
            with pytest.raises(InvalidArgument, match="a timeout is a number of seconds"):
                reader.fetch(1, timeout="5" if reader is sub else float("nan"))
        assert worker.fetch(1, timeout=float("inf"))[0].value == b"x"


def test_the_sentences_name_what_is_wrong(mesh):
    for call, told in (
        (lambda: mesh.enqueue("q", b"", dedup_id="\ud800"), "dedup_id is no text"),
        (lambda: mesh.cancel("q", None), "a job id is a text"),
        (lambda: mesh.reschedule("q", 5, delay=1), "a job id is a text"),
        (lambda: mesh.publish("a", b"", headers=["a"]), "headers are a mapping of str to str"),
        (lambda: mesh.publish("a", b"", headers="ab"), "headers are a mapping of str to str"),
        (lambda: mesh.worker("q", retries=3), "worker has no option 'retries'; there are conc"),
        (lambda: mesh.worker("a.>", group="g", start=True, order="key", pattern="x"), "'pattern'"),
    ):
        with pytest.raises(InvalidArgument, match=told):
            call()


def test_what_belongs_to_a_connection_cannot_be_pickled(mesh):
    receipt = mesh.publish("a", b"x")
    with mesh.subscribe("a", start="earliest") as sub, mesh.consume("a", "g") as consumer:
        (job,) = consumer.fetch(1, timeout=5)
        for thing in (mesh, sub, consumer, receipt, job):
            with pytest.raises(TypeError, match="give the other process the url and connect there"):
                ForkingPickler.dumps(thing)
