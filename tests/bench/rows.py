"""What is compared: rows, who takes part in each, and the goals beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median

from meshmq.bench import between_works, direct_works, queue_works, request_works, works
from meshmq.bench.target import Figures, Settings
from tests.bench.peers import (
    disk,
    mosquitto_server,
    nats_server,
    rabbit_server,
    redis_server,
    zenoh_peers,
    zmq_raw,
)
from tests.bench.row import (
    NOT_SYNCED,
    SYNCED,
    Entry,
    Goal,
    Row,
    least,
    most,
    times,
)

PEER_RECORDS = 400_000  # stored for a peer's replay: filling millions would take it minutes
OUTSTANDING = 64  # requests under way at a time


def _peer_replay(run: Callable[[Settings], Figures]) -> Callable[[Settings], Figures]:
    return lambda settings: run(replace(settings, records=min(settings.records, PEER_RECORDS)))


def _outstanding(run: Callable[[Settings], Figures]) -> Callable[[Settings], Figures]:
    return lambda settings: run(replace(settings, outstanding=OUTSTANDING))


PUBLISH = Entry("meshmq", "meshmq publish", works.durable_publish, SYNCED)
MANY = Entry("meshmq-many", "meshmq publish_many", works.durable_publish_many, SYNCED)
DURABLE_PEERS = (
    Entry("redis-always", "Redis Streams, always", redis_server.publish_always, SYNCED),
    Entry("redis-everysec", "Redis Streams, everysec", redis_server.publish_everysec, NOT_SYNCED),
    Entry("jetstream", "NATS JetStream, file", nats_server.publish, NOT_SYNCED),
    Entry("rabbit-stream", "RabbitMQ stream", rabbit_server.publish_stream, NOT_SYNCED),
    Entry("rabbit-quorum", "RabbitMQ quorum queue", rabbit_server.publish_quorum, SYNCED),
    Entry("append", "raw append + fdatasync, 64 KiB", disk.append, SYNCED),
)
FASTEST = ("redis-always", "redis-everysec", "jetstream", "rabbit-stream", "rabbit-quorum")


def _durable_row() -> Row:
    goals = [least("meshmq", 600_000), least("meshmq-many", 800_000)]
    for key in ("meshmq", "meshmq-many"):
        goals += [
            times(key, 5, "redis-always", text="5 x Redis always"),
            times(key, 2, *FASTEST, text="2 x the fastest peer"),
        ]
    goals.append(times("meshmq-aio", 0.6, "meshmq", text="0.6 x publish"))
    aio = Entry("meshmq-aio", "meshmq.aio publish", works.durable_publish_aio, SYNCED)
    title = "durable, confirmed, one producer, 100 B"
    entries = (PUBLISH, MANY, aio, *DURABLE_PEERS)
    return Row("durable-100", title, "rate", "msg/s", entries, tuple(goals))


def _durable_kib_row() -> Row:
    goals = []
    for key in ("meshmq", "meshmq-many"):
        goals += [least(key, 200_000), times(key, 1, "append", text="raw append + fdatasync")]
    title = "durable, confirmed, one producer, 1 KiB"
    entries = (PUBLISH, MANY, *DURABLE_PEERS)
    return Row("durable-1024", title, "rate", "msg/s", entries, tuple(goals), size=1024)


def _end_to_end_row() -> Row:
    return Row(
        "durable-e2e",
        "durable with one live subscriber, end to end",
        "rate",
        "msg/s",
        (
            Entry("meshmq", "meshmq publish", works.durable_e2e, SYNCED),
            Entry("redis-always", "Redis Streams, always", redis_server.end_to_end_always, SYNCED),
            Entry("jetstream", "NATS JetStream, file", nats_server.end_to_end, NOT_SYNCED),
            Entry("rabbit-stream", "RabbitMQ stream", rabbit_server.end_to_end_stream, NOT_SYNCED),
        ),
        (least("meshmq", 400_000), most("meshmq", "lost", 0)),
        others=(("lost", "records"),),
    )


def _topics_rows() -> tuple[Row, Row]:
    publish = Row(
        "topics-publish",
        "durable, 1,000 topics round robin",
        "rate",
        "msg/s",
        (
            Entry("meshmq", "meshmq publish", works.topics_publish, SYNCED),
            Entry("redis-always", "Redis Streams, always", redis_server.topics_always, SYNCED),
            Entry("jetstream", "NATS JetStream, file", nats_server.topics_publish, NOT_SYNCED),
        ),
        (least("meshmq", 150_000),),
    )
    replay = Row(
        "topics-replay",
        "`>` replay of the 1,000 topics",
        "rate",
        "msg/s",
        (Entry("meshmq", "meshmq", works.topics_replay),),
        (least("meshmq", 500_000),),
    )
    return publish, replay


def _transient_row() -> Row:
    goals = [least("meshmq", 600_000), least("meshmq-many", 1_000_000)]
    for key in ("meshmq", "meshmq-many"):
        goals += [times(key, 1.5, "zenoh", text="1.5 x Zenoh"), most(key, "lost", 0)]
    return Row(
        "transient",
        "transient through the node, end to end",
        "rate",
        "msg/s",
        (
            Entry("meshmq", "meshmq publish", works.transient_publish),
            Entry("meshmq-many", "meshmq publish_many", works.transient_publish_many),
            Entry("zenoh", "Zenoh, peer to peer", zenoh_peers.transient),
            Entry("nats", "NATS", nats_server.transient),
            Entry("redis", "Redis pub/sub", redis_server.transient),
            Entry("rabbit", "RabbitMQ fanout exchange", rabbit_server.transient),
            Entry("mosquitto", "mosquitto, QoS 0", mosquitto_server.transient),
            Entry("pyzmq", "pyzmq PUSH/PULL, one a send", zmq_raw.one_a_send),
            Entry("pyzmq-batch", "pyzmq PUSH/PULL, 100 a send", zmq_raw.batches),
            Entry("pyzmq-pub", "pyzmq PUB/SUB, one a send", zmq_raw.pubsub_one_a_send),
            Entry("pyzmq-pub-batch", "pyzmq PUB/SUB, 100 a send", zmq_raw.pubsub_batches),
        ),
        tuple(goals),
        others=(("lost", "records"),),
    )


def _replay_row() -> Row:
    return Row(
        "replay",
        "replay of stored records",
        "rate",
        "msg/s",
        (
            Entry("meshmq", "meshmq", works.replay),
            Entry("meshmq-aio", "meshmq.aio", works.replay_aio),
            Entry("redis", "Redis Streams, XREAD", _peer_replay(redis_server.replay)),
            Entry("jetstream", "NATS JetStream, ordered", _peer_replay(nats_server.replay)),
            Entry("rabbit-stream", "RabbitMQ stream", _peer_replay(rabbit_server.replay_stream)),
        ),
        (
            least("meshmq", 2_000_000),
            times("meshmq-aio", 0.6, "meshmq", text="0.6 x the synchronous client"),
        ),
        note=f"ours reads all stored records, peers at most {PEER_RECORDS:,}",
    )


def _fanout_row() -> Row:
    return Row(
        "fanout",
        "one publisher, ten subscriber processes",
        "rate",
        "deliveries/s",
        (
            Entry("meshmq-many", "meshmq publish_many", works.fanout),
            Entry("zenoh", "Zenoh, peer to peer", zenoh_peers.fanout),
            Entry("nats", "NATS", nats_server.fanout),
            Entry("redis", "Redis pub/sub", redis_server.fanout),
            Entry("mosquitto", "mosquitto, QoS 0", mosquitto_server.fanout),
            Entry("pyzmq", "pyzmq PUB/SUB, one a send", zmq_raw.fanout_one_a_send),
            Entry("pyzmq-batch", "pyzmq PUB/SUB, 100 a send", zmq_raw.fanout_batches),
        ),
        (least("meshmq-many", 2_500_000), most("meshmq-many", "lost", 0)),
        others=(("lost", "records"),),
    )


QUEUE = (
    Entry("meshmq", "meshmq enqueue, work", queue_works.work_queue, SYNCED),
    Entry("redis-always", "Redis Streams group, always", redis_server.work_queue_always, SYNCED),
    Entry(
        "redis-everysec",
        "Redis Streams group, everysec",
        redis_server.work_queue_everysec,
        NOT_SYNCED,
    ),
    Entry("jetstream", "NATS JetStream work queue", nats_server.work_queue, NOT_SYNCED),
    Entry("rabbit-classic", "RabbitMQ classic queue", rabbit_server.work_queue_classic, SYNCED),
    Entry("rabbit-quorum", "RabbitMQ quorum queue", rabbit_server.work_queue_quorum, SYNCED),
    Entry("pyzmq", "pyzmq PUSH/PULL, acks, one a send", zmq_raw.work_queue_one_a_send),
    Entry("pyzmq-batch", "pyzmq PUSH/PULL, acks, 100 a send", zmq_raw.work_queue_batches),
)
QUEUE_SYNCED = ("redis-always", "rabbit-classic", "rabbit-quorum")


def _queue_rows() -> tuple[Row, Row]:
    def row(size: int, text: str, *goals: Goal) -> Row:
        return Row(
            f"queue-{size}",
            f"work queue: one producer, two workers, an ack for each record, {text}",
            "rate",
            "msg/s",
            QUEUE,
            (*goals, most("meshmq", "lost", 0), most("meshmq", "doubled", 0)),
            others=(("lost", "records"), ("doubled", "records"), ("unacked", "records")),
            size=size,
        )

    fastest = ("redis-everysec", "jetstream", *QUEUE_SYNCED)
    return (
        row(
            100,
            "100 B",
            least("meshmq", 250_000),
            times("meshmq", 4, *QUEUE_SYNCED, text="4 x the fastest peer that syncs"),
        ),
        row(
            1024,
            "1 KiB",
            least("meshmq", 80_000),
            times("meshmq", 1.5, *fastest, text="1.5 x the fastest peer"),
        ),
    )


def _group_rows() -> tuple[Row, ...]:
    """What groups and queues do beside the flow; only ours, each against a run without it."""
    faults = (most("meshmq-key", "lost", 0), most("meshmq-key", "doubled", 0))
    order = Row(
        "queue-key",
        f"work queue with {queue_works.KEYS:,} keys, {queue_works.KEY_WORKERS} workers",
        "rate",
        "msg/s",
        (
            Entry("meshmq-key", "meshmq, order by key", queue_works.queue_key, SYNCED),
            Entry("meshmq-any", "meshmq, any order", queue_works.queue_any, SYNCED),
        ),
        (times("meshmq-key", 0.7, "meshmq-any", text="70 % of any order"), *faults),
    )
    waiting = Row(
        "queue-backlog",
        f"hand-out of a queue of {queue_works.BACKLOG:,} of which {queue_works.DELAYED:,} were "
        "nacked with a delay, against one without",
        "ratio",
        "",
        (Entry("meshmq", "meshmq work", queue_works.backlog, SYNCED),),
        (least("meshmq", 0.8, "ratio"), most("meshmq", "peak", 200)),
        others=(("rate", "msg/s"), ("empty", "msg/s"), ("peak", "MiB")),
    )
    groups = Row(
        "queue-groups",
        f"a group's cost at the node with {queue_works.GROUPS} groups on a topic, against one",
        "ratio",
        "",
        (Entry("meshmq", "meshmq consume", queue_works.groups, SYNCED),),
        (most("meshmq", "ratio", 1.3),),
        others=(("one", "us/msg"), ("each", "us/msg")),
    )
    killed = Row(
        "queue-killed",
        "a worker is killed: until its records are with another (a dead session is noticed "
        "within a second, its records wait half of one)",
        "seconds",
        "s",
        (Entry("meshmq", "meshmq work", queue_works.killed, SYNCED),),
        (most("meshmq", "seconds", 2),),
    )
    schedule = Row(
        "queue-schedule",
        "scheduled jobs, how late they come",
        "p50",
        "us",
        (Entry("meshmq", "meshmq enqueue(delay=)", queue_works.schedule, SYNCED),),
        (most("meshmq", "max", 50_000), most("meshmq", "early", 0)),
        others=(("p99", "us"), ("max", "us"), ("early", "jobs")),
    )
    return order, waiting, groups, killed, schedule


def _lone_rows() -> tuple[Row, Row]:
    latency = Row(
        "latency",
        "lone messages, 1,000 a second, transient, publish to receive",
        "p50",
        "us",
        (
            Entry("meshmq", "meshmq publish", works.latency),
            Entry("forwarder", "pyzmq DEALER-ROUTER-DEALER", zmq_raw.forwarder),
            Entry("nats", "NATS", nats_server.latency),
            Entry("redis", "Redis pub/sub", redis_server.latency),
            Entry("rabbit", "RabbitMQ fanout exchange", rabbit_server.latency),
            Entry("mosquitto", "mosquitto, QoS 0", mosquitto_server.latency),
            Entry("zenoh", "Zenoh, peer to peer (no node)", zenoh_peers.latency),
        ),
        (
            Goal("meshmq", "p50", False, 1.6, ("forwarder",), text="1.6 x the forwarder"),
            Goal("meshmq", "p50", False, 1, ("nats",), text="NATS"),
            Goal("meshmq", "p50", False, 1, ("redis",), text="Redis"),
        ),
        others=(("p99", "us"),),
    )
    confirm = Row(
        "confirm",
        "durable confirm of a lone message",
        "p50",
        "us",
        (
            Entry("meshmq", "meshmq publish().wait()", works.confirm_latency, SYNCED),
            Entry("round-trip", "pyzmq round trip", zmq_raw.round_trip),
            Entry("write", "raw write + fdatasync", disk.write_one, SYNCED),
        ),
        (
            Goal(
                "meshmq",
                "p50",
                False,
                2,
                ("round-trip", "write"),
                is_sum=True,
                text="2 x (round trip + write and sync)",
            ),
        ),
        others=(("p99", "us"),),
    )
    return latency, confirm


BROKERED = ("nats", "redis", "rabbit")  # requests through a server


def _request_row() -> Row:
    return Row(
        "request",
        "request-reply, one at a time",
        "p50",
        "us",
        (
            Entry("meshmq", "meshmq request", request_works.request),
            Entry("meshmq-aio", "meshmq.aio request", request_works.request_aio),
            Entry("broker", "pyzmq ROUTER-ROUTER broker", zmq_raw.request_broker),
            Entry("direct", "pyzmq DEALER-ROUTER (no broker)", zmq_raw.request_direct),
            Entry("nats", "NATS", nats_server.request),
            Entry("redis", "Redis lists", redis_server.request),
            Entry("rabbit", "RabbitMQ direct reply-to", rabbit_server.request),
            Entry("zenoh", "Zenoh get, peer to peer (no node)", zenoh_peers.request),
        ),
        (
            Goal("meshmq", "p50", False, 1.6, ("broker",), text="1.6 x the bare broker"),
            Goal("meshmq", "p50", False, 1, BROKERED, text="the fastest brokered peer"),
        ),
        others=(("p99", "us"),),
    )


def _request_many_row() -> Row:
    def entry(key: str, label: str, run: Callable[[Settings], Figures]) -> Entry:
        return Entry(key, label, _outstanding(run))

    return Row(
        f"request-{OUTSTANDING}",
        f"request-reply, {OUTSTANDING} outstanding",
        "rate",
        "requests/s",
        (
            entry("meshmq", f"meshmq request, {OUTSTANDING} threads", request_works.request),
            entry(
                "meshmq-nowait", "meshmq request_nowait, one thread", request_works.request_nowait
            ),
            entry("meshmq-aio", f"meshmq.aio, {OUTSTANDING} tasks", request_works.request_aio),
            entry("broker", "pyzmq ROUTER-ROUTER broker", zmq_raw.request_broker),
            entry("direct", "pyzmq DEALER-ROUTER (no broker)", zmq_raw.request_direct),
            entry("nats", "NATS", nats_server.request),
            entry("redis", "Redis lists, a connection each", redis_server.request_pool),
            entry("redis-batch", "Redis lists, common pipelines", redis_server.request),
            entry("rabbit", "RabbitMQ direct reply-to", rabbit_server.request),
            entry("zenoh", "Zenoh get, peer to peer (no node)", zenoh_peers.request),
        ),
        (
            *[
                times(key, 1.5, "broker", text="1.5 x the bare broker")
                for key in ("meshmq", "meshmq-nowait")
            ],
            *[
                times(key, 2, *BROKERED, "zenoh", text="2 x the fastest peer")
                for key in ("meshmq", "meshmq-nowait")
            ],
            times("meshmq-aio", 0.6, "meshmq", text="0.6 x the synchronous client"),
        ),
        others=(("p50", "us"), ("p99", "us")),
        note="Redis in common pipelines is no peer of the goal: its requests are not independent, "
        "they go out and come back as batches that the requester makes up",
    )


def _direct_rows() -> tuple[Row, ...]:
    """Between two programs, with no node."""

    def records(size: int, key: str, title: str, goals: tuple[Goal, ...]) -> Row:
        return Row(
            key, title, "rate", "msg/s",
            (
                Entry("meshmq", "meshmq publish", direct_works.publish),
                Entry("meshmq-many", "meshmq publish_many", direct_works.publish_many),
                Entry("zenoh", "Zenoh, peer to peer", zenoh_peers.transient),
                Entry("pyzmq", "pyzmq PUSH/PULL, one a send", zmq_raw.one_a_send),
                Entry("pyzmq-pub", "pyzmq PUB/SUB, one a send", zmq_raw.pubsub_one_a_send),
            ),
            (*goals, most("meshmq", "lost", 0), most("meshmq-many", "lost", 0)),
            others=(("lost", "records"),), size=size,
        )  # fmt: skip

    raw = tuple(
        times(key, 0.8, "pyzmq", text="0.8 x pyzmq, one a send")
        for key in ("meshmq", "meshmq-many")
    )
    small = (
        least("meshmq", 700_000), least("meshmq-many", 1_500_000),
        *[times(key, 2, "zenoh", text="2 x Zenoh") for key in ("meshmq", "meshmq-many")],
    )  # fmt: skip
    one = Row(
        "direct-request", "request-reply without a node, one at a time", "p50", "us",
        (
            Entry("meshmq", "meshmq request", direct_works.request),
            Entry("meshmq-aio", "meshmq.aio request", direct_works.request_aio),
            Entry("direct", "pyzmq DEALER-ROUTER", zmq_raw.request_direct),
            Entry("nats", "NATS", nats_server.request),
            Entry("redis", "Redis lists", redis_server.request),
            Entry("rabbit", "RabbitMQ direct reply-to", rabbit_server.request),
            Entry("zenoh", "Zenoh get, peer to peer", zenoh_peers.request),
        ),
        (
            Goal("meshmq", "p50", False, 1.6, ("direct",), text="1.6 x pyzmq DEALER-ROUTER"),
            Goal("meshmq", "p50", False, 1, (*BROKERED, "zenoh"), text="the fastest peer"),
        ),
        others=(("p99", "us"),),
    )  # fmt: skip
    nowait = Entry(
        "meshmq-nowait", "meshmq request_nowait, one thread", direct_works.request_nowait
    )
    many = Row(
        f"direct-request-{OUTSTANDING}",
        f"request-reply without a node, {OUTSTANDING} outstanding", "rate", "requests/s",
        tuple([replace(entry, run=_outstanding(entry.run)) for entry in (*one.entries, nowait)]),
        (
            times("meshmq", 1.5, "direct", text="1.5 x pyzmq DEALER-ROUTER"),
            times("meshmq-nowait", 1.5, "direct", text="1.5 x pyzmq DEALER-ROUTER"),
            times("meshmq-aio", 0.6, "meshmq", text="0.6 x the synchronous client"),
        ),
        others=(("p50", "us"), ("p99", "us")),
    )  # fmt: skip
    return (
        records(100, "direct", "between two programs without a node, end to end", small),
        records(1024, "direct-kib", "the same, values of 1 KiB", raw),
        records(65_536, "direct-64-kib", "the same, values of 64 KiB", raw),
        one, many,
    )  # fmt: skip


def _site_rows() -> tuple[Row, ...]:
    """Between two nodes of a site; only ours, each against the same with one node, or bare."""
    transient = Row(
        "site-transient", "transient, published at one node and read at another", "rate", "msg/s",
        (
            Entry("meshmq", "meshmq publish, two nodes", between_works.publish),
            Entry("meshmq-many", "meshmq publish_many, two nodes", between_works.publish_many),
            Entry("meshmq-one", "meshmq publish, one node", works.transient_publish),
            Entry("meshmq-one-many", "meshmq publish_many, one node", works.transient_publish_many),
        ),
        (
            times("meshmq", 0.5, "meshmq-one", text="0.5 x one node"),
            times("meshmq-many", 0.5, "meshmq-one-many", text="0.5 x one node"),
            most("meshmq", "lost", 0), most("meshmq-many", "lost", 0),
        ),
        others=(("lost", "records"),),
    )  # fmt: skip
    latency = Row(
        "site-latency", "lone messages, 1,000 a second, from node to node", "p50", "us",
        (
            Entry("meshmq", "meshmq publish, two nodes", between_works.latency),
            Entry("meshmq-one", "meshmq publish, one node", works.latency),
            Entry("chain", "pyzmq DEALER-ROUTER-DEALER-ROUTER-DEALER", zmq_raw.chain),
        ),
        (Goal("meshmq", "p50", False, 1.6, ("chain",), text="1.6 x the bare chain"),),
        others=(("p99", "us"),),
    )  # fmt: skip
    replay = Row(
        "site-replay", "replay of what another node stores, against the own node's", "share", "",
        (Entry("meshmq", "meshmq", between_works.replay),),
        (least("meshmq", 0.6, "share"),),
        others=(("rate", "msg/s"), ("local", "msg/s")),
    )  # fmt: skip
    replicated = Row(
        "site-replicated", "confirmed when two nodes have synced it, against one", "share", "",
        (Entry("meshmq", "meshmq publish_many", between_works.replicated, SYNCED),),
        (least("meshmq", 0.5, "share"),),
        others=(("rate", "msg/s"), ("synced", "msg/s")),
    )  # fmt: skip
    return transient, latency, replay, replicated


def _footprint_rows() -> tuple[Row, Row, Row]:
    steady = Row(
        "steady",
        "50,000 single publishes a second, durable",
        "node_cpu",
        "cores",
        (Entry("meshmq", "meshmq publish", works.steady, SYNCED),),
        (
            most("meshmq", "node_cpu", 0.7),
            most("meshmq", "client_cpu", 0.7),
            least("meshmq", 49_500),
        ),
        others=(("client_cpu", "cores"), ("rate", "msg/s")),
    )
    idle = Row(
        "idle",
        "idle node",
        "rss",
        "MiB",
        (Entry("meshmq", "meshmq node", works.idle),),
        (
            most("meshmq", "rss", 60),
            most("meshmq", "cpu_percent", 1),
            most("meshmq", "ready", 1),
            most("meshmq", "help", 0.4),
        ),
        others=(("cpu_percent", "% of a core"), ("ready", "s"), ("help", "s")),
    )
    memory = Row(
        "memory",
        "node memory: records stored in 200 topics, one stalled subscriber",
        "peak",
        "MiB",
        (Entry("meshmq", "meshmq node", works.memory),),
        (most("meshmq", "peak", 200),),
        others=(("rss", "MiB"),),
    )
    return steady, idle, memory


ROWS: dict[str, Row] = {
    row.key: row
    for row in (
        _durable_row(),
        _durable_kib_row(),
        _end_to_end_row(),
        *_topics_rows(),
        _transient_row(),
        _replay_row(),
        _fanout_row(),
        *_queue_rows(),
        *_group_rows(),
        *_lone_rows(),
        _request_row(),
        _request_many_row(),
        *_direct_rows(),
        *_site_rows(),
        *_footprint_rows(),
    )
}


def medians_of(runs: Mapping[str, list[Figures]]) -> dict[str, dict[str, float]]:
    """Median of every figure of every entry that was measured at least once."""
    return {
        key: {figure: median(run[figure] for run in seen) for figure in seen[0]}
        for key, seen in runs.items()
        if seen
    }
