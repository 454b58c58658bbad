"""Logs on their way by strands: to other sites, and mirrors to another node of our own.

Data: a FarLog for each log that is sent over a link, with a FarSender for each of its strands: a
reader of the log, over the topics of that strand. What of them may leave is the business of
core/link_flow.py, at which each has a flight.

Rules:
1. Who is sent a log has named its strands, each with its place, and takes them as they come. A
   topic goes by the first one whose claims it matches.
2. Up to where nothing more is of a strand is told with what is sent of another one, and from time
   to time: who reads both there has to know it.
3. What is older than it is to be, or is there already, is passed over.
4. The journal is told of before anything of it comes, as perhaps nothing of it is left. Who lacks
   part of it is behind all there is of it, before its sum is asked for.
5. Who goes on is told first which streams there are: what it has besides was deleted, while it was
   sent nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from meshmq import limits
from meshmq.core.batches import BatchTools
from meshmq.core.copy_sender import LogTopics, Sender
from meshmq.core.feed import UNBOUNDED, Feed
from meshmq.core.link_flow import Flight, LinkFlow
from meshmq.core.log import StoredBatch
from meshmq.core.mirror_log import BEHIND_ALL
from meshmq.core.packing import Packer
from meshmq.core.strands import BEGIN, strand_of
from meshmq.core.topics import Topic
from meshmq.core.wished import Patterns
from meshmq.frames import Body
from meshmq.frames_copies import (
    Claim,
    Copied,
    CopiedTopic,
    Fetch,
    Fetched,
    Strand,
    StrandPlace,
)
from meshmq.names import JOURNAL


@dataclass(slots=True, eq=False, kw_only=True)
class FarSender(Sender):
    """One strand of a log on its way.

    Attributes:
        log: what it is a strand of.
        strand: as it was asked for.
        ends_told: what was said of how far its streams go.
        flow: of the link.
        told_place: up to where all is there, or on its way.
        began: where the first batch lies that was sent; nothing was: BEHIND_ALL.
    """

    log: FarLog
    strand: Strand
    flow: LinkFlow
    flight: Flight = field(init=False)
    ends_told: dict[int, int] = field(default_factory=dict)
    told_place: tuple[int, int] = BEGIN
    began: tuple[int, int] = BEHIND_ALL

    def __post_init__(self) -> None:
        self.flight = Flight(self, self.strand.rank)

    @property
    def has_credit(self) -> bool:
        granted = self.log.granted
        self.credit_bytes = min(granted, self.flow.room(self.flight)) if granted > 0 else 0
        return self.credit_bytes > 0

    def read_done(self) -> None:
        self.flow.is_freed = True

    def claims(self) -> tuple[Claim, ...]:
        return self.strand.claims

    def besides(self) -> Sequence[Strand]:
        strands = self.log.frame.strands
        return strands[: strands.index(self.strand)]

    def take(self, batches: list[StoredBatch]) -> None:
        if self.log.frame.since or self.log.had:
            batches = [b for b in batches if self._is_to_go(b)]
        Sender.take(self, batches)

    def _is_to_go(self, b: StoredBatch) -> bool:
        """Rule 3."""
        entry = self.topics.by_stream[b.stream].entry
        had = self.log.had.get(entry.source or b.stream)
        if had is not None:
            return b.base_offset + b.count > had
        return b.append_time_ns >= self.log.frame.since

    def put(self, frame: Fetched) -> None:
        raw, place = len(frame.payload), (frame.lsn, frame.slot)
        self.began = min(self.began, (frame.batches[0].lsn, frame.batches[0].slot))
        self.log.granted -= raw
        if self.log.packer is not None:
            frame = self.log.packer.packed(frame)
        size = len(frame.payload) + len(frame.batches) * limits.LINK_ROW_BYTES
        self.flow.on_sent(self.flight, place, size, raw)
        self.told_place = max(self.told_place, place)
        self.log.has_sent = True
        frame = replace(frame, strand=self.strand.number, flight=self.flow.in_flight)
        Sender.put(self, frame)

    def on_stored(self, place: tuple[int, int]) -> None:
        """It is synced there up to before a place."""
        self.copied = place  # which may be less than what it has asked from on
        self.flow.on_stored(self.flight, place)

    def facts_of(self, topic: Topic, base: int = 0) -> CopiedTopic:
        facts = Sender.facts_of(self, topic, base)
        self.ends_told[facts.stream] = end = topic.synced_offset
        return facts._replace(end=end)

    def tell(self, changed: list[CopiedTopic]) -> None:
        for i in range(0, len(changed), limits.FRAME_BATCHES_MAX):
            part = tuple(changed[i : i + limits.FRAME_BATCHES_MAX])
            frame = Fetched(self.number, part, strand=self.strand.number)
            self.sends.append((self.link, frame))

    def introduce(self, topic: Topic) -> None:
        facts = self.facts_of(topic)
        self.told[facts.stream] = facts
        self.tell([facts])

    def tell_changes(self) -> None:
        Sender.tell_changes(self)
        changed = []
        for alias, topic in self.topics.by_stream.items():
            number, end = topic.entry.source or alias, topic.synced_offset
            if self.log.frame.since and number not in self.ends:
                continue  # all of it may be too old
            if end > self.ends_told.get(number, 0) and self.takes(topic.entry.name):
                self.told[number] = facts = self.facts_of(topic)
                changed.append(facts)
        self.tell(changed)


class FarLog:
    """One log on its way over one link.

    Attributes:
        frame: what asked for it.
        granted: bytes, as they are stored, that the other end has room for.
        packer: makes blocks of what leaves; None: the other end wants none.
        had: streams that are there in part: up to where.
        senders: of its strands, in their order.
        has_sent: something, since others were told how far they have come.
    """

    def __init__(
        self,
        link: bytes,
        frame: Fetch,
        feed: Feed,
        topics: LogTopics,
        pattern_of: Patterns,
        flow: LinkFlow,
        sends: list[tuple[bytes, Body]],
        packer: Packer | None,
    ) -> None:
        self.link = link
        self.packer = packer
        self.frame = frame
        self.granted = min(frame.credit, limits.LINK_CREDIT_BYTES)
        self.had = dict(frame.had)
        self.has_sent = False
        self._topics = topics
        self._pattern_of = pattern_of
        self._flow = flow
        self._sends = sends
        self._feed = feed
        self.senders = [self._sender(strand) for strand in frame.strands]
        journals = [t for t in topics.by_stream.values() if t.entry.name == JOURNAL]
        for sender in self.senders:
            if journals and sender.takes(JOURNAL):
                sender.introduce(journals[-1])
            flow.join(sender.flight)
            feed.add_reader(sender)
        self._name_streams()
        for sender in self.senders:
            self.feed(sender)

    def _name_streams(self) -> None:
        """Rule 5."""
        is_ahead = all(self._feed.end_of(s) >= s.strand.place for s in self.senders)
        has_some = any(s.strand.place > BEGIN for s in self.senders)
        streams = {t.entry.source or alias for alias, t in self._topics.by_stream.items()}
        if is_ahead and has_some and len(streams) <= limits.LINK_STREAMS_MAX:
            first = self.senders[0].strand.number
            named = Fetched(self.frame.number, strand=first, streams=tuple(sorted(streams)))
            self._sends.append((self.link, named))

    def _sender(self, strand: Strand) -> FarSender:
        place = max(BEGIN, strand.place)
        start = None
        if self.frame.since and place == BEGIN and not self.had:
            start = ("time", self.frame.since, 0)
        strands, number = self.frame.strands, strand.number
        return FarSender(
            ">", self.granted, UNBOUNDED, *place, start=start, link=self.link,
            number=self.frame.number, level=self.frame.level, copied=BEGIN, sent=place,
            topics=self._topics, sends=self._sends, log=self, strand=strand, flow=self._flow,
            takes=lambda name: strand_of(strands, name, self._pattern_of) == number,
            told_place=place,
        )  # fmt: skip

    def feed(self, sender: FarSender) -> None:
        """Send what there is room for of a strand."""
        self._feed.feed(sender)

    def on_copied(self, frame: Copied) -> None:
        """So far it is synced there."""
        self.granted = min(self.granted + frame.credit, limits.LINK_CREDIT_BYTES)
        found = {number: (lsn, slot) for number, lsn, slot in frame.places}
        for sender in self.senders:
            if sender.strand.number in found:
                sender.on_stored(found[sender.strand.number])

    def may_ask_sum(self, now_ns: int) -> bool:
        """Whether the journal's sum is to be asked for; rule 4."""
        for sender in self.senders:
            if sender.takes(JOURNAL) and sender.is_live and now_ns >= sender.sum_again_ns:
                sender.sum_again_ns = now_ns + limits.JOURNAL_SUM_NS
                return True
        return False

    def tell_places(self) -> None:
        """Rule 2."""
        self.has_sent = False
        places = []
        for sender in self.senders:
            end = self._feed.end_of(sender)
            if sender.is_live and end > sender.told_place:
                sender.told_place = end
                places.append(StrandPlace(sender.strand.number, *end))
        if places:
            number = self.senders[0].strand.number
            told = Fetched(self.frame.number, strand=number, places=tuple(places))
            self._sends.append((self.link, told))

    def end(self) -> None:
        """Send no more of it."""
        for sender in self.senders:
            self._flow.leave(sender.flight)
            self._feed.remove_reader(sender)

    def tick(self) -> None:
        """Time has passed."""
        for sender in self.senders:
            sender.tell_changes()
        self.tell_places()


class FarLogs:
    """All there are, by link and origin. Frames gather in ``sends``.

    Attributes:
        now: what time it is, tools: the codec's functions; set by the owner.
        on_end: is told of each that is sent no more; set by the owner.
    """

    def __init__(self, sends: list[tuple[bytes, Body]]) -> None:
        self._sends = sends
        self.now: Callable[[], int] = lambda: 0
        self.tools: BatchTools | None = None
        self.on_end: Callable[[FarLog], None] = lambda log: None
        self.by_key: dict[tuple[bytes, bytes], FarLog] = {}
        self._flows: dict[bytes, LinkFlow] = {}  # by link: what may be on its way there

    def flow(self, link: bytes, round_trip_ns: int = 0) -> LinkFlow:
        """Of a link that is open; ``round_trip_ns`` as in LinkFlow, if it is new."""
        if link not in self._flows:
            self._flows[link] = LinkFlow(self.now, round_trip_ns)
        return self._flows[link]

    def begin(
        self, link: bytes, frame: Fetch, feed: Feed, topics: LogTopics, pattern_of: Patterns
    ) -> FarLog:
        """A log is asked for, in place of what was before."""
        self.end((link, frame.origin))
        packer = Packer(self.tools) if frame.packs and self.tools is not None else None
        log = self.by_key[link, frame.origin] = FarLog(
            link, frame, feed, topics, pattern_of, self.flow(link), self._sends, packer
        )
        return log

    def end(self, key: tuple[bytes, bytes]) -> None:
        """Send no more of a log."""
        if key in self.by_key:
            self._end(key)
            self._feed(key[0])

    def _end(self, key: tuple[bytes, bytes]) -> None:
        log = self.by_key.pop(key)
        log.end()
        self.on_end(log)

    def drop_link(self, link: bytes) -> None:
        """It is over."""
        for key in [key for key in self.by_key if key[0] == link]:
            self._end(key)
        self._flows.pop(link, None)

    def refuse(
        self, origin: bytes, code: str, message: str,
        is_due: Callable[[FarLog], bool] = lambda log: True,
    ) -> None:  # fmt: skip
        """A log is here no more, or not all that some want: who is sent it may turn to another
        one."""
        for key in [key for key, log in self.by_key.items() if key[1] == origin and is_due(log)]:
            number = self.by_key[key].frame.number
            self._sends.append((key[0], Fetched(number, code=code, message=message)))
            self.end(key)

    def on_copied(self, link: bytes, frame: Copied) -> FarLog | None:
        """How far a log is synced there; None: it is not sent by strands."""
        log = self.by_key.get((link, frame.origin))
        if log is not None:
            log.on_copied(frame)
            self._feed(link)
        return log

    def _feed(self, link: bytes) -> None:
        """What the line has room for now, of all that waits for that, each in its turn."""
        waiting = {
            id(sender.flight): (log, sender)
            for (to, _), log in self.by_key.items() if to == link
            for sender in log.senders
        }  # fmt: skip
        for flight in self.flow(link).in_turn():
            log, sender = waiting[id(flight)]
            log.feed(sender)

    def tick(self) -> None:
        """Time has passed."""
        for log in self.by_key.values():
            log.tick()

    def flush(self) -> None:
        """The turn is over."""
        for link, flow in self._flows.items():
            if flow.is_freed:
                flow.is_freed = False
                self._feed(link)
        for log in self.by_key.values():
            if log.has_sent and len(log.senders) > 1:
                log.tell_places()
