"""What a measuring process may be asked to do with meshmq (see child.py).

Every consumer here reads value and offset of each record.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import meshmq
from meshmq import aio
from meshmq.bench.job import (
    STAMP,
    Job,
    Sent,
    Tally,
    cpu_seconds,
    link_of,
    ready,
    ready_then_go,
    send_chunks,
    send_paced,
    spread,
)

MANY = 1000  # values in one publish_many call
SINGLE = 50  # publish calls between two looks at the clock or the window
END = b""  # the last message tells live subscribers to stop; no other value is empty
FLUSH_SECONDS = 120.0
Result = dict[str, Any]


def _sender(mesh: meshmq.Mesh, job: Job) -> tuple[Callable[[Sequence[bytes]], object], int]:
    """The publishing call that the job asks for, and how many values it takes."""
    if job.options.get("many"):
        publish_many, topic = mesh.publish_many, job.topic
        asked = job.options.get("durability")
        return (lambda values: publish_many(topic, values, durability=asked)), job.chunk(MANY)
    publish = mesh.publish
    topics = job.options.get("topics", 0)
    if not topics:
        topic = job.topic

        def one_topic(values: Sequence[bytes]) -> None:
            for value in values:
                publish(topic, value)

        return one_topic, job.chunk(SINGLE)
    names = [f"{job.topic}.{i}" for i in range(topics)]
    turn = 0

    def round_robin(values: Sequence[bytes]) -> None:
        nonlocal turn
        for value in values:
            publish(names[turn], value)
            turn = (turn + 1) % topics

    return round_robin, job.chunk(SINGLE)


def _sent(sent: Sent, **more: Any) -> Result:
    return {"count": sent.count, "start_ns": sent.start_ns, "stop_ns": sent.stop_ns, **more}


def publish(job: Job) -> Result:
    """Publish in a flood (or up to a window), flush, and say when all was confirmed."""
    with meshmq.connect(**link_of(job)) as mesh:
        send, chunk = _sender(mesh, job)
        topic = f"{job.topic}.0" if job.options.get("topics") else job.topic
        asked = job.options.get("durability")
        durability = mesh.publish(topic, job.values()[0], durability=asked).wait(10).durability
        mesh.flush(FLUSH_SECONDS)
        ready_then_go()
        sent = send_chunks(job, send, chunk)
        mesh.flush(FLUSH_SECONDS)
        confirmed_ns = time.monotonic_ns()
        if job.board:
            mesh.publish(topic, END).wait(10)
        return _sent(sent, confirmed_ns=confirmed_ns, durability=durability)


def subscribe(job: Job) -> Result:
    """Read live records up to the end mark."""
    with meshmq.connect(**link_of(job)) as mesh, mesh.subscribe(job.topic) as sub:
        tally = Tally(job)
        # A power of two, so that the loop tests a mask; an eighth of the window at most.
        most = max(1, min(job.window // 8, 1024)) if job.window else 1024
        mask = (1 << most.bit_length() - 1) - 1
        ready()
        count, size, offset = 0, 0, None
        for message in sub:
            value, offset = message.value, message.offset
            if not value:
                break
            size += len(value)
            count += 1
            if not count & mask:
                tally.count = count
                tally.stamp()
        tally.count, tally.bytes = count, size
        tally.stamp()
        return tally.result(missed=sub.missed, offset=offset)


def replay(job: Job) -> Result:
    """Read ``job.count`` stored records from the first on."""
    with meshmq.connect(job.address, route="node") as mesh:
        ready_then_go()
        count, size, offset = 0, 0, None
        start_ns = time.monotonic_ns()
        with mesh.subscribe(job.topic, start="earliest") as sub:
            for message in sub:
                size += len(message.value)
                offset = message.offset
                count += 1
                if count == job.count:
                    break
        seconds = (time.monotonic_ns() - start_ns) / 1e9
        return {"count": count, "seconds": seconds, "bytes": size, "offset": offset}


def publish_aio(job: Job) -> Result:
    """As ``publish`` in a flood, from asyncio."""

    async def main() -> Result:
        async with aio.connect(job.address, route="node") as mesh:
            values = job.values()
            durability = (await (await mesh.publish(job.topic, values[0])).wait(10)).durability
            ready_then_go()
            count, clock = 0, time.monotonic
            start_ns, end = time.monotonic_ns(), clock() + job.seconds
            while clock() < end:
                for value in values:
                    await mesh.publish(job.topic, value)
                count += len(values)
            stop_ns = time.monotonic_ns()
            await mesh.flush(FLUSH_SECONDS)
            confirmed_ns = time.monotonic_ns()
            sent = Sent(count, start_ns, stop_ns)
            return _sent(sent, confirmed_ns=confirmed_ns, durability=durability)

    return asyncio.run(main())


def replay_aio(job: Job) -> Result:
    """As ``replay``, from asyncio."""

    async def main() -> Result:
        async with aio.connect(job.address, route="node") as mesh:
            ready_then_go()
            count, size, offset = 0, 0, None
            start_ns = time.monotonic_ns()
            async with mesh.subscribe(job.topic, start="earliest") as sub:
                async for message in sub:
                    size += len(message.value)
                    offset = message.offset
                    count += 1
                    if count == job.count:
                        break
            seconds = (time.monotonic_ns() - start_ns) / 1e9
            return {"count": count, "seconds": seconds, "bytes": size, "offset": offset}

    return asyncio.run(main())


def paced(job: Job) -> Result:
    """Publish lone stamped messages at ``job.rate`` a second."""
    with meshmq.connect(job.address, route="node") as mesh:
        mesh.publish(job.topic, job.stamped(0)).wait(10)
        ready_then_go()
        publish_one, topic = mesh.publish, job.topic
        sent = send_paced(job, lambda value: publish_one(topic, value))
        mesh.flush(FLUSH_SECONDS)
        mesh.publish(topic, END).wait(10)
        return _sent(sent)


def delays(job: Job) -> Result:
    """Time from sending to receiving, of every stamped message up to the end mark."""
    with meshmq.connect(job.address, route="node") as mesh, mesh.subscribe(job.topic) as sub:
        samples, clock = list[int](), time.monotonic_ns
        ready()
        for message in sub:
            now, value = clock(), message.value
            if not value:
                break
            samples.append(now - STAMP.unpack_from(value)[0])
        return {"missed": sub.missed, **spread(samples[1:])}


def confirm(job: Job) -> Result:
    """Publish one record, wait for its confirmation, and again, for ``job.seconds``."""
    with meshmq.connect(job.address, route="node") as mesh:
        value = job.values()[0]
        durability = mesh.publish(job.topic, value).wait(10).durability
        ready_then_go()
        samples, clock, end = [], time.monotonic_ns, time.monotonic() + job.seconds
        while time.monotonic() < end:
            start = clock()
            mesh.publish(job.topic, value).wait(10)
            samples.append(clock() - start)
        return {"durability": durability, **spread(samples)}


def steady(job: Job) -> Result:
    """Publish ``job.rate`` a second by single calls, every millisecond's share at once.

    Measures the share of one core that this process and ``options["node_pid"]`` take meanwhile.
    """
    node_pid: int = job.options["node_pid"]
    with meshmq.connect(job.address, route="node") as mesh:
        values = job.values()
        mesh.publish(job.topic, values[0]).wait(10)
        ready_then_go()
        publish_one, topic, share = mesh.publish, job.topic, max(1, job.rate // 1000)
        before = cpu_seconds(node_pid), cpu_seconds(os.getpid())
        start, sent = time.monotonic(), 0
        while (due := sent / job.rate) < job.seconds:
            wait = start + due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            for value in values[:share]:
                publish_one(topic, value)
            sent += share
        took = time.monotonic() - start
        after = cpu_seconds(node_pid), cpu_seconds(os.getpid())
        mesh.flush(FLUSH_SECONDS)
        node, client = ((b - a) / took for a, b in zip(before, after, strict=True))
        return {"node_cpu": node, "client_cpu": client, "rate": sent / took}


def load(job: Job) -> Result:
    """Store ``job.count`` records over ``options["topics"]`` topics by publish_many."""
    with meshmq.connect(job.address, route="node") as mesh:
        ready_then_go()
        topics = job.options.get("topics", 0)
        names = [f"{job.topic}.{i}" for i in range(topics)] or [job.topic]
        values, sent, turn = job.values(), 0, 0
        while sent < job.count:
            mesh.publish_many(names[turn], values[: job.count - sent])
            sent += min(len(values), job.count - sent)
            turn = (turn + 1) % len(names)
        mesh.flush(FLUSH_SECONDS)
        return {"count": sent}


def stall(job: Job) -> Result:
    """Subscribe and never read, until the parent closes our standard input."""
    with (
        meshmq.connect(job.address, route="node") as mesh,
        mesh.subscribe(job.topic, start="earliest"),
    ):
        ready()
        sys.stdin.read()
    return {}


ROLES = {
    "publish": publish,
    "subscribe": subscribe,
    "replay": replay,
    "publish_aio": publish_aio,
    "replay_aio": replay_aio,
    "paced": paced,
    "delays": delays,
    "confirm": confirm,
    "steady": steady,
    "load": load,
    "stall": stall,
}
