"""The workloads of ``meshmq bench``: each starts what it needs and returns its figures.

A figure is a float with its unit in WORKS. Rates count only what was confirmed or received, from
the publisher's start to the last confirmation or the last receiver's last record.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import meshmq
from meshmq.bench import between_works, direct_works, queue_works, request_works
from meshmq.bench.job import cpu_seconds, rss_mib
from meshmq.bench.procs import BenchError
from meshmq.bench.queue_works import QUEUE_WORKERS
from meshmq.bench.target import (
    LONE_RATE,
    ROLES,
    Figures,
    Settings,
    Target,
    a_job,
    a_target,
    confirmed,
    received,
    window,
)

ROUND_ROBIN_TOPICS = 1000
MEMORY_TOPICS = 200
FANOUT_RECEIVERS = 10
STEADY_RATE = 50_000
IDLE_SECONDS = 4.0


def _transient(target: Target) -> None:
    with meshmq.connect(target.url, route="node") as mesh:
        mesh.admin.topics.create(target.topic, durability="transient")


def _durable_publish(settings: Settings, many: bool) -> Figures:
    with a_target(settings) as target:
        job = a_job(settings, target, options={"many": many})
        _, sent = target.team.run(ROLES, [], ("publish", job))
        return {"rate": confirmed(sent)}


def durable_publish(settings: Settings) -> Figures:
    return _durable_publish(settings, many=False)


def durable_publish_many(settings: Settings) -> Figures:
    return _durable_publish(settings, many=True)


def durable_publish_aio(settings: Settings) -> Figures:
    with a_target(settings) as target:
        _, sent = target.team.run(ROLES, [], ("publish_aio", a_job(settings, target)))
        return {"rate": confirmed(sent)}


def durable_e2e(settings: Settings) -> Figures:
    """One publisher in a flood, one live subscriber; until the last record is read."""
    with a_target(settings) as target:
        board = target.team.board()
        reader = a_job(settings, target, board=board)
        writer = a_job(settings, target, board=board)
        got, sent = target.team.run(ROLES, [("subscribe", reader)], ("publish", writer))
        return {**received(got, sent), "confirmed": confirmed(sent)}


def topics_publish(settings: Settings) -> Figures:
    with a_target(settings) as target:
        job = a_job(settings, target, options={"topics": ROUND_ROBIN_TOPICS})
        _, sent = target.team.run(ROLES, [], ("publish", job))
        return {"rate": confirmed(sent)}


def topics_replay(settings: Settings) -> Figures:
    """Publish round robin over the topics, then read them all back by one pattern."""
    with a_target(settings) as target:
        job = a_job(settings, target, options={"topics": ROUND_ROBIN_TOPICS})
        _, sent = target.team.run(ROLES, [], ("publish", job))
        again = a_job(settings, target, topic=target.topic + ".>", count=sent["count"] + 1)
        _, read = target.team.run(ROLES, [], ("replay", again))
        return {"rate": read["count"] / read["seconds"], "publish": confirmed(sent)}


def _transient_publish(settings: Settings, many: bool, receivers: int, window: int) -> Figures:
    with a_target(settings) as target:
        _transient(target)
        board = target.team.board()
        readers = [
            ("subscribe", a_job(settings, target, board=board, window=window, index=i))
            for i in range(receivers)
        ]
        options = {"many": many}
        writer = a_job(
            settings, target, board=board, window=window, receivers=receivers, options=options
        )
        got, sent = target.team.run(ROLES, readers, ("publish", writer))
        return received(got, sent)


def transient_publish(settings: Settings) -> Figures:
    return _transient_publish(settings, False, 1, window(settings.size))


def transient_publish_many(settings: Settings) -> Figures:
    return _transient_publish(settings, True, 1, window(settings.size))


def fanout(settings: Settings) -> Figures:
    return _transient_publish(settings, True, FANOUT_RECEIVERS, window(settings.size))


def _replay(settings: Settings, role: str) -> Figures:
    with a_target(settings) as target:
        fill = a_job(settings, target, count=settings.records)
        target.team.run(ROLES, [], ("load", fill))
        _, read = target.team.run(ROLES, [], (role, fill))
        return {"rate": read["count"] / read["seconds"]}


def replay(settings: Settings) -> Figures:
    return _replay(settings, "replay")


def replay_aio(settings: Settings) -> Figures:
    return _replay(settings, "replay_aio")


def latency(settings: Settings) -> Figures:
    """Lone transient messages at LONE_RATE a second, publish to receive."""
    with a_target(settings) as target:
        _transient(target)
        board = target.team.board()
        reader = a_job(settings, target, board=board)
        writer = a_job(settings, target, board=board, rate=LONE_RATE)
        got, _ = target.team.run(ROLES, [("delays", reader)], ("paced", writer))
        return {key: got[0][key] for key in ("p50", "p99", "p999")}


def confirm_latency(settings: Settings) -> Figures:
    with a_target(settings) as target:
        _, found = target.team.run(ROLES, [], ("confirm", a_job(settings, target)))
        if found["durability"] != "synced":
            raise BenchError(f"confirmed as {found['durability']!r}, not as synced")
        return {key: found[key] for key in ("p50", "p99", "p999")}


def steady(settings: Settings) -> Figures:
    with a_target(settings, own=True) as target:
        job = a_job(settings, target, rate=STEADY_RATE, options={"node_pid": target.pid})
        _, found = target.team.run(ROLES, [], ("steady", job))
        return {key: found[key] for key in ("node_cpu", "client_cpu", "rate")}


def idle(settings: Settings) -> Figures:
    """A node that nobody talks to, and how long ``--help`` takes."""
    helps = []
    for _ in range(3):
        start = time.monotonic()
        argv = [sys.executable, "-m", "meshmq", "--help"]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
        helps.append(time.monotonic() - start)
    with a_target(settings, own=True) as target:
        before, start = cpu_seconds(target.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        cpu = (cpu_seconds(target.pid) - before) / (time.monotonic() - start)
        return {
            "rss": rss_mib(target.pid),
            "cpu_percent": 100 * cpu,
            "ready": target.start_seconds,
            "help": sorted(helps)[1],
        }


def memory(settings: Settings) -> Figures:
    """Records over MEMORY_TOPICS topics, a subscriber that never reads; the node's memory."""
    with a_target(settings, own=True) as target:
        target.team.role(
            ROLES, "stall", a_job(settings, target, topic=target.topic + ".>")
        ).wait_ready()
        fill = a_job(settings, target, count=settings.records, options={"topics": MEMORY_TOPICS})
        target.team.run(ROLES, [], ("load", fill))
        return {"rss": rss_mib(target.pid), "peak": rss_mib(target.pid, peak=True)}


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
    "queue": Work(
        queue_works.work_queue,
        f"work queue, {QUEUE_WORKERS} worker processes, an ack each, put to last ack",
        {"rate": "msg/s", "lost": "records", "doubled": "records"},
    ),
    "queue-any": Work(
        queue_works.queue_any,
        f"the same with keys and {queue_works.KEY_WORKERS} workers, in any order",
        {"rate": "msg/s", "lost": "records", "doubled": "records"},
    ),
    "queue-key": Work(
        queue_works.queue_key,
        f"the same in order of {queue_works.KEYS:,} keys",
        {"rate": "msg/s", "lost": "records", "doubled": "records"},
    ),
    "queue-backlog": Work(
        queue_works.backlog,
        f"hand-out of what waits: {queue_works.BACKLOG:,} jobs, {queue_works.DELAYED:,} of them "
        "nacked with a delay, against a queue without any",
        {"ratio": "", "rate": "msg/s", "empty": "msg/s", "peak": "MiB"},
    ),
    "queue-groups": Work(
        queue_works.groups,
        f"cost of a group: node's CPU with {queue_works.GROUPS} groups on a topic against one",
        {"ratio": "", "one": "us/msg", "each": "us/msg"},
    ),
    "queue-killed": Work(
        queue_works.killed,
        "a worker is killed: until its records are with another",
        {"seconds": "s"},
    ),
    "queue-schedule": Work(
        queue_works.schedule,
        "scheduled jobs: how late they come",
        {"p50": "us", "p99": "us", "max": "us", "early": "jobs"},
    ),
    "request": Work(
        request_works.request,
        "requests to a service that echoes, --outstanding at a time, a thread each",
        {"p50": "us", "p99": "us", "rate": "requests/s"},
    ),
    "request-nowait": Work(
        request_works.request_nowait,
        "the same from one thread, by request_nowait()",
        {"p50": "us", "p99": "us", "rate": "requests/s"},
    ),
    "request-aio": Work(
        request_works.request_aio,
        "the same from asyncio, a task each, to an asyncio service",
        {"p50": "us", "p99": "us", "rate": "requests/s"},
    ),
    "site-publish": Work(
        between_works.publish,
        "transient from one node of a site to another, end to end, publish()",
        {"rate": "msg/s", "lost": "records"},
    ),
    "site-publish-many": Work(
        between_works.publish_many,
        "the same by publish_many()",
        {"rate": "msg/s", "lost": "records"},
    ),
    "site-latency": Work(
        between_works.latency,
        f"lone transient messages from node to node, {LONE_RATE:,} a second",
        {"p50": "us", "p99": "us", "p999": "us"},
    ),
    "site-replay": Work(
        between_works.replay,
        "replay of what another node of the site stores, and what one of its own node takes",
        {"rate": "msg/s", "local": "msg/s", "share": ""},
    ),
    "site-replicated": Work(
        between_works.replicated,
        "durable with a copy at another node, confirmed as replicated, and as synced",
        {"rate": "msg/s", "synced": "msg/s", "share": ""},
    ),
    "direct-publish": Work(
        direct_works.publish,
        "between two programs without a node, end to end, publish()",
        {"rate": "msg/s", "lost": "records"},
    ),
    "direct-publish-many": Work(
        direct_works.publish_many,
        "the same by publish_many()",
        {"rate": "msg/s", "lost": "records"},
    ),
    "direct-request": Work(
        direct_works.request,
        "requests between two programs without a node, --outstanding at a time",
        {"p50": "us", "p99": "us", "rate": "requests/s"},
    ),
    "direct-request-nowait": Work(
        direct_works.request_nowait,
        "the same from one thread, by request_nowait()",
        {"p50": "us", "p99": "us", "rate": "requests/s"},
    ),
    "direct-request-aio": Work(
        direct_works.request_aio,
        "the same from asyncio",
        {"p50": "us", "p99": "us", "rate": "requests/s"},
    ),
}
