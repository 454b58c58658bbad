"""What a measuring process may be asked to do with groups and queues (see child.py)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import meshmq
from meshmq.bench.job import Board, Job, WorkTally, ready, ready_then_go, send_chunks, spread

MANY = 1000
SINGLE = 50
FLUSH_SECONDS = 120.0
SETTLE_SECONDS = 30.0
STAMP = struct.Struct("<Q")
Result = dict[str, Any]


def _sender(mesh: meshmq.Mesh, job: Job) -> tuple[Callable[[Sequence[bytes]], object], int]:
    keys = job.options.get("keys", 0)
    topic = job.topic
    if keys:
        names = [b"key-%d" % i for i in range(keys)]
        turn = 0

        def keyed(values: Sequence[bytes]) -> None:
            nonlocal turn
            chosen = [names[(turn + i * 7919) % keys] for i in range(len(values))]
            turn += len(values) * 7919
            mesh.publish_many(topic, values, keys=chosen)

        return keyed, job.chunk(MANY)
    enqueue = mesh.enqueue

    def one_by_one(values: Sequence[bytes]) -> None:
        for value in values:
            enqueue(topic, value)

    return one_by_one, job.chunk(SINGLE)


def _left(mesh: meshmq.Mesh, name: str) -> int:
    """Records of a group that nobody has settled, once workers are done; bounded waiting."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        left = int(mesh.admin.groups.show(name)["records"])
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def put(job: Job) -> Result:
    """Fill a queue while its workers empty it; then ask what was left."""
    with meshmq.connect(job.address, route="node") as mesh:
        send, chunk = _sender(mesh, job)
        ready_then_go()
        sent = send_chunks(job, send, chunk)
        mesh.flush(FLUSH_SECONDS)
        confirmed_ns = time.monotonic_ns()
        board = Board(job.board)
        board.finish(sent.count)
        board.wait_flags(job.receivers, FLUSH_SECONDS)
        return {
            "count": sent.count,
            "start_ns": sent.start_ns,
            "confirmed_ns": confirmed_ns,
            "unacked": _left(mesh, job.options.get("group", job.topic)),
        }


def work(job: Job) -> Result:
    """Take records of a queue or group and ack each."""
    options = job.options
    with meshmq.connect(job.address, route="node") as mesh:
        prefetch = options.get("prefetch", 4096)
        order = options.get("order", "any")
        if "group" in options:
            consumer = mesh.consume(job.topic, options["group"], order=order, prefetch=prefetch)
        else:
            consumer = mesh.work(job.topic, prefetch=prefetch, order=order)
        with consumer:
            tally = WorkTally(job)
            ready()
            while not tally.is_finished():
                messages = consumer.fetch(1024, timeout=0.2)
                for message in messages:
                    tally.add(message.value)
                    message.ack()
                if messages:
                    tally.stamp()
        return tally.result()


def drain(job: Job) -> Result:
    """Take ``count`` records of what waits and ack each, as fast as they come."""
    with meshmq.connect(job.address, route="node") as mesh:
        with mesh.work(job.topic, prefetch=job.options.get("prefetch", 4096)) as consumer:
            ready_then_go()
            start_ns, taken = time.monotonic_ns(), 0
            for message in consumer:
                message.ack()
                taken += 1
                if taken >= job.count:
                    break
            stop_ns = time.monotonic_ns()
        return {"count": taken, "start_ns": start_ns, "stop_ns": stop_ns}


def delay_some(job: Job) -> Result:
    """Nack ``count`` records with a delay."""
    with meshmq.connect(job.address, route="node") as mesh:
        with mesh.work(job.topic, prefetch=16384) as consumer:
            ready_then_go()
            taken = 0
            for message in consumer:
                message.nack(delay=job.options["delay"])
                taken += 1
                if taken >= job.count:
                    break
        return {"count": taken}


def fill(job: Job) -> Result:
    """Put ``count`` jobs into a queue."""
    values = job.values()
    with meshmq.connect(job.address, route="node") as mesh:
        ready_then_go()
        for i in range(0, job.count, len(values)):
            mesh.enqueue_many(job.topic, values[: min(len(values), job.count - i)])
        mesh.flush(FLUSH_SECONDS)
        return {"count": job.count}


def hoard(job: Job) -> Result:
    """Take records, tell so, and never settle them; to be killed."""
    with (
        meshmq.connect(job.address, route="node") as mesh,
        mesh.work(job.topic, prefetch=64) as consumer,
    ):
        ready()
        board = Board(job.board)
        consumer.fetch(64, timeout=30)
        board.set_flag(job.index)
        time.sleep(60)
        return {}


def inherit(job: Job) -> Result:
    """Say when the first record comes that another worker had."""
    with (
        meshmq.connect(job.address, route="node") as mesh,
        mesh.work(job.topic, prefetch=4096) as consumer,
    ):
        ready()
        for message in consumer:
            if message.maybe_duplicate or message.attempt > 1:
                got_ns = time.monotonic_ns()
                message.ack()
                return {"got_ns": got_ns}
            message.ack()
        return {"got_ns": 0}


def scheduled(job: Job) -> Result:
    """Jobs with a due time in their value: how late they come, in us; early ones are counted."""
    late: list[int] = []
    early = 0
    with (
        meshmq.connect(job.address, route="node") as mesh,
        mesh.work(job.topic, prefetch=1024) as consumer,
    ):
        ready_then_go()
        for i in range(job.count):
            delay = 0.2 + (i * 7 % 1000) / 1000 * job.seconds
            due_ns = time.time_ns() + int(delay * 1e9)
            mesh.enqueue(job.topic, STAMP.pack(due_ns), delay=delay)
        mesh.flush(FLUSH_SECONDS)
        for message in consumer:
            now_ns = time.time_ns()
            (due_ns,) = STAMP.unpack(message.value)
            late.append(now_ns - due_ns)
            early += now_ns < due_ns
            message.ack()
            if len(late) >= job.count:
                break
    return {**spread(late), "max": max(late) / 1000, "early": early}


ROLES: dict[str, Callable[[Job], Result]] = {
    "put": put,
    "work": work,
    "drain": drain,
    "delay_some": delay_some,
    "fill": fill,
    "hoard": hoard,
    "inherit": inherit,
    "scheduled": scheduled,
}
