"""Links of a node to the other nodes of its site, for what must not wait: one with each; and to
nodes of other sites that its configuration names, or that name ours.

As between programs (core/links.py), with what is said of nodes instead. A hello is refused, in
words that both ends show, from what is no node of this site: another mesh or site, another major
version, a name that another node has, a copy of another one's data directory.

A node that was started again has the same origin and a greater incarnation; one whose data
directory was emptied has the same name. While the earlier run still answers it is not that, but
somebody with a copy, or with the name of another node. So the earlier run is asked first; until it
has answered, or is over, who comes is sent away without such words, and tries again. It is asked
anew for each who comes: what it answered before one came says nothing of whether it is there now.
"""

from __future__ import annotations

import random
from dataclasses import replace

from meshmq import limits
from meshmq.core.discovery import LINKS, Discovery, Sighted
from meshmq.core.link_wish import CONNECTING, DOWN, LINKED, REFUSED, Endpoint, LinkWish
from meshmq.core.links import REDUNDANT, Link, Links
from meshmq.frames import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Body,
    Envelope,
    Hello,
    NodeFacts,
    PeerFacts,
    Pulse,
    Refuse,
    Welcome,
)

NOT_A_NODE = "not-a-node"
"""Code of a refusal: programs are not for this listener, or a program answered."""

SITE_MISMATCH = "site-mismatch"
NAME_TAKEN = "name-taken"
COPIED = "origin-copied"
BAD_NAME = "bad-name"

FAR = "far"
"""Kind of a node of another site, for discovery: not dialled for its own sake, nor told of."""

TOLD = (
    NOT_A_NODE,
    SITE_MISMATCH,
    NAME_TAKEN,
    COPIED,
    BAD_NAME,
    "mesh-mismatch",
    "version-mismatch",
    "busy",
)
"""Codes of refusals that people have to see to."""


class SiteLinks(Links):
    """See the module's header.

    Attributes:
        refusals: by name or address of the other end, why there is no link, for people: the newest
            of each, REFUSALS_TOLD_MAX at most.
        news: what of that is new, as sentences; the owner takes them.
        sites: by address that is dialled, the other site that is to be there.
    """

    name_prefix = b"\0dial-"
    links_max = limits.SITE_NODES_MAX
    full = f"this node is linked with {limits.SITE_NODES_MAX} others, its limit"

    def __init__(self, hello: Hello, discovery: Discovery, entropy: random.Random) -> None:
        super().__init__(hello, discovery, entropy)
        self.refusals: dict[str, str] = {}
        self.news: list[str] = []
        self.sites: dict[str, str] = {}
        self._now_ns = 0
        # By link, and the run of who came: since when it is asked whether it is there.
        self._doubts: dict[tuple[bytes, bytes, int], int] = {}
        self._proofs: dict[bytes, int] = {}  # by link: when that was asked which it answered last

    @property
    def me(self) -> NodeFacts:
        """What we say of ourselves."""
        assert self.hello.node is not None
        return self.hello.node

    @property
    def nodes_only(self) -> str:
        """What a program is told that has dialled the listener for nodes."""
        at = " or ".join(self.me.clients) or "another address"
        return f"{self.hello.name!r} listens here for nodes only; programs reach it at {at}"

    def look_for_sites(self, wishes: tuple[LinkWish, ...], now_ns: int) -> None:
        """Dial nodes of these other sites from now on, and no others that were named before."""
        wished = {address: wish.to for wish in wishes for address in wish.endpoints}
        for address, to in self.sites.items():
            if wished.get(address) != to:  # what was said there was said of that
                self.refusals.pop(address, None)
        self.sites = wished
        self.tell(Sighted(LINKS, PeerFacts(addresses=tuple(wished))), now_ns)

    def endpoints(self) -> dict[str, Endpoint]:
        """How it goes with each address that a link names."""
        return {address: self._endpoint(address) for address in self.sites}

    def _endpoint(self, address: str) -> Endpoint:
        if address in self.refusals:
            return Endpoint(REFUSED, why=self.refusals[address])
        answered, is_first = self.discovery.at(address)
        link = self.by_instance.get(answered)
        if link is not None:
            return Endpoint(LINKED, link.facts.name)
        return Endpoint(DOWN if answered or not is_first else CONNECTING)

    def _hello_to(self, address: str) -> Hello:
        site = self.sites.get(address, "")
        return replace(self.hello, node=self.me._replace(link_to=site)) if site else self.hello

    def _facts(self, instance: bytes, said: Hello | Welcome) -> PeerFacts:
        facts = super()._facts(instance, said)
        if said.node is None or said.node.site == self.me.site:
            return facts
        # Only a link's endpoints are dialled for another site: who was dialled by one of its nodes,
        # and dials that back or tells siblings of it, would be taken for a node of that site.
        return replace(facts, kind=FAR, addresses=())

    def receive(self, name: bytes, envelope: Envelope, now_ns: int) -> tuple[Link, Body] | None:
        self._now_ns = now_ns
        return super().receive(name, envelope, now_ns)

    def _judge(self, hello: Hello) -> Refuse | None:
        refusal = self._refusal(hello)
        if refusal is not None and hello.node is not None:
            self._say(hello.name, refusal)
        return refusal

    def _refusal(self, hello: Hello) -> Refuse | None:
        me, node = self.hello, hello.node
        if hello.major != PROTOCOL_MAJOR:
            return Refuse(
                "version-mismatch",
                f"node {me.name!r} speaks protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}, "
                f"{hello.name!r} {hello.major}.{hello.minor}: install the same major version on "
                "both",
            )
        if not hello.name.isprintable():
            return _bad_name(hello.name)
        if hello.mesh != me.mesh:
            return Refuse(
                "mesh-mismatch",
                f"node {me.name!r} belongs to mesh {me.mesh!r}, {hello.name!r} to {hello.mesh!r}",
            )
        if node is None:
            return Refuse(NOT_A_NODE, self.nodes_only)
        if node.link_to and node.link_to != self.me.site:
            return Refuse(
                SITE_MISMATCH,
                f"node {me.name!r} belongs to site {self.me.site!r}, and {hello.name!r} of site "
                f"{node.site!r} looks for site {node.link_to!r} there: mend the endpoints of its "
                f"link",
            )
        if node.link_to and node.link_to == node.site:
            return Refuse(
                SITE_MISMATCH,
                f"nodes {me.name!r} and {hello.name!r} both belong to site {node.site!r}: a link "
                f"is for two sites",
            )
        if node.site != self.me.site and not node.link_to:
            return Refuse(
                SITE_MISMATCH,
                f"node {me.name!r} belongs to site {self.me.site!r}, {hello.name!r} to "
                f"{node.site!r}: only a [[link]] is for two sites; take it out of 'peers', or say "
                "mdns = false where both sites are in one network",
            )
        return self._impostor(hello.instance, hello.name, node)

    def _impostor(self, origin: bytes, name: str, node: NodeFacts) -> Refuse | None:
        """Whether it is taken for somebody else, or somebody else for it."""
        me = self.hello
        if origin == me.instance and node.incarnation == self.me.incarnation:
            return None  # the node has dialled itself; it sees that by the welcome
        if origin == me.instance:
            return Refuse(
                COPIED,
                f"nodes {me.name!r} and {name!r} run on copies of one data directory: give one of "
                "them an empty --data directory",
            )
        if name == me.name and node.site == self.me.site:
            why = f"two nodes are named {name!r}: start one of them with another --name"
            return Refuse(NAME_TAKEN, why)
        for link in self.by_instance.values():
            is_same_site = link.node is not None and link.node.site == node.site
            if link.instance != origin and link.facts.name == name and is_same_site:
                why = f"another node of the site is named {name!r}: start one with another --name"
                return self._suspect(link, origin, node, Refuse(NAME_TAKEN, why))
        known = self.by_instance.get(origin)
        if known is None or known.node is None:
            return None
        if known.node.incarnation > node.incarnation:
            return Refuse(REDUNDANT, f"a later start of {name!r} is linked")
        is_there = self._now_ns - known.session.heard_ns < limits.SAME_ORIGIN_NS
        if is_there and known.node.incarnation < node.incarnation:
            why = (
                f"{name!r} runs on the data directory of {known.facts.name!r}, or a copy of it, "
                "while that still answers"
            )
            return self._suspect(known, origin, node, Refuse(COPIED, why))
        return None

    def _suspect(self, holder: Link, origin: bytes, node: NodeFacts, refusal: Refuse) -> Refuse:
        """``refusal`` if the one that is linked is there, else words that mean: try again."""
        doubt = holder.name, origin, node.incarnation
        since_ns = self._doubts.pop(doubt, self._now_ns)
        if self._proofs.get(holder.name, -1) >= since_ns:
            return refusal  # the next time it is asked again
        self._doubts[doubt] = since_ns
        if len(self._doubts) > limits.REFUSALS_TOLD_MAX:
            del self._doubts[next(iter(self._doubts))]
        self.send(holder, Pulse(self._now_ns), self._now_ns)
        return Refuse(REDUNDANT, f"an earlier run of {holder.facts.name!r} may still be there")

    def prove(self, link: Link, stamp: int) -> None:
        """It has answered a pulse of that time."""
        self._proofs[link.name] = stamp

    def _drop(self, link: Link, now_ns: int) -> bool:
        for doubt in [d for d in self._doubts if d[0] == link.name]:
            del self._doubts[doubt]
        self._proofs.pop(link.name, None)
        return super()._drop(link, now_ns)

    def _is_ours(self, link: Link, welcome: Welcome, now_ns: int) -> bool:
        refusal = None
        if welcome.node is None:
            refusal = Refuse(
                NOT_A_NODE, f"a program, or a node's listener for programs, is at {link.address}"
            )
        elif not welcome.name.isprintable():
            refusal = _bad_name(welcome.name)
        elif welcome.node.site != self.sites.get(link.address, self.me.site):
            wanted = self.sites.get(link.address)
            looks = f", not of {wanted!r}, which a link says is there" if wanted else ""
            why = f"{welcome.name!r} is of site {welcome.node.site!r}{looks}"
            refusal = Refuse(SITE_MISMATCH, why)
        else:
            refusal = self._impostor(welcome.origin, welcome.name, welcome.node)
        if refusal is not None:
            self._say(welcome.name, refusal)
            self.refuse(link, refusal, now_ns)
            return False
        return True

    def _on_first(self, link: Link, now_ns: int) -> bool:
        # Another one may have taken its name since it said hello.
        assert link.node is not None, "only nodes are linked here"
        refusal = self._impostor(link.instance, link.facts.name, link.node)
        if refusal is not None:
            self._say(link.facts.name, refusal)
            self.refuse(link, refusal, now_ns)
            return False
        return super()._on_first(link, now_ns)

    def _is_same(self, link: Link, other: Link) -> bool:
        ours, theirs = link.node, other.node
        return ours is None or theirs is None or ours.incarnation == theirs.incarnation

    def _lose(self, link: Link, reason: str, now_ns: int) -> None:
        session = link.session
        if session.closed_code in TOLD and session.closed_reason != "closed here":
            self._tell(link.facts.name or link.address, session.closed_reason)
        super()._lose(link, reason, now_ns)

    def _say(self, who: str, refusal: Refuse) -> None:
        if refusal.code != REDUNDANT:
            self._tell(who, refusal.message)

    def _tell(self, who: str, why: str) -> None:
        who = who or "?"
        who = who if who.isprintable() else repr(who)
        if self.refusals.get(who) == why:
            return
        self.refusals.pop(who, None)
        self.refusals[who] = why
        self.news.append(why)
        if len(self.refusals) > limits.REFUSALS_TOLD_MAX:
            del self.refusals[next(iter(self.refusals))]


def _bad_name(name: str) -> Refuse:
    return Refuse(BAD_NAME, f"a node's name has no control characters: {name!r}")
