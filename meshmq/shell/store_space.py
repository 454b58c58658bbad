"""Room on the disk: how much is left, and the ballast that is given up when none is.

Near the end of the disk a ballast file is kept beside the log. When a write meets a full disk all
the same (somebody else took the reserve), the ballast goes, and acks, deletions and retention have
its bytes to live on until there is room again. The last ``STARTER_BYTES`` no commit takes: it
waits. Opening a log writes a little too, so beside the ballast there is a starter, which goes when
not even a start has room.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from meshmq import limits

BALLAST = "ballast"
STARTER = "starter"


class NoRoom(Exception):
    """The disk has no room for this now. Nothing was stored: it may be tried again."""


class Room(NamedTuple):
    """Bytes free for this process, and how many of them are not for records."""

    free_bytes: int
    reserve_bytes: int


def reserve_of(total_bytes: int) -> int:
    """The reserve on a disk of ``total_bytes``."""
    share = total_bytes // limits.DISK_RESERVE_SHARE
    return max(limits.DISK_RESERVE_BYTES_MIN, min(share, limits.DISK_RESERVE_BYTES_MAX))


class Space:
    """The file system that holds one data directory.

    Attributes:
        is_lent: the ballast's bytes are in use for what gives back more, and are nobody else's.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / BALLAST
        self._has_ballast = self._path.exists()
        self._starter = directory / STARTER
        self.is_lent = False

    def free_bytes(self) -> int:
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def takes(self, size: int) -> bool:
        """Whether there is room for so many bytes, and what a start needs besides."""
        return self.free_bytes() >= size + limits.STARTER_BYTES

    def may_try(self, size: int) -> bool:
        """Whether a commit that is so small may be tried without looking: it may need no room, for
        files shrink less often than they are written; and a start has its starter."""
        return size <= limits.COMMIT_INLINE_BYTES_MAX and self._starter.exists()

    def make_room_to_start(self) -> None:
        """Where nothing is left, give up what was kept for this."""
        if not self.takes(0):
            self._starter.unlink(missing_ok=True)
        if not self.takes(0):
            self.drop_ballast()

    def measure(self) -> Room:
        """How much room there is; keeps the ballast while the disk is nearly full."""
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        reserve = reserve_of(found.f_blocks * found.f_frsize)
        if self.is_lent:
            return Room(max(0, free - limits.BALLAST_BYTES), reserve)
        if not self._has_ballast and 2 * limits.BALLAST_BYTES < free < 4 * reserve:
            self._has_ballast = _make(self._path, limits.BALLAST_BYTES)
            if not self._starter.exists():
                _make(self._starter, limits.STARTER_BYTES)
        elif self._has_ballast and free > 8 * reserve:
            self.drop_ballast()
            self._starter.unlink(missing_ok=True)
        return Room(free, reserve)

    def takes_copy(self, size: int, room: Room) -> bool:
        """Whether a copy of so many bytes leaves room for what goes on meanwhile. It takes the
        place of more, so the ballast is lent for it where that is enough."""
        over = size + room.reserve_bytes // limits.TIGHT_SHARE - room.free_bytes
        if 0 < over <= limits.BALLAST_BYTES:
            self.is_lent = self.drop_ballast()
        return over <= 0 or self.is_lent

    def drop_ballast(self) -> bool:
        """Give the ballast's bytes back; whether there were any."""
        if not self._has_ballast:
            return False
        self._has_ballast = False
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False


def _make(path: Path, size: int) -> bool:
    """Take ``size`` bytes of the disk; whether it had them."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False  # the disk filled up meanwhile: then there is none
    try:
        os.posix_fallocate(fd, 0, size)
        return True
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    finally:
        os.close(fd)
