"""What the adapters of other systems share. Figures are named as in meshmq.bench.works."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from meshmq.bench.job import Board, Job, worked
from meshmq.bench.procs import READY_SECONDS, RESULT_SECONDS, Process, Team
from meshmq.bench.request_works import asked
from meshmq.bench.works import QUEUE_WORKERS, Figures, Settings

CHUNK = 100  # messages in one pipeline, one batch, one look at the window
Result = dict[str, Any]
WINDOW = {"one": 16_384, "batch": 65_536, "fanout": 4096, "queue": 16_384}
SETTLED_SECONDS = 5.0  # a server may still be busy with the last acknowledgements


class Skipped(Exception):
    """This contender cannot run here; the message says why."""


def need_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise Skipped(f"the Python package {name!r} is not installed")


def need_program(name: str, folders: str = "") -> str:
    """Its path; ``folders`` go before the usual ones."""
    places = (folders, None, "/usr/sbin:/usr/local/sbin")
    found = next((it for path in places if (it := shutil.which(name, path=path))), None)
    if found is None:
        raise Skipped(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_port(process: Process, port: int, timeout: float = READY_SECONDS) -> None:
    """Return when something listens on ``port``; BenchError if ``process`` ends before."""

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            return False
        return True

    process.wait_until(answers, timeout)


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


def queue(
    team: Team,
    module: str,
    settings: Settings,
    address: str,
    options: dict[str, Any] | None = None,
    workers: int = QUEUE_WORKERS,
) -> Figures:
    """One ``put`` and ``workers`` times ``work`` of ``module``, an acknowledgement a record."""
    board = team.board()

    def job(index: int) -> Job:
        shared = {"board": board, "window": WINDOW["queue"], "receivers": workers, "shared": True}
        return job_for(settings, address, index=index, options=options or {}, **shared)

    takers = [("work", job(i)) for i in range(workers)]
    return worked(board, *team.run(module, takers, ("put", job(0))))


def wait_workers(job: Job) -> None:
    """Return once every worker of ``job`` has finished."""
    Board(job.board).wait_flags(job.receivers, RESULT_SECONDS)


async def unacked_async(job: Job, ask: Callable[[], Awaitable[int]]) -> int:
    """What ``ask`` says the server still keeps after the workers, once that no longer changes."""
    await asyncio.to_thread(wait_workers, job)
    until = time.monotonic() + SETTLED_SECONDS
    left = await ask()
    while left and time.monotonic() < until:
        await asyncio.sleep(0.05)
        left = await ask()
    return left


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


def requests(
    team: Team,
    module: str,
    settings: Settings,
    address: str,
    before: Sequence[str] = ("serve",),
    ask: str = "ask",
    options: dict[str, Any] | None = None,
) -> Figures:
    """``ask`` of ``module`` against what comes ``before`` it: the service, a server of our own."""
    job = job_for(
        settings, address, options={"outstanding": settings.outstanding, **(options or {})}
    )
    background = [(role, job) for role in before]
    return asked(team.run(module, [], (ask, job), background=background)[1])


def sent_result(count: int, start_ns: int, stop_ns: int) -> dict[str, Any]:
    return {"count": count, "start_ns": start_ns, "stop_ns": stop_ns}


def data_folder(team: Team) -> Path:
    folder = team.path("data")
    folder.mkdir()
    return folder


def on_a_loop(main: Callable[[Job], Coroutine[Any, Any, Result]]) -> Callable[[Job], Result]:
    """A role from a coroutine, on uvloop where that is installed."""

    def role(job: Job) -> Result:
        if importlib.util.find_spec("uvloop") is not None:
            import uvloop

            found: Result = uvloop.run(main(job))
            return found
        return asyncio.run(main(job))

    return role


async def send_chunks_async(
    job: Job, send: Callable[[Sequence[bytes]], Awaitable[None]], chunk: int
) -> Result:
    """As meshmq.bench.job.send_chunks, awaited."""
    chunks, board = job.chunks(chunk), Board(job.board) if job.window else None
    sent, start_ns, end = 0, time.monotonic_ns(), time.monotonic() + job.seconds
    while sent < job.count if job.count else time.monotonic() < end:
        if board is not None and sent + chunk - board.taken(job) > job.window:
            await asyncio.sleep(0.0001)
            continue
        await send(next(chunks))
        sent += chunk
    return sent_result(sent, start_ns, time.monotonic_ns())


async def send_paced_async(job: Job, send: Callable[[bytes], Awaitable[None]]) -> Result:
    """As meshmq.bench.job.send_paced, awaited."""
    sent, period = 0, 1.0 / job.rate
    start_ns, start = time.monotonic_ns(), time.monotonic()
    while (due := start + sent * period) < start + job.seconds:
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        await send(job.stamped(sent))
        sent += 1
    return sent_result(sent, start_ns, time.monotonic_ns())
