"""The network interfaces of this host. The only importer of ifaddr."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from dataclasses import dataclass
from pathlib import Path

from meshmq import limits

LOOPBACK = "127.0.0.1"
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
        with contextlib.suppress(OSError, ValueError):
            flags = int(Path(f"/sys/class/net/{name}/flags").read_text(), 16)
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
