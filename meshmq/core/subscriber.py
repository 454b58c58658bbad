"""The consuming side of a client: one subscription over any number of sessions, with any nodes.

Data: a Log for each node whose records came or are to come, by origin; their places are the same
whichever node hands the records on.

Rules:
1. What was received once is never handed on again, and nothing unseen is skipped: after a
   reconnect, to whatever node, reading resumes behind the last batch received of each log.
2. A log without a place is read from a time on: when the subscription was opened (``new``), or as
   the program asked. So one that turns up later is read from there on.
3. Order is kept in each stream (topic, origin), and what is passed over is counted there
   (retention, damage) in ``missed``, like the transient records the node dropped.
4. Credit is what the program can still take: window minus what it was given and has not consumed.
   Of a log that is read at its own node (core/direct_reads.py) a share of the window is that node's
   to use, the rest our own node's; what the program has consumed goes to those who have used most
   of theirs, so that all of them together never have more than the window.
5. With dedup what another log has given already is dropped (core/dedup.py).
"""

from __future__ import annotations

from typing import NamedTuple

from meshmq import limits
from meshmq.core.dedup import Dedup
from meshmq.core.effects import Arrival
from meshmq.frames import (
    DURABLE_ONLY,
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_POSITION,
    Credit,
    Deliver,
    DeliverBatch,
    Payload,
    Place,
    Streams,
    StreamsRow,
    Subscribe,
    Subscribed,
)
from meshmq.names import site_of


class Start(NamedTuple):
    """Where to begin: one of the START_ kinds and what it needs.

    ``value`` is unix ns or an offset; ``origin``, ``lsn`` and ``slot`` name a batch in a log, of
    which the first ``skip`` records are not wanted; ``places`` are those in other logs. Then
    ``value`` is from when on logs are read that have no place.
    """

    kind: int = START_NEW
    value: int = 0
    origin: bytes = b""
    lsn: int = 0
    slot: int = 0
    skip: int = 0
    places: tuple[Place, ...] = ()


class Log:
    """What one subscription has of one node's log.

    Attributes:
        name: the node's, or empty; site: the other site that it is of, or empty.
        is_away: nothing comes of it until its node is back.
        lsn, slot: where reading goes on; lsn 0: that shows with the first batch.
        skip: records of the batch there that are not wanted.
        last: lsn and slot of the last batch: what is behind it is new.
        next_offset: by topic.
        floor: the offset asked for, until the first batch.
    """

    __slots__ = ("floor", "is_away", "last", "lsn", "name", "next_offset", "site", "skip", "slot")

    def __init__(self, lsn: int = 0, slot: int = 0, skip: int = 0) -> None:
        self.name = self.site = ""
        self.is_away = False
        self.lsn, self.slot, self.skip = lsn, slot, skip
        self.last = (0, 0)
        self.next_offset: dict[str, int] = {}
        self.floor = 0


class Share:
    """The part of the window for one log that is read at its own node.

    Attributes:
        most_bytes, most_records: that part.
        out_bytes, out_records: what that node may still send.
    """

    __slots__ = ("most_bytes", "most_records", "out_bytes", "out_records")

    def __init__(self, most_bytes: int, most_records: int) -> None:
        self.most_bytes, self.most_records = most_bytes, most_records
        self.out_bytes = self.out_records = 0

    @property
    def is_low(self) -> bool:
        """Whether a quarter of it is used."""
        return (
            4 * (self.most_bytes - self.out_bytes) >= self.most_bytes
            or 4 * (self.most_records - self.out_records) >= self.most_records
        )


class Subscriber:
    """One subscription's state on the client.

    Attributes:
        missed: records that were passed over or dropped so far.
        damaged: records lost because their stored bytes failed the checksum (part of ``missed``).
        is_active: whether the node has accepted it in this session.
        is_pull: it takes what programs push, and is not the node's.
        copies: records dropped because they came from another node's log before.
        away: names of nodes whose records wait until they are back.
        shares: by origin, of logs that are read at their own nodes.
        site: of the node that we are at.
    """

    def __init__(
        self,
        number: int,
        pattern: str,
        start: Start,
        window_bytes: int,
        window_records: int,
        dedup: bool = False,
        own_site: bool = False,
    ) -> None:
        self.id = number
        self.site = ""
        self._own_site = own_site
        self.pattern = pattern
        self.missed = 0
        self.damaged = 0
        self.copies = 0
        self.is_active = False
        self.is_pull = False
        self.away: tuple[str, ...] = ()
        self.shares: dict[bytes, Share] = {}
        self._dedup = Dedup() if dedup else None
        self._start = start
        self._own = start.origin  # the log of the node we are at, or were
        self._since: int | None = None  # rule 2; None: no node has answered yet
        self._seeks = start.kind == START_OFFSET  # until a batch of the stream has come
        self._logs: dict[bytes, Log] = {}
        if start.kind == START_POSITION:
            self._logs[start.origin] = Log(start.lsn, start.slot, start.skip)
            self._logs |= {p.origin: Log(p.lsn, p.slot, p.skip) for p in start.places}
        self._others_of: bytes | None = None
        self._others: tuple[Place, ...] = ()
        self._window_bytes = window_bytes
        self._window_records = window_records
        self._held_bytes = 0
        self._held_records = 0
        self._owed_bytes = 0
        self._owed_records = 0

    @property
    def needs_node(self) -> bool:
        """Whether it reads what a node keeps, and has not begun to."""
        return self._start.kind != START_NEW or self._since is not None

    def subscribe(self) -> Subscribe:
        """The frame that opens it in a new session."""
        self.is_active = False
        self._owed_bytes = self._owed_records = 0
        kind, value = self._start.kind, self._start.value
        if self._since is not None and not self._seeks:
            kind, value = START_POSITION, self._since
        self.away = ()
        for log in self._logs.values():
            log.is_away = False
        own = self._logs.get(self._own)
        origin, lsn, slot = b"", 0, 0
        if own is not None and own.lsn:
            origin, lsn, slot = self._own, own.lsn, own.slot
        places = self._places(self._own)
        if self.shares:
            places = tuple([p._replace(direct=p.origin in self.shares) for p in places])
        size, records = self._free()
        return Subscribe(
            self.id, self.pattern, kind, value, origin, lsn, slot, max(0, size), max(0, records),
            places=places, dedup=self._dedup is not None, own_site=self._own_site,
        )  # fmt: skip

    def _free(self) -> tuple[int, int]:
        """Bytes and records of the window that are neither held nor a log's to send."""
        size = self._window_bytes - self._held_bytes
        records = self._window_records - self._held_records
        for share in self.shares.values():
            size -= max(0, share.out_bytes)
            records -= max(0, share.out_records)
        return size, records

    def on_subscribed(self, frame: Subscribed) -> None:
        """The node's yes; from here on reading resumes by places, never by the first wish."""
        self.is_active = True
        self._own = frame.origin
        if self._since is None:
            kind, value = self._start.kind, self._start.value
            if kind in (START_NEW, START_OFFSET):
                value = frame.time_ns
            self._since = 0 if kind == START_EARLIEST else max(0, value)
        log = self._log(frame.origin)
        if self._seeks:
            log.floor = self._start.value
        elif not log.lsn:
            log.lsn, log.slot = frame.lsn, frame.slot
        self._others_of = None

    def on_streams(self, frame: Streams) -> list[str]:
        """The node tells of logs of others; return who has gone or come back, in words."""
        news = []
        for row in frame.rows:
            if row.direct:
                continue  # the answer to a word of ours
            log = self._log(row.origin)
            log.name = row.name or log.name or row.origin.hex()[:8]
            log.site = site_of(log.name)
            if not log.lsn:
                log.lsn, log.slot = row.lsn, row.slot
            if log.is_away != row.away:
                log.is_away = row.away
                how = "away: its records wait" if row.away else "back"
                if row.gone:
                    how = "forgotten: nobody waits for its records any more"
                news.append(f"subscription to {self.pattern!r}: node {log.name} is {how}")
        away = [log.name for log in self._logs.values() if log.is_away]
        self.away = tuple(sorted(set(away)))
        self._others_of = None
        return news

    def _log(self, origin: bytes) -> Log:
        log = self._logs.get(origin)
        if log is None:
            if len(self._logs) >= limits.PLACES_MAX:
                # Of more nodes than a site can have the one that is known longest is forgotten.
                kept = {self._own, *self.shares}
                del self._logs[next(o for o in self._logs if o not in kept)]
            log = self._logs[origin] = Log()
        return log

    def _places(self, but: bytes) -> tuple[Place, ...]:
        """Where reading goes on in all logs ``but`` one."""
        return tuple(
            [
                Place(origin, log.lsn, log.slot, log.skip)
                for origin, log in self._logs.items()
                if log.lsn and origin != but
            ]
        )

    def on_deliver(self, frame: Deliver) -> list[Arrival]:
        """Take a delivery; return what is new, in order."""
        arrivals: list[Arrival] = []
        self.missed += frame.missed
        at = 0
        payload = frame.payload
        alone = len(frame.batches) == 1
        for b in frame.batches:
            data = payload if alone else payload[at : at + b.length]
            at += b.length
            arrival = self.take(b, data)
            if arrival is not None:
                arrivals.append(arrival)
        return arrivals

    def hold(self, b: DeliverBatch) -> None:
        """What came takes of the window until the program has consumed it."""
        self._held_bytes += b.length
        self._held_records += b.count
        if self.shares and (share := self.shares.get(b.origin)) is not None:
            share.out_bytes -= b.length
            share.out_records -= b.count

    def take(self, b: DeliverBatch, data: Payload) -> Arrival | None:
        """Take one batch of a delivery; None: nothing of it is new."""
        self.hold(b)
        origin = b.origin or self._own
        skip, others, site = 0, self._others, self.site
        if b.lsn:
            if origin != self._others_of:
                self._others_of = origin
                self._others = others = self._places(origin)
            log = self._log(origin)
            site = log.site or site
            skip = self._place(log, b)
            if b.published is not None and self._dedup is not None and not b.damaged:
                copied = self._dedup.take(b.topic, origin, b.published, b.count)
                self.copies += max(0, copied - skip)
                skip = max(skip, copied)
        else:
            site = b.site
        if b.damaged:
            self.missed += b.count - skip
            self.damaged += b.count - skip
            skip = b.count
        if skip >= b.count:
            self.on_consumed(b.length, b.count)
            return None
        return Arrival(
            b.topic, b.base_offset, b.count, skip, data, b.checksum, b.append_time_ns,
            origin, b.lsn, b.slot, self._since or 0, others, site,
        )  # fmt: skip

    def _place(self, log: Log, b: DeliverBatch) -> int:
        """Note a durable batch; return how many of its leading records were seen or unwanted."""
        topic, base, place = b.topic, b.base_offset, (b.lsn, b.slot)
        skip = 0
        expected = log.next_offset.get(topic)
        if expected is not None and base < expected and place > log.last:
            expected = 0  # the topic was deleted and made anew
        log.last = max(log.last, place)
        if expected is not None:
            if base > expected:
                self.missed += base - expected
            skip = max(0, expected - base)
        elif log.floor:
            skip = max(0, log.floor - base)
            self.missed += max(0, base - log.floor)
        elif (log.lsn, log.slot) == place:
            skip = log.skip
        log.next_offset[topic] = max(expected or 0, base + b.count)
        if place == log.last:
            log.lsn, log.slot, log.skip = b.lsn, b.slot + 1, 0
        if not b.origin:
            self._seeks = False
        return skip

    def on_consumed(self, size: int, records: int) -> None:
        """The program is done with so much; it becomes credit."""
        self._held_bytes -= size
        self._held_records -= records
        self._owed_bytes += size
        self._owed_records += records

    def credit(self) -> Credit | None:
        """Credit to grant now, or None while it is too little to be worth a frame."""
        if not self.is_active or self.shares:
            return None
        if (
            self._owed_bytes * 4 < self._window_bytes
            and self._owed_records * 4 < self._window_records
        ):
            return None
        grant = Credit(self.id, self._owed_bytes, self._owed_records)
        self._owed_bytes = self._owed_records = 0
        return grant

    # -- logs that are read at their own nodes ----------------------------------------------------

    def share(self, others: int) -> Share | None:
        """A part of the window for one log beside so many others; None: it is not to be divided
        further."""
        size = self._window_bytes // limits.DIRECT_READ_SHARE
        records = self._window_records // limits.DIRECT_READ_SHARE
        is_small = self._window_bytes < limits.DIRECT_READ_WINDOW_BYTES or not records
        if is_small or others >= limits.DIRECT_READ_SHARE // 2:
            return None
        return Share(size, records)

    def has_place(self, origin: bytes) -> bool:
        """Whether it is known where a log is to be read on."""
        log = self._logs.get(origin)
        return log is not None and bool(log.lsn)

    def take_back(self, share: Share) -> None:
        """Our node has given up so much of its credit."""
        self._owed_bytes += share.most_bytes
        self._owed_records += share.most_records

    def begin_direct(self, origin: bytes, share: Share, number: int) -> Subscribe:
        """The frame that opens a log at its own node, from where reading goes on."""
        log = self._logs[origin]
        self.shares[origin] = share
        over_bytes, over_records = self._overdrawn()
        share.out_bytes = max(0, min(share.most_bytes, self._owed_bytes - over_bytes))
        share.out_records = max(0, min(share.most_records, self._owed_records - over_records))
        self._owed_bytes -= share.out_bytes
        self._owed_records -= share.out_records
        return Subscribe(
            number, self.pattern, START_POSITION, self._since or 0, origin, log.lsn, log.slot,
            share.out_bytes, share.out_records, DURABLE_ONLY, dedup=self._dedup is not None,
            alone=True,
        )  # fmt: skip

    def end_direct(self, origin: bytes) -> None:
        """A log is no longer read at its own node: what that might still send is free again."""
        share = self.shares.pop(origin, None)
        if share is not None:
            self._owed_bytes += share.out_bytes
            self._owed_records += share.out_records

    def resume(self, origin: bytes) -> StreamsRow:
        """Where our node is to read a log on."""
        log = self._log(origin)
        return StreamsRow(origin, log.name, False, log.lsn, log.slot)

    def name_of(self, origin: bytes) -> str:
        """Of the node that has a log."""
        log = self._logs.get(origin)
        return log.name if log is not None else ""

    @property
    def is_thirsty(self) -> bool:
        """Whether all that the program has read counts: a log has used half of its share."""
        return any(
            2 * share.out_bytes <= share.most_bytes or 2 * share.out_records <= share.most_records
            for share in tuple(self.shares.values())
        )

    def _at_home(self) -> Share:
        """What is our own node's of the window."""
        shares = self.shares.values()
        home = Share(
            self._window_bytes - sum([share.most_bytes for share in shares]),
            self._window_records - sum([share.most_records for share in shares]),
        )
        home.out_bytes = self._window_bytes - self._held_bytes - self._owed_bytes
        home.out_bytes -= sum([share.out_bytes for share in shares])
        home.out_records = self._window_records - self._held_records - self._owed_records
        home.out_records -= sum([share.out_records for share in shares])
        return home

    def _overdrawn(self) -> tuple[int, int]:
        """What came beyond credit: batches are not split, and what was on its way when credit was
        taken back."""
        if not self.is_active:
            return 0, 0
        home = self._at_home()
        return max(0, -home.out_bytes), max(0, -home.out_records)

    def grants(self) -> list[tuple[bytes, int, int]]:
        """With shares: what to grant to whom, by origin, to our own node by none. Rule 4."""
        ways = [(origin, share) for origin, share in self.shares.items() if share.is_low]
        home = self._at_home()
        if self.is_active and home.is_low:
            ways.append((b"", home))
        if not ways or (self._owed_bytes <= 0 and self._owed_records <= 0):
            return []
        sizes = _divide(self._owed_bytes, [(w.out_bytes, w.most_bytes) for _, w in ways])
        counts = _divide(self._owed_records, [(w.out_records, w.most_records) for _, w in ways])
        found = []
        for (origin, way), size, records in zip(ways, sizes, counts, strict=True):
            if not (size or records):
                continue
            if way is not home:
                way.out_bytes += size
                way.out_records += records
            self._owed_bytes -= size
            self._owed_records -= records
            found.append((origin, size, records))
        return found


def _divide(owed: int, ways: list[tuple[int, int]]) -> list[int]:
    """Share ``owed`` out among those who have so much ``out`` of so much at ``most``: first what
    was overdrawn, the rest by what each lacks."""
    left = max(0, owed)
    given = []
    for out, _ in ways:
        part = min(left, max(0, -out))
        given.append(part)
        left -= part
    lacks = [max(0, most - out - part) for (out, most), part in zip(ways, given, strict=True)]
    total = sum(lacks)
    if total <= left:
        return [part + lack for part, lack in zip(given, lacks, strict=True)]
    more = [left * lack // total for lack in lacks]
    more[lacks.index(max(lacks))] += left - sum(more)
    return [part + extra for part, extra in zip(given, more, strict=True)]
