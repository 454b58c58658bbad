"""Where and with what a result was made: commit, machine, versions. No paths, no host names."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("meshmq", "pyzmq", "pycapnp", "diskcache"),
    *("redis", "hiredis", "nats-py", "uvloop", "eclipse-zenoh"),
    *("pika", "rstream", "paho-mqtt"),
)


def _output(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def commit() -> str:
    """The commit, with "+" if the tree differs from it; "none" outside a repository."""
    found = _output("git", "rev-parse", "--short=12", "HEAD")
    if not found:
        return "none"
    return found + ("+" if _output("git", "status", "--porcelain", "-uno") else "")


def date() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC"


def stamp() -> str:
    """For file names: sorts by time."""
    return time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())


def keep(what: str, result: Mapping[str, object], folder: Path | None) -> None:
    """Write a result of ``what`` to a file of its own in ``folder``, if there is one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=1) + "\n"
        (folder / f"{what}-{stamp()}.json").write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    nats = _output("nats-server", "--version") or _output("/usr/sbin/nats-server", "--version")
    redis = _output("redis-server", "--version")
    found["nats-server"] = nats.rpartition("v")[2] or "not installed"
    found["redis-server"] = redis.partition("v=")[2].split(" ")[0] or "not installed"
    found["mosquitto"] = _debian_version("mosquitto")
    found["rabbitmq-server"] = _debian_version("rabbitmq-server")
    return found


def _debian_version(package: str) -> str:
    """Without starting the program: rabbitmq-server has no option that tells, only a server."""
    return _output("dpkg-query", "-W", "-f", "${Version}", package) or "not installed"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(directory: Path) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "filesystem": _output("findmnt", "-n", "-o", "FSTYPE", "-T", str(directory)) or "unknown",
    }
