"""Another node of the same site, or one of another site with which there is a link."""

from __future__ import annotations

from dataclasses import dataclass

LOCAL = b"\0local"
"""In place of the link to one: for what our own clients read of copies that are kept here."""


@dataclass(slots=True, eq=False)
class Sibling:
    """One that is linked: there is a control link with it.

    Attributes:
        origin: identity of its log.
        name: for people; in a site nobody else has it.
        incarnation: of its start.
        addresses, clients: where nodes and programs may dial it.
        control: name of the control link.
        link: name of the data link, while that is open; else empty.
        since_ns: when it opened.
        dials: whether the data link is ours to dial.
        attempt: name of a data link that we have dialled and that is not open yet; else empty.
        site: of a node of another site: which one; else empty.
    """

    origin: bytes
    name: str
    incarnation: int
    addresses: tuple[str, ...]
    clients: tuple[str, ...]
    control: bytes
    dials: bool
    link: bytes = b""
    since_ns: int = 0
    attempt: bytes = b""
    site: str = ""
