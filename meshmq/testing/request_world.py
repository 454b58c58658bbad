"""A node with programs that ask and serve, on virtual time; see ``world`` for the rest.

A history has four parts: faults (lost and repeated frames, cut links, kills, crashes of programs,
handlers that are too slow, fail, or do not stop when they are told), healing, a calm part where
much more must hold, and a roll call, in which every place of every instance must take one request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from meshmq import codec, limits
from meshmq.core.effects import (
    CallsAnswered,
    ClientEffect,
    RequestsCame,
    RequestsStopped,
    ServiceAnswered,
    StateChanged,
)
from meshmq.core.events import FrameReceived, LinkClosed, NodeEvent
from meshmq.core.node import Node
from meshmq.core.responder import Incoming
from meshmq.core.rows import reply_bytes
from meshmq.core.services import Services
from meshmq.core.session import SessionState
from meshmq.frames import (
    EACH,
    ONE,
    RETURNED,
    STREAM,
    Body,
    Cancel,
    Envelope,
    Reply,
    ReplyRow,
    Request,
    Served,
)
from meshmq.limits import MS, SECOND
from meshmq.testing.faults import FAULTS_NS, Faults
from meshmq.testing.request_program import Ask, Asking, HandOut, RequestProgram, Run, Serving
from meshmq.testing.scene import Scene

SETTLED_NS = 6 * SECOND  # by then sessions of programs that died are given up
CALM_NS = 1500 * MS
REST_NS = 30 * SECOND
SERVICES = ["s.a", "s.b", "s.c"]
ANCHORED = ("s.a", "s.b")  # served by p0 all through the calm part


@contextmanager
def small(bounds: dict[str, int]) -> Iterator[None]:
    """Bounds that a history reaches, in place of those of every node."""
    usual = {name: getattr(limits, name) for name in bounds}
    try:
        for name, value in bounds.items():
            setattr(limits, name, value)
        yield
    finally:
        for name, value in usual.items():
            setattr(limits, name, value)


def tag_of(data: bytes) -> int:
    """The number of the call that a request or reply is of."""
    return int(data[1 : data.index(b"|")])


class RequestWorld(Scene[RequestProgram]):
    """One history of requests, from one seed. ``run`` plays it.

    Attributes:
        askings, runs, servings: what happened, in order.
        is_asking: programs ask. is_calm: faults are long over. rested_ns: when all was at rest.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed, codec.TOOLS, lambda payload: [])
        rng = self.rng
        self.loss = rng.choice([0.0, 0.0, 0.01, 0.1])
        self.repeat = rng.choice([0.0, 0.02, 0.1])
        self.late = rng.choice([0.0, 0.05, 0.2])
        self.kill_count = rng.choice([0, 0, 1, 2, 4])
        self.cuts = rng.choice([0, 0, 1, 3])
        self.swizzle = rng.random() < 0.1
        self.pace_ns = rng.choice([100, 300, 600]) * MS
        self.cancelling = rng.choice([0.0, 0.1, 0.4])
        self.slowness = rng.choice([0.0, 0.02, 0.1])  # how often a handler is much too slow
        self.stops = rng.choice([0, 3, 10])
        self.leaves = rng.choice([0, 0, 1])
        self.breaks = rng.choice([0, 0, 4, 30, 120])  # links that are seen to close
        self.spared = rng.choice(["", "p0"])  # whose does not
        self.bounds = rng.choice(
            [{}, {}, {"REQUESTS_BYTES_MAX": 20_000}, {"REQUESTS_SHARE_BYTES_MAX": 8_000},
             {"REPLIES_UNACKED_BYTES": 300, "REPLY_BACKLOG_BYTES_MAX": 900},
             {"REPLIES_UNACKED_BYTES": 300, "REPLY_BACKLOG_BYTES_MAX": 500,
              "REPLY_TOLD_BYTES_MAX": 500, "REPLY_BACKLOGS_BYTES_MAX": 1_500},
             {"REQUESTS_UNACKED_BYTES": 500}, {"SERVICES_UNACKED_FRAMES": 4},
             {"REQUESTS_PER_SESSION_MAX": 4}]
        )  # fmt: skip
        self.instance_bytes = rng.choice([limits.INSTANCE_BYTES_MAX, 1_600])
        self.services = SERVICES
        self.askings: list[Asking] = []
        self.runs: list[Run] = []
        self.servings: list[Serving] = []
        self.strange: list[str] = []
        self.unrest: list[str] = []
        self.audits: list[str] = []
        self.is_asking = True
        self.is_calm = False
        self.calm_ns = self.rested_ns = 0
        self._sent: dict[tuple[bytes, int], int] = {}
        self._asked_ns: dict[tuple[bytes, int, int], int] = {}
        self._handed: dict[tuple[bytes, int], HandOut] = {}
        self._asks: dict[tuple[bytes, int], Ask] = {}
        self._at_work: dict[tuple[bytes, int], set[int]] = {}
        self._gone: set[tuple[bytes, int]] = set()
        self._digest = hashlib.sha256()
        self.faults = Faults(self)

    # -- the play -----------------------------------------------------------------------------

    def run(self) -> RequestWorld:
        """Play the history: faults, healing, calm, rest, roll call."""
        with small({"INSTANCE_BYTES_MAX": self.instance_bytes}):
            self._run()
        return self

    def _run(self) -> None:
        self.start_node()
        for i in range(self.rng.choice([2, 3, 4])):
            self._start_program(f"p{i}", 0)
        self.faults.plan()
        for _ in range(self.stops):
            self.after(int(self.rng.random() * FAULTS_NS), self._stop)
        for _ in range(self.breaks):
            self.after(int(self.rng.random() * FAULTS_NS), self._break)
        for _ in range(self.leaves):
            self.after(int(self.rng.random() * FAULTS_NS), self._leave)
        with small(self.bounds):
            self.play(self.now_ns + FAULTS_NS)
        self._heal()
        self.play(self.now_ns + SETTLED_NS)
        self._calm()
        self.play(self.now_ns + CALM_NS)
        self.is_asking = False
        self.play(self.now_ns + SECOND)
        end = self.now_ns + REST_NS
        while self.now_ns < end and self.find_unrest():
            self.play(self.now_ns + 250 * MS)
        self.unrest = self.find_unrest()
        self.rested_ns = self.now_ns
        self._call_roll()
        self.play(self.now_ns + SECOND)
        self.unrest += self.find_unrest()

    def note(self, *what: object) -> None:
        self._digest.update(repr((self.now_ns, what)).encode())

    @property
    def digest(self) -> str:
        """Of every event in order: equal for equal seeds."""
        return self._digest.hexdigest()

    def _heal(self) -> None:
        self.is_asking = False
        self.heal_links()
        anchor = self.programs["p0"]
        for service in ANCHORED:
            if not any(s.service == service and not s.down_ns for s in anchor.servings.values()):
                anchor.serve(service)

    def _calm(self) -> None:
        self.note("calm")
        self.is_asking = self.is_calm = True
        self.calm_ns = self.now_ns
        for program in self.programs.values():
            self.after(int(self.rng.random() * 100 * MS), program.ask_now_and_then)
        for _ in range(self.stops):
            self.after(int(self.rng.random() * CALM_NS), self._stop)

    def _call_roll(self) -> None:
        """As many requests as there are places, at once; then one to each instance."""
        self.note("roll call")
        asker = self.programs[self.rng.choice(sorted(self.programs))]
        for service in self.services:
            known = [s for s in self.servings if s.service == service and s.is_known]
            for _ in range(sum(serving.concurrency for serving in known)):
                asker.probe(service, ONE)
        self.settle(asker)

        def to_each() -> None:
            for service in self.services:
                asker.probe(service, EACH)
            self.settle(asker)

        self.after(SECOND // 4, to_each)

    # -- the node -----------------------------------------------------------------------------

    def on_node_started(self) -> None:
        self._sent.clear()
        self._asks.clear()
        self._at_work.clear()
        self._gone.clear()

    def node_event(self, event: NodeEvent) -> None:
        if self.node is not None and isinstance(event, FrameReceived):
            peer = self.node.peers.get(event.link)
            envelope = event.envelope
            if (
                peer is not None
                and peer.session.id == envelope.session
                and peer.session.state is SessionState.OPEN
                and envelope.sequence == peer.session.received + 1
            ):
                self._accepted(event.link, envelope)
        super().node_event(event)

    def _accepted(self, link: bytes, envelope: Envelope) -> None:
        """The node takes a frame of a program."""
        body = envelope.body
        if isinstance(body, Request):
            sent_ns = self._asked_ns[link, envelope.session, envelope.sequence]
            at = 0
            for row in body.rows:
                asking = self.askings[tag_of(body.payload[at : at + row.length])]
                at += row.length
                ask = Ask(link, row.kind, sent_ns, self.now_ns, row.remaining_ns)
                asking.asks.append(ask)
                self._asks[link, row.id] = ask
        elif isinstance(body, Cancel):
            for number in body.ids:
                if (link, number) in self._asks:
                    self._asks[link, number].is_open = False
        elif isinstance(body, Reply):
            for reply in body.rows:
                hand_out = self._handed.get((link, reply.id))
                if hand_out is not None and (reply.end or not hand_out.is_stream):
                    self._at_work.get((link, hand_out.registration), set()).discard(reply.id)
                    hand_out.is_returned = reply.code == RETURNED

    def to_client(self, link: bytes, envelope: Envelope) -> None:
        key = (link, envelope.session)
        if envelope.sequence > self._sent.get(key, 0):
            self._sent[key] = envelope.sequence
            self._note_sent(link, envelope.body)
        super().to_client(link, envelope)

    def _note_sent(self, link: bytes, body: Body) -> None:
        """The node sends this for the first time."""
        if isinstance(body, Served):
            if body.ended:
                self._gone.add((link, body.registration))
        elif isinstance(body, Reply):
            for reply in body.rows:
                ask = self._asks.get((link, reply.id))
                if ask is None:
                    self.strange.append(f"{link!r} is answered {reply.id}, which it did not ask")
                elif reply.end or (reply.code and ask.kind == STREAM):
                    ask.answers += 1
                    ask.is_open = False
        elif isinstance(body, Request):
            program = self.programs.get(link.decode().split("/")[0])
            at = 0
            for row in body.rows:
                asking = self.askings[tag_of(body.payload[at : at + row.length])]
                at += row.length
                place = (link, row.registration)
                hand_out = HandOut(asking, link, row.registration, self.now_ns)
                hand_out.is_stream = row.kind == STREAM
                hand_out.is_behind_end = place in self._gone
                at_work = self._at_work.setdefault(place, set())
                at_work.add(row.id)
                hand_out.beside = len(at_work)
                if program is not None and program.link == link:
                    hand_out.concurrency = program.servings[row.registration].concurrency
                self._handed[link, row.id] = hand_out
                asking.hand_outs.append(hand_out)

    def _to_node(self, program: RequestProgram, envelope: Envelope) -> None:
        if envelope.sequence:
            key = (program.link, envelope.session, envelope.sequence)
            self._asked_ns.setdefault(key, self.now_ns)
        super()._to_node(program, envelope)

    def arrived(self, program: RequestProgram, incoming: Incoming) -> HandOut:
        """A request has come to an instance's program."""
        hand_out = self._handed[program.link, incoming.id]
        assert hand_out.asking.tag == tag_of(incoming.data), "the node has sent another one"
        hand_out.arrived_ns = self.now_ns
        return hand_out

    def on_link_dropped(self, link: bytes) -> None:
        for key in [key for key in self._sent if key[0] == link]:
            del self._sent[key]
        for key in [key for key in self._asks if key[0] == link]:
            del self._asks[key]
        for place in [place for place in self._at_work if place[0] == link]:
            del self._at_work[place]
        self._gone = {place for place in self._gone if place[0] != link}

    def on_turn_ended(self) -> None:
        if self.node is not None and not self.audits:
            found = [*audit(self.node), *self._forgotten(self.node)]
            self.audits = [f"{text} (at {self.now_ns / 1e9:.4f} s)" for text in found]

    def _forgotten(self, node: Node) -> list[str]:
        """What the node has taken, has not answered, and knows nothing of."""
        services = node.services
        return [
            f"request {number} of {link!r} is forgotten"
            for (link, number), ask in self._asks.items()
            if ask.is_open
            and number not in services._asking.get(link, {})
            and not any(number == row.id for row, _, _ in replies_to(services, link))
        ]

    # -- programs -----------------------------------------------------------------------------

    def _start_program(self, name: str, run: int) -> None:
        rng = self.rng
        title = name if rng.random() < 0.8 else ""
        program = self.programs[name] = RequestProgram(self, name, run, title)
        self.open_link(program)
        self.after(int(rng.random() * 100 * MS), program.ask_now_and_then)
        for _ in range(rng.choice([1, 2, 4])):
            service = rng.choice(self.services)
            self.after(int(rng.random() ** 2 * SECOND), partial(program.serve, service))

    def restart(self, name: str) -> None:
        old = self.programs[name]
        if self.healed:
            return
        self.note("restart", name)
        old.die()
        self._start_program(name, old.run + 1)

    def _leave(self) -> None:
        """A program closes its connection in order; another one takes its place."""
        if not self.healed:
            program = self.programs[self.rng.choice(sorted(self.programs))]
            program.client.close(self.now_ns)
            self.settle(program)
            self.restart(program.name)

    def _break(self) -> None:
        """A link closes, and its program knows it: it is back at once."""
        names = sorted(set(self.programs) - {self.spared})
        program = self.programs[self.rng.choice(names)]
        if not self.healed:
            self.note("break", program.name)
            self.client_event(program, LinkClosed(program.link, "cut"))

    def _stop(self) -> None:
        """An instance stops in order, or all of its service; in the calm part p0's serve on."""
        at_hand = [
            serving
            for serving in self.servings
            if serving.program.alive
            and not serving.down_ns
            and not (self.healed and serving.program.name == "p0")
        ]
        if at_hand and not (self.healed and not self.is_asking):
            serving = self.rng.choice(at_hand)
            all_of_it = self.rng.random() < 0.3
            for other in at_hand:
                if other is serving or (all_of_it and other.service == serving.service):
                    other.program.stop(other)

    def on_effect(self, program: RequestProgram, effect: ClientEffect) -> None:
        match effect:
            case CallsAnswered(calls):
                program.on_calls(calls)
            case RequestsCame(registrations):
                for registration in sorted(registrations, key=lambda r: r.id):
                    program.on_came(registration)
            case RequestsStopped(requests):
                program.on_stopped(requests)
            case ServiceAnswered(registration, code, _):
                program.on_answer(registration, code)
            case StateChanged("reconnecting" | "closed", _, _):
                program.on_lost()
            case _:
                pass

    # -- rest ---------------------------------------------------------------------------------

    def find_unrest(self) -> list[str]:
        """What has not come to rest yet, in words; empty when all has."""
        found = []
        for program in self.programs.values():
            if not program.client.is_connected:
                found.append(f"{program.name}: {program.client.state}")
            if program.runs:
                found.append(f"{program.name}: {len(program.runs)} handlers at work")
        found += [f"{asking!r} has no end" for asking in self.askings if not asking.ended_ns]
        found += [
            f"{asking!r}: values that are not taken"
            for asking in self.askings
            if asking.program.alive and asking.call.replies and not asking.is_cancelled
        ]
        assert self.node is not None
        if self.node.services._asked:
            found.append(f"the node has {len(self.node.services._asked)} requests")
        return found


def replies_to(services: Services, link: bytes) -> Iterable[tuple[ReplyRow, bytes, int]]:
    """Those that wait to leave."""
    box = services.outgoing.boxes.get(link)
    return box.replies if box is not None else ()


def audit(node: Node) -> list[str]:
    """What does not add up at the end of a turn. It looks inside: the machine's own invariants."""
    services = node.services
    found = []
    size = sum(asked.size for asked in services._asked.values())
    if services._bytes != size:
        found.append(f"{services._bytes} bytes are told, requests have {size}")
    if sum(services._shares.values()) != size:
        found.append(f"{services._shares} are told, requests have {size} bytes")
    found += [
        f"{share} bytes of requests of {link!r} are taken"
        for link, share in services._shares.items()
        if share > limits.REQUESTS_SHARE_BYTES_MAX
    ]
    if size > limits.REQUESTS_BYTES_MAX:
        found.append(f"{size} bytes of requests are taken")
    outgoing = services.outgoing
    most = limits.REPLY_BACKLOG_BYTES_MAX + limits.REPLY_TOLD_BYTES_MAX
    for link, box in outgoing.boxes.items():
        if box.reply_bytes > most:
            found.append(f"{box.reply_bytes} bytes of replies wait for {link!r}")
        waits = sum(reply_bytes((row, data)) for row, data, _ in box.replies)
        if waits != box.reply_bytes:
            found.append(f"{box.reply_bytes} bytes for {link!r} are told, its replies have {waits}")
    backlog = sum(box.reply_bytes for box in outgoing.boxes.values())
    if outgoing.backlog != backlog:
        found.append(f"a backlog of {outgoing.backlog} bytes is told, replies have {backlog}")
    linked = sum(bool(asked.link) for asked in services._asked.values())
    known = sum(len(mine) for mine in services._asking.values())
    if linked != known:
        found.append(f"{linked} requests have a requester, requesters have {known}")
    waiting = sum(len(service.waiting) for service in services.by_name.values())
    found += [
        f"{service._taking} instances of {service.name} are said to take requests"
        for service in services.by_name.values()
        if service._taking != sum(not i.draining for i in service.instances.values())
    ]
    found += [
        f"{len(service.waiting)} requests wait for {service.name}, which nobody serves"
        for service in services.by_name.values()
        if service.waiting
        and not service.is_served
        and not services._is_young(service.name, node._now_ns)
    ]
    held = 0
    for mine in services._instances.values():
        for instance in mine.values():
            held += len(instance.held)
            waiting += len(instance.waiting)
            if instance.waiting and instance.draining:
                found.append("requests wait for an instance that takes no more")
            if len(instance.held) > instance.concurrency:
                found.append(f"{len(instance.held)} at work, {instance.concurrency} may be")
            if instance.held_bytes != sum(asked.weight for asked in instance.held.values()):
                found.append(f"an instance's {instance.held_bytes} bytes are wrong")
            if not instance.service.is_placed(instance):
                found.append("an instance is not where its load belongs")
            if instance.is_stuck != (instance.link in services._stuck):
                found.append("an instance is stuck, and its link is not, or the other way")
            if instance.service is not services.by_name.get(instance.service.name):
                found.append("an instance is of a service that nobody finds")
    parents = sum(asked.kind == EACH and not asked.parent for asked in services._asked.values())
    if held + waiting + parents != len(services._asked):
        count = f"{held} at work, {waiting} waiting, {parents} to each"
        found.append(f"{len(services._asked)} requests: {count}")
    return found
