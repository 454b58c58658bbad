"""What a node knows of services: who serves, who asks. See ``services``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from meshmq import limits
from meshmq.core.latency import Latencies
from meshmq.core.levels import Levels
from meshmq.errors import Busy, DeadlineExceeded, InstanceLost, NoResponders, ServiceError
from meshmq.frames import ONE, RETURNED, STREAM, Offer, ReplyRow, RequestRow, Serve

if TYPE_CHECKING:
    from meshmq.core.remotes import Remote

NOT_BEGUN = frozenset({RETURNED, Busy.code})
INSTANCE_CODES = NOT_BEGUN | {ServiceError.code, DeadlineExceeded.code, InstanceLost.code}
"""What an instance may answer instead of a value."""
NO_ROOM = 32
"""From this level on a sibling has no room: what it gets waits there."""


class Taker(ABC):
    """Who takes requests for a service: an instance, or all that a sibling has.

    Attributes:
        is_stuck: its link takes nothing more before it has acknowledged what it was sent.
    """

    __slots__ = (
        "concurrency", "draining", "failed", "held", "held_bytes", "is_stuck", "level", "link",
        "name", "registration", "served", "service", "waiting",
    )  # fmt: skip

    is_remote = False
    is_far = False

    def __init__(self, link: bytes, name: str, service: Service) -> None:
        self.link = link
        self.name = name
        self.registration = 0
        self.concurrency = 0
        self.service = service
        self.held: dict[int, Asked] = {}
        self.held_bytes = 0
        self.waiting: OrderedDict[int, Asked] = OrderedDict()  # of kind EACH: for it alone
        self.draining = False
        self.is_stuck = False
        self.level = -1
        self.served = 0
        self.failed = 0

    def hold(self, asked: Asked) -> None:
        """It is handed a request."""
        self.held[asked.id] = asked
        self.held_bytes += asked.weight

    def free(self, asked: Asked) -> None:
        """It has done with one."""
        del self.held[asked.id]
        self.held_bytes -= asked.weight

    @property
    @abstractmethod
    def rank(self) -> int:
        """Its level: lower ones get what comes first; -1: none, it has no room."""

    @property
    @abstractmethod
    def takes_own(self) -> bool:
        """Whether it may have what waits for it alone."""

    def ended(self, took_ns: int, is_failed: bool, now_ns: int) -> None:
        """Count one that it has ended, so long after it was handed out."""
        self.served += 1
        self.failed += is_failed


class Instance(Taker):
    """One registration of one program."""

    __slots__ = ("latencies",)

    def __init__(self, link: bytes, name: str, serve: Serve, service: Service, now_ns: int) -> None:
        super().__init__(link, name, service)
        self.registration = serve.registration
        self.concurrency = serve.concurrency
        self.latencies = Latencies(now_ns)

    @property
    def rank(self) -> int:
        """How much it has to do."""
        return len(self.held) if self.has_room else -1

    @property
    def takes_own(self) -> bool:
        """Whether it may have what waits for it alone."""
        return self.has_room

    def ended(self, took_ns: int, is_failed: bool, now_ns: int) -> None:
        """Count one that it has ended, so long after it was handed out."""
        super().ended(took_ns, is_failed, now_ns)
        self.latencies.add(took_ns, now_ns)

    def describe(self, now_ns: int) -> dict[str, Any]:
        """As listings show it; times in us."""
        p50, p99 = self.latencies.percentiles_us((0.5, 0.99), now_ns)
        return {
            "client": self.name,
            "concurrency": self.concurrency,
            "in_flight": len(self.held),
            "served": self.served,
            "failed": self.failed,
            "p50_us": p50,
            "p99_us": p99,
            "state": "draining" if self.draining else "serving",
        }

    @property
    def has_room(self) -> bool:
        return (
            not self.draining
            and not self.is_stuck
            and len(self.held) < self.concurrency
            and self.held_bytes < limits.INSTANCE_BYTES_MAX
        )


class Service:
    """All instances under one name; those with room by how much they have.

    Attributes:
        waiting: requests of programs, for any instance.
        guests: requests of siblings, for any instance that is here.
        early: of kind EACH: they wait until all instances are back that were there before.
        remotes: other nodes that serve it, by link.
        requests: that were accepted; ``of_nodes`` of them came from siblings.
    """

    __slots__ = (
        "_far_levels", "_far_offered", "_levels", "_offered", "_only", "_remote_levels", "_taking",
        "early", "expired", "guests", "instances", "name", "of_nodes", "remotes", "requests",
        "waiting",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.instances: dict[tuple[bytes, int], Instance] = {}
        self.remotes: dict[bytes, Remote] = {}
        self.waiting: OrderedDict[int, Asked] = OrderedDict()
        self.guests: OrderedDict[int, Asked] = OrderedDict()
        self.early: dict[int, Asked] = {}
        self.requests = self.of_nodes = 0
        self.expired = 0
        self._levels: Levels[Taker] = Levels()
        self._remote_levels: Levels[Taker] = Levels()
        self._far_levels: Levels[Taker] = Levels()
        self._taking = 0
        self._offered = 0  # by siblings
        self._far_offered = 0
        self._only: Instance | None = None  # who takes alone is on no level

    @property
    def is_served(self) -> bool:
        """Whether somebody takes requests, now or when it has room."""
        return self._taking > 0 or self._offered > 0 or self._far_offered > 0

    @property
    def is_served_near(self) -> bool:
        """Whether somebody at our own site does."""
        return self._taking > 0 or self._offered > 0

    @property
    def is_served_here(self) -> bool:
        """Whether an instance here does."""
        return self._taking > 0

    @property
    def is_idle(self) -> bool:
        """Whether nobody serves it, and nobody waits for that."""
        known = self.instances or self.remotes
        return not (known or self.waiting or self.guests or self.early)

    def add(self, instance: Instance) -> None:
        """A new one."""
        self.instances[instance.link, instance.registration] = instance
        self._taking += 1
        alone, self._only = self._only, None
        if alone is not None:
            self.place(alone)
        if self._taking == 1:
            self._only = instance
        else:
            self.place(instance)

    def drain(self, instance: Taker) -> None:
        """It takes no more."""
        if instance.draining:
            return
        instance.draining = True
        if instance.is_far:
            self._far_offered -= 1
        elif instance.is_remote:
            self._offered -= 1
        else:
            self._taking -= 1
            if instance is self._only:
                self._only = None
        self.place(instance)

    def offered(self, remote: Remote) -> None:
        """Another node serves it from now on, or again."""
        self.remotes[remote.link] = remote
        self._offered += not remote.is_far
        self._far_offered += remote.is_far
        remote.draining = False

    def remove(self, taker: Taker) -> None:
        """It has nothing any more and takes nothing."""
        if taker.is_remote:
            self.remotes.pop(taker.link, None)
        else:
            self.instances.pop((taker.link, taker.registration), None)

    def place(self, taker: Taker) -> None:
        """Its load or its room has changed: put it where it belongs."""
        if taker.is_far:
            self._far_levels.put(taker, taker.rank)
        elif taker.is_remote:
            self._remote_levels.put(taker, taker.rank)
        elif taker is not self._only:
            self._levels.put(taker, taker.rank)

    def is_placed(self, taker: Taker) -> bool:
        """Whether it is where it belongs, for audits."""
        if taker is self._only:
            return self._taking == 1 and not (taker.draining or self._levels)
        return taker.level == taker.rank

    def choose(self) -> Taker | None:
        """The instance with the least to do, among equals the one that came to it first."""
        if self._only is not None:
            return self._only if self._only.has_room else None
        return self._levels.first() if self._levels else None

    def choose_remote(self) -> Taker | None:
        """The sibling with the most room, in turn among those that have about as much; where none
        has, a node of another site. What nobody serves here may wait at a sibling, too, and what
        nobody serves at our site at another one."""
        near = self._remote_levels.first() if self._remote_levels else None
        far = self._far_levels.first() if self._far_levels else None
        has_room = near is not None and near.level < NO_ROOM
        if far is not None and not has_room and (far.level < NO_ROOM or not self.is_served_near):
            self._far_levels.turn(far)
            return far
        if near is None or not (has_room or not self._taking):
            return None
        self._remote_levels.turn(near)
        return near

    def next_here(self) -> Asked:
        """What waits for an instance here and came first; it is taken out."""
        waiting, guests = self.waiting, self.guests
        if guests and (not waiting or next(iter(guests)) < next(iter(waiting))):
            return guests.popitem(last=False)[1]
        return waiting.popitem(last=False)[1]

    def describe(self, now_ns: int) -> dict[str, Any]:
        """As listings show it, with the instances that are here; times in us."""
        return {
            "service": self.name,
            "requests": self.requests,
            **({"of_nodes": self.of_nodes} if self.of_nodes else {}),
            "waiting": len(self.waiting) + len(self.guests) + len(self.early),
            "expired": self.expired,
            "instances": [instance.describe(now_ns) for instance in self.instances.values()],
        }

    def offer(self) -> Offer:
        """What siblings are told of it: what the instances here take."""
        count = places = free = 0
        for instance in self.instances.values():
            if not instance.draining:
                count += 1
                places += instance.concurrency
                if instance.has_room:
                    free += instance.concurrency - len(instance.held)
        return Offer(0, self.name, count, places, free, len(self.waiting) + len(self.guests))


class Asked:
    """One request that is not over, or whose instance has not answered yet.

    Attributes:
        id: the node's number for it, towards instances.
        link, their_id: who asks, and its number for it; no link: nobody waits any more.
        payer: the link whose share it counts for, as long as it is here.
        size: what it counts for at the node. weight: what it counts for at an instance.
        window: bytes of a stream that the instance may send yet.
        instance: who has it, or is to have it (EACH); None while it waits for anybody.
        any: something of its stream has been passed on.
        is_guest: a sibling asks; it goes to instances that are here.
        lost_at: the sibling that had it last, if that is how it was lost.
        parent: of an EACH: what the requester asked, which has the ``parts`` without an end.
    """

    __slots__ = (
        "any", "attempts", "data", "deadline_ns", "handed_ns", "headers", "id", "idempotent",
        "instance", "is_guest", "kind", "link", "lost_at", "parent", "parts", "payer", "service",
        "size", "their_id", "weight", "window",
    )  # fmt: skip

    def __init__(
        self, number: int, link: bytes, row: RequestRow, service: Service, data: bytes, now_ns: int
    ) -> None:
        self.id = number
        self.link = self.payer = link
        self.their_id = row.id
        self.service = service
        self.kind = row.kind
        self.idempotent = row.idempotent
        self.window = min(row.window, limits.STREAM_WINDOW_BYTES_MAX)
        self.headers = row.headers
        self.data = data
        self.size = self.weight = size_of(row, data)
        self.deadline_ns = now_ns + min(row.remaining_ns, limits.REQUEST_TIMEOUT_NS_MAX)
        self.attempts = 0
        self.any = False
        self.instance: Taker | None = None
        self.is_guest = False
        self.lost_at = ""
        self.handed_ns = 0
        self.parent: Asked | None = None
        self.parts: dict[int, Asked] = {}

    def part(self, number: int, instance: Taker, now_ns: int) -> Asked:
        """What one instance gets of an EACH; its value is counted with its parent."""
        row = RequestRow(
            self.their_id, 0, "", self.deadline_ns - now_ns, self.kind, self.idempotent, 0,
            self.headers, len(self.data),
        )  # fmt: skip
        part = Asked(number, b"", row, self.service, self.data, now_ns)
        part.payer = self.payer
        part.size = limits.REQUEST_OVERHEAD_BYTES
        part.parent = self
        part.instance = instance
        self.parts[number] = part
        instance.waiting[number] = part
        return part


def size_of(row: RequestRow, data: bytes) -> int:
    """About how much memory a request takes at a node."""
    return len(data) + len(row.headers) + limits.REQUEST_OVERHEAD_BYTES


def nobody(name: str, service: Service | None) -> NoResponders:
    """Nobody takes requests for it; ``service``: what is known of it."""
    if service is not None and (service.instances or service.remotes):
        return NoResponders(
            f"nobody serves {name!r} any more: its last instance takes nothing new and stops once "
            f"its requests are done; start another"
        )
    return NoResponders(
        f"nobody serves {name!r}: start a program that does, or look for the name in `meshmq "
        f"services` (a node's list)"
    )


def lost(asked: Asked) -> InstanceLost:
    """Who had it is gone."""
    may = not asked.idempotent and asked.kind == ONE
    hint = " (idempotent=True has another one asked)" if may else ""
    name = asked.service.name
    who = f"the instance of {name!r} that had the request went away"
    if asked.lost_at:
        who = f"the request was lost with {asked.lost_at!r}, the node that had it for {name!r}"
    return InstanceLost(f"{who}; whether it was done is unknown{hint}")


def breach_of(asked: Asked, row: ReplyRow) -> str:
    """What an instance may not answer, in words; empty: it may. A sibling answers what its
    instances do, and errors of its own."""
    goes_on = asked.kind == STREAM and not row.end
    if row.code:
        if asked.instance is not None and asked.instance.is_remote:
            return ""
        if row.code not in INSTANCE_CODES:
            return f"the code {row.code!r}, which is none of an instance's"
        if row.has_value:
            return "a value and an error in one"
        if goes_on:
            return "an error that does not end its stream"
        if row.code in NOT_BEGUN and asked.any:
            return f"{row.code!r} in a stream that has begun"
    elif goes_on and not row.has_value:
        return "a row without a value, error or end"
    elif goes_on and asked.window <= 0:  # its last value may come: who was cancelled ends with it
        return "more of a stream than was granted"
    return ""


def resize(instance: Instance | None, serve: Serve) -> bool:
    """A program that leaves a node that drains takes nothing for a while (concurrency 0), or again;
    whether that is what ``serve`` is for."""
    if instance is None or instance.draining or instance.service.name != serve.service:
        return False
    if serve.concurrency > limits.CONCURRENCY_MAX or (serve.concurrency and instance.concurrency):
        return False
    instance.concurrency = serve.concurrency
    instance.service.place(instance)
    return True
