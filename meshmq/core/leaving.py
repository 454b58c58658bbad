"""How a program leaves a node that drains: once nothing that it has there is under way.

States: at rest; waiting for the next try; quiet (what is new waits, requests are handed to none of
its instances, what its consumers have not begun is given back); gone.

Rules:
1. In the quiet time everything that the node has of the program, or it of the node, comes to its
   end: publishes are confirmed, requests answered on both sides, records settled. Then it goes.
2. It lasts MOVE_QUIET_NS. If something needs longer (a long request), all goes on as before, and
   MOVE_AGAIN_NS later it tries again; what is left when the node ends is as with one that is lost.
3. What is stored and waits for its copies is waited for in the first quiet time only: another node
   cannot tell of them, and if they are missing nobody knows for how long.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from meshmq import limits
from meshmq.core.consumer import Member
from meshmq.core.publisher import Publisher
from meshmq.core.requester import BY_NODE, Requester
from meshmq.core.responder import Registration, Responder
from meshmq.frames import Body, Serve, Served


class Parts(Protocol):
    """What a client has of the machines that know what is under way."""

    publisher: Publisher
    requester: Requester
    responder: Responder
    members: dict[int, Member]

    @property
    def has_questions(self) -> bool: ...


class Leaving:
    """See the module's header.

    Attributes:
        is_quiet: what is new waits.
    """

    def __init__(self) -> None:
        self.is_quiet = False
        self._due_ns = 0  # when something is to be done; 0: it is at rest
        self._is_first = True  # of the quiet times
        self._paused: set[int] = set()  # registrations the node has not said so of

    @property
    def is_asked(self) -> bool:
        """Whether the node wants the program to leave."""
        return self._due_ns > 0

    def begin(self, now_ns: int) -> None:
        """The node drains."""
        if not self._due_ns:
            self._due_ns = max(1, now_ns)

    def reset(self, parts: Parts) -> None:
        """There is no session any more."""
        self.is_quiet = False
        self._due_ns = 0
        self._is_first = True
        self._paused.clear()
        parts.requester.is_paused = False

    def tick(self, parts: Parts, now_ns: int) -> list[Body]:
        """Begin or end the quiet time; what to say for that."""
        if not self._due_ns or now_ns < self._due_ns:
            return []
        self.is_quiet = not self.is_quiet
        parts.requester.is_paused = self.is_quiet
        registrations: Iterable[Registration] = [
            r for r in parts.responder.registrations.values() if not r.is_leaving
        ]
        self._paused.clear()
        if not self.is_quiet:
            self._is_first = False
            self._due_ns = now_ns + limits.MOVE_AGAIN_NS
            return [r.serve() for r in registrations]
        self._due_ns = now_ns + limits.MOVE_QUIET_NS
        parts.publisher.node.paused_until_ns = self._due_ns
        self._paused.update([r.id for r in registrations])
        for member in parts.members.values():
            member.give_back()
        return [Serve(r.id, r.service, 0) for r in registrations]

    def takes(self, frame: Served) -> bool:
        """Whether the answer is to what ``tick`` has said."""
        if not self._due_ns or frame.ended:
            return False
        self._paused.discard(frame.registration)
        return True

    def may_go(self, parts: Parts) -> bool:
        """Whether it is time to go."""
        if not self.is_quiet or self._paused or parts.publisher.node.frames or parts.has_questions:
            return False
        if self._is_first and parts.publisher.has_uncopied:
            return False
        if any(m.has_own for m in parts.members.values()):
            return False
        responder = parts.responder
        if responder.has_work or any(r.held for r in responder.registrations.values()):
            return False
        calls = list(parts.requester.calls.values())
        return not any(c.sent and c.way == BY_NODE for c in calls)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return self._due_ns or None
