"""What a node has for the other nodes of its site: a listener, dials, and mDNS among nodes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from meshmq.core.effects import CloseLink, OpenLink
from meshmq.core.events import LinkClosed, ListenerCut, NodeEvent, PeerSighted
from meshmq.core.hints import address_fault
from meshmq.core.link_wish import LinkWish
from meshmq.core.site_identity import NODE_LINK, SiteIdentity
from meshmq.errors import ConfigError
from meshmq.frames import PeerFacts
from meshmq.shell import clock
from meshmq.shell.discovery import NODE_SERVICE, Mdns
from meshmq.shell.interfaces import reachable_at
from meshmq.shell.sockets import ProgramSocket, check_url


class SiteConfig(NamedTuple):
    """What a node needs to be one of a site.

    Attributes:
        name: the site's.
        listen: where other nodes may dial it.
        peers: addresses of other nodes, as they listen for nodes.
        copies: nodes that are to have a stream whose policy does not say.
        links: what it pulls from other sites.
        fence_ns: so long without any link its site hands out what groups have; 0: for ever.
    """

    name: str
    listen: str
    peers: tuple[str, ...] = ()
    copies: int = 1
    links: tuple[LinkWish, ...] = ()
    fence_ns: int = 0


def listen_beside(url: str) -> str:
    """Where a node listens for nodes that listens for programs at ``url``, unless it is told."""
    if url.startswith("ipc://"):
        return f"{url}-nodes"
    host, _, port = url.rpartition(":")
    return url if not port.isdigit() or port == "0" else f"{host}:{int(port) + 1}"


class SiteShell:
    """See the module's header. Names of links are those of core/site.py.

    Raises:
        ConfigError: an address cannot be used.
    """

    def __init__(self, config: SiteConfig, mesh: str, insecure: bool) -> None:
        self._config = config
        self._mesh, self._insecure = mesh, insecure
        far = [endpoint for wish in config.links for endpoint in wish.endpoints]
        for address in (config.listen, *config.peers, *far):
            check_url(address, bind=address == config.listen, insecure=insecure, mesh=mesh)
        instead = "choose another address with --listen-nodes tcp://127.0.0.1:0"
        self._socket = ProgramSocket([config.listen], instead, is_node=True)
        self.url = self._socket.urls[0]
        self.mdns: Mdns | None = None
        self._dialled: set[bytes] = set()
        self._failed: list[NodeEvent] = []

    @property
    def fds(self) -> tuple[int, ...]:
        """Descriptors that become readable when there may be something."""
        return self._socket.fds

    def identity(self, client_url: str, name: str, data: Path) -> SiteIdentity:
        """What the node ``name``, with its log in ``data``, is in its site from now on."""
        far = {end for link in self._config.links for end in link.endpoints}
        renew = f"meshmq log renew --name {name} --data {shlex.quote(str(data.absolute()))}"
        return SiteIdentity(
            self._config.name, clock.wall_ns(), tuple(reachable_at(self.url)),
            tuple(reachable_at(client_url)), self._insecure, self._config.copies, renew,
            self._config.fence_ns, len(far),
        )  # fmt: skip

    def look_around(self, origin: bytes, name: str, wake: Callable[[], None]) -> None:
        """Tell the network of the node, and hear of others; that it fails changes nothing."""
        on_host = not address_fault(self.url, on_host=True)
        speaks_out = self._insecure and not on_host
        self.mdns = Mdns(self._mesh, speaks_out, wake, service=NODE_SERVICE)
        self.mdns.advertise(PeerFacts(origin, "node", self._mesh, name, addresses=(self.url,)))
        self.mdns.start()

    def has(self, link: bytes) -> bool:
        """Whether a link is one of ours."""
        return link in self._dialled or link.startswith(NODE_LINK)

    def send(self, link: bytes, parts: Sequence[bytes]) -> str:
        """Try to send; return "" or why it was not: ``full`` or ``gone``."""
        if link in self._dialled:
            return self._socket.send(link, parts)
        return self._socket.send(b"<" + link[len(NODE_LINK) :], parts)

    def perform(self, effect: OpenLink | CloseLink) -> None:
        """Dial, or let a link go."""
        link = effect.link
        if isinstance(effect, OpenLink):
            try:
                self._socket.open(link, effect.address)
                self._dialled.add(link)
            except ConfigError as error:
                self._failed.append(LinkClosed(link, str(error)))
        elif link in self._dialled:
            self._dialled.discard(link)
            self._socket.shut(link)

    def look(self) -> Iterator[NodeEvent]:
        """What has happened but for frames."""
        failed, self._failed = self._failed, []
        yield from failed
        self._socket.look()
        for link in self._socket.take_cut():
            yield LinkClosed(link, "the connection was cut")
        if self._socket.was_cut():
            yield ListenerCut()
        if self.mdns is not None:
            while self.mdns.events:
                yield PeerSighted(self.mdns.events.popleft())

    def has_input(self) -> bool:
        """Whether ``receive`` has something, where ``look`` or a send has looked."""
        return self._socket.has_input()

    def receive(self) -> tuple[bytes, list[Any]] | None:
        """The next frame's link and parts, or None."""
        message = self._socket.receive()
        if message is None:
            return None
        name, parts = message
        return (NODE_LINK + name[1:] if name[:1] == b"<" else name), parts

    def close(self) -> None:
        self._socket.close()
