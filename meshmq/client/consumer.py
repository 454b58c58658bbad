"""The program's end of a group or queue: iterate it, or fetch lists; settle what it gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Generic, Self, TypeVar

from meshmq.client.channel import Answer, Channel
from meshmq.client.job import AnyJob, Job, decode, feed
from meshmq.client.opening import OnlySync
from meshmq.client.values import check_records
from meshmq.core.consumer import Member
from meshmq.core.held import Held
from meshmq.core.settling import ORDER_KEY
from meshmq.errors import ClosedError, DeadlineExceeded, MeshError
from meshmq.frames import Consume

logger = logging.getLogger("meshmq")

J = TypeVar("J", bound=AnyJob)


class Intake(Generic[J]):
    """What both clients' consumers share: what has come and is not yet read, and settling.

    Attributes:
        group: its name, or the queue's.
        pattern: what the group reads; of a queue its name.
        member: the machine, once the node was asked.
    """

    member: Member

    def __init__(self, channel: Channel, wish: Consume, kind: type[J]) -> None:
        self.group = wish.group
        self.pattern = wish.pattern
        self.ack_timeout = wish.ack_timeout_ns / 1e9
        self._wish = wish
        self._kind = kind
        self._channel = channel
        self._current: Iterator[J] = iter(())
        self._reading: Held | None = None
        self._closed = False
        self._error: MeshError | None = None

    def _open(self) -> Answer:
        return self._channel.open_consumer(self._wish, self, self._on_ended)

    def _opened(self, answer: Answer) -> None:
        """The node has answered: note it, or raise its refusal."""
        try:
            answer.get()
        except MeshError:
            self._closed = True
            self._channel.run(answer.undo)
            raise

    def _on_ended(self, error: MeshError) -> None:
        self._error = error

    @property
    def stale(self) -> int:
        """Settles that counted for nothing: the record was handed to another, after its ack
        timeout or a lost link, or was settled before."""
        return self.member.stale

    @property
    def fenced(self) -> str:
        """Why nothing comes: the node's site has been without a link to any other one for longer
        than its ``fence_after``. Empty: it hands out what there is."""
        return self.member.fenced

    @property
    def order(self) -> str:
        """``any`` or ``key``, as the group has it."""
        return "key" if self.member.order == ORDER_KEY else "any"

    @property
    def closed(self) -> bool:
        """Whether nothing more will come: it was closed, refused, or its connection ended."""
        return self._closed or self._error is not None

    # -- what its jobs say ----------------------------------------------------------------------

    def touched(self, held: Held) -> None:
        """A job's ack has moved ``held.next``."""
        if self.member.touch(held):
            self._channel.urge()

    def settle(self, held: Held, index: int, kind: int, delay_ns: int, reason: str) -> bool:
        """Settle one record, see that it leaves; False if it counts for nothing."""
        member = self.member
        done = member.settle(held, index, kind, delay_ns, reason)
        if member.has_work:
            self._channel.urge()
        return done

    def unanswered(self, timeout: float | None) -> MeshError:
        """The error for a settle whose answer did not come."""
        away = self.member.away
        where = f"node {', '.join(away)} is away" if away else f"state: {self._channel.state}"
        return self._channel.dead or DeadlineExceeded(
            f"no answer to a settle within {timeout} s ({where}); it is still on its way"
        )

    # -- reading --------------------------------------------------------------------------------

    @property
    def _has_news(self) -> bool:
        """Whether waiting for more is over."""
        return self.member.is_ready or self._closed or self._error is not None

    def _take_batch(self) -> bool:
        """Make the next hand-out the current one; False if there is none.

        Raises why there will be none, unless the program closed it.
        """
        member, done = self.member, self._reading
        if done is not None:
            self._reading = None
            member.finished(done)
        if not self._closed:
            with member.guard:
                held = member.begin(decode)
                if held is not None:
                    self._current = feed(held, self._kind)
                    self._reading = held
        else:
            held = None
        if member.has_work:
            # Much is settled, or what came could not be decoded.
            self._channel.urge()
        if held is not None:
            return True
        if not self._closed:
            if self._error is not None:
                raise self._error
            self._channel.check()
        return False

    def _nothing(self) -> list[J]:
        """What a fetch without a job returns; raises ClosedError where there will be none."""
        if self._closed:
            raise ClosedError(f"this consumer of {self.group!r} is closed")
        return []

    def _end(self) -> None:
        """Leave: what is held goes back."""
        if not self.member.is_idle and self._error is None:
            logger.warning(
                "a consumer of %r was closed before the node confirmed all it had settled: "
                "some of that will be handed out again", self.group,
            )  # fmt: skip
        self._channel.leave(self.member.id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.group!r}, order={self.order!r}, stale={self.stale})"


class Consumer(OnlySync, Intake[Job]):
    """A member of a group, or a worker of a queue: ``for msg in consumer`` gives Jobs.

    One thread at a time may read it, any thread may settle what it gave. Iterating ends when it
    is closed.

    Attributes:
        group: its name, or the queue's.
        pattern: what the group reads; of a queue its name.
        ack_timeout: seconds a record may take from when it was begun.
    """

    def __init__(self, channel: Channel, wish: Consume, timeout: float) -> None:
        super().__init__(channel, wish, Job)
        answer = self._open()
        what = f"consume {self.group!r}"
        channel.wait_answer(answer, timeout, what)
        self._opened(answer)

    def __iter__(self) -> Iterator[Job]:
        """Jobs as they come; waits for more without end."""
        while True:
            # The iterator is kept, so that a loop left by break goes on at the next message.
            yield from self._current
            if not self._next_batch(None):
                return

    def fetch(self, max_records: int = 100, timeout: float | None = None) -> list[Job]:
        """Take up to ``max_records`` jobs; an empty list when none came in time.

        Their ack timeouts run from here on, for all of them.

        Args:
            max_records: at least 1.
            timeout: seconds to wait for the first one; None waits without end, 0 not at all.

        Raises:
            MeshError: it or the connection is closed, or the group was deleted.
        """
        check_records(max_records)
        jobs = list(islice(self._current, max_records))
        while len(jobs) < max_records:
            if not self._next_batch(0 if jobs else timeout):
                break
            jobs += islice(self._current, max_records - len(jobs))
        return jobs or self._nothing()

    def _next_batch(self, timeout: float | None, until: Callable[[], bool] | None = None) -> bool:
        """Make the next hand-out the current one; False on timeout or when closed."""
        channel = self._channel
        deadline = channel.deadline(timeout)

        def is_over() -> bool:
            return self._has_news or (until is not None and until())

        while not self._take_batch():
            if self._closed or (until is not None and until()):
                return False
            if not channel.wait_until(is_over, channel.left(deadline)):
                channel.check()
                return False
        return True

    def take(self, until: Callable[[], bool]) -> Job | None:
        """The next job; None when it is closed, or once ``until`` is true and ``look`` called."""
        while True:
            for job in self._current:
                return job
            if not self._next_batch(None, until):
                return None

    def look(self) -> None:
        """Have a thread that waits in ``take`` look at its ``until``."""
        self._channel.run(lambda now_ns: None)

    def wait_closed(self, held: Held, index: int, timeout: float | None) -> None:
        """Wait until the node has answered a settle; raises DeadlineExceeded."""
        if not self._channel.wait_until(lambda: held.is_closed(index), timeout):
            raise self.unanswered(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """End it; a thread that iterates it comes to the end. Safe to call twice.

        Waits up to ``timeout`` seconds until the node has what was settled; everything else that
        it holds goes to others at once, as if it had never been here.
        """
        if self._closed:
            return
        self._closed = True
        member, channel = self.member, self._channel
        try:
            if channel.dead is None and self._error is None:
                channel.urge()
                channel.wait_until(lambda: member.is_idle or self._error is not None, timeout)
        except ClosedError:
            pass
        finally:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
