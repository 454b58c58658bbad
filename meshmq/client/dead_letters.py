"""Dead letters as programs see them, and finding them in their topic; the same for both clients."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshmq.client.message import Message
from meshmq.client.subscription import Wish
from meshmq.core.subscriber import Start
from meshmq.errors import InvalidArgument
from meshmq.frames import START_OFFSET
from meshmq.limits import CREDIT_BYTES_DEFAULT, CREDIT_RECORDS_DEFAULT
from meshmq.names import dead_letters_of

GAP_MAX = 4096
"""Records between two wanted ones that are read over; past more a new reading begins."""

RANGES_A_COMMAND = 1000
"""So many fit a command's arguments, whatever their numbers."""

RANGES_SHOWN_MAX = 10_000
"""More a node does not name at once."""

Ranges = list[tuple[int, int]]
"""(first, count) of runs of dead letters."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was given up.

    Attributes:
        number: its place among its group's dead letters, what ``replay`` and ``purge`` take.
        value, key, headers: as they were published.
        reason: ``rejected``, ``max-deliveries`` or why else.
        error: what the last nack or reject said.
        attempts: how often it was handed out.
        first_time, last_time: when it was first handed out and when it was given up, or None.
        topic, stream, offset: where it came from; the stream is named by its origin (hex).
        group: the group or queue.
        replays: how often it was put back from the dead letters before.
    """

    number: int
    value: bytes
    key: bytes | None
    headers: dict[str, str]
    reason: str
    error: str
    attempts: int
    first_time: datetime | None
    last_time: datetime | None
    topic: str
    stream: str
    offset: int
    group: str
    replays: int

    @classmethod
    def of(cls, message: Message) -> DeadLetter:
        """Read a record of a topic of dead letters."""
        all_headers = message.headers
        own = {n: v for n, v in all_headers.items() if n.startswith("$")}
        return cls(
            number=message.offset or 0,
            value=message.value,
            key=message.key,
            headers={n: v for n, v in all_headers.items() if n not in own},
            reason=own.get("$reason", ""),
            error=own.get("$error", ""),
            attempts=_number(own.get("$attempts")),
            first_time=_time(own.get("$first-time")),
            last_time=_time(own.get("$last-time")),
            topic=own.get("$topic", ""),
            stream=own.get("$stream", ""),
            offset=_number(own.get("$offset")),
            group=own.get("$group", ""),
            replays=_number(own.get("$replays")),
        )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


class Search:
    """Finds the first ``limit`` dead letters of ``ranges``, whoever reads the topic.

    Attributes:
        found: so far, in order.
    """

    def __init__(self, group: str, ranges: Iterable[Sequence[int]], limit: int) -> None:
        self.found: list[DeadLetter] = []
        self._topic = dead_letters_of(group)
        self._limit = limit
        self._wanted = deque((first, first + count) for first, count in sorted(map(tuple, ranges)))

    @property
    def is_over(self) -> bool:
        """Whether all that are wanted are found, or gone."""
        return not self._wanted or len(self.found) >= self._limit

    def wish(self) -> Wish:
        """The subscription that reads on."""
        start = Start(START_OFFSET, self._wanted[0][0])
        return Wish(self._topic, start, CREDIT_BYTES_DEFAULT, CREDIT_RECORDS_DEFAULT, None)

    def take(self, messages: Sequence[Message]) -> bool:
        """Look at records as they were read; False once another reading, or none, is better."""
        wanted, last = self._wanted, 0
        for message in messages:
            last = message.offset or 0
            while wanted and wanted[0][1] <= last:
                wanted.popleft()
            if self.is_over:
                return False
            first, end = wanted[0]
            if first <= last:
                self.found.append(DeadLetter.of(message))
                wanted[0] = (last + 1, end)
        while wanted and wanted[0][0] >= wanted[0][1]:
            wanted.popleft()
        return not self.is_over and wanted[0][0] - last <= GAP_MAX

    def give_up(self) -> None:
        """There is nothing more to read: what is still wanted was removed meanwhile."""
        self._wanted.clear()


def check_limit(limit: object) -> None:
    """Raise InvalidArgument for what is no number of dead letters."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidArgument(f"limit is at least 1, not {limit!r}")


def ranges_of(wanted: Iterable[Any]) -> Ranges:
    """Ranges from dead letters, their numbers or (first, count) pairs."""
    found: Ranges = []
    if not isinstance(wanted, Iterable):
        raise InvalidArgument(f"dead letters are named in a list, or all by None, not {wanted!r}")
    for item in wanted:
        if isinstance(item, DeadLetter):
            first, count = item.number, 1
        elif isinstance(item, int) and not isinstance(item, bool):
            first, count = item, 1
        else:
            try:
                first, count = item
            except (TypeError, ValueError):
                raise InvalidArgument(
                    f"dead letters are named by themselves, their numbers or (first, count), "
                    f"not {item!r}"
                ) from None
        if not (isinstance(first, int) and isinstance(count, int) and first >= 0 and count >= 1):
            raise InvalidArgument(f"a range is (first, count) from 0 and 1 on, not {item!r}")
        if found and found[-1][0] + found[-1][1] == first:
            found[-1] = (found[-1][0], found[-1][1] + count)
        else:
            found.append((first, count))
    return found


def portions(ranges: Ranges, records: int | None) -> Iterator[Ranges]:
    """Cut ranges into what one command carries, of at most ``records`` dead letters each."""
    portion: Ranges = []
    room = records
    for whole in ranges:
        first, count = whole
        while count:
            n = count if room is None else min(count, room)
            portion.append((first, n))
            first, count = first + n, count - n
            if room is not None:
                room -= n
            if room == 0 or len(portion) == RANGES_A_COMMAND:
                yield portion
                portion, room = [], records
    if portion:
        yield portion


def pace_of(rate: float | None) -> tuple[int | None, float]:
    """How many records a command may move and how long it then takes, in seconds."""
    if rate is None:
        return None, 0.0
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e9:
        raise InvalidArgument(f"rate is records a second, above 0, not {rate!r}")
    records = max(1, int(rate / 10))
    return records, records / rate


def after(ranges: Iterable[Sequence[int]], last: int) -> Ranges:
    """What of ``ranges`` is behind dead letter ``last``."""
    found: Ranges = []
    for first, count in ranges:
        begin = max(first, last + 1)
        if begin < first + count:
            found.append((begin, first + count - begin))
    return found
