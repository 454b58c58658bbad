"""Durable records of sites that mirror each other's logs: what is published, what each disk has of
each log, and what is read of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from meshmq import codec
from meshmq.core.effects import Arrived, ClientEffect
from meshmq.core.lanes import DONE, Batch
from meshmq.core.log import Commit
from meshmq.core.mirror_log import LinkedEntry
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.subscriber import Start
from meshmq.durability import mirrored, sites_of
from meshmq.frames import SENT, START_EARLIEST
from meshmq.limits import MS, SECOND
from meshmq.names import matches
from meshmq.testing.disk import Disk
from meshmq.testing.site_copying import FACTS, Row, log_of
from meshmq.testing.site_part import Part
from meshmq.testing.stage import WALL_NS

if TYPE_CHECKING:
    from meshmq.testing.links_world import Claim, LinksWorld
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_program import SiteProgram

TOPICS = ("o.a", "o.a", "o.b", "o.tmp.x", "x.c")
WRITTEN_MAX = 200

EVER = (0, 0)
LATE_NS = 5 * SECOND  # so old may be what a site knows of the clock of another one
Log = dict[Row, tuple[object, ...]]


class LinkReading:
    """One subscription from the beginning on.

    Attributes:
        rows: what has come, in order.
    """

    def __init__(self, program: SiteProgram, number: int, pattern: str) -> None:
        self.program = program
        self.number = number
        self.pattern = pattern
        self.at = program.host
        self.rows: list[Row] = []
        self.values: dict[Row, bytes] = {}

    def __repr__(self) -> str:
        return f"{self.program!r} at {self.at}"


class Linking(Part):
    """See the module's header.

    Attributes:
        written: records that were published.
        readings: all that ever were.
        unlike: at rest, what a site has of a log and should not, or the other way.
        kept: at rest, mirrors that are kept or pulled where they need not be.
        changed: offsets that named two batches.
        misplaced: logs of a node's own site that it mirrors, and batches that it has twice.
        early: records that were confirmed as mirrored, and were at too few sites.
        late: at rest, records that are at enough sites, and are not confirmed.
        lost: at rest, what is gone of a site's mirrors though that keeps it.
    """

    world: LinksWorld

    def __init__(self, world: LinksWorld) -> None:
        super().__init__(world)
        self.written = 0
        self.readings: list[LinkReading] = []
        self.unlike: list[str] = []
        self.kept: list[str] = []
        self.changed: list[str] = []
        self.misplaced: list[str] = []
        self.early: list[str] = []
        self.late: list[str] = []
        self.lost: list[str] = []
        self._cut: dict[tuple[str, bytes, str], int] = {}  # up to where a site trimmed its mirror
        self.values: dict[Row, bytes] = {}  # of each record, where it is
        self.begun: dict[tuple[str, bytes], int] = {}  # by site and log: from which time it has it
        self._batches: dict[Row, tuple[object, ...]] = {}  # by each of its offsets
        self._streams: dict[tuple[Disk, Row], int] = {}  # in which each is on a disk

    # -- what programs do -------------------------------------------------------------------------

    def begin(self, program: SiteProgram) -> None:
        if not program.name.startswith("p"):
            return
        self._publish_later(program)
        if self.world.rng.random() < 0.5:
            self.world.after(int(self.world.rng.random() * SECOND), partial(self._read, program))

    def _read(self, program: SiteProgram) -> None:
        if program.is_alive and not self.world.is_calm:
            self.subscribe(program, self.world.rng.choice([self.world.all_read, "o.>", "o.*"]))

    def _publish_later(self, program: SiteProgram) -> None:
        self.later(400 * MS, 5 * SECOND, partial(self._publish, program))

    def _publish(self, program: SiteProgram) -> None:
        if not program.is_alive:
            return
        if not self.world.healed and self.written < WRITTEN_MAX:
            self._publish_some(program, self.world.rng.choice(TOPICS))
        self._publish_later(program)

    def _publish_some(self, program: SiteProgram, topic: str) -> None:
        rng = self.world.rng
        wanted = self._some_durability(program, topic)
        for _ in range(rng.choice([1, 1, 2, 5])):
            self.written += 1
            value = f"{program!r}|{topic}|{self.written}|".encode()
            program.client.publisher.add(
                topic, value.ljust(rng.choice([20, 20, 120]), b"."), None, None, None,
                lambda: WALL_NS + self.world.now_ns, wanted, None, None,
            )  # fmt: skip
        program.settle()

    def _some_durability(self, program: SiteProgram, topic: str) -> int:
        """What a program waits for: at most as many sites as are to have all of a topic at rest."""
        claims, site = self.world.claims(), program.host.site
        sites = [
            one for one, other in claims
            if other == site and _is_of(topic, claims[one, other])
            and not self.world.begins_later(one)
        ]  # fmt: skip
        if self.world.keeps:  # what is behind another site may not get it at all
            sites = [one for one in sites if (one, site) in self.world.wishes]
            sites = [] if self.world.has_trims else sites
        most = len(sites) if self.world.rng.random() < 0.5 else 0
        return mirrored(self.world.rng.randint(1, most)) if most else TOPIC_DEFAULT

    def on_finished(self, program: SiteProgram, batch: Batch) -> None:
        sites = sites_of(batch.durability)
        if batch.state != DONE or not sites or batch.base_offset is None or batch.skipped:
            return
        for i in range(batch.count):
            row = Row(batch.origin, batch.lane.topic, batch.base_offset + i)
            have = self._sites_with(row)
            if len(have) < sites:
                self.early.append(
                    f"{program!r} was told that {row.topic} {row.offset} is at {sites} other "
                    f"sites, and it is at {sorted(have)} (at {self.world.now_ns / SECOND:.4f} s)"
                )

    def _sites_with(self, row: Row) -> set[str]:
        """Other sites that have a record on a disk."""
        home = next((h.site for h in self.world.members if h.origin == row.origin), "")
        have = {h.site for h in self.world.members if (h.disk, row) in self._streams}
        return have - {home}

    def find_late(self) -> Iterator[str]:
        """Records that are at as many sites as was asked for, and whose programs wait for that.
        Sites whose mirrors begin at a time do not count for what is sent again."""
        for program in self.world.programs.values():
            for batch in program.client.publisher.unsettled() if program.is_alive else ():
                sites = sites_of(batch.wanted)
                if batch.durability <= SENT or not sites or batch.base_offset is None:
                    continue
                row = Row(batch.origin, batch.lane.topic, batch.base_offset)
                have = [s for s in self._sites_with(row) if not self.world.begins_later(s)]
                if len(have) >= sites and not self.was_trimmed(row):
                    yield f"{program!r} waits for {row.topic} {row.offset} to be at {sites} sites"

    def calm(self) -> None:
        """New readers at every node, and a few more records."""
        for host in self.world.members:
            program = self.world.begin_reader(f"r{self.world.round}{host.site}{host.name}", host)
            self.subscribe(program, self.world.all_read)
        for name, program in list(self.world.programs.items()):
            if name.startswith("p"):
                self._publish_some(program, "o.a")

    def end_readings(self) -> None:
        """The calm is over."""
        for reading in self.readings:
            if reading.program.name.startswith("r") and reading.program.is_alive:
                reading.program.client.close(self.world.now_ns)
                reading.program.settle()
                reading.program.is_alive = False
                self.world.programs.pop(reading.program.name, None)

    def subscribe(self, program: SiteProgram, pattern: str) -> None:
        """Read all there is, from the beginning on."""
        window = self.world.rng.choice([(1 << 20, 10_000), (1 << 20, 10_000), (400, 8)])
        now_ns = self.world.now_ns
        number = program.client.subscribe(pattern, Start(START_EARLIEST), *window, now_ns)
        self.readings.append(LinkReading(program, number, pattern))
        program.settle()

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        if not isinstance(effect, Arrived):
            return
        for reading in self.readings:
            if reading.program is program and reading.number == effect.subscription:
                break
        else:
            return
        for a in [a for a in effect.arrivals if a.lsn]:  # the rest is transient
            values = codec.decode_batch(a.payload, a.count).values
            for i in range(a.skip, a.count):
                row = Row(a.origin, a.topic, a.base_offset + i)
                reading.rows.append(row)
                reading.values[row] = bytes(values[i])
        self.consume_soon(program, effect)

    # -- what disks have --------------------------------------------------------------------------

    def on_synced(self, host: Host, commit: Commit) -> None:
        state = host.disk.state
        copied = {c.index: c for c in commit.copied}
        for slot, b in enumerate(commit.batches):
            stream = state.streams.get(b.stream)
            if stream is None:
                continue
            origin, place = state.origin, (commit.lsn, slot)
            c = copied.get(slot)
            if c is not None:
                origin, place = c.origin, (c.lsn, c.slot)
            topic = stream.topic.name
            facts = (b.base_offset, b.count, b.checksum, b.payload, *place, b.producer, b.first)
            values = codec.decode_batch(b.payload, b.count).values if topic[0] != "$" else ()
            for i in range(b.count):
                row = Row(origin, topic, b.base_offset + i)
                if values:
                    self.values.setdefault(row, bytes(values[i]))
                if self._batches.setdefault(row, facts) != facts:
                    text = f"{row.topic} {row.offset} of {self._name(origin)} is another at {host}"
                    self.changed.append(f"{text}: {facts} for {self._batches[row]}")
                before = self._streams.get((host.disk, row))
                if before is not None and before in state.streams:
                    text = f"{host} has {row.topic} {row.offset} of {self._name(origin)} twice"
                    self.misplaced.append(text)
                self._streams[host.disk, row] = b.stream
        for said in commit.mirrors:
            if isinstance(said, LinkedEntry):
                key = host.site, said.origin
                self.begun[key] = min(self.begun.get(key, said.since), said.since)
        for origin, mirror in state.mirrors.items():
            site = next((h.site for h in self.world.members if h.origin == origin), "")
            if (mirror.linked is not None) != (site != host.site) or origin == state.origin:
                self.misplaced.append(f"{host} mirrors {self._name(origin)} as {mirror.linked}")

    def _name(self, origin: bytes) -> str:
        return repr(next((h for h in self.world.members if h.origin == origin), origin.hex()))

    # -- what must be there -----------------------------------------------------------------------

    def wanted(self, host: Host, site: str, claims: dict[tuple[str, str], Claim]) -> Log:
        """What of a node's log another site, or its own one, is to have."""
        own = log_of(host.disk, host.origin)
        if site == host.site:
            return own
        topics, exclude = claims.get((site, host.site), ((), ()))
        since = self.since(site, host)
        return {
            row: facts for row, facts in own.items()
            if row.topic[0] != "$"
            and any(matches(p, row.topic) for p in topics)
            and not any(matches(p, row.topic) for p in exclude)
            and _stored_at(facts) >= since
        }  # fmt: skip

    def since(self, site: str, host: Host) -> int:
        """From which time on a site is to have what a node of another one has stored."""
        since = self.world.since_ns[site]
        begun = self.begun.get((site, host.origin), since)
        # A mirror begins no later than it was at the log's node, by what was told of that.
        return begun if self.world.ages[site] or 0 <= since - begun <= LATE_NS else since

    def may_have(self, site: str, row: Row) -> bool:
        """Whether a site wished a record's topic for a while, of whatever site it is; or wishes it
        still, and had it from another one that did for a while."""
        if not self.world.ever:
            return False
        some = [c for (one, _), claims in self.world.ever.items() if one == site for c in claims]
        home = next((h.site for h in self.world.members if h.origin == row.origin), "")
        still = {to: claim for (one, to), claim in self.world.wishes.items() if one == site}
        some += [still[home]] if home in still else still.values()
        return any(_is_of(row.topic, claim) for claim in some)

    def place_of(self, row: Row) -> tuple[int, int]:
        """Where a record lies in its log."""
        _, _, _, _, lsn, slot, *_ = self._batches[row]
        assert isinstance(lsn, int)
        assert isinstance(slot, int)
        return lsn, slot

    def find_unlike(self) -> Iterator[str]:
        """Where a site has of another one's log not exactly what it wishes."""
        claims = self.world.claims()
        for host in self.world.members:
            for site, members in self.world.site_of.items():
                if site == host.site:
                    continue
                want = self.wanted(host, site, claims)
                holders = [h for h in members if host.origin in h.disk.state.mirrors]
                if want and not holders:
                    yield f"nobody at {site} has anything of {host}"
                for holder in holders:
                    yield from self._differences(host, want, holder)

    def find_kept(self) -> Iterator[str]:
        """Where not one node of a site keeps and pulls a log that it is to have."""
        claims = self.world.claims()
        for host in self.world.members:
            for site, members in self.world.site_of.items():
                if site == host.site:
                    continue
                at = [h for h in members if host.origin in h.disk.state.mirrors]
                wanted = (site, host.site) in claims
                if self.world.ever and not wanted:
                    continue  # it may have been for a while
                if len(at) != wanted:
                    word = "" if wanted else "not "
                    yield f"{at} of {site} keep {host}'s log, which is {word}wished"
                pulling = [h for h in members if self._is_pulling(h, host)]
                if pulling != at:
                    yield f"{pulling} of {site} pull {host}'s log, which {at} keep"

    @staticmethod
    def _is_pulling(host: Host, of: Host) -> bool:
        site = host.node.site if host.node is not None else None
        mirror = site.copies.mirrors.by_origin.get(of.origin) if site is not None else None
        return mirror is not None and bool(mirror.number)

    def on_kept(self, site: str, origin: bytes, topic: str, first: int) -> None:
        """A site keeps its mirror of a topic from an offset on, by its own word."""
        key = site, origin, topic
        self._cut[key] = max(first, self._cut.get(key, 0))

    def may_lack(self, site: str, row: Row) -> bool:
        """Whether a record was trimmed by a site's own word, or by that of some other one, and this
        one has no link with the record's own."""
        home = next((h.site for h in self.world.members if h.origin == row.origin), "")
        some = (site,) if (site, home) in self.world.wishes else self.world.sites
        return any(row.offset < self._cut.get((s, row.origin, row.topic), 0) for s in some)

    def find_lost(self) -> Iterator[str]:
        """Where a site that keeps all that it mirrors has no more what it had."""
        world = self.world
        for disk, row in self._streams:
            at = next((h for h in world.members if h.disk is disk), None)
            if at is None or world.kept[at.site] != EVER or row.origin == at.origin:
                continue
            home = next((h.site for h in world.members if h.origin == row.origin), at.site)
            if home == at.site or row.topic[0] == "$":
                continue
            if not any(self._has(h, row) for h in world.site_of[at.site]):
                yield f"{at.site} has no more {row.topic} {row.offset} of {self._name(row.origin)}"

    def _has(self, host: Host, row: Row) -> bool:
        held = host.disk.state.streams.get(self._streams.get((host.disk, row), 0))
        return held is not None and held.first_offset <= row.offset

    def was_trimmed(self, row: Row) -> bool:
        """Whether a record is no longer kept where it was published; others may have it still."""
        states = [h.disk.state for h in self.world.members if h.origin == row.origin]
        topics = [state.topics.get(row.topic) for state in states]
        return any(topic is not None and row.offset < topic.first_offset for topic in topics)

    def _differences(self, host: Host, want: Log, holder: Host) -> Iterator[str]:
        log = log_of(holder.disk, host.origin)
        has = {row: facts for row, facts in log.items() if row.topic[0] != "$"}
        lacks = [row for row in want.keys() - has.keys() if not self.may_lack(holder.site, row)]
        for row in sorted(lacks)[:3]:
            yield f"{holder} lacks {host}'s {row.topic} {row.offset}"
        more = [
            row for row in has.keys() - want.keys()
            if not (self.was_trimmed(row) or self.may_have(holder.site, row))
        ]  # fmt: skip
        since = self.since(holder.site, host)
        more += [row for row, facts in has.items() if _stored_at(facts) < since]
        for row in sorted(more)[:3]:
            yield f"{holder} has {host}'s {row.topic} {row.offset}, which it should not"
        for row in sorted(want.keys() & has.keys()):
            if want[row] != has[row]:
                names = zip(FACTS, has[row], want[row], strict=True)
                unlike = ", ".join([f"{n} {a!r} for {b!r}" for n, a, b in names if a != b])
                yield f"{holder} has of {host}'s {row.topic} {row.offset} {unlike}"

    def expected(self, reading: LinkReading, claims: dict[tuple[str, str], Claim]) -> set[Row]:
        """Records that a reader is to have at rest."""
        found = set()
        for host in self.world.members:
            for row, facts in self.wanted(host, reading.at.site, claims).items():
                if matches(reading.pattern, row.topic):
                    count = facts[0]
                    assert isinstance(count, int)
                    found |= {row._replace(offset=row.offset + i) for i in range(count)}
        return found

    def find_unread(self) -> Iterator[str]:
        """Readers that have not got exactly what they are to have."""
        claims = self.world.claims()
        for reading in self.readings:
            if not reading.program.is_alive:
                continue
            is_behind = self.world.ever or self.world.ages[reading.at.site]
            if is_behind and not reading.program.name.startswith("r"):
                continue  # what was wished again, or had begun earlier, has come behind it
            want, has = self.expected(reading, claims), set(reading.rows)
            more_rows = [
                row for row in has - want
                if not (self.was_trimmed(row) or self.may_have(reading.at.site, row))
            ]  # fmt: skip
            want = {row for row in want if row in has or not self.may_lack(reading.at.site, row)}
            if more_rows or not want <= has:
                lacks = [self.values[row] for row in sorted(want - has)[:3]]
                more = [self.values.get(row) for row in sorted(more_rows)[:3]]
                yield f"{reading!r} lacks {lacks} of {len(want)}, and has {more} more"

    def waits(self) -> Iterator[str]:
        """What is to come yet."""
        yield from self.find_kept()
        yield from self.find_unlike()
        yield from self.find_unread()
        yield from self.find_late()

    def compare(self) -> None:
        """All is at rest."""
        before = f"round {self.world.round}: "
        self.unlike += [before + text for text in self.find_unlike()]
        self.kept += [before + text for text in self.find_kept()]
        self.late += [before + text for text in self.find_late()]
        self.lost += [before + text for text in self.find_lost()]


def _stored_at(facts: tuple[object, ...]) -> int:
    """When a batch was stored in its log, unix ns."""
    place = facts[3]
    assert isinstance(place, tuple)
    return int(place[2])


def _is_of(topic: str, claim: Claim) -> bool:
    return any(matches(p, topic) for p in claim[0]) and not any(matches(p, topic) for p in claim[1])
