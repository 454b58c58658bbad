"""What comes to a program from others: for which subscription, what of it is missing, and credit.

Data: a Reader for each subscription and pull of the program, with a Feed for each program that it
hears from, the program itself among them.

Rules:
1. The numbers of a topic that one program sends to one reader have no gap and no repeat: what is
   told as missing, or lies between two sessions, is counted. Received and missing together are all
   that was sent since the other program noted the interest.
2. What a reader has room for is shared out among the programs that are linked. What was read is
   credit again, for the program that it came from. The node gives credit by itself (Subscriber).
3. What is pulled has no numbers to go by: each record comes to one reader of all there are.
4. A program has two routes where both are at one node, and may change between them. What comes by
   one while records before it may still come by the other waits for those: until they are there,
   the other route is told to be empty (a marker) or gone, or ROUTE_WAIT_NS are over; then they are
   missing. So order holds, and what comes twice is dropped by its number.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

from meshmq import limits
from meshmq.core.effects import Arrival
from meshmq.errors import BadFrame, LimitReached
from meshmq.frames import Credit, Deliver, DeliverBatch, Noted, NotedRow, Payload
from meshmq.names import matches


class _Waiting(NamedTuple):
    """A row that waits for what is before it; see rule 4."""

    row: DeliverBatch
    data: Payload
    by_node: bool


class Feed:
    """What one reader has from one program.

    Attributes:
        firsts: the first number of each topic that came by the node before is_noted.
        last: the last number of each topic that came or was told as missing, over all sessions.
        is_noted: the program has noted the interest, in whatever session.
        begins: where topics begin that come directly, while the node's marker is waited for.
        is_marked: that has come already.
        waiting: see rule 4; in the order they came.
        due_ns: until when, or 0.
        out_bytes, out_records: granted in this session, and nothing has come for it.
        old_bytes, old_records: the same, of before the reader was hidden from that program.
        held_bytes, held_records: came, and is not read.
    """

    __slots__ = (
        "begins", "due_ns", "firsts", "held_bytes", "held_records", "is_marked", "is_noted", "last",
        "old_bytes", "old_records", "out_bytes", "out_records", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begins: tuple[NotedRow, ...] | None = None
        self.is_marked = False
        self.waiting: list[_Waiting] = []
        self.due_ns = 0
        self.firsts: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.is_noted = False
        self.out_bytes = self.out_records = 0
        self.old_bytes = self.old_records = 0
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

    def take(self, size: int, records: int, is_old: bool) -> bool:
        """So much has come, for what was granted before the reader was hidden or since; False: for
        nothing."""
        if is_old:
            if self.old_bytes <= 0 or self.old_records <= 0:
                return False
            self.old_bytes -= size
            self.old_records -= records
        else:
            if self.out_bytes <= 0 or self.out_records <= 0:
                return False
            self.out_bytes -= size
            self.out_records -= records
        self.held_bytes += size
        self.held_records += records
        return True


class Reader:
    """One subscription or pull of the program.

    Attributes:
        version: of our interests, since it is one of them.
        feeds: by instance; those of programs that are gone are kept for a while.
        held: what is not read, oldest first: whose feed (None: by the node), bytes, records.
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
        self.held: deque[tuple[Feed | None, int, int]] = deque()
        self.missed = 0
        self.is_thirsty = False


HIDDEN = 1 << 64
"""Above every version."""


class Source:
    """One program that is linked.

    Attributes:
        node: the one that it is at, or empty.
        heard_ns: when anything came over the link.
        version: of our interests, as far as it has noted them in this session.
        shown: readers that it was not told of with the others: HIDDEN, or the version that told.
        hidden: readers that it was told are over: the version that told.
    """

    __slots__ = ("heard_ns", "hidden", "instance", "link", "node", "noting", "shown", "version")

    def __init__(self, link: bytes, instance: bytes) -> None:
        self.link = link
        self.heard_ns = 0
        self.node = b""
        self.instance = instance
        self.version = -1
        self.shown: dict[int, int] = {}
        self.hidden: dict[int, int] = {}
        self.noting: list[NotedRow] = []


class Inlets:
    """See the module's header.

    Attributes:
        arrived: batches for readers, by their number; ``missing`` those who miss more.
        credits: what to grant, by link.
        node: the one that we are at, or empty.
        returned: what came by the node and was dropped: reader, bytes, records.
    """

    def __init__(self) -> None:
        self.readers: dict[int, Reader] = {}
        self.sources: dict[bytes, Source] = {}
        self.arrived: dict[int, list[Arrival]] = {}
        self.missing: dict[int, Reader] = {}
        self.credits: list[tuple[bytes, Credit]] = []
        self.node = b""
        self.returned: list[tuple[int, int, int]] = []
        self._by_instance: dict[bytes, Source] = {}
        self._waiting: dict[int, tuple[Reader, bytes, Feed]] = {}  # feeds that wait, by their id

    # -- readers ------------------------------------------------------------------------------

    def open(
        self, number: int, pattern: str, pulls: bool, version: int, size: int, records: int,
        hidden: Iterable[bytes] = (),
    ) -> None:  # fmt: skip
        """The program subscribes or pulls; the others are told before this grants them credit,
        but for those that it is ``hidden`` from."""
        reader = self.readers[number] = Reader(number, pattern, pulls, version, size, records)
        for source in self.sources.values():
            reader.feeds[source.instance] = Feed()
        for link in hidden:
            self.sources[link].shown[number] = HIDDEN
        self._grant_all(reader)

    def show(self, link: bytes, number: int, version: int) -> None:
        """A program is told of a reader that was hidden from it, by this version."""
        source, reader = self.sources[link], self.readers.get(number)
        if reader is not None and number in source.shown:
            source.shown[number] = version
            self._grant(reader, source)

    def hide(self, link: bytes, number: int, version: int) -> None:
        """A program is told that a reader is over, and it is not: nothing more comes from there
        than what it sent before it heard of that, for credit of before."""
        source, reader = self.sources[link], self.readers.get(number)
        if reader is not None:
            feed = reader.feeds[source.instance]
            if not self.is_on_its_way(link, number):
                feed.old_bytes = feed.old_records = 0
            feed.old_bytes += feed.out_bytes
            feed.old_records += feed.out_records
            feed.out_bytes = feed.out_records = 0
            source.shown[number] = HIDDEN
            source.hidden[number] = version

    def is_on_its_way(self, link: bytes, number: int) -> bool:
        """Whether a program may not have heard yet that a reader is over. What it sent before is
        taken: it was allowed then, and the node does not send it."""
        source = self.sources[link]
        return source.version < source.hidden.get(number, -1)

    def close(self, number: int) -> None:
        """It does no longer."""
        reader = self.readers.pop(number, None)
        for source in self.sources.values():
            source.shown.pop(number, None)
            source.hidden.pop(number, None)
        self.arrived.pop(number, None)
        self.missing.pop(number, None)
        if self._waiting and reader is not None:
            for feed in reader.feeds.values():
                self._waiting.pop(id(feed), None)

    def consumed(self, number: int, records: int) -> tuple[int, int]:
        """The program has read so many records of a reader, in whole batches; return bytes and
        records of what had come by the node."""
        reader = self.readers.get(number)
        by_node = node_bytes = 0
        if reader is None:
            return 0, 0
        held = reader.held
        while held and records > 0:
            feed, size, count = held.popleft()
            records -= count
            if feed is None:
                node_bytes += size
                by_node += count
            else:
                feed.held_bytes -= size
                feed.held_records -= count
        self._grant_all(reader)
        return node_bytes, by_node

    # -- sources ------------------------------------------------------------------------------

    def join(self, link: bytes, instance: bytes, hidden: Iterable[int] = ()) -> None:
        """A program is linked, and is told our interests before this grants it credit, but for
        those that are ``hidden``."""
        source = self.sources[link] = self._by_instance[instance] = Source(link, instance)
        source.shown = dict.fromkeys(hidden, HIDDEN)
        for reader in self.readers.values():
            feed = reader.feeds.pop(instance, None) or Feed()
            feed.out_bytes = feed.out_records = feed.old_bytes = feed.old_records = 0
            feed.is_marked = False
            reader.feeds[instance] = feed
            self._forget(reader)
            self._grant_all(reader)

    def leave(self, link: bytes) -> None:
        """It is gone: the others may have more."""
        source = self.sources.pop(link, None)
        if source is not None:
            if self._by_instance.get(source.instance) is source:
                del self._by_instance[source.instance]
            for reader in self.readers.values():
                reader.feeds.move_to_end(source.instance)  # who is gone the longest is forgotten
                self._release(reader, source.instance, reader.feeds[source.instance])
                self._grant_all(reader)

    def _forget(self, reader: Reader) -> None:
        """Bound the programs that are remembered."""
        if len(reader.feeds) > limits.DIRECT_PEERS_REMEMBERED_MAX:
            found = next((x for x in reader.feeds if x not in self._by_instance), None)
            if found is not None:
                feed = reader.feeds[found]
                self._release(reader, found, feed)
                del reader.feeds[found]

    def on_noted(self, link: bytes, frame: Noted, now_ns: int = 0, *, waits: bool = True) -> bool:
        """A program knows of our interests up to a version; whether it has said all of that. Raises
        LimitReached for one that says too much. ``waits``: for the node's marker, where there is
        a node."""
        source = self.sources[link]
        source.noting += frame.rows
        if len(source.noting) > limits.TOPICS_MAX:
            raise LimitReached(f"records of more than {limits.TOPICS_MAX} topics")
        if frame.more:
            return False
        rows, source.noting = source.noting, []
        source.version = max(source.version, frame.version)
        for reader in self.readers.values():
            known = source.shown.get(reader.number, reader.version)
            if reader.pulls or known > frame.version:
                continue
            feed = reader.feeds[source.instance]
            if (feed.is_noted or feed.begins is not None) and not frame.whole:
                continue  # it is about another interest
            mine = tuple([row for row in rows if matches(reader.pattern, row[0])])
            if waits and self._has_both(source) and not feed.is_marked:
                # What it sent before may be on its way by the node: its marker comes behind that.
                feed.begins = mine
                self._wait(reader, source.instance, feed, now_ns)
            else:
                self._begin(reader, feed, mine)
        return True

    def _begin(self, reader: Reader, feed: Feed, rows: tuple[NotedRow, ...]) -> None:
        """From here on topics go on with these numbers directly, others begin with 1."""
        if not feed.is_noted and feed.firsts:
            numbers = {row.topic: row.next for row in rows}
            for topic, first in feed.firsts.items():  # they have overtaken what was before them
                self._miss(reader, first - numbers.get(topic, 1))
            feed.firsts = {}
        for topic, number, unsure in rows:
            last = feed.last.get(topic, 0)
            if feed.is_noted or topic in feed.last:
                # What the node keeps it has from there; else the next one tells of it.
                number = min(number, unsure or number)
                self._miss(reader, number - 1 - last)
            feed.last[topic] = max(last, number - 1)
        feed.is_noted = True

    # -- two routes ---------------------------------------------------------------------------

    def on_node(self, origin: bytes) -> None:
        """We are at this node now, or (empty) at none: nothing more comes by the one before."""
        self.node = origin
        self._release_all()

    def on_their_node(self, link: bytes, origin: bytes) -> None:
        """A program is at this node now, or at none."""
        source = self.sources[link]
        if source.node != origin:
            source.node = origin
            for reader in self.readers.values():
                self._release(reader, source.instance, reader.feeds[source.instance])

    def _has_both(self, source: Source) -> bool:
        return bool(self.node) and source.node == self.node

    def on_marker(self, number: int, instance: bytes) -> None:
        """What a program had sent by the old route has been told."""
        reader = self.readers.get(number)
        feed = reader.feeds.get(instance) if reader is not None else None
        if reader is not None and feed is not None:
            feed.is_marked = True
            self._release(reader, instance, feed)

    def _wait(self, reader: Reader, instance: bytes, feed: Feed, now_ns: int) -> None:
        if not feed.due_ns:
            feed.due_ns = now_ns + limits.ROUTE_WAIT_NS
            self._waiting[id(feed)] = (reader, instance, feed)

    def _release(self, reader: Reader, instance: bytes, feed: Feed) -> None:
        """Wait no longer: what is not there is missing."""
        if not feed.due_ns:
            return
        feed.due_ns = 0
        self._waiting.pop(id(feed), None)
        if feed.begins is not None:
            begins, feed.begins = feed.begins, None
            self._begin(reader, feed, begins)
        waiting, feed.waiting = feed.waiting, []
        waiting.sort(key=lambda w: w.row.base_offset)
        for row, data, by_node in waiting:
            self._take(reader, feed, row, data, by_node)

    def _release_all(self) -> None:
        for reader, instance, feed in list(self._waiting.values()):
            self._release(reader, instance, feed)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        waiting = self._waiting
        return min([feed.due_ns for _, _, feed in waiting.values()]) if waiting else None

    def tick(self, now_ns: int) -> None:
        """Rule 4."""
        for reader, instance, feed in list(self._waiting.values()):
            if feed.due_ns <= now_ns:
                self._release(reader, instance, feed)

    def on_node_row(self, number: int, row: DeliverBatch, data: Payload, now_ns: int) -> None:
        """A numbered row came by the node. Raises LimitReached for one with too many topics."""
        reader = self.readers.get(number)
        if reader is None:
            return
        feed = reader.feeds.get(row.source)
        if feed is None:
            feed = reader.feeds[row.source] = Feed()
            self._forget(reader)
        source = self._by_instance.get(row.source)
        has_both = source is not None and self._has_both(source)
        if source is not None and now_ns - source.heard_ns >= limits.ROUTE_HEARD_NS:
            has_both = False
        self._on_row(reader, row.source, feed, row, data, True, has_both, now_ns)

    def _on_row(
        self, reader: Reader, instance: bytes, feed: Feed, row: DeliverBatch, data: Payload,
        by_node: bool, has_both: bool, now_ns: int,
    ) -> None:  # fmt: skip
        """Take a row, now or when what is before it is there."""
        if feed.due_ns and feed.begins is not None:
            waits = not by_node
        else:
            last = feed.last.get(row.topic, 0)
            # Of an interest that it has not noted nothing is on its way directly.
            waits = has_both and feed.is_noted and row.base_offset > last + 1
        if waits:
            feed.waiting.append(_Waiting(row, data, by_node))
            self._wait(reader, instance, feed, now_ns)
            return
        self._take(reader, feed, row, data, by_node)
        if feed.waiting and feed.begins is None:
            self._look(reader, instance, feed)

    def _look(self, reader: Reader, instance: bytes, feed: Feed) -> None:
        """Take what has waited for what came now."""
        more = True
        while more and feed.waiting:
            more = False
            for waiting in feed.waiting:
                if waiting.row.base_offset <= feed.last.get(waiting.row.topic, 0) + 1:
                    feed.waiting.remove(waiting)
                    self._take(reader, feed, *waiting)
                    more = True
                    break
        if not feed.waiting:
            feed.due_ns = 0
            self._waiting.pop(id(feed), None)

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
        if source.shown.get(reader.number) == HIDDEN:
            return
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

    def on_deliver(self, link: bytes, frame: Deliver, now_ns: int = 0) -> None:
        """A program delivers; raises LimitReached for one with too many topics, BadFrame for one
        that sends without credit."""
        source, reader = self.sources[link], self.readers.get(frame.subscription)
        if reader is None:
            return  # it was closed meanwhile
        feed = reader.feeds[source.instance]
        payload = frame.payload
        alone = len(frame.batches) == 1
        has_both = self._has_both(source)
        is_old = self.is_on_its_way(link, frame.subscription)
        at = 0
        for row in frame.batches:
            data = payload if alone else payload[at : at + row.length]
            at += row.length
            if not row.missing:
                if not row.count and row.source:
                    self.on_marker(frame.subscription, source.instance)
                    continue
                if not row.count or not feed.take(row.length, row.count, is_old):
                    raise BadFrame("records for which there was no credit")
            if reader.pulls:
                self._arrive(reader, feed, row, data, 0, False)
            elif has_both or feed.due_ns:
                self._on_row(reader, source.instance, feed, row, data, False, has_both, now_ns)
            else:
                self._take(reader, feed, row, data, False)
        self._grant(reader, source)

    def _take(
        self, reader: Reader, feed: Feed, row: DeliverBatch, data: Payload, by_node: bool
    ) -> None:
        """Count a row, and hand on what is new of it."""
        skip = self._place(reader, feed, row)
        if row.missing:
            return
        if skip < row.count:
            self._arrive(reader, feed, row, data, skip, by_node)
        elif by_node:
            self.returned.append((reader.number, row.length, row.count))
        else:
            feed.held_bytes -= row.length
            feed.held_records -= row.count

    def _arrive(
        self, reader: Reader, feed: Feed, row: DeliverBatch, data: Payload, skip: int, by_node: bool
    ) -> None:
        reader.held.append((None if by_node else feed, row.length, row.count))
        arrival = Arrival(
            row.topic, 0, row.count, skip, data, row.checksum, 0, b"", 0, 0, site=row.site
        )
        self.arrived.setdefault(reader.number, []).append(arrival)

    def arrive(self, number: int, arrival: Arrival, size: int) -> None:
        """What has no number came by the node."""
        reader = self.readers.get(number)
        if reader is not None:
            reader.held.append((None, size, arrival.count))
            self.arrived.setdefault(number, []).append(arrival)

    def _place(self, reader: Reader, feed: Feed, row: DeliverBatch) -> int:
        """Note a row's numbers; return how many of its leading records were seen."""
        last, topic, first, count = feed.last, row.topic, row.base_offset, row.count
        before = last.get(topic)
        if before is None:
            if len(last) >= limits.TOPICS_MAX:
                raise LimitReached(f"records of more than {limits.TOPICS_MAX} topics")
            before = 0
            if not feed.is_noted:
                before = first - 1
                feed.firsts[topic] = first
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
