"""What travels, as values. How it looks in bytes is the codec's business.

A frame is an Envelope (session, sequence, ack) around one Body. Publish and Deliver carry the
bytes of their batches in ``payload``, back to back, in the order of ``batches``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 1

START_NEW, START_EARLIEST, START_TIME, START_OFFSET, START_POSITION = range(5)
SENT, SYNCED = 0, 1
DURABILITY_NAMES = ("sent", "synced")


@dataclass(frozen=True, slots=True)
class Hello:
    major: int
    minor: int
    mesh: str
    instance: bytes
    producer: bytes
    name: str = ""
    software: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    major: int
    minor: int
    origin: bytes
    name: str
    software: str
    in_flight_bytes: int


@dataclass(frozen=True, slots=True)
class Refuse:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """Carries only the envelope's ack."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Asks the peer to send again from the envelope's ack on."""


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Bye:
    pass


class PublishBatch(NamedTuple):
    """One batch of one topic; ``length`` bytes of the frame's payload are its encoding."""

    topic: str
    first: int
    after: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    length: int
    checksum: int
    resent: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    batches: tuple[PublishBatch, ...]
    payload: bytes


class Confirmation(NamedTuple):
    """Answer to one batch: ``code`` empty means done, else it is an error's code."""

    topic: str
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    code: str = ""
    message: str = ""
    base_offset: int = 0
    append_time_ns: int = 0
    topic_id: bytes = b""
    durability: int = SENT
    last: int = 0
    duplicate: bool = False
    has_offset: bool = False


@dataclass(frozen=True, slots=True)
class Confirm:
    confirmations: tuple[Confirmation, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """How many bytes a producer may have unconfirmed from now on, and that it must send nothing
    for ``pause_ns``."""

    in_flight_bytes: int
    pause_ns: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    subscription: int
    pattern: str
    start: int
    value: int
    origin: bytes
    lsn: int
    slot: int
    credit_bytes: int
    credit_records: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    subscription: int
    code: str = ""
    message: str = ""
    origin: bytes = b""
    lsn: int = 0
    slot: int = 0
    topics: int = 0


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    subscription: int


@dataclass(frozen=True, slots=True)
class Credit:
    subscription: int
    bytes: int
    records: int


class DeliverBatch(NamedTuple):
    """One batch on its way to a subscriber; ``lsn`` 0 marks a transient one, without offsets."""

    topic: str
    base_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    length: int
    checksum: int
    append_time_ns: int
    lsn: int
    slot: int
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    subscription: int
    batches: tuple[DeliverBatch, ...]
    missed: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Command:
    id: int
    verb: str
    arguments: bytes


@dataclass(frozen=True, slots=True)
class Result:
    id: int
    code: str
    message: str
    body: bytes


Body = (
    Hello | Welcome | Refuse | Nothing | Gap | Ping | Bye | Publish | Confirm | Subscribe
    | Subscribed | Unsubscribe | Credit | Deliver | Command | Result | Window
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Envelope:
    """A body with the session's numbers round it.

    Attributes:
        session: 64-bit number chosen by the end that said hello.
        sequence: place in the reliable order of this direction, from 1; 0 is outside of it.
        ack: every sequence of the other direction up to this one has arrived.
    """

    session: int
    sequence: int
    ack: int
    body: Body
