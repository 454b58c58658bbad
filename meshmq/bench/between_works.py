"""The workloads between two nodes of a site: published at one, read at the other; see works.py."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator

import meshmq
from meshmq.bench.procs import RESULT_SECONDS, BenchError, Node, Team
from meshmq.bench.target import (
    LONE_RATE,
    ROLES,
    Figures,
    Settings,
    Target,
    a_job,
    confirmed,
    received,
    window,
)

JOIN_SECONDS = 10.0


@contextlib.contextmanager
def _pair(settings: Settings, durability: str, copies: int = 1) -> Iterator[tuple[Target, Target]]:
    """Two nodes that are linked, and a topic of theirs; records are published at the first."""
    if settings.url:
        raise BenchError("this work needs two nodes of its own: leave out --url")
    topic = f"bench.{secrets.token_hex(4)}"
    with Team(settings.directory) as team:
        first = Node(team, name="first", site="bench", copies=copies)
        second = Node(team, name="second", site="bench", copies=copies, peer=first.nodes_url)
        deadline = time.monotonic() + JOIN_SECONDS
        for url in (first.url, second.url):
            with meshmq.connect(url, route="node") as mesh:
                while not any(n["state"] == "linked" for n in mesh.admin.status()["site"]["nodes"]):
                    if time.monotonic() > deadline:
                        raise BenchError("the two nodes did not join")
                    time.sleep(0.02)
                mesh.admin.topics.create(topic, durability=durability)
        yield (
            Target(team, first.url, topic, first.pid, first.start_seconds),
            Target(team, second.url, topic, second.pid, second.start_seconds),
        )


def flood(settings: Settings, watch: Callable[[tuple[str, str]], object]) -> Figures:
    """As ``publish_many``, with somebody who is told where the two nodes are before it begins."""
    return _publish(settings, True, watch)


def _publish(
    settings: Settings,
    many: bool,
    watch: Callable[[tuple[str, str]], object] | None = None,
) -> Figures:
    with _pair(settings, "transient") as (first, second):
        if watch is not None:
            watch((first.url, second.url))
        board, ahead = first.team.board(), window(settings.size)
        reader = a_job(settings, second, board=board, window=ahead)
        writer = a_job(
            settings, first, board=board, window=ahead, receivers=1, options={"many": many}
        )
        role, timeout = ("publish", writer), settings.seconds + RESULT_SECONDS
        got, sent = first.team.run(ROLES, [("subscribe", reader)], role, timeout=timeout)
        return received(got, sent)


def publish(settings: Settings) -> Figures:
    """One publisher in a flood at one node, one subscriber at the other."""
    return _publish(settings, many=False)


def publish_many(settings: Settings) -> Figures:
    return _publish(settings, many=True)


def latency(settings: Settings) -> Figures:
    """Lone transient messages at LONE_RATE a second, publish to receive."""
    with _pair(settings, "transient") as (first, second):
        board = first.team.board()
        reader = a_job(settings, second, board=board)
        writer = a_job(settings, first, board=board, rate=LONE_RATE)
        got, _ = first.team.run(ROLES, [("delays", reader)], ("paced", writer))
        return {key: got[0][key] for key in ("p50", "p99", "p999")}


def replay(settings: Settings) -> Figures:
    """What is stored at one node, read at the other, and at the one that has it."""
    with _pair(settings, "durable") as (first, second):
        first.team.run(ROLES, [], ("load", a_job(settings, first, count=settings.records)))
        rates = []
        for target in (second, first):
            job = a_job(settings, target, count=settings.records)
            _, read = target.team.run(ROLES, [], ("replay", job))
            rates.append(read["count"] / read["seconds"])
        return {"rate": rates[0], "local": rates[1], "share": rates[0] / rates[1]}


def replicated(settings: Settings) -> Figures:
    """One publisher in a flood, each record stored at both nodes before it is confirmed; and the
    same confirmed by the first one's disk alone, while the copy is kept up as well."""
    with _pair(settings, "durable", copies=2) as (first, _):
        rates = {}
        for durability in ("replicated", "synced"):
            job = a_job(settings, first, options={"many": True, "durability": durability})
            _, sent = first.team.run(ROLES, [], ("publish", job))
            rates[durability] = confirmed(sent, durability)
        share = rates["replicated"] / rates["synced"]
        return {"rate": rates["replicated"], "synced": rates["synced"], "share": share}
