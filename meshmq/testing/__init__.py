"""What tests need: a real node in the process, a simulated mesh, and the simulator. Public API.

``LocalNode`` is a node inside the test's process, ``Simulation`` a node and clients on virtual
time; pytest has them as the fixtures ``meshmq_node`` and ``meshmq_simulation``.

The simulator plays real cores on virtual time, with faults from a seed.

``World(seed).run()`` plays a whole history and returns it; ``check(history)`` gives what is wrong
with it, as sentences; ``GroupWorld`` and ``check_groups`` are the same for groups and queues,
``RequestWorld`` and ``check_requests`` for requests and services. The same seed gives the same
history. ``python -m meshmq.testing`` does all of it from a shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshmq.testing.checkers import check
from meshmq.testing.copies_checkers import check_copies
from meshmq.testing.copies_world import CopiesWorld
from meshmq.testing.direct_checkers import check_direct
from meshmq.testing.direct_world import DirectWorld
from meshmq.testing.group_checkers import check_groups
from meshmq.testing.group_world import GroupWorld
from meshmq.testing.history import History
from meshmq.testing.hybrid_checkers import check_hybrid
from meshmq.testing.hybrid_world import HybridWorld
from meshmq.testing.links import LinkWorld, check_link
from meshmq.testing.links_checkers import check_links
from meshmq.testing.links_lost import LostSitesWorld
from meshmq.testing.links_lost_checkers import check_lost
from meshmq.testing.links_world import LinksWorld
from meshmq.testing.request_checkers import check_requests
from meshmq.testing.request_world import RequestWorld
from meshmq.testing.site_checkers import check_site
from meshmq.testing.site_world import SiteWorld
from meshmq.testing.world import World

if TYPE_CHECKING:
    from meshmq.testing.local import LocalNode
    from meshmq.testing.simulated import Simulation

__all__ = [
    "CopiesWorld", "DirectWorld", "GroupWorld", "History", "HybridWorld", "LinkWorld",
    "LinksWorld", "LocalNode", "LostSitesWorld", "RequestWorld", "Simulation", "SiteWorld",
    "World", "check", "check_copies", "check_direct", "check_groups", "check_hybrid", "check_link",
    "check_links", "check_lost", "check_requests", "check_site", "play", "play_copies",
    "play_direct", "play_groups", "play_hybrid", "play_links", "play_lost", "play_requests",
    "play_site",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # These two need the client and sockets; the rest is pure and quick to import.
    from importlib import import_module

    homes = {"LocalNode": "meshmq.testing.local", "Simulation": "meshmq.testing.simulated"}
    if name not in homes:
        raise AttributeError(f"module 'meshmq.testing' has no attribute {name!r}")
    return getattr(import_module(homes[name]), name)


def play(seed: int) -> list[str]:
    """Everything that is wrong with the histories of one seed: a node with its clients, and two
    ends of a link. An exception of the core is wrong too."""
    try:
        return check(World(seed).run()) + check_link(LinkWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_groups(seed: int) -> list[str]:
    """Everything that is wrong with the history of groups and queues of one seed."""
    try:
        return check_groups(GroupWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_requests(seed: int) -> list[str]:
    """Everything that is wrong with the history of requests of one seed."""
    try:
        return check_requests(RequestWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_direct(seed: int) -> list[str]:
    """Everything that is wrong with the history of programs without a node of one seed."""
    try:
        return check_direct(DirectWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_hybrid(seed: int) -> list[str]:
    """Everything that is wrong with the history of programs with two routes of one seed."""
    try:
        return check_hybrid(HybridWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_site(seed: int, nodes: int | None = None) -> list[str]:
    """Everything that is wrong with the history of a site of nodes of one seed."""
    try:
        return check_site(SiteWorld(seed, nodes).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_copies(seed: int, nodes: int | None = None) -> list[str]:
    """Everything that is wrong with the history of one seed of a site whose nodes copy each other's
    logs."""
    try:
        return check_copies(CopiesWorld(seed, nodes).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_links(seed: int) -> list[str]:
    """Everything that is wrong with the history of one seed of sites that mirror each other's
    logs."""
    try:
        return check_links(LinksWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def play_lost(seed: int) -> list[str]:
    """Everything that is wrong with the history of one seed of sites that are lost, and taken
    over."""
    try:
        return check_lost(LostSitesWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
