"""Whether what is said of a peer can be true at all. Anybody may say anything.

Hints come from mDNS and from peers that tell of others; neither is proof of anything, and the
handshake decides. What is absurd is not even dialled.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from meshmq import limits
from meshmq.errors import InvalidName
from meshmq.frames import PeerFacts
from meshmq.names import check_mesh

KINDS = ("node", "client")
LOCAL_MESH = "local"


def fault_of(facts: PeerFacts, mesh: str, on_host: bool) -> str:
    """Why ``facts`` are of no use to a member of ``mesh``, in a word for a counter; or "".

    ``other-mesh`` is no fault of theirs; all other words are. ``on_host``: it does not leave the
    host.
    """
    if len(facts.instance) != 16:
        return "bad-instance"
    if facts.kind not in KINDS:
        return "bad-kind"
    if len(facts.name) > limits.PEER_NAME_MAX or not (facts.name.isprintable() or not facts.name):
        return "bad-name"
    if not (0 <= facts.major < 1 << 16 and 0 <= facts.minor < 1 << 16):
        return "bad-version"
    try:
        check_mesh(facts.mesh)
    except InvalidName:
        return "bad-mesh"
    if facts.mesh != mesh:
        return "other-mesh"
    if not facts.addresses:
        return "no-address"
    if len(facts.addresses) > limits.PEER_ADDRESSES_MAX:
        return "too-many-addresses"
    for address in facts.addresses:
        fault = address_fault(address, on_host)
        if fault:
            return fault
    return ""


def address_fault(address: str, on_host: bool) -> str:
    """Why nobody should dial ``address``, which others told, in a word; or "".

    Only literal IP addresses: a name would have to be asked for, at whoever forged it.
    """
    if len(address) > limits.PEER_ADDRESS_BYTES_MAX:
        return "address-too-long"
    if not address.isascii() or not address.isprintable():
        return "bad-address"
    if address.startswith("ipc:///"):
        return "" if len(address) > len("ipc:///") else "bad-address"
    try:
        parts = urlsplit(address)
        port = parts.port
        host = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        is_port = address.startswith("tcp://") and _is_bad_port(address)
        return "bad-port" if is_port else "bad-address"
    if parts.scheme != "tcp" or parts.path or parts.query or parts.fragment or parts.username:
        return "bad-address"
    if not port:
        return "bad-port"
    if host.is_unspecified or host.is_multicast or (host.is_reserved and not host.is_loopback):
        return "bad-address"
    if on_host and not host.is_loopback:
        return "not-local"
    return ""


def _is_bad_port(address: str) -> bool:
    port = address.rpartition(":")[2]
    return not (port.isdigit() and 0 < int(port[:6]) < 1 << 16)
