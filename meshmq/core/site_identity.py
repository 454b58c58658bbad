"""What a node of a site says of itself; links of nodes are told from those of programs."""

from __future__ import annotations

from typing import NamedTuple

NODE_LINK = b"\0node"
"""What names of links begin with that other nodes have dialled."""


class SiteIdentity(NamedTuple):
    """What a node is in its site.

    Attributes:
        site: the site's name.
        incarnation: greater with each start.
        addresses, clients: where nodes and programs may dial it.
        insecure: dial beyond this host, if the mesh is not ``local``.
        copies: nodes that are to have a stream whose policy does not say.
        renew: what to say to renew its log (core/own_log.py).
        fence_ns: so long without any link to another site its site hands out what its groups have;
            0: for ever.
        far_nodes: addresses of nodes of other sites that its settings name.
    """

    site: str
    incarnation: int
    addresses: tuple[str, ...]
    clients: tuple[str, ...]
    insecure: bool = False
    copies: int = 1
    renew: str = "meshmq log renew"
    fence_ns: int = 0
    far_nodes: int = 0


class NodeIdentity(NamedTuple):
    """Who a node is, wherever it is: see Hello."""

    origin: bytes
    mesh: str
    name: str
    software: str


def is_of_nodes(link: bytes) -> bool:
    """Whether a link comes by the listener for nodes."""
    return link.startswith(NODE_LINK)
