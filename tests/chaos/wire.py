"""A bad line between two switches, in user space: ``python -m tests.chaos.wire tap0 tap1``.

Two TAP devices of this network namespace, made here: a frame that goes into one comes out of the
other later by a delay, unless it is lost; with a seed for which. So TCP on both sides does what it
does on such a line: it sends again, and slows down. Takes commands on stdin, a line each: ``cut
both|there|back``, ``heal``; and ends at the end of stdin. Needs root.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import select
import struct
import sys
import time
from collections import deque

FRAMES_MAX = 4000  # under way in one direction; more are lost, as behind a router
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
WAYS = ("there", "back")


def _open(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def main() -> None:
    """Carry frames until stdin ends."""
    parser = argparse.ArgumentParser(description="A bad line between two switches.")
    parser.add_argument("names", nargs=2, help="of the two devices")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, one way")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the frames")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    fds = [_open(name) for name in options.names]
    under_way: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
    cut: set[str] = set()
    counts = {"carried": 0, "lost": 0, "cut": 0}
    print("ready", flush=True)
    while True:
        due = [queue[0][0] for queue in under_way if queue]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select([0, *fds], [], [], wait)
        now = time.monotonic()
        for fd, queue, way in zip(fds, under_way, WAYS, strict=True):
            if fd not in ready:
                continue
            for _ in range(64):
                try:
                    frame = os.read(fd, 65536)
                except BlockingIOError:
                    break
                if way in cut:
                    counts["cut"] += 1
                elif len(queue) >= FRAMES_MAX or chance.random() < options.loss:
                    counts["lost"] += 1
                else:
                    queue.append((now + options.delay, frame))
                    counts["carried"] += 1
        for queue, fd in zip(under_way, reversed(fds), strict=True):
            while queue and queue[0][0] <= now:
                try:
                    os.write(fd, queue.popleft()[1])
                except (BlockingIOError, OSError):
                    counts["lost"] += 1
        if 0 in ready:
            words = sys.stdin.readline().split()
            if not words:
                return
            if words[0] == "cut":
                cut |= set(WAYS if words[1] == "both" else words[1:])
                for queue, way in zip(under_way, WAYS, strict=True):
                    if way in cut:
                        queue.clear()
            else:
                cut.clear()
            print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
