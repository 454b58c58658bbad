"""A ring of three sites: each pulls from its two neighbours, and one is lost.

It needs no node: it starts one for each site, on free ports of this machine.
"""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import meshmq

SITES = ("eu", "us", "asia")


def free_ports(count):
    unused = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in unused]
    for one in unused:
        one.close()
    return ports


def settings(site, ports, folder):
    """The node's settings file."""
    clients, nodes = ports[site]
    links = [
        f'[[link]]\nto = "{other}"\nendpoints = ["tcp://127.0.0.1:{ports[other][1]}"]\n'
        'topics = ["orders.>"]\n'
        for other in SITES
        if other != site
    ]
    return (
        f'site = "{site}"\nname = "{site}-1"\nmdns = false\ndata = "{folder / site}"\n'
        f'listen = "tcp://127.0.0.1:{clients}"\nlisten_nodes = "tcp://127.0.0.1:{nodes}"\n\n'
        + "\n".join(links)
    )


def start(site, folder):
    argv = [sys.executable, "-m", "meshmq", "node", "--config", folder / f"{site}.toml"]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    node = subprocess.Popen(argv, text=True, **quiet)
    node.stdout.readline()  # "ready at ..."
    return node


def orders_at(site, ports, wanted):
    """All orders that a site has, once that many are there: (site, offset, value)."""
    found, deadline = [], time.monotonic() + 20
    with (
        meshmq.connect(f"tcp://127.0.0.1:{ports[site][0]}", route="node") as mesh,
        mesh.subscribe("orders.>", start="earliest") as sub,
    ):
        while len(found) < wanted and time.monotonic() < deadline:
            found += [(m.site, m.offset, m.value.decode()) for m in sub.fetch(100, timeout=1)]
    return sorted(found)


def publish(site, ports, *values):
    with meshmq.connect(f"tcp://127.0.0.1:{ports[site][0]}", route="node") as mesh:
        for value in values:
            mesh.publish("orders.new", value.encode()).wait(timeout=10)


def main(folder):
    numbers = iter(free_ports(2 * len(SITES)))
    ports = {site: (next(numbers), next(numbers)) for site in SITES}
    nodes = {}
    try:
        for site in SITES:
            (folder / f"{site}.toml").write_text(settings(site, ports, folder))
            nodes[site] = start(site, folder)
        for site in SITES:
            publish(site, ports, f"{site} 1", f"{site} 2")
        there = {site: orders_at(site, ports, 6) for site in SITES}
        for site, offset, value in there["asia"]:
            print(f"{site} #{offset}: {value}")
        print(
            "the same at all three:", "yes" if len(set(map(tuple, there.values()))) == 1 else "NO"
        )

        nodes["eu"].kill()
        nodes["eu"].wait()
        publish("us", ports, "us 3")
        print("without eu, asia has of us:", orders_at("asia", ports, 7)[-1][2])

        nodes["eu"] = start("eu", folder)
        print("eu is back, and has:", len(orders_at("eu", ports, 7)))
    finally:
        for node in nodes.values():
            node.send_signal(signal.SIGTERM)
        for node in nodes.values():
            node.communicate(timeout=20)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
