"""Durable topics across the nodes of a site: our clients' subscriptions, in the logs of siblings.

Data: an Across for each durable subscription of an own client, with a Reading for each other log
that it covers: a subscription of ours at the node that has the log, over its data link, under a
number of our own. The own log is not our business (core/delivery.py), but for its credit.

Rules:
1. What a sibling delivers goes on as it came, with its origin, in its order. Its place is noted,
   and reading resumes there whenever the subscription at the sibling is opened anew. What comes for
   one that was given up is dropped: it is read again.
2. A log without a place is read from when the client's subscription was opened (``new``), or from
   what it asked for. With ``new``, siblings that are there are asked for their end at once, and the
   client is answered when they have said it, or after NOTED_NS.
3. The client's window is one budget for all logs. What it has granted and not got is
   ``own.credit``, which the own log may use, and what is lent to readings. A reading may have so
   much on its way and held here as is lent to it, and a small base at our expense, so that no log
   starves. What comes and has no credit is held here; so the client never gets more than it
   granted, but for one delivery.
4. Credit is lent to readings that use it: their share doubles, up to half of what the own log has
   at a time, and half of the window for all of them: so the client, which grants anew once it has
   read a quarter, never waits for a log that has nothing. From one that has moved nothing while the
   client granted GRANTS_IDLE times it is taken back.
5. What is held is bounded over all: beyond that a reading is given up until its client takes more.
6. The log of a sibling that is away is read where there is a copy of it, here or at another
   sibling, by the same places, and at its own node again when that is back. Without a copy it
   waits; the client is told so, and when it is back.
7. A log that the client reads at its own node is not read here. When it says so what is held of
   that is dropped, and the answer tells that nothing more of it comes; the client knows where it
   is. When it says that it does so no longer, the log is read from there on.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, Protocol

from meshmq import limits
from meshmq.core.delivery import Delivery, Subscription
from meshmq.core.sibling import LOCAL, Sibling
from meshmq.errors import BadFrame
from meshmq.frames import (
    DURABLE_ONLY,
    START_EARLIEST,
    START_NEW,
    START_OFFSET,
    START_POSITION,
    START_TIME,
    TRANSIENT_ONLY,
    Body,
    Credit,
    Deliver,
    DeliverBatch,
    Payload,
    Place,
    Streams,
    StreamsRow,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from meshmq.names import site_of

GRANTS_IDLE = 4  # of a quarter of the window each


class Holders(Protocol):
    """Who has copies of logs (core/site_copies.py)."""

    @property
    def version(self) -> int: ...

    def known(self) -> dict[bytes, str]: ...

    def source(self, origin: bytes) -> bytes: ...


class _NoHolders:
    version = 0

    def known(self) -> dict[bytes, str]:
        return {}

    def source(self, origin: bytes) -> bytes:
        return b""


class Reading:
    """One log that one subscription reads at a sibling, or will.

    Attributes:
        link, number: of the subscription at the sibling; 0: there is none.
        lsn, slot: where reading goes on; lsn 0: not known.
        out_bytes, out_records: what the sibling may still send.
        held_bytes, held_records: what has come and waits here.
        lent_bytes, lent_records: of the client's credit, for what is on its way or held.
        share_bytes, share_records: what it is to be lent.
        moved: records that went on to the client since that has granted last.
        idle: how often it has granted since something moved.
        is_refused: the sibling has no room for it; it is tried again when the client grants.
        is_told_away: what the client was told last.
        is_direct: the client reads it itself; rule 7.
    """

    __slots__ = (
        "across", "held_bytes", "held_records", "idle", "is_direct", "is_refused", "is_told_away",
        "lent_bytes", "lent_records", "link", "lsn", "moved", "name", "number", "origin",
        "out_bytes", "out_records", "share_bytes", "share_records", "slot",
    )  # fmt: skip

    def __init__(self, across: Across, origin: bytes, name: str) -> None:
        self.across = across
        self.origin = origin
        self.name = name
        self.link = b""
        self.number = 0
        self.lsn = self.slot = 0
        self.out_bytes = self.out_records = 0
        self.held_bytes = self.held_records = 0
        self.lent_bytes = self.lent_records = 0
        self.share_bytes = self.share_records = 0
        self.moved = self.idle = 0
        self.is_refused = self.is_told_away = self.is_direct = False


class _Held(NamedTuple):
    """A delivery of a sibling on its way to the client."""

    reading: Reading
    rows: tuple[DeliverBatch, ...]
    payload: Payload
    records: int


class Across:
    """One durable subscription of an own client, as it reads the logs of others.

    Attributes:
        own: the same at our own log; its credit is what is lent to nobody.
        due_ns: its answer waits until then at most.
        since: logs without a place are read from there on (unix ns); 0: from their beginning.
        readings: by origin.
        opening: siblings that have not said yet where their end is.
        held: what waits for credit.
        lent_bytes, lent_records: of all readings.
        window_bytes, window_records: the most that the client ever had room for.
        own_had_turn: of what the client granted last the own log could take first; the next time
            that is for what is held. own_is_first: it has not been looked at yet.
        own_site: it is to have nothing of other sites.
    """

    __slots__ = (
        "due_ns", "held", "lent_bytes", "lent_records", "opening", "own", "own_had_turn",
        "own_is_first", "own_site", "readings", "since", "window_bytes", "window_records",
    )  # fmt: skip

    def __init__(self, own: Subscription, since: int, due_ns: int, own_site: bool) -> None:
        self.own = own
        self.own_site = own_site
        self.due_ns = due_ns
        self.since = since
        self.readings: dict[bytes, Reading] = {}
        self.opening: set[bytes] = set()
        self.held: deque[_Held] = deque()
        self.lent_bytes = self.lent_records = 0
        self.window_bytes = own.credit_bytes
        self.window_records = own.credit_records
        self.own_is_first = self.own_had_turn = False

    @property
    def base(self) -> tuple[int, int]:
        """Bytes and records that each reading may have on its way at our expense: one batch at
        least, and of a large window a small part."""
        return (
            max(1, min(limits.BATCH_BYTES_TARGET, self.window_bytes // 16)),
            max(1, min(limits.BATCH_RECORDS_MAX, self.window_records // 16)),
        )

    @property
    def has_credit(self) -> bool:
        """Whether the client can take more."""
        own = self.own
        return own.credit_bytes + self.lent_bytes > 0 and own.credit_records + self.lent_records > 0

    def covers(self, name: str) -> bool:
        """Whether the log of a node is read, by its name."""
        return not (self.own_site and site_of(name))

    def lend(self, reading: Reading, size: int, records: int) -> None:
        """Move credit from the own log to a reading, or back where it is less than 0."""
        reading.lent_bytes += size
        reading.lent_records += records
        self.lent_bytes += size
        self.lent_records += records
        self.own.credit_bytes -= size
        self.own.credit_records -= records


class SiteReads:
    """See the module's header. Frames gather in ``sends``, answers to send in ``released``.

    Attributes:
        passed: records that went on to clients.
        held_bytes: deliveries of siblings that wait here for credit.
        given_up: how often a reading was given up for that, to be resumed.
    """

    def __init__(self, origin: bytes, delivery: Delivery) -> None:
        self._origin = origin
        self._delivery = delivery
        self._across: dict[tuple[bytes, int], Across] = {}
        self._by_number: dict[tuple[bytes, int], Reading] = {}
        self._siblings: dict[bytes, Sibling] = {}
        self._away: dict[bytes, str] = {}  # origin and name of siblings that have left
        self._waiting: dict[tuple[bytes, int], Across] = {}  # those with something held or given up
        self._answers: dict[tuple[bytes, int], tuple[int, Subscribed]] = {}  # until when, and what
        self._last_number = 0
        self.sends: list[tuple[bytes, Body]] = []
        self.local: list[Body] = []  # the same for LOCAL
        self.copies: Holders = _NoHolders()
        self._copies_version = -1
        self.released: list[tuple[bytes, Subscribed]] = []
        self.passed = 0
        self.held_bytes = 0
        self.given_up = 0

    # -- siblings -----------------------------------------------------------------------------

    def join(self, sibling: Sibling) -> None:
        """A data link is open: read its log for all who have subscribed."""
        self._siblings[sibling.origin] = sibling
        self._away.pop(sibling.origin, None)
        for across in self._across.values():
            reading = self._reading(across, sibling.origin, sibling.name)
            self._close(reading, tells=True)  # of its copy, if it was read there
            self._open(reading)
            self._tell(across, [reading])

    def leave(self, sibling: Sibling) -> None:
        """It is over: what that sibling has waits there."""
        if self._siblings.pop(sibling.origin, None) is None:
            return
        self._note_away(sibling.origin, sibling.name)
        for across in self._across.values():
            lost = [
                r
                for r in across.readings.values()
                if r.origin == sibling.origin or (r.link == sibling.link and r.number)
            ]
            for reading in lost:
                self._close(reading)
                self._open(reading)
                self._tell_news(across, reading)
            self._opened(across, sibling.origin)
            if lost:
                self._delivery.feed(across.own)

    def _look_for_copies(self) -> None:
        """There are other copies now than when it was looked last: rule 6."""
        if self._copies_version == self.copies.version:
            return
        self._copies_version = self.copies.version
        known = self.copies.known()
        for across in self._across.values():
            for origin, name in known.items():
                if origin != self._origin and across.covers(name):
                    self._reading(across, origin, name)
            for reading in across.readings.values():
                was_away = reading.is_told_away or reading.origin in known
                if (
                    not (reading.number or reading.is_direct)
                    and was_away
                    and reading.origin not in self._siblings
                ):
                    self._open(reading)
                    self._tell_news(across, reading)

    def _tell_news(self, across: Across, reading: Reading) -> None:
        """Tell the client if a log is away now, or no longer."""
        if reading.is_told_away == bool(reading.number) and not reading.is_direct:
            self._tell(across, [reading])

    def forget(self, origin: bytes) -> None:
        """A log of which nothing is kept any more: nobody waits for it."""
        self._away.pop(origin, None)
        for across in self._across.values():
            reading = across.readings.pop(origin, None)
            if reading is not None:
                self._close(reading, tells=True)
                row = StreamsRow(origin, reading.name, False, reading.lsn, reading.slot, gone=True)
                self.sends.append((across.own.link, Streams(across.own.number, (row,))))

    def _note_away(self, origin: bytes, name: str) -> None:
        self._away[origin] = name
        if len(self._away) > limits.PLACES_MAX:
            del self._away[next(iter(self._away))]

    # -- our clients' subscriptions -----------------------------------------------------------

    def subscribe(self, link: bytes, frame: Subscribe, wall_ns: int, now_ns: int) -> None:
        """A client has opened a subscription, which Delivery has; ``wall_ns`` is unix time."""
        self.close(link, frame.subscription)
        own = self._delivery.find(link, frame.subscription)
        if own is None or frame.only == TRANSIENT_ONLY or frame.alone:
            return
        is_new = frame.start in (START_NEW, START_OFFSET)
        since = wall_ns if is_new else 0 if frame.start == START_EARLIEST else max(0, frame.value)
        across = self._across[link, frame.subscription] = Across(
            own, since, now_ns + limits.NOTED_NS, frame.own_site
        )
        names = self.copies.known()
        for place in (Place(frame.origin, frame.lsn, frame.slot), *frame.places):
            if not across.covers(names.get(place.origin, "")):
                continue
            if len(place.origin) == 16 and place.lsn and place.origin != self._origin:
                reading = self._reading(across, place.origin)
                reading.lsn, reading.slot = place.lsn, place.slot
                reading.is_direct = place.direct
        for origin, name in {**names, **self._away}.items():
            is_other = origin not in self._siblings and origin != self._origin
            if is_other and across.covers(name):
                self._open(self._reading(across, origin, name), is_new)
        for sibling in self._siblings.values():
            reading = self._reading(across, sibling.origin, sibling.name)
            self._open(reading, is_new)
            if is_new and reading.number:
                across.opening.add(sibling.origin)
        self._tell(across, list(across.readings.values()))

    def _reading(self, across: Across, origin: bytes, name: str = "") -> Reading:
        reading = across.readings.get(origin)
        if reading is None:
            reading = across.readings[origin] = Reading(across, origin, name)
        reading.name = name or reading.name
        return reading

    def on_streams(self, link: bytes, frame: Streams) -> None:
        """A client says which logs it reads at their own nodes, and which no longer; rule 7."""
        across = self._across.get((link, frame.subscription))
        if across is None:
            return
        for row in frame.rows:
            is_known = row.origin in across.readings
            if row.origin == self._origin or not (
                is_known or len(across.readings) < limits.PLACES_MAX
            ):
                continue
            reading = self._reading(across, row.origin, row.name)
            self._drop_held(reading)
            self._close(reading, tells=True)
            if row.lsn:
                reading.lsn, reading.slot = row.lsn, row.slot
            reading.is_direct = row.direct
            if row.direct:
                across.own.credit_bytes -= min(row.bytes, limits.CREDIT_BYTES_MAX)
                across.own.credit_records -= min(row.records, limits.CREDIT_RECORDS_MAX)
                done = StreamsRow(row.origin, reading.name, False, 0, 0, True)
                self.sends.append((link, Streams(frame.subscription, (done,))))
            else:
                reading.is_told_away = False
                self._open(reading)
                self._tell_news(across, reading)
        self._delivery.feed(across.own)

    def _drop_held(self, reading: Reading) -> None:
        """What came of it and did not go on is not to go on."""
        if not reading.held_records:
            return
        across = reading.across
        self.held_bytes -= reading.held_bytes
        reading.held_bytes = reading.held_records = 0
        across.held = deque([held for held in across.held if held.reading is not reading])

    def close(self, link: bytes, number: int) -> None:
        """A client's subscription is over. What answer waits is sent all the same."""
        self.release(link, number)
        across = self._across.pop((link, number), None)
        if across is None:
            return
        self._waiting.pop((link, number), None)
        self.held_bytes -= sum([len(held.payload) for held in across.held])
        for reading in across.readings.values():
            self._close(reading, tells=True)

    def drop_link(self, link: bytes) -> None:
        """A client's session is over."""
        for key in [k for k in self._across if k[0] == link]:
            self._answers.pop(key, None)
            self.close(*key)

    def grant(self, link: bytes, number: int, size: int, records: int) -> None:
        """A client can take so much more."""
        across = self._across.get((link, number))
        if across is None or not across.readings:
            self._delivery.grant(link, number, size, records)
            return
        own = across.own
        most = limits.CREDIT_BYTES_MAX - across.lent_bytes
        own.credit_bytes = min(own.credit_bytes + size, most)
        most = limits.CREDIT_RECORDS_MAX - across.lent_records
        own.credit_records = min(own.credit_records + records, most)
        across.window_bytes = max(across.window_bytes, own.credit_bytes + across.lent_bytes)
        across.window_records = max(across.window_records, own.credit_records + across.lent_records)
        if across.held:
            across.own_is_first = across.own_had_turn = not across.own_had_turn
            if across.own_is_first:
                self._delivery.feed(own)
        self._pass(across)
        for reading in across.readings.values():
            reading.is_refused = False
            reading.idle = 0 if reading.moved else reading.idle + 1
            reading.moved = 0
            if reading.idle >= GRANTS_IDLE:
                self._take_back(reading)
            self._top_up(reading)
        self._delivery.feed(own)

    # -- answers that wait for siblings -------------------------------------------------------

    def holds(self, link: bytes, answer: Subscribed, now_ns: int) -> bool:
        """Whether the answer to a subscription has to wait; then it comes by ``released``."""
        across = self._across.get((link, answer.subscription))
        if across is None or not across.opening or answer.code or across.due_ns <= now_ns:
            return False
        self._answers[link, answer.subscription] = (across.due_ns, answer)
        return True

    def release(self, link: bytes, number: int) -> None:
        """An answer waits no longer."""
        waiting = self._answers.pop((link, number), None)
        if waiting is not None:
            self.released.append((link, waiting[1]))

    def _opened(self, across: Across, origin: bytes) -> None:
        across.opening.discard(origin)
        if not across.opening:
            self.release(across.own.link, across.own.number)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        for key in [k for k, (due_ns, _) in self._answers.items() if due_ns <= now_ns]:
            self.release(*key)
        self._look_for_copies()

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return min([due_ns for due_ns, _ in self._answers.values()], default=None)

    # -- what siblings say --------------------------------------------------------------------

    def on_subscribed(self, link: bytes, frame: Subscribed) -> None:
        """A sibling answers a subscription of ours."""
        reading = self._by_number.get((link, frame.subscription))
        if reading is None:
            return
        across = reading.across
        if frame.code == "not-found":  # no copy is kept there, or no longer
            self._close(reading)
            if self._source_of(reading)[0] != link:
                self._open(reading)
            self._tell_news(across, reading)
        elif frame.code:
            # It has no room for more; the client is told, and it is tried when that grants more.
            self._close(reading)
            reading.is_refused = True
            self._wait(across)
            self._tell(across, [reading])
        elif reading.is_told_away or not reading.lsn:
            if not reading.lsn:
                reading.lsn, reading.slot = frame.lsn, frame.slot
            self._tell(across, [reading])
        self._opened(across, reading.origin)

    def on_deliver(self, link: bytes, frame: Deliver) -> None:
        """A sibling delivers. Raises BadFrame for what is none of its log."""
        reading = self._by_number.get((link, frame.subscription))
        if reading is None or not frame.batches:
            return
        for row in frame.batches:
            if not row.lsn or row.origin or row.source:
                raise BadFrame(f"a node delivers of topic {row.topic!r} what is not of its log")
        across, size = reading.across, len(frame.payload)
        goes_on = not across.held and self._may_pass(across)
        if not goes_on and self.held_bytes + size > limits.SITE_READS_HELD_BYTES_MAX:
            self.given_up += 1
            self._close(reading, tells=True)
            self._wait(across)
            return
        last = frame.batches[-1]
        reading.lsn, reading.slot = last.lsn, last.slot + 1
        origin = reading.origin
        rows = tuple([row._replace(origin=origin) for row in frame.batches])
        records = sum([row.count for row in rows])
        reading.out_bytes -= size
        reading.out_records -= records
        reading.held_bytes += size
        reading.held_records += records
        self.held_bytes += size
        across.held.append(_Held(reading, rows, frame.payload, records))
        if goes_on:
            self._pass(across)
        else:
            self._wait(across)

    # -- what goes on -------------------------------------------------------------------------

    def _wait(self, across: Across) -> None:
        self._waiting[across.own.link, across.own.number] = across

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames to send since the last time, each with its link."""
        sends, self.sends = self.sends, []
        return sends

    def pump(self) -> None:
        """Go on where something has changed that others hold: answers, acknowledgements, reads."""
        for across in list(self._waiting.values()):
            self._pass(across)

    def _may_pass(self, across: Across) -> bool:
        own = across.own
        return not own.is_held and across.has_credit and self._delivery.may_send_to(own.link)

    def _pass(self, across: Across) -> None:
        """Send what is held as far as there is credit, then go on reading."""
        own, delivery = across.own, self._delivery
        if across.own_is_first:
            if own.reading:
                return  # the own log's turn lasts until it has been looked at
            across.own_is_first = False
        touched: dict[int, Reading] = {}
        while across.held and self._may_pass(across):
            reading, rows, payload, records = across.held.popleft()
            size = len(payload)
            self.held_bytes -= size
            reading.held_bytes -= size
            reading.held_records -= records
            across.lend(
                reading, -min(size, reading.lent_bytes), -min(records, reading.lent_records)
            )
            delivery.sent(own, size, records)
            reading.moved += records
            self.passed += records
            touched[id(reading)] = reading
            self.sends.append((own.link, Deliver(own.number, rows, 0, payload)))
        for reading in touched.values():
            self._top_up(reading)
        if across.held:
            return
        given_up = [
            r
            for r in across.readings.values()
            if not (r.number or r.is_direct) and self._source_of(r)[0]
        ]
        if not given_up:
            self._waiting.pop((own.link, own.number), None)
        elif self._may_pass(across):
            for reading in given_up:
                if not reading.is_refused:
                    self._open(reading)

    # -- credit -------------------------------------------------------------------------------

    def _top_up(self, reading: Reading) -> None:
        """Rules 3 and 4: let a reading have more on its way."""
        if not reading.number:
            return
        across = reading.across
        own, (base_bytes, base_records) = across.own, across.base
        if (
            2 * reading.out_bytes < base_bytes + reading.share_bytes
            or 2 * reading.out_records < base_records + reading.share_records
        ) and reading.moved:
            grown = max(base_bytes, 2 * reading.share_bytes)
            reading.share_bytes = min(across.window_bytes, grown)
            grown = max(base_records, 2 * reading.share_records)
            reading.share_records = min(across.window_records, grown)
        lent_bytes = min(
            reading.share_bytes - reading.lent_bytes, own.credit_bytes // 2,
            across.window_bytes // 2 - across.lent_bytes,
        )  # fmt: skip
        lent_records = min(
            reading.share_records - reading.lent_records, own.credit_records // 2,
            across.window_records // 2 - across.lent_records,
        )  # fmt: skip
        across.lend(reading, max(0, lent_bytes), max(0, lent_records))
        size = base_bytes + reading.lent_bytes - reading.out_bytes - reading.held_bytes
        records = base_records + reading.lent_records - reading.out_records - reading.held_records
        size, records = max(0, size), max(0, records)
        if (
            4 * size >= base_bytes + reading.share_bytes
            or 4 * records >= base_records + reading.share_records
            or (reading.out_bytes <= 0 and size)
            or (reading.out_records <= 0 and records)
        ):
            reading.out_bytes += size
            reading.out_records += records
            self._send(reading.link, Credit(reading.number, size, records))

    def _take_back(self, reading: Reading) -> None:
        """Take what is lent and was not used: by reading anew from the place, since a sibling can
        be given credit only."""
        is_lent = reading.lent_bytes or reading.lent_records
        if is_lent and reading.number and reading.lsn and not reading.held_records:
            self._close(reading, tells=True)
            self._open(reading)

    # -- subscriptions at siblings ------------------------------------------------------------

    def _source_of(self, reading: Reading) -> tuple[bytes, bytes]:
        """Over which link a log is read, and whose it is where that is not its own node."""
        sibling = self._siblings.get(reading.origin)
        if sibling is not None:
            return sibling.link, b""
        return self.copies.source(reading.origin), reading.origin

    def _open(self, reading: Reading, is_new: bool = False) -> None:
        """Subscribe at the sibling, or where a copy is, at the place where reading goes on."""
        across, (link, copy_of) = reading.across, self._source_of(reading)
        if not link or reading.is_direct:
            return
        self._last_number = self._last_number % 0xFFFF_FFFF + 1
        reading.link, reading.number = link, self._last_number
        self._by_number[link, reading.number] = reading
        kind, value, origin = START_TIME, across.since, b""
        if reading.lsn:
            kind, value, origin = START_POSITION, 0, reading.origin
        elif is_new:
            kind, value = START_NEW, 0
        elif not across.since:
            kind = START_EARLIEST
        size, records = across.base
        reading.out_bytes = max(0, size + reading.lent_bytes - reading.held_bytes)
        reading.out_records = max(0, records + reading.lent_records - reading.held_records)
        frame = Subscribe(
            reading.number, across.own.pattern, kind, value, origin, reading.lsn, reading.slot,
            reading.out_bytes, reading.out_records, DURABLE_ONLY, dedup=across.own.dedup,
            copy_of=copy_of,
        )  # fmt: skip
        self._send(link, frame)

    def _send(self, link: bytes, body: Body) -> None:
        if link == LOCAL:
            self.local.append(body)
        else:
            self.sends.append((link, body))

    def _close(self, reading: Reading, tells: bool = False) -> None:
        """Read no more of it for now; what was lent is the own log's again."""
        if self._by_number.pop((reading.link, reading.number), None) is None:
            return
        if tells:
            self._send(reading.link, Unsubscribe(reading.number))
        reading.number = 0
        reading.across.lend(reading, -reading.lent_bytes, -reading.lent_records)
        reading.share_bytes = reading.share_records = 0
        reading.out_bytes = reading.out_records = 0

    def _tell(self, across: Across, readings: list[Reading]) -> None:
        """Tell the client of other logs: where reading begins, and whose node is away."""
        rows = []
        for r in readings:
            if r.is_direct:
                continue
            r.is_told_away = not r.number
            rows.append(StreamsRow(r.origin, r.name, r.is_told_away, r.lsn, r.slot))
        if rows:
            self.sends.append((across.own.link, Streams(across.own.number, tuple(rows))))

    # -- what is shown ------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """As ``status`` shows it."""
        return {
            "subscriptions": len(self._across),
            "readings": len(self._by_number),
            "direct": sum(
                [r.is_direct for a in self._across.values() for r in a.readings.values()]
            ),
            "passed": self.passed,
            "held_bytes": self.held_bytes,
            "given_up": self.given_up,
            "away": sorted(self._away.values()),
        }
