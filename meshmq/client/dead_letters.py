"""Dead letters as programs see them, where they lie, and finding them in their topic; the same for
both clients.

In a site each node has dead letters of its own, numbered each from 0: a Lot is those of one node.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from meshmq.client.message import Message
from meshmq.client.subscription import Wish
from meshmq.core.subscriber import Start
from meshmq.errors import CommandFailed, InvalidArgument, OwnerAway
from meshmq.frames import START_EARLIEST, START_OFFSET
from meshmq.limits import CREDIT_BYTES_DEFAULT, CREDIT_RECORDS_DEFAULT
from meshmq.names import dead_letters_of

GAP_MAX = 4096
"""Records between two wanted ones that are read over; past more a new reading begins."""

RANGES_A_COMMAND = 1000
"""So many fit a command's arguments, whatever their numbers."""

Ranges = list[tuple[int, int]]
"""(first, count) of runs of dead letters."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was given up.

    Attributes:
        number: its place among its group's dead letters at its node, what ``replay`` and ``purge``
            take.
        value, key, headers: as they were published.
        reason: ``rejected``, ``max-deliveries`` or why else.
        error: what the last nack or reject said.
        attempts: how often it was handed out.
        first_time, last_time: when it was first handed out and when it was given up, or None.
        topic, stream, offset: where it came from; the stream is named by its origin (hex).
        group: the group or queue.
        replays: how often it was put back from the dead letters before.
        origin: whose dead letter it is (hex): the node that handed it out.
        node: name of that node, in a site.
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
    origin: str = ""
    node: str = ""

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
            origin=message.origin or "",
        )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


class Lot(NamedTuple):
    """Dead letters at one node.

    Attributes:
        origin: of its log; empty: there is one node only.
        node: its name.
        ranges: their numbers, in order.
        is_all: it has no others.
    """

    origin: str
    node: str
    ranges: Ranges
    is_all: bool = True


def lots_of(shown: Mapping[str, Any], node: str | None = None) -> list[Lot]:
    """Where dead letters are, as ``dlq.show`` tells; of one node (its name or origin) only.

    Raises InvalidArgument for one that is not there, OwnerAway where it does not answer.
    """
    lots = [_lot(row["origin"], row["node"], row) for row in shown.get("nodes", ())]
    if node is None:
        return lots or [_lot("", "", shown)]
    origin = origin_of(shown, node)
    return [lot for lot in lots if lot.origin == origin]


def is_origin(node: str) -> bool:
    """Whether that is a node's origin, not its name."""
    return re.fullmatch("[0-9a-f]{32}", node) is not None


def origin_of(shown: Mapping[str, Any], node: str) -> str:
    """The origin of a node that is named, among those that a listing tells of.

    Raises InvalidArgument for one that is not there, OwnerAway where it does not answer.
    """
    rows = shown.get("nodes") or ()
    for row in rows:
        if node in (row["node"], row["origin"]):
            return str(row["origin"])
    if node in shown.get("away", ()):
        raise OwnerAway(f"node {node} cannot be reached: what it has waits there")
    if rows:
        there = ", ".join(row["node"] for row in rows)
        raise InvalidArgument(f"there is no node {node!r} in the site, but {there}")
    raise InvalidArgument(
        f"the node that was asked has met no other node of a site, so there is no {node!r} to "
        f"choose: name none for what is its own, or wait for the others"
    )


def _lot(origin: str, node: str, row: Mapping[str, Any]) -> Lot:
    ranges = [(first, count) for first, count in row.get("ranges", ())]
    return Lot(origin, node, ranges, sum([n for _, n in ranges]) >= row.get("records", 0))


def chosen(shown: Mapping[str, Any], wanted: Ranges, node: str | None = None) -> list[Lot]:
    """The dead letters that numbers name, by where they are.

    Raises CommandFailed where several nodes have one of a number, and OwnerAway where perhaps one
    that does not answer has them.
    """
    lots = lots_of(shown, node)
    wanted = in_order(wanted)
    if len(lots) > 1:
        found = [lot._replace(ranges=overlap(_may_have(lot), wanted)) for lot in lots]
        found = [lot for lot in found if lot.ranges]
        for i, lot in enumerate(found):
            for other in found[:i]:
                both = overlap(lot.ranges, other.ranges)
                if both:
                    raise CommandFailed(
                        f"nodes {other.node} and {lot.node} each have a dead letter of number "
                        f"{both[0][0]}: say whose is meant with node= or --node"
                    )
    else:
        found = [lot._replace(ranges=wanted) for lot in lots]
    away = shown.get("away", ())
    if away and node is None and not any(overlap(_may_have(lot), wanted) for lot in lots):
        raise OwnerAway(
            f"no node that answers has such dead letters; {', '.join(away)} cannot be reached"
        )
    return found


def _may_have(lot: Lot) -> Ranges:
    """What it told, and what may be behind that."""
    if lot.is_all:
        return lot.ranges
    end = sum(lot.ranges[-1]) if lot.ranges else 0
    return [*lot.ranges, (end, 1 << 62)]


def in_order(ranges: Ranges) -> Ranges:
    """The same numbers, ascending, each once."""
    found: Ranges = []
    for first, count in sorted(ranges):
        if found and first <= sum(found[-1]):
            found[-1] = (found[-1][0], max(sum(found[-1]), first + count) - found[-1][0])
        else:
            found.append((first, count))
    return found


def overlap(a: Ranges, b: Ranges) -> Ranges:
    """What is in both, which are in order."""
    found: Ranges = []
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(sum(a[i]), sum(b[j]))
        if low < high:
            found.append((low, high - low))
        if sum(a[i]) <= sum(b[j]):
            i += 1
        else:
            j += 1
    return found


class Search:
    """Finds the ``limit`` oldest dead letters of ``lots``, whoever reads the topic.

    A lone node is asked from the first one on; in a site the topic is read from its beginning.
    """

    def __init__(self, group: str, lots: Iterable[Lot], limit: int) -> None:
        self._topic = dead_letters_of(group)
        self._limit = limit
        self._found: list[DeadLetter] = []
        self._names = {lot.origin: lot.node for lot in lots}
        self._left = dict.fromkeys(self._names, limit)
        self._wanted = {
            lot.origin: deque((f, f + n) for f, n in sorted(lot.ranges)) for lot in lots
        }

    @property
    def is_over(self) -> bool:
        """Whether all that are wanted are found, or gone."""
        return not any(self._wanted.values())

    @property
    def found(self) -> list[DeadLetter]:
        """Those found, the oldest first."""
        if len(self._names) < 2:
            return self._found
        never = datetime.min.replace(tzinfo=UTC)
        return sorted(
            self._found, key=lambda letter: (letter.last_time or never, letter.node, letter.number)
        )[: self._limit]

    def wish(self) -> Wish:
        """The subscription that reads on."""
        start = Start(START_EARLIEST)
        if "" in self._wanted:
            start = Start(START_OFFSET, self._wanted[""][0][0])
        return Wish(self._topic, start, CREDIT_BYTES_DEFAULT, CREDIT_RECORDS_DEFAULT, None)

    def take(self, messages: Sequence[Message]) -> bool:
        """Look at records as they were read; False once another reading, or none, is better."""
        last = 0
        for message in messages:
            if self.is_over:
                return False
            last = message.offset or 0
            self._look_at(message, "" if "" in self._wanted else message.origin or "", last)
        if self.is_over:
            return False
        return "" not in self._wanted or self._wanted[""][0][0] - last <= GAP_MAX

    def _look_at(self, message: Message, origin: str, number: int) -> None:
        wanted = self._wanted.get(origin)
        while wanted and wanted[0][1] <= number:
            wanted.popleft()
        if not wanted or wanted[0][0] > number:
            return
        self._found.append(replace(DeadLetter.of(message), node=self._names[origin]))
        wanted[0] = (number + 1, wanted[0][1])
        if wanted[0][0] == wanted[0][1]:
            wanted.popleft()
        self._left[origin] -= 1
        if not self._left[origin]:
            wanted.clear()

    def give_up(self) -> None:
        """There is nothing more to read: what is still wanted was removed meanwhile."""
        for wanted in self._wanted.values():
            wanted.clear()


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
