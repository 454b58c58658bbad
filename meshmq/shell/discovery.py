"""mDNS: tells the local network of us, and hears of others. The only importer of zeroconf.

All of it happens in a thread of its own. What is heard goes into ``events``, for the discovery
machine; ``wake`` is called behind that. That mDNS does not work is a state with a reason, and the
thread tries again when the interfaces change; nothing else depends on it.

* Questions are asked by multicast only: of several programs on one host just one would get an
  answer that is sent to the port they share (zeroconf's own first question asks for that).
* The mesh ``local`` speaks on the loopback interface, and its sockets are bound to it: without that
  Linux hands them what other programs' memberships bring in, and a question from the network would
  be answered.
* The thread may take MDNS_SHARE of a core. Beyond that it sleeps, and what the system cannot keep
  meanwhile is lost, as is usual with mDNS: somebody who floods the network slows nobody down.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from meshmq import limits
from meshmq.core.discovery import MDNS, Sighted, SightLost
from meshmq.core.hints import LOCAL_MESH
from meshmq.frames import PeerFacts
from meshmq.shell.interfaces import LOOPBACK, multicast_addresses, reachable_at, usable

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

SERVICE = "_meshmq._tcp.local."
"""What programs look for: nodes, and each other."""

NODE_SERVICE = "_meshmq-node._tcp.local."
"""What nodes look for: each other."""

STARTING, ON, FAILED, CLOSED = "starting", "on", "failed", "closed"
_IP_MULTICAST_ALL = 49  # linux/in.h; Python has no name for it


class Mdns:
    """See the module's header. All methods may be called from any thread.

    Args:
        mesh: of our own; ``local`` is spoken on this host only.
        insecure: speak on all interfaces, if the mesh is not ``local``.
        wake: called, from the thread, when there is something in ``events``.
        browse: hear of others; without it we only tell.
        service: SERVICE or NODE_SERVICE.

    Attributes:
        events: what was heard, for ``Discovery.handle``; take it from the left.
        state, reason: ``starting``, ``on``, ``failed`` (and why, in words) or ``closed``.
        counters: what was left out, by reason.
        addresses: those that mDNS is spoken from.
    """

    def __init__(
        self,
        mesh: str,
        insecure: bool,
        wake: Callable[[], None],
        browse: bool = True,
        service: str = SERVICE,
    ) -> None:
        self.events: deque[Sighted | SightLost] = deque()
        self.state, self.reason = STARTING, ""
        self.counters: Counter[str] = Counter()
        self.addresses: list[str] = []
        self._everywhere = insecure and mesh != LOCAL_MESH
        self._wake = wake
        self._browse = browse
        self._service = service
        self._facts: PeerFacts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._closing = False
        self._resolving: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="meshmq-mdns", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def advertise(self, facts: PeerFacts | None) -> None:
        """Tell others of ``facts``, in place of what was told before; None: of nothing.

        Its tcp addresses have one port, as a record has: that of the first is told. For one that
        is all interfaces (tcp://0.0.0.0:5757) those are told that there are then.
        """
        self._facts = facts
        self._nudge()

    def close(self, timeout: float = 1.0) -> None:
        """Say goodbye, for ``timeout`` seconds at most; the thread ends by itself."""
        self._closing = True
        self._nudge()
        if timeout and self._thread.is_alive():
            self._thread.join(timeout)

    def status(self) -> dict[str, Any]:
        """Its state, why it failed, and where it speaks, for people."""
        return {
            "state": self.state,
            "reason": self.reason,
            "addresses": list(self.addresses),
            **self.counters,
        }

    def _nudge(self) -> None:
        loop, changed = self._loop, self._changed
        if loop is not None and changed is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(changed.set)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # a bug, or one of zeroconf's: mDNS is over, nothing else
            self._fail(f"{type(error).__name__}: {error}")
        else:
            self.state, self.reason = CLOSED, ""
        self._wake()

    def _fail(self, reason: str) -> None:
        self.state, self.reason = FAILED, reason
        self._wake()

    async def _main(self) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        throttle = asyncio.create_task(self._throttle())
        while not self._closing:
            self.addresses = multicast_addresses(self._everywhere)
            try:
                await self._serve()
            except OSError as error:
                self._fail(_in_words(error))
                await self._pause()
        throttle.cancel()

    async def _serve(self) -> None:
        """Speak on the present interfaces until they change, or we close."""
        from zeroconf import DNSQuestionType
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        zeroconf = AsyncZeroconf(interfaces=usable(self.addresses))
        browser: AsyncServiceBrowser | None = None
        try:
            await zeroconf.zeroconf.async_wait_for_start()
            self._confine(zeroconf)
            if self._browse:
                browser = AsyncServiceBrowser(
                    zeroconf.zeroconf,
                    self._service,
                    handlers=[self._on_change],
                    question_type=DNSQuestionType.QM,
                )
            self.state, self.reason = ON, ""
            self._wake()
            told: PeerFacts | None = None
            info: ServiceInfo | None = None
            while not self._closing:
                if self._facts != told:
                    told = self._facts
                    info = await self._tell(zeroconf, info, told)
                await self._pause()
                if not self._closing and multicast_addresses(self._everywhere) != self.addresses:
                    break
        finally:
            for task in self._resolving:
                task.cancel()
            if browser is not None:
                await browser.async_cancel()  # or its first question fails, and asyncio says so
            await zeroconf.async_close()

    async def _pause(self) -> None:
        """Until something changed, or it is time to look at the interfaces."""
        assert self._changed is not None
        if not self._closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.INTERFACES_INTERVAL_NS / limits.SECOND):
                    await self._changed.wait()
        self._changed.clear()

    def _confine(self, zeroconf: AsyncZeroconf) -> None:
        """Keep ``local`` on this host; OSError if that cannot be."""
        engine = zeroconf.zeroconf.engine
        if self._everywhere or sys.platform != "linux":
            return
        for reader in engine.readers:
            endpoint = reader.transport.get_extra_info("socket")
            if not ipaddress.ip_address(endpoint.getsockname()[0]).is_loopback:
                endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
                endpoint.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)

    async def _throttle(self) -> None:
        """See the module's header; what the start costs is not counted."""
        interval = limits.MDNS_THROTTLE_NS / limits.SECOND
        await asyncio.sleep(10 * interval)
        used = time.thread_time()
        while True:
            await asyncio.sleep(interval)
            now = time.thread_time()
            over = (now - used) * limits.MDNS_SHARE - interval
            if over > 0:
                self.counters["throttled"] += 1
                time.sleep(min(over, 1.0))  # noqa: ASYNC251  # the loop has nothing else to do
            used = time.thread_time()

    # -- telling ---------------------------------------------------------------------------------

    async def _tell(
        self, zeroconf: AsyncZeroconf, old: ServiceInfo | None, facts: PeerFacts | None
    ) -> ServiceInfo | None:
        if old is not None:
            await (await zeroconf.async_unregister_service(old))
        if facts is None:
            return None
        info = service_info(facts, self._service)
        # An instance id is nobody else's, so it need not be asked for, which takes half a second.
        await zeroconf.async_register_service(info, cooperating_responders=True)
        return info

    # -- hearing ---------------------------------------------------------------------------------

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        from zeroconf import ServiceInfo, ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            instance = _instance_of(name)
            if instance:
                self._post(SightLost(MDNS, instance))
            return
        try:
            info = ServiceInfo(service_type, name)
            is_complete = info.load_from_cache(zeroconf)
        except Exception:  # zeroconf has several for names that are none
            self.counters["bad-record"] += 1
            return
        if is_complete:
            self._sight(info)
        elif len(self._resolving) >= limits.MDNS_RESOLVES_MAX:
            self.counters["unresolved"] += 1
        else:
            task = asyncio.get_running_loop().create_task(self._resolve(zeroconf, info))
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)

    async def _resolve(self, zeroconf: Zeroconf, info: ServiceInfo) -> None:
        """Ask for what did not come with the name."""
        from zeroconf import DNSQuestionType

        try:
            timeout_ms = limits.MDNS_RESOLVE_NS // limits.MS
            done = await info.async_request(zeroconf, timeout_ms, DNSQuestionType.QM)
        except Exception:
            done = False
        if done:
            self._sight(info)
        else:
            self.counters["unresolved"] += 1

    def _sight(self, info: ServiceInfo) -> None:
        facts = facts_of(info.name, info.port or 0, info.parsed_addresses(), info.properties)
        if facts is None:
            self.counters["bad-record"] += 1
        else:
            self._post(Sighted(MDNS, facts))

    def _post(self, event: Sighted | SightLost) -> None:
        if len(self.events) >= limits.MDNS_EVENTS_MAX:
            self.counters["overflow"] += 1
            return
        self.events.append(event)
        self._wake()


def _in_words(error: OSError) -> str:
    known = {
        errno.EADDRINUSE: "port 5353 is taken by a program that does not share it",
        errno.ENODEV: "the interface is down or gone",
        errno.EADDRNOTAVAIL: "the interface is down or gone",
    }
    return known.get(error.errno or 0, error.strerror or str(error))


def _instance_of(name: str) -> bytes:
    label = name.partition(".")[0]
    try:
        found = bytes.fromhex(label)
    except ValueError:
        return b""
    return found if len(found) == 16 else b""


def service_info(facts: PeerFacts, service: str = SERVICE) -> ServiceInfo:
    """The record of ``facts``: ``m`` mesh, ``k`` kind, ``i`` instance, ``v`` version, ``n`` name,
    ``u`` path of a Unix socket."""
    from zeroconf import ServiceInfo

    name = facts.instance.hex()
    hosts, port, path = [], 0, ""
    for address in chain.from_iterable(map(reachable_at, facts.addresses)):
        if address.startswith("ipc://"):
            path = path or address.removeprefix("ipc://")
            continue
        parts = urlsplit(address)
        port = port or parts.port or 0
        if parts.port == port:
            hosts.append(ipaddress.ip_address(parts.hostname or "").packed)
    text = {
        "m": facts.mesh,
        "k": facts.kind,
        "i": name,
        "v": f"{facts.major}.{facts.minor}",
        "n": facts.name.encode()[: limits.MDNS_NAME_BYTES_MAX].decode("utf-8", "ignore"),
    }
    if path:
        text["u"] = path
    # zeroconf takes no record without an address; with port 0 nobody dials it.
    hosts = hosts or [ipaddress.ip_address(LOOPBACK).packed]
    return ServiceInfo(
        service, f"{name}.{service}", port=port, server=f"{name}.local.", addresses=hosts,
        properties=text,
    )  # fmt: skip


def facts_of(
    name: str, port: int, hosts: list[str], properties: Mapping[bytes, bytes | None] | Any
) -> PeerFacts | None:
    """What a record says, or None if it is none of ours. Whether it can be true, others judge."""
    text: dict[str, str] = {}
    try:
        for key, value in properties.items():
            text[bytes(key).decode()] = bytes(value or b"").decode()
        instance = bytes.fromhex(text["i"])
        major, _, minor = text["v"].partition(".")
        if instance != _instance_of(name) or len(text["v"]) > 11:
            return None
        version = int(major), int(minor)
        mesh, kind = text["m"], text["k"]
    except (KeyError, ValueError):
        return None
    addresses = [
        f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
        for host in hosts
        if not ipaddress.ip_address(host).is_link_local or ":" not in host
    ]
    if text.get("u"):
        if not port:
            addresses = []
        addresses.append(f"ipc://{text['u']}")
    return PeerFacts(instance, kind, mesh, text.get("n", ""), *version, tuple(addresses))
