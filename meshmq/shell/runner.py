"""Runs a node: one loop over its socket, its disk thread and the clock, round ``core.node``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import meshmq
from meshmq import codec, limits
from meshmq.core.effects import (
    Append,
    CloseLink,
    MendLog,
    NodeEffect,
    OpenLink,
    PlanRetention,
    ReadLog,
    Send,
    SurveyLog,
)
from meshmq.core.events import (
    BadFrameReceived,
    FrameReceived,
    LinkClosed,
    NodeEvent,
    TimerFired,
    WallClock,
)
from meshmq.core.hints import address_fault
from meshmq.core.link_wish import LinkWish
from meshmq.core.node import Node
from meshmq.core.site_links import SiteLinks
from meshmq.errors import BadFrame
from meshmq.frames import PeerFacts
from meshmq.names import check_mesh
from meshmq.shell import clock
from meshmq.shell.discovery import Mdns
from meshmq.shell.disk import DiskThread, Job
from meshmq.shell.memory import Breaker, give_back, raise_open_files, resident_bytes
from meshmq.shell.site import SiteConfig, SiteShell
from meshmq.shell.sockets import NodeSocket, Wake, check_url

FRAMES_PER_TURN = 64  # then what was appended goes to disk while the next frames are read
MDNS_GOODBYE_S = 0.2  # the first of three goodbyes has left by then
TURN_NS = 2 * limits.MS  # nor longer than that: somebody's flood must not delay another's answer


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node needs to start.

    Attributes:
        name: for people; it is in handshakes and listings.
        mesh: only clients of the same mesh are let in.
        listen: address to bind; port 0 or ``*`` takes a free one.
        data: directory of the log, made if it is not there.
        insecure: allow other than loopback without keys.
        mdns: tell the network of it, or for the mesh ``local`` this host.
        site: what it needs to be one of several nodes.
        on_note: called with a sentence for people, when something needs them.
    """

    name: str
    data: Path
    mesh: str = "local"
    listen: str = "tcp://127.0.0.1:5757"
    insecure: bool = False
    mdns: bool = False
    site: SiteConfig | None = None
    on_note: Callable[[str], None] | None = None


class NodeRunner:
    """A node in this process. ``run`` blocks; ``stop`` and ``set_links`` may be called from
    anywhere.

    Raises:
        ConfigError: the address cannot be used, or a setting is wrong.
        StoreBusy: another process has the data directory.
        StoreDamaged: the log cannot be opened.
    """

    def __init__(self, config: NodeConfig) -> None:
        check_mesh(config.mesh)
        check_url(config.listen, bind=True, insecure=config.insecure, mesh=config.mesh)
        self._wake = Wake()
        self._stopping = False
        self._links: deque[tuple[LinkWish, ...]] = deque()  # see set_links
        self._unsent = {"full": 0, "gone": 0}
        self._disk = DiskThread(config.data, self._wake.set)
        state = self._disk.open()
        self._site: SiteShell | None = None
        try:
            self._socket = NodeSocket(config.listen)
            self.url = self._socket.url
            if config.site is not None:
                self._site = SiteShell(config.site, config.mesh, config.insecure)
        except BaseException:
            self._disk.close()
            raise
        self._socket.watch(self._wake)
        self._on_note = config.on_note
        self._started_ns = clock.now_ns()
        self._jobs: list[Job] = []
        self._gone: list[bytes] = []
        self._node = Node(
            state,
            name=config.name,
            mesh=config.mesh,
            software=f"meshmq {meshmq.__version__}",
            tools=codec.TOOLS,
            entropy=clock.entropy(),
            more_status=self._status,
            site=self._site.identity(self.url, config.name, config.data) if self._site else None,
        )
        self._handle(WallClock(clock.wall_ns()), self._started_ns)
        if config.site is not None and self._node.site is not None:
            self._node.site.look_for(config.site.peers, self._started_ns)
            self._node.site.set_links(config.site.links, self._started_ns)
        raise_open_files()
        if self._site is not None and config.mdns:
            self._site.look_around(self._node.origin, config.name, self._wake.set)
        self._mdns = self._advertise(config) if config.mdns else None
        self._breaker = Breaker(resident_bytes(), self._node.held_bytes())
        self._check_memory_at = self._started_ns

    def run(self) -> None:
        """Serve until ``stop``; raise StoreFailed if the log fails."""
        if self._mdns is not None:
            self._mdns.start()
        try:
            while not self._stopping and self._disk.failure is None:
                self._turn()
            for mdns in self._all_mdns():
                mdns.close(0)  # goodbyes take a while: they begin first
            if self._disk.failure is None:
                self._finish()
        finally:
            for mdns in self._all_mdns():
                mdns.close(MDNS_GOODBYE_S)
            self._disk.close()
            self._socket.close()
            if self._site is not None:
                self._site.close()
        if self._disk.failure is not None:
            raise self._disk.failure

    @property
    def site_url(self) -> str | None:
        """Where other nodes of its site may dial it."""
        return None if self._site is None else self._site.url

    @property
    def is_drained(self) -> bool:
        """Whether its programs were sent to other nodes."""
        return self._node.drain.is_over

    def stop(self) -> None:
        """End ``run`` soon; safe in signal handlers and from other threads."""
        self._stopping = True
        self._wake.set()

    def set_links(self, links: tuple[LinkWish, ...]) -> None:
        """Pull from other sites these soon, instead of what was; safe from other threads.

        They must be as SiteConfig's; a node of no site has none.
        """
        self._links.append(links)
        self._wake.set()

    def _advertise(self, config: NodeConfig) -> Mdns:
        """What tells others of the node, not started; that it fails changes nothing."""
        facts = PeerFacts(
            self._node.origin, "node", config.mesh, config.name, addresses=(self.url,)
        )
        on_host = not address_fault(self.url, on_host=True)
        mdns = Mdns(config.mesh, config.insecure and not on_host, lambda: None, browse=False)
        mdns.advertise(facts)
        return mdns

    def _all_mdns(self) -> list[Mdns]:
        found = (self._mdns, None if self._site is None else self._site.mdns)
        return [mdns for mdns in found if mdns is not None]

    def _turn(self) -> None:
        now = clock.now_ns()
        due_ns = self._node.next_deadline_ns()
        wait_ns = due_ns - now
        site = self._site
        if site is not None:
            self._socket.watch_fds(site.fds)
        if wait_ns > 0 and not (site is not None and site.has_input()):
            self._socket.poll(min(wait_ns // 1_000_000 + 1, 60_000))
            now = clock.now_ns()
        results = self._disk.results
        while results:
            self._handle(results.popleft(), now)
        while self._links:
            self._change_links(self._links.popleft(), now)
        if site is not None:
            self._turn_of_site(site, now)
        receive = self._socket.receive
        for count in range(FRAMES_PER_TURN):
            if count == 1 and not self._socket.has_input():
                break  # most come alone, and to be refused costs more than to ask
            message = receive()
            if message is None:
                break
            self._on_message(message, now)
            if clock.now_ns() - now > TURN_NS:
                break
        # What came up meanwhile is looked at before the next sleep.
        if due_ns <= now and self._node.next_deadline_ns() <= now:
            self._handle(WallClock(clock.wall_ns()), now)
            self._handle(TimerFired(), now)
        if now >= self._check_memory_at:
            self._check_memory(now)
        while self._gone:
            self._handle(LinkClosed(self._gone.pop(), "the connection is gone"), now)
        self._perform(self._node.end_turn(now))
        if self.is_drained and not self._node.drain.stays:
            self._stopping = True
        if self._node.site is not None and self._node.site.links.news:
            self._tell(self._node.site.links)
        if self._jobs:
            self._disk.put(self._jobs)
            self._jobs = []

    def _change_links(self, links: tuple[LinkWish, ...], now: int) -> None:
        if self._node.site is not None:
            self._node.site.set_links(links, now)

    def _turn_of_site(self, site: SiteShell, now: int) -> None:
        """What other nodes have sent, and what has become of the links with them."""
        for event in site.look():
            self._handle(event, now)
        for _ in range(FRAMES_PER_TURN):
            message = site.receive()
            if message is None:
                break
            self._on_message([message[0], *message[1]], now)
            if clock.now_ns() - now > TURN_NS:
                break

    def _tell(self, links: SiteLinks) -> None:
        for sentence in links.news:
            if self._on_note is not None:
                self._on_note(sentence)
        links.news.clear()

    def _check_memory(self, now: int) -> None:
        """See shell.memory. It is looked at while frames come, which is when it grows; an attack
        that sends nothing whole is seen at the node's next timer, within a second."""
        self._check_memory_at = now + limits.MEMORY_CHECK_NS
        if self._breaker.is_due(resident_bytes(), self._node.held_bytes(), now):
            self._gone += [link for link, p in self._node.peers.items() if p.sibling is None]
            self._socket.rebind()
            give_back()

    def _on_message(self, message: list[bytes], now: int) -> None:
        link = message[0]
        try:
            envelope = codec.decode(message[1:])
        except BadFrame as error:
            self._handle(BadFrameReceived(link, str(error)), now)
            return
        self._handle(FrameReceived(link, envelope), now)

    def _handle(self, event: NodeEvent, now: int) -> None:
        self._perform(self._node.handle(event, now))

    def _perform(self, effects: list[NodeEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, envelope):
                    socket: NodeSocket | SiteShell = self._socket
                    if self._site is not None and self._site.has(link):
                        socket = self._site
                    failed = socket.send(link, codec.encode(envelope))
                    if failed:
                        self._unsent[failed] += 1
                        if failed == "gone":
                            self._gone.append(link)
                case Append() | ReadLog() | PlanRetention() | SurveyLog() | MendLog():
                    self._jobs.append(effect)
                case OpenLink() | CloseLink():  # a ROUTER keeps no state of ours per link
                    if self._site is not None:
                        self._site.perform(effect)

    def _finish(self) -> None:
        """Let what is under way reach the disk and its publishers, then say goodbye."""
        deadline = clock.now_ns() + 2 * limits.SECOND
        if self._jobs:
            self._disk.put(self._jobs)
            self._jobs = []
        while self._node.has_unsynced and clock.now_ns() < deadline:
            self._socket.poll(50)
            while self._disk.results:
                self._handle(self._disk.results.popleft(), clock.now_ns())
            self._perform(self._node.end_turn(clock.now_ns()))
            if self._disk.failure is not None:
                return
        self._perform(self._node.goodbye(clock.now_ns()))

    def _status(self) -> dict[str, Any]:
        return {
            "uptime_seconds": round((clock.now_ns() - self._started_ns) / limits.SECOND, 3),
            "unsent_frames": dict(self._unsent),
            "memory_bytes": resident_bytes(),
            "memory_breaks": self._breaker.breaks,
            "store": self._disk.stats,
            "wall_time": clock.wall_ns() / limits.SECOND,
            "mdns": {"state": "off"} if self._mdns is None else self._mdns.status(),
        }
