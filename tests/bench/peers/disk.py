"""The disk itself: append and fdatasync, nothing else."""

from __future__ import annotations

import os
import time
from typing import Any

from meshmq.bench.job import Job, ready_then_go, spread
from meshmq.bench.procs import Team
from meshmq.bench.works import Figures, Settings
from tests.bench.peers.common import job_for

PIECE = 64 * 1024
MODULE = __name__


def _append(job: Job, piece: bytes) -> tuple[list[int], int]:
    file = os.open(job.address, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(file, piece)
    os.fdatasync(file)
    ready_then_go()
    samples, clock = [], time.monotonic_ns
    begin = clock()
    end = begin + int(job.seconds * 1e9)
    while (start := clock()) < end:
        os.write(file, piece)
        os.fdatasync(file)
        samples.append(clock() - start)
    took = clock() - begin
    os.close(file)
    return samples, took


def pieces(job: Job) -> dict[str, Any]:
    """Append pieces of 64 KiB, each followed by fdatasync."""
    samples, took = _append(job, b"".join(job.values())[:PIECE].ljust(PIECE, b"."))
    return {"bytes": len(samples) * PIECE, "seconds": took / 1e9}


def single(job: Job) -> dict[str, Any]:
    """Append one value, fdatasync, and again."""
    samples, _ = _append(job, job.values()[0])
    return spread(samples)


ROLES = {"pieces": pieces, "single": single}


def append(settings: Settings) -> Figures:
    """Values a second that fit through append + fdatasync of 64 KiB pieces."""
    with Team(settings.directory) as team:
        job = job_for(settings, str(team.path("raw")))
        _, found = team.run(MODULE, [], ("pieces", job))
        return {"rate": found["bytes"] / found["seconds"] / settings.size}


def write_one(settings: Settings) -> Figures:
    """Time of one write and fdatasync of a value."""
    with Team(settings.directory) as team:
        _, found = team.run(MODULE, [], ("single", job_for(settings, str(team.path("raw")))))
        return {key: found[key] for key in ("p50", "p99", "p999")}
