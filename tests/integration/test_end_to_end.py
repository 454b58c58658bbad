"""One node and its clients over real sockets and a real disk."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import meshmq


def drain(subscription, count):
    """The next ``count`` messages; what is missing after 10 s fails the test."""
    messages = []
    while len(messages) < count:
        more = subscription.fetch(count - len(messages), timeout=10)
        assert more, f"{len(messages)} of {count} came"
        messages += more
    return messages


def places(messages):
    return [(m.topic, m.offset, m.value) for m in messages]


def test_a_record_is_confirmed_and_received_with_all_it_carries(node):
    with meshmq.connect(node.url) as mesh, mesh.subscribe("orders.>") as sub:
        receipt = mesh.publish(
            "orders.eu", b"value", key=b"k", headers={"trace": "ü"}, timestamp=1_700_000_000 * 10**9
        ).wait(10)
        (message,) = drain(sub, 1)
    assert (receipt.offset, receipt.durability, receipt.duplicate) == (0, "synced", False)
    assert receipt.stream.topic == "orders.eu"
    assert (message.topic, message.offset, message.value) == ("orders.eu", 0, b"value")
    assert (message.key, message.headers) == (b"k", {"trace": "ü"})
    assert message.timestamp == datetime.fromtimestamp(1_700_000_000, UTC)
    assert message.append_time_ns == receipt.append_time_ns


def test_replay_begins_where_it_is_asked_to(node):
    with meshmq.connect(node.url) as mesh:
        mesh.publish_many("a.b", [b"%d" % i for i in range(5000)]).wait(10)
        middle = datetime.now(UTC)
        mesh.publish_many("a.c", [b"%d" % i for i in range(5000)]).wait(10)
        every = drain(mesh.subscribe("a.*", start="earliest"), 10_000)
        assert [m.value for m in every] == [b"%d" % i for i in range(5000)] * 2
        assert [m.offset for m in every] == [*range(5000), *range(5000)]
        tail = drain(mesh.subscribe("a.b", start=4990), 10)
        assert places(tail) == places(every[4990:5000])
        rest = drain(mesh.subscribe("a.>", start=every[4994].position), 5005)
        assert places(rest) == places(every[4995:])
        assert drain(mesh.subscribe("a.>", start=middle), 5000)[0].topic == "a.c"
        new = mesh.subscribe("a.>")
        mesh.publish("a.d", b"last")
        assert drain(new, 1)[0].value == b"last"
        assert new.fetch(timeout=0) == []


def test_a_slow_subscriber_of_a_transient_topic_is_told_what_it_missed(node):
    told = []
    with meshmq.connect(node.url) as mesh:
        mesh.admin.topics.create("t.>", durability="transient")
        sub = mesh.subscribe("t.x", prefetch_bytes=65_536, on_missed=told.append)
        mesh.publish_many("t.x", [b"%9d" % i * 100 for i in range(40_000)]).wait(20)
        receipt = mesh.publish("t.x", b"end").wait(10)
        received = []
        while not received or received[-1].value != b"end":
            received += drain(sub, 1)
        assert len(received) + sub.missed == 40_001
        assert sum(told) == sub.missed > 0
        assert (receipt.offset, receipt.durability, received[0].offset) == (None, "sent", None)


@pytest.mark.parametrize(
    ("error", "ask"),
    [
        (meshmq.InvalidName, lambda mesh: mesh.publish("a..b", b"x")),
        (meshmq.InvalidName, lambda mesh: mesh.publish("a.*", b"x")),
        (meshmq.InvalidArgument, lambda mesh: mesh.publish("a", "text")),
        (meshmq.MessageTooLarge, lambda mesh: mesh.publish("a", bytes(1024 * 1024 + 1))),
        (meshmq.MessageTooLarge, lambda mesh: mesh.publish("a", b"x", key=bytes(1025))),
        (meshmq.InvalidArgument, lambda m: m.publish("a", b"x", durability="mirrored:x")),
        (meshmq.InvalidArgument, lambda mesh: mesh.subscribe("a.*", start=3)),
        (meshmq.OffsetOutOfRange, lambda mesh: mesh.subscribe("a", start=3)),
        (meshmq.TopicNotFound, lambda mesh: mesh.admin.topics.show("nobody")),
    ],
)
def test_a_mistake_is_one_error_and_publishes_nothing(node, error, ask):
    with meshmq.connect(node.url) as mesh:
        with pytest.raises(error):
            ask(mesh)
        assert mesh.admin.status()["published"] == 0


def test_nobody_there_and_another_mesh_are_told_apart(node):
    with pytest.raises(meshmq.NodeUnreachable, match="start one with `meshmq node "):
        meshmq.connect("tcp://127.0.0.1:1", timeout=0.3)
    with pytest.raises(meshmq.MeshMismatch, match=r"'local'.*'other'"):
        meshmq.connect(node.url, mesh="other")


def test_a_named_producer_may_publish_again_after_a_restart(node):
    with meshmq.connect(node.url, producer="p") as mesh:
        for seq in range(1, 6):
            mesh.publish("a", b"%d" % seq, seq=seq)
    with meshmq.connect(node.url, producer="p") as mesh:
        receipts = [mesh.publish("a", b"%d" % seq, seq=seq) for seq in range(3, 10)]
        mesh.flush(10)
        assert [r.duplicate for r in receipts] == [True] * 3 + [False] * 4
        assert [r.offset for r in receipts[3:]] == [5, 6, 7, 8]
        every = drain(mesh.subscribe("a", start="earliest"), 9)
        assert [m.value for m in every] == [b"%d" % i for i in range(1, 10)]


def test_kills_lose_nothing_double_nothing_and_keep_the_order(process_node):
    node = process_node
    states = []
    with meshmq.connect(node.url, on_state=lambda change: states.append(change.state)) as mesh:
        live = mesh.subscribe("k.>")
        receipts = []
        for turn in range(4):
            receipts += [
                mesh.publish(f"k.{i % 7}", b"%d" % (turn * 20_000 + i)) for i in range(20_000)
            ]
            if turn < 3:
                node.kill()
                node.start()
        mesh.flush(30)
        seen = drain(live, len(receipts))
        stored = drain(mesh.subscribe("k.>", start="earliest"), len(receipts))
    assert states.count("reconnecting") >= 1
    for messages in (seen, stored):
        by_topic = {}
        for m in messages:
            by_topic.setdefault(m.topic, []).append((m.offset, int(m.value)))
        for topic, rows in by_topic.items():
            mine = [i for i in range(80_000) if i % 20_000 % 7 == int(topic[2:])]
            assert rows == list(enumerate(mine))
    assert all(r.durability == "synced" for r in receipts)


def test_sigterm_ends_a_node_in_order(process_node):
    with meshmq.connect(process_node.url) as mesh:
        mesh.publish("a", b"x").wait(10)
    code, said = process_node.stop()
    assert (code, "Traceback" in said) == (0, False)
