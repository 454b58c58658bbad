"""One command that the shell runs for a job or a request: its input, its output, its end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

KILL_GRACE_S = 5.0  # from SIGTERM to SIGKILL, for a command that took too long or is to end
READ_BYTES = 64 * 1024
READS_AFTER_END = 64
REASON_BYTES = 500  # a dead letter keeps 512 characters, and the end of stderr is what counts


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
        stderr: the end of what it wrote there.
        is_late: it was ended: it took too long, wrote too much, or nobody wants it any more.
        stdout: what it wrote there, if that is kept.
        is_too_much: it wrote more there than is kept.
    """

    code: int
    stderr: bytes
    is_late: bool
    stdout: bytes = b""
    is_too_much: bool = False


class Running:
    """One command that runs, in a process group of its own: a Ctrl-C is for us, not for it.

    Args:
        command: for ``/bin/sh -c``.
        value: its standard input.
        more: what is added to its environment.
        stdout: the file descriptor that it writes to; None: what it writes is kept.
        most: how many bytes of it; a command that writes more is ended.
    """

    def __init__(
        self,
        command: str,
        value: bytes,
        more: dict[bytes, bytes],
        stdout: int | None,
        most: int = 0,
    ) -> None:
        given = os.memfd_create("value")  # no pipe: nobody has to feed it, any size fits
        try:
            os.write(given, value)
            os.lseek(given, 0, os.SEEK_SET)
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", command], stdin=given,
                stdout=subprocess.PIPE if stdout is None else stdout, stderr=subprocess.PIPE,
                env={**os.environb, **more}, process_group=0,
            )  # fmt: skip
        finally:
            os.close(given)
        self._most = most
        self._stdout = bytearray()
        self._tail = b""
        self._deadline: float | None = None
        self._late = self._killed = False

    def end(self, number: int = signal.SIGTERM) -> None:
        """Tell it and what it has started to end."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def wait(self, limit: float | None, every: float, go_on: Callable[[], bool]) -> Ended:
        """Wait for its end, at most ``limit`` seconds; every so many seconds ``go_on`` is asked
        whether it may run on. What it writes to stderr appears on ours.

        One that may not is sent SIGTERM, and SIGKILL later, with all that it has started.
        """
        now = time.monotonic()
        self._deadline = None if limit is None else now + limit
        beat, has_ended, reads_left = now + every, False, READS_AFTER_END
        with self._process, _opened_pid(self._process.pid) as pid:
            poll, sinks = select.poll(), self._sinks()
            for fd in (pid, *sinks):
                poll.register(fd, select.POLLIN)
            while True:
                now = time.monotonic()
                if now >= beat:
                    beat = now + every
                    if not go_on():
                        self._expire(now)
                until = self._look_at_time(now, beat)
                if has_ended and not self._late:
                    until = now
                found = {fd for fd, _ in poll.poll(max(0.0, until - now) * 1000 + 1)}
                for fd in found & sinks.keys():
                    data = os.read(fd, READ_BYTES)
                    if not data:
                        poll.unregister(fd)
                        del sinks[fd]
                    elif not sinks[fd](data):
                        self._expire(now)
                if pid in found:
                    has_ended = True
                    poll.unregister(pid)
                if has_ended and self._late:
                    # Who outlives the shell may take as long to end, while it holds our pipes.
                    if self._killed or not sinks:
                        break
                elif has_ended:
                    # What it wrote last; what it has left running may write on for ever.
                    reads_left -= 1
                    if found <= {pid} or not reads_left:
                        break
            if self._late:
                self.end(signal.SIGKILL)  # before it is reaped: the group's number is still its own
            code = self._process.wait()
        is_too_much = len(self._stdout) > self._most
        return Ended(code, self._tail, self._late, bytes(self._stdout), is_too_much)

    def _expire(self, now: float) -> None:
        """Its time is over, if it is not already."""
        if not self._late:
            self._deadline = now

    def _look_at_time(self, now: float, until: float) -> float:
        """End it if it is late; when to look again, ``until`` at the latest."""
        if self._deadline is None:
            return until
        if now >= self._deadline:
            self._killed = self._late
            self.end(signal.SIGKILL if self._late else signal.SIGTERM)
            self._late, self._deadline = True, now + KILL_GRACE_S
        return min(until, self._deadline)

    def _sinks(self) -> dict[int, Callable[[bytes], bool]]:
        """What takes what comes by each pipe, and says whether there may be more."""
        assert self._process.stderr is not None
        sinks: dict[int, Callable[[bytes], bool]] = {self._process.stderr.fileno(): self._pass_on}
        if self._process.stdout is not None:
            sinks[self._process.stdout.fileno()] = self._keep
        return sinks

    def _pass_on(self, data: bytes) -> bool:
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
        self._tail = (self._tail + data)[-2 * REASON_BYTES :]
        return True

    def _keep(self, data: bytes) -> bool:
        if len(self._stdout) <= self._most:
            self._stdout += data
        return len(self._stdout) <= self._most


class _opened_pid:
    """A file descriptor that is readable once the process has ended."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)


def why_of(ended: Ended) -> str:
    """Why a command failed, in a few words."""
    if ended.is_late:
        return "took too long"
    return f"ended by {signal_name(-ended.code)}" if ended.code < 0 else f"exit code {ended.code}"


def reason_of(ended: Ended) -> str:
    """Why a command failed, in at most what a nack carries: the end of its stderr counts."""
    why = why_of(ended)
    text = ended.stderr.decode("utf-8", "replace").strip()
    if not text:
        return why
    room = REASON_BYTES - len(why) - 2
    return f"{why}: {text.encode()[-room:].decode('utf-8', 'ignore')}"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
