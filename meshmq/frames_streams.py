"""Where reading goes on in the logs of several nodes: part of ``frames``, which has these too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """The next batch to read in a node's log. ``skip`` does not travel: so many of its records are
    not wanted. ``direct``: the program reads this log at that node itself."""

    origin: bytes
    lsn: int
    slot: int
    skip: int = 0
    direct: bool = False


class StreamsRow(NamedTuple):
    """The log of another node, and where reading begins in it (``lsn`` 0: not known yet); while it
    is ``away`` nothing of it comes.

    ``direct``, by a client: send nothing more of it, the client reads it at its own node; of its
    credit so many ``bytes`` and ``records`` are taken back. By a node: that is done. A client that
    says it is no longer so is given the log again from that place on. ``gone``: the node was
    forgotten, and is not away any more.
    """

    origin: bytes
    name: str
    away: bool
    lsn: int = 0
    slot: int = 0
    direct: bool = False
    bytes: int = 0
    records: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Streams:
    """What is new of the other nodes' logs that a subscription reads; by a client: which of them
    it reads directly."""

    subscription: int
    rows: tuple[StreamsRow, ...]
