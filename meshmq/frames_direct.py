"""Frames of introductions between programs: see ``frames``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Introduce:
    """By a node: a program that may be dialled at ``addresses``, or dial, and what may pass between
    the two directly: all that it may, in place of what was said before, for ``lifetime_ns``."""

    instance: bytes
    name: str
    addresses: tuple[str, ...]
    patterns: tuple[str, ...]
    services: tuple[str, ...]
    lifetime_ns: int


class KnownPeer(NamedTuple):
    """A program, or a node (its origin), that the teller is linked with."""

    instance: bytes
    is_node: bool
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """Gossip: all that the teller is linked with now, in place of what it said before; ``more``:
    what has come to that."""

    peers: tuple[KnownPeer, ...]
    more: bool = False


class Route(NamedTuple):
    """Subscriptions of one run of a program, by its own numbers; none: all that it has."""

    instance: bytes
    subscriptions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Routes:
    """To a node: who has what is ``routed`` directly from here on (``add``), or by the node again
    (``remove``). The node says so to their programs by a marker for each subscription."""

    add: tuple[Route, ...] = ()
    remove: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """By a node: somebody wants these topics, which it has called unwanted."""

    topics: tuple[str, ...]
