"""mosquitto from paho-mqtt with its thread: QoS 0, for what is transient.

Not among the durable ones: its confirmation of QoS 1 follows no write, what it keeps goes to a
snapshot every half an hour.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
    CHUNK,
    WINDOW,
    fan,
    free_port,
    lone,
    need_module,
    need_program,
    sent_result,
    wait_port,
)

MODULE = __name__


def _client(job: Job) -> Any:
    from paho.mqtt import client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_queued_messages_set(0)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", int(job.address), 600)
    client.loop_start()
    if not connected.wait(10):
        raise TimeoutError("mosquitto did not answer")
    return client


def _subscribed(job: Job, on: Callable[[bytes], None]) -> Any:
    client, subscribed = _client(job), threading.Event()
    client.on_message = lambda _client, _data, message: on(message.payload)
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe("t", 0)
    if not subscribed.wait(10):
        raise TimeoutError("mosquitto did not answer")
    return client


def _finish(job: Job, client: Any, sent: int, last: Any) -> None:
    last.wait_for_publish(30)
    Board(job.board).finish(sent)
    client.disconnect()
    client.loop_stop()


def pub(job: Job) -> dict[str, Any]:
    client, last = _client(job), None

    def send(values: Sequence[bytes]) -> None:
        nonlocal last
        for value in values:
            last = client.publish("t", value)

    ready_then_go()
    sent = send_chunks(job, send, CHUNK)
    _finish(job, client, sent.count, last)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def pub_paced(job: Job) -> dict[str, Any]:
    client, last = _client(job), None

    def send(value: bytes) -> None:
        nonlocal last
        last = client.publish("t", value)

    ready_then_go()
    sent = send_paced(job, send)
    _finish(job, client, sent.count, last)
    return sent_result(sent.count, sent.start_ns, sent.stop_ns)


def sub(job: Job) -> dict[str, Any]:
    tally = Tally(job)
    client = _subscribed(job, tally.add)
    ready()
    while not tally.is_finished():
        time.sleep(0.02)
        tally.board.note(tally.index, tally.count)
    client.disconnect()
    return tally.result()


def sub_delays(job: Job) -> dict[str, Any]:
    tally, samples = Tally(job), list[int]()

    def on(value: bytes) -> None:
        samples.append(time.monotonic_ns() - STAMP.unpack_from(value)[0])
        tally.add(value)
        tally.stamp()

    client = _subscribed(job, on)
    ready()
    while not tally.is_finished():
        time.sleep(0.05)
    client.disconnect()
    return tally.result(**spread(samples[1:]))


ROLES = {"pub": pub, "sub": sub, "pub_paced": pub_paced, "sub_delays": sub_delays}

_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 0
set_tcp_nodelay true
persistence false
log_type error
"""


@contextlib.contextmanager
def _server(settings: Settings) -> Iterator[tuple[Team, str]]:
    need_module("paho")
    program = need_program("mosquitto")
    port = free_port()
    with Team(settings.directory) as team:
        config = team.path("mosquitto.conf")
        config.write_text(_CONFIG.format(port=port), encoding="utf-8")
        wait_port(team.server([program, "-c", str(config)], "mosquitto"), port)
        yield team, str(port)


def transient(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return fan(team, MODULE, settings, address, 1, WINDOW["one"])


def fanout(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return fan(team, MODULE, settings, address, FANOUT_RECEIVERS, WINDOW["fanout"])


def latency(settings: Settings) -> Figures:
    with _server(settings) as (team, address):
        return lone(team, MODULE, settings, address, LONE_RATE)
