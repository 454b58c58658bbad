"""Runs of programs with producer names over a site whose nodes die, and what must be true after.

Each name is used by one program at a time: it dies, and starts again at any node. One lets its
records be numbered, one numbers them itself and goes on where the site says that it was, saying
the last few again.

The checker looks at the logs: a record is known by the log that it was first sent to, and its
number there; two with one value that are not the same are a doubled one.
"""

from __future__ import annotations

import random
from collections import defaultdict

from meshmq import names
from meshmq.core.lanes import DONE
from meshmq.frames_moving import moved_of
from meshmq.limits import MS, SECOND
from tests.core.helpers import decode
from tests.core.movers import Mover, joined, kill, moving_site

TOPIC = "orders.eu"
AUTOMATIC, EXPLICIT = "log", "import"
ENDED = ("closed",)


class Program:
    """A name, and its runs."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.runs = 0
        self.mover = None
        self.number = None  # of the next record; None: it waits to be told what is stored
        self.asked = None

    def start(self):
        world, net = self.world, self.world.net
        self.runs += 1
        addresses = [node.client_address for node in world.nodes]
        world.rng.shuffle(addresses)
        self.mover = Mover(
            net, *addresses, name=f"r{self.runs:03}-{self.name}",
            producer=names.producer_of("plant", self.name),
        )  # fmt: skip
        self.number, self.asked = None, None

    def act(self):
        """Publish a few records, or find out where to begin."""
        mover = self.mover
        if mover is None or mover.client.state in ENDED:
            self.mover = None
            self.start()
            return
        if self.number is None:
            self._begin()
            return
        world = self.world
        for _ in range(world.rng.choice([1, 1, 3, 10])):
            if self.name == EXPLICIT:
                value = b"%s-%d" % (self.name.encode(), self.number)
                batch = mover.say(TOPIC, self.number, value)
                self.number += 1
            else:
                value = b"%s-%d-%d" % (self.name.encode(), self.runs, self.number)
                self.number += 1
                batch = mover.publish(TOPIC, value)
            world.published.append((value, batch))

    def _begin(self):
        mover = self.mover
        by_program = self.name == EXPLICIT
        if self.asked is None:
            if mover.is_connected:
                wish = b'{"topic":"%s"%s}' % (
                    TOPIC.encode(), b"" if by_program else b',"at_least":true'
                )  # fmt: skip
                self.asked = mover.command("producer.last", wish)
        elif self.asked in mover.answers:
            number, self.asked = self.asked, None
            code, known = mover.learned(TOPIC, by_program, number)
            if not code:
                again = self.world.rng.choice([0, 1, 4, 30])
                self.number = max(1, known["said"] + 1 - again) if by_program else 1
            else:
                self.world.refused[code] += 1

    def die(self):
        if self.mover is not None:
            self.mover.die()
            self.mover = None

    def die_slowly(self):
        """What it says last is held up on its way, and comes when the next run may be there."""
        mover, net = self.mover, self.world.net
        if mover is None or self.number is None or mover.at is None:
            self.die()
            return
        mover.dial = lambda *what: None
        path = mover, mover.at
        net.cuts.add(path)
        self.act()
        net.at(self.world.rng.choice([50, 300]) * MS, lambda: net.cuts.discard(path))
        net.at(800 * MS, mover.die)
        self.mover = None


class World:
    """Plays one history.

    Attributes:
        published: (value, batch) of all that was published.
        refused: how often a program was told why it cannot begin, by code.
    """

    def __init__(self, seed, steps=90):
        self.rng = random.Random(f"producers {seed}")
        self.net, self.nodes = moving_site(3, seed)
        self.steps = steps
        self.published = []
        self.refused = defaultdict(int)
        self.programs = [Program(self, name) for name in (AUTOMATIC, EXPLICIT)]

    def run(self):
        net, rng = self.net, self.rng
        for program in self.programs:
            program.start()
        for _ in range(self.steps):
            for program in self.programs:
                if rng.random() < 0.8:
                    program.act()
            if rng.random() < 0.5:
                net.run(rng.choice([1, 2, 4]) * MS)
            self._harm()
            net.run(rng.choice([1, 5, 40, 40, 150, 600]) * MS)
        net.heal()
        self._start_all()
        assert net.run(20 * SECOND, lambda: joined(net)), "the site is not one again"
        assert net.run(30 * SECOND, self._is_settled), "something has no outcome"

    def _is_settled(self):
        live = [p.mover for p in self.programs if p.mover is not None]
        return all(m.client.state in ENDED or m.client.publisher.is_idle for m in live)

    def _harm(self):
        net, rng = self.net, self.rng
        what = rng.random()
        up = [node for node in self.nodes if node.node is not None]
        if what < 0.08:
            rng.choice(self.programs).die()
        elif what < 0.16:
            rng.choice(self.programs).die_slowly()
        elif what < 0.22 and len(up) > 1:
            kill(net, rng.choice(up))
        elif what < 0.36:
            down = [node for node in self.nodes if node.node is None]
            if down:
                self._start(rng.choice(down))
        elif what < 0.41:
            net.cut(*rng.sample(self.nodes, 2))
        elif what < 0.50:
            net.heal()
        elif what < 0.55:
            self._answers_are_lost()

    def _answers_are_lost(self):
        """For a moment nothing that nodes tell programs arrives."""
        net = self.net
        send = type(net).send.__get__(net)
        net.send = lambda node, link, envelope: None if link in net.programs else send(
            node, link, envelope)  # fmt: skip
        net.run(self.rng.choice([5, 30]) * MS)
        del net.send

    def _start(self, node):
        node.start([other.address for other in self.nodes if other is not node])

    def _start_all(self):
        for node in self.nodes:
            if node.node is None:
                self._start(node)


def logs(world):
    """By value: of each record in a node's own log, where it was first sent, and its number."""
    found = defaultdict(list)
    for node in world.nodes:
        for commit in node.disk.commits:
            for batch in commit.batches:
                if batch.producer == node.origin:
                    continue
                origin, first = node.origin, batch.first
                if batch.moved:
                    origin, first = moved_of(batch.moved)
                for i, value in enumerate(decode(batch.payload)):
                    found[value].append((node.name, (origin, first + i)))
    return found


def nothing_lost(world):
    """What was confirmed is in a log."""
    found = logs(world)
    for value, batch in world.published:
        if batch.state == DONE and value not in found:
            yield f"{value!r} was confirmed ({batch.duplicate=}), and is in no log"


def nothing_doubled(world):
    """A value that is there twice is the same record, moved; in one log it is never twice."""
    for value, places in logs(world).items():
        if len({identity for _, identity in places}) > 1:
            yield f"{value!r} is doubled: {places}"
        elif len({name for name, _ in places}) < len(places):
            yield f"{value!r} is twice in one log: {places}"


def all_ended(world):
    """No new record is refused but for a reason that the program can tell."""
    for value, batch in world.published:
        if batch.error is not None and batch.error.code not in (
            "link-lost", "producer-fenced", "producer-unknown"
        ):  # fmt: skip
            yield f"{value!r} failed: {batch.error.code} {batch.error}"


CHECKERS = (nothing_lost, nothing_doubled, all_ended)


__all__ = ["CHECKERS", "World", "all_ended", "nothing_doubled", "nothing_lost"]
