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
    """

    incarnation: int
    site: str
    clients: tuple[str, ...] = ()
    is_data: bool = False


@dataclass(frozen=True, slots=True)
class SiteInterests:
    """Patterns of transient topics that a node's clients want; ``more``: the rest of the same
    ``whole`` follows."""

    whole: bool
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Pulse:
    """Asks whether a node is alive, or answers that; ``stamp`` is ns, of who asked."""

    stamp: int
    is_answer: bool = False
