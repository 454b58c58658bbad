"""A program's connection to other programs, and to a node where there is one."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import chain
from typing import TYPE_CHECKING, Any

from meshmq import codec, limits
from meshmq.client.channel import encode_jobs
from meshmq.client.connection import FRAMES_LEFT, FRAMES_PER_TURN, Connection
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.direct import Tools
from meshmq.core.discovery import DEFAULT, Sighted
from meshmq.core.effects import CloseLink, OpenLink
from meshmq.core.events import (
    BadFrameReceived,
    FrameReceived,
    LinkClosed,
    LinkOpened,
    TimerFired,
)
from meshmq.core.hybrid import HybridClient, needs_node
from meshmq.core.moving import Moving
from meshmq.core.owner_links import OWNER_LINK
from meshmq.errors import BadFrame, ConfigError
from meshmq.frames import Envelope, PeerFacts
from meshmq.shell import clock, memory
from meshmq.shell.interfaces import reachable_at
from meshmq.shell.sockets import ProgramSocket

LONE_NS = 200_000  # a record this long behind the last one is sent by the thread that publishes it

if TYPE_CHECKING:
    from meshmq.shell.discovery import Mdns

TOOLS = Tools(codec.decode_batch, codec.pick_records)


class DirectConnection(Connection):
    """Runs a HybridClient over many sockets; see Connection for threads and turns.

    Args:
        listen: where others may dial this program.
        peers: addresses that it dials.
        insecure: dial, and be told of, beyond this host.
        mdns: find others by mDNS, and be found; not started before the connection is.
        moving: where the node that it is at may be; if it names none: the first one that it finds.
        default: an address where a node may be.
        uses_nodes: nodes that are found are used.
        others: see Connection.

    Raises:
        ConfigError: it cannot listen there.
    """

    client: HybridClient

    def __init__(
        self,
        listen: tuple[str, ...],
        peers: tuple[str, ...],
        identity: ClientIdentity,
        on_state: Callable[[str, str], None] | None,
        hands_over: bool = False,
        insecure: bool = False,
        mdns: bool = False,
        moving: Moving | None = None,
        default: str = "",
        uses_nodes: bool = True,
    ) -> None:
        memory.keep_freed()
        self._insecure = insecure  # before the machine is made, which asks for it
        self._sockets = ProgramSocket(listen)
        # As of now: mDNS tells the addresses that there are later, too.
        reachable = chain.from_iterable(map(reachable_at, self._sockets.urls))
        self._reachable = tuple(reachable)[: limits.PEER_ADDRESSES_MAX]
        self._peers = peers
        node = moving.address if moving is not None else ""
        self._node = node
        self._uses_nodes = uses_nodes
        self._is_strict = bool(node) and not peers
        self._default = default
        self._gone: list[bytes] = []
        super().__init__(node or self._sockets.urls[0], identity, on_state, hands_over, moving)
        self.addresses = self._reachable
        self._mdns = self._look_around() if mdns else None
        self.is_settled = not (peers or node or default)
        self._has_begun = False
        self._begun_ns = 0
        self._node_links = 0
        self._node_link = b""
        self._sent_ns = 0  # when a program's thread has last sent a record of its own

    def _make_client(
        self, identity: ClientIdentity, entropy: random.Random, guard: AbstractContextManager[Any]
    ) -> Client:
        return HybridClient(
            identity, codec.encode_batch, entropy, guard, encode_jobs,
            addresses=self._reachable, tools=TOOLS, insecure=self._insecure,
            node=self._node, uses_nodes=self._uses_nodes, is_strict=self._is_strict,
        )  # fmt: skip

    def _make_socket(self, url: str) -> Any:
        return self._sockets

    def check_node(self, what: str) -> None:
        self.check()
        if not self.client.had_node:
            raise needs_node(what)

    def _look_around(self) -> Mdns:
        """What hears of other programs, and tells them of this one."""
        from meshmq.shell.discovery import Mdns  # 15 ms that few need

        me = self.client.direct.links.hello
        mdns = Mdns(me.mesh, self._insecure, self.wake)
        told = self._sockets.urls
        mdns.advertise(PeerFacts(me.instance, "client", me.mesh, me.name, addresses=told))
        return mdns

    def start(self) -> None:
        if self._mdns is not None and not self.was_started:
            self._mdns.start()
        super().start()

    def _end(self) -> None:
        if self._mdns is not None:
            self._mdns.close(0)
        super()._end()

    @property
    def is_greeted(self) -> bool:
        """Whether a node, or the programs of the peers list, have had their time to answer."""
        return self.dead is not None or (self.is_settled and super().is_greeted)

    def peers(self) -> list[dict[str, Any]]:
        with self._io:
            return self.client.direct.peers()

    def published(self) -> None:
        publisher = self.publisher
        if not self.client.is_connected:
            pass  # the first turn sends it
        elif (
            not self._hands_over
            and publisher.direct.is_quiet
            and publisher.node.is_quiet
            and clock.now_ns() - self._sent_ns > LONE_NS
            and not self._io.locked()
        ):
            self._locked(self._send_now)
            self._sent_ns = clock.now_ns()
            self._follow_up()
        elif self.sleeping and publisher.has_work:
            # Not for each record until the thread comes to its turn.
            self.sleeping = self._driving.locked()
            self.wake()

    # -- turns: under the lock ----------------------------------------------------------------

    def _turn(self) -> None:
        if self._is_closed:
            return
        now = clock.now_ns()
        client, sockets = self.client, self._sockets
        if not self._has_begun:
            self._begin(now)
        if self._reopen_at is not None and now >= self._reopen_at:
            self._reopen_at = None
            self._open_node(now)
        if self._gone:
            gone, self._gone = self._gone, []
            for link in gone:
                client.handle(LinkClosed(link, "the connection was cut"), now)
        if self._mdns is not None:
            heard = self._mdns.events
            for _ in range(min(len(heard), limits.MDNS_EVENTS_PER_TURN_COUNT)):
                client.direct.links.tell(heard.popleft(), now)
        sockets.look()
        cut = sockets.take_cut()
        for _ in range(FRAMES_LEFT if cut else FRAMES_PER_TURN):
            message = sockets.receive()
            if message is None:
                break
            link, parts = message
            try:
                client.handle(FrameReceived(link, codec.decode(parts)), now)
            except BadFrame as error:
                client.handle(BadFrameReceived(link, str(error)), now)
        for link in cut:  # behind what it has brought
            client.handle(LinkClosed(link, "the connection was cut"), now)
        if self._is_due(now):
            client.handle(TimerFired(), now)
        while self._posted:
            self._work(self._posted.popleft(), now)
        self._send_ready(now)
        if not self.is_settled:
            self._look_settled(now)

    def _begin(self, now: int) -> None:
        """The first turn, for which nobody waits."""
        self._has_begun = True
        self._begun_ns = now
        if not self._node:
            self._reopen_at = None
        client = self.client
        client.start(self._peers, now)
        if self._default:
            facts = PeerFacts(addresses=(self._default,))
            client.direct.links.tell(Sighted(DEFAULT, facts), now)
        if self.is_settled:
            client.do_without()

    def _open_node(self, now: int) -> None:
        self._node_links += 1
        self._node_link = b"node-%d" % self._node_links
        try:
            self._sockets.open(self._node_link, self._node, self._dials_one_of)
        except ConfigError:
            self._reopen_at = now + limits.RECONNECT_NS_MAX
            return
        self.client.handle(LinkOpened(self._node_link), now)

    def _found_node(self, address: str) -> None:
        self._node = self.url = address
        self._dials_one_of = False
        self._reopen_at = clock.now_ns()
        self._more = True

    def _look_settled(self, now: int) -> None:
        """Whether a node is there, or those listed are and know what we want; or have had their
        time."""
        client, waited_ns = self.client, now - self._begun_ns
        if client.has_node:
            is_settled = not self._peers or client.direct.is_settled(self._peers)
            is_settled = is_settled or waited_ns >= limits.SETTLE_NS
        elif client.expects_node:
            is_settled = False
        elif self._default:
            is_alone = not client.direct.knows_of_none()
            least_ns = limits.LOOK_NS if is_alone else limits.LOOK_LEAST_NS
            is_settled = waited_ns >= least_ns
        else:
            is_settled = client.direct.is_settled(self._peers) or waited_ns >= limits.SETTLE_NS
        if is_settled:
            self._settle_for_this()

    def _settle_for_this(self) -> None:
        self.is_settled = True
        self.client.do_without()
        self._more = True
        self._note(self)

    def stop_looking(self) -> bool:
        """There is no more time to look round: begin with what is there. False: a node must be."""
        if self.client.expects_node:
            return False
        self.run(lambda now_ns: self._settle_for_this())
        return True

    def _timeout_ms(self) -> int:
        timeout_ms = super()._timeout_ms()
        if not self.is_settled:
            waited_ns = clock.now_ns() - self._begun_ns
            for after_ns in (limits.SETTLE_NS, limits.LOOK_LEAST_NS, limits.LOOK_NS):
                if waited_ns < after_ns:
                    return min(timeout_ms, (after_ns - waited_ns) // limits.MS + 1)
        return timeout_ms

    def _transmit(self, link: bytes, envelope: Envelope) -> None:
        if self._sockets.send(link, codec.encode(envelope)) == "gone":
            self._gone.append(link)

    def _open_link(self, effect: OpenLink) -> None:
        try:
            is_one_of = effect.link.startswith(OWNER_LINK)  # whose dials end when nobody is there
            self._sockets.open(effect.link, effect.address, is_one_of)
        except ConfigError:
            self._gone.append(effect.link)

    def _close_link(self, effect: CloseLink) -> None:
        self._sockets.shut(effect.link)
        if effect.link == self._node_link:
            self._open_after(effect)
            self._node = self.url

    def _send_ready(self, now: int) -> None:
        self._more = False
        self.client.pump(now)
        self._perform(self.client.take_effects(now))
        is_told = self._mdns is not None and bool(self._mdns.events)
        # Sending takes the news of what came meanwhile.
        self._more = self._more or bool(self._gone) or is_told or self._socket.has_input()
