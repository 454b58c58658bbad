"""What is published and seen in a simulated run, and the bytes it travels as."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshmq.core.effects import Arrival
from meshmq.core.lanes import Batch
from meshmq.core.subscriber import Start
from meshmq.errors import BadFrame
from meshmq.testing.disk import Disk


def encode(
    values: Sequence[bytes],
    keys: Sequence[bytes] | None,
    headers: Sequence[bytes] | None,
    times: Sequence[int] | None,
    time_ns: int,
) -> bytes:
    """A batch's bytes in the simulator: length, value, length, value ..."""
    return b"".join([struct.pack("<H", len(v)) + v for v in values])


def decode(data: bytes) -> list[bytes]:
    """Read back ``encode``."""
    values, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        values.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return values


def check_batch(data: bytes, count: int) -> None:
    """The node's check of a batch's bytes."""
    values = decode(data)
    if len(values) != count or b"malformed" in values:
        raise BadFrame("malformed")


@dataclass(slots=True)
class Published:
    """One record a program published."""

    producer: str
    topic: str
    value: bytes
    batch: Batch
    index: int
    at_ns: int


@dataclass(slots=True)
class Seen:
    """One record a subscription was handed; ``synced`` tells whether it was on disk by then."""

    topic: str
    offset: int | None
    value: bytes
    synced: bool


@dataclass(slots=True)
class Reader:
    """One subscription of a program and what it got."""

    client: str
    number: int
    pattern: str
    start: Start
    answered_ns: int = 0
    refused: str = ""
    ended: bool = False
    sessions_lost: int = 0
    missed: int = 0
    seen: list[Seen] = field(default_factory=list)
    inbox: list[Arrival] = field(default_factory=list)
    consumes: bool = True


@dataclass(slots=True)
class History:
    """What happened in one run.

    Attributes:
        trims: whether retention took records away.
        filled: whether the disk had no room for a while.
        rested: whether everything came to rest after healing.
        digest: of every event in order: equal for equal seeds.
    """

    seed: int
    disk: Disk
    published: list[Published]
    readers: list[Reader]
    trims: bool
    rested: bool
    kills: int
    events: int
    digest: str
    unrest: list[str]
    filled: bool = False
