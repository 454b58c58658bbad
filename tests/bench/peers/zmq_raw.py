"""pyzmq with nothing on top: the ceiling. Nothing is stored, sequenced or resent."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

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
from meshmq.bench.works import FANOUT_RECEIVERS, LONE_RATE, Figures, Settings
from tests.bench.peers.common import (
    CHUNK,
    WINDOW,
    fan,
    free_port,
    job_for,
    lone,
    one_way,
    queue,
    requests,
    sent_result,
)

MODULE = __name__
HIGH_WATER = 100_000  # messages; above any window used here, so that PUB drops nothing
LENGTH = struct.Struct("<I")
NUMBER_BYTES = 8  # of a queue's record, and of its acknowledgement
CREDIT = {"one": 4096, "batch": 16_384}  # records that may be without acknowledgement
ACK_SECONDS = 30
UP_SECONDS = 20
SETTLE_SECONDS = 0.5  # a SUB's subscription reaches its PUB some time after connect


def _socket(kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.sndhwm = socket.rcvhwm = HIGH_WATER
    return socket


def _one_by_one(socket: zmq.Socket[bytes]) -> Callable[[Sequence[bytes]], None]:
    send = socket.send

    def many(values: Sequence[bytes]) -> None:
        for value in values:
            send(value)

    return many


def _batches(socket: zmq.Socket[bytes]) -> Callable[[Sequence[bytes]], None]:
    send, pack = socket.send, LENGTH.pack

    def many(values: Sequence[bytes]) -> None:
        send(b"".join([part for value in values for part in (pack(len(value)), value)]))

    return many


def pub(job: Job) -> dict[str, Any]:
    socket = _socket(zmq.PUB if job.options["kind"] == "pub" else zmq.PUSH)
    socket.bind(job.address)
    time.sleep(SETTLE_SECONDS)
    ready_then_go()
    send = _batches(socket) if job.options["batch"] else _one_by_one(socket)
    sent = send_chunks(job, send, CHUNK)
    Board(job.board).finish(sent.count)
    # The kernel may still hold what was sent: stay until the receivers have it.
    board, until = Board(job.board), time.monotonic() + 10
    while board.least(job.receivers) < sent.count and time.monotonic() < until:
        time.sleep(0.01)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def _split(data: bytes) -> list[bytes]:
    values, at, end = [], 0, len(data)
    while at < end:
        size: int = LENGTH.unpack_from(data, at)[0]
        values.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return values


def _receive(socket: zmq.Socket[bytes], tally: Tally, on: Callable[[bytes], object]) -> None:
    """Every frame to ``on`` until ``tally`` is finished."""
    socket.rcvtimeo, receive = 100, socket.recv
    while not tally.is_finished():
        try:
            while True:
                on(receive())
        except zmq.Again:
            # No new stamp: the last one must stay within `step` messages of the last message.
            tally.board.note(tally.index, tally.count)


def sub(job: Job) -> dict[str, Any]:
    socket = _socket(zmq.SUB if job.options["kind"] == "pub" else zmq.PULL)
    if job.options["kind"] == "pub":
        socket.subscribe(b"")
    socket.connect(job.address)
    tally = Tally(job)

    def on_batch(data: bytes) -> None:
        for value in _split(data):
            tally.add(value)
        tally.stamp()

    ready()
    _receive(socket, tally, on_batch if job.options["batch"] else tally.add)
    return tally.result()


def put(job: Job) -> dict[str, Any]:
    """Push as far as the acknowledgements allow: at most a credit ahead of them."""
    records, acks = _socket(zmq.PUSH), _socket(zmq.PULL)
    records.bind(job.address)
    acks.bind(job.options["acks"])
    acks.rcvtimeo = ACK_SECONDS * 1000
    batched = job.options["batch"]
    send, credit = (_batches if batched else _one_by_one)(records), job.options["credit"]
    unacked = 0

    def settle(most: int) -> None:
        """Take acknowledgements: all that are here, and until no more than ``most`` are missing."""
        nonlocal unacked
        while unacked > most or acks.poll(0):
            unacked -= len(acks.recv()) // NUMBER_BYTES

    def push(values: Sequence[bytes]) -> None:
        nonlocal unacked
        settle(credit - len(values))
        send(values)
        unacked += len(values)

    time.sleep(SETTLE_SECONDS)
    ready_then_go()
    sent = send_chunks(job, push, CHUNK)
    Board(job.board).finish(sent.count)
    with contextlib.suppress(zmq.Again):  # lost; the workers' counts tell it too
        settle(0)
    return {**sent_result(sent.count, sent.start_ns, sent.stop_ns), "unacked": unacked}


def work(job: Job) -> dict[str, Any]:
    records, acks, tally = _socket(zmq.PULL), _socket(zmq.PUSH), WorkTally(job)
    records.connect(job.address)
    acks.connect(job.options["acks"])
    acknowledge = acks.send

    def on_one(value: bytes) -> None:
        tally.add(value)
        acknowledge(value[:NUMBER_BYTES])

    def on_batch(data: bytes) -> None:
        values = _split(data)
        for value in values:
            tally.add(value)
        acknowledge(b"".join([value[:NUMBER_BYTES] for value in values]))
        tally.stamp()

    ready()
    _receive(records, tally, on_batch if job.options["batch"] else on_one)
    return tally.result()


def forward(job: Job) -> dict[str, Any]:
    """A bare node: whatever comes from "p" goes to "s"."""
    socket = _socket(zmq.ROUTER)
    socket.bind(job.address)
    ready()
    while True:
        socket.send_multipart((b"s", socket.recv_multipart()[1]))


def pass_on(job: Job) -> dict[str, Any]:
    """The first of two bare nodes: whatever comes goes to the second, as if it were "p"."""
    socket, onward = _socket(zmq.ROUTER), _socket(zmq.DEALER)
    onward.routing_id = b"p"
    onward.connect(job.options["second"])
    socket.bind(job.address)
    ready()
    while True:
        onward.send(socket.recv_multipart()[1])


def echo(job: Job) -> dict[str, Any]:
    socket = _socket(zmq.ROUTER)
    socket.bind(job.address)
    ready()
    while True:
        socket.send_multipart(socket.recv_multipart())


def _dealer(job: Job, name: bytes) -> zmq.Socket[bytes]:
    socket = _socket(zmq.DEALER)
    socket.routing_id = name
    socket.connect(job.address)
    return socket


def pub_paced(job: Job) -> dict[str, Any]:
    socket = _dealer(job, b"p")
    time.sleep(SETTLE_SECONDS)
    ready_then_go()
    sent = send_paced(job, socket.send)
    Board(job.board).finish(sent.count)
    time.sleep(0.5)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def sub_delays(job: Job) -> dict[str, Any]:
    socket = _dealer(job, b"s")
    socket.rcvtimeo = 100
    tally, samples, clock = Tally(job), list[int](), time.monotonic_ns
    ready()
    while not tally.is_finished():
        try:
            data = socket.recv()
        except zmq.Again:
            continue
        samples.append(clock() - STAMP.unpack_from(data)[0])
        tally.add(data)
        tally.stamp()
    return tally.result(**spread(samples[1:]))


def round_trips(job: Job) -> dict[str, Any]:
    socket = _dealer(job, b"p")
    value = job.values()[0]
    socket.send(value)
    socket.recv()
    ready_then_go()
    samples, clock, end = [], time.monotonic_ns, time.monotonic() + job.seconds
    while time.monotonic() < end:
        start = clock()
        socket.send(value)
        socket.recv()
        samples.append(clock() - start)
    return spread(samples)


def broker(job: Job) -> dict[str, Any]:
    """A bare node: from whoever asks at one ROUTER to the service at another, and back.

    The service's first message, alone of its kind, says that it is there; it is echoed.
    """
    front, back = _socket(zmq.ROUTER), _socket(zmq.ROUTER)
    front.bind(job.address)
    back.bind(job.options["back"])
    ready()
    service, hello = back.recv_multipart()
    back.send_multipart((service, hello))

    def to_service() -> None:
        while True:
            back.send_multipart((service, *front.recv_multipart(zmq.NOBLOCK)))

    def to_requester() -> None:
        while True:
            front.send_multipart(back.recv_multipart(zmq.NOBLOCK)[1:])

    ways, poller = {front: to_service, back: to_requester}, zmq.Poller()
    for socket in ways:
        poller.register(socket, zmq.POLLIN)
    while True:
        for socket, _ in poller.poll():
            with contextlib.suppress(zmq.Again):
                ways[socket]()


def serve(job: Job) -> dict[str, Any]:
    """Behind ``broker``: echo, with the requester's address in front."""
    socket = _socket(zmq.DEALER)
    socket.connect(job.options["back"])
    socket.rcvtimeo = UP_SECONDS * 1000
    socket.send(b"here")
    socket.recv()
    socket.rcvtimeo = -1
    ready()
    while True:
        socket.send_multipart(socket.recv_multipart())


def ask(job: Job) -> dict[str, Any]:
    socket, asking = _dealer(job, b"p"), Asking(job)
    socket.rcvtimeo = int(REPLY_SECONDS * 1000)
    socket.send(asking.probe())
    socket.recv()
    asking.begin()
    for value in asking.first():
        socket.send(value)
    while not asking.is_over:
        following = asking.replied(socket.recv())
        if following is not None:
            socket.send(following)
    return asking.result()


ROLES = {
    "pub": pub,
    "sub": sub,
    "put": put,
    "work": work,
    "forward": forward,
    "pass_on": pass_on,
    "echo": echo,
    "pub_paced": pub_paced,
    "sub_delays": sub_delays,
    "round_trips": round_trips,
    "broker": broker,
    "serve": serve,
    "ask": ask,
}


def _address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def _fan(settings: Settings, kind: str, batch: bool, receivers: int) -> Figures:
    window = WINDOW["batch" if batch else "one" if receivers == 1 else "fanout"]
    window = min(window, max(256, 16 * 1024 * 1024 // settings.size))
    with Team(settings.directory) as team:
        options = {"kind": kind, "batch": batch}
        return fan(team, MODULE, settings, _address(), receivers, window, options)


def one_a_send(settings: Settings) -> Figures:
    return _fan(settings, "push", False, 1)


def batches(settings: Settings) -> Figures:
    return _fan(settings, "push", True, 1)


def pubsub_one_a_send(settings: Settings) -> Figures:
    return _fan(settings, "pub", False, 1)


def pubsub_batches(settings: Settings) -> Figures:
    return _fan(settings, "pub", True, 1)


def fanout_one_a_send(settings: Settings) -> Figures:
    return _fan(settings, "pub", False, FANOUT_RECEIVERS)


def fanout_batches(settings: Settings) -> Figures:
    return _fan(settings, "pub", True, FANOUT_RECEIVERS)


def _work_queue(settings: Settings, kind: str) -> Figures:
    options = {"batch": kind == "batch", "credit": CREDIT[kind], "acks": _address()}
    with Team(settings.directory) as team:
        return queue(team, MODULE, settings, _address(), options)


def work_queue_one_a_send(settings: Settings) -> Figures:
    return _work_queue(settings, "one")


def work_queue_batches(settings: Settings) -> Figures:
    return _work_queue(settings, "batch")


def forwarder(settings: Settings) -> Figures:
    """Lone messages over DEALER, ROUTER, DEALER."""
    with Team(settings.directory) as team:
        address = _address()
        job = job_for(settings, address)
        return lone(team, MODULE, settings, address, LONE_RATE, [("forward", job)])


def chain(settings: Settings) -> Figures:
    """Lone messages through two bare nodes: DEALER, ROUTER, DEALER, ROUTER, DEALER."""
    with Team(settings.directory) as team:
        first, second = _address(), _address()
        behind = job_for(settings, second)
        before = job_for(settings, first, options={"second": second})
        board = team.board()
        reader = job_for(settings, second, board=board)
        writer = job_for(settings, first, board=board, rate=LONE_RATE)
        nodes = [("forward", behind), ("pass_on", before)]
        got, _ = team.run(MODULE, [("sub_delays", reader)], ("pub_paced", writer), background=nodes)
        return one_way(got)


def round_trip(settings: Settings) -> Figures:
    with Team(settings.directory) as team:
        job = job_for(settings, _address())
        _, found = team.run(MODULE, [], ("round_trips", job), background=[("echo", job)])
        return {key: found[key] for key in ("p50", "p99", "p999")}


def request_direct(settings: Settings) -> Figures:
    """From a DEALER to the service's ROUTER, nothing between."""
    with Team(settings.directory) as team:
        return requests(team, MODULE, settings, _address(), before=("echo",))


def request_broker(settings: Settings) -> Figures:
    """Through a process that forwards from a ROUTER to a ROUTER and does nothing else."""
    with Team(settings.directory) as team:
        options = {"back": _address()}
        before = ("broker", "serve")
        return requests(team, MODULE, settings, _address(), before=before, options=options)
