"""Whose each record of a group is, in a history of sites that are lost and taken over.

From what disks note of takeovers and from frames that hand back, it is known which site may hand a
record out; each hand-out is compared with that. A record is moved by a takeover into its taker's
log: it is followed from its place in the one to its place in the other, and so is a dead letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from meshmq import codec, limits
from meshmq.core.journal import Delta
from meshmq.core.log import Commit
from meshmq.core.mirror_log import TakenEntry
from meshmq.core.site_taken import MovedEntry
from meshmq.frames import Envelope, HandOut
from meshmq.frames_site_words import HandBack, HandedRun, SiteTaken
from meshmq.limits import SECOND
from meshmq.names import dead_letters_of
from meshmq.testing.site_part import Part

if TYPE_CHECKING:
    from meshmq.testing.links_lost import LostSitesWorld
    from meshmq.testing.site_host import Host, Wire

GROUP, PATTERN = "g", "o.>"
DEAD = dead_letters_of(GROUP)
Owner = tuple[int, str]
"""(epoch, site) by which a site hands a record out; of epoch 0: its own."""


class Place(NamedTuple):
    """A record: in which log, of which stream there."""

    origin: bytes
    stream: int
    offset: int


class Letter(NamedTuple):
    """A record that was given up, by the node of ``origin``; a takeover moves it, and it stays the
    same one."""

    value: bytes
    origin: bytes
    offset: int


@dataclass
class Run:
    """One run of a node.

    Attributes:
        epoch: of the host. since_ns: its start.
        had_groups: its disk had, when it started.
        has_heard: a node of another site has told what it knows, to it or to one of its own site.
        rank: the newest takeover of its log that it was told of.
    """

    epoch: int
    since_ns: int
    had_groups: bool
    has_heard: bool = False
    rank: tuple[int, str, bytes] = (0, "", b"")


class Owners(Part):
    """See the module's header.

    Attributes:
        given: what a node handed out though it knew, or would have had to wait to hear, that it is
            another site's.
        shared: what two sites handed out under one (epoch, site).
        again: what a node handed out although it has on its disk that it is done.
        returned: what was handed back wrongly: twice, or though it was done or never taken.
        strayed: what was moved by who is not its taker, or a second time.
        letters: dead letters, by node and offset.
    """

    world: LostSitesWorld

    def __init__(self, world: LostSitesWorld) -> None:
        super().__init__(world)
        self.given: list[str] = []
        self.shared: list[str] = []
        self.again: list[str] = []
        self.returned: list[str] = []
        self.strayed: list[str] = []
        self.letters: dict[tuple[bytes, int], Letter] = {}
        self._known: dict[tuple[bytes, bytes], SiteTaken] = {}  # on the disk of a node, of a log
        self._mine: dict[tuple[bytes, bytes], SiteTaken] = {}  # the newest by which it is taker
        self._takeovers: dict[bytes, list[SiteTaken]] = {}  # that their takers have noted, of a log
        self._gave: dict[bytes, list[SiteTaken]] = {}  # that the log's own node has noted
        self._copies: dict[tuple[bytes, Place], list[Place]] = {}  # where a taker has put a record
        self._moved: dict[Place, list[Place]] = {}  # likewise, whichever taker
        self._sources: dict[Place, Place] = {}  # and back
        self._parts: dict[tuple[tuple[int, str, bytes], Place], int] = {}
        self._left: set[Place] = set()  # copies that were handed back
        self._back: set[tuple[Owner, Place]] = set()  # told to the log's node
        self._works: dict[tuple[Owner, Place], set[str]] = {}
        self._done: set[Place] = set()
        self._seen: set[int] = set()
        self._runs: dict[Host, Run] = {}

    # -- what disks say -------------------------------------------------------------------------

    def on_synced(self, host: Host, commit: Commit) -> None:
        moved: list[Letter] = []
        for said in commit.mirrors:
            match said:
                case SiteTaken():
                    self._note(host, said)
                case MovedEntry():
                    self._on_moved(host, said)
                case TakenEntry():
                    moved += self._letters_of(said)
        self._note_letters(host, commit, moved)
        self._note_done(host, commit)

    def _note(self, host: Host, said: SiteTaken) -> None:
        self._known[host.origin, said.origin] = said
        gave = self._gave.setdefault(host.origin, [])
        if said.origin == host.origin and (not gave or gave[-1].rank != said.rank):
            gave.append(said)
        if said.taker != host.origin:
            return
        before = self._mine.get((host.origin, said.origin))
        self._mine[host.origin, said.origin] = said
        if before is None or before.rank != said.rank:
            self._takeovers.setdefault(said.origin, []).append(said)
        elif said.part != before.part:
            self._on_part(host, said)

    def _on_moved(self, host: Host, said: MovedEntry) -> None:
        known = self._known.get((host.origin, said.origin))
        for run in said.runs:
            for i in range(run.count):
                source = Place(said.origin, run.stream, run.first + i)
                place = Place(host.origin, run.to, run.at + i)
                had = self._copies.setdefault((host.origin, source), [])
                if known is None or known.taker != host.origin:
                    self.strayed.append(f"{host} moved {self._text(source)}, which {known} has")
                if any(one not in self._left for one in had):
                    self.strayed.append(f"{host} moved {self._text(source)} a second time")
                had.append(place)
                self._moved.setdefault(source, []).append(place)
                self._sources[place] = source

    def _on_part(self, host: Host, said: SiteTaken) -> None:
        """A part of what is left is on its way back."""
        for place in _places(said.origin, said.pending):
            text = f"{host} handed back {self._text(place)}"
            copies = self._copies.get((host.origin, place), ())
            if not copies:
                self.returned.append(f"{text}, which it had not taken over")
            if any(one in self._done for one in copies):
                self.returned.append(f"{text}, which was done there")
            before = self._parts.setdefault((said.rank, place), said.part)
            if before != said.part:
                self.returned.append(f"{text} in parts {before} and {said.part}")
            self._left.update(copies)

    # -- dead letters ---------------------------------------------------------------------------

    def _letters_of(self, said: TakenEntry) -> Iterator[Letter]:
        """Dead letters of a log that its taker has moved."""
        host = self._host(said.origin)
        topic = host.disk.state.topics.get(DEAD) if host is not None else None
        for stream, first, count in said.taken.settled:
            if topic is not None and stream == topic.topic.stream:
                for offset in range(first, first + count):
                    yield self.letters[said.origin, offset]

    def _note_letters(self, host: Host, commit: Commit, moved: list[Letter]) -> None:
        copied = {c.index for c in commit.copied}
        topic = host.disk.state.topics.get(DEAD)
        for slot, b in enumerate(commit.batches):
            if slot in copied or topic is None or b.stream != topic.topic.stream:
                continue
            for i, value in enumerate(codec.decode_batch(b.payload, b.count).values):
                offset = b.base_offset + i
                one = next((row for row in moved if row.value == bytes(value)), None)
                if one is not None:
                    moved.remove(one)
                self.letters[host.origin, offset] = one or Letter(bytes(value), host.origin, offset)

    def dead(self) -> Counter[bytes]:
        """Dead letters that are listed somewhere, by value."""
        return Counter([letter.value for _, _, letter in self.listed()])

    def listed(self) -> Iterator[tuple[Host, int, Letter]]:
        """Dead letters that nodes list, and at which offset."""
        for (origin, offset), letter in self.letters.items():
            host = self._host(origin)
            group = host.node.groups.by_name.get(GROUP) if host and host.node else None
            if host is None or group is None:
                continue
            stream = host.disk.state.topics[DEAD].topic.stream
            if offset not in group.state.settled(stream):
                yield host, offset, letter

    def find_doubled(self) -> Iterator[str]:
        """Dead letters that are at a node twice, or still at one that gave them away; and records
        that a node has given up twice."""
        seen: Counter[tuple[Host, Letter]] = Counter()
        for host, offset, letter in self.listed():
            seen[host, letter] += 1
            place = Place(host.origin, host.disk.state.topics[DEAD].topic.stream, offset)
            for said in self._gave.get(host.origin, ()):
                if _covers(said, place):
                    yield f"{host} lists {letter.value!r}, a dead letter that {said.by} has"
        for (host, letter), count in seen.items():
            if count > 1:
                yield f"{letter.value!r} is {count} dead letters at {host}, from one"
        deaths = Counter([(one.value, one.origin) for one in set(self.letters.values())])
        for (value, origin), count in deaths.items():
            if count > 1:
                yield f"{self._host(origin)} has given {value!r} up {count} times"

    # -- what nodes hand out ----------------------------------------------------------------------

    def on_told(self, host: Host, link: bytes, envelope: Envelope) -> None:
        if isinstance(envelope.body, HandOut):
            self._on_handed(host, envelope.body)

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        body = envelope.body
        if isinstance(body, HandOut):
            self._on_handed(host, body)
        elif isinstance(body, HandBack):
            other = wire.listener if wire.dialler is host else wire.dialler
            if other is not None:
                for place in _places(other.origin, body.runs):
                    self._back.add(((body.epoch, host.site), place))

    def _on_handed(self, host: Host, body: HandOut) -> None:
        if body.origin not in (b"", host.origin):
            return  # a sibling's, which it passes on
        for row in body.rows:
            if row.number in self._seen:
                continue  # it is sent again
            self._seen.add(row.number)
            topic = host.disk.state.topics.get(row.topic)
            if topic is not None:
                for offset in row.offsets or range(row.first, row.first + row.count):
                    self._on_work(host, Place(host.origin, topic.topic.stream, offset))

    def _on_work(self, host: Host, place: Place) -> None:
        """A node hands a record of its own log out."""
        text = f"{host} handed out {self._text(place)} at {self.world.now_ns / SECOND:.4f} s"
        owner = 0, host.site
        known = self._known.get((host.origin, host.origin))
        if known is not None and _covers(known, place):
            owner = known.epoch, known.by
            if (owner, place) not in self._back:
                self.given.append(f"{text}, which {known.by} has (epoch {known.epoch})")
        else:
            for said in self._takeovers.get(host.origin, ()):
                if _covers(said, place) and self._must_know(host, said):
                    self.given.append(f"{text}, which {said.by} has (epoch {said.epoch}), unheard")
        if place in self._done:
            self.again.append(f"{text}, which was done")
        self._share(host, place, owner, text)
        source = self._sources.get(place)
        if source is None:
            return
        mine = self._mine[host.origin, source.origin]
        if place in self._left:
            self.shared.append(f"{text}, {self._text(source)}, which it has handed back")
        self._share(host, source, (mine.epoch, mine.by), text)

    def _share(self, host: Host, place: Place, owner: Owner, text: str) -> None:
        sites = self._works.setdefault((owner, place), set())
        home = self._host(place.origin)
        is_back = (owner, place) in self._back and home is not None and home.site == host.site
        if sites - {host.site} and not is_back:
            self.shared.append(f"{text}, {self._text(place)} of {sites} under {owner}")
        sites.add(host.site)

    # -- what a node has to know ----------------------------------------------------------------

    def on_turn_ended(self, host: Host) -> None:
        self._look(host)

    def _look(self, host: Host) -> Run:
        """What a run of a node was told by now."""
        run = self._runs.get(host)
        if run is None or run.epoch != host.epoch:
            has_groups = bool(host.disk.state.journal.groups)
            run = self._runs[host] = Run(host.epoch, self.world.now_ns, has_groups)
        site = host.node.site if host.node is not None else None
        for origin, told in site.words._heard.items() if site is not None else ():
            other = self._host(origin)
            if host.origin in told:
                run.rank = max(run.rank, told[host.origin].rank)
            if other is not None:
                there = self._runs.get(other) if other.site == host.site else None
                is_told = there is not None and there.epoch == other.epoch and there.has_heard
                run.has_heard = run.has_heard or is_told or other.site != host.site
        return run

    def _must_know(self, host: Host, said: SiteTaken) -> bool:
        """Whether a node has to know of a takeover of its log, or has started and has to wait for
        who may."""
        run = self._look(host)
        if run.rank == said.rank:  # a greater one may take less, and is all that it hears of
            return True
        is_early = self.world.now_ns < run.since_ns + limits.RETURN_WAIT_NS
        has_links = bool(host.links)  # type: ignore[attr-defined]
        return is_early and run.had_groups and has_links and not run.has_heard

    # -- what is done -----------------------------------------------------------------------------

    def _note_done(self, host: Host, commit: Commit) -> None:
        """What a group has done for good; what is given away in the same commit it has not."""
        gives = [said for said in self._gave.get(host.origin, ()) if said in commit.mirrors]
        state = host.disk.state.journal
        for delta in commit.journal:
            if not isinstance(delta, Delta) or delta.group not in state.groups:
                continue
            marks = state.groups[delta.group].marks
            runs = [*delta.settled, *[(stream, offset, 1) for stream, offset in delta.unmarked]]
            for stream, first, count in runs:
                for offset in range(first, first + count):
                    place = Place(host.origin, stream, offset)
                    is_given = any(_covers(said, place) for said in gives) or place in self._left
                    if not is_given and (stream, offset) not in marks:
                        self._done.add(place)

    def is_done(self, place: Place) -> bool:
        """Whether it is, in its own log or where takers have put it."""
        return place in self._done or any(map(self.is_done, self._moved.get(place, ())))

    # -- in words -------------------------------------------------------------------------------

    def _host(self, origin: bytes) -> Host | None:
        return next((host for host in self.world.members if host.origin == origin), None)

    def _text(self, place: Place) -> str:
        host = self._host(place.origin)
        held = host.disk.state.streams.get(place.stream) if host is not None else None
        topic = held.topic.name if held is not None else str(place.stream)
        return f"{topic} {place.offset} of {host}"


def _places(origin: bytes, runs: tuple[HandedRun, ...]) -> Iterator[Place]:
    for run in runs:
        for offset in range(run.first, run.first + run.count):
            yield Place(origin, run.stream, offset)


def _covers(said: SiteTaken, place: Place) -> bool:
    """Whether a record is the taker's; each node has one group."""
    return bool(said.groups) and said.has(place.stream, place.offset)
