"""Workers of the synchronous client: threads that run a function for each job.

The threads take turns at reading one consumer: one waits for the next job, the others wait for
their turn. So a record is begun when a thread is free for it and not before, and everything that
waits is in the consumer, where it is renewed, revoked and returned.

In order of keys a job whose key is at work is put aside, behind that key, and whoever is done with
the key takes it from there: a key's jobs are never at work together nor out of turn.
"""

from __future__ import annotations

import functools
import inspect
import logging
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from meshmq.client.job import AnyJob, Job
from meshmq.errors import InvalidArgument, MeshError

if TYPE_CHECKING:
    from meshmq.client.consumer import Consumer

logger = logging.getLogger("meshmq")

AWAKE_SECONDS = 1.0
CONCURRENCY_MAX = 1024

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


def check_concurrency(concurrency: object) -> int:
    """Raise InvalidArgument for what is no number of threads or tasks."""
    if (
        isinstance(concurrency, bool)
        or not isinstance(concurrency, int)
        or not 1 <= concurrency <= CONCURRENCY_MAX
    ):
        raise InvalidArgument(f"concurrency is 1..{CONCURRENCY_MAX}, not {concurrency!r}")
    return concurrency


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


class Worker:
    """A function that is run for each job; call it to run the function yourself.

    Attributes:
        group: the queue's or group's name.
        error: why it ended by itself, or None.
        running: jobs at work now.
    """

    def __init__(
        self,
        function: Callable[[Job], Any],
        join: Callable[[], Consumer],
        group: str,
        concurrency: int,
        ended: Callable[[], None],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._join = join
        self._ended = ended
        self.group = group
        self.concurrency = concurrency
        self.error: BaseException | None = None
        self.running = 0
        self._consumer: Consumer | None = None
        self._threads: list[threading.Thread] = []
        self._left = 0  # threads that have not ended
        self._stopping = False
        self._reading = threading.Lock()
        self._books = threading.Lock()
        self._turns: Turns[Job] = Turns()
        self._by_key = False

    def __call__(self, job: Job) -> Any:
        return self._function(job)

    @property
    def started(self) -> bool:
        """Whether ``start`` was called."""
        return self._consumer is not None

    @property
    def stopped(self) -> bool:
        """Whether it was started and works no more."""
        return self.started and not self._left

    def start(self) -> None:
        """Join and begin; done by the decorator unless told otherwise. Once only.

        Raises:
            MeshError: the node did not let it in: see ``Mesh.consume``.
        """
        if self._consumer is not None:
            return
        consumer = self._consumer = self._join()
        self._by_key = consumer.order == "key"
        name = f"meshmq-{self.group}"
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i + 1}", daemon=True)
            for i in range(self.concurrency)
        ]
        self._left = len(self._threads)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Take nothing new, let what runs come to its end, return the rest to the node.

        Args:
            timeout: seconds to wait for what runs. What is not done then is handed to others,
                and its own end counts for nothing.

        Returns:
            Whether everything that ran came to its end. Called by a job of its own it does not
            wait, and returns False.
        """
        self.announce_stop()
        consumer = self._consumer
        if consumer is None:
            return True
        channel = consumer._channel
        deadline = channel.deadline(timeout)
        if threading.current_thread() in self._threads:
            return False
        for thread in self._threads:
            thread.join(channel.left(deadline))
        is_done = not self._left
        consumer.close(max(1.0, channel.left(deadline) or 0.0))
        return is_done

    def announce_stop(self) -> None:
        """Take nothing new; ``stop`` waits for what runs."""
        self._stopping = True
        if self._consumer is not None:
            self._consumer.look()

    # -- its threads ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._work(job)
        except BaseException as error:
            # The connection or the group is gone, or the function has called sys.exit().
            self._fail(error)
        finally:
            with self._books:
                self._left -= 1
                is_last = not self._left
            if is_last:
                assert self._consumer is not None
                self._consumer.close()
                self._ended()

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

    def _work(self, first: Job) -> None:
        job: Job | None = first
        while job is not None:
            with self._books:
                self.running += 1
            try:
                with job.process():
                    self._function(job)
            finally:
                with self._books:
                    self.running -= 1
                    following = None
                    if self._by_key:
                        following = self._turns.end(job, not self._stopping)
            job = following

    def _fail(self, error: BaseException) -> None:
        with self._books:
            is_first = self.error is None and not (self._stopping and isinstance(error, MeshError))
            if is_first:
                self.error = error
            self._stopping = True
        if is_first:
            logger.error(
                "a worker of %r ended: %s: %s", self.group, type(error).__name__, error,
                exc_info=None if isinstance(error, MeshError) else error,
            )  # fmt: skip
        assert self._consumer is not None
        self._consumer.look()

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "running" if self.started else "not started"
        return f"Worker({self.group!r}, concurrency={self.concurrency}, {state})"


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
