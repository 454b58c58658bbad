"""Workers of the synchronous client: threads that run a function for each job.

The threads (see ``pool``) take turns at reading one consumer. So a record is begun when a thread
is free for it and not before, and everything that waits is in the consumer, where it is renewed,
revoked and returned.

In order of keys a job whose key is at work is put aside, behind that key, and whoever is done with
the key takes it from there: a key's jobs are never at work together nor out of turn.
"""

from __future__ import annotations

import inspect
import logging
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from meshmq.client.channel import Channel
from meshmq.client.job import AnyJob, Job
from meshmq.client.pool import Pool, check_concurrency
from meshmq.errors import InvalidArgument

if TYPE_CHECKING:
    from meshmq.client.consumer import Consumer

AWAKE_SECONDS = 1.0

logger = logging.getLogger("meshmq")

J = TypeVar("J", bound=AnyJob)
Key = tuple[str, bytes]


class Turns(Generic[J]):
    """Which keys are at work, and what waits behind each. Its owner sees to it that one thread at
    a time calls it."""

    def __init__(self) -> None:
        self._behind: dict[Key, deque[J]] = {}

    @staticmethod
    def _key_of(job: J) -> Key | None:
        key = job.key
        return (job[4].row.topic, key) if key is not None else None

    def begin(self, job: J) -> bool:
        """Whether the job's key is free; else it is put aside."""
        key = self._key_of(job)
        if key is None:
            return True
        behind = self._behind.get(key)
        if behind is None:
            self._behind[key] = deque()
            return True
        held = job[4]
        held.member.park(held, job[3])
        behind.append(job)
        return False

    def end(self, job: J, go_on: bool) -> J | None:
        """The job is done: the next of its key, if there is one and ``go_on``."""
        key = self._key_of(job)
        if key is None:
            return None
        behind = self._behind[key]
        while behind and go_on:
            following = behind.popleft()
            held = following[4]
            if held.member.unpark(held, following[3]):
                return following
        del self._behind[key]
        return None


def check_worker(
    queue: object,
    concurrency: object,
    options: dict[str, Any],
    call: Callable[..., Any],
) -> None:
    """Raise InvalidArgument for what ``worker`` does not take; ``options`` are for ``call``."""
    if not isinstance(queue, str):
        raise InvalidArgument(f'write it as @mesh.worker("queue"), not with {queue!r}')
    check_concurrency(concurrency)
    taken = inspect.signature(call).parameters.values()
    names = {p.name for p in taken if p.kind == p.KEYWORD_ONLY} - {"prefetch", "start"}
    for name in options:
        if name not in names:
            raise InvalidArgument(
                f"worker has no option {name!r}; there are concurrency, prefetch, start, group, "
                f"{', '.join(sorted(names))}"
            )


class Worker(Pool[Job]):
    """A function that is run for each job; call it to run the function yourself.

    Attributes:
        group: the queue's or group's name.
        error: why it ended by itself, or None.
        running: jobs at work now.
    """

    _item = "job"

    def __init__(
        self,
        function: Callable[[Job], Any],
        join: Callable[[], Consumer],
        group: str,
        concurrency: int,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(function, f"a worker of {group!r}", group, concurrency, ended)
        self._join = join
        self.group = group
        self._consumer: Consumer | None = None
        self._turns: Turns[Job] = Turns()
        self._by_key = False

    def _open(self) -> Channel:
        consumer = self._consumer = self._join()
        self._by_key = consumer.order == "key"
        return consumer._channel

    def _close(self, timeout: float) -> None:
        if self._consumer is not None:
            self._consumer.close(timeout)

    def _next(self) -> Job | None:
        """The next job that can begin, or None at the end."""
        consumer = self._consumer
        assert consumer is not None
        with self._reading:
            while not self._stopping:
                job = consumer.take(lambda: self._stopping)
                if job is None:
                    break
                if not self._by_key:
                    return job
                with self._books:
                    if self._turns.begin(job):
                        return job
        return None

    def _do(self, item: Job) -> Job | None:
        try:
            with item.process():
                try:
                    self._function(item)
                except BaseException as error:
                    self._end_child(error)
                    raise
                self._end_child()
        finally:
            following = None
            if self._by_key:
                with self._books:
                    following = self._turns.end(item, not self._stopping)
        return following

    def __repr__(self) -> str:
        return f"Worker({self.group!r}, concurrency={self.concurrency}, {self._state})"


class Awaited:
    """Blocks until SIGINT or SIGTERM, or until somebody says that it is over.

    By a SimpleQueue: a signal's handler may put into it whatever the thread is doing.
    """

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._previous: dict[signal.Signals, Any] = {}

    def end(self) -> None:
        """It is over."""
        self._news.put(None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._news.put(None)

    def wait(self) -> None:
        """Block. A signal that comes just before the thread falls asleep does not wake it, and its
        handler runs only when the thread does: so it looks up now and then."""
        while True:
            try:
                self._news.get(timeout=AWAKE_SECONDS)
            except queue.Empty:
                continue
            return

    def __enter__(self) -> Self:
        # Other threads than the main one can take no signals: there it is somebody else's.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def first_error(workers: Iterable[Any]) -> BaseException | None:
    """What the first worker that failed ended with."""
    return next((w.error for w in workers if w.error is not None), None)


def tell_running(workers: Iterable[Any], seconds: float) -> None:
    """Log what is waited for after a signal, if anything: without a word it looks stuck."""
    counts: dict[str, int] = {}
    for worker in workers:
        if worker.running:
            counts[worker._item] = counts.get(worker._item, 0) + worker.running
    if counts:
        told = " and ".join(f"{n} {item}{'s' * (n > 1)}" for item, n in counts.items())
        logger.warning("finishing %s (%g s at most), Ctrl-C again ends it", told, seconds)


def tell_unused(workers: Iterable[Any], call: str) -> None:
    """Log which workers end with their mesh and never had anything: a program without ``run``, or
    other work that keeps it going, ends at once and says nothing."""
    for worker in workers:
        if worker.started and not (worker._stopping or worker._has_begun):
            logger.warning(
                "%s ends, for its mesh is closed, and it never had a %s: %s keeps a program going "
                "until Ctrl-C, stop() says that this is meant",
                worker._what, worker._item, call,
            )  # fmt: skip
