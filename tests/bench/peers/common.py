"""What the adapters of other systems share. Figures are named as in meshmq.bench.works."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path
from typing import Any

from meshmq.bench.job import Job
from meshmq.bench.procs import Process, Team
from meshmq.bench.works import Figures, Settings

CHUNK = 100  # messages in one pipeline, one batch, one look at the window
WINDOW = {"one": 16_384, "batch": 65_536, "fanout": 4096}


class Skipped(Exception):
    """This contender cannot run here; the message says why."""


def need_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise Skipped(f"the Python package {name!r} is not installed")


def need_program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Skipped(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_port(process: Process, port: int) -> None:
    """Return when something listens on ``port``; BenchError if ``process`` ends before."""

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            return False
        return True

    process.wait_until(answers)


def job_for(settings: Settings, address: str, **more: Any) -> Job:
    job = Job(address, "bench", settings.size, settings.seconds, settings.count)
    for name, value in more.items():
        setattr(job, name, value)
    return job


def confirmed(sent: dict[str, Any]) -> Figures:
    return {"rate": sent["count"] / (sent["stop_ns"] - sent["start_ns"]) * 1e9}


def received(got: list[dict[str, Any]], sent: dict[str, Any]) -> Figures:
    """Deliveries a second from the publisher's start to the last receiver's last message."""
    span = (max(one["last_ns"] for one in got) - sent["start_ns"]) / 1e9
    deliveries = sum(one["count"] for one in got)
    return {"rate": deliveries / span, "lost": float(sent["count"] * len(got) - deliveries)}


def one_way(got: list[dict[str, Any]]) -> Figures:
    return {key: got[0][key] for key in ("p50", "p99", "p999")}


def fan(
    team: Team,
    module: str,
    settings: Settings,
    address: str,
    receivers: int,
    window: int,
    options: dict[str, Any] | None = None,
) -> Figures:
    """One ``pub`` and ``receivers`` times ``sub`` of ``module``, lossless up to ``window``."""
    board = team.board()
    readers = [
        ("sub", job_for(settings, address, board=board, window=window, index=i, options=options))
        for i in range(receivers)
    ]
    writer = job_for(
        settings, address, board=board, window=window, receivers=receivers, options=options
    )
    return received(*team.run(module, readers, ("pub", writer)))


def lone(
    team: Team,
    module: str,
    settings: Settings,
    address: str,
    rate: int,
    background: list[tuple[str, Job]] | None = None,
    options: dict[str, Any] | None = None,
) -> Figures:
    """``pub_paced`` at ``rate`` a second against ``sub_delays`` of ``module``."""
    board = team.board()
    reader = job_for(settings, address, board=board, options=options)
    writer = job_for(settings, address, board=board, rate=rate, options=options)
    got, _ = team.run(
        module, [("sub_delays", reader)], ("pub_paced", writer), background=background or []
    )
    return one_way(got)


def sent_result(count: int, start_ns: int, stop_ns: int) -> dict[str, Any]:
    return {"count": count, "start_ns": start_ns, "stop_ns": stop_ns}


def data_folder(team: Team) -> Path:
    folder = team.path("data")
    folder.mkdir()
    return folder
