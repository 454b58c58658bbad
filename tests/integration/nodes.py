"""Real nodes for tests: in a thread of this process, or in a process of their own to be killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path


class ProcessNode:
    """A node in a process of its own, which can be killed and started again where it was."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = "tcp://127.0.0.1:0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "meshmq",
                "node",
                "--no-mdns",
                "--listen",
                self.url,
                "--data",
                self.data,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert " ready at " in line, line + self.process.stderr.read()
        self.url = line.split(" ready at ")[1].split(",")[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """SIGTERM; return the exit code and what it said on stderr."""
        if self.process.poll() is None:
            self.process.terminate()
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said
