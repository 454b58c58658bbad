"""File systems that can be filled, lose power, or be thrown away. All need root."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NO_LOG_FLUSH = struct.pack("I", 2)


class Unavailable(Exception):
    """This machine cannot do it, and why."""


class LoopDisk:
    """A small ext4 on a loop device, which may lose power.

    ``cut`` tells it to forget all that it was not asked to sync (its SHUTDOWN ioctl, without
    flushing its log); mounting it again replays its journal as after a real cut. This proves our
    syncs, not the honesty of a disk.

    It is mounted within a shared mount: a network namespace that another test makes meanwhile has
    a copy of every mount, and ours would live on there, dead, and be what the next mount finds.
    """

    def __init__(self, directory: Path, mib: int = 400) -> None:
        if os.geteuid() != 0:
            raise Unavailable("needs root to mount a file system")
        for tool in ("mkfs.ext4", "mount", "umount"):
            if shutil.which(tool) is None:
                raise Unavailable(f"needs {tool}")
        self.image, self.shared = directory / "disk.img", directory / "mounts"
        self.point = self.shared / "disk"
        self.point.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(mib * 1024 * 1024)
        made = subprocess.run(
            ["mkfs.ext4", "-q", "-F", str(self.image)], capture_output=True, check=False
        )
        if made.returncode:
            raise Unavailable(f"mkfs.ext4: {made.stderr.decode().strip()}")
        subprocess.run(["mount", "--bind", str(self.shared), str(self.shared)], check=True)
        subprocess.run(["mount", "--make-shared", str(self.shared)], check=True)
        failed = self.mount()
        if failed:
            self.close()
            raise Unavailable(f"cannot mount a loop device: {failed}")

    def mount(self) -> str:
        """Mount it; return what went wrong, or an empty string."""
        done = subprocess.run(
            ["mount", "-o", "loop", str(self.image), str(self.point)],
            capture_output=True,
            check=False,
        )
        return done.stderr.decode().strip() if done.returncode else ""

    def umount(self) -> None:
        for _ in range(100):
            done = subprocess.run(["umount", str(self.point)], capture_output=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.05)  # the kernel has not let go of a killed process's files yet
        raise subprocess.CalledProcessError(1, ["umount", str(self.point)])

    def cut(self) -> int:
        """Cut the power; return when (monotonic ns). What was confirmed later does not count: the
        kernel was seen to let the one sync that is under way return success after the cut."""
        fd = os.open(self.point, os.O_RDONLY)
        try:
            cut_ns = time.monotonic_ns()
            fcntl.ioctl(fd, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(fd)
        return cut_ns

    def again(self) -> None:
        """Power is back."""
        self.umount()
        failed = self.mount()
        assert not failed, failed

    def close(self) -> None:
        for mounted in (self.point, self.shared):
            # Lazily: what failed may still have files open there.
            subprocess.run(["umount", "-l", str(mounted)], capture_output=True, check=False)
