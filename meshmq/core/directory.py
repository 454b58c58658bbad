"""The directory of a site: policies, topics, groups, as every one of its nodes has them.

Data: a Table of rows (core/directory_table.py); of each sibling with an open link what it is still
to be told.

Rules:
1. A word of this node's own changes its table at once and is told to all siblings. What a sibling
   tells is not passed on: every two nodes are linked, and who was not there compares.
2. Comparing: a hash of everything (CHECK), when a link opens and DIRECTORY_CHECK_NS after changes.
   Whoever has another one asks with its digest, the hashes of all buckets, and is told all rows of
   the buckets that differ, and when that is over (OVER). Who is asked so has another one, too, and
   asks in turn.
3. A node asks one sibling at a time, so a newcomer is told the directory once, however many there
   are. With all that differed meanwhile it compares when that is over. Who is asked answers at
   once, whatever it has asked itself, so no two wait for each other; a sibling that is gone, or has
   told nothing for DIRECTORY_TELLER_NS, is no longer waited for.
4. At most DIRECTORY_FRAMES_IN_FLIGHT frames of rows are on their way to a sibling, so that pings
   on the same link do not wait. What waits is a set of keys: a row is told as it is by then.
5. Stamps are of a hybrid clock: the wall clock's ms, and never less than what was heard, so that a
   later word has a later stamp. What is more than STAMP_AHEAD_NS ahead of our own wall clock counts
   as any other, but does not move our clock; it is told. The next word on the same thing is later
   all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshmq import limits
from meshmq.core.directory_rows import (
    NEVER,
    Forgotten,
    GroupRow,
    LinkRow,
    NodeRow,
    Row,
    RuleRow,
    Said,
    Stamp,
    TopicRow,
    pack_row,
    stamps_of,
    unpack,
)
from meshmq.core.directory_table import BUCKETS, Change, Table, bucket_of, time_of
from meshmq.errors import BadFrame
from meshmq.frames import Body, DirectoryFrame

CHECK, DIGEST, OVER, ROWS, TAKEN = range(5)
"""Kinds of frames: a hash of everything; the hashes of all buckets, asking for rows of those that
differ; all of them were told; rows; rows were taken."""


@dataclass(slots=True)
class _Sibling:
    """What one is still to be told: rows by key, whole buckets, the rest of one of them.

    Attributes:
        agreed: the hash that it and we had when last compared; None: another one, or not known.
        is_due: it is compared with when nothing stands in the way.
        asks: it has asked for buckets, and waits to be told that they are over.
    """

    keys: dict[bytes, None] = field(default_factory=dict)
    buckets: dict[int, None] = field(default_factory=dict)
    rest: list[bytes] = field(default_factory=list)
    in_flight: int = 0
    agreed: int | None = None
    is_due: bool = False
    asks: bool = False

    @property
    def is_told(self) -> bool:
        return not (self.keys or self.buckets or self.rest or self.in_flight)


class Directory:
    """See the module's header.

    Args:
        origin, name: of this node.
        rows: what the log holds.

    Attributes:
        table: what is agreed on.
        changes: what siblings' words changed, for the node to do likewise.
        ahead: by a node's name, by how many ms its clock seemed to be ahead.
    """

    def __init__(self, origin: bytes, name: str, rows: Mapping[bytes, Row]) -> None:
        self.origin = origin
        self.name = name.encode("utf-8", "replace").decode()[: limits.PEER_NAME_MAX]
        self.table = Table(rows)
        self._sends: list[tuple[bytes, Body]] = []
        self.changes: list[Change] = []
        self.ahead: dict[str, int] = {}
        self.rows_taken = self.rows_told = 0
        self._siblings: dict[bytes, _Sibling] = {}
        self._teller: bytes | None = None  # the sibling that we have asked, until it is over
        self._teller_ns = 0  # how long it is waited for
        self._has_news = False
        self._wall_offset_ns: int | None = None
        self._newest = 0
        self._check_ns: int | None = None
        self._sweep_ns = 0

    # -- time -------------------------------------------------------------------------------

    def set_wall(self, wall_ns: int, now_ns: int) -> None:
        """What time it is; the first time before anything is set."""
        is_first = self._wall_offset_ns is None
        self._wall_offset_ns = wall_ns - now_ns
        if is_first:
            self._newest = self.table.newest(self._latest(now_ns))
            self._sweep_ns = now_ns + limits.TOMBSTONE_SWEEP_NS  # the clock may be put right yet

    def wall_ms(self, now_ns: int) -> int:
        return (now_ns + (self._wall_offset_ns or 0)) // limits.MS

    def _latest(self, now_ns: int) -> int:
        """A later stamp's time does not move our clock."""
        return time_of(self.wall_ms(now_ns) + limits.STAMP_AHEAD_NS // limits.MS)

    def stamp(self, now_ns: int, *after: Stamp) -> Stamp:
        """One for a word that follows ``after``, and everything heard."""
        heard = self._newest if self._newest <= self._latest(now_ns) else 0
        follows = max([heard, *[stamp.time for stamp in after]]) + 1
        time = max(time_of(self.wall_ms(now_ns)), follows)
        if time <= self._latest(now_ns):
            self._newest = time
        return Stamp(time, self.origin, self.name)

    def _heard(self, row: Row, now_ns: int) -> None:
        for stamp in stamps_of(row):
            if stamp.time <= self._latest(now_ns):
                self._newest = max(self._newest, stamp.time)
            elif stamp.by in self.ahead or len(self.ahead) < limits.CLOCKS_TOLD_MAX:
                self.ahead[stamp.by] = stamp.unix_ms - self.wall_ms(now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` is due."""
        if self._wall_offset_ns is None:
            return None
        due = self._sweep_ns if self._check_ns is None else min(self._check_ns, self._sweep_ns)
        return due if self._teller is None else min(due, self._teller_ns)

    def tick(self, now_ns: int) -> None:
        """Compare with siblings what changed; forget what is long deleted."""
        if self._teller is not None and now_ns >= self._teller_ns:
            self._siblings[self._teller].agreed = None
            self._end_asking()
            self._changed(now_ns)
        if self._check_ns is not None and now_ns >= self._check_ns:
            self._check_ns = None
            self._has_news = True
            for origin, sibling in self._siblings.items():
                self._check(origin, sibling)
        if now_ns >= self._sweep_ns and self._wall_offset_ns is not None:
            self._sweep_ns = now_ns + limits.TOMBSTONE_SWEEP_NS
            self.table.forget_dead(self._forget_before(now_ns))
            self.ahead = {by: ms for by, ms in self.ahead.items() if self._is_ahead(by, now_ns)}

    def _is_ahead(self, by: str, now_ns: int) -> bool:
        latest = self._latest(now_ns)
        stamps = (s for row in self.table.rows.values() for s in stamps_of(row) if s.by == by)
        return any(stamp.time > latest for stamp in stamps)

    def _forget_before(self, now_ns: int) -> int:
        return time_of(self.wall_ms(now_ns) - limits.TOMBSTONE_NS // limits.MS)

    # -- the node's own words ---------------------------------------------------------------

    def set_rule(
        self,
        pattern: str,
        durable: bool,
        retention_ns: int,
        retention_bytes: int,
        now_ns: int,
        copies: int = 0,
        replicated: bool = False,
    ) -> None:
        """A policy for topics that match; later than every other one."""
        stamp = self.stamp(now_ns, *self._rule_stamps(pattern))
        kept = (retention_ns, retention_bytes)
        row = RuleRow(pattern, stamp, durable, *kept, copies=copies, replicated=replicated)
        self._say(row, now_ns)

    def remove_rule(self, pattern: str, now_ns: int) -> None:
        """There is no such policy any more; topics keep what they have by it."""
        rule = self.table.rule(pattern)
        if rule is not None:
            stamp = self.stamp(now_ns, rule.set)
            self._say(RuleRow(pattern, stamp, True, 0, 0, True), now_ns)

    def _rule_stamps(self, pattern: str) -> Iterable[Stamp]:
        """Which of two rules counts is decided by their stamps: a new one follows all of them."""
        known = self.table.rows.get(b"r" + pattern.encode())
        if isinstance(known, RuleRow):
            yield known.set
        yield self.table.newest_rule

    def add_topic(self, topic_id: bytes, name: str, durable: bool, now_ns: int) -> None:
        """The node has made a topic, with an id of its own."""
        self._say(TopicRow(topic_id, name, durable, self.stamp(now_ns)), now_ns)

    def delete_topic(self, name: str, now_ns: int) -> None:
        """Every topic of this name that is known now is deleted for good."""
        for topic in self.table.topics(name):
            self.delete_id(topic.topic_id, now_ns)

    def delete_id(self, topic_id: bytes, now_ns: int) -> None:
        """The same for one topic, by its id."""
        topic = self.table.rows.get(b"t" + topic_id)
        if isinstance(topic, TopicRow) and topic.deleted == NEVER:
            self._say(topic._replace(deleted=self.stamp(now_ns, topic.made)), now_ns)

    def set_group(self, name: str, settings: str, now_ns: int) -> None:
        """A group or queue is made, or its settings changed."""
        known = self.table.group(name)
        if known is not None and known.is_alive:
            stamp = self.stamp(now_ns, known.set)
            self._say(known._replace(set=stamp, settings=settings), now_ns)
            return
        gone, sought = (known.gone, known.sought) if known is not None else (NEVER, NEVER)
        stamp = self.stamp(now_ns, gone, sought)
        self._say(GroupRow(name, stamp, stamp, settings, gone), now_ns)

    def seek_group(self, row: GroupRow, to: str, now_ns: int) -> Stamp:
        """A group goes on elsewhere at all nodes."""
        stamp = self.stamp(now_ns, row.born, row.gone, row.sought)
        self._say(row._replace(sought=stamp, to=to), now_ns)
        return stamp

    def delete_group(self, name: str, now_ns: int) -> None:
        """A group or queue is deleted."""
        known = self.table.group(name)
        if known is not None and known.is_alive:
            gone = self.stamp(now_ns, known.born, known.gone, known.sought)
            self._say(known._replace(gone=gone), now_ns)

    def set_link(self, to: str, paused: bool, now_ns: int) -> None:
        """What is pulled from a site is paused, or resumed."""
        known = self.table.link(to)
        stamp = self.stamp(now_ns, NEVER if known is None else known.set)
        self._say(LinkRow(to, stamp, paused), now_ns)

    def be_there(self, now_ns: int) -> None:
        """Say once in a while that this node is one of the site, so that it is known when away."""
        if not self._siblings:
            return
        known = self.table.nodes.get(b"n" + self.origin)
        said_ms = known.set.unix_ms if known is not None else 0
        if self.wall_ms(now_ns) - said_ms >= limits.NODE_SAID_NS // limits.MS:
            before = NEVER if known is None else known.set
            self._say(NodeRow(self.stamp(now_ns, before)), now_ns)

    def roster(self, now_ns: int) -> dict[bytes, str]:
        """Other nodes that were there within the time that producers are known, by origin."""
        span_ns = limits.PRODUCER_FORGET_NS + limits.PRODUCER_SWEEP_NS + limits.NODE_SAID_NS
        since_ms = self.wall_ms(now_ns) - span_ns // limits.MS
        return {
            row.set.origin: row.set.by
            for row in self.table.nodes.values()
            if row.set.unix_ms >= since_ms and row.set.origin != self.origin
        }

    def adopt(self, rows: Iterable[Row]) -> None:
        """What this node had before it belonged to a site, with stamps older than any real one."""
        for row in rows:
            self._tell_all(self.table.take(row))

    def _say(self, row: Row, now_ns: int) -> None:
        self._tell_all(self.table.take(row))
        self._changed(now_ns)

    def _tell_all(self, changes: list[Change]) -> None:
        if not changes:
            return
        self._has_news = True
        key = changes[0].after.key  # what follows from it the others find out by themselves
        for sibling in self._siblings.values():
            sibling.keys[key] = None
            if len(sibling.keys) > limits.DIRECTORY_NEWS_MAX:
                sibling.buckets |= dict.fromkeys(map(bucket_of, sibling.keys))
                sibling.keys = {}

    def _changed(self, now_ns: int) -> None:
        if self._check_ns is None and self._siblings:
            self._check_ns = now_ns + limits.DIRECTORY_CHECK_NS

    def take_unstored(self) -> tuple[Said, ...]:
        """What the log is to be told of this turn."""
        return self.table.take_unstored()

    # -- siblings ---------------------------------------------------------------------------

    def join(self, origin: bytes, now_ns: int) -> None:
        """The link to a sibling is open; what was told over the one before is told anew."""
        self.leave(origin, now_ns)
        self._has_news = True
        sibling = self._siblings[origin] = _Sibling()
        if self.origin < origin:  # one of the two begins
            self._check(origin, sibling)

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames for siblings, by their origins: what a turn has brought goes together."""
        if not self._has_news:
            return []
        self._has_news = False
        for origin, sibling in self._siblings.items():
            self._tell(origin, sibling)
        sends, self._sends = self._sends, []
        return sends

    def leave(self, origin: bytes, now_ns: int) -> None:
        """The link to a sibling is gone."""
        self._siblings.pop(origin, None)
        if self._teller == origin:
            self._end_asking()

    def on_frame(self, origin: bytes, frame: DirectoryFrame, now_ns: int) -> None:
        """A sibling says something; raise BadFrame where it is malformed: nothing is changed."""
        sibling = self._siblings.get(origin)
        if sibling is None:
            return
        self._has_news = True
        data = frame.data
        if frame.kind == CHECK and len(data) == 8:
            self._on_check(origin, sibling, int.from_bytes(data, "little"), now_ns)
        elif frame.kind == DIGEST and len(data) == 8 * BUCKETS:
            self._on_digest(origin, sibling, data, now_ns)
        elif frame.kind == OVER:
            if self._teller == origin:
                self._end_asking()
        elif frame.kind == ROWS:
            self._on_rows(unpack(data), now_ns)
            self._sends.append((origin, DirectoryFrame(TAKEN)))
            if self._teller == origin:
                self._teller_ns = now_ns + limits.DIRECTORY_TELLER_NS
        elif frame.kind == TAKEN:
            sibling.in_flight = max(0, sibling.in_flight - 1)
        else:
            raise BadFrame(f"a directory frame of kind {frame.kind} with {len(data)} bytes")

    def _on_rows(self, rows: list[Said], now_ns: int) -> None:
        before = self._forget_before(now_ns)
        changes: list[Change] = []
        for row in rows:
            if not isinstance(row, Forgotten):
                self._heard(row, now_ns)
                changes += self.table.take(row, before)
        self.rows_taken += len(rows)
        if changes:
            self.changes += changes
            self._changed(now_ns)

    def _on_check(self, origin: bytes, sibling: _Sibling, theirs: int, now_ns: int) -> None:
        if theirs == self.table.root:
            sibling.agreed = theirs
            sibling.is_due = False
        elif sibling.is_told:
            self._ask(origin, sibling, now_ns)
        else:  # it may be that what we tell it is all there is
            sibling.agreed = None
            sibling.is_due = True

    def _on_digest(self, origin: bytes, sibling: _Sibling, digest: bytes, now_ns: int) -> None:
        sibling.asks = True
        differing = self.table.differing(digest)
        if differing:
            sibling.buckets |= dict.fromkeys(differing)
            self._ask(origin, sibling, now_ns)
        else:
            sibling.agreed = self.table.root

    def _ask(self, origin: bytes, sibling: _Sibling, now_ns: int) -> None:
        """A sibling has other rows: ask it for them, or compare later."""
        sibling.agreed = None
        if self._teller is not None:
            sibling.is_due = True
            return
        self._teller = origin
        self._teller_ns = now_ns + limits.DIRECTORY_TELLER_NS
        self._sends.append((origin, DirectoryFrame(DIGEST, self.table.digest())))

    def _end_asking(self) -> None:
        """Nothing more comes of what was asked for: compare with those that are due."""
        self._teller = None
        self._has_news = True

    def _check(self, origin: bytes, sibling: _Sibling) -> None:
        root = self.table.root
        if self._teller is not None or not sibling.is_told:
            sibling.is_due = True
        elif sibling.agreed != root:
            sibling.agreed = root  # if it is not so, it asks
            self._sends.append((origin, DirectoryFrame(CHECK, root.to_bytes(8, "little"))))

    def _tell(self, origin: bytes, sibling: _Sibling) -> None:
        """Send rows as far as they may be on their way."""
        while sibling.in_flight < limits.DIRECTORY_FRAMES_IN_FLIGHT:
            data = self._next_rows(sibling)
            if not data:
                break
            sibling.in_flight += 1
            sibling.agreed = None
            self._sends.append((origin, DirectoryFrame(ROWS, data)))
        if sibling.asks and not sibling.buckets and not sibling.rest:
            sibling.asks = False
            self._sends.append((origin, DirectoryFrame(OVER)))
        if sibling.is_due and sibling.is_told and self._teller is None:
            sibling.is_due = False
            self._check(origin, sibling)

    def _next_rows(self, sibling: _Sibling) -> bytes:
        """Rows for one frame, as they are now."""
        parts: list[bytes] = []
        size = 0
        while size < limits.DIRECTORY_FRAME_BYTES:
            if sibling.rest:
                key = sibling.rest.pop()
            elif sibling.keys:
                key = next(iter(sibling.keys))
                del sibling.keys[key]
            elif sibling.buckets:
                bucket = next(iter(sibling.buckets))
                del sibling.buckets[bucket]
                sibling.rest = self.table.keys_of(bucket)
                continue
            else:
                break
            row = self.table.rows.get(key)
            if row is not None:
                parts.append(pack_row(row))
                size += len(parts[-1])
        self.rows_told += len(parts)
        return b"".join(parts)

    # -- listings ---------------------------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """Counters, for ``status``."""
        table = self.table
        return {
            "rules": table.alive(RuleRow),
            "topics": table.alive(TopicRow),
            "groups": table.alive(GroupRow),
            "deleted": table.dead,
            "refused": table.refused,
            "rows_taken": self.rows_taken,
            "rows_told": self.rows_told,
            "clocks_ahead_ms": dict(self.ahead),
            "hash": f"{table.root:016x}",
        }
