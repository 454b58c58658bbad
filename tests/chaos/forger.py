"""Tells lies by mDNS: ``python -m tests.chaos.forger 10.77.0.3 shop 20 [instance ...]``.

It says them from the interface of that address, for so many seconds: records that cannot be true,
of members that are not there, of one that comes and goes, of the given instances (that they are
elsewhere, that they are gone), and a flood of new names.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace
from typing import Any

from zeroconf import DNSOutgoing, ServiceInfo
from zeroconf.const import _FLAGS_AA, _FLAGS_QR_RESPONSE

from meshmq.frames import PeerFacts
from meshmq.shell.discovery import SERVICE, service_info
from meshmq.shell.interfaces import GROUP, PORT

FLOOD_COUNT = 4000  # names of the flood
BURST = 40  # packets at a time, and then a pause: some 6,000 a second
PAUSE_S = 0.005


def facts(mesh: str, port: int = 1001, **other: Any) -> PeerFacts:
    addresses = other.pop("addresses", (f"tcp://127.0.0.1:{port}",))
    return PeerFacts(
        os.urandom(16), other.pop("kind", "client"), mesh, addresses=addresses, **other
    )


def records(info: ServiceInfo, ttl: int | None = None) -> list[bytes]:
    """The packets of a response that nobody asked for."""
    out = DNSOutgoing(_FLAGS_QR_RESPONSE | _FLAGS_AA)
    for record in (
        info.dns_pointer(ttl), info.dns_service(ttl), info.dns_text(ttl), *info.dns_addresses(ttl)
    ):  # fmt: skip
        out.add_answer_at_time(record, 0)
    return out.packets()


def forged(mesh: str, **changes: Any) -> ServiceInfo:
    """A record with something wrong with it."""
    info = service_info(facts(mesh))
    text = {
        k: v for k, v in info.properties.items() if k.decode() not in changes.get("without", ())
    }
    text.update({k.encode(): v for k, v in changes.get("text", {}).items()})
    return ServiceInfo(
        SERVICE,
        changes.get("name", info.name),
        port=changes.get("port", 1001),
        server=info.server,
        addresses=[socket.inet_aton(a) for a in changes.get("hosts", ["127.0.0.1"])],
        properties=text,
    )


FORGERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "no instance": ("bad-record", {"without": "i"}),
    "instance is no hex": ("bad-record", {"text": {"i": b"zz"}}),
    "another's name": ("bad-record", {"name": f"{'ab' * 16}.{SERVICE}"}),
    "no mesh": ("bad-record", {"without": "m"}),
    "no version": ("bad-record", {"without": "v"}),
    "version is no number": ("bad-record", {"text": {"v": b"one.two"}}),
    "version is endless": ("bad-record", {"text": {"v": b"1." + b"9" * 200}}),
    "not UTF-8": ("bad-record", {"text": {"n": b"\xff\xfe"}}),
    "steers the terminal": ("bad-name", {"text": {"n": b"\x1b[2J"}}),
    "port 0": ("bad-port", {"port": 0}),
    "not of this host": ("not-local", {"hosts": ["192.0.2.66"]}),
    "many addresses": ("too-many-addresses", {"hosts": [f"127.0.0.{n}" for n in range(1, 40)]}),
    "long path": ("address-too-long", {"text": {"u": b"/" + b"x" * 200}}),
    "relative path": ("bad-address", {"text": {"u": b"etc/passwd"}}),
    "kind": ("bad-kind", {"text": {"k": b"broker"}}),
    "other mesh": ("other-mesh", {"text": {"m": b"test-other"}}),
}


def lies(mesh: str, here: str, instances: list[bytes]) -> list[bytes]:
    """Packets of everything but the flood."""
    said: list[bytes] = []
    for _, changes in FORGERIES.values():
        said += records(forged(mesh, **changes))
    for kind in ("client", "node"):
        for host, port in ((here, 9), ("10.77.0.99", 7001), ("192.0.2.66", 7001), ("127.0.0.1", 9)):
            said += records(
                service_info(facts(mesh, addresses=(f"tcp://{host}:{port}",), kind=kind))
            )
    flapping = service_info(facts(mesh, addresses=(f"tcp://{here}:7001",)))
    said += records(flapping) + records(flapping, ttl=0)
    for instance in instances:
        moved = service_info(
            replace(facts(mesh, addresses=(f"tcp://{here}:9",)), instance=instance)
        )
        said += records(moved) + records(moved, ttl=0)
    return [*said, b"", bytes(12), os.urandom(500), b"\xff" * 9000]


def main() -> None:
    here, mesh, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(here))
    told = lies(mesh, here, [bytes.fromhex(word) for word in sys.argv[4:]])
    ports = [1001 + (n * n % 5000 if n % 2 else 0) for n in range(FLOOD_COUNT)]
    flood = [records(forged(mesh, hosts=[here], port=port))[0] for port in ports]
    print("begins", flush=True)
    until, sent = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        at = sent % len(flood)
        burst = [*flood[at : at + BURST], told[sent // BURST % len(told)]]
        for packet in burst:
            mouth.sendto(packet, (GROUP, PORT))
        sent += len(burst) - 1
        time.sleep(PAUSE_S)
    print(sent, flush=True)


if __name__ == "__main__":
    main()
