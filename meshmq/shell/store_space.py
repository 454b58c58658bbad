"""Room on the disk: how much is left, and the ballast that is given up when none is.

Near the end of the disk a ballast file is kept beside the log. When a write meets a full disk all
the same (somebody else took the reserve), the ballast goes, and acks, deletions and retention have
its bytes to live on until there is room again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from meshmq import limits

BALLAST = "ballast"


class Room(NamedTuple):
    """Bytes free for this process, and how many of them are not for records."""

    free_bytes: int
    reserve_bytes: int


def reserve_of(total_bytes: int) -> int:
    """The reserve on a disk of ``total_bytes``."""
    share = total_bytes // limits.DISK_RESERVE_SHARE
    return max(limits.DISK_RESERVE_BYTES_MIN, min(share, limits.DISK_RESERVE_BYTES_MAX))


class Space:
    """The file system that holds one data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / BALLAST
        self._has_ballast = self._path.exists()

    def measure(self) -> Room:
        """How much room there is; keeps the ballast while the disk is nearly full."""
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        reserve = reserve_of(found.f_blocks * found.f_frsize)
        if not self._has_ballast and 2 * limits.BALLAST_BYTES < free < 4 * reserve:
            self._make_ballast()
        elif self._has_ballast and free > 8 * reserve:
            self.drop_ballast()
        return Room(free, reserve)

    def _make_ballast(self) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # the disk filled up meanwhile: then there is none
        try:
            os.posix_fallocate(fd, 0, limits.BALLAST_BYTES)
            self._has_ballast = True
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink()
        finally:
            os.close(fd)

    def drop_ballast(self) -> bool:
        """Give the ballast's bytes back; whether there were any."""
        if not self._has_ballast:
            return False
        self._has_ballast = False
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False
