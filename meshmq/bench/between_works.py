"""The workloads between two nodes of a site: published at one, read at the other; see works.py."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import meshmq
from meshmq.bench.job import Job
from meshmq.bench.procs import RESULT_SECONDS, BenchError, Node, Team
from meshmq.bench.site import ROLES, Figures, Settings, received

LONE_RATE = 1000
JOIN_SECONDS = 10.0
_WINDOW_BYTES = 8 * 1024 * 1024  # under way at most, so that nothing has to be dropped


class _Pair(NamedTuple):
    """Two nodes that are linked; records are published at the first."""

    team: Team
    first: str
    second: str
    topic: str

    def job(self, settings: Settings, url: str, **more: object) -> Job:
        job = Job(url, self.topic, settings.size, settings.seconds, settings.count)
        for name, value in more.items():
            setattr(job, name, value)
        return job


@contextlib.contextmanager
def _pair(settings: Settings, durability: str) -> Iterator[_Pair]:
    if settings.url:
        raise BenchError("this work needs two nodes of its own: leave out --url")
    topic = f"bench.{secrets.token_hex(4)}"
    with Team(settings.directory) as team:
        first = Node(team, name="first", site="bench")
        second = Node(team, name="second", site="bench", peer=first.nodes_url)
        deadline = time.monotonic() + JOIN_SECONDS
        for url in (first.url, second.url):
            with meshmq.connect(url, route="node") as mesh:
                while not any(n["state"] == "linked" for n in mesh.admin.status()["site"]["nodes"]):
                    if time.monotonic() > deadline:
                        raise BenchError("the two nodes did not join")
                    time.sleep(0.02)
                mesh.admin.topics.create(topic, durability=durability)
        yield _Pair(team, first.url, second.url, topic)


def flood(settings: Settings, watch: Callable[[tuple[str, str]], object]) -> Figures:
    """As ``publish_many``, with somebody who is told where the two nodes are before it begins."""
    return _publish(settings, True, watch)


def _publish(
    settings: Settings,
    many: bool,
    watch: Callable[[tuple[str, str]], object] | None = None,
) -> Figures:
    with _pair(settings, "transient") as pair:
        if watch is not None:
            watch((pair.first, pair.second))
        board, window = pair.team.board(), max(2, _WINDOW_BYTES // (settings.size + 32))
        reader = pair.job(settings, pair.second, board=board, window=window)
        writer = pair.job(
            settings, pair.first, board=board, window=window, receivers=1, options={"many": many}
        )
        role, timeout = ("publish", writer), settings.seconds + RESULT_SECONDS
        got, sent = pair.team.run(ROLES, [("subscribe", reader)], role, timeout=timeout)
        return received(got, sent)


def publish(settings: Settings) -> Figures:
    """One publisher in a flood at one node, one subscriber at the other."""
    return _publish(settings, many=False)


def publish_many(settings: Settings) -> Figures:
    return _publish(settings, many=True)


def latency(settings: Settings) -> Figures:
    """Lone transient messages at LONE_RATE a second, publish to receive."""
    with _pair(settings, "transient") as pair:
        board = pair.team.board()
        reader = pair.job(settings, pair.second, board=board)
        writer = pair.job(settings, pair.first, board=board, rate=LONE_RATE)
        got, _ = pair.team.run(ROLES, [("delays", reader)], ("paced", writer))
        return {key: got[0][key] for key in ("p50", "p99", "p999")}


def replay(settings: Settings) -> Figures:
    """What is stored at one node, read at the other, and at the one that has it."""
    with _pair(settings, "durable") as pair:
        fill = pair.job(settings, pair.first, count=settings.records)
        pair.team.run(ROLES, [], ("load", fill))
        rates = []
        for url in (pair.second, pair.first):
            _, read = pair.team.run(
                ROLES, [], ("replay", pair.job(settings, url, count=settings.records))
            )
            rates.append(read["count"] / read["seconds"])
        return {"rate": rates[0], "local": rates[1], "share": rates[0] / rates[1]}
