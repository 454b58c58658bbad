"""A site where programs ask and serve, with nodes that die, paths that are cut and programs that
go, by a seed; and what must hold of it whatever happens.

A history has three parts: faults, healing, and quiet until all that was asked is over.
"""

from __future__ import annotations

import random
from collections import Counter

from meshmq import limits
from meshmq.core.events import LinkClosed
from meshmq.errors import BY_CODE, NOT_DONE
from meshmq.frames import EACH, ONE, RETURNED, STREAM, Cancel, Refuse
from meshmq.limits import MS, SECOND
from tests.core.site_requests import Asker, Server, is_idle
from tests.core.sites import joined, site_of

SERVICES = ("s", "t", "u")
FAULTS_NS = 6 * SECOND
WINDOW = 400


class Asked:
    """One request, and what came of it.

    Attributes:
        begun: programs that have begun it, in order.
        ends: last replies. values: of replies with a value. errors: codes of all replies.
        due_ns: its deadline. over_ns: when its last reply came.
        is_void: its requester is gone, or its node.
    """

    def __init__(self, world, asker, number, tag, service, kind, idempotent, due_ns):
        self.world, self.asker, self.number, self.tag = world, asker, number, tag
        self.service, self.kind, self.idempotent, self.due_ns = service, kind, idempotent, due_ns
        self.begun = []
        self.ends = 0
        self.after_end = 0
        self.values, self.errors, self.who = [], [], []
        self.over_ns = 0
        self.is_void = False
        self.is_cancelled = False

    def __repr__(self):
        kind = {ONE: "one", EACH: "each", STREAM: "stream"}[self.kind]
        return f"{self.tag} of {self.asker.title} ({kind}, {self.service})"


class Work(Server):
    """A program that serves by itself: after a while it answers, gives back, or fails."""

    def __init__(self, world, node, title, services, concurrency):
        self.world = world
        self.is_up = True
        self.held = {}
        self.title = title
        super().__init__(world.net, node, title, *services, concurrency=concurrency)

    def receive(self, envelope):
        if not self.is_up:
            return
        super().receive(envelope)
        for row, value in self.came():
            self.begin(row, value)
        for frame in self.take(Cancel):
            for number in frame.ids:
                if self.held.pop(number, None) is not None:
                    self.reply(number, b"", has_value=False, code="deadline-exceeded")

    def begin(self, row, value):
        world, rng = self.world, self.world.rng
        asked = world.by_tag[value.decode()]
        self.held[row.id] = row
        if rng.random() < 0.05:
            self.reply(row.id, b"", has_value=False, code=RETURNED)
            return
        asked.begun.append(self)
        if rng.random() < 0.1:
            return  # until its deadline
        delay_ns = int(rng.random() ** 3 * 400 * MS)
        self.net.at(delay_ns, lambda: self.work(row, asked, 0))

    def work(self, row, asked, step):
        if not self.is_up or row.id not in self.held:
            return
        value = f"{asked.tag} {self.title} {step}".encode()
        if row.kind != STREAM:
            self.reply(row.id, value)
        elif step < 3:
            self.reply(row.id, value, end=False)
            self.net.at(int(self.world.rng.random() * 50 * MS),
                        lambda: self.work(row, asked, step + 1))  # fmt: skip
        else:
            self.reply(row.id, b"", has_value=False)

    def reply(self, number, value, **more):
        row = self.held.get(number)
        if row is None and more.get("code") != "deadline-exceeded":
            return
        if more.get("end", True):
            self.held.pop(number, None)
        if self.is_up:
            self.answer(_Row(number), value, **more)


class _Row:
    def __init__(self, number):
        self.id = number


class Ask(Asker):
    """A program that asks by itself."""

    def __init__(self, world, node, title):
        self.world, self.title = world, title
        self.is_up = True
        self.asked = {}
        super().__init__(world.net, node, title)

    def receive(self, envelope):
        if not self.is_up:
            return
        if isinstance(envelope.body, Refuse):
            self.world.strange.append(f"{self.title} is refused: {envelope.body}")
        super().receive(envelope)
        for row, value in self.rows():
            self.world.on_reply(self, row, value)

    def go(self):
        """Ask one, and again later."""
        world, rng = self.world, self.world.rng
        if not self.is_up or not world.is_asking:
            return
        service, kind = rng.choice(SERVICES), rng.choice((ONE, ONE, ONE, EACH, STREAM))
        idempotent = rng.random() < 0.5
        timeout = rng.choice((50 * MS, SECOND, 4 * SECOND))
        tag = f"q{len(world.by_tag)}"
        number = len(self.asked) + 1
        asked = Asked(
            world, self, number, tag, service, kind, idempotent, self.net.now_ns + timeout
        )
        world.by_tag[tag] = self.asked[number] = asked
        got = self.ask(tag.encode(), service, kind, timeout, idempotent=idempotent, window=WINDOW)
        assert got == number
        if rng.random() < 0.1:
            self.net.at(int(rng.random() * SECOND), lambda: self.give_up(asked))
        self.net.at(int(rng.random() * 60 * MS) + 1, self.go)

    def give_up(self, asked):
        if self.is_up and not asked.ends:
            asked.is_cancelled = True
            self.cancel(asked.number)


class World:
    """See the module's header. ``faults``: without any, all must be answered well."""

    def __init__(self, seed, faults=True):
        self.rng = random.Random(seed)
        self.by_tag = {}
        self.strange = []
        self.is_asking = True
        self.has_faults = faults
        self.count = self.rng.choice((2, 3, 4))
        self.net, self.nodes = site_of(self.count, seed)
        self.net.run(2 * SECOND)
        self.programs = []
        self._titles = 0
        for node in self.nodes:
            for _ in range(3):
                self.add_program(node)

    def add_program(self, node):
        rng = self.rng
        self._titles += 1
        if rng.random() < 0.6:
            services = [s for s in SERVICES if rng.random() < 0.5] or [rng.choice(SERVICES)]
            program = Work(self, node, f"w{self._titles}", services, rng.choice((1, 4, 16)))
        else:
            program = Ask(self, node, f"a{self._titles}")
            self.net.at(int(rng.random() * 100 * MS), program.go)
        self.programs.append(program)

    def run(self):
        net, rng = self.net, self.rng
        end = net.now_ns + FAULTS_NS
        while net.now_ns < end:
            net.run(int(rng.random() * 300 * MS))
            if self.has_faults:
                rng.choice(
                    (self.kill, self.kill, self.cut, self.heal, self.quit, self.add, self.stop)
                )()
        net.heal()
        for node in self.nodes:
            if node.node is None:
                self.start(node)
        self.is_asking = False
        net.run(10 * SECOND, self.is_over)
        net.run(5 * SECOND, lambda: joined(net))
        net.run(5 * SECOND, lambda: all(is_idle(node) for node in self.nodes))
        for program in self.programs:
            if isinstance(program, Work) and program.is_up:
                program.held.clear()
        net.run(SECOND)
        return self

    def is_over(self):
        return all(a.ends or a.is_void or a.is_cancelled for a in self.by_tag.values())

    # -- faults -------------------------------------------------------------------------------

    def kill(self):
        up = [node for node in self.nodes if node.node is not None]
        if len(up) < 2 or self.rng.random() < 0.2:
            return
        node = self.rng.choice(up)
        for program in self.programs:
            if program.at is node:
                self.end(program)
        self.net.kill(node)
        self.net.at(int(self.rng.random() * SECOND), lambda: self.start(node))

    def start(self, node):
        if node.node is None:
            node.start([other.address for other in self.nodes if other is not node])
            self.add_program(node)
            self.add_program(node)

    def cut(self):
        if self.count > 1 and self.rng.random() < 0.5:
            one, other = self.rng.sample(self.nodes, 2)
            self.net.cut(one, other, one_way=self.rng.random() < 0.3)

    def heal(self):
        self.net.heal()

    def quit(self):
        up = [p for p in self.programs if p.is_up and p.at.node is not None]
        if up:
            program = self.rng.choice(up)
            self.end(program)
            program.at.handle(LinkClosed(program.link, "gone"))

    def add(self):
        up = [node for node in self.nodes if node.node is not None]
        self.add_program(self.rng.choice(up))

    def stop(self):
        up = [p for p in self.programs if isinstance(p, Work) and p.is_up]
        if up:
            self.rng.choice(up).stop()

    def end(self, program):
        program.is_up = False
        if isinstance(program, Ask):
            for asked in program.asked.values():
                asked.is_void = asked.is_void or not asked.ends

    # -- what comes back ----------------------------------------------------------------------

    def on_reply(self, asker, row, value):
        asked = asker.asked.get(row.id)
        if asked is None:
            self.strange.append(f"{asker.title} is answered {row.id}, which it did not ask")
            return
        if asked.ends:
            asked.after_end += 1
        if row.code:
            asked.errors.append(row.code)
        if row.has_value:
            asked.values.append(value)
            asked.who.append(row.instance)
            if asked.kind == STREAM:
                asker.grant(row.id, len(value) + limits.RECORD_OVERHEAD_BYTES)
        if row.end or (row.code and asked.kind != EACH):
            asked.ends += 1
            asked.over_ns = self.net.now_ns


# -- checkers -------------------------------------------------------------------------------------


def one_reply(world):
    """At most one last reply, nothing behind it, and only of who had it."""
    yield from world.strange
    for asked in world.by_tag.values():
        if asked.ends > 1 or asked.after_end:
            yield f"{asked} has {asked.ends} ends, {asked.after_end} replies behind it"
        if asked.kind == ONE and len(asked.values) > 1:
            yield f"{asked} has {len(asked.values)} values"
        for value, who in zip(asked.values, asked.who, strict=True):
            tag, title, _ = value.decode().split()
            if (tag, title) != (asked.tag, who):
                yield f"{asked} got {value!r} of {who}"


def begun_once(world):
    """What may not be done twice is begun once, of EACH once at each instance; the rest at most
    so often as it may be lost."""
    for asked in world.by_tag.values():
        most = limits.REQUEST_ATTEMPTS_MAX if asked.idempotent else 1
        if asked.kind == EACH:
            counts = Counter(asked.begun)
            places = {p: len(p.services) for p in counts}
            if any(n > places[p] for p, n in counts.items()):
                yield f"{asked} was begun twice at one instance"
        elif len(asked.begun) > most:
            yield f"{asked} was begun {len(asked.begun)} times"


def not_done(world):
    """Who is told that nothing was done can rely on it."""
    for asked in world.by_tag.values():
        codes = asked.errors[-1:] if asked.kind != EACH and asked.begun else []
        for code in codes:
            if BY_CODE[code].outcome == NOT_DONE:
                yield f"{asked}: {code} says that nothing was done, and it was begun"


def streams(world):
    """Values of a stream come in order, without a hole."""
    for asked in world.by_tag.values():
        if asked.kind == STREAM:
            steps = [int(value.decode().split()[2]) for value in asked.values]
            titles = {value.decode().split()[1] for value in asked.values}
            if steps != list(range(len(steps))) or len(titles) > 1:
                yield f"{asked} got {asked.values}"


def in_time(world):
    """Every request ends, by its deadline."""
    for asked in world.by_tag.values():
        if asked.is_void or asked.is_cancelled:
            continue
        if not asked.ends:
            yield f"{asked} has no end"
        elif asked.over_ns > asked.due_ns + 10 * MS:
            yield f"{asked} ended {(asked.over_ns - asked.due_ns) // MS} ms after its deadline"


def rest(world):
    """When all is over nothing is left, and all nodes know what is served."""
    if not joined(world.net):
        yield "the nodes are not joined"
        return
    known = []
    for node in world.nodes:
        services = node.node.services
        if not is_idle(node):
            yield f"{node.name} keeps {services._asked} {services._bytes} {services._stuck}"
        for service in services.by_name.values():
            yield from _misplaced(node, service)
        shown = node.node.site.services.describe(world.net.now_ns)
        known.append({(s["service"], n["node"], n["instances"]) for s in shown for n in s["nodes"]})
    if any(view != known[0] for view in known):
        yield f"the nodes know different services: {known}"


def _misplaced(node, service):
    takers = [*service.instances.values(), *service.remotes.values()]
    if any(not service.is_placed(taker) for taker in takers):
        yield f"{node.name}: who takes {service.name} is not where its load belongs"
    counts = (service._taking, service._offered)
    real = tuple(sum(not t.draining for t in some.values())
                 for some in (service.instances, service.remotes))  # fmt: skip
    if counts != real:
        yield f"{node.name}: {counts} are said to take {service.name}, {real} do"


def well(world):
    """Without faults nothing is lost, and what is served has an answer."""
    if world.has_faults:
        return
    for asked in world.by_tag.values():
        bad = set(asked.errors) - {"deadline-exceeded", "no-responders"}
        if bad:
            yield f"{asked} failed without a fault: {bad}"


CHECKERS = (one_reply, begun_once, not_done, streams, in_time, rest, well)


def play(seed, faults=True):
    """What is wrong with the history of a seed."""
    world = World(seed, faults).run()
    return [f"{checker.__name__}: {fault}" for checker in CHECKERS for fault in checker(world)]
