"""What is known of requests in a simulated history: what programs did, what nodes took and sent.

Worlds that have requests build on it, and tell it of the frames between programs and their nodes.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from meshmq import limits
from meshmq.core.instances import Taker
from meshmq.core.node import Node
from meshmq.core.responder import Incoming
from meshmq.core.rows import reply_bytes
from meshmq.core.services import Services
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
from meshmq.limits import SECOND
from meshmq.testing.request_records import Ask, Asking, HandOut, Run, Serving

if TYPE_CHECKING:
    from meshmq.testing.request_program import RequestProgram


def tag_of(data: bytes) -> int:
    """The number of the call that a request or reply is of."""
    return int(data[1 : data.index(b"|")])


class RequestLedger(ABC):
    """See the module's header.

    Attributes:
        askings, runs, servings: what happened, in order.
        strange: what was answered that nobody asked.
        pace_ns, cancelling, slowness: how often programs ask, give up, and are much too slow.
        turns: of a handler, by which whoever asks for as many as there are places has an answer.
        is_asking: programs ask. is_calm: faults are long over. rested_ns: when all was at rest.
    """

    rng: random.Random
    now_ns: int
    unrest: list[str]
    programs: dict[str, RequestProgram]
    services: list[str]
    pace_ns = 0
    cancelling = 0.0
    slowness = 0.0
    turns = 1

    def begin_ledger(self) -> None:
        """Nothing has happened yet."""
        self.askings: list[Asking] = []
        self.runs: list[Run] = []
        self.servings: list[Serving] = []
        self.strange: list[str] = []
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

    # -- what programs need ---------------------------------------------------------------------

    @abstractmethod
    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Do ``work`` so much later."""

    @abstractmethod
    def note(self, *what: object) -> None:
        """Something happened."""

    @abstractmethod
    def settle(self, program: RequestProgram) -> None:
        """Send what a call of the program brought about."""

    @abstractmethod
    def nodes(self) -> Iterable[Node]:
        """Those that run."""

    def call_roll(self, asker: RequestProgram) -> None:
        """As many requests as there are places, at once; then one to each instance."""
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

    # -- what is told of frames -----------------------------------------------------------------

    def said(self, link: bytes, envelope: Envelope) -> None:
        """A program sends this, perhaps not for the first time."""
        if envelope.sequence:
            self._asked_ns.setdefault((link, envelope.session, envelope.sequence), self.now_ns)

    def accepted(self, link: bytes, envelope: Envelope) -> None:
        """A node takes a frame of a program."""
        body = envelope.body
        if isinstance(body, Request):
            sent_ns = self._asked_ns[link, envelope.session, envelope.sequence]
            at = 0
            for row in body.rows:
                asking = self.askings[tag_of(body.payload[at : at + row.length])]
                at += row.length
                ask = Ask(link, row.kind, sent_ns, self.now_ns, row.remaining_ns)
                asking.asks.append(ask)
                asking.due_ns = max(asking.due_ns, ask.due_ns)
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

    def passed_on(self, body: Body) -> None:
        """A node takes what another one asks: it knows a later deadline, by the frame's way."""
        if isinstance(body, Request):
            at = 0
            for row in body.rows:
                asking = self.askings[tag_of(body.payload[at : at + row.length])]
                at += row.length
                asking.due_ns = max(asking.due_ns, self.now_ns + row.remaining_ns)

    def told(self, link: bytes, envelope: Envelope) -> None:
        """A node sends this to a program, perhaps not for the first time."""
        key = (link, envelope.session)
        if envelope.sequence > self._sent.get(key, 0):
            self._sent[key] = envelope.sequence
            self._note_sent(link, envelope.body)

    def _note_sent(self, link: bytes, body: Body) -> None:
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

    def arrived(self, program: RequestProgram, incoming: Incoming) -> HandOut:
        """A request has come to an instance's program."""
        hand_out = self._handed[program.link, incoming.id]
        assert hand_out.asking.tag == tag_of(incoming.data), "the node has sent another one"
        hand_out.arrived_ns = self.now_ns
        return hand_out

    # -- links and nodes go -----------------------------------------------------------------------

    def forget(self, link: bytes) -> None:
        """The node gave up a program's session."""
        for key in [key for key in self._sent if key[0] == link]:
            del self._sent[key]
        for key in [key for key in self._asks if key[0] == link]:
            del self._asks[key]
        for place in [place for place in self._at_work if place[0] == link]:
            del self._at_work[place]
        self._gone = {place for place in self._gone if place[0] != link}

    def forget_all(self) -> None:
        """A node alone begins anew."""
        self._sent.clear()
        self._asks.clear()
        self._at_work.clear()
        self._gone.clear()

    # -- what does not add up ---------------------------------------------------------------------

    def look_at(self, node: Node) -> None:
        """At the end of a turn."""
        if not self.audits:
            found = [*audit(node), *self._forgotten(node)]
            self.audits = [f"{text} (at {self.now_ns / 1e9:.4f} s)" for text in found]

    def _forgotten(self, node: Node) -> list[str]:
        """What the node has taken, has not answered, and knows nothing of."""
        services = node.services
        return [
            f"request {number} of {link!r} is forgotten"
            for (link, number), ask in self._asks.items()
            if ask.is_open
            and link in node.peers
            and number not in services._asking.get(link, {})
            and not any(number == row.id for row, _, _ in replies_to(services, link))
        ]

    def find_open(self) -> list[str]:
        """What is not over, in words."""
        found = [
            f"{program.label}: {len(program.runs)} handlers at work"
            for program in self.programs.values()
            if program.runs
        ]
        found += [f"{asking!r} has no end" for asking in self.askings if not asking.ended_ns]
        found += [
            f"{asking!r}: values that are not taken"
            for asking in self.askings
            if asking.program.alive and asking.call.replies and not asking.is_cancelled
        ]
        asked = sum(len(node.services._asked) for node in self.nodes())
        if asked:
            found.append(f"nodes have {asked} requests")
        return found


def replies_to(services: Services, link: bytes) -> Iterable[tuple[ReplyRow, bytes, int]]:
    """Those that wait to leave."""
    box = services.outgoing.boxes.get(link)
    return box.replies if box is not None else ()


def takers_of(services: Services) -> list[Taker]:
    """All instances, and siblings that serve."""
    takers: list[Taker] = [i for mine in services._instances.values() for i in mine.values()]
    return takers + [r for o in services.siblings.values() for r in o.remotes.values()]


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
    waiting = sum(len(s.waiting) + len(s.guests) for s in services.by_name.values())
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
    for taker in takers_of(services):
        held += len(taker.held)
        waiting += len(taker.waiting)
        if taker.waiting and taker.draining:
            found.append("requests wait for an instance that takes no more")
        if not taker.is_remote and len(taker.held) > taker.concurrency:
            found.append(f"{len(taker.held)} at work, {taker.concurrency} may be")
        if taker.held_bytes != sum(asked.weight for asked in taker.held.values()):
            found.append(f"an instance's {taker.held_bytes} bytes are wrong")
        if not taker.service.is_placed(taker):
            found.append("an instance is not where its load belongs")
        if taker.is_stuck != (taker.link in services._stuck):
            found.append("an instance is stuck, and its link is not, or the other way")
        if taker.service is not services.by_name.get(taker.service.name):
            found.append("an instance is of a service that nobody finds")
    parents = sum(asked.kind == EACH and not asked.parent for asked in services._asked.values())
    if held + waiting + parents != len(services._asked):
        count = f"{held} at work, {waiting} waiting, {parents} to each"
        found.append(f"{len(services._asked)} requests: {count}")
    return found
