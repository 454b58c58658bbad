"""The workloads of ``meshmq bench``: each starts what it needs and returns its figures.

A figure is a float with its unit in WORKS. Rates count only what was confirmed or received, from
the publisher's start to the last confirmation or the last receiver's last record.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import meshmq
from meshmq.bench.job import Job, cpu_seconds, rss_mib
from meshmq.bench.procs import BenchError, Node, Team

ROLES = "meshmq.bench.roles"
ROUND_ROBIN_TOPICS = 1000
MEMORY_TOPICS = 200
FANOUT_RECEIVERS = 10
QUEUE_WORKERS = 2
LONE_RATE = 1000
STEADY_RATE = 50_000
IDLE_SECONDS = 4.0
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all works share.

    Attributes:
        size: value size in bytes, 16 or more.
        seconds: how long to publish, where no count is given.
        count: records to publish instead, 0 for none.
        records: records stored for replay and memory.
        url: a running node to use; "" starts one per run.
        directory: where nodes keep their data; None is the system's temporary folder.
    """

    size: int = 100
    seconds: float = 3.0
    count: int = 0
    records: int = 5_000_000
    url: str = ""
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The node a work runs against. ``pid`` is 0 if it is not ours."""

    team: Team
    url: str
    topic: str
    pid: int
    start_seconds: float


@contextlib.contextmanager
def _site(settings: Settings, own: bool = False) -> Iterator[Site]:
    """A node (ours, or the one at ``settings.url``) and an unused topic name on it."""
    topic = f"bench.{secrets.token_hex(4)}"
    if settings.url and own:
        raise BenchError("this work measures the node's process: leave out --url")
    with Team(settings.directory) as team:
        if not settings.url:
            node = Node(team)
            yield Site(team, node.url, topic, node.pid, node.start_seconds)
            return
        try:
            yield Site(team, settings.url, topic, 0, 0.0)
        finally:
            _forget(settings.url, topic)


def _forget(url: str, topic: str) -> None:
    """Delete what a work left on a node that is not ours."""
    with contextlib.suppress(meshmq.MeshError), meshmq.connect(url) as mesh:
        for found in mesh.admin.topics.list():
            name = found["topic"]
            if name == topic or name.startswith(topic + "."):
                mesh.admin.topics.delete(name)


def _transient(site: Site) -> None:
    with meshmq.connect(site.url) as mesh:
        mesh.admin.topics.create(site.topic, durability="transient")


def _job(settings: Settings, site: Site, **more: Any) -> Job:
    job = Job(site.url, site.topic, settings.size, settings.seconds, settings.count)
    for name, value in more.items():
        setattr(job, name, value)
    return job


def _confirmed(sent: dict[str, Any]) -> float:
    if sent["durability"] != "synced":
        raise BenchError(f"confirmed as {sent['durability']!r}, not as synced")
    return float(sent["count"] / (sent["confirmed_ns"] - sent["start_ns"]) * 1e9)


def _received(got: list[dict[str, Any]], sent: dict[str, Any]) -> Figures:
    """Deliveries a second from the publisher's start to the last receiver's last record."""
    span = (max(one["last_ns"] for one in got) - sent["start_ns"]) / 1e9
    deliveries = sum(one["count"] - 1 for one in got)  # all but the record before the start
    missing = sent["count"] * len(got) - deliveries
    return {"rate": deliveries / span, "lost": float(missing)}


def _durable_publish(settings: Settings, many: bool) -> Figures:
    with _site(settings) as site:
        job = _job(settings, site, options={"many": many})
        _, sent = site.team.run(ROLES, [], ("publish", job))
        return {"rate": _confirmed(sent)}


def durable_publish(settings: Settings) -> Figures:
    return _durable_publish(settings, many=False)


def durable_publish_many(settings: Settings) -> Figures:
    return _durable_publish(settings, many=True)


def durable_publish_aio(settings: Settings) -> Figures:
    with _site(settings) as site:
        _, sent = site.team.run(ROLES, [], ("publish_aio", _job(settings, site)))
        return {"rate": _confirmed(sent)}


def durable_e2e(settings: Settings) -> Figures:
    """One publisher in a flood, one live subscriber; until the last record is read."""
    with _site(settings) as site:
        board = site.team.board()
        reader = _job(settings, site, board=board)
        writer = _job(settings, site, board=board)
        got, sent = site.team.run(ROLES, [("subscribe", reader)], ("publish", writer))
        return {**_received(got, sent), "confirmed": _confirmed(sent)}


def topics_publish(settings: Settings) -> Figures:
    with _site(settings) as site:
        job = _job(settings, site, options={"topics": ROUND_ROBIN_TOPICS})
        _, sent = site.team.run(ROLES, [], ("publish", job))
        return {"rate": _confirmed(sent)}


def topics_replay(settings: Settings) -> Figures:
    """Publish round robin over the topics, then read them all back by one pattern."""
    with _site(settings) as site:
        job = _job(settings, site, options={"topics": ROUND_ROBIN_TOPICS})
        _, sent = site.team.run(ROLES, [], ("publish", job))
        again = _job(settings, site, topic=site.topic + ".>", count=sent["count"] + 1)
        _, read = site.team.run(ROLES, [], ("replay", again))
        return {"rate": read["count"] / read["seconds"], "publish": _confirmed(sent)}


def _transient_publish(settings: Settings, many: bool, receivers: int, window: int) -> Figures:
    with _site(settings) as site:
        _transient(site)
        board = site.team.board()
        readers = [
            ("subscribe", _job(settings, site, board=board, window=window, index=i))
            for i in range(receivers)
        ]
        options = {"many": many}
        writer = _job(
            settings, site, board=board, window=window, receivers=receivers, options=options
        )
        got, sent = site.team.run(ROLES, readers, ("publish", writer))
        return _received(got, sent)


def _window(size: int) -> int:
    """Records that may be under way: about 8 MiB, so that nothing has to be dropped."""
    return max(2, 8 * 1024 * 1024 // (size + 32))


def transient_publish(settings: Settings) -> Figures:
    return _transient_publish(settings, False, 1, _window(settings.size))


def transient_publish_many(settings: Settings) -> Figures:
    return _transient_publish(settings, True, 1, _window(settings.size))


def fanout(settings: Settings) -> Figures:
    return _transient_publish(settings, True, FANOUT_RECEIVERS, _window(settings.size))


def _replay(settings: Settings, role: str) -> Figures:
    with _site(settings) as site:
        fill = _job(settings, site, count=settings.records)
        site.team.run(ROLES, [], ("load", fill))
        _, read = site.team.run(ROLES, [], (role, fill))
        return {"rate": read["count"] / read["seconds"]}


def replay(settings: Settings) -> Figures:
    return _replay(settings, "replay")


def replay_aio(settings: Settings) -> Figures:
    return _replay(settings, "replay_aio")


def latency(settings: Settings) -> Figures:
    """Lone transient messages at LONE_RATE a second, publish to receive."""
    with _site(settings) as site:
        _transient(site)
        board = site.team.board()
        reader = _job(settings, site, board=board)
        writer = _job(settings, site, board=board, rate=LONE_RATE)
        got, _ = site.team.run(ROLES, [("delays", reader)], ("paced", writer))
        return {key: got[0][key] for key in ("p50", "p99", "p999")}


def confirm_latency(settings: Settings) -> Figures:
    with _site(settings) as site:
        _, found = site.team.run(ROLES, [], ("confirm", _job(settings, site)))
        if found["durability"] != "synced":
            raise BenchError(f"confirmed as {found['durability']!r}, not as synced")
        return {key: found[key] for key in ("p50", "p99", "p999")}


def steady(settings: Settings) -> Figures:
    with _site(settings, own=True) as site:
        job = _job(settings, site, rate=STEADY_RATE, options={"node_pid": site.pid})
        _, found = site.team.run(ROLES, [], ("steady", job))
        return {key: found[key] for key in ("node_cpu", "client_cpu", "rate")}


def idle(settings: Settings) -> Figures:
    """A node that nobody talks to, and how long ``--help`` takes."""
    helps = []
    for _ in range(3):
        start = time.monotonic()
        argv = [sys.executable, "-m", "meshmq", "--help"]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
        helps.append(time.monotonic() - start)
    with _site(settings, own=True) as site:
        before, start = cpu_seconds(site.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        cpu = (cpu_seconds(site.pid) - before) / (time.monotonic() - start)
        return {
            "rss": rss_mib(site.pid),
            "cpu_percent": 100 * cpu,
            "ready": site.start_seconds,
            "help": sorted(helps)[1],
        }


def memory(settings: Settings) -> Figures:
    """Records over MEMORY_TOPICS topics, a subscriber that never reads; the node's memory."""
    with _site(settings, own=True) as site:
        site.team.role(ROLES, "stall", _job(settings, site, topic=site.topic + ".>")).wait_ready()
        fill = _job(settings, site, count=settings.records, options={"topics": MEMORY_TOPICS})
        site.team.run(ROLES, [], ("load", fill))
        return {"rss": rss_mib(site.pid), "peak": rss_mib(site.pid, peak=True)}


@dataclass(frozen=True, slots=True)
class Work:
    """A workload: what it is, and its figures' names and units, the leading one first."""

    run: Callable[[Settings], Figures]
    about: str
    units: dict[str, str]


WORKS: dict[str, Work] = {
    "durable-publish": Work(
        durable_publish, "durable, confirmed when synced, publish()", {"rate": "msg/s"}
    ),
    "durable-publish-many": Work(
        durable_publish_many, "the same by publish_many()", {"rate": "msg/s"}
    ),
    "durable-publish-aio": Work(
        durable_publish_aio, "the same from asyncio, await publish()", {"rate": "msg/s"}
    ),
    "durable-e2e": Work(
        durable_e2e,
        "durable, with one live subscriber, to its last record",
        {"rate": "msg/s", "confirmed": "msg/s", "lost": "records"},
    ),
    "topics-publish": Work(
        topics_publish,
        f"durable, {ROUND_ROBIN_TOPICS:,} topics round robin, publish()",
        {"rate": "msg/s"},
    ),
    "topics-replay": Work(
        topics_replay,
        "`>` replay of what the same run published to as many topics",
        {"rate": "msg/s", "publish": "msg/s"},
    ),
    "transient-publish": Work(
        transient_publish,
        "transient through the node, end to end, publish()",
        {"rate": "msg/s", "lost": "records"},
    ),
    "transient-publish-many": Work(
        transient_publish_many,
        "the same by publish_many()",
        {"rate": "msg/s", "lost": "records"},
    ),
    "replay": Work(replay, "replay of stored records", {"rate": "msg/s"}),
    "replay-aio": Work(replay_aio, "the same from asyncio", {"rate": "msg/s"}),
    "fanout": Work(
        fanout,
        f"one publisher, {FANOUT_RECEIVERS} subscriber processes",
        {"rate": "deliveries/s", "lost": "records"},
    ),
    "latency": Work(
        latency,
        f"lone transient messages at {LONE_RATE:,} a second, publish to receive",
        {"p50": "us", "p99": "us", "p999": "us"},
    ),
    "confirm-latency": Work(
        confirm_latency,
        "durable confirm of a lone message",
        {"p50": "us", "p99": "us", "p999": "us"},
    ),
    "steady": Work(
        steady,
        f"{STEADY_RATE:,} single publishes a second",
        {"node_cpu": "cores", "client_cpu": "cores", "rate": "msg/s"},
    ),
    "idle": Work(
        idle,
        "a node nobody talks to; start; --help",
        {"rss": "MiB", "cpu_percent": "% of a core", "ready": "s", "help": "s"},
    ),
    "memory": Work(
        memory,
        f"node with stored records, {MEMORY_TOPICS} topics, a stalled subscriber",
        {"rss": "MiB", "peak": "MiB"},
    ),
}
