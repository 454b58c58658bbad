"""Groups of another site that is lost, finished by ours; and what is handed back to it.

Data: a SiteTaken for each log that a site was given, the newest by (epoch, site, node). The taker
is a node with a mirror of the log; a FarMover puts what its groups had not done into the taker's
own (core/takeover.py, rule 2). ``runs`` tell where each of these records is now.

Rules:
1. A takeover says exactly which records it takes: ranges of streams, and groups. It is noted, told
   to all and begun once all who are linked know it, or after SITE_TAKEOVER_WAIT_NS: so of two that
   hear of each other one begins. What the other has moved by then stays with it.
2. All nodes keep what they are told of that, and tell it on, to other sites as well. The log's own
   node gives the ranges away when it is told; all else stays its own: what had not arrived at the
   taker, and what groups had that the taker did not know.
3. While a log is being moved nothing of it is pulled. It is pulled by the taker, as long as that is
   there: only its copy of the journal knows what was moved.
4. What its node had done by the time that it gave the rest away does not come back. What is handed
   back leaves the taker and is noted as on its way in one commit, one part after the
   other; the next one goes when the log's node has stored that it has this one, which it does with
   each once. So each record is at one of the two or on its way, whoever is killed when.
5. A node whose log was taken over keeps jobs and what was put back as long as the taker has some of
   them: they may come back as offsets.
6. What another site was given is not taken over inside the site, nor the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from meshmq import limits
from meshmq.core.claims import claims_of
from meshmq.core.feed import UNBOUNDED, Reader
from meshmq.core.groups import Groups
from meshmq.core.journal import Delta
from meshmq.core.log import Commit, Entry, LogState, StoredBatch
from meshmq.core.mirror import Mirror
from meshmq.core.mirror_log import TakenEntry
from meshmq.core.mirrors import Mirrors
from meshmq.core.site_taken import MovedEntry, MovedRun
from meshmq.core.takeover import Takeovers, topics_of
from meshmq.core.topics import Topics
from meshmq.errors import CommandFailed
from meshmq.frames import Body
from meshmq.frames_copies import Claim
from meshmq.frames_site_words import HandBack, HandedBack, HandedRun, SiteTaken, TakenRange
from meshmq.names import priority_of


class FarMover(Reader):
    """Goes through all that has come of one topic of a mirror."""

    __slots__ = ("_owner", "entry", "mirror")
    in_order = False  # nothing that is wished anew comes any more from a site that is lost

    def __init__(self, owner: SiteTakeovers, mirror: Mirror, entry: SiteTaken, topic: str) -> None:
        super().__init__(topic, 0, UNBOUNDED)
        self._owner = owner
        self.mirror = mirror
        self.entry = entry

    def claims(self) -> tuple[Claim, ...]:
        return claims_of(self.pattern)

    def take(self, batches: list[StoredBatch]) -> None:
        for b in batches:
            source = self.mirror.topics.by_stream[b.stream].entry.source
            if self.entry.has_some(source, b.base_offset, b.count) and self._owner.move(
                self.mirror, b, self.entry
            ):
                self.credit_bytes -= len(b.payload)


class SiteTakeovers:
    """See the module's header. What is to be stored gathers in ``entries``.

    Attributes:
        site: our own.
        known: by origin; ``stored``: as far as that is synced, which is what others may know.
        parts: origins of logs of which a part has left us, and is to be sent.
        runs: where records of others' logs are in ours, by (origin, group).
        news: sentences for people.
    """

    def __init__(
        self, state: LogState, groups: Groups, takeovers: Takeovers, mirrors: Mirrors,
        topics: Topics,
    ) -> None:  # fmt: skip
        self.site = ""
        self._origin = state.origin
        self._groups = groups
        self._takeovers = takeovers
        self._mirrors = mirrors
        self._own_topics = topics
        self.known: dict[bytes, SiteTaken] = dict(state.site_taken)
        self.runs: dict[tuple[bytes, str], list[MovedRun]] = {
            key: list(runs) for key, runs in state.moved.items()
        }
        self.stored: dict[bytes, SiteTaken] = dict(state.site_taken)
        self.parts: list[bytes] = []
        self.entries: list[Entry] = []
        self.news: list[str] = []
        self._movers: dict[bytes, FarMover] = {}
        self._topics: dict[bytes, list[str]] = {}  # that are to be gone through yet
        self._begin_ns: dict[bytes, int] = {}  # when at the latest what was noted is begun
        self._looked_ns = 0
        self.has_heard: Callable[[SiteTaken], bool] = lambda entry: True
        takeovers.others_hold, takeovers.is_moving_far = self._left_to_us, self.is_moving
        takeovers.on_moved = self._on_moved
        groups.kept = self._kept

    def _left_to_us(self, origin: bytes, stream: int, offsets: list[int]) -> list[int]:
        """Rule 6."""
        known = self.known.get(origin)
        if known is None or known.by == self.site:
            return offsets
        return [offset for offset in offsets if not known.has(stream, offset)]

    def _kept(self, stream: int) -> int | None:
        """Rule 5."""
        known = self.known.get(self._origin)
        if known is None or known.is_over:
            return None
        return min([r.first for r in known.ranges if r.stream == stream], default=None)

    def _note(self, entry: SiteTaken) -> None:
        self.known[entry.origin] = entry
        self.entries.append(entry)

    def is_taker(self, origin: bytes) -> bool:
        """Whether this node has taken a log over."""
        known = self.known.get(origin)
        return known is not None and known.taker == self._origin

    def sites_taken(self) -> set[str]:
        """Those whose groups our own one was told to finish, and has not handed back."""
        return {e.site for e in self.known.values() if e.by == self.site and not e.is_back}

    def puller(self, origin: bytes, siblings: Container[bytes]) -> bytes:
        """Which node of ours is to pull a log that our site was given; empty: any."""
        known = self.known.get(origin)
        if known is None or known.by != self.site:
            return b""
        is_there = known.taker == self._origin or known.taker in siblings
        return known.taker if is_there else b""

    def is_moving(self, origin: bytes) -> bool:
        """Whether records of a log are on their way into our groups, or will be."""
        known = self.known.get(origin)
        is_here = origin in self._mirrors.by_origin
        return is_here and known is not None and self._is_to_move(known)

    def _is_to_move(self, entry: SiteTaken) -> bool:
        return entry.taker == self._origin and not (entry.is_moved or entry.is_back)

    # -- taking over ----------------------------------------------------------------------------

    def plan(self, mirror: Mirror) -> dict[str, Any]:
        """What a takeover of a log would bring."""
        records = 0
        for state in mirror.journal.groups.values():
            takes = topics_of(state.settings)
            for topic in mirror.topics.by_stream.values():
                if takes(topic.entry.name):
                    first = topic.first_offset
                    count = topic.synced_offset - first
                    source = topic.entry.source
                    records += len(mirror.journal.undone(state, source, first, count))
        known = self.known.get(mirror.origin)
        return {
            "name": mirror.shown, "origin": mirror.origin.hex(), "records": records,
            "groups": sorted(g.settings.name for g in mirror.journal.groups.values()),
            "lacks_groups": mirror.lacks, "epoch": known.epoch if known is not None else 0,
            "by": known.by if known is not None else "",
        }  # fmt: skip

    def take(self, mirror: Mirror, now_ns: int) -> dict[str, Any]:
        """A log of another site is ours to finish. Raises CommandFailed."""
        assert mirror.linked is not None
        origin, known = mirror.origin, self.known.get(mirror.origin)
        skipped = self._takeovers.make_groups(mirror)
        states = [g for g in mirror.journal.groups.values() if g.settings.name not in skipped]
        ranges = self._ranges(mirror)
        inside = self._takeovers.known.get(origin)
        epochs = [known.epoch if known is not None else 0, inside.epoch if inside else 0]
        numbers = tuple(sorted(g.settings.id for g in states))
        entry = SiteTaken(
            origin, mirror.name, mirror.linked.site, max(epochs) + 1, self.site, self._origin,
            numbers, ranges,
        )  # fmt: skip
        is_ours = known is not None and self.is_taker(origin) and not known.is_back
        if known is not None and is_ours and (known.groups, known.ranges) == (numbers, ranges):
            entry = known  # said before
        if entry is not known:
            if not is_ours:
                self._takeovers.moved.pop(origin, None)
                self._takeovers.buried.pop(origin, None)
                for key in [key for key in self.runs if key[0] == origin]:
                    del self.runs[key]
                self.entries.append(MovedEntry(origin, "", (), True))
            self._end(origin)
            self._note(entry)
            self._begin_ns[origin] = now_ns + limits.SITE_TAKEOVER_WAIT_NS
        return {
            **self.plan(mirror), "epoch": entry.epoch, "skipped": skipped,
            "groups": sorted(g.settings.name for g in states),
        }  # fmt: skip

    def _ranges(self, mirror: Mirror) -> tuple[TakenRange, ...]:
        """All that has arrived of what groups read, in streams of which something is undone, or
        was taken before."""
        before = self.known.get(mirror.origin)
        mine = before is not None and self.is_taker(mirror.origin) and not before.is_back
        found: dict[int, TakenRange] = {}
        for r in before.ranges if before is not None and mine else ():
            found[r.stream] = r
        for topic in mirror.topics.by_stream.values():
            source, first, end = topic.entry.source, topic.first_offset, topic.synced_offset
            is_left = any(
                topics_of(state.settings)(topic.entry.name)
                and mirror.journal.undone(state, source, first, end - first)
                for state in mirror.journal.groups.values()
            )
            if not is_left and source not in found:
                continue
            known = found.get(source, TakenRange(source, first, end))
            found[source] = TakenRange(source, min(first, known.first), max(end, known.end))
        return tuple(sorted(found.values())[: limits.TAKEN_RANGES_MAX])

    def move(self, mirror: Mirror, b: StoredBatch, entry: SiteTaken) -> bool:
        """Put what is undone of a batch, and was taken, into our groups; whether there was
        anything."""
        inside = self._takeovers.known.get(mirror.origin)
        if inside is not None and (b.lsn, b.slot) < (inside.lsn, inside.slot):
            return False  # another node of that site has it, and rule 6
        return self._takeovers.move(mirror, b, entry)

    def _on_moved(self, origin: bytes, group: str, runs: list[MovedRun]) -> None:
        self.runs.setdefault((origin, group), []).extend(runs)

    def _begin(self, mirror: Mirror, entry: SiteTaken) -> None:
        self._end(entry.origin)
        streams = {r.stream for r in entry.ranges}
        topics = mirror.topics.by_stream.values()
        names = {t.entry.name for t in topics if t.entry.source in streams}
        self._topics[entry.origin] = sorted(names, reverse=True)
        self._next(mirror, entry)

    def _next(self, mirror: Mirror, entry: SiteTaken) -> None:
        """Go through the next topic, or all was looked at."""
        mover = self._movers.pop(entry.origin, None)
        if mover is not None:
            mirror.feed.remove_reader(mover)
        topics = self._topics[entry.origin]
        if topics:
            mover = FarMover(self, mirror, entry, topics.pop())
            self._movers[entry.origin] = mover
            mirror.feed.add_reader(mover)
            self._go_on(entry.origin)
            return
        self._end(entry.origin)
        self._note(entry._replace(is_moved=True))

    def _end(self, origin: bytes) -> None:
        self._topics.pop(origin, None)
        mover = self._movers.pop(origin, None)
        if mover is not None:
            mover.mirror.feed.remove_reader(mover)

    def _go_on(self, origin: bytes) -> None:
        mover = self._movers.get(origin)
        if mover is None or mover.credit_bytes > 0:
            return
        admission = self._groups.shared.admission
        if admission.takes(4 * limits.TAKEOVER_BYTES) and not admission.refusal[0]:
            mover.credit_bytes = limits.TAKEOVER_BYTES
            mover.mirror.feed.feed(mover)

    # -- what others say ------------------------------------------------------------------------

    def told(self, is_far: bool) -> list[SiteTaken]:
        """What a node of another site, or of our own, is told: what is synced. Our own one also
        what others said and is not synced yet: it may wait for that, and for nothing else."""
        rows = dict(self.stored)
        if not is_far:
            rows |= {o: entry for o, entry in self.known.items() if not self.is_taker(o)}
        return [entry for _, entry in sorted(rows.items())]

    def on_taken(self, rows: Iterable[SiteTaken]) -> None:
        """A node tells what it knows, of our own log among them."""
        for row in rows:
            known = self.known.get(row.origin)
            if known is not None and known.rank > row.rank:
                continue
            if known is not None and known.rank == row.rank:
                news = tuple(map(max, known.news, row.news))
                if news != known.news and row.taker != self._origin:
                    self._note(known._replace(is_back=news[0], is_over=news[1]))
                continue
            if row.taker == self._origin:
                continue  # of an earlier life of ours, which lost what it had noted
            self._end(row.origin)
            if row.origin == self._origin:
                self._give_away(row, known)
            else:
                is_ours = known is not None and known.taker == self._origin and not known.is_back
                if known is not None and is_ours and row.by != self.site:
                    self._tell_beaten(row, known)
                self._note(row.told())

    def _tell_beaten(self, row: SiteTaken, known: SiteTaken) -> None:
        """Of two that took a log over while they did not hear each other, we are the lesser."""
        left, which = self.left(row.origin), f"{row.site}/{row.name}"
        self.news.append(
            f"site {row.by} has taken over {which} too (epoch {row.epoch}), and counts for more "
            f"than site {known.by} (epoch {known.epoch}): what is not moved yet is left to it; "
            f"{left} records that were moved to this node are finished here, may be worked on "
            f"there as well, and are marked as possible repeats"
        )

    def _give_away(self, row: SiteTaken, known: SiteTaken | None) -> None:
        """Rule 2; in the commit that notes it."""
        given = [g for g in self._groups.by_name.values() if g.settings.id in row.groups]
        runs: list[HandedRun] = [] if known is None or known.is_over else list(known.pending)
        for group in given:
            for stream, first, end in row.ranges:
                if group.reads(stream):
                    left = group.undone_of(stream, first, end - first)
                    runs += [HandedRun(group.settings.name, stream, *run) for run in left]
                group.give_away(stream, first, end)
        self._note(row.told()._replace(pending=tuple(runs)))
        names = ", ".join(sorted(g.settings.name for g in given)) or "none"
        self.news.append(
            f"site {row.by} has taken over what groups here had not done (epoch {row.epoch}): "
            f"{names}; `meshmq site handback {row.site}`, said there, returns what is left"
        )

    # -- handing back ---------------------------------------------------------------------------

    def left(self, origin: bytes) -> int:
        """Records of a log that were put into our groups, and are not done."""
        return sum([run.count for run, *_ in self._undone(origin)])

    def _undone(self, origin: bytes) -> Iterable[tuple[HandedRun, int, int]]:
        """Records that were put into our groups and are not done, and where they are in our log:
        stream and offset."""
        topics = self._own_topics.by_stream
        for (of, name), runs in self.runs.items():
            group = self._groups.by_name.get(name)
            if of != origin or group is None:
                continue
            due: dict[int, dict[int, tuple[int, int]]] = {}
            for run in runs:
                if run.to not in topics:
                    continue
                times = due.setdefault(run.to, group.due_of(run.to))
                priority = priority_of(topics[run.to].entry.name)
                for at, count, mark in group.left_of(run.to, run.at, run.count):
                    left = HandedRun(name, run.stream, run.first + at - run.at, count)
                    if mark is not None:
                        more = (mark.due_ms, mark.attempts, mark.priority)
                        yield HandedRun(*left[:4], *more), run.to, at
                    elif times:
                        for i in range(count):
                            due_ms, priority = times.get(at + i, (0, 0))
                            one = left._replace(first=left.first + i, count=1, due_ms=due_ms)
                            yield one._replace(priority=priority), run.to, at + i
                    else:
                        yield left._replace(priority=priority), run.to, at

    def hand_back(self, origin: bytes) -> int:
        """What is left of a log goes back to its node; how much that is. Raises CommandFailed."""
        entry = self.known[origin]
        if self.is_moving(origin):
            raise CommandFailed(
                f"what groups of {entry.site}/{entry.name} had not done is being moved here: wait "
                f"until `meshmq sites` says that it is"
            )
        left = self.left(origin)
        if not entry.is_back:
            self._note(entry._replace(is_back=True))
        return left

    def _hand_part(self, entry: SiteTaken) -> SiteTaken:
        """The next part leaves our groups; rule 4."""
        runs: list[HandedRun] = []
        taken: list[tuple[str, int, int, int]] = []
        for run, stream, at in self._undone(entry.origin):
            runs.append(run)
            taken.append((run.group, stream, at, run.count))
            if len(runs) == limits.HANDED_BACK_MAX:
                break
        if not runs:
            return entry._replace(is_over=True)
        for name, stream, at, count in taken:
            self._groups.by_name[name].give_away(stream, at, at + count)
        self._untake(entry.origin, runs)
        return entry._replace(part=entry.part + 1, pending=tuple(runs))

    def _untake(self, origin: bytes, runs: list[HandedRun]) -> None:
        """Our mirror's journal is to know these as not taken."""
        mirror = self._mirrors.by_origin.get(origin)
        if mirror is None:
            return
        numbers = {g.settings.name: n for n, g in mirror.journal.groups.items()}
        for name in {run.group for run in runs} & numbers.keys():
            taken = mirror.journal.taken.groups.get(numbers[name])
            if taken is None:
                continue
            gone = [run for run in runs if run.group == name]
            rows = []
            for stream, offsets in taken.streams.items():
                for first, count in [(0, offsets.floor), *offsets.runs()]:
                    rows += _without(stream, first, count, gone)
            delta = Delta(numbers[name], resets=True, settled=tuple(rows))
            mirror.journal.take(delta)
            self.entries.append(TakenEntry(origin, delta))

    def frames_for(self, origin: bytes) -> list[Body]:
        """What a node whose log we have taken over is told when it is linked."""
        entry = self.stored.get(origin)
        if entry is None or not entry.pending or entry.taker != self._origin:
            return []
        return [HandBack(entry.epoch, entry.part, entry.pending)]

    def on_hand_back(self, frame: HandBack) -> HandedBack | None:
        """Records of ours are our own again; what to answer once that is stored."""
        known = self.known.get(self._origin)
        if known is None or known.epoch != frame.epoch or frame.part > known.part + 1:
            return None
        gone: list[HandedRun] = []
        if frame.part == known.part + 1:
            for run in frame.runs:
                group = self._groups.by_name.get(run.group)
                for part in _common(run, known.pending):
                    lost = part.count - (group.make_ready(part) if group is not None else 0)
                    if lost:
                        gone.append(part._replace(count=lost))
            self._note(known._replace(part=frame.part))
        return HandedBack(frame.epoch, frame.part, tuple(gone))

    def on_handed_back(self, origin: bytes, frame: HandedBack) -> None:
        """The log's node has stored that it has a part."""
        entry = self.known.get(origin)
        if entry is None or not self.is_taker(origin):
            return
        if (entry.epoch, entry.part) == (frame.epoch, frame.part) and entry.pending:
            if frame.gone:
                count = sum([run.count for run in frame.gone])
                self.news.append(
                    f"{count} records that were handed back to {entry.site}/{entry.name} are no "
                    f"longer there: its retention took them"
                )
            self._note(entry._replace(pending=()))

    # -- the log, time --------------------------------------------------------------------------

    def on_commit(self, commit: Commit) -> None:
        """A commit is synced: what was moved is, and more may be."""
        for said in commit.mirrors:
            if isinstance(said, TakenEntry):
                self._go_on(said.origin)
            elif isinstance(said, SiteTaken):
                self.stored[said.origin] = said
                if said.pending and said.taker == self._origin:
                    self.parts.append(said.origin)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        if self._groups.shared.admission.refusal[0]:
            return
        for origin, entry in list(self.known.items()):
            mirror = self._mirrors.by_origin.get(origin)
            if entry.taker != self._origin:
                continue
            if mirror is not None and self._is_to_move(entry):
                self._move_on(mirror, entry, now_ns)
            elif entry.is_back and not (entry.pending or entry.is_over):
                self._note(self._hand_part(entry))
        if now_ns >= self._looked_ns:
            self._looked_ns = now_ns + 2 * limits.SECOND
            for origin, entry in list(self.known.items()):
                is_done = entry.is_moved and not (entry.is_over or entry.is_back)
                if self.is_taker(origin) and is_done and not self.left(origin):
                    self._note(entry._replace(is_over=True))

    def _move_on(self, mirror: Mirror, entry: SiteTaken, now_ns: int) -> None:
        mover = self._movers.get(entry.origin)
        if entry.origin not in self._topics:
            begin_ns = self._begin_ns.setdefault(
                entry.origin, now_ns + limits.SITE_TAKEOVER_WAIT_NS
            )
            if now_ns >= begin_ns or self.has_heard(entry):
                self._begin(mirror, entry)
        elif mover is not None and mover.is_live:
            self._next(mirror, entry)
        else:
            self._go_on(entry.origin)

    def describe(self, names: Mapping[bytes, str]) -> list[dict[str, Any]]:
        """As ``status`` shows it."""
        rows = []
        for origin, entry in self.known.items():
            is_here = self.is_taker(origin)
            rows.append({
                "log": f"{entry.site}/{entry.name}", "origin": origin.hex(), "of": entry.site,
                "by": entry.by, "node": names.get(entry.taker, entry.taker.hex()[:8]),
                "epoch": entry.epoch, "here": is_here, "moving": self.is_moving(origin),
                "moved": self._takeovers.moved.get(origin, 0),
                "dead_letters": self._takeovers.buried.get(origin, 0),
                "left": self.left(origin) if is_here else None,
                "beaten": 0 if is_here else self.left(origin),
                "handing_back": sum([run.count for run in entry.pending]) if is_here else 0,
                "back": entry.is_back, "over": entry.is_over,
            })  # fmt: skip
        return rows


def _common(run: HandedRun, given: Iterable[HandedRun]) -> list[HandedRun]:
    """Records of a run that are among those that were given away."""
    found = []
    for other in given:
        if other[:2] == run[:2]:
            first = max(run.first, other.first)
            count = min(run.first + run.count, other.first + other.count) - first
            if count > 0:
                found.append(run._replace(first=first, count=count))
    return found


def _without(
    stream: int, first: int, count: int, gone: list[HandedRun]
) -> list[tuple[int, int, int]]:
    """A run of a stream, but for those that are gone."""
    found = [(first, first + count)] if count else []
    for run in gone:
        if run.stream == stream:
            begin, end = run.first, run.first + run.count
            found = [
                (a, b)
                for low, high in found
                for a, b in ((low, min(high, begin)), (max(low, end), high))
                if a < b
            ]
    return [(stream, low, high - low) for low, high in found]
