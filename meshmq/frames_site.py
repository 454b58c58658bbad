"""Frames between the nodes of a site: see ``frames``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class NodeFacts(NamedTuple):
    """What a node says of itself to another one.

    Attributes:
        incarnation: greater with each start, from 1.
        clients: where programs may dial it.
        is_data: the link is for what clients of the two have to do with each other; else for what
            must not wait.
        link_to: of a link between two sites: the site that is looked for; else empty.
    """

    incarnation: int
    site: str
    clients: tuple[str, ...] = ()
    is_data: bool = False
    link_to: str = ""


class WorkReadyRow(NamedTuple):
    """About how many records of a group wait at an owner that no member has room for."""

    group: str
    records: int


@dataclass(frozen=True, slots=True)
class WorkReady:
    """By an owner to a node that has members in these groups: what has changed."""

    rows: tuple[WorkReadyRow, ...]


@dataclass(frozen=True, slots=True)
class Lend:
    """By the node that a member is at: what the member may have in flight at this owner.

    Attributes:
        number: counts a consumer's Lend frames from 1.
        records, bytes: at most, with what is in flight already.
        alone: it has nothing of other owners: one record that is larger may come.
        answer: it is less than before: Lent tells when that is so.
    """

    consumer: int
    number: int
    records: int
    bytes: int
    alone: bool = False
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Lent:
    """No hand-out that goes by an earlier Lend comes behind this."""

    consumer: int
    number: int


@dataclass(frozen=True, slots=True)
class Owner:
    """By a node to a program: of node ``origin`` records may come. ``here``: it can be reached:
    join there and claim what is held of it. ``fenced``: of the node itself, why it hands out
    nothing; empty: it does again."""

    consumer: int
    origin: bytes
    name: str = ""
    here: bool = False
    fenced: str = ""


@dataclass(frozen=True, slots=True)
class SiteInterests:
    """Patterns of transient topics that a node's clients want; ``more``: the rest of the same
    ``whole`` follows. ``noted``: one more than the number of the last frame of the other end of
    whose patterns all publishers at this node know; 0: this says nothing of that."""

    whole: bool
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    more: bool = False
    noted: int = 0


@dataclass(frozen=True, slots=True)
class Pulse:
    """Asks whether a node is alive, or answers that; ``stamp`` is ns, of who asked."""

    stamp: int
    is_answer: bool = False
