"""Redis from redis-py with hiredis: Streams for what is durable, PUBLISH for what is not.

As its users get the most out of it: a blocking client, pipelines without transaction (500 XADD,
100 PUBLISH), XREAD 1,000 at a time, no rewrite of the append-only file meanwhile. Workers of a
queue XREADGROUP 100 at a time and acknowledge them by a pipeline of 100 XACK. Redis has no
requests: lists carry them, one for the service and one for each requester; a value begins with the
name of the list for its reply. Pushing and waiting for the reply are one pipeline.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from meshmq.bench.asking import REPLY_SECONDS, Asking
from meshmq.bench.job import (
    STAMP,
    Board,
    Job,
    Tally,
    WorkTally,
    ready,
    ready_then_go,
    send_chunks,
    send_paced,
    spread,
)
from meshmq.bench.procs import Team
from meshmq.bench.works import (
    FANOUT_RECEIVERS,
    LONE_RATE,
    ROUND_ROBIN_TOPICS,
    Figures,
    Settings,
)
from tests.bench.peers.common import (
    CHUNK,
    WINDOW,
    confirmed,
    data_folder,
    fan,
    free_port,
    job_for,
    lone,
    need_module,
    need_program,
    queue,
    received,
    requests,
    sent_result,
    wait_port,
    wait_workers,
)

MODULE = __name__
PIPELINE = 500
READ = 1000
WORK = 100
GROUP = "g"
POP = 1000
NAME = len("reply:00000")


def _client(job: Job) -> Any:
    import redis

    return redis.Redis(host="127.0.0.1", port=int(job.address), protocol=2)


def xadd(job: Job) -> dict[str, Any]:
    """Confirmed appends to one stream, or to ``options["topics"]`` streams in turn."""
    client = _client(job)
    keys = [f"s.{i}" for i in range(job.options.get("topics", 0))] or ["s"]
    turn = 0

    def send(values: Sequence[bytes]) -> None:
        nonlocal turn
        pipeline = client.pipeline(transaction=False)
        for value in values:
            pipeline.xadd(keys[turn], {"d": value})
            turn = (turn + 1) % len(keys)
        pipeline.execute()

    client.ping()
    ready_then_go()
    sent = send_chunks(job, send, PIPELINE)
    if job.board:
        Board(job.board).finish(sent.count)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def xread_live(job: Job) -> dict[str, Any]:
    client, tally, last = _client(job), Tally(job), b"0"
    client.ping()
    ready()
    while not tally.is_finished():
        for _, entries in client.xread({"s": last}, count=READ, block=100):
            for entry, fields in entries:
                tally.bytes += len(fields[b"d"])
                last = entry
            tally.count += len(entries)
            tally.stamp()
    return tally.result()


def xread_all(job: Job) -> dict[str, Any]:
    client = _client(job)
    client.ping()
    ready_then_go()
    count, size, last, start_ns = 0, 0, b"0", time.monotonic_ns()
    while count < job.count:
        for _, entries in client.xread({"s": last}, count=READ):
            for entry, fields in entries:
                size += len(fields[b"d"])
                last = entry
            count += len(entries)
    return {"count": count, "bytes": size, "seconds": (time.monotonic_ns() - start_ns) / 1e9}


def put(job: Job) -> dict[str, Any]:
    sent = xadd(job)
    wait_workers(job)
    group = _client(job).xinfo_groups("s")[0]
    return {**sent, "unacked": group["pending"] + group["lag"]}


def work(job: Job) -> dict[str, Any]:
    import redis

    client, tally = _client(job), WorkTally(job)
    with contextlib.suppress(redis.ResponseError):  # another worker was first
        client.xgroup_create("s", GROUP, id="0", mkstream=True)
    ready()
    while not tally.is_finished():
        for _, entries in client.xreadgroup(GROUP, job.index, {"s": ">"}, count=WORK, block=100):
            acks = client.pipeline(transaction=False)
            for entry, fields in entries:
                tally.add(fields[b"d"])
                acks.xack("s", GROUP, entry)
            acks.execute()
            tally.stamp()
    return tally.result()


def pub(job: Job) -> dict[str, Any]:
    client = _client(job)
    client.ping()

    def send(values: Sequence[bytes]) -> None:
        pipeline = client.pipeline(transaction=False)
        for value in values:
            pipeline.publish("t", value)
        pipeline.execute()

    ready_then_go()
    sent = send_chunks(job, send, CHUNK)
    Board(job.board).finish(sent.count)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def _subscribed(job: Job) -> Any:
    channel = _client(job).pubsub()
    channel.subscribe("t")
    while channel.get_message(timeout=5)["type"] != "subscribe":
        pass
    return channel


def sub(job: Job) -> dict[str, Any]:
    channel, tally = _subscribed(job), Tally(job)
    ready()
    while True:
        message = channel.get_message(timeout=0.1)
        if message is not None:
            tally.add(message["data"])
            continue
        tally.board.note(tally.index, tally.count)
        if tally.is_finished():
            return tally.result()


def pub_paced(job: Job) -> dict[str, Any]:
    client = _client(job)
    client.ping()
    ready_then_go()
    sent = send_paced(job, lambda value: client.publish("t", value))
    Board(job.board).finish(sent.count)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def sub_delays(job: Job) -> dict[str, Any]:
    channel, tally, samples = _subscribed(job), Tally(job), list[int]()
    ready()
    while not tally.is_finished():
        message = channel.get_message(timeout=0.1)
        if message is not None:
            samples.append(time.monotonic_ns() - STAMP.unpack_from(message["data"])[0])
            tally.add(message["data"])
            tally.stamp()
    return tally.result(**spread(samples[1:]))


def _pop(pipeline: Any, key: str) -> None:
    """Wait for what comes to a list, and take all of it that is there."""
    pipeline.blmpop(REPLY_SECONDS, 1, key, direction="RIGHT", count=POP)


def serve(job: Job) -> dict[str, Any]:
    """Answer what comes to the list "q", each to the list that it names."""
    client = _client(job)
    client.ping()
    ready()
    got = None
    while True:
        replies: dict[bytes, list[bytes]] = {}
        for value in got[1] if got else ():
            replies.setdefault(value[:NAME], []).append(value[NAME:])
        pipeline = client.pipeline(transaction=False)
        for name, values in replies.items():
            pipeline.lpush(name, *values)
        _pop(pipeline, "q")
        got = pipeline.execute()[-1]


def _ask(client: Any, name: str, values: Sequence[bytes]) -> list[bytes]:
    """Push requests that want their replies in the list ``name``; returns what is there."""
    prefix = name.encode()
    pipeline = client.pipeline(transaction=False)
    if values:
        pipeline.lpush("q", *[prefix + value for value in values])
    _pop(pipeline, name)
    got = pipeline.execute()[-1]
    if not got:
        raise TimeoutError("a reply did not come")
    replies: list[bytes] = got[1]
    return replies


def ask(job: Job) -> dict[str, Any]:
    """One connection; what is outstanding shares a list, and travels in common pipelines."""
    client, asking, name = _client(job), Asking(job), "reply:00000"
    _ask(client, name, [asking.probe()])
    asking.begin()
    values = asking.first()
    while not asking.is_over:
        replies = _ask(client, name, values)
        values = [value for reply in replies if (value := asking.replied(reply)) is not None]
    return asking.result()


def ask_pool(job: Job) -> dict[str, Any]:
    """As many threads as requests are outstanding, each with a connection and a list."""
    asking = Asking(job)
    own = [(_client(job), f"reply:{i:05}") for i in range(asking.outstanding)]
    for client, name in own:
        _ask(client, name, [asking.probe()])

    def call(value: bytes) -> bytes:
        pair = own.pop()
        (reply,) = _ask(*pair, [value])
        own.append(pair)
        return reply

    asking.begin()
    asking.by_calls(call)
    return asking.result()


ROLES = {
    "xadd": xadd,
    "xread_live": xread_live,
    "xread_all": xread_all,
    "put": put,
    "work": work,
    "pub": pub,
    "sub": sub,
    "pub_paced": pub_paced,
    "sub_delays": sub_delays,
    "serve": serve,
    "ask": ask,
    "ask_pool": ask_pool,
}


@contextlib.contextmanager
def _server(settings: Settings, fsync: str = "") -> Iterator[tuple[Team, str]]:
    """A fresh server; ``fsync`` is its appendfsync, "" stores nothing."""
    need_module("redis")
    need_module("hiredis")
    program = need_program("redis-server")
    port = free_port()
    with Team(settings.directory) as team:
        argv = [program, "--bind", "127.0.0.1", "--port", str(port), "--daemonize", "no"]
        argv += ["--dir", str(data_folder(team)), "--save", ""]
        argv += ["--appendonly", "yes" if fsync else "no", "--appendfsync", fsync or "no"]
        argv += ["--auto-aof-rewrite-percentage", "0"]
        argv += ["--client-output-buffer-limit", "pubsub 1gb 1gb 0"]
        wait_port(team.server(argv, "redis"), port)
        yield team, str(port)


def _publish(settings: Settings, fsync: str, topics: int = 0) -> Figures:
    with _server(settings, fsync) as (team, address):
        job = job_for(settings, address, options={"topics": topics})
        return confirmed(team.run(MODULE, [], ("xadd", job))[1])


def publish_always(settings: Settings) -> Figures:
    return _publish(settings, "always")


def publish_everysec(settings: Settings) -> Figures:
    return _publish(settings, "everysec")


def topics_always(settings: Settings) -> Figures:
    return _publish(settings, "always", ROUND_ROBIN_TOPICS)


def end_to_end_always(settings: Settings) -> Figures:
    with _server(settings, "always") as (team, address):
        board = team.board()
        reader = job_for(settings, address, board=board)
        writer = job_for(settings, address, board=board)
        return received(*team.run(MODULE, [("xread_live", reader)], ("xadd", writer)))


def replay(settings: Settings) -> Figures:
    with _server(settings, "everysec") as (team, address):
        job = job_for(settings, address, count=settings.records)
        team.run(MODULE, [], ("xadd", job))
        _, read = team.run(MODULE, [], ("xread_all", job))
        return {"rate": read["count"] / read["seconds"]}


def _work_queue(settings: Settings, fsync: str) -> Figures:
    with _server(settings, fsync) as (team, address):
        return queue(team, MODULE, settings, address)


def work_queue_always(settings: Settings) -> Figures:
    return _work_queue(settings, "always")


def work_queue_everysec(settings: Settings) -> Figures:
    return _work_queue(settings, "everysec")


def transient(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return fan(team, MODULE, settings, address, 1, WINDOW["one"])


def fanout(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return fan(team, MODULE, settings, address, FANOUT_RECEIVERS, WINDOW["fanout"])


def latency(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return lone(team, MODULE, settings, address, LONE_RATE)


def request(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return requests(team, MODULE, settings, address)


def request_pool(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return requests(team, MODULE, settings, address, ask="ask_pool")
