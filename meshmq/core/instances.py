"""What a node knows of services: who serves, who asks. See ``services``."""

from __future__ import annotations

from collections import OrderedDict

from meshmq import limits
from meshmq.core.latency import Latencies
from meshmq.errors import Busy, DeadlineExceeded, InstanceLost, NoResponders, ServiceError
from meshmq.frames import ONE, RETURNED, STREAM, ReplyRow, RequestRow, Serve

NOT_BEGUN = frozenset({RETURNED, Busy.code})
INSTANCE_CODES = NOT_BEGUN | {ServiceError.code, DeadlineExceeded.code, InstanceLost.code}
"""What an instance may answer instead of a value."""


class Instance:
    """One registration of one program.

    Attributes:
        is_stuck: its link takes nothing more before it has acknowledged what it was sent.
    """

    __slots__ = (
        "concurrency", "draining", "failed", "held", "held_bytes", "is_stuck", "latencies", "level",
        "link", "name", "registration", "served", "service", "waiting",
    )  # fmt: skip

    def __init__(self, link: bytes, name: str, serve: Serve, service: Service, now_ns: int) -> None:
        self.link = link
        self.name = name
        self.registration = serve.registration
        self.concurrency = serve.concurrency
        self.service = service
        self.held: dict[int, Asked] = {}
        self.held_bytes = 0
        self.waiting: OrderedDict[int, Asked] = OrderedDict()  # of kind EACH: for it alone
        self.draining = False
        self.is_stuck = False
        self.level = -1
        self.served = 0
        self.failed = 0
        self.latencies = Latencies(now_ns)

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
        waiting: requests for any of them.
        early: of kind EACH: they wait until all instances are back that were there before.
    """

    __slots__ = (
        "_levels", "_only", "_taking", "early", "expired", "instances", "name", "requests",
        "waiting",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.instances: dict[tuple[bytes, int], Instance] = {}
        self.waiting: OrderedDict[int, Asked] = OrderedDict()
        self.early: dict[int, Asked] = {}
        self.requests = 0
        self.expired = 0
        self._levels: dict[int, OrderedDict[Instance, None]] = {}
        self._taking = 0
        self._only: Instance | None = None  # who takes alone is on no level

    @property
    def is_served(self) -> bool:
        """Whether some instance takes requests, now or when it has room."""
        return self._taking > 0

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

    def drain(self, instance: Instance) -> None:
        """It takes no more."""
        if not instance.draining:
            instance.draining = True
            self._taking -= 1
            if instance is self._only:
                self._only = None
            self.place(instance)

    def place(self, instance: Instance) -> None:
        """Its load or its room has changed: put it where it belongs."""
        if instance is self._only:
            return
        level = len(instance.held) if instance.has_room else -1
        if level == instance.level:
            return
        if instance.level >= 0:
            beside = self._levels[instance.level]
            del beside[instance]
            if not beside:
                del self._levels[instance.level]
        instance.level = level
        if level >= 0:
            self._levels.setdefault(level, OrderedDict())[instance] = None

    def is_placed(self, instance: Instance) -> bool:
        """Whether it is where it belongs, for audits."""
        if instance is self._only:
            return self._taking == 1 and not (instance.draining or self._levels)
        return instance.level == (len(instance.held) if instance.has_room else -1)

    def choose(self) -> Instance | None:
        """The instance with the least to do, among equals the one that came to it first."""
        if self._only is not None:
            return self._only if self._only.has_room else None
        if not self._levels:
            return None
        return next(iter(self._levels[min(self._levels)]))


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
        parent: of an EACH: what the requester asked, which has the ``parts`` without an end.
    """

    __slots__ = (
        "any", "attempts", "data", "deadline_ns", "handed_ns", "headers", "id", "idempotent",
        "instance", "kind", "link", "parent", "parts", "payer", "service", "size", "their_id",
        "weight", "window",
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
        self.instance: Instance | None = None
        self.handed_ns = 0
        self.parent: Asked | None = None
        self.parts: dict[int, Asked] = {}

    def part(self, number: int, instance: Instance, now_ns: int) -> Asked:
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
    if service is not None and service.instances:
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
    return InstanceLost(
        f"the instance of {asked.service.name!r} that had the request went away; whether it was "
        f"done is unknown{hint}"
    )


def breach_of(asked: Asked, row: ReplyRow) -> str:
    """What an instance may not answer, in words; empty: it may."""
    goes_on = asked.kind == STREAM and not row.end
    if row.code:
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
