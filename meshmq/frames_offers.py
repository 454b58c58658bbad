"""What nodes of a site tell of their services: part of ``frames``, which has these too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

OF_NODE = "node"
"""The detail of an error that a node itself answers a sibling, not one of its instances."""


class Offer(NamedTuple):
    """A service that a node's clients serve, and how busy they are.

    Attributes:
        number: the node's own for it.
        service: its name, or empty: as told before under this number.
        instances: how many serve it; 0: none any more.
        places: requests that they take at a time. free: of those, not taken.
        waiting: requests at the node that wait for one.
    """

    number: int
    service: str
    instances: int
    places: int
    free: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Offers:
    """What a node serves, or how that has changed.

    Attributes:
        version: counts these frames to one sibling, from 1.
        whole: nothing else is served; else what has changed since the one before.
        asks: the receiver is to tell all that it serves.
        patterns: with that, to a node of another site: of which services it is to tell from now on.
    """

    version: int
    whole: bool = False
    asks: bool = False
    rows: tuple[Offer, ...] = ()
    patterns: tuple[str, ...] = ()
