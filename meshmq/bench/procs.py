"""Starting, watching and above all ending the processes of a measurement.

A Team is a context manager: whatever was started through it is ended when it is left, in any
way, and the kernel ends it too (Linux) if this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from meshmq.bench.job import Board, Job
from meshmq.errors import OperationError

READY_SECONDS = 30.0
RESULT_SECONDS = 180.0
STOP_SECONDS = 8.0
_READY_AT = re.compile(rb" ready at (\S+?),(?: for nodes of site \S+ at (\S+?),)? log")


class BenchError(OperationError):
    """A measurement could not be made. ``details`` is what the process at fault had to say."""

    code = "bench-failed"

    def __init__(self, message: str, details: str = "") -> None:
        last = details.rstrip().rpartition("\n")[2]
        super().__init__(f"{message}: {last}" if last else message)
        self.details = details


def _tied_to_us(argv: Sequence[str]) -> list[str]:
    """``argv``, ended by the kernel if this process is killed, where the system can do that."""
    # Not by preexec_fn: that forks a process that may have threads.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else list(argv)


def _tail(path: Path, size: int = 4000) -> str:
    data = path.read_bytes()[-size:] if path.exists() else b""
    return data.decode(errors="replace").strip() or "(it wrote nothing)"


class Process:
    """One process with its output in a file; a session of its own, so Ctrl-C reaches only us."""

    def __init__(self, argv: Sequence[str], log: Path, piped: bool = False) -> None:
        self.log = log
        self.started_ns = time.monotonic_ns()
        with open(log, "wb") as output:
            self.popen = subprocess.Popen(
                _tied_to_us(argv),
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """End it: SIGTERM, and SIGKILL after ``grace`` seconds."""
        if self.popen.poll() is None and grace:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace)
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def wait_until(self, check: Callable[[], object], timeout: float = READY_SECONDS) -> None:
        """Poll ``check`` until it is true; BenchError if the process ends or time runs out."""
        deadline = time.monotonic() + timeout
        while not check():
            if self.popen.poll() is not None:
                raise BenchError("the process ended before it was ready", _tail(self.log))
            if time.monotonic() > deadline:
                raise BenchError(f"the process was not ready in {timeout:g} s", _tail(self.log))
            time.sleep(0.002)


class Role(Process):
    """A measuring process (see child.py)."""

    def __init__(self, module: str, role: str, job: Job, log: Path) -> None:
        argv = [sys.executable, "-m", "meshmq.bench.child", module, role, job.to_json()]
        super().__init__(argv, log, piped=True)
        self.name = role
        self._buffer = b""

    def _line(self, deadline: float) -> bytes:
        stdout = self.popen.stdout
        assert stdout is not None
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([stdout], [], [], left)[0]:
                raise BenchError(f"the {self.name} process did not answer", _tail(self.log))
            data = os.read(stdout.fileno(), 65536)
            if not data:
                raise BenchError(f"the {self.name} process failed", _tail(self.log))
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        deadline = time.monotonic() + timeout
        while self._line(deadline) != b"READY":
            pass

    def go(self) -> None:
        stdin = self.popen.stdin
        assert stdin is not None
        stdin.write(b"GO\n")
        stdin.flush()

    def result(self, timeout: float = RESULT_SECONDS) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while not (line := self._line(deadline)).startswith(b"RESULT "):
            pass
        found: dict[str, Any] = json.loads(line[7:])
        return found


class Team:
    """The processes of one measurement and the folder they use.

    Args:
        directory: where that folder is made, and made itself if it is not there; None: where
            temporary files are.

    Raises:
        BenchError: there can be no folder.
    """

    def __init__(self, directory: Path | None = None) -> None:
        try:
            if directory is not None:
                Path(directory).mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="meshmq-bench-", dir=directory))
        except OSError as error:
            where = directory or tempfile.gettempdir()
            raise BenchError(f"there can be no folder in {where}: {error.strerror}") from None
        self._running: list[Process] = []
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._running):
            # Measuring processes hold nothing worth a clean end; servers may, briefly.
            process.stop(0.0 if isinstance(process, Role) else STOP_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name: str) -> Path:
        """A fresh path in the folder."""
        self._made += 1
        return self.folder / f"{self._made}-{name}"

    def server(self, argv: Sequence[str], name: str) -> Process:
        process = Process(argv, self.path(f"{name}.log"))
        self._running.append(process)
        return process

    def role(self, module: str, role: str, job: Job) -> Role:
        process = Role(module, role, job, self.path(f"{role}.log"))
        self._running.append(process)
        return process

    def stop(self, process: Process, grace: float = STOP_SECONDS) -> None:
        process.stop(grace)
        self._running.remove(process)

    def board(self) -> str:
        return Board.create(str(self.path("board")))

    def run(
        self,
        module: str,
        receivers: Sequence[tuple[str, Job]],
        sender: tuple[str, Job] | None,
        background: Sequence[tuple[str, Job]] = (),
        timeout: float = RESULT_SECONDS,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Start receivers, then the sender, say go, and return what each of them measured.

        ``background`` (forwarders, echoes) starts first and has no result.
        """
        others = [self.role(module, role, job) for role, job in background]
        for other in others:
            other.wait_ready()
        got = [self.role(module, role, job) for role, job in receivers]
        for receiver in got:
            receiver.wait_ready()
        sent: dict[str, Any] = {}
        if sender is not None:
            process = self.role(module, *sender)
            process.wait_ready()
            process.go()
            sent = process.result(timeout)
        results = [receiver.result(timeout) for receiver in got]
        for process in [*others, *got]:
            self.stop(process, 0.0)
        return results, sent


def node_argv(
    data: Path, listen: str = "tcp://127.0.0.1:0", name: str = "bench", *more: str
) -> list[str]:
    """Command line of a node of this very installation."""
    return [
        *(sys.executable, "-m", "meshmq", "node", "--no-mdns"),
        *("--name", name, "--listen", listen, "--data", str(data), *more),
    ]


class Node:
    """A node in its own process, alone or of a site.

    Attributes:
        url: where it listens.
        nodes_url: where it listens for nodes, if it is of a site.
        pid: its process.
        start_seconds: from starting the process to its ready line.
    """

    def __init__(
        self,
        team: Team,
        data: Path | None = None,
        listen: str | None = None,
        *,
        name: str = "bench",
        site: str = "",
        peer: str = "",
        copies: int = 1,
        config: Path | None = None,
    ) -> None:
        self.data = data or team.path(f"data-{name}")
        more = [*(("--site", site) if site else ()), *(("--peer", peer) if peer else ())]
        more += ["--copies", str(copies)] if copies > 1 else []
        more += ["--config", str(config)] if config else []
        argv = node_argv(self.data, listen or "tcp://127.0.0.1:0", name, *more)
        self.process = team.server(argv, f"node-{name}")
        self.url = self.nodes_url = ""
        self.process.wait_until(self._is_ready)
        self.start_seconds = (time.monotonic_ns() - self.process.started_ns) / 1e9

    @property
    def pid(self) -> int:
        return self.process.pid

    def _is_ready(self) -> bool:
        found = _READY_AT.search(self.process.log.read_bytes())
        if found:
            self.url, self.nodes_url = found.group(1).decode(), (found.group(2) or b"").decode()
        return bool(found)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM into SystemExit while inside, so that every Team is left properly."""

    def leave(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
