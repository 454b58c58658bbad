"""What goes wrong in a simulated history, and when: all of it from the world's seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from meshmq.core.events import LinkClosed, StorageMeasured
from meshmq.limits import MS, SECOND
from meshmq.testing.scene import Scene

FAULTS_NS = 4 * SECOND
HOUR_NS = 3_600 * SECOND
RESERVE = 100


class Faults:
    """Breaks a world."""

    def __init__(self, world: Scene[Any]) -> None:
        self.world = world

    def plan(self) -> None:
        rng = self.world.rng
        for _ in range(self.world.kill_count):
            self._some_time(self._kill_node)
        for program in list(self.world.programs.values()):
            for _ in range(self.world.cuts):
                self._some_time(partial(self._cut, program.name))
            if rng.random() < 0.3:
                self.world.after(
                    int(rng.random() * FAULTS_NS), partial(self.world.restart, program.name)
                )
        for _ in range(self.world.full_count):
            self._some_time(self._fill_disk)
        for _ in range(self.world.flips):
            self._some_time(self._flip)
        for _ in range(self.world.jumps):
            self._some_time(self._jump)
        if self.world.swizzle:
            self._some_time(self._swizzle)

    def _some_time(self, work: Callable[[], None]) -> None:
        self.world.after(int(self.world.rng.random() * FAULTS_NS), work)

    def _fill_disk(self) -> None:
        """No room for a while: only what is not a record goes to the log."""
        if self.world.healed:
            return
        self.world.is_full = True
        self.measure()
        self.world.after(int(self.world.rng.random() * SECOND), self.make_room)

    def make_room(self) -> None:
        self.world.is_full = False
        self.measure()

    def measure(self) -> None:
        self.world.note("full" if self.world.is_full else "room")
        self.world.node_event(StorageMeasured(0 if self.world.is_full else 1 << 40, RESERVE))

    def _flip(self) -> None:
        """A byte on the disk changes: whoever reads that batch is told that it is damaged."""
        commits = [c for c in self.world.disk.commits if c.batches]
        if commits:
            commit = self.world.rng.choice(commits)
            self.world.disk.flipped.add((commit.lsn, self.world.rng.randrange(len(commit.batches))))
            self.world.note("flip", commit.lsn)

    def _jump(self) -> None:
        """Somebody sets the clock: nothing but timestamps may notice."""
        self.world.wall_ns += self.world.rng.choice([-HOUR_NS, HOUR_NS])

    def _swizzle(self) -> None:
        """Links stop one by one, in one direction or both, and come back in another order."""
        rng = self.world.rng
        names = sorted(self.world.programs)
        rng.shuffle(names)
        for i, name in enumerate(names):
            kind = rng.choice(["deaf", "mute", "both"])
            self.world.after(i * 50 * MS + 1, partial(self._clog, name, kind, True))
        rng.shuffle(names)
        begin = int(rng.random() * 4 * SECOND)
        for i, name in enumerate(names):
            self.world.after(begin + (i + 3) * 100 * MS, partial(self._clog, name, "both", False))

    def _clog(self, name: str, kind: str, clogged: bool) -> None:
        if self.world.healed:
            return
        program = self.world.programs[name]
        self.world.note("clog", name, kind, clogged)
        if kind in ("deaf", "both"):
            program.deaf = clogged
        if kind in ("mute", "both"):
            program.mute = clogged

    def _cut(self, name: str) -> None:
        """Break a program's link: seen at once, or one way only, or silent."""
        program = self.world.programs[name]
        if self.world.healed or not program.alive:
            return
        kind = self.world.rng.choice(["closed", "deaf", "mute", "both"])
        self.world.note("cut", name, kind)
        if kind == "closed":
            self.world.client_event(program, LinkClosed(program.link, "cut"))
            return
        program.deaf = kind in ("deaf", "both")
        program.mute = kind in ("mute", "both")

        def mend() -> None:
            program.deaf = program.mute = False

        self.world.after(int(self.world.rng.random() * 5 * SECOND), mend)

    def _kill_node(self) -> None:
        if self.world.node is None or self.world.healed:
            return
        self.world.note("kill")
        self.world.kills += 1
        self.world.stop_node()
        for program in self.world.programs.values():
            if self.world.rng.random() < 0.7:
                link = program.link
                self.world.after(
                    int(self.world.rng.random() * 20 * MS),
                    partial(self.world.client_event, program, LinkClosed(link, "cut")),
                )
        self.world.after(int(self.world.rng.random() * SECOND), self.world.start_node)
