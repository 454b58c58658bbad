"""What a synchronous Mesh offers for handing records to one of many programs, directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from meshmq import codec, limits
from meshmq.client.channel import Channel
from meshmq.client.receipt import Receipt, Receipts
from meshmq.client.subscription import Subscription, Wish
from meshmq.client.values import check_key, check_range, check_value
from meshmq.core.client import NOT_BY_NODES
from meshmq.core.lanes import Batch
from meshmq.core.publisher import TOPIC_DEFAULT, Publisher
from meshmq.core.subscriber import Start
from meshmq.errors import InvalidArgument
from meshmq.frames import START_NEW
from meshmq.names import check_pattern, check_topic, push_lane


class Pushing:
    """The part of Mesh that pushes and pulls."""

    _connection: Channel
    _publisher: Publisher
    _guard: AbstractContextManager[Any]
    _timeout: float
    _promise: Callable[[Batch, int], Receipt]
    _make_room: Callable[[], None]
    _publish_many: Callable[..., list[tuple[int, Batch]]]

    def push(
        self,
        topic: str,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Hand a record to one of the programs that ``pull`` this topic; returns at once.

        It goes to the one that has the least to do, and at most once: what a program that dies had
        is gone. Without a program that has room it waits, without one that pulls at all for 5 s.
        It never goes by a node: a node's queues lose nothing (``enqueue`` and ``work``).

        Args:
            topic, value, key, headers: as in ``publish``.

        Raises:
            InvalidName, InvalidArgument, MessageTooLarge, BufferFull: as in ``publish``. The
            receipt raises NoResponders if nobody pulls (not done), LinkLost if the program it was
            on its way to is gone (unknown).
        """
        lane = self._push_lane(topic)
        value = check_value(value)
        if key is not None:
            check_key(key)
        coded = codec.encode_headers(headers) if headers else None
        self._make_room()
        batch, index = self._publisher.add(
            lane, value, key, coded, None, self._connection.wall_ns, TOPIC_DEFAULT, None
        )
        self._connection.published()
        return self._promise(batch, index)

    def push_many(
        self,
        topic: str,
        values: Sequence[bytes],
        *,
        keys: Sequence[bytes | None] | None = None,
        headers: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
    ) -> Receipts:
        """Push records in one call, each to one program; returns a sequence of receipts."""
        batches = self._push_many(topic, values, keys, headers)
        return Receipts(self._connection, batches, Receipt)

    def _push_many(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None,
        headers: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None,
    ) -> list[tuple[int, Batch]]:
        lane = self._push_lane(topic)
        with self._guard:
            self._publisher.lane(lane)
        return self._publish_many(lane, values, keys, headers, None, None)

    def _push_lane(self, topic: str) -> str:
        check_topic(topic)
        if not self._connection.addresses:
            raise InvalidArgument(NOT_BY_NODES)
        return push_lane(topic)

    def pull(
        self, pattern: str, *, prefetch_records: int = limits.PULL_RECORDS_DEFAULT
    ) -> Subscription:
        """Take records that others ``push``: each comes to one of those who pull it.

        Args:
            pattern: as in ``subscribe``.
            prefetch_records: how many may be on their way or wait in this process, from each
                program that pushes; the fewer, the more evenly slow work is shared out.

        Raises:
            InvalidName, InvalidArgument.
            DeadlineExceeded: it could not be opened in time.
        """
        return Subscription(
            self._connection, pull_wish(self._connection, pattern, prefetch_records), self._timeout
        )


def pull_wish(connection: Channel, pattern: str, prefetch_records: int) -> Wish:
    """Check what ``pull`` was asked for."""
    check_pattern(pattern)
    check_range("prefetch_records", prefetch_records, 1, limits.PULL_RECORDS_MAX)
    connection.check_use()
    if not connection.addresses:
        raise InvalidArgument(NOT_BY_NODES)
    size = limits.CREDIT_BYTES_DEFAULT
    return Wish(pattern, Start(START_NEW), size, prefetch_records, None, pulls=True)
