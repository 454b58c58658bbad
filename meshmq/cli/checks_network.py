"""The doctor's checks of the network: what mDNS can do, who is there, and every dial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from meshmq.cli.findings import FAILURE, OK, WARNING, Finding
from meshmq.cli.output import plural

if TYPE_CHECKING:
    from meshmq.shell.greeting import Greeting
    from meshmq.shell.interfaces import Interface
    from meshmq.shell.search import Search

CLOCK_APART_S = 2.0  # what is sent then, by time, seeks and retention take for older or newer
_EXPECTED = {"sighted", "dials", "failed", "links", "links-lost", "lost", "own", "other-mesh"}
_NOT_MDNS = "give addresses instead: --url, connect(url=...)"


def check_interfaces(mesh: str, insecure: bool) -> Iterator[Finding]:
    """What mDNS can do on each interface that the mesh uses."""
    from meshmq.shell.interfaces import LOOPBACK, Interface, interfaces

    everywhere = insecure and mesh != "local"
    found = interfaces()
    if not any(LOOPBACK in i.addresses for i in found):
        yield check_interface(Interface("lo", (LOOPBACK,), False, True, False))
    for interface in found:
        if everywhere or LOOPBACK in interface.addresses:
            yield check_interface(interface)
        elif not interface.is_loopback:
            why = "mesh local stays on this host" if mesh == "local" else "that needs --insecure"
            yield Finding(
                f"interface {interface.name}", OK,
                f"mesh {mesh} uses {interface.name}", f"not used: {why}",
            )  # fmt: skip


def check_interface(interface: Interface) -> Finding:
    """Whether a question that is asked there by mDNS is heard there."""
    from meshmq.shell import interfaces

    check = f"interface {interface.name}"
    where = ", ".join(interface.addresses)
    tried = f"a question by mDNS from {interface.name} ({where}) comes back"
    if not interface.is_up:
        remedy = f"run 'ip link set {interface.name} up', or connect it"
        return Finding(check, _least(interface), tried, "the interface is down", remedy)
    if not interface.ipv4:
        return Finding(
            check, WARNING, tried, "it has no IPv4 address, and mDNS is spoken by IPv4 here",
            f"give it an IPv4 address, or {_NOT_MDNS}",
        )  # fmt: skip
    if not (interface.is_multicast or interface.is_loopback):
        return Finding(
            check, WARNING, tried, "it does not take multicast, as many VPNs do not",
            f"nobody is found there by mDNS: {_NOT_MDNS}",
        )  # fmt: skip
    for address in interface.ipv4:
        fault, words = interfaces.multicast_fault(address)
        if fault:
            seen, remedy = _MULTICAST_FAULTS[fault]
            if words:
                seen += f" ({words})"
            return Finding(check, _least(interface), tried, seen, remedy)
    return Finding(check, OK, tried, f"mDNS works, from {', '.join(interface.ipv4)}")


def _least(interface: Interface) -> str:
    """Without the loopback one nobody on this host is found; others may be shut on purpose."""
    return FAILURE if interface.is_loopback else WARNING


_MULTICAST_FAULTS = {
    "not-heard": (
        "a question by mDNS does not come back",
        (
            "a firewall drops it: let UDP port 5353 to 224.0.0.251 through, both ways; where that "
            f"cannot be (Docker, cloud networks), {_NOT_MDNS}"
        ),
    ),
    "taken": (
        "another program has UDP port 5353 for itself",
        (
            "find it with 'ss -ulpn sport = 5353'; avahi and systemd-resolved share the port "
            "unless told not to (disallow-other-stacks=no)"
        ),
    ),
    "no-route": (
        "the system cannot send a question by mDNS",
        f"give it a route for multicast ('ip route add 224.0.0.0/4 dev ...'), or {_NOT_MDNS}",
    ),
    "forbidden": (
        "the system forbids a question by mDNS",
        (
            "a firewall or a container's rules reject it: let UDP port 5353 to 224.0.0.251 out, or "
            f"{_NOT_MDNS}"
        ),
    ),
}


def check_discovery(search: Search, mesh: str) -> Iterator[Finding]:
    """What was found by listening for a while, and what was ignored."""
    mdns = search.mdns
    tried = f"mDNS hears of members of mesh {mesh}"
    if mdns.state != "on":
        yield Finding(
            "mdns", FAILURE, tried, mdns.reason or f"it is {mdns.state}",
            f"see the interfaces above; until it works, {_NOT_MDNS}",
        )  # fmt: skip
        return
    found = [row for row in search.peers() if row["instance"]]
    nodes = sum(row["kind"] == "node" and "mdns" in row["sources"] for row in found)
    clients = sum(row["kind"] == "client" for row in found)
    seen = f"{plural(nodes, 'node')} and {plural(clients, 'client')}"
    yield Finding("mdns", OK, tried, seen)
    counters = search.counters()
    others = counters.get("other-mesh", 0)
    if others:
        yield Finding(
            "other meshes", OK, "all that mDNS says is of this mesh",
            f"{plural(others, 'record')} of other meshes; say --mesh to see one",
        )  # fmt: skip
    odd = {reason: n for reason, n in counters.items() if reason not in _EXPECTED}
    if odd:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(odd.items()))
        yield Finding(
            "records", WARNING, "what mDNS says can be true", f"ignored: {reasons}",
            "somebody tells what no meshmq tells, by mistake or on purpose; it does no harm",
        )  # fmt: skip


def check_dials(search: Search, mesh: str, default: str, given: str | None) -> Iterator[Finding]:
    """Every address that was dialled, and whether there is a node at all."""
    greetings = search.greetings
    is_found = any(g.outcome == "answers" for g in greetings.values())
    for address, greeting in sorted(greetings.items()):
        if address == default and address != given and greeting.outcome == "refused":
            continue  # nobody has to be there
        # Where others answer, one who does not is no failure, unless it was asked for.
        matters = address in (given, default) or not is_found
        yield check_dial(greeting, mesh, matters)
    if not is_found and not any(g.outcome == "mesh-mismatch" for g in greetings.values()):
        from meshmq.client.connecting import node_command

        start = node_command(given) if given else "meshmq node"
        yield Finding(
            "node", WARNING, f"there is a node of mesh {mesh}", "none answers",
            f"start one with `{start}`; if it runs on another host, say --url, or --mesh and "
            "--insecure",
        )  # fmt: skip


def check_dial(greeting: Greeting, mesh: str, matters: bool) -> Finding:
    """What came of one dial."""
    check = f"dial {greeting.address}"
    tried = f"a node of mesh {mesh} answers at {greeting.address}"
    if greeting.facts is not None:
        facts = greeting.facts
        seen = (
            f"node {facts.name}, protocol {facts.major}.{facts.minor}, "
            f"{greeting.seconds * 1000:.0f} ms"
        )
        return Finding(check, OK, tried, seen)
    seen, remedy = _DIAL_FAULTS.get(greeting.outcome, ("the node refuses us", "see what it says"))
    if greeting.message:
        seen += f" ({greeting.message})"
    return Finding(check, FAILURE if matters else WARNING, tried, seen, remedy)


_DIAL_FAULTS = {
    "refused": (
        "nobody listens there",
        "start a node there (meshmq node --listen URL), or correct the address",
    ),
    "timed-out": (
        "no connection within 2 s",
        "the host is down, or a firewall drops what is sent to the port: let the port through",
    ),
    "unreachable": (
        "the host cannot be reached",
        "look at the network between here and there, and at the address",
    ),
    "unknown-host": ("nobody knows that name", "correct the name, or give the IP address"),
    "foreign": (
        "the port is taken by a program that is no node",
        (
            "stop that program, or give the node another port: meshmq node --listen "
            "tcp://127.0.0.1:PORT"
        ),
    ),
    "silent": (
        "somebody takes the connection and says nothing",
        (
            "if it is a node, it hangs or is stopped: look at its process; else another program "
            "has the port: give the node another one with --listen"
        ),
    ),
    "not-allowed": ("the socket's path may not be opened", "run as the user that runs the node"),
    "mesh-mismatch": ("a node of another mesh is there", "say --mesh with the node's mesh"),
    "version-mismatch": (
        "the node speaks another version",
        (
            "install the same version of meshmq on both sides; what `meshmq version` says of the "
            "protocol must agree before the dot"
        ),
    ),
}


def check_clock(url: str, mesh: str, insecure: bool, reports: list[dict[str, Any]]) -> Finding:
    """How far the clock of a node is from ours; for one that answers. What else it says of itself
    goes to ``reports``."""
    import meshmq

    check, tried = f"clock {url}", f"the clock of the node at {url} agrees with the one here"
    try:
        with meshmq.connect(
            url, mesh=mesh, insecure=insecure, timeout=2.0, route="node", on_node_loss="wait",
            admin=True,
        ) as connection:  # fmt: skip
            before = time.time()
            status: dict[str, Any] = connection.admin.status()
            after = time.time()
    except meshmq.MeshError as error:
        return Finding(check, WARNING, tried, str(error), "ask again")
    reports.append(status)
    theirs = float(status["wall_time"])
    apart = max(theirs - after, before - theirs, 0.0)
    seen = f"they are {apart:.1f} s apart" if apart > 0.1 else "they agree within 0.1 s"
    if apart <= CLOCK_APART_S:
        return Finding(check, OK, tried, seen)
    remedy = (
        "set both clocks, by NTP at best (timedatectl set-ntp true): seeks by time and retention "
        "go by the node's clock"
    )
    return Finding(check, WARNING, tried, seen, remedy)
