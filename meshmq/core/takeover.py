"""Groups of a node that is gone, worked on by another one that has a copy of its log.

Data: a TakeoverEntry for each log that was ever taken over, the newest by (epoch, taker): its taker
hands out what that log's groups had not done before a place. A Mover goes through the copy and puts
those records into the taker's own groups. What it has moved is told to the copy's journal.

Rules:
1. Only a node with a copy takes over, only from one that is not linked and was not seen for
   TAKEOVER_SEEN_NS, unless it is told to assume that it is dead. Each takeover has a greater epoch
   than any that is known; of two the greatest counts, and the other taker moves no more. What is
   left of a log that was taken over is its taker's to take, as long as that lives and has a copy.
2. A record is appended to the taker's log, and noted as moved, in one commit. Jobs go into the same
   lane of the queue, as they are; records of groups into the group's own topic, with their lineage.
   Dead letters, and what had been given up and was to become one, are the taker's dead letters.
   A batch that is damaged is had from another copy (core/mending.py); one that nobody has whole is
   passed over and told, and stays undone in the copy: a later takeover looks at it again.
3. All nodes keep what they are told of takeovers, and tell it on.
4. A node with copies and groups that starts hands out nothing before a sibling has told what it
   knows, or RETURN_WAIT_NS are over. Was it taken over, all that its groups had not done before the
   place is the taker's; what came behind, which had not been copied, is its own as before, and so
   is what a topic had before its copies were raised.
5. What the taker's copy gets after a takeover, from one that goes further and was away, is taken
   when that is said again: its owner may be back. Of a log that was renewed nobody is the owner:
   its taker takes it by itself, once no copy that it sees goes further.
6. A node that is back says of what is the taker's that it is done, and trims it. So its copy at the
   taker stands still, and is not dropped, until all is moved (core/site_copies.py).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core.batches import Records
from meshmq.core.dead_letters import death_of, lineage_of, remade
from meshmq.core.feed import UNBOUNDED, Reader
from meshmq.core.groups import Groups
from meshmq.core.journal import QUEUE, REJECTED, Delta, GroupState, Mark, Settings
from meshmq.core.log import Commit, Entry, LogState, StoredBatch, TopicEntry
from meshmq.core.mirror import Mirror
from meshmq.core.mirror_log import TakenEntry, TakeoverEntry
from meshmq.core.mirrors import Mirrors
from meshmq.core.runs import runs_of
from meshmq.core.site_taken import MovedEntry, MovedRun, runs_to
from meshmq.errors import BadFrame, CommandFailed, GroupMismatch, MeshError
from meshmq.frames_copies import CopiesRow
from meshmq.frames_moving import Moved
from meshmq.frames_site_words import SiteTaken
from meshmq.names import dead_letters_of, lanes_of, matches, retries_of

TAKEN_FROM = "$taken-from"
"""Header of a record that was taken over: the name of the node whose it was."""


def topics_of(settings: Settings) -> Callable[[str], bool]:
    """Whether a group reads a topic, or has its dead letters in it."""
    name = settings.name
    lanes = lanes_of(name) if settings.kind == QUEUE else ()
    own = {retries_of(name), dead_letters_of(name), *lanes}
    if settings.kind == QUEUE:
        return own.__contains__
    return lambda topic: topic in own or matches(settings.pattern, topic)


class Mover(Reader):
    """Goes through one copied log; see rule 2."""

    __slots__ = ("_owner", "entry", "mirror")

    def __init__(self, owner: Takeovers, mirror: Mirror, entry: TakeoverEntry) -> None:
        super().__init__(">", 0, UNBOUNDED)
        self._owner = owner
        self.mirror = mirror
        self.entry = entry

    def wants(self, name: str) -> bool:
        groups = self.mirror.journal.groups.values()
        return any(topics_of(g.settings)(name) for g in groups)

    def take(self, batches: list[StoredBatch]) -> None:
        e = self.entry
        for b in batches:
            is_meant = (e.since_lsn, e.since_slot) <= (b.lsn, b.slot) < (e.lsn, e.slot)
            if is_meant and self._owner.move(self.mirror, b):
                self.credit_bytes -= len(b.payload)


class Skipped(NamedTuple):
    """Records of a node that was taken over, which nobody can read."""

    topic: str
    first_offset: int
    records: int


class Takeovers:
    """See the module's header. What is to be stored gathers in ``entries``.

    Attributes:
        others_hold: of records of a log, by its stream, those that no other site was given.
        on_moved: is told where records of a group of another site's log were put.
        is_moving_far: whether records of a log of another site are on their way into ours.
        known: by origin.
        version: changes with that.
        moved, buried, skipped: by origin, of the newest takeover in this life of the node: records
            that were put into our own groups, those that are our dead letters now, and those that
            nobody can read.
    """

    def __init__(self, state: LogState, groups: Groups, mirrors: Mirrors, has_copies: bool) -> None:
        self._origin = state.origin
        self._groups = groups
        self._mirrors = mirrors
        self.known: dict[bytes, TakeoverEntry] = dict(state.takeovers)
        self.version = 0
        self.entries: list[Entry] = []
        self.moved: dict[bytes, int] = {}
        self.buried: dict[bytes, int] = {}
        self.skipped: dict[bytes, dict[Skipped, None]] = {}
        self._movers: dict[bytes, Mover] = {}
        self.on_moved: Callable[[bytes, str, list[MovedRun]], None] = lambda *what: None
        self._fence_until_ns = 0
        self.others_hold: Callable[[bytes, int, list[int]], list[int]] = lambda o, s, found: found
        self.is_moving_far: Callable[[bytes], bool] = lambda origin: False
        groups.is_fenced = has_copies and bool(state.journal.groups)

    # -- taking over ----------------------------------------------------------------------------

    def check(
        self, mirror: Mirror, linked: Mapping[bytes, str], seen_ns: int | None,
        arguments: Mapping[str, Any], ahead: str, holders: Container[bytes],
    ) -> None:  # fmt: skip
        """Whether it may be: of the nodes that are ``linked`` now, with their names; ``seen_ns``
        ago the node was still linked; the copy of the node ``ahead`` goes further than ours;
        ``holders`` may have one too. Raises CommandFailed."""
        if mirror.origin in linked:
            raise CommandFailed(
                f"node {mirror.name!r} is alive: stop it first, its groups are its own"
            )
        sure = bool(arguments.get("assume_dead"))
        self._check_taken(mirror, linked, holders, sure)
        if not sure:
            check_seen(mirror.name, seen_ns, ", and what it hands out would be worked on twice")
        if ahead:
            raise CommandFailed(
                f"the copy of node {mirror.name!r} at node {ahead!r} goes further: it is being "
                f"fetched, try again in a moment, or say it to {ahead!r}"
            )
        if mirror.lacks and not arguments.get("may_repeat"):
            raise CommandFailed(
                f"the copy of node {mirror.name!r} here lacks part of what its groups had done, "
                f"which was gone before it could be copied: records would be worked on again; take "
                f"over at another copy if there is one, or say --may-repeat"
            )

    def _check_taken(
        self, mirror: Mirror, linked: Mapping[bytes, str], holders: Container[bytes], sure: bool
    ) -> None:
        """Raise CommandFailed where another node has taken it over and nothing is left to be."""
        known, name = self.known.get(mirror.origin), mirror.name
        if known is None or known.taker == self._origin:
            return
        taker = linked.get(known.taker, "")
        if taker == name:
            raise CommandFailed(
                f"node {name!r} is alive, and has taken over itself what its groups had not done "
                f"in the older log that is copied here: there is nothing left to take over"
            )
        is_left = not self.is_another_s(mirror)
        said = f"the groups of {name!r} were taken over by node {taker!r} (epoch {known.epoch})"
        if taker and not is_left:
            raise CommandFailed(f"{said}, which is alive: there is nothing left to take over")
        if taker and known.taker in holders and not mirror.is_own:
            # What it has moved is in the journal of its copy only.
            raise CommandFailed(
                f"{said}, which is alive: this copy goes further than that one did, and it fetches "
                f"the rest: say it to {taker!r}"
            )
        if sure:
            return
        if taker:
            raise CommandFailed(
                f"{said}, and {name!r} was back since: to take over what it had from then on say "
                f"--assume-dead"
            )
        raise CommandFailed(
            f"the groups of {name!r} were taken over by the node with origin "
            f"{known.taker.hex()[:8]} (epoch {known.epoch}), which is not there: if that is lost "
            f"too, say --assume-dead"
        )

    def take(self, mirrors: list[Mirror], linked: Container[bytes]) -> dict[str, Any]:
        """``node takeover`` of logs of one node, which were checked, while the nodes ``linked``
        are there. Raises CommandFailed."""
        done = [self._take(mirror, linked) for mirror in mirrors]
        return {
            **done[0],
            "origins": [one["origin"] for one in done],
            "groups": sorted({group for one in done for group in one["groups"]}),
            "skipped": sorted({group for one in done for group in one["skipped"]}),
            "lacks_groups": any(one["lacks_groups"] for one in done),
        }

    def _take(self, mirror: Mirror, linked: Container[bytes]) -> dict[str, Any]:
        known = self.known.get(mirror.origin)
        epoch, since = 1, (0, 0)
        if known is not None:
            epoch = known.epoch + 1
            if known.taker == self._origin:
                since = known.since_lsn, known.since_slot
            elif known.taker in linked:
                since = known.lsn, known.slot  # what is before is that one's
        entry = TakeoverEntry(mirror.origin, epoch, self._origin, *mirror.synced, *since)
        skipped = self.make_groups(mirror)
        if not self.is_moving(mirror.origin):  # else the one that is under way goes on
            self.moved.pop(mirror.origin, None)
            self.buried.pop(mirror.origin, None)
        if known is not None and known._replace(epoch=epoch, is_moved=False) == entry:
            entry = known  # said before: there is no more than there was then
        else:
            self._note(entry)
        self._begin(mirror, entry)
        return {
            "name": mirror.name, "origin": mirror.origin.hex(), "epoch": entry.epoch,
            "lsn": entry.lsn, "groups": sorted(
                g.settings.name for g in mirror.journal.groups.values()
                if g.settings.name not in skipped
            ), "skipped": skipped, "lacks_groups": mirror.lacks,
        }  # fmt: skip

    def make_groups(self, mirror: Mirror) -> list[str]:
        """The node's groups are here too; names of those that are something else here."""
        skipped = []
        for state in mirror.journal.groups.values():
            s = state.settings
            arguments: dict[str, Any] = {
                "group": s.name, "kind": s.kind, "pattern": s.pattern, "order": s.order,
            }  # fmt: skip
            if s.kind != QUEUE:
                arguments["start"] = "new"
            try:
                self._groups.create(arguments)
            except GroupMismatch:
                skipped.append(s.name)
            except MeshError as error:
                raise CommandFailed(f"group {s.name!r} cannot be made here: {error}") from None
        return skipped

    def _note(self, entry: TakeoverEntry) -> None:
        self.known[entry.origin] = entry
        self.version += 1
        self.entries.append(entry)

    def _begin(self, mirror: Mirror, entry: TakeoverEntry) -> None:
        self._end(mirror.origin)
        mover = self._movers[mirror.origin] = Mover(self, mirror, entry)
        self.skipped.pop(mirror.origin, None)  # what it meets it tells
        mirror.feed.add_reader(mover)

    def is_another_s(self, mirror: Mirror) -> bool:
        """Whether another node has taken a log over, as far as it is copied here."""
        known = self.known.get(mirror.origin)
        if known is None or known.taker == self._origin:
            return False
        return mirror.synced <= (known.lsn, known.slot)

    def is_moving(self, origin: bytes) -> bool:
        """Whether records of a log are on their way into our groups."""
        if self.is_moving_far(origin):
            return True
        if self._fence_until_ns:
            return origin in self._movers
        known = self.known.get(origin)
        return known is not None and self._is_to_go_on(known)

    def _is_to_go_on(self, entry: TakeoverEntry) -> bool:
        """Whether a restart is to go on with it where it was."""
        is_here = entry.origin in self._mirrors.by_origin
        return is_here and entry.taker == self._origin and not entry.is_moved

    def _end(self, origin: bytes) -> None:
        mover = self._movers.pop(origin, None)
        if mover is not None:
            mover.mirror.feed.remove_reader(mover)

    def _end_all(self, mover: Mover) -> None:
        """All of it was looked at; what was passed over is looked at again after a restart."""
        entry = mover.entry
        self._end(entry.origin)
        if not entry.is_moved and not self.skipped.get(entry.origin):
            self.known[entry.origin] = entry._replace(is_moved=True)
            self.entries.append(self.known[entry.origin])

    # -- moving ---------------------------------------------------------------------------------

    def move(self, mirror: Mirror, b: StoredBatch, taken: SiteTaken | None = None) -> bool:
        """Put what groups had not done of a batch into our own, and their dead letters; whether
        there was anything. ``taken``: of another site, of which nobody knows what it handed out
        since, what is ours."""
        topic = mirror.topics.by_stream[b.stream].entry
        moved = dead = 0
        for state in mirror.journal.groups.values():
            group = self._groups.by_name.get(state.settings.name)
            if group is None or not topics_of(state.settings)(topic.name):
                continue
            if group.settings.kind != state.settings.kind:
                continue
            offsets = mirror.journal.undone(state, topic.source, b.base_offset, b.count)
            if taken is not None:
                offsets = taken.among(topic.source, offsets)
            elif offsets:
                offsets = self.others_hold(mirror.origin, topic.source, offsets)
            if not offsets:
                continue
            dies = partial(_dies, state, topic.source)
            gone = set(offsets if group.buries_in(topic.name) else filter(dies, offsets))
            try:
                self._move(state, topic, mirror, b, offsets, gone, taken is not None)
            except BadFrame:
                self._skip(mirror.origin, topic.name, offsets)
                continue
            runs = [(topic.source, first, count) for first, count in runs_of(offsets)]
            delta = Delta(state.settings.id, settled=tuple(runs))
            mirror.journal.take(delta)
            self.entries.append(TakenEntry(mirror.origin, delta))
            moved += len(offsets) - len(gone)
            dead += len(gone)
        self.moved[mirror.origin] = self.moved.get(mirror.origin, 0) + moved
        self.buried[mirror.origin] = self.buried.get(mirror.origin, 0) + dead
        return moved + dead > 0

    def _skip(self, origin: bytes, topic: str, offsets: list[int]) -> None:
        told = self.skipped.setdefault(origin, {})
        for first, count in runs_of(offsets):
            if len(told) < limits.DAMAGE_TOLD_MAX:
                told[Skipped(topic, first, count)] = None

    def _move(
        self, state: GroupState, topic: TopicEntry, mirror: Mirror, b: StoredBatch,
        offsets: list[int], gone: set[int], is_far: bool,
    ) -> None:  # fmt: skip
        """Raises BadFrame, before anything has changed, where the batch cannot be read. ``gone``:
        of these records, those that are dead letters from then on."""
        name = state.settings.name
        if b.damaged:
            raise BadFrame("nobody has the batch whole")
        records = self._groups.tools.decode(b.payload, b.count)
        if gone:
            marks = {
                o: state.marks[topic.source, o] for o in gone if (topic.source, o) in state.marks
            }
            to = dead_letters_of(name)
            self._move_records(to, name, topic.name, mirror, b, records, sorted(gone), marks, b"")
        left = [offset for offset in offsets if offset not in gone]
        moved = Moved(mirror.origin, b.base_offset + 1).pack() if is_far else b""
        runs: list[MovedRun] = []
        if left and state.settings.kind == QUEUE and topic.name in lanes_of(name):
            to, base = topic.name, self._move_jobs(name, topic.name, b, left, moved)
            for first, count in runs_of(left):
                at = base + first - b.base_offset
                runs.append(MovedRun(topic.source, first, count, self._groups.stream_of(to), at))
        elif left:
            to = retries_of(name)
            at = self._move_records(to, name, topic.name, mirror, b, records, left, {}, moved)
            runs += runs_to(topic.source, left, self._groups.stream_of(to), at)
        if runs and is_far:
            self.entries.append(MovedEntry(mirror.origin, name, tuple(runs)))
            self.on_moved(mirror.origin, name, runs)

    def _move_jobs(
        self, queue: str, lane: str, b: StoredBatch, offsets: list[int], moved: bytes
    ) -> int:
        """The batch as it is, without what was done: a job's options are its batch's. Its offset
        here."""
        group = self._groups.by_name[queue]
        base = self._groups.append_own(lane, b.payload, b.count, moved)
        stream = self._groups.stream_of(lane)
        left = set(offsets)
        for i in range(b.count):
            if b.base_offset + i not in left:
                group.settle_own(stream, base + i, 1)
        return base

    def _move_records(
        self, to: str, name: str, topic: str, mirror: Mirror, b: StoredBatch, records: Records,
        offsets: list[int], marks: Mapping[int, Mark], moved: bytes,
    ) -> int:  # fmt: skip
        """The offset of the first one here; the others lie behind it."""
        tools = self._groups.tools
        indices = [offset - b.base_offset for offset in offsets]
        headers = []
        for offset, i in zip(offsets, indices, strict=True):
            had: dict[str, str] = {}
            if records.headers is not None:
                try:
                    had = tools.decode_headers(records.headers[i])
                except BadFrame:
                    pass  # what nobody can read is not worth keeping a record for
            came = lineage_of(had, topic, mirror.origin, offset, name)
            died = death_of(marks[offset], had) if offset in marks else {}
            headers.append(tools.encode_headers({**had, **came, **died, TAKEN_FROM: mirror.name}))
        made = remade(tools, records, indices, headers)
        return min([self._groups.append_own(to, data, count, moved) for data, count in made])

    # -- what others say ------------------------------------------------------------------------

    def on_far_rows(self, rows: tuple[CopiesRow, ...]) -> None:
        """Another site tells of takeovers inside it: what was taken there is not to be taken here
        as well."""
        self._note_rows([row for row in rows if row.origin != self._origin])

    def on_rows(self, rows: tuple[CopiesRow, ...]) -> None:
        """A sibling tells what it knows of takeovers, of ours among them."""
        self._note_rows(rows)
        if not self._groups.is_surveying:
            self._unfence()

    def _note_rows(self, rows: Sequence[CopiesRow]) -> None:
        for row in rows:
            if not row.epoch:
                continue
            entry = TakeoverEntry(row.origin, row.epoch, row.taker, row.taken, row.taken_slot)
            known = self.known.get(row.origin)
            if known is not None and known.rank >= entry.rank:
                continue
            if row.origin == self._origin:
                self._give_away(entry)
                continue
            self._note(entry)
            if entry.taker != self._origin:
                self._end(row.origin)  # somebody else goes on
            elif self._is_to_go_on(entry):  # it was told before it was synced here
                self._begin(self._mirrors.by_origin[row.origin], entry)

    def _give_away(self, entry: TakeoverEntry) -> None:
        """Our groups were taken over: what they had not done before that place is the taker's.
        That it was is noted with what follows from it, in one commit."""
        if self._groups.is_surveying:
            return  # it is told again

        def given() -> None:
            self._note(entry)
            self._unfence()

        self._groups.is_fenced = True
        self._groups.give_away(entry.lsn, entry.slot, given)

    def _unfence(self) -> None:
        if self._groups.is_fenced:
            self._groups.unfence()

    # -- the log, time --------------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> None:
        """A commit is synced: what was moved is, and more may be."""
        for said in commit.mirrors:
            if isinstance(said, TakenEntry):
                self._go_on(said.origin)

    def _go_on(self, origin: bytes) -> None:
        mover = self._movers.get(origin)
        if mover is None or mover.credit_bytes > 0:
            return
        admission = self._groups.shared.admission
        if admission.takes(4 * limits.TAKEOVER_BYTES) and not admission.refusal[0]:
            mover.credit_bytes = limits.TAKEOVER_BYTES
            mover.mirror.feed.feed(mover)

    def tick(self, now_ns: int, is_ahead: Callable[[Mirror], bool]) -> None:
        """Time has passed; ``is_ahead``: whether another copy goes further than one here."""
        if not self._fence_until_ns:
            self._fence_until_ns = now_ns + limits.RETURN_WAIT_NS
            for origin, entry in self.known.items():
                if self._is_to_go_on(entry):
                    self._begin(self._mirrors.by_origin[origin], entry)
        if now_ns >= self._fence_until_ns and not self._groups.is_surveying:
            self._unfence()
        for origin, mover in list(self._movers.items()):
            if mover.is_live:
                self._end_all(mover)
            else:
                self._go_on(origin)
        refused = self._groups.shared.admission.refusal[0]
        for mirror in self._mirrors.by_origin.values() if not refused else ():
            if mirror.is_own and self._is_left(mirror) and not is_ahead(mirror):
                try:
                    self._take(mirror, ())
                except CommandFailed:
                    pass  # status tells that it is left

    def _is_left(self, mirror: Mirror) -> bool:
        """Whether a copy that we have taken over goes further than it did then."""
        known = self.known.get(mirror.origin)
        return (
            known is not None
            and known.taker == self._origin
            and mirror.synced > (known.lsn, known.slot)
            and not (mirror.lacks or self.is_moving(mirror.origin))
        )

    def describe(self, names: Mapping[bytes, str]) -> list[dict[str, Any]]:
        """As ``status`` shows it."""
        return [
            {
                "of": names.get(origin, origin.hex()[:8]),
                "origin": origin.hex(),
                "by": names.get(entry.taker, entry.taker.hex()[:8]),
                "epoch": entry.epoch,
                "lsn": entry.lsn,
                "moving": origin in self._movers,
                "left": (mirror := self._mirrors.by_origin.get(origin)) is not None
                and self._is_left(mirror),
                "moved": self.moved.get(origin, 0),
                "dead_letters": self.buried.get(origin, 0),
                "skipped": [row._asdict() for row in self.skipped.get(origin, ())],
            }
            for origin, entry in self.known.items()
        ]


def check_seen(name: str, seen_ns: int | None, harm: str = "") -> None:
    """Raise CommandFailed for a node that was linked so lately that it may be alive."""
    if seen_ns is None or seen_ns >= limits.TAKEOVER_SEEN_NS:
        return
    left_s = -((seen_ns - limits.TAKEOVER_SEEN_NS) // limits.SECOND)
    raise CommandFailed(
        f"node {name!r} was seen {seen_ns // limits.SECOND} s ago and may be alive behind a "
        f"cut{harm}: try again in {left_s} s, or say --assume-dead"
    )


def _dies(state: GroupState, source: int, offset: int) -> bool:
    """Whether a group had given a record up, which was to become a dead letter."""
    mark = state.marks.get((source, offset))
    if mark is None:
        return False
    return bool(mark.flags & REJECTED) or mark.attempts >= state.settings.max_deliveries
