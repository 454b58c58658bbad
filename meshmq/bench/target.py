"""The node that a workload runs against, and what its processes are told."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import meshmq
from meshmq.bench.job import Job
from meshmq.bench.procs import BenchError, Node, Team

Figures = dict[str, float]
LONE_RATE = 1000  # lone messages a second
ROLES = "meshmq.bench.roles"


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
        outstanding: requests that are under way at a time.
    """

    size: int = 100
    seconds: float = 3.0
    count: int = 0
    records: int = 5_000_000
    url: str = ""
    directory: Path | None = None
    outstanding: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """The node a work runs against. ``pid`` is 0 if it is not ours."""

    team: Team
    url: str
    topic: str
    pid: int
    start_seconds: float


@contextlib.contextmanager
def a_target(settings: Settings, own: bool = False) -> Iterator[Target]:
    """A node (ours, or the one at ``settings.url``) and an unused topic name on it."""
    topic = f"bench.{secrets.token_hex(4)}"
    if settings.url and own:
        raise BenchError("this work measures the node's process: leave out --url")
    with Team(settings.directory) as team:
        if not settings.url:
            node = Node(team)
            yield Target(team, node.url, topic, node.pid, node.start_seconds)
            return
        try:
            yield Target(team, settings.url, topic, 0, 0.0)
        finally:
            _forget(settings.url, topic)


def _forget(url: str, topic: str) -> None:
    """Delete what a work left on a node that is not ours."""
    with contextlib.suppress(meshmq.MeshError), meshmq.connect(url, route="node") as mesh:
        for found in mesh.admin.topics.list():
            name = found["topic"]
            if name == topic or name.startswith(topic + "."):
                mesh.admin.topics.delete(name)


def window(size: int) -> int:
    """Records that may be under way: about 8 MiB, so that nothing has to be dropped."""
    return max(2, 8 * 1024 * 1024 // (size + 32))


def a_job(settings: Settings, target: Target, **more: Any) -> Job:
    job = Job(target.url, target.topic, settings.size, settings.seconds, settings.count)
    for name, value in more.items():
        setattr(job, name, value)
    return job


def received(got: list[dict[str, Any]], sent: dict[str, Any]) -> Figures:
    """Deliveries a second from the publisher's start to the last receiver's last record."""
    span = (max(one["last_ns"] for one in got) - sent["start_ns"]) / 1e9
    deliveries = sum(one["count"] - 1 for one in got)  # all but the record before the start
    missing = sent["count"] * len(got) - deliveries
    return {"rate": deliveries / span, "lost": float(missing)}


def confirmed(sent: dict[str, Any], durability: str = "synced") -> float:
    """Records a second from the publisher's start to the last confirmation."""
    if sent["durability"] != durability:
        raise BenchError(f"confirmed as {sent['durability']!r}, not as {durability}")
    return float(sent["count"] / (sent["confirmed_ns"] - sent["start_ns"]) * 1e9)
