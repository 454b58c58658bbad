"""What comes to a program from others: for which subscription, what of it is missing, and credit.

Data: a Reader for each subscription and pull of the program, with a Feed for each program that it
hears from, the program itself among them.

Rules:
1. The numbers of a topic that one program sends to one reader have no gap and no repeat: what is
   told as missing, or lies between two sessions, is counted. Received and missing together are all
   that was sent since the other program noted the interest.
2. What a reader has room for is shared out among the programs that are linked. What was read is
   credit again, for the program that it came from.
3. What is pulled has no numbers to go by: each record comes to one reader of all there are.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from meshmq import limits
from meshmq.core.effects import Arrival
from meshmq.errors import BadFrame, LimitReached
from meshmq.frames import Credit, Deliver, DeliverBatch, Noted
from meshmq.names import matches


class Feed:
    """What one reader has from one program.

    Attributes:
        last: the last number of each topic that came or was told as missing, over all sessions.
        is_noted: the program has noted the interest, in whatever session.
        out_bytes, out_records: granted in this session, and nothing has come for it.
        held_bytes, held_records: came, and is not read.
    """

    __slots__ = ("held_bytes", "held_records", "is_noted", "last", "out_bytes", "out_records")

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.is_noted = False
        self.out_bytes = self.out_records = 0
        self.held_bytes = self.held_records = 0

    def grant(self, most_bytes: int, most_records: int) -> tuple[int, int]:
        """Bytes and records to grant, so that ``most`` is on its way or held; 0, 0 while that is
        too little."""
        size = max(0, most_bytes - self.out_bytes - self.held_bytes)
        records = max(0, most_records - self.out_records - self.held_records)
        if size * 4 < most_bytes and records * 4 < most_records:
            return 0, 0
        self.out_bytes += size
        self.out_records += records
        return size, records


class Reader:
    """One subscription or pull of the program.

    Attributes:
        version: of our interests, since it is one of them.
        feeds: by instance; those of programs that are gone are kept for a while.
        held: what is not read, oldest first: whose feed, bytes, records.
        missed: records, of all programs.
        is_thirsty: some program may soon have to wait for credit, so that all that is read counts.
    """

    __slots__ = (
        "feeds", "held", "is_thirsty", "missed", "number", "pattern", "pulls", "version",
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
        self.feeds: OrderedDict[bytes, Feed] = OrderedDict()
        self.held: deque[tuple[Feed, int, int]] = deque()
        self.missed = 0
        self.is_thirsty = False


class Source:
    """One program that is linked."""

    __slots__ = ("instance", "link", "noting", "version")

    def __init__(self, link: bytes, instance: bytes) -> None:
        self.link = link
        self.instance = instance
        self.version = -1  # of our interests, as far as it has noted them in this session
        self.noting: list[tuple[str, int]] = []


class Inlets:
    """See the module's header.

    Attributes:
        arrived: batches for readers, by their number; ``missing`` those who miss more.
        credits: what to grant, by link.
    """

    def __init__(self) -> None:
        self.readers: dict[int, Reader] = {}
        self.sources: dict[bytes, Source] = {}
        self.arrived: dict[int, list[Arrival]] = {}
        self.missing: dict[int, Reader] = {}
        self.credits: list[tuple[bytes, Credit]] = []

    # -- readers ------------------------------------------------------------------------------

    def open(
        self, number: int, pattern: str, pulls: bool, version: int, size: int, records: int
    ) -> None:
        """The program subscribes or pulls; the others are told before this grants them credit."""
        reader = self.readers[number] = Reader(number, pattern, pulls, version, size, records)
        for source in self.sources.values():
            reader.feeds[source.instance] = Feed()
        self._grant_all(reader)

    def close(self, number: int) -> None:
        """It does no longer."""
        self.readers.pop(number, None)
        self.arrived.pop(number, None)
        self.missing.pop(number, None)

    def consumed(self, number: int, records: int) -> None:
        """The program has read so many records of a reader, in whole batches."""
        reader = self.readers.get(number)
        if reader is None:
            return
        held = reader.held
        while held and records > 0:
            feed, size, count = held.popleft()
            records -= count
            feed.held_bytes -= size
            feed.held_records -= count
        self._grant_all(reader)

    # -- sources ------------------------------------------------------------------------------

    def join(self, link: bytes, instance: bytes) -> None:
        """A program is linked, and is told our interests before this grants it credit."""
        self.sources[link] = Source(link, instance)
        for reader in self.readers.values():
            feed = reader.feeds.pop(instance, None) or Feed()
            feed.out_bytes = feed.out_records = 0
            reader.feeds[instance] = feed
            if len(reader.feeds) > limits.DIRECT_PEERS_REMEMBERED_MAX:
                linked = {x.instance for x in self.sources.values()}
                del reader.feeds[next(x for x in reader.feeds if x not in linked)]
            self._grant_all(reader)

    def leave(self, link: bytes) -> None:
        """It is gone: the others may have more."""
        source = self.sources.pop(link, None)
        if source is not None:
            for reader in self.readers.values():
                reader.feeds.move_to_end(source.instance)  # who is gone the longest is forgotten
                self._grant_all(reader)

    def on_noted(self, link: bytes, frame: Noted) -> bool:
        """A program knows of our interests up to a version; whether it has said all of that. Raises
        LimitReached for one that says too much."""
        source = self.sources[link]
        source.noting += frame.rows
        if len(source.noting) > limits.TOPICS_MAX:
            raise LimitReached(f"records of more than {limits.TOPICS_MAX} topics")
        if frame.more:
            return False
        rows, source.noting = source.noting, []
        source.version = max(source.version, frame.version)
        for reader in self.readers.values():
            if reader.pulls or reader.version > frame.version:
                continue
            feed = reader.feeds[source.instance]
            if feed.is_noted and not frame.whole:
                continue
            for topic, number in rows:
                if matches(reader.pattern, topic):
                    if feed.is_noted:
                        self._miss(reader, number - 1 - feed.last.get(topic, 0))
                    feed.last[topic] = number - 1
            feed.is_noted = True
        return True

    def _miss(self, reader: Reader, records: int) -> None:
        if records > 0:
            reader.missed += records
            self.missing[reader.number] = reader

    def _grant_all(self, reader: Reader) -> None:
        reader.is_thirsty = False
        for source in self.sources.values():
            self._grant(reader, source)

    def _grant(self, reader: Reader, source: Source) -> None:
        """Grant what is worth a frame."""
        feed = reader.feeds[source.instance]
        count = len(self.sources)
        size = max(
            reader.window_bytes // count, min(reader.window_bytes, limits.DIRECT_LEAST_BYTES)
        )
        records = reader.window_records
        if not reader.pulls:
            records = max(records // count, min(records, limits.DIRECT_LEAST_RECORDS))
        granted = feed.grant(size, records)
        if any(granted):
            self.credits.append((source.link, Credit(reader.number, *granted)))
        if feed.out_bytes * 4 < size or feed.out_records * 4 < records:
            reader.is_thirsty = True

    # -- records ------------------------------------------------------------------------------

    def on_deliver(self, link: bytes, frame: Deliver) -> None:
        """A program delivers; raises LimitReached for one with too many topics, BadFrame for one
        that sends without credit."""
        source, reader = self.sources[link], self.readers.get(frame.subscription)
        if reader is None:
            return  # it was closed meanwhile
        feed = reader.feeds[source.instance]
        payload = frame.payload
        alone = len(frame.batches) == 1
        at = 0
        for row in frame.batches:
            skip = 0 if reader.pulls else self._place(reader, feed, row)
            if row.missing:
                continue
            data = payload if alone else payload[at : at + row.length]
            at += row.length
            if feed.out_bytes <= 0 or feed.out_records <= 0 or not row.count:
                raise BadFrame("records for which there was no credit")
            feed.out_bytes -= row.length
            feed.out_records -= row.count
            if skip < row.count:
                feed.held_bytes += row.length
                feed.held_records += row.count
                reader.held.append((feed, row.length, row.count))
                arrival = Arrival(row.topic, 0, row.count, skip, data, row.checksum, 0, b"", 0, 0)
                self.arrived.setdefault(reader.number, []).append(arrival)
        self._grant(reader, source)

    def _place(self, reader: Reader, feed: Feed, row: DeliverBatch) -> int:
        """Note a row's numbers; return how many of its leading records were seen."""
        last, topic, first, count = feed.last, row.topic, row.base_offset, row.count
        before = last.get(topic)
        if before is None:
            if len(last) >= limits.TOPICS_MAX:
                raise LimitReached(f"records of more than {limits.TOPICS_MAX} topics")
            before = 0
        self._miss(reader, first - 1 - before)
        skip = max(0, before + 1 - first)
        if row.missing:
            self._miss(reader, count - skip)
        last[topic] = max(before, first + count - 1)
        return skip

    def take_credits(self) -> list[tuple[bytes, Credit]]:
        """Credit to grant, by link."""
        found, self.credits = self.credits, []
        return found
