"""``meshmq link verify`` against one-bit differences: ``python -m tests.chaos.link_verify``.

Two sites of a real node each mirror each other's records. Bits are flipped in the files of either
node, each in a batch of its own: half of them while both nodes are stopped, in whatever file holds
the record; the others while both run and a program publishes, in the files of large commits. Each
must be named by ``link verify``, with its topic, offset and side, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import meshmq
from tests.bench import about
from tests.integration.sites import SiteProcess

LARGE, SMALL = 20_000, 400
Planted = dict[tuple[str, int], str]
"""By topic and offset the site whose bytes are wrong."""


class Site:
    """One node of a site, and what it published."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.config = directory / f"{name}.toml"
        self.config.write_text("")
        more = ("--site", name, "--config", str(self.config))
        self.node = SiteProcess(directory / name, f"{name}-1", (), *more)

    def link(self, other: Site) -> None:
        """Pull from the other one."""
        text = f'[[link]]\nto = "{other.name}"\nendpoints = ["{other.node.nodes_url}"]\n'
        self.config.write_text(f'{text}topics = ["data.>", "live.>"]\n')
        self.node.signal(signal.SIGHUP)

    def publish(self, count: int, rng: random.Random) -> dict[tuple[str, int], bytes]:
        """Records with a batch each, half of them large, that the other site has: by offset."""
        values, receipts = {}, []
        with meshmq.connect(self.node.url, route="node") as mesh:
            for i in range(count):
                size = LARGE if i % 2 else SMALL
                value = f"<{self.name} {i:06d}>".encode() + rng.randbytes(size)
                topic = f"data.{self.name}.{'large' if i % 2 else 'small'}"
                some = mesh.publish_many(topic, [value], durability="mirrored:1")
                receipts.append((topic, value, some))
            for topic, value, some in receipts:
                offset = some.wait(120)[0].offset
                assert offset is not None
                values[topic, offset] = value
        return values

    def flip(self, value: bytes, rng: random.Random) -> bool:
        """One bit of a record in a file; whether it was found."""
        mark = value[:64]
        for path in sorted((self.node.data).rglob("*")):
            if path.name not in ("values.bin", "cache.db"):
                continue
            at = path.read_bytes().find(mark)
            if at >= 0:
                place = at + rng.randrange(len(mark))
                with path.open("r+b") as file:
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    file.write(bytes([byte ^ 1 << rng.randrange(8)]))
                return True
        return False


def plant(
    sites: tuple[Site, Site], records: dict[tuple[str, int], bytes],
    names: list[tuple[str, int]], rng: random.Random,
) -> Planted:  # fmt: skip
    """Flip a bit of each, at one of the sites."""
    planted = {}
    for name in names:
        site = rng.choice(sites)
        if site.flip(records[name], rng):
            planted[name] = site.name
    return planted


def verify(site: Site, other: Site) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """What it names at one site, its sum, and how long it took."""
    argv = [sys.executable, "-m", "meshmq", "link", "verify", other.name, "--json"]
    began = time.monotonic()
    done = subprocess.run(
        [*argv, "--url", site.node.url], capture_output=True, text=True, check=False, timeout=1800
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows, done.stderr
    assert rows[-1].get("done"), f"{rows[-1]} {done.stderr}"
    return rows[:-1], rows[-1], time.monotonic() - began


def judge(planted: Planted, rows: list[dict[str, Any]], site: Site) -> dict[str, int]:
    """How many were found, and what else was named."""
    named = {}
    for row in rows:
        here, there = row["here"] == "damaged", row["there"] == "damaged"
        other = "us" if site.name == "eu" else "eu"
        side = "both" if here and there else site.name if here else other if there else "?"
        named[row["topic"], row["offset"]] = side
    return {
        "planted": len(planted),
        "found": sum(named.get(name) == side for name, side in planted.items()),
        "named_besides": len(named.keys() - planted.keys()),
        "mended": sum(bool(row["mended"]) for row in rows),
    }


def play(count: int, seed: int, directory: Path) -> dict[str, Any]:
    """Plant so many, and verify."""
    rng = random.Random(seed)
    eu, us = sites = Site(directory, "eu"), Site(directory, "us")
    eu.link(us)
    us.link(eu)
    each = count
    records = eu.publish(each, rng) | us.publish(each, rng)
    clean, total, seconds = verify(eu, us)
    assert not clean, clean
    result: dict[str, Any] = {
        "records": total["records"], "bytes": total["bytes"], "clean_s": round(seconds, 2)
    }  # fmt: skip
    names = sorted(records)
    rng.shuffle(names)

    for site in sites:
        assert site.node.stop() == 0, site.node.told
    stopped = plant(sites, records, names[: count // 2], rng)
    for site in sites:
        site.node.start()
    rows, _, seconds = verify_when_linked(eu, us)
    result["stopped"] = judge(stopped, rows, eu) | {"seconds": round(seconds, 1)}

    over = threading.Event()
    publishing = threading.Thread(target=publish_on, args=(eu, over))
    publishing.start()
    try:
        rest = [name for name in names if name[0].endswith("large") and name not in stopped]
        live = plant(sites, records, rest[: count - len(stopped)], rng)
        rows, _, seconds = verify(us, eu)
    finally:
        over.set()
        publishing.join()
    rows = [row for row in rows if (row["topic"], row["offset"]) not in stopped]  # small commits
    result["live"] = judge(live, rows, us) | {"seconds": round(seconds, 1)}
    again, _, seconds = verify(eu, us)
    result["left"] = sum((row["topic"], row["offset"]) not in stopped for row in again)
    for site in sites:
        assert site.node.stop() == 0, site.node.told
    return result


def verify_when_linked(
    site: Site, other: Site
) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """Once both have told each other of their logs."""
    deadline = time.monotonic() + 60
    while True:
        with meshmq.connect(site.node.url, route="node") as mesh:
            links = mesh.admin.status()["site"]["links"]
        if links and links[0]["logs"] and links[0]["nodes"]:
            time.sleep(1)
            return verify(site, other)
        assert time.monotonic() < deadline, links
        time.sleep(0.2)


def publish_on(site: Site, over: threading.Event) -> None:
    """Live traffic."""
    with meshmq.connect(site.node.url, route="node") as mesh:
        while not over.wait(0.01):
            mesh.publish_many("live.a", [bytes(1000)] * 20).wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description="One-bit differences between two sites.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="directory for the results as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = play(options.count, options.seed, Path(directory))
    head = {"what": "link-verify", "commit": about.commit(), "date": about.date()}
    result = {**head, "seed": options.seed, **found}
    print(json.dumps(result, indent=1), flush=True)
    about.keep("link-verify", result, options.out)
    parts = (found["stopped"], found["live"])
    is_short = sum(part["planted"] for part in parts) < options.count
    wrong = [p for p in parts if p["found"] != p["planted"] or p["named_besides"]]
    if is_short or wrong or found["left"]:
        sys.exit("link-verify: not each planted bit was named, or something else was")


if __name__ == "__main__":
    main()
