"""The only place that reads time, entropy and the program's name."""

from __future__ import annotations

import os
import random
import sys
import time

from meshmq.names import is_named

now_ns = time.monotonic_ns
"""Monotonic time in ns: every deadline."""

wall_ns = time.time_ns
"""Unix time in ns: timestamps only."""


def entropy() -> random.Random:
    """Randomness that differs in every process."""
    return random.Random(int.from_bytes(os.urandom(32), "big"))


def instance_id() -> bytes:
    """16 random bytes: this run of the program."""
    found = os.urandom(16)
    return instance_id() if is_named(found) else found


def program_name() -> str:
    """What people see in listings: the script's name and the process id."""
    return f"{os.path.basename(sys.argv[0]) or 'python'}:{os.getpid()}"[:200]
