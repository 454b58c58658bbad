"""Programs with links to each other, and a node that comes and goes; see ``direct_world``.

The network is that of programs without a node, in which the node is one more that is dialled; its
disk and its machine are those of every simulation (``stage``). While faults last, what must come
through all the same is tried now and then: a record that is published, and a request, between two
of whom at least one route has been quiet for QUIET_NS.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from meshmq import codec, limits
from meshmq.core.discovery import DEFAULT, Sighted
from meshmq.core.effects import ClientEffect, CloseLink, FoundNode
from meshmq.core.events import FrameReceived, LinkOpened, NodeEvent
from meshmq.core.log import Entry, RuleEntry
from meshmq.core.transients import has_directly
from meshmq.frames import EACH, Envelope, PeerFacts
from meshmq.limits import MS, SECOND
from meshmq.names import matches
from meshmq.testing.direct_program import Asking
from meshmq.testing.direct_world import FAULTS_NS, DirectWorld, Wire
from meshmq.testing.hybrid_program import (
    ALONE,
    LISTED,
    NAMED,
    STRICT,
    HybridProgram,
    HybridReading,
    Sent,
)
from meshmq.testing.request_world import small
from meshmq.testing.stage import WALL_NS, Stage

NODE = "node"
QUIET_NS = 2 * SECOND  # without a fault; by then all must come through
TRANSIENT = ("t.>", "*.t")  # policies: the node knows of no topic before it is published to


class Probe:
    """A record that must come, unless a fault hits its way."""

    def __init__(self, publisher: HybridProgram, reading: HybridReading, value: bytes) -> None:
        self.publisher = publisher
        self.reading = reading
        self.value = value
        self.at_ns = publisher.world.now_ns


class HybridWorld(DirectWorld, Stage):
    """One history, from one seed. ``run`` plays it.

    Attributes:
        sent: batches that were published, in order.
        overdue: records that should have come through.
        lapsed: links of programs that talk to introduced ones alone, when what was allowed was
            over for long; the last time.
        sure: requests that must find somebody, unless a fault hits their way.
    """

    settled_ns = 8 * SECOND

    def __init__(self, seed: int) -> None:
        Stage.__init__(self, seed, codec.TOOLS, lambda payload: [])
        DirectWorld.__init__(self, seed)
        rng = self.rng
        self.loss = rng.choice([0.0, 0.0, 0.0, 0.01, 0.1])
        self.late = rng.choice([0.0, 0.0, 0.05, 0.2])
        self.kill_count = rng.choice([0, 0, 1, 3])
        self.cut_count = rng.choice([0, 1, 3, 6])
        self.break_count = rng.choice([0, 0, 3, 12])
        self.node_kill_count = rng.choice([0, 0, 1, 3])
        self.node_stop_count = rng.choice([0, 0, 1, 3])
        self.leave_count = rng.choice([0, 0, 1])
        self.stall = rng.choice([0.0, 0.0, 0.1])
        if rng.random() < 0.4:
            self.bounds = {}
        self.life_ns = rng.choice([limits.INTRODUCTION_NS, limits.INTRODUCTION_NS, 2 * SECOND])
        self.queue_bytes = rng.choice([2_000, 1 << 22, 1 << 22])
        self.sent: list[Sent] = []
        self.overdue: list[str] = []
        self.lapsed: dict[tuple[HybridProgram, bytes], int] = {}
        self.sure: dict[Asking, list[Any]] = {}
        self.calm_from: dict[tuple[bytes, str], int] = {}  # what was published by then
        self.calm_ns = 0
        self.probes = 0
        self.node_still_until_ns = 0
        self._kinds: dict[str, str] = {}
        self._node_wires: dict[bytes, Wire] = {}
        self._disturbed: dict[frozenset[str], int] = {}  # names, or one: when a fault hit them last

    # -- the play -----------------------------------------------------------------------------

    def _run(self) -> None:
        with small({"INTRODUCTION_NS": self.life_ns}):
            self._play_all()

    def _play_all(self) -> None:
        rng = self.rng
        names = [f"p{i}" for i in range(rng.choice([3, 3, 4, 5, 6]))]
        kinds = [STRICT] if rng.random() < 0.4 else [NAMED, NAMED, LISTED, LISTED, LISTED, ALONE]
        for i, name in enumerate(names):
            kind = self._kinds[name] = rng.choice(kinds)
            known = names[:i] if rng.random() < 0.5 else [n for n in names if n != name]
            self._peers[name] = [] if kind == STRICT else known
        for name in names:
            self.after(int(rng.random() * 300 * MS), partial(self.start, name, 0))
        self.after(int(rng.choice([0.0, 0.1, 2.0]) * rng.random() * SECOND) + 1, self.start_node)
        plans = (
            (self.kill_count, self._kill), (self.cut_count, self._cut_pair),
            (self.break_count, self._break), (self.stop_count, self._stand_still),
            (self.change_count, self._change), (self.node_kill_count, self._kill_node),
            (self.node_stop_count, self._stop_node), (self.leave_count, self._leave),
        )  # fmt: skip
        self._plan(plans)
        self._try()
        self._play_out()

    def _heal(self) -> None:
        super()._heal()
        self.stall = 0.0
        if self.node is None:
            self.start_node()

    def _calm(self) -> None:
        self.calm_from, self.calm_ns = dict(self.published), self.now_ns
        super()._calm()
        for program in self.programs.values():
            self._tell_numbers(program)
            if program.client.had_node:
                program.open_at(self.rng.choice([">", "d.>", "u.>"]), True)
            self.settle(program)
            # The first ones may have gone to the node alone, to ask what the topics are.
            self.after(SECOND // 2, partial(self._tell_numbers, program))

    def _tell_numbers(self, program: HybridProgram) -> None:
        """The last numbers of each topic tell of all that was before."""
        for topic in program.topics:
            program._publish_some(topic, 1)
        self.settle(program)

    # -- the node -----------------------------------------------------------------------------

    def on_node_started(self) -> None:
        if not self.disk.commits:
            assert self.node is not None
            entries: list[Entry] = []
            for pattern in TRANSIENT:
                self.node.topics.set_policy(RuleEntry(pattern, False, 0, 0), entries)
            self.disk.commit(entries, WALL_NS, self.records)
            self.node.delivery.committed_lsn = len(self.disk.commits)

    def node_event(self, event: NodeEvent) -> None:
        if self.now_ns < self.node_still_until_ns:
            epoch = self.epoch

            def later() -> None:
                if epoch == self.epoch or isinstance(event, FrameReceived):
                    self.node_event(event)

            self.after(self.node_still_until_ns - self.now_ns, later)
            return
        super().node_event(event)

    def to_client(self, link: bytes, envelope: Envelope) -> None:
        wire = self._node_wires.get(link)
        if wire is not None and (NODE, wire.dialler.name) not in self._cut:
            self._travel(partial(self._to_dialler, wire, envelope))

    def _to_acceptor(self, wire: Wire, name: str, envelope: Envelope) -> None:
        if name != NODE:
            super()._to_acceptor(wire, name, envelope)
            return
        link = b"%s/%d" % (wire.dialler.name.encode(), wire.number)
        self._node_wires[link] = wire
        self.node_event(FrameReceived(link, envelope))

    # -- programs -----------------------------------------------------------------------------

    @staticmethod
    def address_of(name: str) -> str:
        return "tcp://127.0.0.1:6999" if name == NODE else DirectWorld.address_of(name)

    @staticmethod
    def name_at(address: str) -> str:
        return NODE if address.endswith(":6999") else DirectWorld.name_at(address)

    def start(self, name: str, run: int) -> None:
        self.note("start", name, run)
        kind = self._kinds[name]
        program = HybridProgram(self, name, run, kind)
        self.programs[name] = program
        self.all_programs.append(program)
        direct = program.client.direct
        program.client.start(tuple(map(self.address_of, self._peers[name])), self.now_ns)
        if kind in (STRICT, NAMED):
            self._open_node(program)
        elif kind == LISTED:
            facts = PeerFacts(addresses=(self.address_of(NODE),))
            direct.links.tell(Sighted(DEFAULT, facts), self.now_ns)
        self.settle(program)
        self._look_settled(program)

    def _look_settled(self, program: HybridProgram) -> None:
        """As ``connect`` does: a node is there, or the time is over."""
        client = program.client
        waited_ns = self.now_ns - program.started_ns
        if client.has_node or (not client.expects_node and waited_ns > limits.LOOK_LEAST_NS):
            client.do_without()
            self.settle(program)
            program.begin()
        else:
            self.after(50 * MS, partial(program._do, partial(self._look_settled, program)))

    def _open_node(self, program: HybridProgram) -> None:
        """A new link to the node, as the shell makes it."""
        if not program.is_alive or program.client._session is not None:
            return
        program.node_links += 1
        program.node_link = link = b"node-%d" % program.node_links
        self._open(program, link, self.address_of(NODE))
        self.event(program, LinkOpened(link))

    def _tell(self, program: Any, effect: ClientEffect) -> None:
        if isinstance(effect, FoundNode):
            self.after(1, partial(self._open_node, program))
        program.on_effect(effect)

    def _close(self, program: Any, effect: CloseLink) -> None:
        super()._close(program, effect)
        if effect.link == program.node_link and effect.reopen_after_ns >= 0:
            self.after(effect.reopen_after_ns + 1, partial(self._open_node, program))

    # -- faults -------------------------------------------------------------------------------

    def _disturb(self, *names: str, at_ns: int = 0) -> None:
        key = frozenset(names)
        self._disturbed[key] = max(self._disturbed.get(key, 0), at_ns or self.now_ns)

    def _kill(self) -> None:
        before = set(self.programs)
        super()._kill()
        for name in before - set(self.programs):
            self._disturb(name)

    def _leave(self) -> None:
        """A program closes its connection in order; another run takes its place."""
        program = self._some()
        if program is None or self.healed:
            return
        self.note("leave", program.name)
        self._disturb(program.name)
        program.client.close(self.now_ns)
        self.settle(program)
        program.is_alive = False
        del self.programs[program.name]
        after_ns = int(self.rng.random() * SECOND)
        self.after(after_ns, partial(self.start, program.name, program.run + 1))

    def _cut_pair(self) -> None:
        if self.healed or len(self.programs) < 2:
            return
        one, other = self.rng.sample([NODE, *sorted(self.programs)], 2)
        pairs = {(one, other)} | ({(other, one)} if self.rng.random() < 0.5 else set())
        self.note("cut", sorted(pairs))
        self._cut |= pairs
        self._disturb(one, other)

        def mend() -> None:
            self._cut.difference_update(pairs)
            self._disturb(one, other)

        self.after(int(self.rng.random() * 6 * SECOND), mend)

    def _stand_still(self) -> None:
        program = self._some()
        if program is not None and not self.healed:
            self.note("stop", program.name)
            until_ns = self.now_ns + int(self.rng.random() * 5 * SECOND)
            program.still_until_ns = max(program.still_until_ns, until_ns)
            self._disturb(program.name, at_ns=program.still_until_ns)

    def _kill_node(self) -> None:
        if self.node is None or self.healed:
            return
        self.note("kill node")
        self._disturb(NODE)
        self.stop_node()
        self.node_still_until_ns = 0
        for wire in list(self._wires.values()):
            if self.name_at(wire.address) == NODE and self.rng.random() < 0.7:
                delay = int(self.rng.random() * 20 * MS)
                self.after(delay, partial(self._tell_closed, wire.dialler, wire.link))

        def again() -> None:
            self._disturb(NODE)
            self.start_node()

        self.after(int(self.rng.random() * 3 * SECOND), again)

    def _stop_node(self) -> None:
        """It handles nothing for a while, then all at once."""
        if self.node is not None and not self.healed:
            self.note("stop node")
            until_ns = self.now_ns + int(self.rng.random() * 4 * SECOND)
            # Not beyond the faults: what waits must not be overtaken.
            until_ns = min(until_ns, SECOND + FAULTS_NS)
            self.node_still_until_ns = max(self.node_still_until_ns, until_ns)
            self._disturb(NODE, at_ns=self.node_still_until_ns)

    # -- what must come through ---------------------------------------------------------------

    def is_quiet(self, names: Iterable[str], since_ns: int) -> bool:
        """Whether no fault has hit these, nor any two of them, since then."""
        known = set(names)
        return all(at <= since_ns for hit, at in self._disturbed.items() if hit <= known)

    def is_direct(self, one: HybridProgram, other: HybridProgram) -> bool:
        """Whether two programs have a link that carries both ways."""
        if {(one.name, other.name), (other.name, one.name)} & self._cut:
            return False
        mine = one.client.direct.links.by_instance.get(other.identity)
        theirs = other.client.direct.links.by_instance.get(one.identity)
        return (
            mine is not None
            and theirs is not None
            and mine.session.id == theirs.session.id
            and not self._is_half_open(one, mine.name)
        )

    def _is_half_open(self, program: HybridProgram, link: bytes) -> bool:
        """Whether a connection is gone at one end, and nobody has noticed."""
        wire = self._wires.get((id(program), link))
        return wire is None or wire.closed

    def is_at_node(self, program: HybridProgram) -> bool:
        """Whether a program has a session with the node that carries both ways."""
        if {(NODE, program.name), (program.name, NODE)} & self._cut or self.node is None:
            return False
        session = program.client._session
        return (
            program.client.has_node
            and session is not None
            and any(peer.session.id == session.id for peer in self.node.peers.values())
            and not self._is_half_open(program, program.node_link)
        )

    def _has_no_noise(self) -> bool:
        """Whether frames come, and readers have room."""
        return not self.loss and self.window[1] > 1000 and not self.bounds

    def _try(self) -> None:
        """Publish a record that must come, if there is anybody to whom it must."""
        if self.healed:
            return
        self.after(200 * MS, self._try)
        if not self._has_no_noise():
            return
        readings = [
            r
            for p in self.programs.values()
            for r in p.readings.values()
            if not r.pulls and r.answered_ns and r.opened_ns <= self.now_ns - QUIET_NS
        ]
        if not readings:
            return
        reading = self.rng.choice(readings)
        others = [p for p in self.programs.values() if p is not reading.program and not p.lazy]
        publisher = self.rng.choice(others) if others else None
        topic = self.rng.choice(["t.a", "t.b"])
        if publisher is not None and self._must_come(publisher, reading, topic):
            self.probes += 1
            probe = Probe(publisher, reading, publisher.probe(topic))
            self.after(QUIET_NS, partial(self._look_for, probe))

    def _must_come(self, publisher: HybridProgram, reading: Any, topic: str) -> bool:
        reader, now_ns = reading.program, self.now_ns
        names = {publisher.name, reader.name, NODE}
        since_ns = now_ns - QUIET_NS
        lane = publisher.client.publisher.lanes.get(topic)
        if not (
            matches(reading.pattern, topic)
            and self.is_quiet(names, since_ns)
            and min(publisher.started_ns, reader.started_ns) <= since_ns
            and lane is not None
            and (lane.transient or not publisher.client.had_node)
        ):
            return False
        if self.is_at_node(publisher) and self.is_at_node(reader):
            return True
        link = publisher.client.direct.links.by_instance.get(reader.identity)
        if link is None or not self.is_direct(publisher, reader):
            return False
        return reading.number in publisher.client.direct.outlets._outlets.get(link.name, ())

    def _look_for(self, probe: Probe) -> None:
        reading, publisher = probe.reading, probe.publisher
        names = {publisher.name, reading.program.name, NODE}
        if not self.is_quiet(names, probe.at_ns - QUIET_NS) or reading.is_closed:
            return
        if probe.value not in reading.seen:
            self.overdue.append(f"{reading!r} did not get {probe.value!r} of {publisher!r}")

    def on_asked(self, asking: Asking) -> None:
        """A request is asked: note who must be found, if anybody."""
        asker: Any = asking.program
        since_ns = self.now_ns - QUIET_NS
        if not (self.is_calm or self._has_no_noise()) or asker.started_ns > since_ns:
            return
        found = []
        for program in self.programs.values():
            names = {asker.name, program.name, NODE}
            if program.started_ns > since_ns or not self.is_quiet(names, since_ns):
                continue
            for registration in program.registrations:
                if not registration.is_serving or registration.is_leaving:
                    continue
                if self._must_reach(asker, program, registration, asking):
                    found.append((program, registration))
        if found:
            self.sure[asking] = found

    def _must_reach(
        self, asker: HybridProgram, program: HybridProgram, registration: Any, asking: Asking
    ) -> bool:
        pin = asking.call.pin
        if pin != "direct" and self.is_at_node(asker) and self.is_at_node(program):
            return True
        if pin == "node" or (asking.call.kind == EACH and asker.client.has_node):
            return False
        service = asker.client.direct.services.by_name.get(registration.service)
        if registration.service != asking.call.service or service is None:
            return False
        if (
            asker.client.had_node
            and not asker.client.has_node
            and not self.is_direct(asker, program)
        ):
            return False
        link = asker.client.direct.links.by_instance.get(program.identity)
        return asker is program or (
            link is not None
            and self.is_direct(asker, program)
            and any(i.link == link.name for i in service.instances.values())
        )

    # -- rest ---------------------------------------------------------------------------------

    def find_unrest(self) -> list[str]:
        found = []
        for program in self.programs.values():
            found += program.find_unrest()
            found += self._find_unlinked(program)
        node = self.node
        assert node is not None
        for sub in node.delivery.subscriptions:
            if sub.queue or sub.is_held:
                found.append(f"the node has something for {sub.link!r}")
        if node.transients._held:
            found.append("answers to subscribe wait at the node")
        if node.services._asked:
            found.append(f"the node has {len(node.services._asked)} requests")
        return found + self._find_disagreements()

    def _find_unlinked(self, program: HybridProgram) -> list[str]:
        """With whom it could talk directly, and does not."""
        found = []
        linked = program.client.direct.links.by_instance
        for name, other in self.programs.items():
            if other is program or other.identity in linked:
                continue
            is_listed = name in self._peers[program.name] or program.name in self._peers[name]
            if is_listed and STRICT not in (program.kind, other.kind):
                found.append(f"{program!r} is not linked with {other!r}")
            elif ALONE not in (program.kind, other.kind) and (
                program.is_allowed(other) and other.is_allowed(program)
            ):
                found.append(f"{program!r} is not linked with {other!r}, introduced")
        return found

    def _find_disagreements(self) -> list[str]:
        """Where the node and programs do not say the same of routes."""
        node = self.node
        assert node is not None
        found = []
        for link, peer in node.peers.items():
            program = next(
                (p for p in self.programs.values() if p.identity == peer.hello.instance), None
            )
            if program is None:
                found.append(f"the node has a session of {peer.hello.instance!r}, which is gone")
                continue
            direct = program.client.direct
            known, over = direct.routing._known, direct.outlets.over
            mine: dict[bytes, set[int] | None] = {program.identity: None}
            for name, (run, numbers) in known.items():
                if numbers and name not in over:
                    mine[run] = numbers
            if node.transients.direct(link) != mine:
                found.append(f"the node and {program!r} do not agree on who is reached directly")
            for topic in direct.outlets.unwanted:
                found += [
                    f"{program!r} keeps {topic!r} from {sub.link!r}"
                    for sub in node.delivery.subscriptions
                    if matches(sub.pattern, topic)
                    and not has_directly(mine, sub.instance, sub.number)
                ]
            for name, source in direct.inlets.sources.items():
                other = next(
                    (p for p in self.programs.values() if p.identity == source.instance), None
                )
                if other is not None and source.node != other.client.direct.routing.node:
                    found.append(f"{program!r} takes {other!r} to be at {source.node!r} ({name!r})")
        return found
