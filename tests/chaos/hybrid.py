"""Programs that have a node and talk directly: ``python -m tests.chaos.hybrid --rounds 3``.

Publisher, subscriber, client and service are a process each, attached to a node that introduces
them. Once they talk directly:

``stopped``, ``killed``: the node's process is stopped for some seconds, then goes on, or is killed
and after as long started again. Transient records and requests go on without a gap; durable
publishing resumes by itself, and all that was confirmed is there.
``both-ways``, ``one-way``: the two sides are on two hosts, the node on a third, and a firewall rule
cuts the path between the two. What they say goes through the node within 1 s, requests that may be
repeated all succeed, and what was lost on the way is counted exactly; once the rule is gone they
talk directly again. It needs root, ``ip`` and ``nft``.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import meshmq
from tests.bench import about
from tests.chaos.hosts import MESH, Network, address, why_not
from tests.chaos.power import Node
from tests.chaos.soak import child

LIVE, KEPT, SERVICE = "live.x", "kept", "where"
GAP_S = 0.5  # between two of 50 records a second: no more is a pause of the machine
MOVED_S = 1.0  # until what goes directly no more goes through the node
PAUSE_S = 2.0  # until it comes, with the second that one waits for what the old route still brings
AGAIN_S = 30.0  # until programs talk directly, the first time and again

PUBLISHER = """
import json, queue, sys, threading, time
import meshmq
options, rate = json.loads(sys.argv[1]), float(sys.argv[2])
stop, ask = threading.Event(), threading.Event()
kept, confirmed, live, routes, refused = queue.SimpleQueue(), [], 0, [], []
def keep():
    n = 0
    while not stop.is_set():
        kept.put((n, mesh.publish("kept", b"%d" % n)))
        n += 1
        time.sleep(1 / rate)
    kept.put(None)
def confirm():
    while (one := kept.get()) is not None:
        n, receipt = one
        try:
            receipt.wait(60)
        except meshmq.MeshError as error:
            refused.append([n, str(error)])
        else:
            confirmed.append([n, time.monotonic()])
def publish_live(end=b""):
    global live
    receipt = mesh.publish("live.x", b"%d %d %s" % (live, time.monotonic_ns(), end))
    live += 1
    return receipt
def look():
    # Which way they went: asked beside the loop, which must not wait.
    while (receipt := sampled.get()) is not None:
        now = time.monotonic()
        try:
            receipt.wait(60)
        except meshmq.MeshError as error:
            refused.append(["live", str(error)])
        else:
            if not routes or routes[-1][1] != receipt.route:
                routes.append([now, receipt.route])
                print(json.dumps(routes[-1]), flush=True)
sampled = queue.SimpleQueue()
with meshmq.connect(**options, name="publisher") as mesh:
    print("ready", flush=True)
    threads = [threading.Thread(target=f) for f in (keep, confirm, look)]
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    for thread in threads:
        thread.start()
    due = time.monotonic()
    while not stop.is_set():
        sampled.put(publish_live())
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
    sampled.put(None)
    for thread in threads:
        thread.join()
    for _ in range(10):  # one at least comes
        publish_live(b"end").wait(10)
        time.sleep(0.1)
print(json.dumps({"confirmed": confirmed, "refused": refused, "routes": routes}), flush=True)
"""

SUBSCRIBER = """
import json, sys, time
import meshmq
numbers, times = [], []
with meshmq.connect(**json.loads(sys.argv[1]), name="subscriber") as mesh:
    with mesh.subscribe("live.*") as sub:
        print("ready", flush=True)
        while True:
            (message,) = sub.fetch(1, timeout=120)
            number, sent, *end = message.value.split()
            if end:
                break
            numbers.append(int(number))
            times.append([time.monotonic(), int(sent) / 1e9])
        print(json.dumps({
            "received": len(numbers), "missed": sub.missed, "published": int(number),
            "in_order": all(a < b for a, b in zip(numbers, numbers[1:])), "times": times,
        }), flush=True)
"""

CLIENT = """
import json, sys, threading, time
import meshmq
options, rate, service = json.loads(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
stop, asked, failed, route = threading.Event(), [], [], None
with meshmq.connect(**options, name="client") as mesh:
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    n = 0
    while not stop.is_set():
        begin = time.monotonic()
        try:
            reply = mesh.request(service, b"%d" % n, timeout=10, idempotent=True)
            assert reply.value == b"%d" % n
        except meshmq.MeshError as error:
            failed.append([begin, type(error).__name__, str(error)])
        else:
            asked.append([begin, time.monotonic()])
            if reply.route != route:
                route = reply.route
                print(json.dumps([time.monotonic(), route]), flush=True)
        n += 1
        time.sleep(max(0.0, begin + 1 / rate - time.monotonic()))
print(json.dumps({"asked": asked, "failed": failed}), flush=True)
"""

SERVES = """
import json, sys
import meshmq
with meshmq.connect(**json.loads(sys.argv[1]), name="service") as mesh:
    mesh.serve(sys.argv[2], lambda request: request.value)
    print("ready", flush=True)
    sys.stdin.read()
"""

Start = Callable[..., "subprocess.Popen[str]"]


class Talker:
    """A process that says ``ready``, then each new route with the time, and at its end a report.

    Attributes:
        routes: what it has said of them so far.
        report: set by ``end``.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.routes: list[tuple[float, str]] = []
        self.report: dict[str, Any] = {}
        self._changed: queue.SimpleQueue[None] = queue.SimpleQueue()
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "a program could not begin"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if isinstance(said, list):
                self.routes.append((said[0], said[1]))
            else:
                self.report = said

    def goes(self, route: str, since: float, within: float) -> float | None:
        """Seconds from ``since`` until it goes that way, waited for; None: it does not."""
        while time.monotonic() < since + within:
            later = [at for at, way in self.routes if way == route and at >= since]
            if later:
                return later[0] - since
            if self.routes and self.routes[-1][1] == route:
                return 0.0
            time.sleep(0.02)
        return None

    def end(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._thread.join(90)
        assert self.process.wait(30) == 0, "a program failed"
        return self.report

    def close(self) -> None:
        """It ends now, if it has not; nothing of it stays open."""
        self.process.kill()
        self.process.wait()
        self._thread.join(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Four:
    """Publisher, subscriber, client and service, attached to the node at ``url``.

    Args:
        start: of each side: runs Python.
        options: of each side: for ``connect``.
        rate: records and requests a second.
    """

    def __init__(self, start: tuple[Start, Start], options: tuple[Any, Any], rate: float) -> None:
        here, there = map(json.dumps, options)
        self.service = Talker(start[1]("-c", SERVES, there, SERVICE))
        self.subscriber = Talker(start[1]("-c", SUBSCRIBER, there))
        self.publisher = Talker(start[0]("-c", PUBLISHER, here, rate))
        self.client = Talker(start[0]("-c", CLIENT, here, rate, SERVICE))

    def go(self, route: str, since: float, within: float) -> dict[str, float | None]:
        """When publisher and client have gone over to a route; see ``Talker.goes``."""
        return {
            "records": rounded(self.publisher.goes(route, since, within)),
            "requests": rounded(self.client.goes(route, since, within)),
        }

    def end(self) -> dict[str, Any]:
        """End all, and what they report, together."""
        report = {**self.client.end(), **self.publisher.end()}
        assert self.subscriber.process.wait(60) == 0, "the subscriber failed"
        self.service.end()
        for talker in (self.client, self.publisher, self.subscriber, self.service):
            talker.close()
        return {**report, **self.subscriber.report}


def rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def prepare(url: str, **options: Any) -> None:
    """Make the topics."""
    with meshmq.connect(url, **options) as mesh:
        mesh.admin.topics.create("live.>", durability="transient")
        mesh.admin.topics.create(KEPT)


def longest(times: list[list[float]], begin: float, end: float) -> float:
    """The longest time without one that has come, between the two."""
    came = [begin, *(at for at, *_ in times if begin < at < end), end]
    return max(b - a for a, b in pairwise(came))


def without(report: dict[str, Any], begin: float, end: float) -> dict[str, float]:
    """The longest pauses of records and of replies."""
    answered = [[done] for _, done in report["asked"]]
    return {
        "records": round(longest(report["times"], begin, end), 3),
        "requests": round(longest(answered, begin, end), 3),
    }


def counts(report: dict[str, Any]) -> dict[str, Any]:
    """Of records and requests over the whole run."""
    found = {name: report[name] for name in ("published", "received", "missed", "in_order")}
    failed = Counter(name for _, name, _ in report["failed"])
    return {**found, "requests": len(report["asked"]), "failed": dict(failed)}


# -- the node goes ------------------------------------------------------------------------------


def node_goes(seconds: float, rate: float, kill: bool) -> dict[str, Any]:
    """Stop the node for ``seconds``, and let it go on or kill it for as long again."""
    with tempfile.TemporaryDirectory() as temporary:
        node = Node(Path(temporary) / "data")
        node.start()
        try:
            return _node_goes(node, seconds, rate, kill)
        finally:
            assert node.process is not None
            node.process.send_signal(signal.SIGCONT)
            node.stop()


def _node_goes(node: Node, seconds: float, rate: float, kill: bool) -> dict[str, Any]:
    prepare(node.url)
    options = {"url": node.url, "listen": "tcp://127.0.0.1:*"}

    def start(_: str, code: str, *arguments: object) -> subprocess.Popen[str]:
        return child(code, *arguments, stdin=subprocess.PIPE)

    four = Four((start, start), (options, options), rate)
    met = four.go("direct", time.monotonic(), AGAIN_S)
    time.sleep(1)
    assert node.process is not None
    stopped = time.monotonic()
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    ended = time.monotonic()
    if kill:
        node.process.kill()
        node.process.communicate()
        time.sleep(seconds)
        node.start()
    else:
        node.process.send_signal(signal.SIGCONT)
    back = time.monotonic()
    time.sleep(seconds)
    done = time.monotonic()
    report = four.end()
    confirmed = report["confirmed"]
    late = [at for _, at in confirmed if at > back]
    return {
        "direct_after_s": met,
        "pause_while_stopped_s": without(report, stopped, ended),
        "pause_while_killed_s": without(report, ended, back) if kill else None,
        "pause_once_back_s": without(report, back, done),
        **counts(report),
        "left_direct": sum(stopped < at < back for at, _ in four.publisher.routes),
        "durable": {
            "confirmed": len(confirmed),
            "confirmed_while_it_was_away": sum(stopped + 0.5 < at < back for _, at in confirmed)
            if kill
            else None,
            "refused": len(report["refused"]),
            "resumed_after_s": round(late[0] - back, 3) if late else None,
            **read_back(node.url, [n for n, _ in confirmed]),
        },
    }


def read_back(url: str, confirmed: list[int]) -> dict[str, int]:
    """Compare what was confirmed with what is there."""
    found: list[int] = []
    with meshmq.connect(url) as mesh, mesh.subscribe(KEPT, start="earliest") as sub:
        while batch := sub.fetch(10_000, timeout=1):
            found += [int(message.value) for message in batch]
    times = Counter(found)
    return {
        "read": len(found),
        "missing": sum(times[n] == 0 for n in confirmed),
        "doubled": sum(count > 1 for count in times.values()),
        "out_of_order": sum(a > b for a, b in pairwise(found)),
    }


def faults_of_node_goes(found: dict[str, Any]) -> list[str]:
    """What was not as it should be."""
    faults = faults_of_both(found)
    for name in ("pause_while_stopped_s", "pause_while_killed_s", "pause_once_back_s"):
        pauses = found[name] or {}
        faults += [f"{what}: {name} {s}" for what, s in pauses.items() if s > GAP_S]
    if found["missed"]:
        faults.append(f"{found['missed']} records missed")
    durable = found["durable"]
    for name in ("missing", "doubled", "out_of_order", "refused"):
        if durable[name]:
            faults.append(f"durable: {durable[name]} {name}")
    if durable["resumed_after_s"] is None:
        faults.append("durable publishing did not resume")
    return faults


def faults_of_both(found: dict[str, Any]) -> list[str]:
    faults = []
    if None in found["direct_after_s"].values():
        faults.append("they never talked directly")
    if found["failed"]:
        faults.append(f"requests failed: {found['failed']}")
    if found["received"] + found["missed"] != found["published"]:
        faults.append("received and missed are not what was published")
    if not found["in_order"]:
        faults.append("records out of order")
    return faults


# -- the path goes ------------------------------------------------------------------------------


def path_goes(network: Network, seconds: float, rate: float, both_ways: bool) -> dict[str, Any]:
    """Cut the path between two hosts for ``seconds``; the node is on a third one."""
    one, two, three = network.hosts
    url = f"tcp://{address(3)}:5757"
    options = {"mesh": MESH, "insecure": True}
    with tempfile.TemporaryDirectory() as temporary:
        network.node(three, temporary, "--listen", "tcp://0.0.0.0:5757", "--mesh", MESH,
                     "--insecure", "--no-mdns")  # fmt: skip
        code, _, said = network.run(three, "-c", PREPARE, url, json.dumps(options))
        assert code == 0, said
        sides = tuple({**options, "url": url, "listen": f"tcp://{address(n)}:*"} for n in (1, 2))
        four = Four(
            (lambda *a: network.start(one, *a), lambda *a: network.start(two, *a)),
            (sides[0], sides[1]), rate,
        )  # fmt: skip
        met = four.go("direct", time.monotonic(), AGAIN_S)
        time.sleep(1)
        cut = time.monotonic()
        network.drop(two, 1)
        if both_ways:
            network.drop(one, 2)
        moved = four.go("node", cut, seconds)
        time.sleep(max(0.0, cut + seconds - time.monotonic()))
        healed = time.monotonic()
        network.let_through(two)
        if both_ways:
            network.let_through(one)
        again = four.go("direct", healed, AGAIN_S)
        time.sleep(1)
        done = time.monotonic()
        report = four.end()
        network.end()
    return {
        "direct_after_s": met,
        "by_node_after_s": moved,
        "pause_while_cut_s": without(report, cut, healed),
        "direct_again_after_s": again,
        "pause_once_healed_s": without(report, healed, done),
        **counts(report),
    }


PREPARE = """
import json, sys
from tests.chaos.hybrid import prepare
prepare(sys.argv[1], **json.loads(sys.argv[2]))
"""


def faults_of_path_goes(found: dict[str, Any]) -> list[str]:
    """What was not as it should be."""
    faults = faults_of_both(found)
    for what, seconds in found["pause_while_cut_s"].items():
        if seconds > PAUSE_S:
            faults.append(f"{what}: nothing came for {seconds} s once the path was cut")
    for what, seconds in found["by_node_after_s"].items():
        if seconds is None or seconds > MOVED_S:
            faults.append(f"{what}: by the node after {seconds} s")
    if None in found["direct_again_after_s"].values():
        faults.append("it did not go directly again")
    return faults


CASES = ("stopped", "killed", "both-ways", "one-way")


def one(case: str, seconds: float, rate: float) -> tuple[dict[str, Any], list[str]]:
    """Play a case once: what was found, and what was wrong with it."""
    if case in ("stopped", "killed"):
        found = node_goes(seconds, rate, case == "killed")
        return found, faults_of_node_goes(found)
    with Network(3) as network:
        found = path_goes(network, seconds, rate, case == "both-ways")
    return found, faults_of_path_goes(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Programs with a node that talk directly.")
    parser.add_argument("--only", default=",".join(CASES), help="which, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each cut")
    parser.add_argument("--rate", type=float, default=50, help="records and requests a second")
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    cases = options.only.split(",")
    if {"both-ways", "one-way"} & set(cases) and why_not():
        sys.exit(f"hybrid: {why_not()}")
    result: dict[str, Any] = {
        "what": "hybrid", "commit": about.commit(), "date": about.date(),
        "seconds": options.seconds, "rate": options.rate,
    }  # fmt: skip
    bad = []
    for case in cases:
        result[case] = []
        for _ in range(options.rounds):
            found, faults = one(case, options.seconds, options.rate)
            result[case].append({**found, "faults": faults})
            bad += [f"{case}: {fault}" for fault in faults]
            print(case, json.dumps(result[case][-1]), flush=True)
    about.keep("hybrid", result, options.out)
    if bad:
        sys.exit(f"hybrid: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
