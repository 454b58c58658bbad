"""Links between sites, over a relay: ``python -m tests.bench.links throughput|catchup|thin``.

``throughput``: how fast a site mirrors the past of another one at round trips of 1 to 200 ms, on a
line without loss that carries 1.8 GB/s. With ``--plot FILE`` the table as a picture (SVG).
``catchup``: how fast a new site has five million records, against the fastest live publishing to
the same node, both anew in each run; and what publishing at half of that keeps while another new
site does the same.
``thin``: a line of 1 Mbit/s, ten times as much to send as fits, for ten minutes: how late records
of a topic that goes first are, and whether a link is ever taken for a dead one.

Sites are a node each, on loopback; values are 100 B, random ones where the line is thin. All is
bounded in time; it ends with an error where a goal is missed, and says by how much.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import meshmq
from meshmq.bench.procs import Team
from meshmq.testing.relay import Relay
from tests.bench import about, report
from tests.bench.link_plot import plot
from tests.bench.link_sites import LinkedNode, Watch, mirrored, publish_all

SIZE = 100
BOUND_S = 180.0  # for one site to have all
SHARE_AT_200_MS, LIVE_SHARE, PRIORITY_LAG_S = 0.8, 0.85, 2.0


# -- throughput ------------------------------------------------------------------------------------


def throughput(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Mirror the same past at each round trip, in another order each time."""
    chance = random.Random(options.seed)
    rates: dict[int, list[float]] = {ms: [] for ms in options.round_trips}
    with Team(options.dir) as team:
        eu = LinkedNode(team, "eu")
        live = options.records / publish_all(eu.url, "bench.a", options.records, SIZE)
        for _ in range(options.runs):
            for ms in chance.sample(options.round_trips, len(options.round_trips)):
                rates[ms].append(_mirror_once(team, eu, ms / 2000, options.records)[0])
                print(f"{ms} ms: {rates[ms][-1]:,.0f} records/s", flush=True)
    rows = [
        {"round_trip_ms": ms, "median": round(statistics.median(found)),
         "lowest": round(min(found)), "highest": round(max(found)),
         "megabytes_s": round(statistics.median(found) * SIZE / 1e6, 1)}
        for ms, found in rates.items()
    ]  # fmt: skip
    first, last = rows[0], rows[-1]
    share = round(last["median"] / first["median"], 3)
    result = {"records": options.records, "size": SIZE, "runs": options.runs,
              "published_s": round(live), "rows": rows, "share": share}  # fmt: skip
    if options.plot:
        options.plot.write_text(plot(rows, SHARE_AT_200_MS), encoding="utf-8")
    wrong = []
    if share < SHARE_AT_200_MS:
        wrong.append(
            f"at {last['round_trip_ms']} ms it is {share:.2f} of the figure at "
            f"{first['round_trip_ms']} ms, the goal is {SHARE_AT_200_MS}"
        )
    return result, wrong


def _mirror_once(team: Team, eu: LinkedNode, delay_s: float, total: int) -> tuple[float, float]:
    """A new site mirrors all: records a second, and seconds."""
    with Relay(delay_s) as relay:
        us = LinkedNode(team, "us")
        try:
            us.pull("eu", relay.to(eu.nodes_url), ["bench.>"])
            return Watch(us.url, "eu", total, 0.1, BOUND_S).rate()
        finally:
            team.stop(us.process)


# -- catching up -----------------------------------------------------------------------------------


def catchup(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Live publishing alone, catching up alone, some times; then both."""
    delay_s = options.round_trip / 2000
    lives, rates = [], []
    with Team(options.dir) as team:
        for left in reversed(range(options.runs)):
            eu = LinkedNode(team, "eu")
            lives.append(options.records / publish_all(eu.url, "bench.a", options.records, SIZE))
            rate, seconds = _mirror_once(team, eu, delay_s, options.records)
            rates.append(rate)
            print(f"live publishing: {lives[-1]:,.0f} records/s; catching up: {rate:,.0f} "
                  f"records/s, {seconds:.1f} s in all", flush=True)  # fmt: skip
            if left:
                team.stop(eu.process)
        live, rate = statistics.median(lives), statistics.median(rates)
        paced = Paced(eu.url, "bench.live", live / 2)
        time.sleep(options.alone)
        alone = paced.mark()
        beside_rate, beside_s = _mirror_once(team, eu, delay_s, options.records)
        beside = paced.mark()
        paced.close()
    kept = round(beside / alone, 3)
    print(f"live at half: {alone:,.0f} alone, {beside:,.0f} beside: {kept:.2f}", flush=True)
    result = {
        "records": options.records, "size": SIZE, "round_trip_ms": options.round_trip,
        "runs": options.runs, "live_s": round(live), "catching_up_s": round(rate),
        "lives_s": [round(found) for found in lives], "catchings_up_s": [round(r) for r in rates],
        "ratio": round(rate / live, 3), "half_wished_s": round(live / 2),
        "half_alone_s": round(alone), "half_beside_s": round(beside), "kept": kept,
        "catching_up_beside_s": round(beside_rate), "seconds_beside": round(beside_s, 2),
    }  # fmt: skip
    wrong = []
    if rate < live:
        wrong.append(f"catching up is {rate / live:.2f} of live publishing, the goal is 1")
    if kept < LIVE_SHARE:
        wrong.append(f"live publishing keeps {kept:.2f}, the goal is {LIVE_SHARE}")
    return result, wrong


class Paced(threading.Thread):
    """Publishes at a rate, as far as the node takes it."""

    def __init__(self, url: str, topic: str, rate: float) -> None:
        super().__init__(name="paced", daemon=True)
        self._url, self._topic, self._rate = url, topic, rate
        self._stop_it = threading.Event()
        self._confirmed, self._marked = 0, (time.monotonic(), 0)
        self.start()

    def run(self) -> None:
        values = [bytes(SIZE)] * 1000
        with meshmq.connect(self._url, route="node", timeout=60) as mesh:
            due = time.monotonic()
            under_way: list[Any] = []
            while not self._stop_it.is_set():
                under_way.append(mesh.publish_many(self._topic, values))
                if len(under_way) > 200:  # more are under way nowhere
                    under_way.pop(0).wait(60)
                    self._confirmed += len(values)
                # What is late is not made up for: the rate is what it is to keep.
                due = max(due + len(values) / self._rate, time.monotonic() - 0.1)
                self._stop_it.wait(max(0.0, due - time.monotonic()))

    def mark(self) -> float:
        """Records a second confirmed since the last mark."""
        (at, count), now = self._marked, (time.monotonic(), self._confirmed)
        self._marked = now
        return (now[1] - count) / (now[0] - at)

    def close(self) -> None:
        self._stop_it.set()
        self.join()


# -- a thin line -----------------------------------------------------------------------------------


def thin(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Ten times as much as fits, and a topic that goes first."""
    chance = random.Random(options.seed)
    with Team(options.dir) as team, Relay(options.round_trip / 2000, options.rate) as relay:
        eu, us = LinkedNode(team, "eu"), LinkedNode(team, "us")
        more = {
            "priority": ["audit.>"],
            **({"bytes_per_second": options.budget} if options.budget else {}),
        }
        us.pull("eu", relay.to(eu.nodes_url), ["audit.>", "bulk.>"], **more)
        reader = _Late(us.url)
        end = time.monotonic() + 60 * options.minutes
        sent = _publish_thin(eu.url, 10 * options.rate, end, chance)
        time.sleep(5)
        reader.close()
        with meshmq.connect(us.url, route="node", timeout=30) as mesh:
            came, behind = mirrored(mesh, "eu")
        stats = relay.stats()
    lags = sorted(late for _, late in reader.late)
    minutes = [
        {"minute": minute, "records": len(found), "median_s": round(statistics.median(found), 3),
         "max_s": round(max(found), 3)}
        for minute, found in _by_minute(reader.late)
    ]  # fmt: skip
    result = {
        "rate": options.rate, "round_trip_ms": options.round_trip, "minutes": options.minutes,
        "budget": options.budget, "published": sent, "priority_came": len(lags), "came": came,
        "behind": behind, "carried": stats["carried"], "connections_made": stats["accepted"],
        "connections_at_last": stats["connections"],
        "lag_s": {"min": round(lags[0], 3), "median": round(statistics.median(lags), 3),
                  "p99": round(lags[int(len(lags) * 0.99)], 3), "max": round(lags[-1], 3)},
        "by_minute": minutes,
    }  # fmt: skip
    wrong = []
    if lags[-1] >= PRIORITY_LAG_S or len(lags) < sent["audit.a"]:
        wrong.append(
            f"{len(lags)} of {sent['audit.a']} priority records came, the latest {lags[-1]:.2f} s "
            f"late, the goal is all of them within {PRIORITY_LAG_S} s"
        )
    if stats["accepted"] != stats["connections"]:
        wrong.append(f"the sites linked again: {stats['accepted']} connections were made")
    return result, wrong


def _publish_thin(url: str, rate: float, end: float, chance: random.Random) -> dict[str, int]:
    """Random values at so many bytes a second, and ten small ones a second of the other topic."""
    values = [chance.randbytes(1000) for _ in range(256)]
    sent = {"audit.a": 0, "bulk.a": 0}
    with meshmq.connect(url, route="node", timeout=60) as mesh:
        due = time.monotonic()
        per_step = int(rate / 10 / 1000)
        while time.monotonic() < end:
            mesh.publish_many("bulk.a", chance.sample(values, min(256, per_step)))
            mesh.publish("audit.a", b"%.6f" % time.monotonic())
            sent["audit.a"] += 1
            sent["bulk.a"] += min(256, per_step)
            due += 0.1
            time.sleep(max(0.0, due - time.monotonic()))
        mesh.flush(60)
    return sent


class _Late(threading.Thread):
    """Reads the topic that goes first, and how late each record is."""

    def __init__(self, url: str) -> None:
        super().__init__(name="late", daemon=True)
        self._url, self._stop_it, self._ready = url, threading.Event(), threading.Event()
        self.late: list[tuple[float, float]] = []
        self.start()
        self._ready.wait(30)

    def run(self) -> None:
        begin = time.monotonic()
        with (
            meshmq.connect(self._url, route="node", timeout=30) as mesh,
            mesh.subscribe("audit.>", start="earliest") as sub,
        ):
            self._ready.set()
            while not self._stop_it.is_set():
                for message in sub.fetch(100, timeout=0.2):
                    now = time.monotonic()
                    self.late.append((now - begin, now - float(message.value)))

    def close(self) -> None:
        self._stop_it.set()
        self.join()


def _by_minute(late: list[tuple[float, float]]) -> Iterator[tuple[int, list[float]]]:
    found: dict[int, list[float]] = {}
    for at, seconds in late:
        found.setdefault(int(at // 60), []).append(seconds)
    yield from sorted(found.items())


# -- the command -----------------------------------------------------------------------------------

COMMANDS = {"throughput": throughput, "catchup": catchup, "thin": thin}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.links", description=__doc__)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument(
        "--runs", type=int, default=3, help="throughput: at each round trip; catchup"
    )
    parser.add_argument(
        "--round-trips", type=lambda text: [int(word) for word in text.split(",")],
        default=[1, 20, 100, 200], help="throughput: ms, comma between",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, help="throughput: where the picture goes")
    parser.add_argument("--round-trip", type=float, default=20, help="catchup, thin: ms")
    parser.add_argument("--alone", type=float, default=8, help="catchup: s of half alone")
    parser.add_argument("--minutes", type=float, default=10, help="thin")
    parser.add_argument("--rate", type=int, default=125_000, help="thin: bytes/s of the line")
    parser.add_argument("--budget", default="", help="thin: bytes_per_second of the link")
    parser.add_argument("--dir", type=Path, help="where all data go meanwhile")
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    found, wrong = COMMANDS[options.what](options)
    result = {"what": f"links {options.what}", "date": about.date(), "commit": about.commit(),
              "seed": options.seed, "machine": about.machine(Path.cwd()), **found,
              "missed": wrong}  # fmt: skip
    about.keep(f"links-{options.what}", result, options.out)
    for name, value in found.items():
        print(f"{name:22} {value}")
    for line in wrong:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(report.run(main))
