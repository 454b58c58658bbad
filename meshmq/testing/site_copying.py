"""Durable records in a site whose nodes copy each other's logs: what is published and confirmed,
what each disk has of each log, and what is read of it all when nothing fails any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from meshmq import codec
from meshmq.core.effects import Arrived, ClientEffect
from meshmq.core.lanes import DONE, Batch
from meshmq.core.log import Commit
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.core.subscriber import Start
from meshmq.frames import REPLICATED, START_EARLIEST
from meshmq.limits import MS, SECOND
from meshmq.names import lane_of
from meshmq.testing.disk import Disk
from meshmq.testing.site_part import Part
from meshmq.testing.stage import WALL_NS

if TYPE_CHECKING:
    from meshmq.testing.copies_faults import Doom
    from meshmq.testing.copies_program import CopiesProgram
    from meshmq.testing.copies_world import CopiesWorld
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_program import SiteProgram

PATTERN = "c.>"
TOPICS = ("c.a", "c.b")
WORK_TOPICS = ("g.a", "g.b")
QUEUE = "q"
FACTS = ("count", "checksum", "payload", "place", "producer", "first", "moved")
WRITTEN_MAX = 250  # of a history: each is looked at by everybody in the end

Place = tuple[int, int]  # lsn and slot on one disk


class Row(NamedTuple):
    """One batch of a log."""

    origin: bytes
    topic: str
    offset: int


class Written:
    """One record that was published, and the batch it went in."""

    def __init__(self, program: SiteProgram, topic: str, value: bytes) -> None:
        self.program = program
        self.topic = topic
        self.value = value
        self.batch: Batch
        self.index = 0

    def __repr__(self) -> str:
        return self.value.decode()

    @property
    def is_confirmed(self) -> bool:
        return self.batch.state == DONE

    @property
    def is_replicated(self) -> bool:
        """Whether it was confirmed as that."""
        return self.is_confirmed and self.batch.durability == REPLICATED

    @property
    def row(self) -> Row | None:
        """Where it is, as far as its program was told."""
        batch = self.batch
        if not self.is_confirmed or batch.base_offset is None or self.index < batch.skipped:
            return None
        return Row(batch.origin, self.topic, batch.base_offset + self.index - batch.skipped)


class Reading:
    """One subscription from the beginning on.

    Attributes:
        rows: what has come, in order.
        damaged: records that it was told are damaged.
    """

    def __init__(self, program: CopiesProgram, number: int, is_dedup: bool) -> None:
        self.program = program
        self.number = number
        self.is_dedup = is_dedup
        self.at = program.host
        self.rows: list[tuple[Row, bytes]] = []
        self.values: Counter[bytes] = Counter()
        self.damaged = 0

    def __repr__(self) -> str:
        return f"{self.program!r} at {self.at}" + (", dedup" if self.is_dedup else "")


class Copying(Part):
    """See the module's header.

    Attributes:
        written: all records that were published, by value.
        readings: all that ever were.
        final: those of the calm, one at each node.
        early: what was confirmed as replicated and was not.
        unlike: copies that were not like their log.
        flipped: rows that were damaged on a disk.
    """

    world: CopiesWorld

    def __init__(self, world: CopiesWorld) -> None:
        super().__init__(world)
        self.written: dict[bytes, Written] = {}
        self.readings: list[Reading] = []
        self.final: list[Reading] = []
        self.early: list[str] = []
        self.unlike: list[str] = []
        self.flipped: set[Row] = set()
        self.has_queue = world.rng.random() < 0.5
        self._rows: dict[Row, dict[Disk, tuple[Place, int]]] = {}
        self._of: dict[Disk, dict[Place, Row]] = {}

    # -- what programs do -------------------------------------------------------------------------

    def begin(self, program: SiteProgram) -> None:
        if program.name.startswith("p"):
            program.client.publisher.queues.add(QUEUE)
            self._publish_later(program)

    def _publish_later(self, program: SiteProgram) -> None:
        self.later(500 * MS, 5 * SECOND, partial(self._publish, program))

    def _publish(self, program: SiteProgram) -> None:
        if not program.is_alive:
            return
        if not self.world.healed and len(self.written) < WRITTEN_MAX:
            self._publish_some(program)
        self._publish_later(program)

    def _publish_some(self, program: SiteProgram) -> None:
        rng = self.world.rng
        topics = [*TOPICS, *WORK_TOPICS, *((QUEUE,) if self.has_queue else ())]
        topic = rng.choice(topics)
        wanted = rng.choice([REPLICATED, REPLICATED, TOPIC_DEFAULT])
        options: Any = None
        if topic == QUEUE:
            priority = rng.choice([0, 0, 5])
            options = codec.JobOptions(priority=priority)
            topic = lane_of(topic, priority)
        for _ in range(rng.choice([1, 1, 2, 5])):
            value = f"{program!r}|{topic}|{len(self.written)}|".encode()
            value = value.ljust(rng.choice([20, 20, 120]), b".")
            one = self.written[value] = Written(program, topic, value)
            one.batch, one.index = program.client.publisher.add(
                topic, value, None, None, None, lambda: WALL_NS + self.world.now_ns, wanted, None,
                options,
            )  # fmt: skip
        program.settle()

    def subscribe(self, program: CopiesProgram, is_dedup: bool) -> Reading:
        """Read all there is, from the beginning on."""
        window = self.world.rng.choice([(1 << 20, 10_000), (1 << 20, 10_000), (400, 8)])
        now_ns = self.world.now_ns
        number = program.client.subscribe(PATTERN, Start(START_EARLIEST), *window, now_ns, is_dedup)
        reading = Reading(program, number, is_dedup)
        self.readings.append(reading)
        program.settle()
        return reading

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        if not isinstance(effect, Arrived):
            return
        for reading in self.readings:
            if reading.program is program and reading.number == effect.subscription:
                break
        else:
            return
        reading.damaged = effect.damaged
        for a in effect.arrivals:
            values = codec.decode_batch(a.payload, a.count).values
            for i in range(a.skip, a.count):
                value = bytes(values[i])
                reading.rows.append((Row(a.origin, a.topic, a.base_offset + i), value))
                reading.values[value] += 1
        self.consume_soon(program, effect)

    # -- what disks have --------------------------------------------------------------------------

    def on_synced(self, host: Host, commit: Commit) -> None:
        disk, streams = host.disk, host.disk.state.streams
        copied = {c.index: c.origin for c in commit.copied}
        for slot, batch in enumerate(commit.batches):
            stream = streams.get(batch.stream)
            if stream is not None and batch.payload:
                origin = copied.get(slot, disk.state.origin)
                row = Row(origin, stream.topic.name, batch.base_offset)
                place = (commit.lsn, slot)
                self._rows.setdefault(row, {})[disk] = (place, batch.stream)
                self._of.setdefault(disk, {})[place] = row

    def on_put_back(self, host: Host, before: Disk) -> None:
        """A node has an older state of its disk, which was ``before``."""
        end = host.disk.state.next_lsn
        of = {place: row for place, row in self._of.get(before, {}).items() if place[0] < end}
        self._of[host.disk] = of
        for place, row in of.items():
            self._rows[row][host.disk] = place, self._rows[row][before][1]

    def rows_of(self, host: Host) -> list[tuple[Row, Place]]:
        """What a disk has, of its own log and of others."""
        return [
            (row, place)
            for place, row in self._of.get(host.disk, {}).items()
            if self._rows[row][host.disk][0] == place and self._is_kept(host, row)
        ]

    def others_with(self, row: Row, host: Host) -> list[Host]:
        """Nodes whose disks have a row whole, but one."""
        found = self._rows.get(row, {})
        return [
            other
            for other in self.world.members
            if other is not host
            and other.disk in found
            and found[other.disk][1] in other.disk.state.streams
            and found[other.disk][0] not in other.disk.flipped
        ]

    def damaged_disks(self, row: Row) -> int:
        """So many have it damaged."""
        return sum(place in disk.flipped for disk, (place, _) in self._rows.get(row, {}).items())

    def on_finished(self, program: SiteProgram, batch: Batch) -> None:
        if batch.state != DONE or batch.durability != REPLICATED or batch.base_offset is None:
            return
        if batch.skipped:
            return
        row = Row(batch.origin, batch.lane.topic, batch.base_offset)
        disks = [d for d in self._rows.get(row, {}) if d.state.origin != batch.origin]
        if len(disks) < self.world.copies - 1 and not self._was_done(row):
            self.early.append(
                f"{program!r} was told that {row.topic} {row.offset} is replicated, and "
                f"{len(disks)} other nodes have it (at {self.world.now_ns / SECOND:.4f} s)"
            )

    def _was_done(self, row: Row) -> bool:
        """Whether it was a job that is done by now: copies need not have it any more."""
        disks = [d for d in self._rows.get(row, {}) if d.state.origin == row.origin]
        return any(
            s.topic.name == row.topic and not s.topic.origin and row.offset < s.first_offset
            for d in disks
            for s in d.state.streams.values()
        )

    # -- what must be there -----------------------------------------------------------------------

    def is_lost(self, one: Written) -> bool:
        """Whether it went with a disk, as it may."""
        doom = self.world.doom
        if doom is None or not doom.has_lost or one.is_replicated:
            return False
        return one.batch.origin == doom.origin

    def expected(self, pattern: str) -> Iterator[Written]:
        """Confirmed records whose topic begins so, that nothing may have taken away."""
        for one in self.written.values():
            if one.is_confirmed and one.topic.startswith(pattern) and not self.is_lost(one):
                yield one

    def calm(self) -> None:
        self.final = []
        for host in list(self.world.members):
            program = self.world.begin_reader(f"r{self.world.round}{host.name}", host)
            self.final.append(self.subscribe(program, False))

    def end_readings(self) -> None:
        """The calm is over."""
        for reading in self.final:
            reading.program.close()
        self.final = []

    def waits(self) -> Iterator[str]:
        """What is to come yet."""
        wanted = {one.value for one in self.expected("c.")}
        for reading in self.final:
            if not wanted <= reading.values.keys():
                yield f"{reading!r} has not got all"
        yield from self.find_incomplete()

    def find_incomplete(self) -> Iterator[str]:
        """Nodes of whose log not every row is on as many disks as it is to be."""
        members = self.world.members
        for host in members:
            for place, row in self._of.get(host.disk, {}).items():
                if row.origin != host.origin or not self._is_kept(host, row):
                    continue
                others = [h for h in members if h is not host and self._has(h, row)]
                # What was damaged when it was copied is whole at one of them.
                needed = 1 if row in self.flipped else min(self.world.copies, len(members)) - 1
                if len(others) < needed:
                    yield f"{host}'s {row.topic} {row.offset} at {place} is at {others} alone"
                    break

    def _is_kept(self, host: Host, row: Row) -> bool:
        stream = self._rows[row][host.disk][1]
        held = host.disk.state.streams.get(stream)
        return held is not None and row.offset >= held.first_offset

    def _has(self, host: Host, row: Row) -> bool:
        found = self._rows[row].get(host.disk)
        return found is not None and found[1] in host.disk.state.streams

    def compare(self) -> None:
        """At rest each copy is like its log, as far as it goes."""
        self.unlike += [f"round {self.world.round}: {text}" for text in self.find_incomplete()]
        for host in self.world.members:
            self._compare_all(host, host.disk, host.origin)
        doom = self.world.doom
        if doom is not None and doom.has_lost:
            self._compare_all(doom.host, doom.disk, doom.origin)
            if doom.fate == "restored" and doom.host in self.world.members:
                self._find_lacking(doom)

    def _find_lacking(self, doom: Doom) -> None:
        """What was a node's own log is whole there, as far as anybody has it: but for what the log
        had trimmed itself, which some copies have not heard of."""
        host, origin = doom.host, doom.origin
        has = log_of(host.disk, origin)
        for other in self.world.members:
            for row in log_of(other.disk, origin):
                was_trimmed = self._was_trimmed(host.disk, row, origin)
                if row not in has and not (was_trimmed or self._was_trimmed(doom.disk, row)):
                    text = f"{host} lacks {row.topic} {row.offset} of its old log, {other} has it"
                    self.unlike.append(f"round {self.world.round}: {text}")

    def _compare_all(self, host: Host, disk: Disk, origin: bytes) -> None:
        own = log_of(disk, origin)
        for other in self.world.members:
            if other.disk is not disk and origin in other.disk.state.mirrors:
                self._compare(host, disk, own, other)

    def _compare(
        self, host: Host, disk: Disk, own: dict[Row, tuple[object, ...]], other: Host
    ) -> None:
        for row, had in log_of(other.disk, disk.state.origin).items():
            want = own.get(row)
            if want is None and self._was_trimmed(disk, row):
                continue
            if had == want or not had[2]:
                continue  # a hole, of what was damaged and nobody could be asked for: see above
            what = f"{other} has {host}'s {row.topic} {row.offset}, which that has not"
            if want is not None:
                names = zip(FACTS, had, want, strict=True)
                unlike = ", ".join([f"{n} {a!r} for {b!r}" for n, a, b in names if a != b])
                what = f"{other} has of {host}'s {row.topic} {row.offset} {unlike}"
            self.unlike.append(f"round {self.world.round}: {what}")

    def _was_trimmed(self, disk: Disk, row: Row, origin: bytes = b"") -> bool:
        return any(
            s.topic.name == row.topic and s.topic.origin == origin and row.offset < s.first_offset
            for s in disk.state.streams.values()
        )

    def find_flips(self) -> Iterator[str]:
        """Damaged rows of logs that everybody has read in the calm."""
        for host in self.world.members:
            for place in host.disk.flipped:
                row = self._of.get(host.disk, {}).get(place)
                if row is None or row.origin != host.origin or not row.topic.startswith("c."):
                    continue
                if self.others_with(row, host):
                    yield f"{host}'s {row.topic} {row.offset} is damaged, and others have it whole"


def log_of(disk: Disk, origin: bytes) -> dict[Row, tuple[object, ...]]:
    """What a disk has of a log: its batches, and where they are in that."""
    found: dict[Row, tuple[object, ...]] = {}
    is_own = disk.state.origin == origin
    is_copy = origin in disk.state.mirrors
    own_until = disk.state.mirrors[origin].own_until if is_copy else 0
    for commit in disk.commits:
        copied = {c.index: c for c in commit.copied}
        for slot, b in enumerate(commit.batches):
            stream = disk.state.streams.get(b.stream)
            c = copied.get(slot)
            if stream is None or b.base_offset < stream.first_offset:
                continue
            whose = stream.topic.origin or disk.state.origin
            if whose != origin or (c is None and is_copy and commit.lsn >= own_until):
                continue
            place = (commit.lsn, slot, commit.append_time_ns)
            if not is_own and c is not None:
                place = (c.lsn, c.slot, c.append_time_ns)
            row = Row(origin, stream.topic.name, b.base_offset)
            found[row] = (b.count, b.checksum, b.payload, place, b.producer, b.first, b.moved)
    return found
