"""A node that is to end: its clients go to others first.

States: off; on (nobody new is let in, clients were told to move, groups hand nothing out); over.

Rules:
1. Clients leave by themselves, each when nothing of it is under way here (core/leaving.py). Until
   then they are served as before: what they publish is stored, and waits on the disk while the node
   is away, so it is no more than what is under way.
2. It is over when all are gone, everything accepted is synced, and no request was here for
   DRAIN_LINGER_NS: other nodes may send some until they hear that nobody serves here, and get them
   back. Or when its time is over. Who asked for it is told then; clients that ask for it do not
   count, nor do the other nodes.
"""

from __future__ import annotations

import json

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.sessions import Sessions
from meshmq.errors import CommandFailed, NodeDrains
from meshmq.frames import Command, Drained, KnownPeer, Refuse, Result

VERB = "node.drain"


class Drain:
    """See the module's header.

    Attributes:
        is_on: the node drains, or has.
        is_over: and is to end now, unless ``stays``.
        stays: it is to go on for who is left, and for the other nodes.
    """

    def __init__(self, name: str, sessions: Sessions, admission: Admission) -> None:
        self.is_on = self.is_over = self.stays = False
        self._name = name
        self._sessions = sessions
        self._admission = admission
        self._askers: dict[bytes, int] = {}  # the commands' numbers, by link
        self._told = 0
        self._until_ns = 0
        self._idle_ns = 0  # since when nothing is left to be done; 0: something is

    @property
    def refusal(self) -> Refuse | None:
        """Why no client is let in."""
        if not self.is_on:
            return None
        return Refuse(NodeDrains.code, f"node {self._name} is to end: go to another one")

    def ask(
        self, link: bytes, command: Command, others: tuple[KnownPeer, ...], now_ns: int
    ) -> None:
        """A client asks for it: tell all others where they may go."""
        try:
            timeout_ns, stays = _arguments(command)
        except CommandFailed as error:
            self._sessions.send(link, Result(command.id, error.code, str(error), b"{}"), now_ns)
            return
        self._askers[link] = command.id
        if self.is_on:
            return  # it will be told when that is over
        self.is_on, self.stays = True, stays
        self._until_ns = now_ns + timeout_ns
        self._admission.is_draining = True
        clients = self._clients()
        self._told = len(clients)
        for other in [*clients, *self._readers()]:
            self._sessions.send(other, Drained(others), now_ns)

    def _clients(self) -> list[bytes]:
        peers = self._sessions.by_link.values()
        clients = [p for p in peers if p.sibling is None and not p.hello.reads]
        return [p.link for p in clients if p.link not in self._askers]

    def _readers(self) -> list[bytes]:
        """Of clients of other nodes, which go on there."""
        return [p.link for p in self._sessions.by_link.values() if p.hello.reads]

    def look(self, is_busy: bool, now_ns: int) -> None:
        """Whether it is over: tell who asked."""
        if not (self.is_on and self._askers):
            return
        self._askers = {k: n for k, n in self._askers.items() if k in self._sessions.by_link}
        left = len(self._clients())
        if left or is_busy:
            self._idle_ns = 0
        else:
            self._idle_ns = self._idle_ns or now_ns
        is_idle = self._idle_ns and now_ns >= self._idle_ns + limits.DRAIN_LINGER_NS
        if not (is_idle or self.is_over or now_ns >= self._until_ns):
            return
        self.is_over = True
        told = {"node": self._name, "moved": max(0, self._told - left), "left": left}
        body = json.dumps(told).encode()
        for link, number in self._askers.items():
            self._sessions.send(link, Result(number, "", "", body), now_ns)
        self._askers.clear()

    def next_deadline_ns(self) -> int | None:
        """When ``look`` has something to do."""
        if not self.is_on or self.is_over:
            return None
        if self._idle_ns:
            return min(self._until_ns, self._idle_ns + limits.DRAIN_LINGER_NS)
        return self._until_ns


def _arguments(command: Command) -> tuple[int, bool]:
    try:
        found = json.loads(command.arguments)
        timeout_ns, stays = found["timeout_ns"], found.get("stay", False)
        is_good = type(timeout_ns) is int and 0 <= timeout_ns <= limits.DAY and type(stays) is bool
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        is_good = False
    if not is_good:
        raise CommandFailed(f"{VERB} needs 'timeout_ns', a whole number to a day, and 'stay'")
    return timeout_ns, stays
