"""What goes wrong in a site whose nodes copy each other's logs: all of it from the world's seed."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meshmq.core.log import Commit
from meshmq.limits import MS, SECOND
from meshmq.names import matches
from meshmq.testing.disk import Disk
from meshmq.testing.site_copying import PATTERN
from meshmq.testing.site_faults import FAULTS_NS, STAY_NS, SiteFaults, Stay

if TYPE_CHECKING:
    from meshmq.testing.copies_world import CopiesWorld
    from meshmq.testing.site_host import Host

FATES = ("gone", "gone", "empty", "back", "back", "back")


class Doom(NamedTuple):
    """A node that died for good, or so it seems.

    Attributes:
        disk, origin: what it had.
        fate: ``gone`` with its disk, back with an ``empty`` one, ``back`` with its own, or
            ``restored`` from a backup of that.
    """

    host: Host
    disk: Disk
    origin: bytes
    fate: str
    at_ns: int

    @property
    def has_lost(self) -> bool:
        """Whether the disk is lost."""
        return self.fate != "back"


class CopiesFaults(SiteFaults):
    """Breaks a world, in each round anew; ``world.harm`` says what disks suffer."""

    world: CopiesWorld

    restarted = "p"
    is_to_kill = False  # the next node that has stored what programs have published

    def __init__(self, world: CopiesWorld) -> None:
        super().__init__(world)
        self._chance = random.Random(f"backups {world.seed}")

    def plan(self) -> None:
        world, rng = self.world, self.world.rng
        self._is_on = True
        self.span_ns = FAULTS_NS
        if world.harm == "copy":
            self.span_ns = FAULTS_NS + STAY_NS
            self._some_time(self._run_a_copy)
            return  # with paths cut nobody could tell the two apart
        counts = (
            (self._kill, [0, 1, 2, 3]), (self._cut, [0, 1, 3]), (self._isolate, [0, 0, 1]),
            (self._break, [0, 0, 2]), (self._stand_still, [0, 0, 1]), (self._jump, [0, 0, 1]),
            (self._restart_program, [0, 1, 2]), (self._kill_behind_a_sync, [0, 1, 2]),
        )  # fmt: skip
        for work, choices in counts:
            for _ in range(rng.choice(choices)):
                self._some_time(work)
        if world.harm == "flips":
            for _ in range(rng.choice([1, 5, 20])):
                self._some_time(self._flip)
        if world.harm == "doom" and world.doom is None:
            if self._chance.random() < 0.6:
                # Early, so that topics and groups are made after it.
                delay = int(200 * MS + self._chance.random() * SECOND)
                world.after(delay, self._back_up_all)
            world.after(SECOND + int(rng.random() * 4 * SECOND), self._doom)

    # -- nodes ----------------------------------------------------------------------------------

    def _kill(self) -> None:
        """All of its disk is there when it is back, but what was not synced."""
        host = self._some()
        if host is not None:
            self._kill_for_a_while(host)

    def _kill_for_a_while(self, host: Host) -> None:
        world, rng = self.world, self.world.rng
        self.fell(host, is_silent=rng.random() < 0.3)
        delay = int(rng.random() ** 2 * 4 * SECOND)
        world.after(delay, partial(self._start, host, "same", world.round))

    def _kill_behind_a_sync(self) -> None:
        self.is_to_kill = True

    def on_synced(self, host: Host, commit: Commit) -> None:
        """A node has stored something; those whose it is have not been told."""
        if not self.is_to_kill or not self._is_on or host.node is None:
            return
        copied = {c.index for c in commit.copied}
        streams = host.disk.state.streams
        own = [b for slot, b in enumerate(commit.batches) if slot not in copied]
        if any(b.stream in streams and matches(PATTERN, streams[b.stream].topic.name) for b in own):
            self.is_to_kill = False
            self._kill_for_a_while(host)

    def _start(self, host: Host, kind: str, of_round: int) -> None:
        if host in self.world.members:
            super()._start(host, kind, of_round)

    def _doom(self) -> None:
        """A node dies, as it seems for good."""
        world, rng = self.world, self.world.rng
        host = self._some()
        if host is None or not self._is_on or world.doom is not None:
            return
        fate = rng.choice(FATES)
        if fate != "back" and host in self._backups:
            fate = "restored"
        world.doom = Doom(host, host.disk, host.origin, fate, world.now_ns)
        world.note("doom", host.name, fate)
        world.members.remove(host)
        self.fell(host, is_silent=rng.random() < 0.3)
        for program in world.copies_programs() if fate == "gone" else ():
            if program.is_alive and program.host is host and program.stays:
                # Somebody has it run elsewhere.
                world.start_program(program.name, program.run + 1, rng.choice(world.members))
        if fate == "empty":
            host.disk = world.fresh_disk()
        if fate == "restored":
            host.disk = self._backups[host]
            world.copying.on_put_back(host, world.doom.disk)
            world.after(int(self._chance.random() * SECOND), self._return)
        elif fate != "gone":
            longest = 12 if rng.random() < 0.5 else 4
            world.after(int(rng.random() * longest * SECOND), self._return)
        world.takeovers.begin_taking(int(rng.random() * 8 * SECOND))

    def _return(self) -> None:
        """The node is there again."""
        world, doom = self.world, self.world.doom
        assert doom is not None
        if world.healed and not world.is_calm:
            world.after(500 * MS, self._return)  # how long a heal takes is measured
            return
        world.note("return", doom.host.name)
        world.members.append(doom.host)
        self._disturb(doom.host)
        doom.host.peers = tuple([h.address for h in world.members])
        if doom.fate == "restored":
            self._put_back(doom.host)
            return
        doom.host.start_node()

    def _back_up_all(self) -> None:
        """Somebody copies all disks."""
        self._backups = {host: copy.deepcopy(host.disk) for host in self.world.members}

    def _put_back(self, host: Host) -> None:
        """A node is on an older state of its disk: it runs for a while, or is renewed at once."""
        world = self.world
        span_ns = int(self._chance.random() * SECOND)
        end_ns = world.round_ns + self.span_ns - 500 * MS
        is_late = world.healed or world.now_ns + span_ns > end_ns
        lsn, origin = host.disk.state.next_lsn, host.origin
        copies = [h.disk.state.mirrors.get(origin) for h in world.members if h.node is not None]
        is_seen = any(m is not None and m.lsn > lsn for m in copies)
        if is_late or not is_seen or lsn == 1 or self._chance.random() < 0.2:
            self._renew(host, lsn)
            return
        host.start_node()
        world.after(span_ns, partial(self._renew, host, lsn))

    def _renew(self, host: Host, lsn: int) -> None:
        """``meshmq log renew``, once the node has said that it is to be, or before it has stored
        anything."""
        if host.disk.state.behind is None and host.disk.state.next_lsn > lsn:
            site = host.node.site if host.node is not None else None
            if site is not None and site.copies.own._is_served:
                self.world.is_unfound = True
                return
            self.world.after(100 * MS, partial(self._renew, host, lsn))
            return
        if host.node is not None:
            self.fell(host, is_silent=False)
        origin = self._chance.getrandbits(128).to_bytes(16, "big")
        self.world.note("renew", host.name)
        host.disk.renew(origin, host.name)
        self.world.disks[origin] = host.disk
        host.start_node()

    def _run_a_copy(self) -> None:
        """Somebody starts a second node on a copy of one's disk."""
        rival = self._some()
        if rival is not None:
            self._run_a_copy_of(rival)

    def _run_a_copy_of(self, rival: Host) -> None:
        world, rng = self.world, self.world.rng
        others = [host for host in world.members if host is not rival]
        if not all(world.are_linked(host, rival) for host in others):
            # Of two that nobody knows yet the one is let in that is met first.
            if self._is_on:
                world.after(50 * MS, partial(self._run_a_copy_of, rival))
            return
        name = rival.name if rng.random() < 0.3 else f"x{len(world.hosts)}"
        host = world.add_host(name, copy.deepcopy(rival.disk))
        host.peers = tuple([h.address for h in world.members])
        host.wall_ns += rng.randrange(1, SECOND)  # no two clocks say the same
        world.note("copy", rival.name)
        host.start_node()
        stay = Stay("copy", host, rival, world.now_ns)
        self.stays.append(stay)
        world.after(STAY_NS, partial(self._leave, stay))

    # -- disks ----------------------------------------------------------------------------------

    def _flip(self) -> None:
        """A row is damaged that another disk has whole: never on as many as are to have it, for
        what one more has need not be kept."""
        world, rng = self.world, self.world.rng
        host = rng.choice(world.members)
        rows = world.copying.rows_of(host)
        rng.shuffle(rows)
        for row, place in rows[:20]:
            is_bearable = world.copying.damaged_disks(row) < world.copies - 1
            if (
                place not in host.disk.flipped
                and is_bearable
                and world.copying.others_with(row, host)
            ):
                host.disk.flipped.add(place)
                world.copying.flipped.add(row)
                world.note("flip", host.name, place)
                return
