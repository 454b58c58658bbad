"""The programs of ``tests.chaos.links``: ``python -m tests.chaos.link_programs ROLE JSON``.

``publish`` sends real flights at a rate, each with its program and number before the flight.
``read`` reads all of them from the start until as many as are to come have come, and some seconds
more. Each prints what it saw as one line of JSON.

``feed`` and ``work`` are those of ``tests.chaos.ring``: they may be killed, so what they did is in
a file, a line each: a confirmed record, or one that a member of a group has begun.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import sys
import threading
import time
from collections import Counter, deque
from typing import Any

import meshmq

TAIL, CARRIER = 3, 1
QUIET_S = 3.0
FAULTS_TOLD = 10
GROUP = "billing"


def publish(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """So many flights at a rate; which were confirmed, and which refused."""
    me, rate = options["name"], options["rate"]
    with gzip.open(options["flights"], "rt", encoding="utf-8") as file:
        file.readline()
        flights = [line.rstrip("\n") for line in itertools.islice(file, options["count"])]
    print("ready", flush=True)
    sys.stdin.readline()
    waiting: deque[Any] = deque()
    refused, confirmed = Counter[str](), 0
    due = time.monotonic()
    for number in range(options["count"]):
        flight = flights[number % len(flights)]
        fields = flight.split(",", TAIL + 1)
        topic = f"flights.{fields[CARRIER]}"
        waiting.append(
            mesh.publish(topic, f"{me} {number} {flight}".encode(), key=fields[TAIL].encode())
        )
        while waiting and (waiting[0].done or len(waiting) > 10_000):
            confirmed += _settle(waiting.popleft(), refused)
        if number % 20 == 0:
            due += 20 / rate
            time.sleep(max(0.0, due - time.monotonic()))
    confirmed += sum(_settle(receipt, refused) for receipt in waiting)
    return {"published": options["count"], "confirmed": confirmed, "refused": dict(refused)}


def _settle(receipt: Any, refused: Counter[str]) -> bool:
    try:
        receipt.wait(60)
    except meshmq.MeshError as error:
        refused[type(error).__name__] += 1
        return False
    return True


class _Streams:
    """What was read, by stream: a node's records of one topic."""

    def __init__(self) -> None:
        self.ends: dict[str, int] = {}
        self.sums: dict[str, Any] = {}
        self.records: Counter[bytes] = Counter()
        self.sites: Counter[str] = Counter()
        self.faults: list[str] = []
        self.count = 0

    def add(self, message: meshmq.Message) -> None:
        stream = f"{message.site} {message.origin} {message.topic}"
        end = self.ends.get(stream, 0)
        if message.offset != end and len(self.faults) < FAULTS_TOLD:
            self.faults.append(f"{stream}: offset {message.offset} where {end} was to come")
        self.ends[stream] = (message.offset or 0) + 1
        known = self.sums.setdefault(stream, hashlib.sha256())
        for part in (b"%d" % (message.offset or 0), message.key or b"", message.value):
            known.update(len(part).to_bytes(4, "big") + part)
        self.records[message.value[: message.value.index(b" ", message.value.index(b" ") + 1)]] += 1
        self.sites[message.site or ""] += 1
        self.count += 1


def read(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """All that comes; a checksum of each stream."""
    streams, total = _Streams(), options["total"]
    until = time.monotonic() + options["bound"]
    with mesh.subscribe("flights.>", start="earliest") as sub:
        print("ready", flush=True)
        quiet = time.monotonic()
        while time.monotonic() < until:
            for message in sub.fetch(10_000, timeout=0.5):
                streams.add(message)
                quiet = time.monotonic()
            if streams.count >= total and time.monotonic() - quiet > QUIET_S:
                break
        missed = sub.missed
    doubled = [record.decode() for record, times in streams.records.items() if times > 1]
    return {
        "count": streams.count, "missed": missed, "doubled": doubled[:FAULTS_TOLD],
        "records": len(streams.records), "sites": dict(streams.sites), "faults": streams.faults,
        "sums": {stream: one.hexdigest() for stream, one in sorted(streams.sums.items())},
        "ends": dict(sorted(streams.ends.items())),
    }  # fmt: skip


def feed(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """Orders at a rate, each with its program and number; those that are confirmed."""
    me, rate, stop = options["name"], options["rate"], _stopping()
    confirmed = 0
    with open(options["file"], "a", buffering=1, encoding="utf-8") as file:
        print("ready", flush=True)
        due = time.monotonic()
        while not stop.is_set():
            receipts = [
                mesh.publish(f"orders.{options['site']}", f"{me} {confirmed + i}".encode())
                for i in range(10)
            ]
            for receipt in receipts:
                receipt.wait(30)
                file.write(f"{me} {confirmed}\n")
                confirmed += 1
            due += 10 / rate
            time.sleep(max(0.0, due - time.monotonic()))
    return {"confirmed": confirmed}


def work(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """A member of the group: what it begins goes to the file before it is acked."""
    stop, worked, stale = _stopping(), 0, 0
    with (
        open(options["file"], "a", buffering=1, encoding="utf-8") as file,
        mesh.consume("orders.>", group=GROUP, ack_timeout=10, prefetch=16) as consumer,
    ):
        print("ready", flush=True)
        while not stop.is_set():
            for message in consumer.fetch(16, timeout=0.2):
                again = message.maybe_duplicate or message.attempt > 1
                file.write(f"{message.value.decode()} {int(again)} {options['name']}\n")
                worked += 1
                time.sleep(options["seconds"])
                try:
                    message.ack()
                except meshmq.MeshError:
                    stale += 1
    return {"worked": worked, "stale": stale}


def _stopping() -> threading.Event:
    """Set when stdin ends."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    return stop


ROLES = {"publish": publish, "read": read, "feed": feed, "work": work}


def main() -> None:
    role, options = sys.argv[1], json.loads(sys.argv[2])
    with meshmq.connect(
        options["url"], name=options["name"], mesh=options["mesh"], insecure=True, route="node",
        timeout=30,
    ) as mesh:  # fmt: skip
        result = ROLES[role](mesh, options)
    print(json.dumps({"role": role, "name": options["name"], **result}), flush=True)


if __name__ == "__main__":
    main()
