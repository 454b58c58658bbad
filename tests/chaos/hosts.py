"""Hosts of their own, as far as a network is concerned: a network namespace each, at one switch.

Making them needs root and ``ip``; cutting one off from another ``nft``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from typing import Self

from tests.bench import about

MESH = "shop"
"""The mesh of the programs: one that may leave its host."""


def ip(*arguments: object) -> None:
    """Run ``ip``; OSError, with what it said, if it fails."""
    run("ip", *arguments)


def run(*arguments: object) -> None:
    """Run a command; OSError, with what it said, if it fails."""
    words = [*map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


def why_not() -> str:
    """Why there can be no network here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [word for word in ("ip", "nft") if shutil.which(word) is None]
    return f"needs {' and '.join(missing)}" if missing else ""


@functools.cache
def compiled() -> str:
    """Where programs keep what they compile: on all hosts, as long as this process lives."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Network:
    """Hosts 10.77.0.1, 10.77.0.2 ... at one switch, each a network namespace; so is the switch.

    Attributes:
        hosts: their names, for ``start``.
    """

    def __init__(self, count: int) -> None:
        self._mark = f"mq{uuid.uuid4().hex[:6]}"
        self._switch = f"{self._mark}-switch"
        self._made: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []
        try:
            self._add(self._switch)
            self._add_switches()
            self.hosts = [self._plug(number) for number in range(1, count + 1)]
            self.run(self.hosts[0], "-c", "import meshmq.client.mesh, zeroconf.asyncio")
        except BaseException:
            self.close()
            raise

    def _add(self, name: str) -> None:
        ip("netns", "add", name)
        self._made.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def _add_switches(self) -> None:
        self._add_bridge("switch")

    def _add_bridge(self, name: str) -> None:
        ip("-n", self._switch, "link", "add", name, "type", "bridge")
        ip("-n", self._switch, "link", "set", name, "up")

    def _switch_of(self, number: int) -> str:
        """The switch that the host of that number is at."""
        return "switch"

    def _plug(self, number: int) -> str:
        name = f"{self._mark}-{number}"
        self._add(name)
        port = f"port{number}"
        ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port,
           "netns", self._switch)  # fmt: skip
        ip("-n", self._switch, "link", "set", port, "master", self._switch_of(number), "up")
        ip("-n", name, "addr", "add", f"{address(number)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        return name

    def start(self, host: str, *arguments: object) -> subprocess.Popen[str]:
        """Run Python on ``host``, with pipes."""
        environment = {k: v for k, v in os.environ.items() if k != "MESHMQ_URL"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed library is compiled
        environment["PYTHONPYCACHEPREFIX"] = compiled()
        environment["PYTHONPATH"] = os.pathsep.join([str(about.ROOT), *filter(None, sys.path)])
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        self._processes.append(process)
        return process

    def run(self, host: str, *arguments: object) -> tuple[int, str, str]:
        """Run Python on ``host`` to its end: exit code, output, errors."""
        process = self.start(host, *arguments)
        out, said = process.communicate(timeout=40)
        return process.returncode, out, said

    def node(self, host: str, data: object, *arguments: object) -> subprocess.Popen[str]:
        """A node at port 5757 of all interfaces; once it is ready."""
        process = self.start(host, "-m", "meshmq", "node", "--data", data, *arguments)
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert " ready at " in line, process.stderr.read()
        return process

    def drop(self, host: str, number: int) -> None:
        """Let nothing come to ``host`` from the host of that number, whatever is under way."""
        rules = (
            "add table ip cut; "
            "add chain ip cut in { type filter hook input priority 0 ; }; "
            f"add rule ip cut in ip saddr {address(number)} drop"
        )
        run("ip", "netns", "exec", host, "nft", rules)

    def let_through(self, host: str) -> None:
        """Take back what ``drop`` did."""
        run("ip", "netns", "exec", host, "nft", "delete table ip cut")

    def end(self) -> None:
        """Kill all that was started."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._processes.clear()

    def close(self) -> None:
        """Kill all that was started, and take the hosts away."""
        try:
            self.end()
        finally:
            for name in reversed(self._made):
                ip("netns", "del", name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FarNetwork(Network):
    """The same at two switches, with a line between them that is slow and loses frames
    (tests/chaos/wire.py).

    Args:
        near, far: how many hosts are at the first switch, and how many more at the second.
        delay_s: of the line, one way.
        loss: of the frames, 0 to 1; ``seed`` says which.
    """

    def __init__(
        self, near: int, far: int, delay_s: float = 0.0, loss: float = 0.0, seed: int = 1
    ) -> None:
        self._near = near
        self._wire_options = ("--delay", delay_s, "--loss", loss, "--seed", seed)
        super().__init__(near + far)

    def _add_switches(self) -> None:
        self._add_bridge("switch")
        self._add_bridge("far-switch")
        self._wire = self.start(
            self._switch, "-m", "tests.chaos.wire", "tap0", "tap1", *self._wire_options
        )
        assert self._wire.stdout is not None
        assert self._wire.stderr is not None
        assert self._wire.stdout.readline() == "ready\n", self._wire.stderr.read()
        for tap, switch in (("tap0", "switch"), ("tap1", "far-switch")):
            ip("-n", self._switch, "link", "set", tap, "master", switch, "up")

    def _switch_of(self, number: int) -> str:
        return "switch" if number <= self._near else "far-switch"

    def _tell(self, command: str) -> dict[str, int]:
        assert self._wire.stdin is not None
        assert self._wire.stdout is not None
        self._wire.stdin.write(command + "\n")
        self._wire.stdin.flush()
        counts: dict[str, int] = json.loads(self._wire.stdout.readline())
        return counts

    def cut(self, way: str = "both") -> dict[str, int]:
        """Let nothing pass, or only one way: ``both``, ``there`` or ``back``; frames carried, lost
        and cut so far."""
        return self._tell(f"cut {way}")

    def heal(self) -> dict[str, int]:
        """Let all pass again; frames carried, lost and cut so far."""
        return self._tell("heal")


def address(number: int) -> str:
    """Of the host of that number; the first is 1."""
    return f"10.77.0.{number}"
