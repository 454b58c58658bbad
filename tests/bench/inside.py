"""Two programs of one process: what inproc saves them, beside tcp over loopback.

``python tests/bench/inside.py [ROUNDS]``: medians of all rounds, both ways in turn.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time

import meshmq

WORKS = ("request p50, us", "request, CPU us", "100 B, a second", "100 B, CPU us",
         "64 KiB, a second", "64 KiB, CPU us")  # fmt: skip


def requests(asker, count=2000):
    value, took = bytes(100), []
    for _ in range(200):
        asker.request("echo", value)
    cpu = time.process_time()
    for _ in range(count):
        begin = time.perf_counter()
        asker.request("echo", value)
        took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1e6, (time.process_time() - cpu) / count * 1e6


def records(publisher, reader, size, count):
    value = bytes(size)
    with reader.subscribe("t") as sub:

        def take():
            left = count
            while left > 0 and (found := sub.fetch(4096, timeout=5)):
                left -= len(found)

        thread = threading.Thread(target=take)
        thread.start()
        cpu, begin = time.process_time(), time.perf_counter()
        for _ in range(count):
            publisher.publish("t", value)
        thread.join()
        seconds = time.perf_counter() - begin
        return (count - sub.missed) / seconds, (time.process_time() - cpu) / count * 1e6


def measure(host):
    with meshmq.connect(listen="tcp://127.0.0.1:*") as one:
        address = one.addresses[0].replace("127.0.0.1", host)
        with meshmq.connect(peers=[address]) as other:
            one.serve("echo", lambda request: request.value)
            return (*requests(other), *records(other, one, 100, 100_000),
                    *records(other, one, 65536, 3000))  # fmt: skip


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    # A name is not the address that the other one says it listens at: so it is dialled by tcp.
    found = {host: [] for host in ("localhost", "127.0.0.1")}
    for _ in range(rounds):
        for host, rows in found.items():
            rows.append(measure(host))
    for number, work in enumerate(WORKS):
        tcp, inproc = (statistics.median(r[number] for r in rows) for rows in found.values())
        sys.stdout.write(
            f"{work:18} tcp {tcp:10,.0f}  inproc {inproc:10,.0f}  {inproc / tcp:.2f}\n"
        )


if __name__ == "__main__":
    main()
