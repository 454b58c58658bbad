"""The programs of ``tests.chaos.site``: ``python -m tests.chaos.site_programs ROLE JSON``.

Each says ``ready``, works until its stdin ends, and prints what it saw as one line of JSON. Records
carry their producer and number before the flight that is their value.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import meshmq

GROUP, SERVICE = "billing", "fares"
LATE_S = 2.0  # a request ends within its timeout and this, on a machine that is busy


def _stopping() -> threading.Event:
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    return stop


def _ready() -> None:
    print("ready", flush=True)


def produce(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """Publish flights at a rate; which of them were confirmed, and how."""
    stop, me = _stopping(), options["name"]
    with gzip.open(options["flights"], "rt", encoding="utf-8") as file:
        flights = [line.rstrip("\n") for _, line in zip(range(20_000), file, strict=False)]
    confirmed, refused, durabilities = [], Counter[str](), Counter[str]()
    waiting: list[tuple[int, meshmq.Receipt]] = []
    _ready()
    number, due, kind = 0, time.monotonic(), options.get("durability")
    more = {"durability": kind} if kind else {}

    def settle(everything: bool) -> None:
        while waiting and (everything or waiting[0][1].done):
            n, receipt = waiting.pop(0)
            try:
                done = receipt.wait(60)
            except meshmq.MeshError as error:
                refused[type(error).__name__] += 1
            else:
                confirmed.append(n)
                durabilities[done.durability] += 1

    while not stop.is_set():
        flight = flights[number % len(flights)]
        carrier = flight.split(",")[1] or "none"
        topic = f"flights.{carrier if carrier.isalnum() else 'none'}"
        with contextlib.suppress(meshmq.BufferFull):
            receipt = mesh.publish(topic, f"{me} {number} {flight}".encode(), **more)
            waiting.append((number, receipt))
            number += 1
        settle(False)
        due += 1 / options["rate"]
        time.sleep(max(0.0, due - time.monotonic()))
    settle(True)
    return {
        "published": number, "confirmed": _runs(confirmed), "refused": dict(refused),
        "durabilities": dict(durabilities),
    }  # fmt: skip


def _runs(numbers: list[int]) -> list[list[int]]:
    """[first, last] of numbers that follow each other."""
    found: list[list[int]] = []
    for n in sorted(numbers):
        if found and found[-1][1] == n - 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return found


class _Seen:
    """How often each record came, by producer; in which order within a stream."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[int]] = {}
        self.back = 0
        self._last: dict[Any, int] = {}

    def add(self, message: Any) -> None:
        producer, number, _ = message.value.decode().split(" ", 2)
        self.counts.setdefault(producer, Counter())[int(number)] += 1
        stream = (message.topic, message.origin)
        if message.offset <= self._last.get(stream, -1):
            self.back += 1
        self._last[stream] = max(message.offset, self._last.get(stream, -1))

    def result(self) -> dict[str, Any]:
        return {
            "seen": {p: _runs(list(c)) for p, c in self.counts.items()},
            "doubled": {
                p: sorted(n for n, times in c.items() if times > 1)[:20]
                for p, c in self.counts.items()
                if any(times > 1 for times in c.values())
            },
            "back": self.back,
        }


def _until_quiet(
    fetch: Callable[[int, float], list[Any]], most: int, stop: threading.Event, quiet: int
) -> Iterator[Any]:
    """What comes until the program is to stop and nothing has come for so many seconds."""
    idle = 0
    while not (stop.is_set() and idle >= quiet):
        batch = fetch(most, 1.0)
        idle = 0 if batch else idle + 1
        yield from batch


def subscribe(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """Read all flights, each once."""
    stop, seen = _stopping(), _Seen()
    with mesh.subscribe("flights.>", start="earliest", dedup=True) as sub:
        _ready()
        for message in _until_quiet(sub.fetch, 1000, stop, options["quiet"]):
            seen.add(message)
        return {**seen.result(), "missed": sub.missed, "away": list(sub.away)}


def consume(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """Work in a group; what is handed out twice without saying that it may be."""
    stop, counts, unsaid, stale = _stopping(), Counter[str](), [], 0
    seen: dict[str, tuple[Any, ...]] = {}
    with mesh.consume("flights.>", group=GROUP, ack_timeout=30, prefetch=64) as consumer:
        _ready()
        for message in _until_quiet(consumer.fetch, 64, stop, options["quiet"]):
            record = " ".join(message.value.decode().split(" ", 2)[:2])
            place = (
                message.origin, message.topic, message.offset, message.maybe_duplicate,
                round(time.time(), 3),
            )  # fmt: skip
            if record in seen and not message.maybe_duplicate and message.attempt == 1:
                unsaid.append((record, seen[record], place))
            seen[record] = place
            try:
                message.ack()
            except meshmq.MeshError:
                stale += 1
            else:
                counts[record.split(" ")[0]] += 1
    by_producer: dict[str, list[int]] = {}
    for record in seen:
        producer, number = record.split(" ")
        by_producer.setdefault(producer, []).append(int(number))
    return {
        "worked": {p: _runs(numbers) for p, numbers in by_producer.items()},
        "acked": dict(counts), "unsaid": unsaid, "stale": stale,
    }  # fmt: skip


def serve(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """Answer with what was asked."""
    stop, served = _stopping(), Counter[str]()

    def handler(request: Any) -> bytes:
        served["all"] += 1
        value: bytes = request.value
        return value

    mesh.serve(SERVICE, handler, concurrency=4)
    _ready()
    stop.wait()
    return {"served": served["all"]}


def ask(mesh: meshmq.Mesh, options: dict[str, Any]) -> dict[str, Any]:
    """Ask at a rate; every request must end in time, with its own reply or an error with a name."""
    stop, outcomes, late, wrong = _stopping(), Counter[str](), [], 0
    _ready()
    number, timeout = 0, options["timeout"]
    while not stop.is_set():
        begin = time.monotonic()
        value = b"%d" % number
        try:
            reply = mesh.request(
                SERVICE, value, timeout=timeout, idempotent=bool(options["idempotent"])
            )
        except meshmq.MeshError as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["reply"] += 1
            wrong += reply.value != value
        took = time.monotonic() - begin
        if took > timeout + LATE_S:
            late.append(round(took, 3))
        number += 1
        time.sleep(max(0.0, 1 / options["rate"] - took))
    return {"asked": number, "outcomes": dict(outcomes), "late": late, "wrong": wrong}


ROLES = {
    "produce": produce, "subscribe": subscribe, "consume": consume, "serve": serve, "ask": ask,
}  # fmt: skip


def main() -> None:
    role, options = sys.argv[1], json.loads(sys.argv[2])
    with meshmq.connect(
        options["url"], name=options["name"], mesh=options["mesh"], insecure=True, route="node",
        timeout=20,
    ) as mesh:  # fmt: skip
        result = ROLES[role](mesh, options)
    line = json.dumps({"role": role, "name": options["name"], **result})
    if options.get("out"):
        Path(options["out"]).write_text(line)
    print(line, flush=True)


if __name__ == "__main__":
    main()
