"""What a subscriber gets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import repeat
from operator import itemgetter
from typing import Any

from meshmq import codec
from meshmq.core.effects import Arrival
from meshmq.names import Position


class Delivered:
    """One batch in the program's hands: the columns its messages look into."""

    __slots__ = ("arrival", "records")

    def __init__(self, arrival: Arrival) -> None:
        # A message that is kept must not keep the bytes of its whole batch.
        self.arrival = arrival._replace(payload=b"")
        self.records = codec.decode_batch(arrival.payload, arrival.count)

    def messages(self) -> Iterator[Message]:
        """The batch's messages in order, without those the subscription has no claim to."""
        arrival, records = self.arrival, self.records
        self.records = records._replace(values=(), keys=None)
        count, skip = arrival.count, arrival.skip
        values = records.values
        keys: Any = records.keys if records.keys is not None else repeat(None)
        offsets: Any
        if arrival.lsn:
            offsets = range(arrival.base_offset, arrival.base_offset + count)
        else:
            offsets = repeat(None)
        columns = zip(values, offsets, keys, range(count), repeat(self))
        messages = map(Message, columns)
        for _ in range(skip):
            next(messages)
        return messages


class Message(tuple[Any, ...]):
    """One record, as delivered. Immutable.

    Attributes:
        value: bytes.
        offset: position in its stream, from 0; None for a transient topic, which keeps none.
    """

    # A tuple built by map() over columns costs a third of an object with attributes, and a
    # program that only reads value and offset never pays for the rest.
    __slots__ = ()

    value: bytes = property(itemgetter(0), doc="The record's value.")  # type: ignore[assignment]
    offset: int | None = property(itemgetter(1), doc="Offset in its stream.")  # type: ignore[assignment]

    @property
    def key(self) -> bytes | None:
        """The record's key, or None."""
        return self[2] or None

    @property
    def topic(self) -> str:
        """The topic it was published to."""
        topic: str = self[4].arrival.topic
        return topic

    @property
    def headers(self) -> dict[str, str]:
        """The record's headers; decoded on each access."""
        column = self[4].records.headers
        return codec.decode_headers(column[self[3]]) if column is not None else {}

    @property
    def timestamp_ns(self) -> int:
        """The producer's time of the record (unix ns)."""
        records = self[4].records
        times = records.times
        return int(times[self[3]] if times is not None else records.time_ns)

    @property
    def timestamp(self) -> datetime:
        """The producer's time of the record, in UTC."""
        return datetime.fromtimestamp(self.timestamp_ns / 1e9, UTC)

    @property
    def append_time_ns(self) -> int:
        """When the node appended its batch (unix ns); 0 for a transient topic."""
        time_ns: int = self[4].arrival.append_time_ns
        return time_ns

    @property
    def position(self) -> Position | None:
        """Where to go on behind this record (``subscribe(start=...)``), at any node; None if
        transient."""
        a = self[4].arrival
        if not a.lsn:
            return None
        others = tuple([(p.origin.hex(), p.lsn, p.slot, p.skip) for p in a.others])
        return Position(a.origin.hex(), a.lsn, a.slot, self[3], a.since, others)

    @property
    def origin(self) -> str | None:
        """Whose log it is in (32 hex digits): with the topic this names the stream that ``offset``
        counts in. None for a transient topic, which has none."""
        a = self[4].arrival
        return a.origin.hex() if a.lsn else None

    @property
    def site(self) -> str | None:
        """The site whose log it is in, which may be another than that of the node that we are at;
        empty: of a node without a site. Of a transient topic: the other site that it was published
        at; None: at ours."""
        a = self[4].arrival
        return a.site if a.lsn else a.site or None

    def __repr__(self) -> str:
        value = self.value if len(self.value) <= 40 else self.value[:37] + b"..."
        return f"Message(topic={self.topic!r}, offset={self.offset}, key={self.key!r}, {value!r})"
