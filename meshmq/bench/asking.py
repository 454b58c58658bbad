"""Asking and checking, whatever carries it: what the requesters of all systems have in common.

Each request begins with its number. A reply must have its request's length and first bytes, and
comes once: anything else ends the measurement with an error.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from meshmq.bench.job import NUMBER, Job, ready_then_go, spread

REPLY_SECONDS = 10.0  # for one reply; what takes longer is lost


class WrongReply(Exception):
    """A reply that is not the echo of its request."""


class Asking:
    """The requests of one run, at most ``outstanding`` of them under way.

    For ``job.count`` requests or ``job.seconds``. Either the caller brings a call that returns the
    reply (``by_calls``, ``by_tasks``), or it sends what ``first`` and ``replied`` give it.
    """

    def __init__(self, job: Job) -> None:
        self.outstanding: int = job.options.get("outstanding", 1)
        self._job = job
        self._rest = job.values()[0][NUMBER.size :]
        self._numbers = itertools.count()
        self._under_way: dict[bytes, int] = {}  # time of asking by a request's first bytes
        self._samples: list[int] = []
        self._start_ns = self._end_ns = 0

    def begin(self) -> None:
        """Wait for the word; the time runs from here."""
        ready_then_go()
        self.start()

    def start(self) -> None:
        self._start_ns = time.monotonic_ns()
        self._end_ns = self._start_ns + int(self._job.seconds * 1e9)

    def probe(self) -> bytes:
        """A request from before the beginning: to see that everything is up."""
        return bytes(NUMBER.size) + self._rest

    def _next(self) -> bytes | None:
        """Another request, None at the end; from any thread."""
        number = next(self._numbers)
        if number >= self._job.count if self._job.count else time.monotonic_ns() >= self._end_ns:
            return None
        return NUMBER.pack(number) + self._rest

    # -- calls that return their reply ---------------------------------------------------------

    def by_calls(self, call: Callable[[bytes], bytes]) -> None:
        """``call`` in this thread or, if more are outstanding, in as many others."""
        if self.outstanding == 1:
            self._call_on(call)
            return
        with ThreadPoolExecutor(self.outstanding) as threads:
            running = [threads.submit(self._call_on, call) for _ in range(self.outstanding)]
        for one in running:
            one.result()

    def _call_on(self, call: Callable[[bytes], bytes]) -> None:
        clock, note = time.monotonic_ns, self._samples.append
        while (value := self._next()) is not None:
            asked_ns = clock()
            reply = call(value)
            note(clock() - asked_ns)
            check(value, reply)

    def by_pending(self, ask: Callable[[bytes], Callable[[], bytes]]) -> None:
        """From this thread alone: ``ask`` returns what waits for the reply. The oldest is waited
        for, and then the next one asked."""
        clock, note = time.monotonic_ns, self._samples.append
        waiting: deque[tuple[int, bytes, Callable[[], bytes]]] = deque()
        value = self._next()
        while value is not None or waiting:
            while value is not None and len(waiting) < self.outstanding:
                waiting.append((clock(), value, ask(value)))
                value = self._next()
            asked_ns, asked, wait = waiting.popleft()
            reply = wait()
            note(clock() - asked_ns)
            check(asked, reply)

    async def by_tasks(self, call: Callable[[bytes], Awaitable[bytes]]) -> None:
        """``call`` in as many tasks as requests are outstanding."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.outstanding):
                tasks.create_task(self._await_on(call))

    async def _await_on(self, call: Callable[[bytes], Awaitable[bytes]]) -> None:
        clock, note = time.monotonic_ns, self._samples.append
        while (value := self._next()) is not None:
            asked_ns = clock()
            reply = await call(value)
            note(clock() - asked_ns)
            check(value, reply)

    # -- requests and replies by themselves ----------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing is under way: after ``first``, whether all is done."""
        return not self._under_way

    def first(self) -> list[bytes]:
        """What to send at the beginning."""
        wished = (self._ask() for _ in range(self.outstanding))
        return [value for value in wished if value is not None]

    def replied(self, reply: bytes) -> bytes | None:
        """Take a reply; returns what to send next, if anything."""
        asked_ns = self._under_way.pop(reply[: NUMBER.size], 0)
        if not asked_ns:
            raise WrongReply(f"a reply to nothing that is under way: {reply[:20]!r}")
        self._samples.append(time.monotonic_ns() - asked_ns)
        check(reply[: NUMBER.size] + self._rest, reply)
        return self._ask()

    def _ask(self) -> bytes | None:
        value = self._next()
        if value is not None:
            self._under_way[value[: NUMBER.size]] = time.monotonic_ns()
        return value

    # -- the end -------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """Call it when the last reply is here."""
        took = (time.monotonic_ns() - self._start_ns) / 1e9
        return {"rate": len(self._samples) / took, **spread(self._samples)}


def check(value: bytes, reply: bytes) -> None:
    """Raise WrongReply unless ``reply`` has the length and the first bytes of ``value``."""
    if len(reply) != len(value) or reply[: NUMBER.size] != value[: NUMBER.size]:
        raise WrongReply(f"{value[:20]!r} ({len(value)} bytes) got {reply[:20]!r} ({len(reply)})")
