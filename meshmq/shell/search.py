"""Looks for the nodes of a mesh by mDNS and at the usual address, and greets those it finds.

For programs that are not part of the mesh yet: ``connect`` without an address, ``meshmq peers``,
the doctor. One thread runs the discovery machine, and each dial has one while it lasts.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from meshmq import limits
from meshmq.core.discovery import (
    DEFAULT,
    PEERS,
    Dial,
    DialFailed,
    Discovery,
    Event,
    LinkUp,
    Sighted,
    Tick,
)
from meshmq.frames import PeerFacts
from meshmq.shell import clock
from meshmq.shell.discovery import Mdns
from meshmq.shell.greeting import Greeting, greet

GREET_S = 2.0
assert limits.DIAL_TIMEOUT_NS > GREET_S * limits.SECOND


class Search:
    """See the module's header. ``start`` it, ask, ``close`` it.

    Args:
        mesh, insecure: as in ``connect``.
        default: an address to try besides.
        listed: others to try.
        name: what nodes are told that we are.
        admin: we will only ask: nodes that drain are found too.

    Attributes:
        mdns: what it listens with.
        greetings: what came of the last dial to each address, the first FOUND_PEERS_MAX.
    """

    def __init__(
        self,
        mesh: str,
        insecure: bool,
        *,
        default: str | None = None,
        listed: Sequence[str] = (),
        name: str | None = None,
        admin: bool = False,
    ) -> None:
        self.greetings: dict[str, Greeting] = {}
        self._mesh = mesh
        self._name = name
        self._admin = admin
        self._inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._discovery = Discovery(
            clock.instance_id(), mesh, clock.entropy(), dials=["node"], insecure=insecure
        )
        self._closing = False
        self._found = threading.Event()
        self._first = ""
        if default is not None:
            self._inbox.put(Sighted(DEFAULT, PeerFacts(addresses=(default,))))
        if listed:
            self._inbox.put(Sighted(PEERS, PeerFacts(addresses=tuple(listed))))
        self.mdns = Mdns(mesh, insecure, lambda: self._inbox.put(None))
        self._thread = threading.Thread(target=self._run, name="meshmq-search", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self.mdns.start()
        self._thread.start()

    def first(self, timeout: float) -> str:
        """The address that answered first, waited for; empty: none has."""
        self._found.wait(timeout)
        return self._first

    def peers(self) -> list[dict[str, Any]]:
        """What was found so far; see ``Discovery.rows``."""
        with self._guard:
            return self._discovery.rows()

    def counters(self) -> dict[str, int]:
        """What discovery and mDNS ignored, by reason."""
        with self._guard:
            return {**self._discovery.counters, **self.mdns.counters}

    def close(self) -> None:
        """End it; its threads go by themselves."""
        self._closing = True
        self._inbox.put(None)
        self.mdns.close(0)

    def _run(self) -> None:
        while not self._closing:
            due = self._discovery.next_deadline_ns()
            try:
                wait = None if due is None else max(0.0, (due - clock.now_ns()) / limits.SECOND)
                event = self._inbox.get(timeout=wait)
            except queue.Empty:
                event = Tick()
            with self._guard:
                if event is not None:
                    self._handle(event)
                while self.mdns.events:
                    self._handle(self.mdns.events.popleft())

    def _handle(self, event: Event) -> None:
        for effect in self._discovery.handle(event, clock.now_ns()):
            if isinstance(effect, Dial):
                threading.Thread(
                    target=self._greet, args=[effect.address], name="meshmq-dial", daemon=True
                ).start()

    def _greet(self, address: str) -> None:
        greeting = greet(address, self._mesh, GREET_S, self._name, self._admin)
        if len(self.greetings) < limits.FOUND_PEERS_MAX or address in self.greetings:
            self.greetings[address] = greeting
        if greeting.facts is None:
            self._inbox.put(DialFailed(address, greeting.outcome))
            return
        self._first = self._first or address
        self._found.set()
        # It does not tell its address; we know where it answered.
        self._inbox.put(LinkUp(replace(greeting.facts, addresses=()), address))
