"""Commands that concern a site, asked at any of its nodes: scattered, gathered, answered as one.

What a program asks of its node (a listing, or something to do wherever a group is) goes to all
others over the data links, as a Command that says ``here``: that is answered for one node alone.
What names one owner (a job's id, dead letters or an offset with an origin) goes to that one.

Data: an Asking for each command of a program that is not answered.

Rules:
1. Nobody waits for longer than LISTING_NS; nodes that have not answered by then, or that cannot be
   reached, are named as ``away``.
   An older log of a node that is there (its disk was lost, or its log renewed) is no node.
2. A node that does not know the thing asked for has no part in it; if none knows it, that is the
   answer. Any other refusal of our own node is.
3. A seek is done by our own node first, which gives it its stamp; with that it goes to the others.
4. What changes something and was not done at a node that is away is refused with OwnerAway, though
   it is done at the others: it may be said again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshmq import limits
from meshmq.core.sibling import Sibling
from meshmq.core.site_merges import CHANGING, LISTED, MERGES, Part
from meshmq.errors import Busy, CommandFailed, GroupNotFound, OwnerAway, TopicNotFound
from meshmq.frames import Body, Command, Hello, Result
from meshmq.names import JobId

HERE = b"\0here"
"""Name of the link that answers to ourselves go to."""

NOT_FOUND = frozenset({GroupNotFound.code, TopicNotFound.code})

OF_ONE = {
    "queue.cancel": "the job is",
    "queue.reschedule": "the job is",
    "dlq.replay": "these dead letters are",
    "dlq.purge": "these dead letters are",
    "group.seek": "this stream is",
}
"""Verbs about what one node has, as that is called; of the last three with an ``origin``."""


UNLIKE = "the answers of the nodes do not fit together: are all of one version?"


def asked_of_all(command: Command) -> dict[str, Any] | None:
    """What a command asks of all nodes; None: it is for one alone, or means nothing."""
    try:
        arguments = json.loads(command.arguments)
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) and not arguments.get("here") else None


@dataclass(slots=True, eq=False)
class Asking:
    """One command of a program.

    Attributes:
        waiting: origins of those that are to answer; our own among them.
        parts: what they said.
        refused: results with an error, by origin.
        away: names of nodes that do not answer.
        is_one: it was for one owner, whose answer is passed on as it is.
        then: with these arguments the others are asked once our own node has answered.
    """

    link: bytes
    id: int
    verb: str
    until_ns: int
    waiting: dict[bytes, str] = field(default_factory=dict)
    parts: dict[bytes, Part] = field(default_factory=dict)
    refused: dict[bytes, Result] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    is_one: bool = False
    then: dict[str, Any] | None = None


class SiteListings:
    """See the module's header.

    Args:
        origin, name: of our own node.
        ask_here: has our own node carry out a command; the answer comes to ``on_result``.

    Attributes:
        known: all that were ever linked in this life, by origin.
        sends: frames for links; the owner takes them.
    """

    def __init__(
        self, origin: bytes, name: str, ask_here: Callable[[Hello, Command], None]
    ) -> None:
        self._origin = origin
        self._name = name
        self._ask_here = ask_here
        self._siblings: dict[bytes, Sibling] = {}
        self.known: dict[bytes, str] = {}
        self._askings: dict[int, Asking] = {}
        self._asked: dict[int, tuple[Asking, bytes]] = {}
        self._last = 0
        self.sends: list[tuple[bytes, Body]] = []

    @property
    def is_alone(self) -> bool:
        """Whether no other node was ever seen."""
        return not self.known

    # -- nodes come and go ----------------------------------------------------------------------

    def join(self, sibling: Sibling) -> None:
        """A data link is open."""
        self._siblings[sibling.origin] = sibling
        if len(self.known) < limits.SITE_NODES_MAX:
            self.known[sibling.origin] = sibling.name

    def leave(self, sibling: Sibling, now_ns: int) -> None:
        """It is over; what was asked over it is not answered."""
        if self._siblings.get(sibling.origin) is sibling:
            del self._siblings[sibling.origin]
        for number, (asking, origin) in list(self._asked.items()):
            if origin == sibling.origin:
                del self._asked[number]
                self._is_away(asking, origin)

    def _is_there(self, name: str) -> bool:
        """Whether a node of that name can be asked, with whatever log."""
        return name == self._name or name in [s.name for s in self._siblings.values()]

    def forget(self, origin: bytes) -> None:
        """It does not come back: listings name it no more."""
        self.known.pop(origin, None)

    def drop_link(self, link: bytes) -> None:
        """A program is gone: nobody waits for its answers."""
        for number, (asking, _) in list(self._asked.items()):
            if asking.link == link:
                del self._asked[number]
                self._askings.pop(id(asking), None)

    # -- asking ---------------------------------------------------------------------------------

    def on_program(self, link: bytes, hello: Hello, command: Command, now_ns: int) -> bool:
        """A program's command, if it concerns more than our own node."""
        if self.is_alone or (command.verb not in MERGES and command.verb not in OF_ONE):
            return False
        arguments = asked_of_all(command)
        if arguments is None:
            return False
        start = arguments.get("start")
        if command.verb == "group.seek" and isinstance(start, dict) and "offset" in start:
            if "origin" not in start:
                why = (f"offset {start['offset']} is of one node's stream, and the site has more "
                       f"nodes: name that one (--node), or seek to a time")  # fmt: skip
                self.sends.append((link, Result(command.id, CommandFailed.code, why, b"{}")))
                return True
            owner = self._owner_of(start)
        elif command.verb in OF_ONE and (command.verb not in MERGES or "origin" in arguments):
            owner = self._owner_of(arguments)
        else:
            owner = None
        if owner is not None:
            if owner in (b"", self._origin):
                return False
            return self._ask_one(link, command, arguments, owner, now_ns)
        if command.verb in CHANGING and "ranges" in arguments:
            return False  # they are of our own log's numbers
        if len(self._askings) >= limits.LISTINGS_MAX:
            why = f"{limits.LISTINGS_MAX} commands wait for other nodes, the limit"
            self.sends.append((link, Result(command.id, Busy.code, why, b"{}")))
            return True
        asking = self._begin(link, command, now_ns)
        asking.waiting = {self._origin: self._name}
        if command.verb == "group.seek":
            asking.then = arguments
        else:
            self._ask_others(asking, arguments)
        self._last += 1
        self._asked[self._last] = asking, self._origin
        self._ask_here(hello, Command(self._last, command.verb, command.arguments))
        return True

    @staticmethod
    def _owner_of(arguments: dict[str, Any]) -> bytes:
        try:
            if "origin" in arguments:
                return bytes.fromhex(str(arguments["origin"]))
            return bytes.fromhex(JobId.parse(str(arguments.get("job", ""))).origin)
        except ValueError:
            return b""

    def _begin(self, link: bytes, command: Command, now_ns: int) -> Asking:
        asking = Asking(link, command.id, command.verb, now_ns + limits.LISTING_NS)
        self._askings[id(asking)] = asking
        return asking

    def _ask_others(self, asking: Asking, arguments: dict[str, Any]) -> None:
        asking.away |= {n for n in self.known.values() if not self._is_there(n)}
        asking.waiting |= {s.origin: s.name for s in self._siblings.values()}
        for sibling in self._siblings.values():
            self._ask(asking, sibling, asking.verb, arguments)

    def _ask(self, asking: Asking, sibling: Sibling, verb: str, arguments: dict[str, Any]) -> None:
        self._last += 1
        self._asked[self._last] = asking, sibling.origin
        data = json.dumps({**arguments, "here": True}, separators=(",", ":")).encode()
        self.sends.append((sibling.link, Command(self._last, verb, data)))

    def _ask_one(
        self, link: bytes, command: Command, arguments: dict[str, Any], owner: bytes, now_ns: int
    ) -> bool:
        sibling = self._siblings.get(owner)
        if sibling is None:
            if owner not in self.known:
                return False  # our own node says that it is nobody's here
            name, what = self.known[owner], OF_ONE[command.verb]
            why = f"{what} in the log of node {name}, which cannot be reached"
            if self._is_there(name):
                why = (f"{what} in an older log of node {name}: what was left in that is its "
                       f"taker's (`meshmq node takeover {name}`)")  # fmt: skip
            self.sends.append((link, Result(command.id, OwnerAway.code, why, b"{}")))
            return True
        asking = self._begin(link, command, now_ns)
        asking.is_one = True
        asking.waiting = {owner: sibling.name}
        self._ask(asking, sibling, command.verb, arguments)
        return True

    # -- answers --------------------------------------------------------------------------------

    def on_result(self, result: Result) -> None:
        """A node has answered, or our own."""
        asking, origin = self._asked.pop(result.id, (None, b""))
        if asking is None:
            return
        name = asking.waiting.pop(origin, "")
        if asking.is_one:
            self._answer(asking, Result(asking.id, result.code, result.message, result.body))
            return
        if result.code:
            asking.refused[origin] = result
        else:
            try:
                asking.parts[origin] = Part(name, origin.hex(), json.loads(result.body))
            except (ValueError, RecursionError):
                asking.away.add(name)
            then, asking.then = asking.then, None
            if then is not None and "sought" in asking.parts[origin].body:  # our own node's
                self._ask_others(asking, {**then, "sought": asking.parts[origin].body["sought"]})
        self._look_at(asking)

    def _is_away(self, asking: Asking, origin: bytes) -> None:
        name = asking.waiting.pop(origin, "")
        asking.away.add(name)
        if asking.is_one:
            why = (
                f"node {name} was lost: whether it has done it is not known; it may be asked again"
            )
            self._answer(asking, Result(asking.id, OwnerAway.code, why, b"{}"))
            return
        self._look_at(asking)

    def _look_at(self, asking: Asking) -> None:
        own = asking.refused.get(self._origin)
        if own is not None and own.code not in NOT_FOUND:
            self._answer(asking, Result(asking.id, own.code, own.message, own.body))
        elif not asking.waiting:
            self._answer(asking, self._merged(asking))

    def _merged(self, asking: Asking) -> Result:
        if not asking.parts:
            refused = asking.refused.get(self._origin) or next(
                iter(asking.refused.values()),
                Result(0, OwnerAway.code, "no node of the site has answered", b"{}"),
            )
            return Result(asking.id, refused.code, refused.message, b"{}")
        if asking.away and asking.verb in CHANGING:
            why = (f"done, but not at {', '.join(sorted(asking.away))}: "
                   f"what is there stays as it is until it is asked again")  # fmt: skip
            return Result(asking.id, OwnerAway.code, why, b"{}")
        mine = asking.parts.pop(self._origin, None)
        others = sorted(asking.parts.values(), key=lambda part: part.name)
        parts = [mine, *others] if mine is not None else others
        try:
            merged = MERGES[asking.verb](parts)
        except (KeyError, TypeError, ValueError, AttributeError):
            return Result(asking.id, CommandFailed.code, UNLIKE, b"{}")
        away = sorted(asking.away)
        for name in LISTED if away and asking.verb.endswith(".list") else ():
            for row in merged.get(name, ()):
                row["away"] = away  # who shows a row shows what its sums lack
        body = json.dumps({**merged, "away": away}, separators=(",", ":")).encode()
        if len(body) > limits.RESULT_BYTES_MAX:
            why = (f"the answer of {len(body)} bytes for the whole site exceeds "
                   f"{limits.RESULT_BYTES_MAX}: ask for less with a pattern")  # fmt: skip
            return Result(asking.id, CommandFailed.code, why, b"{}")
        return Result(asking.id, "", "", body)

    def _answer(self, asking: Asking, result: Result) -> None:
        if self._askings.pop(id(asking), None) is None:
            return
        for number in [n for n, (some, _) in self._asked.items() if some is asking]:
            del self._asked[number]
        self.sends.append((asking.link, result))

    # -- time -----------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        return min([asking.until_ns for asking in self._askings.values()], default=None)

    def tick(self, now_ns: int) -> None:
        """Those that have waited long enough are answered with what there is."""
        late = [asking for asking in self._askings.values() if asking.until_ns <= now_ns]
        for asking in late:
            for origin in list(asking.waiting):
                self._is_away(asking, origin)
