"""nats-server from nats-py (on uvloop where that is installed): core for what is transient,
JetStream with a file store for what is durable.

As its users get the most out of it: 4,000 outstanding publish_async, an ordered push consumer for
replay, raised pending limits; a work queue's workers pull 200 and acknowledge each; requests with
the client's one inbox, a task for each that is outstanding. A JetStream
confirmation does not follow a sync: it writes to the page cache and syncs every two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
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
    WINDOW,
    Result,
    confirmed,
    data_folder,
    fan,
    free_port,
    job_for,
    lone,
    need_module,
    need_program,
    on_a_loop,
    queue,
    received,
    requests,
    send_chunks_async,
    send_paced_async,
    unacked_async,
    wait_port,
)

MODULE = __name__
OUTSTANDING = 4000
CHUNK = 50
FETCH = 200
FETCH_SECONDS = 0.1  # how long a fetch that is not full may wait for more
ACKS_PENDING = 20_000
PENDING = {"pending_msgs_limit": 5_000_000, "pending_bytes_limit": 4 << 30}
STREAM_SEQUENCE = 5  # token of a JetStream reply subject that holds what others call offset


def _run(main: Callable[[Job, Any], Coroutine[Any, Any, Result]]) -> Callable[[Job], Result]:
    """A role from a coroutine that gets the job and a connection."""

    async def connected(job: Job) -> Result:
        import nats

        return await main(job, await nats.connect(job.address, pending_size=2 << 20))

    return on_a_loop(connected)


async def _pub(job: Job, link: Any) -> Result:
    async def send(values: Sequence[bytes]) -> None:
        for value in values:
            await link.publish("t", value)

    ready_then_go()
    sent = await send_chunks_async(job, send, CHUNK)
    await link.flush(30)
    Board(job.board).finish(sent["count"])
    return sent


async def _sub(job: Job, link: Any) -> Result:
    tally = Tally(job)

    async def on(message: Any) -> None:
        tally.add(message.data)

    await link.subscribe("t", cb=on, **PENDING)
    await link.flush()
    ready()
    while not tally.is_finished():
        await asyncio.sleep(0.02)
        tally.board.note(tally.index, tally.count)
    return tally.result()


async def _pub_paced(job: Job, link: Any) -> Result:
    async def send(value: bytes) -> None:
        await link.publish("t", value)

    ready_then_go()
    sent = await send_paced_async(job, send)
    await link.flush(10)
    Board(job.board).finish(sent["count"])
    return sent


async def _sub_delays(job: Job, link: Any) -> Result:
    tally, samples = Tally(job), list[int]()

    async def on(message: Any) -> None:
        samples.append(time.monotonic_ns() - STAMP.unpack_from(message.data)[0])
        tally.add(message.data)

    await link.subscribe("t", cb=on)
    await link.flush()
    ready()
    while not tally.is_finished():
        await asyncio.sleep(0.05)
        if samples:
            tally.stamp()
    return tally.result(**spread(samples[1:]))


async def _stream(job: Job, link: Any) -> Any:
    from nats.js.api import RetentionPolicy, StorageType, StreamConfig

    stream = link.jetstream(publish_async_max_pending=OUTSTANDING)
    retention = RetentionPolicy.WORK_QUEUE if job.shared else RetentionPolicy.LIMITS
    config = StreamConfig(name="S", subjects=["s.>"], storage=StorageType.FILE, retention=retention)
    await stream.add_stream(config)
    return stream


async def _js_pub(job: Job, link: Any) -> Result:
    stream = await _stream(job, link)
    subjects = [f"s.{i}" for i in range(job.options.get("topics", 0))] or ["s.x"]
    turn, failed = 0, list[BaseException]()

    def done(future: asyncio.Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            failed.append(error)

    async def send(values: Sequence[bytes]) -> None:
        nonlocal turn
        for value in values:
            (await stream.publish_async(subjects[turn], value)).add_done_callback(done)
            turn = (turn + 1) % len(subjects)

    ready_then_go()
    sent = await send_chunks_async(job, send, CHUNK)
    await stream.publish_async_completed()
    sent["stop_ns"] = time.monotonic_ns()
    if failed:
        raise failed[0]
    if job.board:
        Board(job.board).finish(sent["count"])
    return sent


def _js_reader(tally: Tally, seen: asyncio.Event, count: int) -> Callable[[Any], Awaitable[None]]:
    async def on(message: Any) -> None:
        # The sequence is read from its token: nats-py's `metadata` builds several objects.
        int(message.reply.split(".")[STREAM_SEQUENCE])
        tally.add(message.data)
        if tally.count == count:
            tally.stamp()
            seen.set()

    return on


async def _js_live(job: Job, link: Any) -> Result:
    tally = Tally(job)
    stream = await _stream(job, link)
    on = _js_reader(tally, asyncio.Event(), 0)
    await stream.subscribe("s.>", cb=on, ordered_consumer=True, **PENDING)
    ready()
    while not tally.is_finished():
        await asyncio.sleep(0.02)
        tally.board.note(tally.index, tally.count)
    return tally.result()


async def _js_replay(job: Job, link: Any) -> Result:
    tally, seen = Tally(job), asyncio.Event()
    stream = link.jetstream()
    ready_then_go()
    start_ns = time.monotonic_ns()
    on = _js_reader(tally, seen, job.count)
    await stream.subscribe("s.>", cb=on, ordered_consumer=True, **PENDING)
    await asyncio.wait_for(seen.wait(), 120)
    return tally.result(seconds=(tally.last_ns - start_ns) / 1e9)


async def _put(job: Job, link: Any) -> Result:
    sent = await _js_pub(job, link)
    stream = link.jetstream()

    async def ask() -> int:
        # What is acknowledged, such a stream does not keep.
        messages: int = (await stream.stream_info("S")).state.messages
        return messages

    return {**sent, "unacked": await unacked_async(job, ask)}


async def _work(job: Job, link: Any) -> Result:
    from nats.js.api import AckPolicy, ConsumerConfig

    tally, stream = WorkTally(job), await _stream(job, link)
    config = ConsumerConfig(
        durable_name="w", ack_policy=AckPolicy.EXPLICIT, max_ack_pending=ACKS_PENDING
    )
    await stream.add_consumer("S", config)
    consumer = await stream.pull_subscribe_bind("w", "S", **PENDING)
    ready()
    while not tally.is_finished():
        try:
            messages = await consumer.fetch(FETCH, timeout=FETCH_SECONDS)
        except TimeoutError:
            continue
        for message in messages:
            tally.add(message.data)
            await message.ack()
        tally.stamp()
    await link.flush(10)
    return tally.result()


async def _serve(job: Job, link: Any) -> Result:
    async def on(message: Any) -> None:
        await message.respond(message.data)

    await link.subscribe("r", cb=on, **PENDING)
    await link.flush()
    ready()
    await asyncio.Event().wait()  # the parent ends it
    return {}


async def _ask(job: Job, link: Any) -> Result:
    asking, request = Asking(job), link.request

    async def call(value: bytes) -> bytes:
        data: bytes = (await request("r", value, timeout=REPLY_SECONDS)).data
        return data

    await call(asking.probe())
    asking.begin()
    await asking.by_tasks(call)
    return asking.result()


ROLES = {
    "pub": _run(_pub),
    "sub": _run(_sub),
    "pub_paced": _run(_pub_paced),
    "sub_delays": _run(_sub_delays),
    "js_pub": _run(_js_pub),
    "js_live": _run(_js_live),
    "js_replay": _run(_js_replay),
    "put": _run(_put),
    "work": _run(_work),
    "serve": _run(_serve),
    "ask": _run(_ask),
}

_CONFIG = """\
listen: "127.0.0.1:{port}"
max_payload: 8MB
max_pending: 256MB
jetstream {{ store_dir: "{folder}", max_mem: 1G, max_file: 20G }}
"""


@contextlib.contextmanager
def _server(settings: Settings) -> Iterator[tuple[Team, str]]:
    need_module("nats")
    program = need_program("nats-server")
    port = free_port()
    with Team(settings.directory) as team:
        config = team.path("nats.conf")
        config.write_text(_CONFIG.format(port=port, folder=data_folder(team)), encoding="utf-8")
        wait_port(team.server([program, "-c", str(config)], "nats"), port)
        yield team, f"nats://127.0.0.1:{port}"


def _publish(settings: Settings, topics: int = 0) -> Figures:
    with _server(settings) as (team, address):
        job = job_for(settings, address, options={"topics": topics})
        return confirmed(team.run(MODULE, [], ("js_pub", job))[1])


def publish(settings: Settings) -> Figures:
    return _publish(settings)


def topics_publish(settings: Settings) -> Figures:
    return _publish(settings, ROUND_ROBIN_TOPICS)


def end_to_end(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        board = team.board()
        reader = job_for(settings, address, board=board)
        writer = job_for(settings, address, board=board)
        return received(*team.run(MODULE, [("js_live", reader)], ("js_pub", writer)))


def replay(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        job = job_for(settings, address, count=settings.records, board=team.board())
        team.run(MODULE, [], ("js_pub", job))
        _, read = team.run(MODULE, [], ("js_replay", job))
        return {"rate": read["count"] / read["seconds"]}


def work_queue(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return queue(team, MODULE, settings, address)


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
