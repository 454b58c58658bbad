"""Directories of several nodes, linked two by two as a test says; time goes on by hand."""

from __future__ import annotations

from itertools import combinations

from meshmq import codec, limits
from meshmq.core import directory_rows
from meshmq.core.directory import Directory
from meshmq.frames import Envelope

MS = limits.MS
SECOND = limits.SECOND
WALL = 1_700_000_000 * SECOND


class Machines:
    """``count`` of them, all linked; frames travel as bytes.

    Attributes:
        logs: what each would read at its next start.
        skews: ns by which each one's wall clock is wrong.
        frames, bytes: what has travelled.
        repeats: every frame comes twice.
    """

    def __init__(self, count, linked=True):
        self.now_ns = SECOND
        self.names = [f"node-{i + 1}" for i in range(count)]
        self.origins = [bytes([i + 1]) * 16 for i in range(count)]
        self.logs = [{} for _ in range(count)]
        self.skews = [0] * count
        self.all = [self._new(i) for i in range(count)]
        self.ways = {}  # (from, to): frames on their way
        self.frames = self.bytes = 0
        self.repeats = False
        if linked:
            for a, b in combinations(range(count), 2):
                self.link(a, b)

    def _new(self, i):
        made = Directory(self.origins[i], self.names[i], self.logs[i])
        made.set_wall(WALL + self.now_ns + self.skews[i], self.now_ns)
        return made

    def __getitem__(self, i):
        return self.all[i]

    def link(self, a, b):
        if (a, b) not in self.ways:
            self.ways[a, b], self.ways[b, a] = [], []
            self.all[a].join(self.origins[b], self.now_ns)
            self.all[b].join(self.origins[a], self.now_ns)

    def cut(self, a, b):
        """What is on its way is lost; both ends know."""
        if self.ways.pop((a, b), None) is not None:
            del self.ways[b, a]
            self.all[a].leave(self.origins[b], self.now_ns)
            self.all[b].leave(self.origins[a], self.now_ns)

    def restart(self, i):
        """From its log, with the links it had."""
        self.keep(i)
        others = [b for a, b in list(self.ways) if a == i]
        for other in others:
            self.cut(i, other)
        self.all[i] = self._new(i)
        for other in others:
            self.link(i, other)

    def keep(self, i):
        """What it says to its log."""
        said = directory_rows.unpack(directory_rows.pack(self.all[i].take_unstored()))
        directory_rows.apply(self.logs[i], said)

    def set_skew(self, i, ns):
        self.skews[i] = ns
        self.all[i].set_wall(WALL + self.now_ns + ns, self.now_ns)

    def collect(self):
        for i, one in enumerate(self.all):
            for origin, body in one.take_sends():
                way = self.ways.get((i, self.origins.index(origin)))
                if way is not None:
                    parts = codec.encode(Envelope(1, 1, 0, body))
                    self.frames += 1
                    self.bytes += sum(map(len, parts))
                    way.append(codec.decode(parts).body)

    def deliver(self, a, b):
        """One frame from a to b, if there is one."""
        self.collect()
        way = self.ways.get((a, b))
        if not way:
            return False
        frame = way.pop(0)
        for _ in range(2 if self.repeats else 1):
            self.all[b].on_frame(self.origins[a], frame, self.now_ns)
        self.collect()
        return True

    def settle(self):
        """All that is on its way arrives."""
        self.collect()
        moved = True
        while moved:
            done = [self.deliver(a, b) for a, b in list(self.ways)]
            moved = any(done)

    def tick(self, ns):
        self.now_ns += ns
        for one in self.all:
            one.tick(self.now_ns)

    def heal(self):
        """All are linked, and time enough passes to compare."""
        for a, b in combinations(range(len(self.all)), 2):
            self.link(a, b)
        self.settle()
        rounds = 0
        while len({one.table.root for one in self.all}) > 1 or rounds < 1:
            self.tick(limits.DIRECTORY_CHECK_NS)
            self.settle()
            rounds += 1
            assert rounds < 5, "no agreement"
        return rounds

    def views(self):
        """What each one has."""
        return [one.table.rows for one in self.all]
