"""A node that is to end: its clients go to others first.

States: off; on (nobody new is let in, clients were told to move, groups hand nothing out); over
(one that is to stay lets nobody in, and its groups hand out again).

Rules:
1. Clients leave by themselves, each when nothing of it is under way here (core/leaving.py). Until
   then they are served as before: what they publish is stored, and waits on the disk while the node
   is away, so it is no more than what is under way.
2. It is over when all are gone, everything that they wait for is synced (not what is copied here
   of other nodes: that never ends), and no request was here for DRAIN_LINGER_NS: other nodes may
   send some until they hear that nobody serves here, and get them back. Or when its time is over.
   Who asked for it is told then.
3. With no other node clients have nowhere to go: it is refused, or ``force`` is said; then they
   stay, and it is over at the first moment in which all is synced and no request is here, or after
   DRAIN_LINGER_NS: who goes on publishing is not waited for, what was not confirmed waits there.
4. Who only sends commands is let in, and not waited for; nor are the other nodes.
5. The last wish counts: a drain that was to stay ends with another one that is not, in a time of
   its own and with the other nodes that are there by then; and it can be undone. Clients that were
   told to move still do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from meshmq import limits
from meshmq.errors import CommandFailed, NodeDrains
from meshmq.frames import Command, Drained, Hello, KnownPeer, Refuse, Result

if TYPE_CHECKING:
    from meshmq.core.node import Node

VERB, UNDO = VERBS = ("node.drain", "node.undrain")
_NAMED = 3  # of the other nodes, so many are named in a sentence


class _Wish(NamedTuple):
    timeout_ns: int
    stays: bool
    force: bool


class Drain:
    """See the module's header.

    Attributes:
        is_on: the node drains, or has.
        is_over: and is to end now, unless ``stays``.
        stays: it is to go on for who is left, and for the other nodes.
    """

    def __init__(self, node: Node) -> None:
        self.is_on = self.is_over = self.stays = False
        self._node = node
        self._name = node.name
        self._sessions = node.sessions
        self._askers: dict[bytes, int] = {}  # the commands' numbers, by link
        self._told = 0
        self._is_forced = False  # nobody was told to move: there was nowhere to go
        self._until_ns = 0
        self._idle_ns = 0  # since when nothing is left to be done; 0: something is

    @property
    def _others(self) -> tuple[KnownPeer, ...]:
        """Where clients may go."""
        site = self._node.site
        return () if site is None else site.signposts.others

    def refuses(self, hello: Hello) -> Refuse | None:
        """Why a client is not let in, and where it may go."""
        if not self.is_on or hello.admin:
            return None
        others = self._others
        words = f"node {self._name} drains and lets no program in"
        if others:
            places = " or ".join([f"{p.addresses[0]} ({p.name})" for p in others[:_NAMED]])
            words += f": go to another one of its site, {places}"
        else:
            words += ", and it sees no other node of its site: start one, or undo the drain"
        return Refuse(NodeDrains.code, words, others)

    def on_command(self, link: bytes, command: Command, now_ns: int) -> None:
        """A client asks for a drain, or that one be undone."""
        try:
            if command.verb == UNDO:
                self._undo(link, command, now_ns)
            else:
                self._ask(link, command, _wish_of(command), now_ns)
        except CommandFailed as error:
            self._answer({link: command.id}, error, {}, now_ns)

    def _ask(self, link: bytes, command: Command, wish: _Wish, now_ns: int) -> None:
        others = self._others
        if not (others or wish.force):
            raise CommandFailed(
                f"node {self._name} sees no other node of a site, so its programs have nowhere to "
                f"go: start another one, or stop this one (they wait until it is started again). "
                f"With --force it ends all the same, once what it has accepted is stored"
            )
        self._askers[link] = command.id
        self.stays = wish.stays
        self._until_ns = now_ns + wish.timeout_ns
        clients = self._clients()
        if not self.is_on or self._is_forced:
            self._told = len(clients)
        self.is_on, self.is_over, self._idle_ns = True, False, 0
        self._is_forced = not others
        if self._is_forced:
            self._until_ns = now_ns + min(wish.timeout_ns, limits.DRAIN_LINGER_NS)
        self._node.admission.is_draining = True
        for other in [*clients, *self._readers()] if others else ():
            self._sessions.send(other, Drained(others), now_ns)

    def _undo(self, link: bytes, command: Command, now_ns: int) -> None:
        """Let programs in again; who waits for the drain's end is told."""
        if not self.is_on:
            raise CommandFailed(f"node {self._name} does not drain: there is nothing to undo")
        self.is_on = self.is_over = self.stays = self._node.admission.is_draining = False
        self._idle_ns = 0
        self._node.groups.wake_all()
        told = CommandFailed(f"the drain of node {self._name} was undone by another command")
        self._answer(self._askers, told, {}, now_ns)
        self._askers.clear()
        self._answer({link: command.id}, None, {"node": self._name}, now_ns)

    def _answer(
        self, askers: dict[bytes, int], error: CommandFailed | None, told: dict[str, Any],
        now_ns: int,
    ) -> None:  # fmt: skip
        code, message = ("", "") if error is None else (error.code, str(error))
        for link, number in askers.items():
            result = Result(number, code, message, json.dumps(told).encode())
            self._sessions.send(link, result, now_ns)

    def _clients(self) -> list[bytes]:
        peers = self._sessions.by_link.values()
        clients = [p for p in peers if p.sibling is None and not (p.hello.reads or p.hello.admin)]
        return [p.link for p in clients if p.link not in self._askers]

    def _readers(self) -> list[bytes]:
        """Of clients of other nodes, which go on there."""
        return [p.link for p in self._sessions.by_link.values() if p.hello.reads]

    def look(self, is_busy: bool, now_ns: int) -> None:
        """Whether it is over: tell who asked."""
        if not self.is_on or self.is_over:
            return
        self._askers = {k: n for k, n in self._askers.items() if k in self._sessions.by_link}
        if is_busy or (self._clients() and not self._is_forced):
            self._idle_ns = 0
        else:
            self._idle_ns = self._idle_ns or now_ns
        linger_ns = 0 if self._is_forced else limits.DRAIN_LINGER_NS
        is_idle = self._idle_ns and now_ns >= self._idle_ns + linger_ns
        if not (is_idle or now_ns >= self._until_ns):
            return
        self.is_over = True
        if self.stays:  # for the members that are left, and for those of other nodes
            self._node.admission.is_draining = False
            self._node.groups.wake_all()
        self._answer(self._askers, None, {"node": self._name, **self._counts()}, now_ns)
        self._askers.clear()

    def _counts(self) -> dict[str, Any]:
        left = len(self._clients())
        moved = 0 if self._is_forced else max(0, self._told - left)
        return {"moved": moved, "left": left, "forced": self._is_forced}

    def describe(self) -> dict[str, Any] | None:
        """As ``status`` shows it; None: it does not drain."""
        if not self.is_on:
            return None
        return {"over": self.is_over, "stays": self.stays, **self._counts()}

    def next_deadline_ns(self) -> int | None:
        """When ``look`` has something to do."""
        if not self.is_on or self.is_over:
            return None
        if self._idle_ns:
            return min(self._until_ns, self._idle_ns + limits.DRAIN_LINGER_NS)
        return self._until_ns


def _wish_of(command: Command) -> _Wish:
    try:
        found = json.loads(command.arguments)
        wish = _Wish(found["timeout_ns"], found.get("stay", False), found.get("force", False))
        is_good = type(wish.timeout_ns) is int and 0 <= wish.timeout_ns <= limits.DAY
        is_good = is_good and type(wish.stays) is type(wish.force) is bool
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        is_good = False
    if not is_good:
        raise CommandFailed(f"{VERB} needs 'timeout_ns', a whole number to a day; 'stay', 'force'")
    return wish
