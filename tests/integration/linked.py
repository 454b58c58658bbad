"""What the tests of programs that are linked without a node share."""

from __future__ import annotations

import time


def until(is_true, timeout=10.0):
    end = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.005)


def take(sub, count):
    found = []
    while len(found) < count:
        batch = sub.fetch(count - len(found), timeout=10)
        assert batch, f"{len(found)} of {count} came"
        found += batch
    return found
