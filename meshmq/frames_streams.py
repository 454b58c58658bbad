"""Where reading goes on in the logs of several nodes: part of ``frames``, which has these too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """The next batch to read in a node's log. ``skip`` does not travel: so many of its records are
    not wanted."""

    origin: bytes
    lsn: int
    slot: int
    skip: int = 0


class StreamsRow(NamedTuple):
    """The log of another node, and where reading begins in it (``lsn`` 0: not known yet); while it
    is ``away`` nothing of it comes."""

    origin: bytes
    name: str
    away: bool
    lsn: int = 0
    slot: int = 0


@dataclass(frozen=True, slots=True)
class Streams:
    """What is new of the other nodes' logs that a subscription reads."""

    subscription: int
    rows: tuple[StreamsRow, ...]
