"""Threads that run a program's function for whatever comes: jobs, requests.

They take turns at waiting: one waits for the next item, the others wait for their turn. So an item
is begun when a thread is free for it and not before.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from meshmq import limits
from meshmq.client.channel import Channel
from meshmq.errors import ForkedError, InvalidArgument, MeshError

logger = logging.getLogger("meshmq")

T = TypeVar("T")


def check_concurrency(concurrency: object) -> int:
    """Raise InvalidArgument for what is no number of threads or tasks."""
    if (
        isinstance(concurrency, bool)
        or not isinstance(concurrency, int)
        or not 1 <= concurrency <= limits.CONCURRENCY_MAX
    ):
        raise InvalidArgument(f"concurrency is 1..{limits.CONCURRENCY_MAX}, not {concurrency!r}")
    return concurrency


def check_takes_one(function: Callable[..., Any], what: str, item: str) -> None:
    """Raise InvalidArgument for a function that cannot be called with one argument: else that
    came up with each request or job."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # of a built-in one nothing is known
    try:
        signature.bind(None)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise InvalidArgument(f"{what} is called with {item}: {name}{signature}: {error}") from None


class Pool(ABC, Generic[T]):
    """See the module's header.

    Args:
        function: the program's.
        what: for messages: "a worker of 'thumbnails'".
        name: of the threads.
        ended: called once all threads have ended.
    """

    _item: str  # for messages: what it works on

    def __init__(
        self,
        function: Callable[[Any], Any],
        what: str,
        name: str,
        concurrency: int,
        ended: Callable[[], None],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._what = what
        self._name = name
        self._ended = ended
        self.concurrency = concurrency
        self.error: BaseException | None = None
        self.running = 0
        self._channel: Channel | None = None
        self._threads: list[threading.Thread] = []
        self._left = 0  # threads that have not ended
        self._stopping = False
        self._has_begun = False
        self._reading = threading.Lock()
        self._books = threading.Lock()

    def __call__(self, item: T) -> Any:
        return self._function(item)

    # -- what a subclass brings -----------------------------------------------------------------

    @abstractmethod
    def _open(self) -> Channel:
        """Join; raises MeshError where the node does not let it in."""

    @abstractmethod
    def _next(self) -> T | None:
        """Wait for the next item; None at the end, or once ``_stopping`` is set and looked at."""

    @abstractmethod
    def _do(self, item: T) -> T | None:
        """Work on it; what is to follow in this very thread, if anything."""

    @abstractmethod
    def _close(self, timeout: float) -> None:
        """Leave; what is not begun goes to others. Safe to call twice."""

    # -- for programs ---------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether ``start`` was called."""
        return self._channel is not None

    @property
    def stopped(self) -> bool:
        """Whether it was started and works no more."""
        return self.started and not self._left

    def start(self) -> None:
        """Join and begin; done by the decorator unless told otherwise. Once only.

        Raises:
            MeshError: the node did not let it in.
        """
        if self._channel is not None:
            return
        self._channel = self._open()
        self._threads = [
            threading.Thread(target=self._run, name=f"meshmq-{self._name}-{i + 1}", daemon=True)
            for i in range(self.concurrency)
        ]
        self._left = len(self._threads)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Take nothing new, let what runs come to its end, return the rest to the node.

        Args:
            timeout: seconds to wait for what runs, which no thread can be made to end. A job that
                is not done then is handed to others, and its own end counts for nothing.

        Returns:
            Whether everything that ran came to its end. Called by a thread of its own it does not
            wait, and returns False.
        """
        self.announce_stop()
        channel = self._channel
        if channel is None:
            return True
        deadline = channel.deadline(timeout)
        if threading.current_thread() in self._threads:
            return False
        for thread in self._threads:
            thread.join(channel.left(deadline))
        is_done = not self._left
        self._close(max(1.0, channel.left(deadline) or 0.0))
        return is_done

    def announce_stop(self) -> None:
        """Take nothing new; ``stop`` waits for what runs."""
        self._stopping = True
        self._look()

    def _look(self) -> None:
        """Have a thread that waits in ``_next`` look."""
        # Whoever waits on a dead one is woken, and a forked child may not take its locks.
        if self._channel is not None and self._channel.dead is None:
            self._channel.run(lambda now_ns: None)

    @property
    def _state(self) -> str:
        return "stopped" if self.stopped else "running" if self.started else "not started"

    # -- its threads ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._work(item)
        except BaseException as error:
            # The connection or the group is gone, or the function has called sys.exit().
            self._fail(error)
        finally:
            with self._books:
                self._left -= 1
                is_last = not self._left
            if is_last:
                self._close(5.0)
                self._ended()

    def _work(self, first: T) -> None:
        item: T | None = first
        while item is not None:
            with self._books:
                self.running += 1
                self._has_begun = True
            try:
                item = self._do(item)
            finally:
                with self._books:
                    self.running -= 1

    def _end_child(self, error: BaseException | None = None) -> None:
        """End the process if it is a child that the program's function has forked.

        It must not work on as one more thread of the pool: the socket is its parent's, and locks
        may be held by threads that it does not have. It ends as ``sys.exit`` in its function asks,
        with 1 and a traceback for any other exception, with 0 if the function has returned. What is
        registered with ``atexit`` does not run, as in a child of multiprocessing.
        """
        if self._channel is None or not isinstance(self._channel.dead, ForkedError):
            return
        status = 0
        if isinstance(error, SystemExit):
            code = error.code
            status = code if isinstance(code, int) else int(code is not None)
            if status and not isinstance(code, int):
                sys.stderr.write(f"{code}\n")
        elif error is not None:
            status = 1
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, ValueError, OSError):
                pass  # there is none, or nobody reads it
        os._exit(status & 0xFF)

    def _fail(self, error: BaseException) -> None:
        with self._books:
            is_first = self.error is None and not (self._stopping and isinstance(error, MeshError))
            if is_first:
                self.error = error
            self._stopping = True
        if is_first:
            logger.error(
                "%s ended: %s: %s", self._what, type(error).__name__, error,
                exc_info=None if isinstance(error, MeshError) else error,
            )  # fmt: skip
        self._look()
