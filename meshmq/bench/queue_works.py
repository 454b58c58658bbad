"""The workloads of groups and queues; see works.py."""

from __future__ import annotations

import time

import meshmq
from meshmq.bench.job import Board, cpu_seconds, rss_mib, worked
from meshmq.bench.target import Figures, Settings, Target, a_job, a_target, window

ROLES = "meshmq.bench.queue_roles"
QUEUE_WORKERS = 2
KEY_WORKERS = 4
KEYS = 10_000
BACKLOG = 1_000_000
DELAYED = 100_000
DRAINED = 300_000
GROUPS = 50
GROUP_RECORDS = 20_000
SCHEDULED = 2_000
STAMP_BYTES = 8


def _flow(settings: Settings, workers: int, **options: object) -> Figures:
    with a_target(settings) as target:
        board = target.team.board()
        ahead = window(settings.size)
        common = {"shared": True, "receivers": workers, "window": ahead, "board": board}
        order = {k: v for k, v in options.items() if k != "keys"}
        takers = [
            ("work", a_job(settings, target, index=i, options=order, **common))
            for i in range(workers)
        ]
        putter = a_job(settings, target, options=dict(options), **common)
        got, sent = target.team.run(ROLES, takers, ("put", putter))
        return worked(board, got, sent)


def work_queue(settings: Settings) -> Figures:
    """One producer, two workers, an ack for each record; to the last ack's synced answer."""
    return _flow(settings, QUEUE_WORKERS)


def queue_any(settings: Settings) -> Figures:
    return _flow(settings, KEY_WORKERS, keys=KEYS)


def queue_key(settings: Settings) -> Figures:
    return _flow(settings, KEY_WORKERS, keys=KEYS, order="key")


def _drain(settings: Settings, target: Target) -> float:
    _, got = target.team.run(ROLES, [], ("drain", a_job(settings, target, count=DRAINED)))
    return float(got["count"] / (got["stop_ns"] - got["start_ns"]) * 1e9)


def backlog(settings: Settings) -> Figures:
    """The rate of one worker that empties a queue, with and without many that wait or failed."""
    with a_target(settings, own=True) as target:
        target.team.run(ROLES, [], ("fill", a_job(settings, target, count=DRAINED)))
        empty = _drain(settings, target)
    with a_target(settings, own=True) as target:
        target.team.run(ROLES, [], ("fill", a_job(settings, target, count=BACKLOG)))
        later = a_job(settings, target, count=DELAYED, options={"delay": 600})
        target.team.run(ROLES, [], ("delay_some", later))
        rate = _drain(settings, target)
        return {
            "ratio": rate / empty,
            "rate": rate,
            "empty": empty,
            "peak": rss_mib(target.pid, peak=True),
        }


def _cost(settings: Settings, groups: int) -> float:
    """Microseconds of the node's CPU for each record and group, all records waiting before."""
    with a_target(settings, own=True) as target:
        target.team.run(ROLES, [], ("fill", a_job(settings, target, count=GROUP_RECORDS)))
        before = cpu_seconds(target.pid)
        with meshmq.connect(target.url, route="node") as mesh:
            for i in range(groups):
                with mesh.consume(f"{target.topic}.>", f"warm.{i}"):
                    pass
            before = cpu_seconds(target.pid)
            for i in range(groups):
                with mesh.consume(target.topic, f"group.{i}") as consumer:
                    for taken, message in enumerate(consumer, 1):
                        message.ack()
                        if taken >= GROUP_RECORDS:
                            break
        return (cpu_seconds(target.pid) - before) / (groups * GROUP_RECORDS) * 1e6


def groups(settings: Settings) -> Figures:
    """One group's cost is taken over several times its records: CPU time counts in 10 ms."""
    one = _cost(settings, 5) if GROUPS > 5 else _cost(settings, 1)
    each = _cost(settings, GROUPS)
    return {"ratio": each / one, "one": one, "each": each}


def killed(settings: Settings) -> Figures:
    """A worker with a full prefetch is killed; time until another gets the first of its jobs."""
    with a_target(settings) as target:
        board = target.team.board()
        target.team.run(ROLES, [], ("fill", a_job(settings, target, count=1000)))
        hoarder = target.team.role(ROLES, "hoard", a_job(settings, target, board=board))
        hoarder.wait_ready()
        Board(board).wait_flags(1, 30)
        heir = target.team.role(ROLES, "inherit", a_job(settings, target, board=board))
        heir.wait_ready()
        killed_ns = time.monotonic_ns()
        target.team.stop(hoarder, 0.0)
        got = heir.result()
        return {"seconds": (got["got_ns"] - killed_ns) / 1e9}


def schedule(settings: Settings) -> Figures:
    with a_target(settings) as target:
        job = a_job(settings, target, size=STAMP_BYTES, count=SCHEDULED)
        _, found = target.team.run(ROLES, [], ("scheduled", job))
        return {key: float(found[key]) for key in ("p50", "p99", "max", "early")}
