"""What a node pulls from another site: one link of its configuration."""

from __future__ import annotations

from typing import NamedTuple


class LinkWish(NamedTuple):
    """One link.

    Attributes:
        to: the other site.
        endpoints: where nodes of it may be dialled.
        topics: patterns of topics that are mirrored here; none: nothing is.
        exclude: patterns of those that are not, all the same.
    """

    to: str
    endpoints: tuple[str, ...]
    topics: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
