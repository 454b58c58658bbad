"""The network interfaces of this host. The only importer of ifaddr."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass

from meshmq import limits

LOOPBACK = "127.0.0.1"
_SIOCGIFFLAGS = 0x8913  # linux/sockios.h
_UP, _LOOPBACK, _MULTICAST = 0x1, 0x8, 0x1000  # net/if.h


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface.

    Attributes:
        name: ``eth0``.
        addresses: of both families, without those that are good on one link only (fe80::).
        is_up, is_loopback, is_multicast: what the system says of it.
    """

    name: str
    addresses: tuple[str, ...]
    is_up: bool
    is_loopback: bool
    is_multicast: bool

    @property
    def ipv4(self) -> tuple[str, ...]:
        """Its IPv4 addresses, which mDNS is spoken from."""
        return tuple(a for a in self.addresses if ":" not in a)


def interfaces() -> list[Interface]:
    """All that have an address, in the system's order."""
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        addresses = []
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            if not ipaddress.ip_address(text).is_link_local or ip.is_IPv4:
                addresses.append(text)
        if addresses:
            found.append(_interface(adapter.name, tuple(addresses)))
    return found


def _interface(name: str, addresses: tuple[str, ...]) -> Interface:
    is_loopback = all(ipaddress.ip_address(a).is_loopback for a in addresses)
    flags = _UP | _MULTICAST | (_LOOPBACK if is_loopback else 0)
    if sys.platform == "linux":
        request = struct.pack("16sH14x", name.encode()[:15], 0)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
            flags = struct.unpack_from("16xH", fcntl.ioctl(any_, _SIOCGIFFLAGS, request))[0]
    return Interface(
        name, addresses, bool(flags & _UP), bool(flags & _LOOPBACK), bool(flags & _MULTICAST)
    )


def multicast_addresses(everywhere: bool) -> list[str]:
    """IPv4 addresses to speak mDNS from: the loopback one, and all others if ``everywhere``."""
    found = [LOOPBACK]
    if everywhere:
        for interface in interfaces():
            if interface.is_up and not interface.is_loopback:
                found += interface.ipv4
    return found


def reachable_at(url: str) -> tuple[str, ...]:
    """Addresses that others may dial to reach what listens at ``url``.

    What listens on all interfaces is reached at each of their addresses, that of the loopback
    one last.
    """
    head, _, port = url.rpartition(":")
    host = head.removeprefix("tcp://").strip("[]")
    if url.startswith("ipc://") and not url.startswith(("ipc:///", "ipc://@")):
        return (f"ipc://{os.path.abspath(url.removeprefix('ipc://'))}",)
    if not url.startswith("tcp://") or host not in ("0.0.0.0", "::", "*"):
        return (url,)
    found = [
        f"tcp://{f'[{a}]' if ':' in a else a}:{port}"
        for interface in interfaces()
        if interface.is_up and not interface.is_loopback
        for a in interface.addresses
        if host == "::" or ":" not in a
    ]
    return (*found[: limits.PEER_ADDRESSES_MAX - 1], f"tcp://{LOOPBACK}:{port}")


GROUP, PORT = "224.0.0.251", 5353
NOT_HEARD, TAKEN, NO_ROUTE, FORBIDDEN = "not-heard", "taken", "no-route", "forbidden"


def usable(addresses: list[str]) -> list[str]:
    """Those of ``addresses`` where mDNS can be heard; OSError, of the last, if there are none.

    zeroconf would leave its sockets open when it fails half-way.
    """
    found = []
    failure: OSError | None = None
    with _ear() as ear:
        for address in addresses:
            try:
                _join(ear, address)
                found.append(address)
            except OSError as error:
                failure = error
    if failure is not None and not found:
        raise failure
    return found


def multicast_fault(address: str, timeout: float = 0.5) -> tuple[str, str]:
    """Ask a question of mDNS from ``address`` and listen for it: what is wrong, in a word and in
    the system's words; two empty ones if it is heard."""
    question = _question(os.urandom(8).hex())
    try:
        with _ear() as ear, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            _join(ear, address)
            mouth.bind((address, 0))
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            mouth.sendto(question, (GROUP, PORT))
            deadline = time.monotonic() + timeout
            while (left := deadline - time.monotonic()) > 0:
                ear.settimeout(left)
                if ear.recv(9000) == question:
                    return "", ""
    except TimeoutError:
        pass
    except OSError as error:
        words = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            return TAKEN, words
        return (FORBIDDEN if error.errno in (errno.EPERM, errno.EACCES) else NO_ROUTE), words
    return NOT_HEARD, ""


def _ear() -> socket.socket:
    """A socket at the port of mDNS, shared as those of others are."""
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        for option in (socket.SO_REUSEADDR, getattr(socket, "SO_REUSEPORT", 0)):
            if option:
                ear.setsockopt(socket.SOL_SOCKET, option, 1)
        ear.bind(("", PORT))
    except OSError:
        ear.close()
        raise
    return ear


def _join(ear: socket.socket, address: str) -> None:
    group = socket.inet_aton(GROUP) + socket.inet_aton(address)
    ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)


def _question(name: str) -> bytes:
    """A question that nobody has an answer to."""
    labels = [name, "_meshmq", "_tcp", "local"]
    encoded = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    return struct.pack(">6H", 0, 0, 1, 0, 0, 0) + encoded + struct.pack(">2H", 12, 1)
