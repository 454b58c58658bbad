"""One bad client beside good ones: ``python -m tests.chaos.isolation --seconds 20 --idle 2000``.

Good clients publish and read lone records at a steady pace while, one after another, bad ones open
idle connections, read a byte a second, stop reading, vanish, or flood. For each the good clients'
p99 is set beside that of quiet times before and after, and the node's memory is looked at. A new
client must be served within 5 s. Nothing the good clients publish may be lost.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import meshmq
from tests.bench import about
from tests.chaos import hostile
from tests.chaos.power import Node
from tests.chaos.soak import child

GOOD, RATE = 4, 50  # clients, and records a second of each

GOOD_CLIENT = """
import sys, time, meshmq
url, index, rate = sys.argv[1], sys.argv[2], float(sys.argv[3])
states = []
with meshmq.connect(url, timeout=60, on_state=lambda change: states.append(change.state)) as mesh:
    with mesh.subscribe("good." + index) as sub:
        print("ready", flush=True)
        n = 0
        for line in sys.stdin:
            until, delays = time.monotonic() + float(line), []
            while (begin := time.perf_counter()) and time.monotonic() < until:
                mesh.publish("good." + index, b"%d" % n).wait(60)
                (message,) = sub.fetch(1, timeout=60)
                assert message.value == b"%d" % n
                delays.append(time.perf_counter() - begin)
                n += 1
                time.sleep(max(0.0, 1 / rate - delays[-1]))
            print(*[round(d * 1e6) for d in delays], flush=True)
        assert sub.missed == 0
print("lost", states.count("reconnecting"), flush=True)
"""

FLOOD = """
import sys, time, meshmq
with meshmq.connect(sys.argv[1], timeout=60) as mesh:
    until = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        mesh.publish_many("flood", [bytes(1000)] * 100)
"""

VANISH = """
import os, sys, meshmq
mesh = meshmq.connect(sys.argv[1])
sub = mesh.subscribe(">")
mesh.publish_many("flood", [bytes(1000)] * 1000)
os._exit(9)
"""


@contextlib.contextmanager
def idle(url: str, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(hostile.connect(url))
        yield


@contextlib.contextmanager
def slow(url: str, pace: int, pings: bool) -> Iterator[None]:
    """Reads so many bytes a second of what a publisher sends, who is bad for nobody else."""
    reader = hostile.SlowReader(url, "slow", pace, pings)
    reader.start()
    stop = threading.Event()

    def publish() -> None:
        with meshmq.connect(url, timeout=60) as mesh:
            while not stop.wait(0.05):
                mesh.publish_many("slow", [bytes(1000)] * 100)

    writer = threading.Thread(target=publish)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        reader.stop.set()
        writer.join()
        reader.join()


@contextlib.contextmanager
def running(code: str, url: str, seconds: float, again: bool = False) -> Iterator[None]:
    """A bad program; ``again``: one after another."""
    stop = threading.Event()
    processes: list[subprocess.Popen[str]] = []

    def run() -> None:
        while not stop.is_set():
            processes.append(child(code, url, seconds))
            processes[-1].wait()
            if not again:
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def isolation(seconds: float, idle_count: int) -> dict[str, Any]:
    """Run all of it; p99 in us by what went on."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bad: dict[str, Callable[[str], contextlib.AbstractContextManager[None]]] = {
        f"{idle_count} idle connections": lambda url: idle(url, idle_count),
        "reads a byte a second": lambda url: slow(url, 1, True),
        "stops reading": lambda url: slow(url, 0, True),
        "reads nothing, says nothing": lambda url: slow(url, 0, False),
        "vanishes, again and again": lambda url: running(VANISH, url, seconds, again=True),
        "floods": lambda url: running(FLOOD, url, seconds),
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        node = Node(Path(temporary) / "data")
        node.start()
        try:
            with meshmq.connect(node.url) as mesh:
                for topic in ("slow", "flood"):
                    mesh.admin.topics.create(topic, durability="transient")
                good = [child_with_stdin(node.url, i) for i in range(GOOD)]
                quiet = measure(good, seconds)
                for name, begin in bad.items():
                    with begin(node.url):
                        served = serve_a_new_one(node.url)
                        p99 = measure(good, seconds)
                    memory = mesh.admin.status()["memory_bytes"] >> 20
                    after = measure(good, seconds)
                    base = statistics.median([quiet, after])
                    found[name] = {
                        "p99_us": p99, "quiet_p99_us": round(base), "ratio": round(p99 / base, 2),
                        "new_client_s": round(served, 3), "memory_mib": memory,
                    }  # fmt: skip
                    quiet = after
                    print(name, found[name], flush=True)
                for process in good:
                    out, _ = process.communicate()
                    assert out.split()[:2] == ["lost", "0"], out
        finally:
            node.stop()
    return found


def child_with_stdin(url: str, index: int) -> subprocess.Popen[str]:
    process = child(GOOD_CLIENT, url, index, RATE, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def measure(good: list[subprocess.Popen[str]], seconds: float) -> int:
    """p99 in us of all good clients over so many seconds."""
    delays: list[int] = []
    for process in good:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    for process in good:
        assert process.stdout is not None
        delays += map(int, process.stdout.readline().split())
    delays.sort()
    return delays[int(len(delays) * 0.99)]


def serve_a_new_one(url: str) -> float:
    """Seconds until a new client has its first record confirmed."""
    begin = time.monotonic()
    with meshmq.connect(url, timeout=30) as mesh:
        mesh.publish("new", b"x").wait(30)
        return time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description="One bad client beside good ones.")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--idle", type=int, default=2000, help="idle connections")
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "what": "isolation", "commit": about.commit(), "date": about.date(),
        "seconds": options.seconds, "bad": isolation(options.seconds, options.idle),
    }  # fmt: skip
    about.keep("isolation", result, options.out)
    late = [n for n, one in result["bad"].items() if one["new_client_s"] > 5]
    if late:
        sys.exit(f"isolation: a new client was not served within 5 s: {late}")


if __name__ == "__main__":
    main()
