"""RabbitMQ: streams from rstream, queues and a fanout exchange from pika.

As its users get the most out of it: batches of 200 with 8,000 unconfirmed to a stream, 1,000
unconfirmed to a queue, a prefetch of 300 and a basic.ack a message for workers, automatic
acknowledgement for what is transient; requests by direct reply-to, the next one sent by the
callback that gets a reply, on one channel each side. A quorum queue of one node confirms after its
write-ahead log is synced; a stream confirms from the page cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from meshmq.bench.asking import REPLY_SECONDS, Asking, WrongReply
from meshmq.bench.job import STAMP, Board, Job, Tally, WorkTally, ready, ready_then_go, spread
from meshmq.bench.procs import Team
from meshmq.bench.works import LONE_RATE, Figures, Settings
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
STREAM_BATCH, STREAM_OUTSTANDING = 200, 8000
QUEUE_BATCH, QUEUE_OUTSTANDING = 50, 1000
PREFETCH = 300
QUORUM, CLASSIC = {"type": "quorum"}, {"type": "classic"}  # a queue job's options
PUBLISH_BATCH = 100
WRITE_BUFFER = 4 << 20  # pika's: beyond it a publisher lets the loop write
START_SECONDS = 60.0
LOGIN = {"username": "guest", "password": "guest"}


async def _until(is_so: Callable[[], bool], pause: float = 0.0002) -> None:
    while not is_so():  # noqa: ASYNC110 (the clients have callbacks, the write buffer not even that)
        await asyncio.sleep(pause)


# -- streams -----------------------------------------------------------------------------------


async def stream_pub(job: Job) -> Result:
    import rstream

    _, _, port = job.address.partition(",")
    async with rstream.Producer("127.0.0.1", port=int(port), **LOGIN) as producer:
        await producer.create_stream("s", exists_ok=True)
        done = sent_count = 0

        def confirm(status: Any) -> None:
            nonlocal done
            done += status.is_confirmed

        async def send(values: Sequence[bytes]) -> None:
            nonlocal sent_count
            sent_count += len(values)
            await producer.send_batch("s", list(values), on_publish_confirm=confirm)
            await _until(lambda: sent_count - done <= STREAM_OUTSTANDING)

        ready_then_go()
        sent = await send_chunks_async(job, send, STREAM_BATCH)
        await _until(lambda: done >= sent["count"])
        sent["stop_ns"] = time.monotonic_ns()
    if job.board:
        Board(job.board).finish(sent["count"])
    return sent


async def _reading(job: Job, on: Callable[[bytes], None]) -> Any:
    import rstream

    _, _, port = job.address.partition(",")
    async with rstream.Producer("127.0.0.1", port=int(port), **LOGIN) as producer:
        await producer.create_stream("s", exists_ok=True)
    consumer = rstream.Consumer("127.0.0.1", port=int(port), **LOGIN)
    await consumer.start()
    first = rstream.ConsumerOffsetSpecification(rstream.OffsetType.FIRST, None)
    await consumer.subscribe(
        "s",
        lambda value, _context: on(value),
        decoder=lambda value: value,
        offset_specification=first,
        initial_credit=100,
    )
    return consumer


async def stream_live(job: Job) -> Result:
    tally = Tally(job)
    consumer = await _reading(job, tally.add)
    ready()
    while not tally.is_finished():
        await asyncio.sleep(0.02)
        tally.board.note(tally.index, tally.count)
    await consumer.close()
    return tally.result()


async def stream_all(job: Job) -> Result:
    count, seen = 0, asyncio.Event()

    def on(_value: bytes) -> None:
        nonlocal count
        count += 1
        if count == job.count:
            seen.set()

    ready_then_go()
    start_ns = time.monotonic_ns()
    consumer = await _reading(job, on)
    await asyncio.wait_for(seen.wait(), 120)
    seconds = (time.monotonic_ns() - start_ns) / 1e9
    await consumer.close()
    return {"count": count, "seconds": seconds}


# -- queues ------------------------------------------------------------------------------------


async def _channel(job: Job) -> Any:
    """A pika channel on this loop; a connection that ends meanwhile ends the process."""
    import pika
    from pika.adapters.asyncio_connection import AsyncioConnection

    port, _, _ = job.address.partition(",")
    parameters = pika.ConnectionParameters("127.0.0.1", int(port), heartbeat=0)
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    AsyncioConnection(
        parameters,
        on_open_callback=lambda link: link.channel(on_open_callback=opened.set_result),
        on_open_error_callback=lambda _, error: opened.set_exception(error),
        on_close_callback=_lost,
    )
    return await opened


def _lost(_link: Any, error: BaseException) -> None:
    print(f"the connection ended: {error}", file=sys.stderr, flush=True)
    os._exit(1)


async def _called(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A call of pika that answers to a callback."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    method(*arguments, callback=answered.set_result, **named)
    return await answered


async def _queue(job: Job) -> tuple[Any, int]:
    """A channel on which the job's queue is declared, and how many messages wait there."""
    channel, kind = await _channel(job), {"x-queue-type": job.options["type"]}
    frame = await _called(channel.queue_declare, "q", durable=True, arguments=kind)
    return channel, frame.method.message_count


async def queue_pub(job: Job) -> Result:
    import pika

    channel, _ = await _queue(job)
    lasting = pika.BasicProperties(delivery_mode=2)
    unconfirmed: set[int] = set()
    tag = least = 0

    def confirm(frame: Any) -> None:
        nonlocal least
        method = frame.method
        if method.NAME != "Basic.Ack":
            raise RuntimeError("the queue refused a message")
        if method.multiple:
            unconfirmed.difference_update(range(least, method.delivery_tag + 1))
            least = method.delivery_tag + 1
        else:
            unconfirmed.discard(method.delivery_tag)

    await _called(channel.confirm_delivery, confirm)

    async def send(values: Sequence[bytes]) -> None:
        nonlocal tag
        for value in values:
            tag += 1
            unconfirmed.add(tag)
            channel.basic_publish("", "q", value, lasting)
        await asyncio.sleep(0)
        await _until(lambda: len(unconfirmed) <= QUEUE_OUTSTANDING - QUEUE_BATCH)

    ready_then_go()
    sent = await send_chunks_async(job, send, QUEUE_BATCH)
    await _until(lambda: not unconfirmed)
    sent["stop_ns"] = time.monotonic_ns()
    if job.board:
        Board(job.board).finish(sent["count"])
    return sent


async def put(job: Job) -> Result:
    sent = await queue_pub(job)

    async def ask() -> int:
        # What was unacknowledged when its worker's connection ended waits again.
        return (await _queue(job))[1]

    return {**sent, "unacked": await unacked_async(job, ask)}


async def work(job: Job) -> Result:
    tally, (channel, _) = WorkTally(job), await _queue(job)

    def on(_channel: Any, method: Any, _properties: Any, value: bytes) -> None:
        tally.add(value)
        channel.basic_ack(method.delivery_tag)
        tally.stamp()

    await _called(channel.basic_qos, prefetch_count=PREFETCH)
    await _called(channel.basic_consume, "q", on)
    ready()
    await _until(tally.is_finished, 0.02)
    closed = asyncio.Event()
    channel.add_on_close_callback(lambda *_: closed.set())
    channel.close()
    await closed.wait()
    return tally.result()


async def _fanout(job: Job) -> Any:
    channel = await _channel(job)
    await _called(channel.exchange_declare, "x", "fanout")
    return channel


async def _drained(channel: Any, most: int) -> None:
    await asyncio.sleep(0)
    await _until(lambda: channel.connection._transport.get_write_buffer_size() <= most)


async def pub(job: Job) -> Result:
    channel = await _fanout(job)

    async def send(values: Sequence[bytes]) -> None:
        for value in values:
            channel.basic_publish("x", "", value)
        await _drained(channel, WRITE_BUFFER)

    ready_then_go()
    sent = await send_chunks_async(job, send, PUBLISH_BATCH)
    await _drained(channel, 0)
    Board(job.board).finish(sent["count"])
    return sent


async def pub_paced(job: Job) -> Result:
    channel = await _fanout(job)

    async def send(value: bytes) -> None:
        channel.basic_publish("x", "", value)

    ready_then_go()
    sent = await send_paced_async(job, send)
    await _drained(channel, 0)
    Board(job.board).finish(sent["count"])
    return sent


async def _consume(job: Job, on: Callable[[bytes], None]) -> None:
    channel = await _fanout(job)
    queue = (await _called(channel.queue_declare, "", exclusive=True)).method.queue
    await _called(channel.queue_bind, queue, "x")
    await _called(channel.basic_consume, queue, lambda _c, _m, _p, value: on(value), auto_ack=True)


async def sub(job: Job) -> Result:
    tally = Tally(job)
    await _consume(job, tally.add)
    ready()
    while not tally.is_finished():
        await asyncio.sleep(0.02)
        tally.board.note(tally.index, tally.count)
    return tally.result()


async def sub_delays(job: Job) -> Result:
    tally, samples = Tally(job), list[int]()

    def on(value: bytes) -> None:
        samples.append(time.monotonic_ns() - STAMP.unpack_from(value)[0])
        tally.add(value)

    await _consume(job, on)
    ready()
    while not tally.is_finished():
        await asyncio.sleep(0.05)
        if samples:
            tally.stamp()
    return tally.result(**spread(samples[1:]))


# -- requests ----------------------------------------------------------------------------------

REPLY_TO = "amq.rabbitmq.reply-to"


async def serve(job: Job) -> Result:
    import pika

    channel = await _channel(job)

    def on(_channel: Any, _method: Any, asked: Any, value: bytes) -> None:
        told = pika.BasicProperties(correlation_id=asked.correlation_id)
        channel.basic_publish("", asked.reply_to, value, told)

    await _called(channel.queue_declare, "r")
    await _called(channel.basic_consume, "r", on, auto_ack=True)
    ready()
    await asyncio.Event().wait()  # the parent ends it
    return {}


async def ask(job: Job) -> Result:
    import pika

    channel, asking = await _channel(job), Asking(job)
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(value: bytes) -> None:
        properties = pika.BasicProperties(reply_to=REPLY_TO, correlation_id=value[:8].hex())
        channel.basic_publish("", "r", value, properties)

    def on(_channel: Any, _method: Any, told: Any, reply: bytes) -> None:
        if over.done():
            return
        try:
            if told.correlation_id != reply[:8].hex():
                raise WrongReply("a reply with the number of another")
            following = asking.replied(reply)
        except WrongReply as error:
            over.set_exception(error)
            return
        if following is not None:
            send(following)
        elif asking.is_over:
            over.set_result(None)

    await _called(channel.basic_consume, REPLY_TO, on, auto_ack=True)
    asking.begin()
    for value in asking.first():
        send(value)
    await asyncio.wait_for(over, job.seconds + REPLY_SECONDS)
    return asking.result()


ROLES = {
    main.__name__: on_a_loop(main)
    for main in (
        *(stream_pub, stream_live, stream_all),
        *(queue_pub, put, work, pub, pub_paced, sub, sub_delays),
        *(serve, ask),
    )
}

# -- the server --------------------------------------------------------------------------------

_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
stream.listeners.tcp.1 = 127.0.0.1:{stream_port}
stream.advertised_host = 127.0.0.1
stream.advertised_port = {stream_port}
disk_free_limit.absolute = 1GB
log.console = false
log.file.level = warning
"""


@contextlib.contextmanager
def _server(settings: Settings, module: str) -> Iterator[tuple[Team, str]]:
    """A fresh server; the address is "<port>,<port of streams>"."""
    need_module(module)
    # Debian's wrapper in sbin changes the user; the script itself runs as anyone.
    program = need_program("rabbitmq-server", "/usr/lib/rabbitmq/bin")
    mapper = need_program("epmd")
    port, stream_port, mapper_port = free_port(), free_port(), free_port()
    with Team(settings.directory) as team:
        folder = data_folder(team)
        config, plugins = folder / "rabbitmq.conf", folder / "enabled_plugins"
        config.write_text(_CONFIG.format(port=port, stream_port=stream_port), encoding="utf-8")
        plugins.write_text("[rabbitmq_stream].\n", encoding="utf-8")
        environment = {
            "HOME": folder,
            "RABBITMQ_NODENAME": f"bench{port}@localhost",
            "RABBITMQ_MNESIA_BASE": folder / "mnesia",
            "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_CONFIG_FILE": config,
            "RABBITMQ_ENABLED_PLUGINS_FILE": plugins,
            "RABBITMQ_PID_FILE": folder / "pid",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_DIST_PORT": free_port(),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": mapper_port,
        }
        # Without one, RabbitMQ leaves a daemon of its own behind that listens on every address.
        argv = [mapper, "-port", str(mapper_port), "-address", "127.0.0.1"]
        wait_port(team.server(argv, "epmd"), mapper_port)
        argv = ["env", *(f"{name}={value}" for name, value in environment.items()), program]
        server = team.server(argv, "rabbitmq")
        wait_port(server, port, START_SECONDS)
        wait_port(server, stream_port, START_SECONDS)
        yield team, f"{port},{stream_port}"


def publish_stream(settings: Settings) -> Figures:
    with _server(settings, "rstream") as (team, address):
        return confirmed(team.run(MODULE, [], ("stream_pub", job_for(settings, address)))[1])


def publish_quorum(settings: Settings) -> Figures:
    with _server(settings, "pika") as (team, address):
        job = job_for(settings, address, options=QUORUM)
        return confirmed(team.run(MODULE, [], ("queue_pub", job))[1])


def end_to_end_stream(settings: Settings) -> Figures:
    with _server(settings, "rstream") as (team, address):
        board = team.board()
        reader = job_for(settings, address, board=board)
        writer = job_for(settings, address, board=board)
        return received(*team.run(MODULE, [("stream_live", reader)], ("stream_pub", writer)))


def replay_stream(settings: Settings) -> Figures:
    with _server(settings, "rstream") as (team, address):
        job = job_for(settings, address, count=settings.records)
        team.run(MODULE, [], ("stream_pub", job))
        _, read = team.run(MODULE, [], ("stream_all", job))
        return {"rate": read["count"] / read["seconds"]}


def _work_queue(settings: Settings, kind: dict[str, Any]) -> Figures:
    with _server(settings, "pika") as (team, address):
        return queue(team, MODULE, settings, address, kind)


def work_queue_classic(settings: Settings) -> Figures:
    return _work_queue(settings, CLASSIC)


def work_queue_quorum(settings: Settings) -> Figures:
    return _work_queue(settings, QUORUM)


def transient(settings: Settings) -> Figures:
    with _server(settings, "pika") as (team, address):
        return fan(team, MODULE, settings, address, 1, WINDOW["one"])


def latency(settings: Settings) -> Figures:
    with _server(settings, "pika") as (team, address):
        return lone(team, MODULE, settings, address, LONE_RATE)


def request(settings: Settings) -> Figures:
    with _server(settings, "pika") as (team, address):
        return requests(team, MODULE, settings, address)
