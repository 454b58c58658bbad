"""The doctor's checks of this host: versions, and the directory of a node's log."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from meshmq import limits
from meshmq.cli.findings import FAILURE, OK, WARNING, Finding

PYTHON_MIN = (3, 11)
SQLITE_MIN = (3, 35, 0)  # older ones were never tried; 3.40 is in the oldest system that was
LIBZMQ_MIN = (4, 3, 3)  # before that, whoever connects can make it run out of memory
SLOW_SYNC_S = 0.05  # a disk does it in under 0.01, and each confirmation waits for one
_PRIVATE = 0o077
_MEMORY = ("tmpfs", "ramfs")


def check_host() -> Iterator[Finding]:
    """Python and the libraries."""
    yield check_python(sys.version_info[:3])
    for requirement in requires("meshmq") or ():
        if ";" not in requirement:  # those of extras are not needed
            yield check_package(requirement)
    from meshmq.shell.sockets import libzmq_version
    from meshmq.shell.store_disk import sqlite_version

    yield check_libzmq(libzmq_version())
    yield check_sqlite(sqlite_version())


def check_python(found: tuple[int, ...]) -> Finding:
    """Whether this Python is new enough."""
    tried = f"Python is at least {_dotted(PYTHON_MIN)}"
    seen = f"{platform.python_implementation()} {_dotted(found)}"
    if found >= PYTHON_MIN:
        return Finding("python", OK, tried, seen)
    return Finding("python", FAILURE, tried, seen, "install a newer Python, and meshmq in it")


def check_package(requirement: str) -> Finding:
    """Whether a library that meshmq requires is there, in a version that it was tried with."""
    name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
    tried = f"the library {name} is as meshmq needs it: {requirement}"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, FAILURE, tried, "not installed", f"run 'pip install {requirement!r}'")
    for sign, bound in re.findall(r"(>=|<)\s*([0-9.]+)", requirement):
        if (_numbers(found) >= _numbers(bound)) != (sign == ">="):
            remedy = f"run 'pip install {requirement!r}'"
            return Finding(name, FAILURE, tried, found, remedy)
    return Finding(name, OK, tried, found)


def check_libzmq(found: tuple[int, ...]) -> Finding:
    """Whether the ZeroMQ library under pyzmq is new enough."""
    tried = f"the ZeroMQ library is at least {_dotted(LIBZMQ_MIN)}"
    if found >= LIBZMQ_MIN:
        return Finding("libzmq", OK, tried, _dotted(found))
    remedy = (
        "install pyzmq from a wheel (pip install --force-reinstall pyzmq), which brings its own"
    )
    return Finding("libzmq", FAILURE, tried, _dotted(found), remedy)


def check_sqlite(found: tuple[int, ...]) -> Finding:
    """Whether the SQLite library of this Python is new enough."""
    tried = f"SQLite, which keeps a node's log, is at least {_dotted(SQLITE_MIN)}"
    if found >= SQLITE_MIN:
        return Finding("sqlite", OK, tried, _dotted(found))
    remedy = "run nodes on a newer system or Python; programs without a node are not affected"
    return Finding("sqlite", FAILURE, tried, _dotted(found), remedy)


def check_data(directory: Path) -> Iterator[Finding]:
    """Whether a node could keep its log in ``directory``; nothing is made there but a file that
    is removed again."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    yield check_file_system(directory, place)
    access = check_access(directory, place)
    yield access
    yield check_room(directory, place)
    if access.level == OK and place == directory:
        yield check_sync(directory)


def check_file_system(directory: Path, place: Path) -> Finding:
    """Whether the file system promises what a log needs; ``place`` is what is there of it."""
    from meshmq.errors import ConfigError
    from meshmq.shell.store_files import file_system, refuse_remote

    check = "data file system"
    tried = f"{directory} is on a disk of this host"
    kind = file_system(place)
    try:
        refuse_remote(place)
    except ConfigError:
        return Finding(
            check, FAILURE, tried, f"it is on a file system of type {kind}",
            "choose a directory on a local disk (meshmq node --data DIR): over a network, locks "
            "and syncs do not hold what they promise",
        )  # fmt: skip
    if kind in _MEMORY:
        return Finding(
            check, WARNING, tried, f"it is in memory ({kind})",
            "choose a directory on a disk (meshmq node --data DIR), or all is lost when the "
            "system restarts",
        )  # fmt: skip
    return Finding(check, OK, tried, kind or "the system does not say which type it is")


def check_access(directory: Path, place: Path) -> Finding:
    """Whether we may write there, and others may not read."""
    check = "data access"
    tried = f"this user, and nobody else, may use {directory}"
    if not place.is_dir():
        remedy = "move it away, or choose another directory (meshmq node --data DIR)"
        return Finding(check, FAILURE, tried, f"{place} is not a directory", remedy)
    found = place.stat()
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        seen = (
            f"{place} belongs to user {found.st_uid} and cannot be written by user {os.geteuid()}"
        )
        remedy = "choose another directory (meshmq node --data DIR), or run as that user"
        return Finding(check, FAILURE, tried, seen, remedy)
    if place != directory:
        return Finding(check, OK, tried, f"{directory} is not there yet: the node makes it")
    mode = found.st_mode & 0o777
    if mode & _PRIVATE and any(directory.iterdir()):
        remedy = f"run 'chmod 700 {directory}'"
        return Finding(check, FAILURE, tried, f"others may enter it (mode {mode:o})", remedy)
    return Finding(check, OK, tried, f"mode {mode:o}")


def check_room(directory: Path, place: Path) -> Finding:
    """Whether the disk has room for records."""
    from meshmq.shell.store_space import reserve_of

    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    reserve = reserve_of(found.f_blocks * found.f_frsize)
    tried = f"the disk of {directory} has room for records"
    seen = f"{_mib(free)} free, of which {_mib(reserve)} are kept back"
    remedy = "make room on the disk, or let topics keep less (meshmq topic create --retention)"
    if free <= reserve:
        return Finding("data room", FAILURE, tried, seen, remedy)
    if free - reserve < limits.SEGMENT_BYTES_MAX:
        return Finding("data room", WARNING, tried, seen, remedy)
    return Finding("data room", OK, tried, seen)


def check_sync(directory: Path) -> Finding:
    """How long the disk takes to make a little file safe: each confirmation waits for that."""
    tried = f"bytes written to {directory} are soon safe on the disk"
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            took = []
            for _ in range(5):
                file.write(bytes(4096))
                file.flush()
                began = time.perf_counter()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - began)
    except OSError as error:
        remedy = "make room, or look at the disk; meshmq cannot keep a log here"
        return Finding("data sync", FAILURE, tried, error.strerror or str(error), remedy)
    middle = sorted(took)[2]
    seen = f"a sync takes {middle * 1000:.1f} ms"
    if middle > SLOW_SYNC_S:
        remedy = "use a faster disk, or publish many records at a time: they share a sync"
        return Finding("data sync", WARNING, tried, seen, remedy)
    return Finding("data sync", OK, tried, seen)


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"[0-9.]*", text)
    numbers = [int(part) for part in found[0].split(".") if part] if found else []
    return tuple(numbers + [0] * (4 - len(numbers)))


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _mib(size: int) -> str:
    return f"{size / limits.MIB:,.0f} MiB"
