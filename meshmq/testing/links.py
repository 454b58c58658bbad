"""Two ends of one link and no node: the session machine against itself, under the same faults."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial

from meshmq.core.session import Session, SessionState
from meshmq.frames import PROTOCOL_MAJOR, Command, Envelope, Hello, Welcome
from meshmq.limits import MS, SECOND

BODIES = 60
FAULTS_NS = 30 * SECOND
RUN_NS = 300 * SECOND  # a link that reorders everything makes headway a frame a resend


class LinkWorld:
    """Two programs that exchange numbered bodies both ways over a link that loses, repeats and
    delays; the initiator says hello, the acceptor answers its first one."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.loss = rng.choice([0.0, 0.02, 0.2])
        self.repeat = rng.choice([0.0, 0.1])
        self.late = rng.choice([0.0, 0.2])
        self.silent_from_ns = rng.choice([None, None, rng.randrange(FAULTS_NS)])
        self.now_ns = SECOND
        self.ends: list[Session | None] = [None, None]
        self.sent: list[list[int]] = [[], []]
        self.got: list[list[int]] = [[], []]
        self._heap: list[tuple[int, float, Callable[[], None]]] = []

    def run(self) -> LinkWorld:
        """Play it to the end."""
        hello = Hello(PROTOCOL_MAJOR, 0, "local", b"i" * 16, b"p" * 16)
        self.ends[0] = Session(7, hello, self.now_ns)
        self._flush(0)
        for end in (0, 1):
            for number in range(BODIES):
                when = int(self.rng.random() * 5 * SECOND)
                self._after(when, partial(self._send, end, number))
        self._after(20 * MS, self._tick)
        while self.now_ns < FAULTS_NS or (self.now_ns < RUN_NS and not self._is_over()):
            self.now_ns, _, work = heapq.heappop(self._heap)
            work()
        return self

    def _is_over(self) -> bool:
        """Whether both have everything, or one has given up."""
        if any(s is None or s.state is SessionState.CLOSED for s in self.ends):
            return True
        return all(len(self.got[end]) == len(self.sent[1 - end]) for end in (0, 1))

    def _after(self, delay_ns: int, work: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now_ns + delay_ns, self.rng.random(), work))

    def _send(self, end: int, number: int) -> None:
        session = self.ends[end]
        if session is None or session.state is SessionState.GREETING:
            self._after(50 * MS, lambda: self._send(end, number))
        elif session.state is SessionState.OPEN:
            self.sent[end].append(number)
            session.send(Command(number, "body", b""), self.now_ns)
            self._flush(end)

    def _tick(self) -> None:
        for end, session in enumerate(self.ends):
            if session is not None:
                session.tick(self.now_ns)
                self._flush(end)
        self._after(20 * MS, self._tick)

    def _flush(self, end: int) -> None:
        session = self.ends[end]
        assert session is not None
        envelopes, session.outbox = session.outbox, []
        for envelope in envelopes:
            self._travel(1 - end, envelope)

    def _travel(self, to: int, envelope: Envelope) -> None:
        rng = self.rng
        silent = self.silent_from_ns is not None and self.now_ns >= self.silent_from_ns
        if silent or rng.random() < self.loss:
            return
        delay = 50_000 + int(rng.random() * (300 * MS if rng.random() < self.late else MS))
        self._after(delay, lambda: self._arrive(to, envelope))
        if rng.random() < self.repeat:
            self._after(2 * delay, lambda: self._arrive(to, envelope))

    def _arrive(self, to: int, envelope: Envelope) -> None:
        session = self.ends[to]
        if session is None:
            if isinstance(envelope.body, Hello):
                welcome = Welcome(PROTOCOL_MAJOR, 0, b"o" * 16, "", "", 1)
                self.ends[to] = Session(envelope.session, welcome, self.now_ns)
                self._flush(to)
            return
        body = session.receive(envelope, self.now_ns)
        if isinstance(body, Command):
            self.got[to].append(body.id)
        self._flush(to)


def check_link(world: LinkWorld) -> list[str]:
    """What is wrong: each end must have got the other's bodies once and in order, all of them
    unless the session was given up."""
    faults = []
    for end in (0, 1):
        sent, got = world.sent[1 - end], world.got[end]
        if got != sent[: len(got)]:
            faults.append(f"end {end} got {got[:20]}, sent was {sent[:20]}")
        states = [s.state if s is not None else None for s in world.ends]
        if SessionState.CLOSED not in states and len(got) < len(sent):
            faults.append(f"end {end} got {len(got)} of {len(sent)}, and nobody gave up")
    silent = world.silent_from_ns is not None
    if (
        not silent
        and world.loss == 0
        and any(s is None or s.state is SessionState.CLOSED for s in world.ends)
    ):
        faults.append("a session was given up on a link that loses nothing")
    return faults
