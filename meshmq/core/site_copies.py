"""Copies inside a site: which nodes copy our log, which logs we copy, and who waits for that.

Data: of our log a Sender for each node that copies it, and who waits for that
(core/copy_waiting.py); of other logs the mirrors (core/mirrors.py). ``held`` is what siblings say
they have.

Rules:
1. Each node asks for the copies of its own log: as many nodes as any of its topics is to have
   copies, less one, those with the greatest hash of (origin, other's origin). So a node that comes
   or goes changes the choice only where it is among the first. One that is away keeps its place
   for COPY_AWAY_NS; then the next one begins, and gets it back when it has caught up.
2. All that are chosen copy the same: each topic that is to be on more than one node.
3. A copy is no longer needed when those that are chosen have caught up, and got all of it whole,
   ever since they began; then it is dropped there.
4. A batch is replicated when as many nodes as its topic is to have copies, less one, have synced
   it. Who waits is told then; with too few of them it waits, and says so itself.
5. What was this node's own log before it was renewed is a copy too, of all topics. Of two that go
   equally far such a one is read. A copy whose node is away is fetched to the end from the one that
   goes furthest.
6. What is on its way to a copy is bounded; a copy that is behind reads from the disk, beside
   everything else.
7. Nothing comes of a log while what its groups had not done is moved into ours, and it stays here:
   its node is told so, and what that asks for waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.batches import BatchTools
from meshmq.core.copied_streams import at_sites, kept, stream
from meshmq.core.copy_problems import CopyProblems
from meshmq.core.copy_rows import is_ahead, reach, told_rows, weight
from meshmq.core.copy_sender import LogTopics, Sender
from meshmq.core.copy_waiting import CopyWaiting
from meshmq.core.delivery import Delivery
from meshmq.core.effects import MendLog, ReadLog
from meshmq.core.far_log import FarLog, FarLogs
from meshmq.core.feed import UNBOUNDED
from meshmq.core.forgetting import Forgetting
from meshmq.core.groups import Groups
from meshmq.core.log import Commit, Entry, LogState
from meshmq.core.mending import Mender
from meshmq.core.mirror import Mirror
from meshmq.core.mirrors import Mirrors
from meshmq.core.own_log import OwnLog
from meshmq.core.sibling import LOCAL, Sibling
from meshmq.core.site_takeover import SiteTakeovers
from meshmq.core.streams import Streams
from meshmq.core.takeover import Takeovers
from meshmq.core.topics import Topic, Topics
from meshmq.core.wished import patterns_in
from meshmq.frames import Body, Credit, Subscribe, Subscribed, Unsubscribe
from meshmq.frames_copies import NO_LEVEL, AskCopy, Copied, Copies, CopiesRow, Fetch, Fetched
from meshmq.names import JOURNAL

_Reach = tuple[tuple[int, int], bool]
_NOTHING: _Reach = ((0, 0), False)
TOPIC = "topic"
"""What ``site.of_copies`` is asked of a topic; all else are verbs of programs."""

FULL = "its disk is full, it copies on when there is room"
MOVES = "its groups were taken over there, it copies on when all is moved"
NO_COPY = "no copy of all that is kept there"
PUT_BACK = "a copy has more than the log: an older state of its disk was put back"


class SiteCopies:
    """See the module's header.

    Args:
        origin: of our log.
        copies: nodes that are to have a stream whose policy says nothing of that.
        renew: what to say to renew our log.

    Attributes:
        sends: frames for links; the owner takes them.
        mirrors: logs of other nodes that are copied here.
        far: takeovers between sites.
        groups: our own.
        logs: that are sent by strands.
        siblings: those that are linked, by origin. names: of nodes that are known, by origin.
        me: in place of a sibling, for what our own clients read of what is kept here.
        held: by sibling, the logs it has copies of, by origin.
        version: changes with that.
        tools: the codec's functions.
        paced: what of the room for a log its sender gets back now.
    """

    def __init__(
        self,
        state: LogState,
        copies: int,
        topics: Topics,
        delivery: Delivery,
        admission: Admission,
        tools: BatchTools,
        groups: Groups,
        renew: str = "meshmq log renew",
    ) -> None:
        self.origin = state.origin
        self.tools = tools
        self._topics = topics
        self._delivery = delivery
        self._admission = admission
        self.groups = groups
        topics.copies, topics.is_alone = copies, False
        self.sends: list[tuple[bytes, Body]] = []
        self.mender = Mender(self, self.sends, topics.copies_of)
        delivery.mend = self.mender.of(delivery, self.origin)
        self.siblings: dict[bytes, Sibling] = {}
        self.mirrors = Mirrors(state, topics, delivery, tools, self.mender)
        topics.copied = self.mirrors.producer_last
        has_copies = topics.copies_max > 1
        self.takeovers = Takeovers(state, groups, self.mirrors, has_copies)
        self.far = SiteTakeovers(state, groups, self.takeovers, self.mirrors, topics)
        self.own = OwnLog(state, admission, groups, has_copies, renew)
        self.forgetting = Forgetting(state)
        self._furthest: dict[bytes, tuple[int, int]] = {}  # of copies that were told of, by origin
        self.me = Sibling(state.origin, "", 0, (), (), b"", False, LOCAL)
        self.held: dict[bytes, dict[bytes, CopiesRow]] = {}
        self.version = 0
        self.links_far: Callable[[bytes], list[bytes]] = lambda origin: []  # at other sites
        self.paced: Callable[[Mirror, int], int] = lambda mirror, credit: credit
        self._were_gone: dict[bytes, str] = {}
        self.names: dict[bytes, str] = {m.origin: m.name for m in self.mirrors.of_site}
        self._away: dict[bytes, int] = {}  # since when, of those that were chosen
        self._left: dict[bytes, int] = {}  # when each sibling was seen last
        self._asked: dict[bytes, int] = {}  # by sibling: the level that it was told last
        self._asks: dict[bytes, int] = {}  # by sibling: what it asks us for, where that waits
        self._problems = CopyProblems(lambda o: self._asked.get(o, 0), self.names, self.sends)
        self._senders: dict[bytes, Sender] = {}  # of our log, by sibling
        self._others: dict[tuple[bytes, bytes], Sender] = {}  # of copies, by link and origin
        self.logs = FarLogs(self.sends)
        self.waiting = CopyWaiting(self._problems, self._reached, self.sends)
        self._numbers = 0
        self._told: tuple[CopiesRow, ...] = ()
        self._tick_ns = 0
        self._topics_version = self._policies = -1
        self._copies_max = copies

    # -- siblings -------------------------------------------------------------------------------

    def join(self, sibling: Sibling, now_ns: int) -> None:
        """Its data link is open."""
        self.siblings[sibling.origin] = sibling
        self.names[sibling.origin] = sibling.name
        self._away.pop(sibling.origin, None)
        self._asked.pop(sibling.origin, None)
        self.forgetting.lift(sibling.origin)
        self.sends.append((sibling.link, Copies(self._rows(sibling.origin))))
        self._choose(now_ns)

    def leave(self, sibling: Sibling, now_ns: int) -> None:
        """It is over."""
        origin, link = sibling.origin, sibling.link
        if self.siblings.pop(origin, None) is None:
            return
        self.logs.drop_link(link)
        self._away[origin] = self._left[origin] = now_ns
        self.held.pop(origin, None)
        self._asks.pop(origin, None)
        self.version += 1
        self._problems.note(origin, "")
        sender = self._senders.pop(origin, None)
        if sender is not None:
            self._delivery.remove_reader(sender)
        for key in [key for key in self._others if key[0] == link]:
            self._end_other(key)
        self.drop_link(link)

    def drop_link(self, link: bytes) -> None:
        """Nothing more comes over it."""
        self.mender.drop_link(link)
        for mirror in self.mirrors.by_origin.values():
            mirror.feed.drop_link(link)
            if mirror.link == link:
                mirror.link, mirror.number, mirror.level = b"", 0, 0

    def on_body(self, sibling: Sibling, body: Body, now_ns: int) -> bool:
        """What a sibling says of copies; False: it is of something else. Raises BadFrame."""
        match body:
            case AskCopy(level):
                self._on_ask(sibling, level)
            case Fetch():
                self._on_fetch(sibling, body)
            case Fetched():
                self.on_fetched(sibling, body, now_ns)
            case Copied():
                self._on_copied(sibling, body, now_ns)
            case Copies(rows):
                self._on_rows(sibling, rows)
            case Subscribe() if body.copy_of:
                self._subscribe(sibling, body)
            case Credit(number, size, records):
                return self._grant(sibling.link, number, size, records)
            case Unsubscribe(number):
                for mirror in self.mirrors.by_origin.values():
                    mirror.feed.unsubscribe(sibling.link, number)
                return False
            case _:
                return False
        return True

    def _on_rows(self, sibling: Sibling, rows: tuple[CopiesRow, ...]) -> None:
        self.held[sibling.origin] = held = {row.origin: row for row in rows if row.lsn}
        for origin, row in held.items():
            place = max((row.lsn, row.slot), self._furthest.pop(origin, (0, 0)))
            self._furthest[origin] = place
            if len(self._furthest) > limits.MIRRORS_MAX:
                del self._furthest[next(iter(self._furthest))]
        self.own.on_rows(sibling.name, rows, self._delivery.committed_lsn)
        if self.own.behind is not None:
            for other in list(self._senders):
                self._refuse_to_copy(other)
        self.takeovers.on_rows(rows)
        self.forgetting.on_rows(rows, set(self.siblings))
        self.mender.forget()
        self.version += 1

    # -- our log: who copies it -----------------------------------------------------------------

    def _choose(self, now_ns: int) -> None:
        """Rules 1 and 3."""
        if self._topics_version != self._topics.version:
            self._topics_version = self._topics.version
            self._copies_max = self._topics.copies_max
        needed = self._copies_max - 1
        for origin in [o for o, t in self._away.items() if now_ns - t >= limits.COPY_AWAY_NS]:
            del self._away[origin]
        there = [*self.siblings, *self._away] if needed > 0 else []
        chosen = sorted(there, key=lambda other: weight(self.origin, other), reverse=True)[:needed]
        senders = [self._senders.get(origin) for origin in chosen]
        is_safe = all(s is not None and s.is_caught_up and not s.has_holes for s in senders)
        for origin, sibling in self.siblings.items():
            if origin in chosen:
                self._ask(sibling, chosen.index(origin) + 1)
            elif self._asked.get(origin) != 0 and is_safe:
                self._ask(sibling, 0)
                sender = self._senders.pop(origin, None)
                if sender is not None:
                    self._delivery.remove_reader(sender)

    def _ask(self, sibling: Sibling, level: int) -> None:
        if self._asked.get(sibling.origin) != level:
            self._asked[sibling.origin] = level
            if level == 0:
                self._problems.note(sibling.origin, "")
            self.sends.append((sibling.link, AskCopy(level)))

    def _on_fetch(self, sibling: Sibling, frame: Fetch) -> None:
        if frame.topic_id:
            self.fetch_one(sibling.link, frame)
            return
        if frame.origin != self.origin:
            self._on_fetch_of_copy(sibling, frame)
            return
        old = self._senders.pop(sibling.origin, None)
        if old is not None:
            self._delivery.remove_reader(old)
        if frame.level == NO_LEVEL:
            return
        if self.own.is_short_of((frame.lsn, frame.slot), self._delivery.committed_lsn):
            refusal = Fetched(frame.number, code="copy-ahead", message=PUT_BACK)
            self.sends.append((sibling.link, refusal))
            return
        self.own.served()
        sender = self._sender(sibling, frame, self._topics)
        self._senders[sibling.origin] = sender
        journal = self._topics.by_name.get(JOURNAL)
        if journal is not None:
            sender.introduce(journal)
        self._delivery.add_reader(sender)
        self._delivery.feed(sender)

    def _refuse_to_copy(self, other: bytes) -> None:
        """What a log that is behind stores is not what its copies have at these places."""
        sender = self._senders.pop(other)
        self._delivery.remove_reader(sender)
        refusal = Fetched(sender.number, code="copy-ahead", message=PUT_BACK)
        self.sends.append((sender.link, refusal))

    def fetch_one(self, link: bytes, frame: Fetch) -> None:
        """A batch that is damaged there; see core/mending.py."""
        mirror = self.mirrors.by_origin.get(frame.origin)
        if frame.origin == self.origin:
            self.mender.answer(link, frame, self._delivery, self._topics.by_stream)
        elif mirror is not None:
            self.mender.answer(link, frame, mirror.feed, mirror.topics.by_stream)
        else:
            self.mender.answer(link, frame, None, {})

    def links_with(self, origin: bytes) -> list[bytes]:
        """Who has a log, or a copy of it: its own node first."""
        owner = self.siblings.get(origin)
        links = [owner.link] if owner is not None else []
        links += [sibling.link for sibling, _ in self.holders(origin)]
        return links + self.links_far(origin)

    def heard(self) -> dict[bytes, str]:
        """Siblings that have said of what they have copies, with their names."""
        return {o: s.name for o, s in self.siblings.items() if o in self.held}

    def next_number(self) -> int:
        """Of one more Fetch."""
        self._numbers += 1
        return self._numbers

    def _sender(self, sibling: Sibling, frame: Fetch, topics: LogTopics) -> Sender:
        place = (max(1, frame.lsn), frame.slot)
        is_own = topics is self._topics
        return Sender(
            ">", min(frame.credit, limits.CREDIT_BYTES_MAX), UNBOUNDED, *place,
            link=sibling.link, number=frame.number, level=frame.level, copied=(0, 0), sent=place,
            topics=topics, takes=self._takes if is_own else lambda _: True, sends=self.sends,
        )  # fmt: skip

    def _takes(self, name: str) -> bool:
        # All copies have the same topics, those that are to have fewer as well: else one that is
        # as far as another, or further, would lack records that this one has.
        return self._topics.copies_of(name) > 1

    def _on_copied(self, sibling: Sibling, frame: Copied, now_ns: int) -> None:
        if self.on_copied(sibling, frame, now_ns) is not None:
            return
        if frame.origin != self.origin:
            sender = self._others.get((sibling.link, frame.origin))
            mirror = self.mirrors.by_origin.get(frame.origin)
            if sender is not None and mirror is not None:
                sender.copied = (frame.lsn, frame.slot)
                sender.grant(frame.credit)
                mirror.feed.feed(sender)
            return
        if self._problems.note(sibling.origin, frame.problem):
            self.waiting.tell_problems()
        sender = self._senders.get(sibling.origin)
        if sender is None:
            return
        sender.copied = max(sender.copied, (frame.lsn, frame.slot))
        sender.has_holes = sender.has_holes or frame.holes
        sender.grant(frame.credit)
        self._delivery.feed(sender)
        self.waiting.release()
        # Behind all there is: what comes before it need not be there any more when it is sent.
        if frame.lacks and sender.is_live and now_ns >= sender.sum_again_ns:
            sender.sum_again_ns = now_ns + limits.JOURNAL_SUM_NS
            self.ask_sum(self.origin)

    def _reached(self, copies: int) -> tuple[int, int]:
        """The place before which so many nodes, we among them, have synced all."""
        end = (self._delivery.committed_lsn + 1, 0)
        places = [end if s.is_caught_up else s.copied for s in self._senders.values()]
        places.sort(reverse=True)
        return places[copies - 2] if len(places) >= copies - 1 else (0, 0)

    # -- other logs: what we copy ---------------------------------------------------------------

    def _on_ask(self, sibling: Sibling, level: int) -> None:
        mirror = self.mirrors.by_origin.get(sibling.origin)
        if mirror is not None and self.takeovers.is_moving(sibling.origin):
            self._asks[sibling.origin] = level
            words = MOVES if level else ""
            told = Copied(mirror.origin, *mirror.synced, 0, mirror.lacks, words, mirror.holes)
            self.sends.append((sibling.link, told))
            return
        self._asks.pop(sibling.origin, None)
        if level == 0:
            self.drop(sibling.origin)
            return
        if mirror is None:
            if sibling.origin in self.mirrors.dropping:
                self._asks[sibling.origin] = level
                return
            if len(self.mirrors.by_origin) >= limits.MIRRORS_MAX:
                return
            mirror = self.mirrors.open(sibling.origin, sibling.name)
            self.version += 1
        mirror.name, mirror.level = sibling.name, level
        self.fetch(mirror, sibling)

    def drop(self, origin: bytes) -> None:
        """Keep no copy of a log."""
        if origin in self.mirrors.by_origin:
            for key in [key for key in self._others if key[1] == origin]:
                number = self._others[key].number  # who fetches it may turn to another one
                self.sends.append((key[0], Fetched(number, code="not-found", message=NO_COPY)))
                self._end_other(key)
            self.logs.refuse(origin, "not-found", NO_COPY)
            mirror = self.mirrors.by_origin[origin]
            self.end_fetch(mirror)
            self.mirrors.drop(origin)
            self.version += 1
            if len(mirror.feed):
                self._tell_rows()  # so that who reads it knows at once where else it can
            for sub in mirror.feed.subscriptions:
                self.sends.append((sub.link, Subscribed(sub.number, "not-found", NO_COPY)))

    def drop_forgotten(self) -> None:
        """Copies of nodes that do not come back, but for those whose records are being moved."""
        for origin in [o for o in self.forgetting.gone if not self.takeovers.is_moving(o)]:
            self.forgetting.gone.discard(origin)
            self.drop(origin)
            self._away.pop(origin, None)

    def fetch(self, mirror: Mirror, sibling: Sibling) -> None:
        """Ask for what is missing: from behind what has come, stored or on its way to disk."""
        if mirror.link != sibling.link:
            self.end_fetch(mirror)
            mirror.problem = FULL if mirror.problem == FULL else ""  # else it was the other's
        number = self.next_number()
        mirror.link, mirror.number, mirror.again_ns = sibling.link, number, 0
        mirror.passed_bytes = 0
        self.sends.append((sibling.link, mirror.fetch_frame()))
        self._tell_synced(mirror)  # which may be less

    def fetching(self, link: bytes, number: int) -> Mirror | None:
        """Of which log a Fetched is."""
        for mirror in self.mirrors.by_origin.values():
            if mirror.number == number and mirror.link == link:
                return mirror
        return None

    def on_fetched(self, sibling: Sibling, frame: Fetched, now_ns: int) -> None:
        if self.mender.on_fetched(sibling.link, frame):
            return
        mirror = self.fetching(sibling.link, frame.number)
        if mirror is None:
            return
        if frame.code or (frame.has_more and not self._admission.takes(len(frame.payload))):
            mirror.refuse(frame, FULL)
            self.stop(mirror, now_ns)
        elif not self.mirrors.on_fetched(mirror, frame):
            self.stop(mirror, now_ns)
        elif self.mirrors.come_together(mirror, frame):
            self.fetch(mirror, sibling)
        elif self.mirrors.has_passed:
            self._tell_synced(mirror)
        elif frame.lsn:
            mirror.problem = ""

    def stop(self, mirror: Mirror, now_ns: int) -> None:
        """Take no more of it for a moment."""
        self._tell_synced(mirror)
        self.end_fetch(mirror)
        mirror.again_ns = now_ns + limits.COPY_AGAIN_NS

    def end_fetch(self, mirror: Mirror) -> None:
        """Who sends it is to send no more."""
        if mirror.number:
            self.sends.append((mirror.link, Fetch(mirror.number, mirror.origin, level=NO_LEVEL)))
            mirror.number = 0

    def end_turn(self, entries: list[Entry], streams: Streams) -> int:
        """What is to be stored with this turn; the bytes of its batches."""
        if self._policies != self._topics.policies and self.own.behind is None:
            self._policies = self._topics.policies
            self._topics.note_copies(entries)
        if streams.replicas:
            replicas, streams.replicas = streams.replicas, []
            self.waiting.add(replicas)
        for part in (self.takeovers, self.far, self.own, self.forgetting):
            entries += part.entries
            part.entries = []
        return self.mirrors.take_entries(entries)

    def on_commit(self, commit: Commit) -> None:
        """A commit is synced."""
        if not (commit.copied or commit.mirrors or commit.trims):
            return
        self.takeovers.on_commit(commit)
        self.far.on_commit(commit)
        for mirror, size in self.mirrors.on_commit(commit):
            if mirror.link:
                if mirror.number and mirror.problem == FULL:
                    mirror.problem = ""  # what waited for room is stored
                self._tell_synced(mirror, size)

    def on_copied(self, node: Sibling, frame: Copied, now_ns: int) -> FarLog | None:
        """How far a log is synced elsewhere; None: it is not sent there by strands."""
        log = self.logs.on_copied(node.link, frame)
        if log is not None and frame.lacks and log.may_ask_sum(now_ns):
            self.ask_sum(frame.origin)
        return log

    def ask_sum(self, origin: bytes) -> None:
        """Somebody who has a log from here lacks part of its journal: only its node has the sum."""
        mirror = self.mirrors.by_origin.get(origin)
        if origin == self.origin:
            self.groups.sums = True
        elif mirror is not None and mirror.number:
            mirror.asks_sum = True
            self._tell_synced(mirror)

    def _tell_synced(self, mirror: Mirror, credit: int = 0) -> None:
        self.tell(mirror, self.paced(mirror, credit) if credit else 0)

    def tell(self, mirror: Mirror, credit: int) -> None:
        """Tell who sends it how far it is, and that so much more may come."""
        m, problem = mirror, mirror.problem[: limits.PEER_NAME_MAX]
        lacks, places = m.lacks or m.asks_sum, m.stored_places()
        copied = Copied(m.origin, *m.synced, credit, lacks, problem, m.holes, places)
        self.sends.append((mirror.link, copied))

    # -- what others read of copies -------------------------------------------------------------

    def _subscribe(self, sibling: Sibling, frame: Subscribe) -> None:
        mirror = self.mirrors.by_origin.get(frame.copy_of)
        if mirror is None:
            why = "no copy of that log is kept here"
            answer = Subscribed(frame.subscription, "not-found", why)
        else:
            answer = mirror.feed.subscribe(
                sibling.link, frame, frame.copy_of, sibling.origin, of_node=True
            )
        self.sends.append((sibling.link, answer))
        if mirror is not None and not answer.code:
            mirror.feed.feed_number(sibling.link, frame.subscription)

    def _grant(self, link: bytes, number: int, size: int, records: int) -> bool:
        for mirror in self.mirrors.by_origin.values():
            if mirror.feed.find(link, number) is not None:
                mirror.feed.grant(link, number, size, records)
                return True
        return False

    def known(self) -> dict[bytes, str]:
        """Logs of which somebody here has a copy, or whose nodes are away, with their names."""
        found = {**self._gone(), **{m.origin: m.shown for m in self.mirrors.by_origin.values()}}
        for rows in self.held.values():
            found.update({row.origin: row.name for row in rows.values()})
        return {o: name for o, name in found.items() if not self.forgetting.is_forgotten(o)}

    def _gone(self) -> dict[bytes, str]:
        """Nodes of the site that are away."""
        there = {origin: sibling.name for origin, sibling in self.siblings.items()}
        return self.forgetting.missing(self.mender.roster(), there, self.mender.name)

    def source(self, origin: bytes) -> bytes:
        """Over which link the copy of a log can be read that goes furthest; empty: there is none.
        One that is kept here goes before an equal one."""
        if self.forgetting.is_forgotten(origin):
            return b""
        mirror = self.mirrors.by_origin.get(origin)
        ahead = self.ahead(origin, (mirror.synced, mirror.is_own) if mirror else _NOTHING)
        return ahead.link if ahead else LOCAL if mirror else b""

    def take_effects(self) -> list[ReadLog | MendLog]:
        """What is to be read of the log, and written in it."""
        reads, self._delivery.reads = self._delivery.reads, []
        mends, self.mender.effects = self.mender.effects, []
        return [*reads, *mends]

    def _on_fetch_of_copy(self, sibling: Sibling, frame: Fetch) -> None:
        key = (sibling.link, frame.origin)
        self._end_other(key)
        self.logs.end(key)
        mirror = self.mirrors.by_origin.get(frame.origin)
        if frame.level == NO_LEVEL:
            return
        if mirror is None or not mirror.has_all_of(frame.strands):
            refusal = Fetched(frame.number, code="not-found", message=NO_COPY)
            self.sends.append((sibling.link, refusal))
            return
        if mirror.linked is not None:
            if frame.strands:
                self.logs.begin(
                    sibling.link, frame, mirror.feed, mirror.topics, patterns_in(mirror)
                )
            return
        sender = self._others[key] = self._sender(sibling, frame, mirror.topics)
        mirror.feed.add_reader(sender)
        mirror.feed.feed(sender)

    def _end_other(self, key: tuple[bytes, bytes]) -> None:
        sender = self._others.pop(key, None)
        mirror = self.mirrors.by_origin.get(key[1])
        if sender is not None and mirror is not None:
            mirror.feed.remove_reader(sender)

    def holders(self, origin: bytes) -> list[tuple[Sibling, CopiesRow]]:
        """Siblings with a copy of a log, those first whose copy goes furthest."""
        found = [
            (self.siblings[other], rows[origin])
            for other, rows in self.held.items()
            if origin in rows and other in self.siblings
        ]
        return sorted(found, key=lambda f: reach(f[1]), reverse=True)

    def ahead(self, origin: bytes, ours: _Reach) -> Sibling | None:
        """Whose copy of a log goes furthest, if it goes further than that."""
        holders = self.holders(origin)
        return holders[0][0] if holders and ours < reach(holders[0][1]) else None

    def ahead_of(self, mirror: Mirror) -> Sibling | None:
        """Who has more of a log than was received here, and all that is wished of it."""
        if mirror.linked is None:
            return self.ahead(mirror.origin, (mirror.place, True))
        found = [s for s, row in self.holders(mirror.origin) if is_ahead(row, mirror)]
        return found[0] if found else None

    # -- time, and what is shown ----------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        if now_ns < self._tick_ns:
            return
        self._tick_ns = now_ns + limits.COPIES_TOLD_NS
        self._choose(now_ns)
        if (gone := self._gone()) != self._were_gone:
            self._were_gone, self.version = gone, self.version + 1
        self.takeovers.tick(now_ns, lambda m: bool(self.ahead(m.origin, (m.synced, True))))
        self.own.tick(now_ns)
        self.drop_forgotten()
        self.mender.tick(now_ns)
        for sender in (*self._senders.values(), *self._others.values()):
            sender.tell_changes()
        self.logs.tick()
        for origin in [o for o in self._asks if not self.takeovers.is_moving(o)]:
            self._on_ask(self.siblings[origin], self._asks.pop(origin))
        all_mirrors = self.mirrors.by_origin.values()
        for mirror in [m for m in all_mirrors if not self.takeovers.is_moving(m.origin)]:
            sibling = self.siblings.get(mirror.origin)
            if sibling is not None and mirror.level and 0 < mirror.again_ns <= now_ns:
                self.fetch(mirror, sibling)
            waits = mirror.number and mirror.place > mirror.synced and self._admission.is_low
            if waits and mirror.problem != FULL:  # what came waits for room
                mirror.problem = FULL
                self._tell_synced(mirror)
            is_idle = not mirror.number and mirror.again_ns <= now_ns
            ahead = self.ahead_of(mirror) if not sibling else None
            if ahead is not None and (is_idle or mirror.link == ahead.link):
                theirs = self.held[ahead.origin][mirror.origin].strands
                if self.mirrors.split(mirror, theirs) or is_idle:
                    mirror.terms = (False, 0)
                    self.fetch(mirror, ahead)
        self._tell_rows()

    def _tell_rows(self) -> None:
        rows = self._rows()
        if rows != self._told:
            self._told = rows
            self.sends += [(s.link, Copies(rows)) for s in self.siblings.values()]

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return self._tick_ns

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames for links."""
        self.logs.flush()
        sends: list[tuple[bytes, Body]] = list(self.sends)
        self.sends.clear()
        for mirror in self.mirrors.by_origin.values():
            if mirror.feed.sends:
                sends += mirror.feed.sends
                mirror.feed.sends = []
        return sends

    def _rows(self, told: bytes = b"") -> tuple[CopiesRow, ...]:
        """What ``told`` is to know, or all the others."""
        furthest = {told: self._furthest[told]} if told in self._furthest else {}
        return told_rows(
            self.mirrors, self.takeovers.known, self.forgetting.known, self.names, furthest
        )

    def seen_ns(self, origin: bytes, now_ns: int) -> int | None:
        """How long ago a node was lost; None: it was not linked in this life of ours."""
        left_ns = self._left.get(origin)
        return None if left_ns is None else now_ns - left_ns

    def of_topic(self, topic: Topic | None, name: str, node: str) -> dict[str, Any]:
        """How many nodes are to have a topic's streams; those that are known at our ``node``, and
        who copies them."""
        copies = self._topics.copies_of(name)
        streams = kept(self.mirrors.by_origin.values(), self.siblings, name, node)
        if topic is not None:
            rows = self._problems.describe(self._senders, self._delivery.committed_lsn)
            first, end = topic.first_offset, topic.synced_offset
            own = stream(node, self.origin, first, end - first, rows if copies > 1 else ())
            streams.append(own | at_sites(self.waiting, self._delivery.committed_lsn, name))
        return {"copies": copies, "streams": streams}

    def describe(self, name: str) -> dict[str, Any]:
        """As ``status`` of our node, called ``name``, shows it."""
        return {
            "wanted": self._copies_max,
            "confirm": self._topics.confirmed_max,
            "nodes": self._problems.describe(self._senders, self._delivery.committed_lsn),
            "waiting": self.waiting.count,
            "waiting_for_sites": self.waiting.for_sites(),
            "synced_only": self.waiting.synced_only,
            "behind": self.own.describe(),
            "forgotten": self.forgetting.describe(),
            "takeovers": self.takeovers.describe({**self.names, self.origin: name}),
            **self.mender.describe(),
            "kept": self.mirrors.describe(),
        }
