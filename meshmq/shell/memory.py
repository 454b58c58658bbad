"""Memory that nobody accounts for: what a hostile peer makes the transport hold.

ZeroMQ keeps the parts of a message until its last one has come, and no option of it bounds them: a
peer that never ends one takes memory without end, and nothing of it ever reaches us. So the node
compares what the process has with what it knows to hold; when too much is unaccounted for, the
listener is closed and bound again, which frees it. Clients reconnect; nothing confirmed is lost.
"""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

from meshmq import limits

_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def give_back() -> None:
    """Have the allocator return what is free to the system, where it can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass


def keep_freed() -> None:
    """Let this process keep up to HEAP_KEPT_BYTES that it has freed, for what it takes next.

    By itself glibc gives all but 128 KiB at the end of the heap back at once, so that a flood takes
    each page from the system anew: half of the time that large values cost. It learns from blocks
    that are freed (mallopt(3), M_MMAP_THRESHOLD): one that nobody has touched costs nothing.
    Who has set MALLOC_TRIM_THRESHOLD_ is obeyed, and other allocators do not care.
    """
    bytes(limits.HEAP_KEPT_BYTES // 2)


def raise_open_files() -> int:
    """Allow this process as many open files as it may have; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, limits.OPEN_FILES)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


class Breaker:
    """Says when the listener must be bound again.

    Attributes:
        breaks: how often it was.
    """

    def __init__(self, resident: int, held: int) -> None:
        self._base = resident - held  # what the process has that is nobody's
        self._broke_ns = 0
        self.breaks = 0

    def is_due(self, resident: int, held: int, now_ns: int) -> bool:
        """Whether too much is unaccounted for, by ``held`` bytes that the node knows of."""
        other = resident - held - self._base
        if self._broke_ns and now_ns - self._broke_ns > limits.MEMORY_SETTLE_NS:
            # What is still there is not the transport's: live with it.
            self._base += max(0, other)
            self._broke_ns = 0
            return False
        if self._broke_ns or other < limits.MEMORY_UNACCOUNTED_MAX:
            return False
        self._broke_ns = now_ns
        self.breaks += 1
        return True
