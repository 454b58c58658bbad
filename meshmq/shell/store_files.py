"""The data directory: who may use it, where it lies, how its entries become durable.

DATA/LOCK                        held with flock while a store is open
DATA/FORMAT                      "meshmq log 1": what the log is written in
DATA/log/<20 digits>/            one segment: cache.db (diskcache), values.bin
DATA/log/<20 digits>.new         a segment being made; removed at start
DATA/log/spare.new               made ahead, for the next segment; removed at start
DATA/log/<20 digits>.rewritten   takes the place of the segment of that number, at start at last
DATA/log/<20 digits>.removing    a segment being unlinked; removed at start
DATA/ballast                     see store_space
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from meshmq.errors import ConfigError, StoreBusy, StoreFailed

LOCK = "LOCK"
LOG = "log"
FORMAT = "FORMAT"
FORMAT_VERSION = 1
NEW = ".new"
SPARE = "spare.new"
REMOVING = ".removing"
REWRITTEN = ".rewritten"
_DIGITS = 20
_OWN = {LOCK, LOG, FORMAT + NEW, "ballast", "starter", "lost+found"}
"""What a directory may have before its log is marked; the last is a file system's of its own."""
_REFUSED_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "glusterfs", "lustre")


def prepare(directory: Path) -> Path:
    """Make ``directory`` for its owner alone and return the log's directory in it.

    Raises ConfigError if it cannot be made, has other files than a log's, is open to other users,
    or is on a file system that does not promise what a log needs.
    """
    if "\0" in str(directory):
        raise ConfigError(f"data directory {str(directory)!r} cannot be used: a path has no NUL")
    try:
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"data directory {directory} cannot be used: it is not one")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_foreign(directory)
        _close_to_others(directory)
        refuse_remote(directory)
        log = directory / LOG
        log.mkdir(mode=0o700, exist_ok=True)
        _check_format(directory)
        sync_directory(directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise ConfigError(
            f"data directory {directory} cannot be used: {error.strerror or error}"
        ) from None
    return log


def _check_format(directory: Path) -> None:
    """Refuse a log that another version of meshmq writes; mark one that is new."""
    path = directory / FORMAT
    if not path.exists():
        # Under another name first: a power cut leaves none, or a whole one.
        making = path.with_name(FORMAT + NEW)
        making.write_text(f"meshmq log {FORMAT_VERSION}\n")
        making.chmod(0o600)
        sync_file(making)
        making.rename(path)
        return
    words = path.read_text(errors="replace").split()
    if len(words) != 3 or words[:2] != ["meshmq", "log"] or not words[2].isdecimal():
        raise ConfigError(
            f"{path} does not say what the log is written in: it should read "
            f"'meshmq log {FORMAT_VERSION}'"
        )
    if int(words[2]) != FORMAT_VERSION:
        raise ConfigError(
            f"data directory {directory} is in log format {words[2]}, this meshmq reads "
            f"{FORMAT_VERSION}: install the version of meshmq that wrote it, or a newer one"
        )


def _refuse_foreign(directory: Path) -> None:
    """A log is made in an empty directory only: not among somebody's files, whose mode it would
    want changed."""
    if (directory / FORMAT).exists():
        return
    foreign = sorted({path.name for path in directory.iterdir()} - _OWN)
    if foreign:
        raise ConfigError(
            f"data directory {directory} has files and no log of meshmq ({foreign[0]!r}, for "
            f"one): choose one that is empty, or not there yet"
        )


def _close_to_others(directory: Path) -> None:
    mode = directory.stat().st_mode & 0o777
    if not mode & 0o077:
        return
    if any(directory.iterdir()):
        raise ConfigError(
            f"data directory {directory} is open to other users (mode {mode:o}): "
            f"run 'chmod 700 {directory}' or choose another"
        )
    directory.chmod(0o700)


def refuse_remote(directory: Path) -> None:
    """Raise ConfigError if ``directory`` is on a network or FUSE file system.

    Their locks and syncs do not hold what SQLite and flock rely on. Where the system does not tell
    (no /proc), nothing is refused.
    """
    kind = file_system(directory)
    if kind.startswith(_REFUSED_FILE_SYSTEMS):
        raise ConfigError(
            f"data directory {directory} is on a {kind} file system, which cannot keep a log safe: "
            f"choose a directory on a local disk"
        )


def file_system(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Type of the file system that holds ``directory`` ("ext4"), or "" if unknown."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    real = str(directory.resolve())
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        try:
            dash = fields.index("-", 6)
            point = fields[4].encode().decode("unicode_escape")
            found = fields[dash + 1]
        except (ValueError, IndexError):
            continue
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


class DirectoryLock:
    """Keeps other processes out of a data directory until it is released or the process ends."""

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            by = f" (process {holder})" if holder else ""
            raise StoreBusy(
                f"data directory {directory} is in use by another node{by}: stop that one, or "
                f"choose another with --data"
            ) from None
        with contextlib.suppress(OSError):  # for people only, and the disk may be full
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def sync_directory(directory: Path) -> None:
    """Make the entries of ``directory`` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the bytes of ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def segment_path(log: Path, number: int) -> Path:
    return log / f"{number:0{_DIGITS}d}"


def list_segments(log: Path) -> list[int]:
    """Numbers of the segments in ``log``, ascending, after ending what was left half done."""
    numbers = []
    for path in sorted(log.glob(f"*{REWRITTEN}")):
        exchange(log, int(path.name.removesuffix(REWRITTEN)))
    for path in log.iterdir():
        if path.name.endswith((NEW, REMOVING)):
            shutil.rmtree(path)
        elif path.name.isdecimal() and len(path.name) == _DIGITS:
            numbers.append(int(path.name))
    return sorted(numbers)


def new_path(log: Path, number: int) -> Path:
    """Where segment ``number`` is made."""
    path = segment_path(log, number)
    return path.with_name(path.name + NEW)


def exchange(log: Path, number: int) -> Path | None:
    """Put a segment that was made anew in the place of the old one; a start ends what a crash
    left half done, for nothing with the suffix REWRITTEN is ever incomplete.

    Returns where the old one lies now, to be removed.
    """
    path = segment_path(log, number)
    rewritten = path.with_name(path.name + REWRITTEN)
    made = new_path(log, number)
    if not rewritten.exists():
        made.rename(rewritten)
        sync_directory(log)
    going = set_aside(path) if path.exists() else None
    rewritten.rename(path)
    sync_directory(log)
    return going


def set_aside(path: Path) -> Path:
    """Rename what is to be removed to a name that the next start removes; not synced yet."""
    going = path.with_name(path.name + REMOVING)
    number = 1
    while going.exists():  # one of this name is still being removed
        number += 1
        going = path.with_name(f"{path.name}.{number}{REMOVING}")
    path.rename(going)
    return going


def remove_segment(log: Path, number: int) -> None:
    """Unlink one segment; a crash half way leaves a name that the next start removes."""
    path = segment_path(log, number)
    try:
        going = set_aside(path)
        sync_directory(log)
        shutil.rmtree(going)
    except OSError as error:
        raise StoreFailed(f"segment {path} could not be removed: {error}") from error
