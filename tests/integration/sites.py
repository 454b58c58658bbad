"""Nodes of a site in processes of their own, on loopback."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import meshmq
from meshmq import MeshError

_READY = re.compile(r" ready at (\S+?), for nodes of site \S+ at (\S+?), log")
START_S, JOIN_S = 30.0, 15.0


class SiteProcess:
    """One node, which can be killed and started again where it was.

    Attributes:
        url, nodes_url: where programs and nodes reach it.
        told: what it has said on stderr, once it ended.
    """

    def __init__(self, data: Path, name: str, peers: tuple[str, ...] = (), *more: str) -> None:
        self.data, self.name, self.peers, self.more = data, name, peers, more
        self.url = self.nodes_url = "tcp://127.0.0.1:0"
        self.told = ""
        self.start()

    def start(self) -> None:
        peers = [word for peer in self.peers for word in ("--peer", peer)]
        argv = [
            sys.executable, "-m", "meshmq", "node", "--no-mdns", "--site", "eu", "--name",
            self.name, "--listen", self.url, "--listen-nodes", self.nodes_url, "--data",
            str(self.data), *peers, *self.more,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = _READY.search(line)
        assert found, line + self.process.communicate()[1]
        self.url, self.nodes_url = found.groups()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.told += self.process.communicate()[1]

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.told += self.process.communicate(timeout=20)[1]
        return self.process.returncode

    def siblings(self) -> list[str]:
        """Names of those it is wholly linked with."""
        with meshmq.connect(self.url, route="node") as mesh:
            rows = mesh.admin.status()["site"]["nodes"]
        return sorted(row["name"] for row in rows if row["state"] == "linked")


class ConfiguredNode(SiteProcess):
    """One of the site that its name begins with, as ``eu-1``, with a settings file of its own,
    ``config``, which is empty at first."""

    def __init__(self, folder: Path, name: str, peers: tuple[str, ...] = ()) -> None:
        self.config = folder / f"{name}.toml"
        self.config.write_text("")
        site = name.rpartition("-")[0]
        super().__init__(folder / name, name, peers, "--site", site, "--config", str(self.config))


class LocalSite:
    """Several of them, each told where the first one is."""

    def __init__(self, folder: Path, count: int, *more: str) -> None:
        self.nodes: list[SiteProcess] = []
        for number in range(1, count + 1):
            peers = (self.nodes[0].nodes_url,) if self.nodes else ()
            self.nodes.append(
                SiteProcess(folder / f"node-{number}", f"node-{number}", peers, *more)
            )
        # Who was first is told of the others too, or it would not find them after a restart.
        self.nodes[0].peers = tuple(node.nodes_url for node in self.nodes[1:])

    def wait_joined(self) -> None:
        """Until all that run are linked with all others."""
        up = [node for node in self.nodes if node.process.poll() is None]
        deadline = time.monotonic() + JOIN_S
        for node in up:
            wanted = sorted(other.name for other in up if other is not node)
            while True:
                try:
                    found = node.siblings()
                except MeshError as error:
                    found = [str(error)]
                if found == wanted:
                    break
                assert time.monotonic() < deadline, (node.name, found, wanted)
                time.sleep(0.02)

    def stop(self) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                node.stop()
            for pipe in (node.process.stdout, node.process.stderr):
                if pipe is not None:
                    pipe.close()


def knows_all(mesh: meshmq.Mesh) -> bool:
    """Whether a program of a site of three nodes was told where all of them are."""
    return len(mesh._connection.client.moving.nodes) == 3


@contextmanager
def joined(folder: Path, count: int, *more: str) -> Iterator[LocalSite]:
    """Several nodes that are linked, until the end of the block."""
    made = LocalSite(folder, count, *more)
    try:
        made.wait_joined()
        yield made
    finally:
        made.stop()
