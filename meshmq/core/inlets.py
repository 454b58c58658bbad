"""What comes to a program from others: who of it gets that, what is missing, and credit.

Data: a Reader for each subscription and pull of the program; a Source for each program that is
linked; of each program the last number of each topic, also while it is not linked.

Rules:
1. A topic's numbers from one program have no gap and no repeat: what is told as missing, or lies
   between two sessions, is counted for each subscription that had its interest noted by then.
   Received and missing together are all that was sent since.
2. A source's credit is what the largest window has room for, within a bound for all sources. What
   was delivered is credit again once the first of those who got it has read it: the slower ones
   lose what is over their window and some slack, counted.
3. What is pulled comes to one reader, within its own window for each source.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from meshmq import limits
from meshmq.core.effects import Arrival
from meshmq.errors import LimitReached
from meshmq.frames import Credit, Deliver, DeliverBatch, Noted
from meshmq.names import matches


class Window:
    """Credit of one source: for what is subscribed, or for one pull.

    Attributes:
        out_bytes, out_records: granted, and nothing has come for it.
        held_bytes, held_records: came, and is not read.
    """

    __slots__ = ("held_bytes", "held_records", "out_bytes", "out_records")

    def __init__(self) -> None:
        self.out_bytes = self.out_records = 0
        self.held_bytes = self.held_records = 0

    def take(self, size: int, records: int) -> None:
        self.out_bytes -= size
        self.out_records -= records
        self.held_bytes += size
        self.held_records += records

    def give_back(self, size: int, records: int) -> None:
        self.held_bytes -= size
        self.held_records -= records

    def credit(self, number: int, most_bytes: int, most_records: int) -> Credit | None:
        """What to grant so that ``most`` is on its way or held; None while it is too little."""
        size = max(0, most_bytes - self.out_bytes - self.held_bytes)
        records = max(0, most_records - self.out_records - self.held_records)
        if size * 4 < most_bytes and records * 4 < most_records:
            return None
        self.out_bytes += size
        self.out_records += records
        return Credit(number, size, records)

    def is_low(self, most_bytes: int, most_records: int) -> bool:
        """Whether the other end may soon have to wait."""
        return self.out_bytes * 4 < most_bytes or self.out_records * 4 < most_records


class Known:
    """What is known of one program over its sessions: the last number of each topic that came or
    was told as missing."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: dict[str, int] = {}


class Source:
    """One program that is linked; the program itself is one, without credit."""

    __slots__ = ("instance", "known", "link", "noting", "pulled", "version", "window")

    def __init__(self, link: bytes, instance: bytes, known: Known) -> None:
        self.link = link
        self.instance = instance
        self.known = known
        self.version = -1  # of our interests, as far as it has noted them in this session
        self.noting: list[tuple[str, int]] = []
        self.window = Window()
        self.pulled: dict[int, Window] = {}


class Parcel:
    """One batch that some readers hold."""

    __slots__ = ("is_back", "records", "size", "source", "window")

    def __init__(self, source: Source, window: Window, size: int, records: int) -> None:
        self.source = source
        self.window = window
        self.size = size
        self.records = records
        self.is_back = False


class Reader:
    """One subscription or pull of the program.

    Attributes:
        version: of our interests, since it is one of them.
        since: by instance, where topics began for it that were there before; a program that is
            missing here does not know of it yet.
        held: batches that it has not read, oldest first.
    """

    __slots__ = (
        "held", "held_bytes", "missed", "number", "pattern", "pulls", "since", "version",
        "window_bytes", "window_records",
    )  # fmt: skip

    def __init__(
        self, number: int, pattern: str, pulls: bool, version: int, size: int, records: int
    ) -> None:
        self.number = number
        self.pattern = pattern
        self.pulls = pulls
        self.version = version
        self.window_bytes = size
        self.window_records = records
        self.since: dict[bytes, dict[str, int]] = {}
        self.held: deque[Parcel] = deque()
        self.held_bytes = 0
        self.missed = 0


class Inlets:
    """See the module's header.

    Args:
        instance: the program's own.

    Attributes:
        arrived: batches for readers, by their number; ``missed`` those who miss more.
        credits: what to grant, by link.
        is_thirsty: some source may soon have to wait for credit.
    """

    def __init__(self, instance: bytes) -> None:
        self.readers: dict[int, Reader] = {}
        self.sources: dict[bytes, Source] = {}
        self.arrived: dict[int, list[Arrival]] = {}
        self.missed: dict[int, Reader] = {}
        self.credits: list[tuple[bytes, Credit]] = []
        self.is_thirsty = False
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._own = Source(b"", instance, Known())
        self._own.version = 1 << 63
        self._wanting: dict[str, tuple[Reader, ...]] = {}
        self._credit_bytes = 0
        self._credit_records = 0

    # -- readers ------------------------------------------------------------------------------

    def open(
        self, number: int, pattern: str, pulls: bool, version: int, size: int, records: int
    ) -> None:
        """The program subscribes or pulls."""
        reader = Reader(number, pattern, pulls, version, size, records)
        reader.since[self._own.instance] = {}
        self.readers[number] = reader
        if pulls:
            self._own.pulled[number] = Window()
        self._changed()

    def close(self, number: int) -> None:
        """It does no longer."""
        reader = self.readers.pop(number, None)
        if reader is None:
            return
        for parcel in reader.held:
            self._release(parcel)
        self.arrived.pop(number, None)
        self.missed.pop(number, None)
        for source in (self._own, *self.sources.values()):
            source.pulled.pop(number, None)
        self._changed()

    def _changed(self) -> None:
        self._wanting.clear()
        subscribed = [r for r in self.readers.values() if not r.pulls]
        share = limits.DIRECT_CREDITS_BYTES_MAX // max(1, len(self.sources))
        most = max(limits.BATCH_BYTES_MAX, min(limits.DIRECT_CREDIT_BYTES_MAX, share))
        self._credit_bytes = min(most, max([r.window_bytes for r in subscribed], default=0))
        self._credit_records = min(
            limits.DIRECT_CREDIT_RECORDS_MAX, max([r.window_records for r in subscribed], default=0)
        )
        self._grant_all()

    def consumed(self, number: int, size: int, records: int) -> None:
        """The program has read so much of a reader, in whole batches."""
        reader = self.readers.get(number)
        if reader is None:
            return
        held = reader.held
        while held and records > 0:
            parcel = held.popleft()
            records -= parcel.records
            reader.held_bytes -= parcel.size
            self._release(parcel)
        self._grant_all()

    def _release(self, parcel: Parcel) -> None:
        if not parcel.is_back:
            parcel.is_back = True
            parcel.window.give_back(parcel.size, parcel.records)

    # -- sources ------------------------------------------------------------------------------

    def join(self, link: bytes, instance: bytes) -> None:
        """A program is linked."""
        known = self._known.pop(instance, None) or Known()
        self._known[instance] = known
        while len(self._known) > limits.DIRECT_PEERS_REMEMBERED_MAX:
            forgotten, _ = self._known.popitem(last=False)
            for reader in self.readers.values():
                reader.since.pop(forgotten, None)
        self.sources[link] = Source(link, instance, known)
        self._changed()

    def leave(self, link: bytes) -> None:
        """It is gone."""
        if self.sources.pop(link, None) is not None:
            self._changed()

    def on_noted(self, link: bytes, frame: Noted) -> bool:
        """A program knows of our interests up to a version; whether it has said all of that."""
        source = self.sources[link]
        source.noting += frame.rows
        if frame.more:
            return False
        rows, source.noting = source.noting, []
        instance, known = source.instance, source.known
        subscribed = [r for r in self.readers.values() if not r.pulls]
        old = [r for r in subscribed if instance in r.since]
        fresh = [r for r in subscribed if instance not in r.since and r.version <= frame.version]
        for topic, number in rows:
            was_wanted = [r for r in old if matches(r.pattern, topic)]
            if frame.whole and was_wanted:
                first = known.last.get(topic, 0) + 1
                self._miss(was_wanted, instance, topic, first, number - first)
            if frame.whole or not was_wanted:
                known.last[topic] = number - 1
        for reader in fresh:
            reader.since[instance] = {t: n for t, n in rows if matches(reader.pattern, t)}
        source.version = max(source.version, frame.version)
        return True

    def _miss(
        self, readers: Iterable[Reader], instance: bytes, topic: str, first: int, count: int
    ) -> None:
        for reader in readers:
            since = reader.since.get(instance)
            if since is None:
                continue
            missing = count - max(0, since.get(topic, 0) - first)
            if missing > 0:
                reader.missed += missing
                self.missed[reader.number] = reader

    def _grant_all(self) -> None:
        is_low = self._grant(self._own)
        for source in self.sources.values():
            is_low = self._grant(source) or is_low
        self.is_thirsty = is_low

    def _grant(self, source: Source) -> bool:
        """Grant what is worth a frame; whether it may soon have to wait for more."""
        is_low = False
        most = self._credit_bytes, self._credit_records
        if most[0] and source is not self._own:
            credit = source.window.credit(0, *most)
            if credit is not None:
                self.credits.append((source.link, credit))
            is_low = source.window.is_low(*most)
        for number, window in source.pulled.items():
            reader = self.readers[number]
            credit = window.credit(number, reader.window_bytes, reader.window_records)
            if credit is not None:
                self.credits.append((source.link, credit))
            is_low = is_low or window.is_low(reader.window_bytes, reader.window_records)
        return is_low

    def open_pull(self, link: bytes, number: int) -> None:
        """A program knows of a pull from now on: it may hand to it."""
        source = self.sources[link]
        if number not in source.pulled:
            source.pulled[number] = Window()
            self.is_thirsty = self._grant(source) or self.is_thirsty

    # -- records ------------------------------------------------------------------------------

    def wanting(self, topic: str) -> tuple[Reader, ...]:
        """Subscriptions that cover ``topic``."""
        found = self._wanting.get(topic)
        if found is None:
            if len(self._wanting) >= limits.TOPICS_MAX:
                self._wanting.clear()
            found = tuple(
                [r for r in self.readers.values() if not r.pulls and matches(r.pattern, topic)]
            )
            self._wanting[topic] = found
        return found

    def on_deliver(self, link: bytes, frame: Deliver) -> None:
        """A program delivers; raises LimitReached for one with too many topics."""
        source = self.sources[link]
        if frame.subscription:
            self._on_pulled(source, frame)
            return
        payload = frame.payload
        alone = len(frame.batches) == 1
        at = 0
        for row in frame.batches:
            data = payload if alone else payload[at : at + row.length]
            at += row.length
            self._on_row(source, row, data)
        if self._grant(source):
            self.is_thirsty = True

    def on_own(self, row: DeliverBatch, data: bytes) -> None:
        """The program itself has published."""
        if self.wanting(row.topic):
            self._on_row(self._own, row, data)

    def _on_row(self, source: Source, row: DeliverBatch, data: bytes) -> None:
        topic, first, count, size = row.topic, row.base_offset, row.count, row.length
        last = source.known.last
        expected = last.get(topic, 0) + 1
        readers = self.wanting(topic)
        source.window.take(size, 0 if row.missing else count)
        if source is self._own:
            expected = first
        elif readers:
            if len(last) >= limits.TOPICS_MAX and topic not in last:
                raise LimitReached(f"records of more than {limits.TOPICS_MAX} topics")
            if first > expected:
                self._miss(readers, source.instance, topic, expected, first - expected)
            last[topic] = max(expected, first + count) - 1
        if row.missing:
            skip = max(0, expected - first)
            self._miss(readers, source.instance, topic, first + skip, count - skip)
            return
        parcel = Parcel(source, source.window, size, count)
        is_held = False
        for reader in readers:
            since = reader.since.get(source.instance)
            if since is None:
                continue
            skip = max(expected, since.get(topic, 0)) - first
            if skip >= count:
                continue
            skip = max(0, skip)
            if reader.held_bytes >= reader.window_bytes + limits.DIRECT_QUEUE_BYTES_MAX:
                self._miss((reader,), source.instance, topic, first + skip, count - skip)
                continue
            self._give(reader, parcel, row, skip, data)
            is_held = True
        if not is_held:
            self._release(parcel)

    def _give(
        self, reader: Reader, parcel: Parcel, row: DeliverBatch, skip: int, data: bytes
    ) -> None:
        reader.held.append(parcel)
        reader.held_bytes += parcel.size
        arrival = Arrival(row.topic, 0, row.count, skip, data, row.checksum, 0, b"", 0, 0)
        found = self.arrived.get(reader.number)
        if found is None:
            self.arrived[reader.number] = [arrival]
        else:
            found.append(arrival)

    def _on_pulled(self, source: Source, frame: Deliver) -> None:
        window = source.pulled.get(frame.subscription)
        if window is None:
            return  # it was closed meanwhile
        reader = self.readers[frame.subscription]
        at = 0
        for row in frame.batches:
            data = frame.payload[at : at + row.length]
            at += row.length
            window.take(row.length, row.count)
            self._give(reader, Parcel(source, window, row.length, row.count), row, 0, data)
        if self._grant(source):
            self.is_thirsty = True

    def pull_own(self, number: int, row: DeliverBatch, data: bytes) -> None:
        """The program hands to its own pull."""
        source, reader = self._own, self.readers[number]
        window = source.pulled[number]
        window.take(row.length, row.count)
        self._give(reader, Parcel(source, window, row.length, row.count), row, 0, data)

    def take_credits(self) -> list[tuple[bytes, Credit]]:
        """Credit to grant, by link."""
        found, self.credits = self.credits, []
        return found
