"""Programs without a node, on hosts of their own: ``python -m tests.chaos.network --rounds 5``.

``found``: twenty programs on five hosts start at once, find each other by mDNS, and each gets a
record of each other one within 5 s.
``first``: how long the first record between two programs takes that have just started.
``forged``: while somebody else in the network tells lies by mDNS, programs keep their links and
lose no record, and the doctor says what is going on.

Needs root, ``ip`` and ``nft``.
"""

from __future__ import annotations

import argparse
import json
import select
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from tests.bench import about
from tests.chaos.hosts import MESH, Network, address, why_not

HOSTS, PER_HOST = 5, 4
FOUND_S = 5.0

EACH = """
import json, sys, threading, time
import meshmq
me, count, began, mesh_name = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
connecting = time.monotonic() - began
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
heard, published, due, told, links = {}, 0, 0.0, False, 0
with meshmq.connect(peers=[], mesh=mesh_name, insecure=True, name=me) as mesh:
    connected = time.monotonic() - began
    with mesh.subscribe("hello.*") as sub:
        while not stop.is_set():
            now = time.monotonic()
            if now >= due:
                mesh.publish("hello." + me, b"%d" % published)
                published, due = published + 1, now + 0.2
            for message in sub.fetch(1000, timeout=max(0.01, due - now)):
                other = message.topic.partition(".")[2]
                if other != me:
                    heard.setdefault(other, round(time.monotonic() - began, 3))
            if not told and len(heard) == count - 1:
                told, links = True, len(mesh.peers())
                print("all", flush=True)
    row = {"connecting": round(connecting, 3), "connected": round(connected, 3), "heard": heard,
           "links": links, "published": published, "missed": sub.missed}
print(json.dumps(row), flush=True)
"""


def found(
    network: Network, mesh: str, per_host: int = PER_HOST, wait_s: float = 15
) -> dict[str, Any]:
    """Start all at once; seconds from then on to each ordered pair's first record."""
    names = [(host, f"{i}-{j}") for i, host in enumerate(network.hosts) for j in range(per_host)]
    count, began = len(names), time.monotonic()
    processes = [network.start(host, "-c", EACH, name, count, began, mesh) for host, name in names]
    until = began + wait_s
    rows = []
    waiting = [process.stdout for process in processes]
    while waiting and time.monotonic() < until:
        told, _, _ = select.select(waiting, [], [], 0.2)  # each says one line, before its end
        waiting = [out for out in waiting if out not in told]
    for process in processes:
        out, said = process.communicate("", timeout=30)
        assert process.returncode == 0, said
        rows.append(json.loads(out.splitlines()[-1]))
    pairs = sorted(at for row in rows for at in row["heard"].values())
    return {
        "programs": count,
        "pairs": count * (count - 1),
        "pairs_met": len(pairs),
        "p50_s": statistics.median(pairs),
        "max_s": pairs[-1],
        "connect_called_max_s": max(row["connecting"] for row in rows),
        "connected_max_s": max(row["connected"] for row in rows),
        "links": sum(row["links"] for row in rows),
        "published": sum(row["published"] for row in rows),
        "missed": sum(row["missed"] for row in rows),
    }


ONE = """
import json, sys, threading, time
import meshmq
import meshmq.client.mesh  # what connect() loads the first time; it counts from the start
role, options = sys.argv[1], json.loads(sys.argv[2])
calling = time.monotonic()
with meshmq.connect(name=role, insecure=True, **options) as mesh:
    if role == "subscriber":
        with mesh.subscribe("x") as sub:
            print("ready", flush=True)
            (message,) = sub.fetch(1, timeout=20)
            print(json.dumps([calling, time.monotonic(), int(message.value)]), flush=True)
        sys.stdin.read()
    else:
        print("ready", flush=True)
        stop, n = threading.Event(), 0
        threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
        while not stop.is_set():
            mesh.publish("x", b"%d" % n)
            n += 1
            time.sleep(0.005)
        print(json.dumps([calling]), flush=True)
"""

LISTEN = f"tcp://{address(1)}:7001"


def first(network: Network, way: str, order: tuple[str, str], at_once: bool) -> dict[str, Any]:
    """One round: the first of ``order`` starts (and listens, if it is by ``peers``), then the other
    one; seconds until the subscriber has a record, from the start and from ``connect`` of who was
    later, with the library loaded."""
    mesh = f"{MESH}-{uuid.uuid4().hex[:8]}"
    options: list[dict[str, Any]] = [{"peers": []}, {"peers": []}]
    if way == "peers":
        options = [{"listen": LISTEN}, {"peers": [LISTEN]}]
    processes = {}
    started = 0.0
    for host, role, how in zip(network.hosts, order, options, strict=False):
        started = time.monotonic()
        how["mesh"] = mesh
        process = network.start(host, "-c", ONE, role, json.dumps(how))
        processes[role] = process
        if not at_once:
            assert ready(process)
    subscriber, publisher = processes["subscriber"], processes["publisher"]
    if at_once:
        assert ready(subscriber)
        assert ready(publisher)
    assert subscriber.stdout is not None
    called, came, number = json.loads(subscriber.stdout.readline())
    out, said = publisher.communicate("", timeout=20)
    assert publisher.returncode == 0, said
    subscriber.communicate("", timeout=20)
    network.end()
    (publisher_called,) = json.loads(out.splitlines()[-1])
    return {
        "from_start": came - started,
        "from_connect": came - max(called, publisher_called),
        "is_first": number == 0,
    }


def ready(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "ready\n"


def firsts(network: Network, rounds: int) -> dict[str, Any]:
    """All ways and orders, in turn; p50 and longest of each in ms."""
    ways = [
        (way, order, at_once)
        for way in ("mdns", "peers")
        for order in (("subscriber", "publisher"), ("publisher", "subscriber"))
        for at_once in (True, False)
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for way, order, at_once in ways:
            name = f"{way}: {order[0]}, then {order[1]}, {'at once' if at_once else 'later'}"
            rows.setdefault(name, []).append(first(network, way, order, at_once))
    return {name: {
        "rounds": len(each),
        **{
            f"{what}_{figure}_ms": round(of(row[what] for row in each) * 1000)
            for what in ("from_start", "from_connect")
            for figure, of in (("p50", statistics.median), ("max", max))
        },
        "first_published_came": sum(row["is_first"] for row in each),
    } for name, each in rows.items()}  # fmt: skip


TALKS = """
import json, resource, sys, threading, time
import meshmq
me, other, mesh_name, rate = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
states, stop, received = [], threading.Event(), []
def publish():
    count, due = 0, time.monotonic()
    while not stop.is_set():
        mesh.publish("from." + me, b"%d %d" % (count, time.monotonic_ns()))
        count, due = count + 1, due + 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
    mesh.flush(5)
    mesh.publish("from." + me, b"%d end" % count).wait(5)
with meshmq.connect(
    peers=[], mesh=mesh_name, insecure=True, name=me, on_state=lambda s: states.append(s.reason)
) as mesh:
    sub = mesh.subscribe("from." + other)
    while [peer["name"] for peer in mesh.peers()] != [other]:
        time.sleep(0.02)
    instance, before = mesh.peers()[0]["instance"], len(states)
    print(instance, flush=True)
    assert sys.stdin.readline() == "publish\\n"
    writer = threading.Thread(target=publish)
    writer.start()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    numbers, delays, used, due, now = [], [], [], 0.0, 0.0
    while True:
        (message,) = sub.fetch(1, timeout=20)
        number, stamp = message.value.split()
        if stamp == b"end":
            break
        numbers.append(int(number))
        delays.append((time.monotonic_ns() - int(stamp)) // 1000)
    writer.join()
    peers = mesh.peers()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    delays.sort()
    print(json.dumps({
        "received": len(numbers), "published_by_the_other": int(number),
        "in_order": numbers == list(range(int(number))), "missed": sub.missed,
        "links_changed": sum(other in said for said in states[before:]),
        "still_linked": [p["instance"] for p in peers if p["name"] == other] == [instance],
        "p50_us": delays[len(delays) // 2], "p99_us": delays[int(len(delays) * 0.99)],
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2), "memory_mib": usage.ru_maxrss >> 10,
    }), flush=True)
    time.sleep(0.5)  # the other one may still wait for our last record
"""


def talk(network: Network, seconds: float, rate: float, lied_to: bool) -> dict[str, Any]:
    """Two programs on two hosts publish to each other; on a third one somebody lies, or nobody."""
    mesh = f"{MESH}-{uuid.uuid4().hex[:8]}"
    one, two, three = network.hosts[:3]
    names = ("one", "two")
    pair = [
        network.start(host, "-c", TALKS, me, other, mesh, rate)
        for host, me, other in zip((one, two), names, reversed(names), strict=True)
    ]
    instances = [process.stdout.readline().strip() for process in pair if process.stdout]
    forger = None
    if lied_to:
        forger = network.start(
            three, "-m", "tests.chaos.forger", address(3), mesh, seconds, *instances
        )
        assert forger.stdout is not None
        assert forger.stdout.readline() == "begins\n"
    until = time.monotonic() + seconds
    tell(pair, "publish\n")
    found: dict[str, Any] = {"doctor": doctor(network, two, mesh)}
    if lied_to:
        found["newcomer_s"] = newcomer(network, two, mesh)
    time.sleep(max(0.0, until - time.monotonic()))
    tell(pair, "stop\n")
    if forger is not None:
        out, said = forger.communicate(timeout=30)
        assert forger.returncode == 0, said
        found["lies"] = int(out.split()[-1])
    for name, process in zip(names, pair, strict=True):
        out, said = process.communicate(timeout=40)
        assert process.returncode == 0, said
        found[name] = json.loads(out.splitlines()[-1])
    network.end()
    return found


def tell(processes: list[subprocess.Popen[str]], words: str) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(words)
        process.stdin.flush()


def doctor(network: Network, host: str, mesh: str) -> dict[str, str]:
    """What it says of the network: level and what it saw, by check."""
    _, out, said = network.run(
        host, "-m", "meshmq", "doctor", "--mesh", mesh, "--insecure", "--json"
    )
    assert out, said
    rows = [json.loads(line) for line in out.splitlines()]
    about_network = ("interface", "mdns", "other meshes", "records", "dial", "node")
    return {
        row["check"]: f"{row['level']}: {row['seen']}"
        for row in rows
        if row["check"].startswith(about_network)
    }


NEWCOMER = """
import sys, time, meshmq
begin = time.monotonic()
with meshmq.connect(peers=[], mesh=sys.argv[1], insecure=True, name="new") as mesh:
    with mesh.subscribe("from.*") as sub:
        heard = set()
        while len(heard) < 2 and time.monotonic() < begin + 15:
            heard.update(message.topic for message in sub.fetch(1000, timeout=0.5))
        print(time.monotonic() - begin if len(heard) == 2 else -1)
"""


def newcomer(network: Network, host: str, mesh: str) -> float | None:
    """Seconds from ``connect`` until it hears both of those who talk; None: within 15 s it did
    not."""
    code, out, said = network.run(host, "-c", NEWCOMER, mesh)
    assert code == 0, said
    seconds = round(float(out), 2)
    return seconds if seconds >= 0 else None


def faults_of(found: dict[str, Any], rate: float) -> list[str]:
    """What went wrong between the two, or did not come up in the doctor's report."""
    faults = []
    for name in ("one", "two"):
        row = found[name]
        if row["missed"] or not row["in_order"] or row["received"] != row["published_by_the_other"]:
            faults.append(f"{name} lost records")
        if row["links_changed"] or not row["still_linked"]:
            faults.append(f"{name}'s link changed")
        if row["received"] < rate:
            faults.append(f"{name} was hardly published to")
    if ("records" in found["doctor"]) != ("lies" in found):
        faults.append("the doctor says of lies what is not so")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Programs without a node, on several hosts.")
    parser.add_argument("--only", default="found,first,forged", help="which, with commas")
    parser.add_argument("--rounds", type=int, default=5, help="of found; first has four times")
    parser.add_argument("--seconds", type=float, default=20, help="of forged")
    parser.add_argument("--rate", type=float, default=200, help="records a second, each way")
    parser.add_argument("--out", type=Path, help="directory for the results as JSON")
    options = parser.parse_args()
    if why_not():
        sys.exit(f"network: {why_not()}")
    faults: list[str] = []
    for what in options.only.split(","):
        with Network(HOSTS if what == "found" else 3) as network:
            if what == "found":
                rows = [found(network, f"{MESH}-{i}") for i in range(options.rounds)]
                bad = sum(r["pairs_met"] < r["pairs"] or r["max_s"] > FOUND_S for r in rows)
                faults += [f"{bad} times not all pairs within {FOUND_S} s"] if bad else []
                result: dict[str, Any] = {"rounds": rows}
            elif what == "first":
                result = {"ways": firsts(network, 4 * options.rounds)}
            else:
                quiet = talk(network, options.seconds / 2, options.rate, False)
                lied_to = talk(network, options.seconds, options.rate, True)
                faults += faults_of(quiet, options.rate) + faults_of(lied_to, options.rate)
                result = {"quiet": quiet, "lied_to": lied_to}
        result = {"what": what, "commit": about.commit(), "date": about.date(), **result}
        print(json.dumps(result, indent=1), flush=True)
        about.keep(f"network-{what}", result, options.out)
    if faults:
        sys.exit(f"network: {'; '.join(faults)}")


if __name__ == "__main__":
    main()
