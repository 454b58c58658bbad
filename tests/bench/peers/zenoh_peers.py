"""eclipse-zenoh, two peers over TCP with no router, scouting off, congestion control BLOCK.

BLOCK holds the publisher back, so a flood loses nothing; that is also its highest rate. Payloads
of 3 KiB and more would travel through shared memory by Zenoh's default; ours here are smaller.
Requests are blocking gets of a declared querier, in a thread for each that is outstanding: faster
here than callbacks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from meshmq.bench.asking import REPLY_SECONDS, Asking
from meshmq.bench.job import (
    STAMP,
    Board,
    Job,
    Tally,
    ready,
    ready_then_go,
    send_chunks,
    send_paced,
    spread,
)
from meshmq.bench.procs import Team
from meshmq.bench.works import FANOUT_RECEIVERS, LONE_RATE, Figures, Settings
from tests.bench.peers.common import (
    WINDOW,
    fan,
    free_port,
    lone,
    need_module,
    requests,
    sent_result,
)

MODULE = __name__
CHUNK = 50
SETTLE_SECONDS = 0.7  # declarations travel after the session is up
UP_SECONDS = 20.0


def _session(job: Job, listen: bool) -> Any:
    import zenoh

    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("scouting/gossip/enabled", "false")
    config.insert_json5("listen/endpoints", json.dumps([job.address] if listen else []))
    if not listen:
        config.insert_json5("connect/endpoints", json.dumps([job.address]))
        config.insert_json5("connect/timeout_ms", "15000")
    return zenoh.open(config)


def _publisher(job: Job) -> tuple[Any, Any]:
    """A session that listens, and a publisher once all receivers are connected."""
    import zenoh

    session = _session(job, listen=True)
    publisher = session.declare_publisher(
        "t",
        congestion_control=zenoh.CongestionControl.BLOCK,
        reliability=zenoh.Reliability.RELIABLE,
    )
    Board(job.board).wait_flags(max(1, job.receivers), UP_SECONDS)
    time.sleep(SETTLE_SECONDS)
    return session, publisher


def _drain(job: Job, count: int) -> None:
    """Stay until the receivers have what was sent: closing drops what is still queued."""
    board, until = Board(job.board), time.monotonic() + 10
    while board.least(max(1, job.receivers)) < count and time.monotonic() < until:
        time.sleep(0.01)


def pub(job: Job) -> dict[str, Any]:
    session, publisher = _publisher(job)
    put = publisher.put

    def send(values: Sequence[bytes]) -> None:
        for value in values:
            put(value)

    ready_then_go()
    sent = send_chunks(job, send, CHUNK)
    Board(job.board).finish(sent.count)
    _drain(job, sent.count)
    session.close()
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def sub(job: Job) -> dict[str, Any]:
    tally = Tally(job)
    ready()  # the publisher listens, so it has to come up before this connects
    session = _session(job, listen=False)
    kept = session.declare_subscriber("t", lambda sample: tally.add(sample.payload.to_bytes()))
    tally.board.set_flag(job.index)
    while not tally.is_finished():
        time.sleep(0.02)
        tally.board.note(tally.index, tally.count)
    kept.undeclare()
    return tally.result()


def pub_paced(job: Job) -> dict[str, Any]:
    _, publisher = _publisher(job)
    ready_then_go()
    sent = send_paced(job, publisher.put)
    Board(job.board).finish(sent.count)
    _drain(job, sent.count)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def sub_delays(job: Job) -> dict[str, Any]:
    tally, samples = Tally(job), list[int]()
    ready()
    session = _session(job, listen=False)

    def on(sample: Any) -> None:
        value = sample.payload.to_bytes()
        samples.append(time.monotonic_ns() - STAMP.unpack_from(value)[0])
        tally.add(value)

    kept = session.declare_subscriber("t", on)
    tally.board.set_flag(job.index)
    while not tally.is_finished():
        time.sleep(0.05)
        if samples:
            tally.stamp()
    kept.undeclare()
    return tally.result(**spread(samples[1:]))


def serve(job: Job) -> dict[str, Any]:
    session = _session(job, listen=True)
    kept = session.declare_queryable("r", lambda query: query.reply("r", query.payload.to_bytes()))
    ready()
    sys.stdin.read()
    kept.undeclare()
    return {}


def ask(job: Job) -> dict[str, Any]:
    import zenoh

    session, asking = _session(job, listen=False), Asking(job)
    querier = session.declare_querier(
        "r", target=zenoh.QueryTarget.BEST_MATCHING, timeout=REPLY_SECONDS
    )

    def call(value: bytes) -> bytes:
        (reply,) = querier.get(payload=value)
        data: bytes = reply.ok.payload.to_bytes()
        return data

    until = time.monotonic() + UP_SECONDS
    while not querier.matching_status:  # declarations travel after the session is up
        if time.monotonic() > until:
            raise TimeoutError("the queryable did not come up")
        time.sleep(0.01)
    call(asking.probe())
    asking.begin()
    asking.by_calls(call)
    return asking.result()


ROLES = {
    "pub": pub,
    "sub": sub,
    "pub_paced": pub_paced,
    "sub_delays": sub_delays,
    "serve": serve,
    "ask": ask,
}


def _address() -> str:
    return f"tcp/127.0.0.1:{free_port()}"


def transient(settings: Settings) -> Figures:
    need_module("zenoh")
    with Team(settings.directory) as team:
        # receivers=1 names the flag to wait for; the window is out of reach: a flood.
        return fan(team, MODULE, settings, _address(), 1, 1 << 40)


def fanout(settings: Settings) -> Figures:
    need_module("zenoh")
    with Team(settings.directory) as team:
        return fan(team, MODULE, settings, _address(), FANOUT_RECEIVERS, WINDOW["fanout"])


def latency(settings: Settings) -> Figures:
    need_module("zenoh")
    with Team(settings.directory) as team:
        return lone(team, MODULE, settings, _address(), LONE_RATE)


def request(settings: Settings) -> Figures:
    need_module("zenoh")
    with Team(settings.directory) as team:
        return requests(team, MODULE, settings, _address())
