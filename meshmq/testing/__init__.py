"""The simulator: real cores on virtual time, with faults from a seed. Public API.

``World(seed).run()`` plays a whole history and returns it; ``check(history)`` gives what is wrong
with it, as sentences. The same seed gives the same history. ``python -m meshmq.testing`` does both
from a shell.
"""

from __future__ import annotations

from meshmq.testing.checkers import check
from meshmq.testing.history import History
from meshmq.testing.links import LinkWorld, check_link
from meshmq.testing.world import World

__all__ = ["History", "LinkWorld", "World", "check", "check_link", "play"]


def play(seed: int) -> list[str]:
    """Everything that is wrong with the histories of one seed: a node with its clients, and two
    ends of a link. An exception of the core is wrong too."""
    try:
        return check(World(seed).run()) + check_link(LinkWorld(seed).run())
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
