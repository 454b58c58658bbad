"""What travels because programs move from node to node: see ``frames``, which has all frames."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

_MOVED = Struct("<16sQ")
MOVED_BYTES = _MOVED.size


class Moved(NamedTuple):
    """Where a batch was sent first: perhaps it was stored there.

    Attributes:
        origin: of the node.
        first: the sequence of its first record there.
    """

    origin: bytes
    first: int

    def pack(self) -> bytes:
        """As it is in the log and in PublishBatch."""
        return _MOVED.pack(*self)


def moved_of(data: bytes) -> Moved:
    """Read back ``Moved.pack``."""
    return Moved._make(_MOVED.unpack(data))


class Published(NamedTuple):
    """Who published a batch: the producer, its sequence, and ``moved`` (see PublishBatch)."""

    producer: bytes
    first: int
    moved: bytes = b""


@dataclass(frozen=True, slots=True)
class Drained:
    """The node is to end; a program goes to one of these (KnownPeer), or to another it knows."""

    peers: tuple[Any, ...]
