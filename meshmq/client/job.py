"""What a consumer gets: a message with the say over what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import repeat
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from meshmq import codec, limits
from meshmq.client.group_settings import duration_ns
from meshmq.client.message import Message
from meshmq.core.held import Held
from meshmq.core.runs import of_indices
from meshmq.errors import InvalidArgument, StaleDelivery
from meshmq.frames import ACK, BACKOFF, EXTEND, NACK, REJECT, RETURN
from meshmq.names import JobId, Position, queue_of

logger = logging.getLogger("meshmq")


def decode(held: Held) -> None:
    """Hang the records of a hand-out on it; raises BadFrame."""
    row = held.row
    records = codec.decode_batch(held.data, row.held)
    if row.count != row.held:
        places = row.places()
        records = codec.Records(
            of_indices(records.values, places),
            of_indices(records.keys, places) if records.keys is not None else None,
            of_indices(records.headers, places) if records.headers is not None else None,
            of_indices(records.times, places) if records.times is not None else None,
            records.time_ns,
        )
    held.records = records
    held.keys = records.keys


J = TypeVar("J", bound="AnyJob")


def feed(held: Held, kind: type[J]) -> Iterator[J]:
    """The messages of a hand-out's picks, in order; ``held.cursor`` moves with them."""
    row, records, picks = held.row, held.records, held.picks
    keys: Any = repeat(None)
    offsets: Any
    if len(picks) == row.count:
        values = list(records.values)
        offsets = row.offsets or range(row.first, row.first + row.count)
        if records.keys is not None:
            keys = records.keys
    else:
        values = [records.values[i] for i in picks]
        offsets = [held.offset(i) for i in picks]
        if records.keys is not None:
            keys = [records.keys[i] for i in picks]
    held.feed = values
    return map(kind, zip(values, offsets, keys, held.cursor, repeat(held)))


class AnyJob(Message):
    """What both clients' jobs know of themselves. Slots as in Message; the fifth is a Held."""

    __slots__ = ()

    @property
    def topic(self) -> str:
        """The topic it was published to; of a queue's job the queue, of a dead letter that was
        put back the topic it came from."""
        topic: str = self[4].row.topic
        if topic.startswith("$"):
            topic = queue_of(topic) or self.headers.get("$topic", topic)
        return topic

    @property
    def append_time_ns(self) -> int:
        """When the node appended its batch (unix ns)."""
        time_ns: int = self[4].row.append_time_ns
        return time_ns

    @property
    def position(self) -> Position | None:
        """Where a subscription would go on behind this record."""
        held = self[4]
        row = held.row
        if not row.lsn:
            return None
        place = row.skip + held.offset(self[3]) - row.first
        return Position(held.origin.hex(), row.lsn, row.slot, place)

    @property
    def origin(self) -> str:
        """Whose log it is in (hex)."""
        origin: str = self[4].origin.hex()
        return origin

    @property
    def attempt(self) -> int:
        """1 for the first delivery of the record; those that ended without a nack, a reject or
        an expired ack timeout are not counted."""
        attempt: int = self[4].row.attempt
        return attempt

    @property
    def maybe_duplicate(self) -> bool:
        """Whether somebody may have worked on it already; also True while the node that has it
        cannot be reached."""
        doubtful: bool = self[4].maybe_duplicate
        return doubtful

    @property
    def job_id(self) -> str:
        """Names it for as long as it lives, as ``receipt.job_id`` does."""
        held = self[4]
        return str(JobId(held.origin.hex(), held.row.topic_key, self[1]))

    @property
    def is_settled(self) -> bool:
        """Whether it was acked, nacked or rejected, or taken back by the node."""
        settled: bool = self[4].is_settled(self[3])
        return settled

    def _settle(self, kind: int, delay_ns: int = 0, reason: str = "") -> bool:
        held = self[4]
        done: bool = held.owner.settle(held, self[3], kind, delay_ns, reason)
        return done

    def _refused(self) -> StaleDelivery | None:
        """Why its settle counted for nothing, once it is closed."""
        held, index = self[4], self[3]
        reason = held.refused.get(index)
        if reason is None:
            return None
        return StaleDelivery(f"job {self.job_id}, attempt {self.attempt}: {reason}")

    def _not_mine(self) -> StaleDelivery:
        """The error for a second settle, or one that came too late."""
        return self._refused() or StaleDelivery(
            f"job {self.job_id}, attempt {self.attempt}: it was settled before"
        )

    def _failed(self, error: BaseException) -> bool:
        """The program raised while it worked on it; whether that ends here."""
        if not isinstance(error, Exception):
            # The program is being stopped, the record did nothing wrong.
            if not self.is_settled:
                self._settle(RETURN)
            return False
        logger.error(
            "job %s (%s, attempt %d) failed", self.job_id, self.topic, self.attempt,
            exc_info=error,
        )  # fmt: skip
        if not self.is_settled:
            self._settle(NACK, BACKOFF, reason_of(error))
        return True

    def __repr__(self) -> str:
        value = self.value if len(self.value) <= 40 else self.value[:37] + b"..."
        return (
            f"{type(self).__name__}(topic={self.topic!r}, offset={self.offset}, "
            f"attempt={self.attempt}, {value!r})"
        )


class Job(AnyJob):
    """One record, handed to this consumer until it settles it or its ack timeout expires.

    The common attributes are a Message's: value, offset, key, headers, topic, timestamp,
    position. Settling is safe from any thread; settling twice counts for nothing (``stale``).
    """

    __slots__ = ()

    def ack(self, wait: bool = False, timeout: float | None = None) -> None:
        """It is done. Returns at once; acks gather and travel together.

        Args:
            wait: return only when the ack is on the node's disk.
            timeout: for that, in seconds; None waits without end.

        Raises:
            StaleDelivery: with ``wait``: the record was handed to another or settled before.
                Without, that is counted in ``consumer.stale``.
            DeadlineExceeded: with ``wait``: no answer in time; the ack is still on its way.
        """
        held = self[4]
        index = self[3]
        if held.next == index and not wait:
            # The common case: see Held for why this needs no lock.
            held.next = index + 1
            if held.is_quiet:
                held.owner.touched(held)
        else:
            self._finish(ACK, 0, "", wait, timeout)

    def nack(
        self,
        delay: float | str | None = None,
        reason: str = "",
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """It failed: hand it out again later; after the group's ``max_deliveries`` it goes to the
        dead letters. In order of keys what follows of its key is taken back: it comes after it.

        Args:
            delay: seconds, or ``"5m"``, up to 365 days; 0: at once; None: the group's back-off.
            reason: why, for its dead letter; at most 1 KiB, longer ones are cut.
            wait, timeout: as for ``ack``.
        """
        self._finish(NACK, delay_ns(delay), clipped(reason), wait, timeout)

    def reject(self, reason: str = "", *, wait: bool = False, timeout: float | None = None) -> None:
        """It can never be done: move it to the dead letters. Arguments as for ``nack``."""
        self._finish(REJECT, 0, clipped(reason), wait, timeout)

    def extend(self, seconds: float) -> None:
        """Ask for more time: its ack timeout is ``seconds`` from now, 0.1 s to a day."""
        self._settle(EXTEND, extension_ns(seconds))

    def process(self) -> Process[Self]:
        """``with msg.process(): ...`` acks it at the end.

        An Exception inside nacks it with the group's back-off, with the exception as reason; it
        is logged and goes no further, so that a loop goes on. What is no Exception (Ctrl-C)
        returns the record and is raised. A record that was settled inside stays so.
        """
        return Process(self)

    def _finish(
        self, kind: int, delay_ns: int, reason: str, wait: bool, timeout: float | None
    ) -> None:
        held, index = self[4], self[3]
        done = self._settle(kind, delay_ns, reason)
        if not wait:
            return
        if not done:
            raise self._not_mine()
        held.owner.wait_closed(held, index, timeout)
        refused = self._refused()
        if refused is not None:
            raise refused


class Process(Generic[J]):
    """See ``Job.process``; also for ``async with``, since nothing in it waits."""

    __slots__ = ("_job",)

    def __init__(self, job: J) -> None:
        self._job = job

    def __enter__(self) -> J:
        return self._job

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            job = self._job
            held, index = job[4], job[3]
            if held.next == index:
                held.next = index + 1  # as ``ack`` does
                if held.is_quiet:
                    held.owner.touched(held)
            elif not held.is_settled(index):
                job._settle(ACK)
            return False
        return self._job._failed(error)

    async def __aenter__(self) -> J:
        return self._job

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return self.__exit__(kind, error, trace)


def reason_of(error: BaseException) -> str:
    """An exception as the reason of a nack."""
    text = str(error)
    name = type(error).__name__
    return clipped(f"{name}: {text}" if text else name)


def clipped(reason: str) -> str:
    """``reason`` cut to what a settle may carry."""
    if not isinstance(reason, str):
        raise InvalidArgument(f"a reason is text, not {reason!r}")
    data = reason.encode("utf-8", "replace")
    return data[: limits.REASON_BYTES_MAX].decode("utf-8", "ignore")


def delay_ns(delay: float | str | None) -> int:
    """A nack's delay; raises InvalidArgument."""
    if delay is None:
        return BACKOFF
    found = duration_ns(delay)
    if not 0 <= found <= limits.DELAY_NS_MAX:
        raise InvalidArgument(
            f"a delay is 0 to {limits.DELAY_NS_MAX // limits.DAY} days, not {delay!r}"
        )
    return found


def extension_ns(seconds: float) -> int:
    """An extension; raises InvalidArgument."""
    found = duration_ns(seconds)
    if not limits.ACK_TIMEOUT_NS_MIN <= found <= limits.ACK_TIMEOUT_NS_MAX:
        raise InvalidArgument(f"an ack timeout is 0.1 s to a day, not {seconds!r}")
    return found
