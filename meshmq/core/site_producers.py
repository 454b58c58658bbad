"""What a site knows of a producer, asked at any of its nodes (``producer.last``).

Who numbers its records itself, and begins, must know what is stored of them at whatever node, so
that a number is dropped as a repeat wherever it is said again. Each node knows what is in its own
log, and in the copies it keeps; it is asked once for each run of a program and topic.

Data: an Asking for each command of a program that is not answered.

Rules:
1. All nodes of the site are asked that were there within the time that producers are known. The
   directory has them (NodeRow), those that answer tell of more. One that is away has
   PRODUCER_ASK_NS to come back; then the answer is OwnerAway, which names it: it may have more
   records of the producer than anybody knows.
2. In place of one that was taken over a copy answers: somebody has said that it is dead. Not if the
   copy goes further than the takeover: then it was back. Of one that was forgotten nothing is
   wanted any more, until it is back.
3. A node that is asked takes nothing more that an earlier run of the producer has numbered: its
   session is ended, at once or when it says more. So nothing of it comes behind the answer, which
   waits for what is on its way to disk. Which run is the latest is known to one life of a node.
4. ``at_least``: whatever is known now, of nodes that can be reached; nobody is fenced.
5. A node that has just begun, and knows of no other, waits for PRODUCER_ASK_NS: those that there
   are may be about to be linked.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from meshmq import limits
from meshmq.core.mirror_log import TakeoverEntry
from meshmq.core.producers import highest
from meshmq.core.sessions import Peer, Sessions
from meshmq.core.sibling import Sibling
from meshmq.core.site_listings import UNLIKE, asked_of_all
from meshmq.errors import Busy, CommandFailed, OwnerAway
from meshmq.frames import Body, Command, Hello, Publish, Refuse, Result
from meshmq.names import is_named

VERB = "producer.last"

FIRST_ID = 1 << 62
"""Of our own commands: those of listings have smaller numbers."""


@dataclass(slots=True, eq=False)
class Asking:
    """One command of a program.

    Attributes:
        waiting: numbers of commands that are not answered, and who was asked.
        parts: what was said, by origin.
        names: nodes that may know something, by origin.
        until_ns: how long those that are away have; 0: as long as it takes for all that are there.
    """

    link: bytes
    id: int
    hello: Hello
    arguments: dict[str, Any]
    until_ns: int
    at_least: bool
    waiting: dict[int, bytes] = field(default_factory=dict)
    parts: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    names: dict[bytes, str] = field(default_factory=dict)


class SiteProducers:
    """See the module's header.

    Args:
        origin: of our own node.
        sessions: of the node.
        ask_here: has our own node carry out a command, and answer over the link that is named.
        here: the link that answers to ourselves go to.
        roster: nodes of the site by origin, with their names.
        taken: logs that were taken over.
        is_forgotten: whether nothing is kept of a log.

    Attributes:
        sends: frames for links; the owner takes them.
        asked: nodes that were asked so far, for what programs have asked.
    """

    def __init__(
        self,
        origin: bytes,
        sessions: Sessions,
        ask_here: Callable[[bytes, Hello, Command], None],
        here: bytes,
        roster: Callable[[], dict[bytes, str]],
        taken: dict[bytes, TakeoverEntry],
        is_forgotten: Callable[[bytes], bool],
    ) -> None:
        self._origin = origin
        self._sessions = sessions
        self._ask_here = ask_here
        self._here = here
        self._roster = roster
        self._taken = taken
        self._is_forgotten = is_forgotten
        self._siblings: dict[bytes, Sibling] = {}
        self._known: dict[bytes, str] = {}  # all that were ever linked in this life
        self._askings: dict[int, Asking] = {}
        self._last = FIRST_ID
        self._began_ns: int | None = None
        self._latest: OrderedDict[bytes, bytes] = OrderedDict()  # run of a producer: its instance
        self.sends: list[tuple[bytes, Body]] = []
        self.asked = 0

    # -- nodes come and go ----------------------------------------------------------------------

    def join(self, sibling: Sibling) -> None:
        """A data link is open: it is asked what it has not answered."""
        self._siblings[sibling.origin] = sibling
        if len(self._known) < limits.SITE_NODES_MAX:
            self._known[sibling.origin] = sibling.name
        for asking in list(self._askings.values()):
            if sibling.origin not in asking.parts:
                self._ask(asking, sibling)

    def leave(self, sibling: Sibling) -> None:
        """It is over; what was asked over it is not answered."""
        if self._siblings.get(sibling.origin) is sibling:
            del self._siblings[sibling.origin]
        for asking in list(self._askings.values()):
            for number in [n for n, o in asking.waiting.items() if o == sibling.origin]:
                del asking.waiting[number]
                self._look_at(asking)

    def drop_link(self, link: bytes) -> None:
        """A program is gone: nobody waits for its answers."""
        for asking in [a for a in self._askings.values() if a.link == link]:
            del self._askings[id(asking)]

    # -- asking ---------------------------------------------------------------------------------

    def on_program(self, link: bytes, hello: Hello, command: Command, now_ns: int) -> bool:
        """A program's command, if it is this one, and of more than our own node."""
        if command.verb != VERB:
            return False
        arguments = asked_of_all(command)
        if arguments is None:
            return False
        if len(self._askings) >= limits.PRODUCER_ASKINGS_MAX:
            why = f"{limits.PRODUCER_ASKINGS_MAX} producers wait for other nodes, the limit"
            self.sends.append((link, Result(command.id, Busy.code, why, b"{}")))
            return True
        until_ns = now_ns + limits.PRODUCER_ASK_NS
        at_least = arguments.get("at_least") is True
        asking = Asking(link, command.id, hello, arguments, until_ns, at_least)
        asking.names = {**self._roster(), **self._known}
        if not at_least:
            self._begin(hello.producer, hello.instance, now_ns)
        self._askings[id(asking)] = asking
        for sibling in self._siblings.values():
            self._ask(asking, sibling)
        number = self._number(asking, self._origin)
        self._ask_here(self._here, hello, Command(number, VERB, _here(arguments)))
        return True

    def _number(self, asking: Asking, origin: bytes) -> int:
        self._last += 1
        asking.waiting[self._last] = origin
        return self._last

    def _ask(self, asking: Asking, sibling: Sibling) -> None:
        self.asked += 1
        hello = asking.hello
        who = {"producer": hello.producer.hex(), "instance": hello.instance.hex()}
        number = self._number(asking, sibling.origin)
        data = _here({**asking.arguments, **who})
        self.sends.append((sibling.link, Command(number, VERB, data)))

    # -- being asked ----------------------------------------------------------------------------

    def on_sibling(self, peer: Peer, command: Command, now_ns: int) -> bool:
        """A sibling asks for one of its programs; False: it is no such command."""
        if command.verb != VERB:
            return False
        try:
            arguments = json.loads(command.arguments)
            producer = bytes.fromhex(arguments["producer"])
            instance = bytes.fromhex(arguments["instance"])
        except (ValueError, RecursionError, KeyError, TypeError):
            return False
        if not arguments.get("at_least"):
            self._begin(producer, instance, now_ns)
        asks = replace(peer.hello, producer=producer, instance=instance)
        self._ask_here(peer.link, asks, command)
        return True

    def _begin(self, producer: bytes, instance: bytes, now_ns: int) -> None:
        """A run of a producer numbers its records itself; rule 3."""
        if not is_named(producer):
            return
        self._latest[producer] = instance
        self._latest.move_to_end(producer)
        if len(self._latest) > limits.PRODUCERS_MAX:
            self._latest.popitem(last=False)
        other = self._sessions.of_producer(producer)
        if other is not None and other.hello.instance != instance:
            self._fence(other, now_ns)

    def _fence(self, peer: Peer, now_ns: int) -> None:
        why = "another program connected with the same producer name, to another node"
        self._sessions.end(peer, Refuse("producer-fenced", why), now_ns)

    def is_over(self, peer: Peer, frame: Publish, now_ns: int) -> bool:
        """Whether what a program publishes is of an earlier run of its producer; rule 3."""
        hello = peer.hello
        latest = self._latest.get(hello.producer, hello.instance)
        if latest == hello.instance or all(batch.of_run for batch in frame.batches):
            return False
        self._fence(peer, now_ns)
        return True

    # -- answers --------------------------------------------------------------------------------

    def on_result(self, result: Result) -> bool:
        """A node has answered, or our own; False: it is no answer to us."""
        if result.id <= FIRST_ID:
            return False
        for asking in list(self._askings.values()):
            origin = asking.waiting.pop(result.id, None)
            if origin is None:
                continue
            if result.code and origin == self._origin:
                self._answer(asking, result)
                return True
            try:
                part = json.loads(result.body)
                highest([part])
                asking.parts[origin] = part
                for node, name in part.get("nodes", {}).items():
                    asking.names.setdefault(bytes.fromhex(node), str(name))
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
                asking.parts.pop(origin, None)  # as one that is away
            self._look_at(asking)
        return True

    def _look_at(self, asking: Asking) -> None:
        if asking.waiting or self._origin not in asking.parts:
            return
        if asking.at_least or not (self._missing(asking) or self._may_be_alone_yet(asking)):
            self._give(asking)

    def _may_be_alone_yet(self, asking: Asking) -> bool:
        """Rule 5."""
        if asking.names:
            return False
        began_ns = self._began_ns
        asked_ns = asking.until_ns - limits.PRODUCER_ASK_NS
        return began_ns is None or asked_ns < began_ns + limits.PRODUCER_ASK_NS

    def _missing(self, asking: Asking) -> list[str]:
        """Names of nodes that may know more, and have not answered."""
        away = set(asking.names) - set(asking.parts) - {self._origin}
        return sorted([asking.names[o] for o in away if not self._is_given_up(asking, o)])

    def _is_given_up(self, asking: Asking, origin: bytes) -> bool:
        """Rule 2."""
        if origin in self._siblings:
            return False
        return self._is_forgotten(origin) or self._has_copy(asking, origin)

    def _has_copy(self, asking: Asking, origin: bytes) -> bool:
        taken = self._taken.get(origin)
        if taken is None:
            return False
        copies = [part.get("copies", {}).get(origin.hex()) for part in asking.parts.values()]
        return any(
            (copy["lsn"], copy["slot"]) <= (taken.lsn, taken.slot) for copy in copies if copy
        )

    def _give(self, asking: Asking) -> None:
        try:
            copies = [c for part in asking.parts.values() for c in part.get("copies", {}).values()]
            best = highest([*asking.parts.values(), *copies])
        except (KeyError, TypeError, ValueError, AttributeError):
            self._answer(asking, Result(0, CommandFailed.code, UNLIKE, b"{}"))
            return
        body = json.dumps(best, separators=(",", ":")).encode()
        self._answer(asking, Result(0, "", "", body))

    def _answer(self, asking: Asking, result: Result) -> None:
        if self._askings.pop(id(asking), None) is not None:
            self.sends.append((asking.link, replace(result, id=asking.id)))

    # -- time -----------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return min([asking.until_ns for asking in self._askings.values()], default=None)

    def tick(self, now_ns: int) -> None:
        """Those that have waited long enough are answered with what there is, or refused."""
        if self._began_ns is None:
            self._began_ns = now_ns
        for asking in [a for a in self._askings.values() if a.until_ns <= now_ns]:
            missing = [] if asking.at_least else self._missing(asking)
            if missing:
                why = (
                    f"node {' and '.join(missing)} cannot be reached, and may have records of this "
                    f"producer that no other node knows: publish again when it is back, or has "
                    f"been taken over (meshmq node takeover) or forgotten (meshmq node forget)"
                )
                self._answer(asking, Result(0, OwnerAway.code, why, b"{}"))
            elif self._origin in asking.parts:
                self._give(asking)
            else:
                asking.until_ns = now_ns + limits.PRODUCER_ASK_NS  # our own disk is slow


def _here(arguments: dict[str, Any]) -> bytes:
    return json.dumps({**arguments, "here": True}, separators=(",", ":")).encode()
