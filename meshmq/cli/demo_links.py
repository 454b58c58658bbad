"""``meshmq demo --sites 2``: sites that mirror each other, and the line between them is cut."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshmq.cli.boundary import CommandError
from meshmq.cli.output import say

if TYPE_CHECKING:
    from meshmq import Mesh
    from meshmq.cli.demo import DemoNode, Flight
    from meshmq.testing.relay import Relay

NAMES = ("eu", "us", "asia", "africa", "oceania")
DELAY_S = 0.04  # one way, as over an ocean
STEPS = 3  # in which the rest is published while the line is cut
TIMEOUT_S = 60.0


@dataclass
class _Site:
    """One site of the demo: its node, a program there, and what that is to publish."""

    name: str
    node: DemoNode
    mesh: Mesh
    flights: list[Flight]
    published: int = 0
    confirmed: int = 0

    def publish(self, share: float) -> None:
        """Publish up to this share of the flights; the site's own node confirms."""
        part = self.flights[self.published : round(share * len(self.flights))]
        receipts = [self.mesh.publish(f.topic, f.value, key=f.key) for f in part]
        self.mesh.flush(TIMEOUT_S)
        self.published += len(part)
        self.confirmed += sum(receipt.durability == "synced" for receipt in receipts)

    def links(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.mesh.admin.status()["site"]["links"]
        return rows

    def has_of(self) -> dict[str, int]:
        """How many records of each other site it has."""
        return {row["to"]: sum(log["received"] for log in row["logs"]) for row in self.links()}


@dataclass
class _Read:
    """All that was read at a site.

    Attributes:
        gaps: records whose offset is not the one behind the last of their stream.
    """

    records: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    checksum: str = ""
    gaps: int = 0


def show_sites(count: int) -> None:
    """``count`` sites of a node each; CommandError if anything is lost, doubled or differs."""
    import meshmq
    from meshmq.cli.demo import DemoNode, read_flights
    from meshmq.testing.relay import Relay

    names, flights = NAMES[:count], read_flights()
    nodes: dict[str, DemoNode] = {}
    with (
        tempfile.TemporaryDirectory(prefix="meshmq-demo-") as folder,
        Relay(DELAY_S) as line,
        contextlib.ExitStack() as stack,
    ):
        configs = {name: Path(folder) / f"{name}.toml" for name in names}
        for name, config in configs.items():
            nodes[name] = DemoNode(Path(folder) / name, f"{name}-1", site=name, config=config)
            stack.callback(nodes[name].stop)
        sites = []
        for i, name in enumerate(names):
            others = {other: nodes[other] for other in names if other != name}
            configs[name].write_text(_links(others, line), encoding="utf-8")
            nodes[name].start()
            mesh = stack.enter_context(meshmq.connect(nodes[name].url, route="node", name=name))
            sites.append(_Site(name, nodes[name], mesh, flights[i::count]))
        _run(sites, line)


def _links(others: dict[str, DemoNode], line: Relay) -> str:
    return "\n".join(
        f'[[link]]\nto = "{name}"\nendpoints = ["{line.to(node.nodes_url)}"]\n'
        f'topics = ["flights.>"]\n'
        for name, node in others.items()
    )


def _run(sites: list[_Site], line: Relay) -> None:
    names = " and ".join(site.name for site in sites)
    say(
        f"1. There are {len(sites)} sites, {names}, and a line between them: {DELAY_S * 2e3:.0f} ms"
    )
    say("   there and back. Each site's node has this of each other one in its settings:")
    say('   [[link]]  to = "us"  endpoints = ["tcp://..."]  topics = ["flights.>"]')
    _wait(sites, lambda site: all(row["state"] == "linked" for row in site.links()))
    say("2. A program at each site publishes real flights, all to the same topics:")
    _publish(sites, 1 / 3)
    _wait_equal(sites)
    _show_lags(sites)
    line.cut()
    say("3. The line is CUT. Each site publishes on, and its own node confirms:")
    for step in range(1, STEPS + 1):
        _publish(sites, (1 + 2 * step / STEPS) / 3)
        _show_lags(sites)
    _wait(sites, lambda site: all(row["state"] != "linked" for row in site.links()))
    say("   Each node has noticed by now, and says so: meshmq link list, meshmq doctor.")
    line.heal()
    began = time.monotonic()
    say("4. The line is HEALED. Each mirror goes on where it was:")
    _wait_equal(sites)
    _show_lags(sites, f" ({time.monotonic() - began:.1f} s later)")
    say("5. Everything is read at each site, and summed up: of each record its site, topic,")
    say("   offset, key and value.")
    total = sum(len(site.flights) for site in sites)
    read = [_read(site.mesh, total) for site in sites]
    for site, one in zip(sites, read, strict=True):
        say(f"   at {site.name:<8} {one.records.total():,} records, sha256 {one.checksum[:16]}")
    _report(sites, read)


def _publish(sites: list[_Site], share: float) -> None:
    for site in sites:
        site.publish(share)


def _wait(sites: list[_Site], is_so: Callable[[_Site], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    for site in sites:
        while not is_so(site):
            if time.monotonic() > deadline:
                raise CommandError(f"in time site {site.name} did not have what it was to have")
            time.sleep(0.05)


def _behind(sites: list[_Site], site: _Site) -> int:
    """How many records it lacks of what the others have published."""
    has = site.has_of()
    return sum(other.published - has[other.name] for other in sites if other is not site)


def _wait_equal(sites: list[_Site]) -> None:
    _wait(sites, lambda site: _behind(sites, site) <= 0)


def _show_lags(sites: list[_Site], more: str = "") -> None:
    lags = ",  ".join(f"{site.name} {_behind(sites, site):,}" for site in sites)
    say(f"   {sum(site.published for site in sites):>7,} published, behind are  {lags}{more}")


def _read(mesh: Mesh, total: int) -> _Read:
    """All there is at a site, in the order of streams, since sites put streams together as it
    comes."""
    found, streams = _Read(), dict[tuple[str, str], list[tuple[int, bytes, bytes]]]()
    with mesh.subscribe("flights.>", start="earliest") as subscription:
        while more := subscription.fetch(
            10_000, timeout=2.0 if found.records.total() < total else 0.3
        ):
            for m in more:
                found.records[m.topic, m.value] += 1
                row = (-1 if m.offset is None else m.offset, m.key or b"", m.value)
                streams.setdefault((m.site or "", m.topic), []).append(row)
    digest = hashlib.sha256()
    for (site, topic), rows in sorted(streams.items()):
        found.gaps += sum(offset != i for i, (offset, _, _) in enumerate(rows))
        digest.update(f"{site} {topic} {len(rows)}\n".encode())
        for _, key, value in rows:
            digest.update(key + b"\t" + value + b"\n")
    found.checksum = digest.hexdigest()
    return found


def _report(sites: list[_Site], read: list[_Read]) -> None:
    want = Counter((f.topic, f.value) for site in sites for f in site.flights)
    lost = sum(sum((want - one.records).values()) for one in read)
    doubled = sum(sum((one.records - want).values()) for one in read)
    gaps = sum(one.gaps for one in read)
    confirmed = sum(site.confirmed for site in sites)
    equal = len({one.checksum for one in read}) == 1
    say("")
    for name, figure in (
        ("published", f"{sum(want.values()):,}"),
        ("confirmed", f"{confirmed:,}"),
        ("lost", f"{lost:,}"),
        ("duplicated", f"{doubled:,}"),
        ("offsets that differ", f"{gaps:,}"),
        ("sites are equal", "yes" if equal else "NO"),
    ):
        say(f"   {name:<20} {figure}")
    say("")
    if lost or doubled or gaps or not equal or confirmed != sum(want.values()):
        raise CommandError("the demo's sites are not equal: please report this")
    say("Next: examples/two_sites, the same by hand in two terminals; docs/links.md.")
