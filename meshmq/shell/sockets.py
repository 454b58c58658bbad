"""ZeroMQ sockets with the options that avoid its traps. The only importer of zmq.

No heartbeats of ZeroMQ's own (they can abort the process), no routing ids of ours, never a
blocking send: what does not fit is lost, and the session machine sends it again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from meshmq import limits
from meshmq.errors import ConfigError
from meshmq.frames import Payload

_MAX_PART = limits.FRAME_PAYLOAD_BYTES_MAX + 64 * limits.KIB
_PARTS_KEPT = limits.FRAME_PARTS_MAX + 1
_ZERO_COPY_BYTES = 32 * limits.KIB
_VIEWED_BYTES = 16 * limits.KIB
# Plain ints: combining enum members costs more than a send.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_MAPPED = re.compile(r"\[::ffff:([0-9.]+)\]")
_NOW, _NOW_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)


class Wake:
    """Wakes a poll from another thread; ``fd`` becomes readable."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def set(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._write_fd, b"\x01\0\0\0\0\0\0\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        for fd in {self.fd, self._write_fd}:
            os.close(fd)


class Sleeper:
    """Sleeps until a descriptor has something, or it is woken. Touches no ZeroMQ.

    Attributes:
        is_asleep: set it before looking at what a wake may change, then sleep: no wake is missed.
    """

    def __init__(self) -> None:
        self.is_asleep = False
        self._wake = Wake()
        self._poll = select.poll()
        self._poll.register(self._wake.fd, select.POLLIN)
        self._fds: tuple[int, ...] = ()
        weakref.finalize(self, self._wake.close)

    def sleep(self, fds: tuple[int, ...], timeout_ms: int) -> None:
        """Sleep on ``fds``, which may be closed meanwhile, for ``timeout_ms`` at most."""
        if fds is not self._fds:
            for fd in self._fds:
                self._poll.unregister(fd)
            for fd in fds:
                self._poll.register(fd, select.POLLIN)
            self._fds = fds
        for fd, _ in self._poll.poll(timeout_ms):
            if fd == self._wake.fd:
                self._wake.clear()

    def wake(self) -> None:
        """End the sleep, from any thread."""
        if self.is_asleep:
            self.is_asleep = False
            self._wake.set()


def libzmq_version() -> tuple[int, ...]:
    """Of the library that is loaded, which need not be the one that pyzmq was built with."""
    return zmq.zmq_version_info()


def check_url(url: str, *, bind: bool, insecure: bool, mesh: str) -> str:
    """Return ``url`` if it is one we can use; raise ConfigError with what to do if not.

    Without keys only loopback is allowed, unless ``insecure`` is set and the mesh has a name of
    its own.
    """
    try:
        parts = urlsplit(url)
        port = parts.port if not url.endswith(":*") else 0
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme == "ipc" and len("ipc://") < len(url) <= len("ipc://") + zmq.IPC_PATH_MAX_LEN:
        return url
    if parts.scheme != "tcp" or not parts.hostname or port is None or not (bind or port):
        raise ConfigError(f"{url!r} is not an address: write it like tcp://127.0.0.1:5757")
    loopback = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
    if not loopback and not (insecure and mesh != "local"):
        verb = "bind" if bind else "connect to"
        raise ConfigError(
            f"refusing to {verb} {url}: off this host there is no protection yet; if the network "
            f"is trusted say --insecure (insecure=True) and give the mesh a name other than 'local'"
        )
    return url


def _configure(socket: zmq.Socket[bytes], url: str) -> None:
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_PART)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 2000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.IPV6, int("[" in url))
    # Above what credit lets through, so a full pipe means a peer that broke its credit.
    socket.setsockopt(zmq.SNDHWM, 8192)
    socket.setsockopt(zmq.RCVHWM, 512)


def _send(socket: zmq.Socket[bytes], parts: Sequence[bytes]) -> None:
    """Send a header and, if there is one, a payload; raise Again if it does not fit."""
    if len(parts) == 1:
        socket.send(parts[0], _NOW)
        return
    header, payload = parts
    socket.send(header, _NOW_MORE)
    if len(payload) < _ZERO_COPY_BYTES:
        socket.send(payload, _NOW)
    else:
        socket.send(payload, _NOW, copy=False)


def _receive(socket: zmq.Socket[bytes], viewed_bytes: int = sys.maxsize) -> list[Any]:
    """The parts of the next message, a few too many at most; raise Again if there is none. Parts
    from ``viewed_bytes`` on, but for the first, are views of what ZeroMQ has received."""
    # A Frame knows whether more follows; asking the socket costs as much as receiving.
    frame = socket.recv(_NOW, copy=False)
    parts: list[Any] = [frame.bytes]
    while frame.more:
        frame = socket.recv(_NOW, copy=False)
        if len(parts) <= _PARTS_KEPT:  # the rest of an endless message is let go
            parts.append(frame.bytes if len(frame) < viewed_bytes else frame.buffer)
    return parts


def _router(context: zmq.Context[zmq.Socket[bytes]], url: str) -> zmq.Socket[bytes]:
    """A ROUTER for who dials us at ``url``, not yet bound."""
    socket = context.socket(zmq.ROUTER)
    _configure(socket, url)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.BACKLOG, 512)
    return socket


def _bind(socket: zmq.Socket[bytes], url: str, in_use: str) -> str:
    """Listen at ``url``, port 0 taking a free one; return the address that it became. Raises
    ConfigError, with ``in_use`` to say where that is so."""
    try:
        socket.bind(url[:-2] + ":*" if url.endswith(":0") else url)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise ConfigError(f"{url} is in use{in_use}") from None
        raise ConfigError(f"cannot listen on {url}: {error.strerror}") from None
    # Beside an IPv6 address one of IPv4 is told in that other form, which nobody dials.
    return _MAPPED.sub(r"\1", socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))


class _Dealer(NamedTuple):
    """A socket that dials one address, and what tells that it was cut."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]

    @classmethod
    def dial(
        cls, context: zmq.Context[zmq.Socket[bytes]], url: str, is_one_of: bool = False
    ) -> _Dealer:
        """Begin to connect; raises ConfigError if ``url`` is no address. ``is_one_of``: there are
        others, so that nobody listens there counts as a cut; else it is tried again."""
        socket = context.socket(zmq.DEALER)
        _configure(socket, url)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        dealer = cls(
            socket,
            socket.get_monitor_socket(
                zmq.EVENT_DISCONNECTED | (zmq.EVENT_CLOSED if is_one_of else 0)
            ),
        )
        try:
            socket.connect(url)
        except zmq.ZMQError as error:
            dealer.close(0)
            raise ConfigError(f"cannot connect to {url}: {error.strerror}") from None
        return dealer

    def was_cut(self) -> bool:
        """Whether the connection was cut since the last time."""
        if not int(self.monitor.getsockopt(_EVENTS)) & _POLLIN:
            return False
        recv_monitor_message(self.monitor, zmq.NOBLOCK)
        return True

    def close(self, linger_ms: int) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(linger_ms)


def _why_unsent(error: zmq.ZMQError) -> str:
    """``full`` or ``gone``; raises what is neither."""
    if error.errno == zmq.EAGAIN:
        return "full"
    if error.errno == zmq.EHOSTUNREACH:
        return "gone"
    raise error


class NodeSocket:
    """A bound ROUTER: many links, each named by its routing id."""

    def __init__(self, url: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_535)
        self._socket = _router(self._context, url)
        in_use = (
            ": another node runs there, or choose another address with --listen tcp://127.0.0.1:0"
        )
        try:
            self.url = _bind(self._socket, url, in_use)
        except ConfigError:
            self.close()
            raise
        self._wake: Wake | None = None
        self._fds: tuple[int, ...] = ()
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)

    def rebind(self) -> None:
        """Close every link, free what they hold, and listen again at the same address."""
        self._poller.unregister(self._socket)
        self._socket.close(0)
        self._socket = _router(self._context, self.url)
        for left in range(200, -1, -1):
            try:
                self._socket.bind(self.url)
                break
            except zmq.ZMQError as error:
                # The I/O thread has not closed the old one yet.
                if error.errno != zmq.EADDRINUSE or left == 0:
                    raise ConfigError(
                        f"cannot listen on {self.url} again: {error.strerror}"
                    ) from None
                time.sleep(0.01)
        self._poller.register(self._socket, zmq.POLLIN)

    def watch(self, wake: Wake) -> None:
        """Let ``wake`` end a poll, which clears it."""
        self._wake = wake
        self._poller.register(wake.fd, zmq.POLLIN)

    def watch_fds(self, fds: tuple[int, ...]) -> None:
        """Let these end a poll, in place of those before."""
        if fds is self._fds:
            return
        for fd in {*self._fds} - {*fds}:
            self._poller.unregister(fd)
        for fd in fds:
            self._poller.register(fd, zmq.POLLIN)
        self._fds = fds

    def poll(self, timeout_ms: int) -> None:
        """Wait until something is there, or the wake was set, or time is up."""
        for source, _ in self._poller.poll(timeout_ms):
            if self._wake is not None and source == self._wake.fd:
                self._wake.clear()

    def has_input(self) -> bool:
        """Whether ``receive`` has something."""
        return bool(int(self._socket.getsockopt(_EVENTS)) & _POLLIN)

    def receive(self) -> list[bytes] | None:
        """The next message as [link, part, ...], or None."""
        try:
            return _receive(self._socket)
        except zmq.Again:
            return None

    def send(self, link: bytes, parts: Sequence[bytes]) -> str:
        """Try to send; return "" or why it was not: ``full`` or ``gone``."""
        socket = self._socket
        try:
            socket.send(link, _NOW_MORE)
            _send(socket, parts)
        except zmq.ZMQError as error:
            return _why_unsent(error)
        return ""

    def close(self) -> None:
        self._socket.close(100)  # ms, for goodbyes to leave
        self._context.term()


class ClientSocket:
    """A DEALER to one node at a time, reopened under a new link number for each attempt.

    One thread at a time may call it; ``fds`` may be slept on by any.

    Attributes:
        link: name of the present link, or empty.
        fds: descriptors that become readable when there may be something to receive, or the
            connection was cut. Afterwards ask ``was_cut`` and ``has_input`` until they say no.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer: _Dealer | None = None
        self._socket: zmq.Socket[bytes] | None = None  # the dealer's
        self._count = 0
        self.link = b""
        self.fds: tuple[int, ...] = ()

    def open(self, url: str = "", is_one_of: bool = False) -> bytes:
        """Begin to connect to ``url``, or else to where the last one went; return the new link's
        name. ``is_one_of``: see ``was_cut``, which then tells that nobody listens there."""
        self.shut()
        self._url = url or self._url
        self._dealer = dealer = _Dealer.dial(self._context, self._url, is_one_of)
        self._socket = dealer.socket
        self._count += 1
        self.link = b"%d" % self._count
        self.fds = (int(dealer.socket.getsockopt(zmq.FD)), int(dealer.monitor.getsockopt(zmq.FD)))
        return self.link

    def was_cut(self) -> bool:
        """Whether the connection was cut since the last time."""
        return self._dealer is not None and self._dealer.was_cut()

    def has_input(self) -> bool:
        """Whether ``receive`` has something."""
        socket = self._socket
        return socket is not None and bool(int(socket.getsockopt(_EVENTS)) & _POLLIN)

    def receive(self) -> list[bytes]:
        """The next message's parts; there must be one."""
        assert self._socket is not None
        return _receive(self._socket)

    def send(self, parts: Sequence[bytes]) -> None:
        """Try to send; what does not fit is lost."""
        if self._socket is None:
            return
        with contextlib.suppress(zmq.Again):
            _send(self._socket, parts)

    def shut(self, linger_ms: int = 0) -> None:
        """Close the present link; ``linger_ms`` lets a goodbye leave."""
        if self._dealer is None:
            return
        self.fds = ()
        self._dealer.close(linger_ms)
        self._dealer = self._socket = None
        self.link = b""

    def close(self) -> None:
        self.shut(linger_ms=100)
        self._context.term()


class _Inside:
    """Programs of this process that listen, for those of it that dial: by inproc, which needs no
    system calls for what it carries, and no I/O thread.

    Attributes:
        context: for inproc sockets only. It is never ended: what was sent has arrived, so nothing
            is waited for.
    """

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=0)
        self.context.set(zmq.MAX_SOCKETS, 65_535)
        self._numbers = itertools.count(1)
        self._listeners: dict[str, str] = {}

    def listen(self, urls: Sequence[str]) -> zmq.Socket[bytes]:
        """A ROUTER for those who dial one of ``urls``."""
        socket = _router(self.context, "")
        address = f"inproc://{next(self._numbers)}"
        socket.bind(address)
        self._listeners.update(dict.fromkeys(urls, address))
        return socket

    def leave(self, urls: Sequence[str]) -> None:
        """Nobody listens there any more."""
        for url in urls:
            self._listeners.pop(url, None)

    def find(self, url: str) -> str | None:
        """Where ``url`` is listened at, if that is in this process."""
        return self._listeners.get(url)


_inside = _Inside()
_before_forks: list[_Inside] = []  # those of the parents: not ours, and nothing may end them


def _begin_anew() -> None:
    """This process is a child: what its parent listens at is in another one."""
    global _inside
    _before_forks.append(_inside)
    _inside = _Inside()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


# Before routing ids: who dials chooses its own, and must not name a link of ours.
_IN, _INSIDE = b"<", b"("
_MONITOR = b"!"


class ProgramSocket:
    """What a program without a node has: a bound ROUTER for those who dial it, another one for
    those of its own process, and a DEALER for each address that it dials. Links are named: by the
    caller, or by the routing id.

    One thread at a time may call it; ``fds`` may be slept on by any.

    Args:
        urls: addresses to listen at; port 0 or ``*`` takes a free one.
        instead: what to do where one is in use, for the error.
        is_node: it is a node's, for other nodes: none of them is of this process, and it is told
            (``was_cut``) that one of those who dialled is gone.

    Attributes:
        urls: the same, as others may dial them.
        fds: descriptors that become readable when there may be something to receive, or a
            connection was cut. Afterwards ``look``, then ``take_cut`` and ``receive`` until there
            is nothing.
    """

    def __init__(
        self,
        urls: Sequence[str],
        instead: str = "choose another one (listen=...)",
        is_node: bool = False,
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_535)
        self._router = _router(self._context, "[" if any("[" in url for url in urls) else "")
        self._dealers: dict[bytes, _Dealer] = {}
        self._poll = select.poll()
        self._names: dict[int, bytes] = {}  # of dialled links and routers, by descriptor
        self._ready: dict[bytes, None] = {}  # where something may be
        self._monitored: dict[int, bytes] = {}  # links by their monitor's descriptor
        self._maybe_cut: list[bytes] = []
        in_use = f" by another program: {instead}"
        try:
            self.urls = tuple([_bind(self._router, url, in_use) for url in urls])
        except ConfigError:
            self._router.close(0)
            self._context.term()
            raise
        self.fds: tuple[int, ...] = ()
        self._inside = _inside
        self._routers = {_IN: self._router}
        self._monitor: zmq.Socket[bytes] | None = None
        if is_node:
            self._monitor = self._router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._watch(self._monitor, _MONITOR)
        else:
            self._routers[_INSIDE] = self._inside.listen(self.urls)
        for name, router in self._routers.items():
            self._watch(router, name)

    def _watch(self, socket: zmq.Socket[bytes], name: bytes) -> None:
        fd = int(socket.getsockopt(zmq.FD))
        self._names[fd] = name
        self._poll.register(fd, select.POLLIN)
        self.fds = tuple(self._names)

    def open(self, link: bytes, address: str, is_one_of: bool = False) -> None:
        """Begin to connect to ``address``; raises ConfigError if that is none. ``is_one_of``: that
        nobody listens there is told as if the link were cut."""
        inside = self._inside.find(address)
        if inside is not None:
            dealer = _Dealer.dial(self._inside.context, inside)
        else:
            dealer = _Dealer.dial(self._context, address, is_one_of)
        self._dealers[link] = dealer
        self._watch(dealer.socket, link)
        self._watch(dealer.monitor, link)
        self._monitored[int(dealer.monitor.getsockopt(zmq.FD))] = link
        # Its descriptor tells of nothing before somebody has once seen that there is nothing.
        self._maybe_cut.append(link)

    def shut(self, link: bytes, linger_ms: int = 100) -> None:
        """Close a link that was dialled; ``linger_ms`` lets a goodbye leave."""
        dealer = self._dealers.pop(link, None)
        if dealer is None:
            return
        for fd in [fd for fd, name in self._names.items() if name == link]:
            del self._names[fd]
            self._monitored.pop(fd, None)
            self._poll.unregister(fd)
        self.fds = tuple(self._names)
        self._ready.pop(link, None)
        dealer.close(linger_ms)

    def look(self) -> None:
        """Find out where there may be something."""
        for fd, _ in self._poll.poll(0):
            if self._names[fd] == _MONITOR:
                continue
            if fd in self._monitored:
                self._maybe_cut.append(self._monitored[fd])
            else:
                self._ready[self._names[fd]] = None

    def take_cut(self) -> list[bytes]:
        """Links that were cut since the last time."""
        if not self._maybe_cut:
            return []
        looked, self._maybe_cut = self._maybe_cut, []
        found = []
        for name in looked:
            dealer = self._dealers.get(name)
            if dealer is not None and dealer.was_cut():
                found.append(name)
        return found

    def was_cut(self) -> bool:
        """Whether a connection to the listener was cut since the last time."""
        monitor = self._monitor
        is_cut = False
        while monitor is not None and int(monitor.getsockopt(_EVENTS)) & _POLLIN:
            recv_monitor_message(monitor, zmq.NOBLOCK)
            is_cut = True
        return is_cut

    def _socket_of(self, name: bytes) -> zmq.Socket[bytes]:
        router = self._routers.get(name)
        return self._dealers[name].socket if router is None else router

    def has_input(self) -> bool:
        """Whether ``receive`` has something, where ``look`` or a send has looked."""
        for name in list(self._ready):
            socket = self._socket_of(name)
            if int(socket.getsockopt(_EVENTS)) & _POLLIN:
                return True
            del self._ready[name]
        return False

    def receive(self) -> tuple[bytes, list[Payload]] | None:
        """The next message, as its link and its parts, large ones as views; None: there is none.

        Links take turns: one that is never empty does not keep the others waiting.
        """
        ready = self._ready
        while ready:
            name = next(iter(ready))
            del ready[name]
            socket = self._socket_of(name)
            if not int(socket.getsockopt(_EVENTS)) & _POLLIN:  # cheaper than to be refused
                continue
            parts = _receive(socket, _VIEWED_BYTES)
            ready[name] = None
            return (name + parts[0], parts[1:]) if name in self._routers else (name, parts)
        return None

    def send(self, link: bytes, parts: Sequence[bytes]) -> str:
        """Try to send; return "" or why it was not: ``full`` or ``gone``."""
        dealer = self._dealers.get(link)
        try:
            if dealer is not None:
                self._ready[link] = None  # sending takes the news of what came meanwhile
                _send(dealer.socket, parts)
            elif (router := self._routers.get(link[:1])) is not None:
                self._ready[link[:1]] = None
                router.send(link[1:], _NOW_MORE)
                _send(router, parts)
        except zmq.ZMQError as error:
            return _why_unsent(error)
        return ""

    def close(self) -> None:
        """Close every link; goodbyes have 100 ms to leave."""
        for link in list(self._dealers):
            self.shut(link)
        self.fds = ()
        if self._monitor is not None:
            self._router.disable_monitor()
            self._monitor.close(0)
        else:
            self._inside.leave(self.urls)
        for router in self._routers.values():
            router.close(100)
        self._context.term()
