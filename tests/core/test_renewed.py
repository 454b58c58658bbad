"""A log that was put back, and whose node ran before it was renewed: of that life nothing stays."""

from __future__ import annotations

import copy
import zlib

import pytest

from meshmq import codec
from meshmq.core.log import BatchEntry
from meshmq.frames import START_EARLIEST, Deliver
from meshmq.frames_copies import CopiedTopic, Fetched
from meshmq.limits import MS, SECOND
from meshmq.names import JobId, producer_of
from meshmq.testing.disk import Disk
from tests.core.site_workers import WorkNet
from tests.core.sites import Program, joined, site_of
from tests.core.test_copies import copy_of, holder, is_copied, own_log
from tests.core.test_own_log import renew, start


def read_of(net, node, origin, topic):
    """What a program at a node reads of one log: (offset, value), from the beginning on."""
    reader = Program(net, node)
    reader.subscribe(topic, start=START_EARLIEST)
    net.run(2 * SECOND)
    found = []
    for frame in reader.take(Deliver):
        at = 0
        for row in frame.batches:
            values = codec.decode_batch(frame.payload[at : at + row.length], row.count).values
            at += row.length
            if row.origin == origin:
                found += [(row.base_offset + i, bytes(v)) for i, v in enumerate(values)]
    return found


def lost_life(order, count=3):
    """A site whose node 0 was killed and its disk put back: what it did in between is in copies
    alone, with topics and queues that its backup does not have."""
    net, nodes = site_of(count, kind=WorkNet, copies=2)
    a = nodes[0]
    maker = net.worker(a)
    maker.put("old", b"before")
    net.run(SECOND)
    assert is_copied(net, a)
    backup = copy.deepcopy(a.disk)
    for what in order:
        if what == "topic":
            maker.put("late", b"value-1", b"value-2", b"value-3")
        elif what == "old":
            maker.put("old", b"after")
        elif what == "queue":
            assert maker.command("group.create", group="jobs", kind="queue")[:2] == ("", "")
            maker.put("jobs", b"job-1", b"job-2", priority=0)
        net.run(200 * MS)
    net.run(2 * SECOND)
    assert is_copied(net, a)
    maker.die()
    net.run(SECOND)
    net.kill(a)
    a.disk = backup
    return net, nodes


@pytest.mark.parametrize(
    "order", [("topic", "queue"), ("queue", "topic"), ("topic", "old", "queue")], ids="-".join
)
@pytest.mark.parametrize("lives", [(), (200 * MS,), (200 * MS, 3 * SECOND), (60 * SECOND,)])
def test_what_a_life_before_the_renewal_made_takes_no_place_of_what_was_lost(order, lives):
    net, nodes = lost_life(order)
    a = nodes[0]
    old = a.origin
    for span_ns in lives:
        start(net, a)
        net.run(span_ns)
        net.kill(a)
    renew(a)
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    code, message, _ = net.worker(a).command("node.takeover", name=a.name)
    assert (code, message) == ("", "")
    net.run(SECOND)
    for node in nodes:
        late = [(i, b"value-%d" % (i + 1)) for i in range(3)]
        assert read_of(net, node, old, "late") == late
        want = [b"before", b"after"] if "old" in order else [b"before"]
        assert read_of(net, node, old, "old") == [*enumerate(want)]
    for node in nodes:
        worker = net.worker(node).work("jobs", prefetch=100)
        net.run(3 * SECOND)
        assert sorted(worker.got) == ([b"job-1", b"job-2"] if node is a else [])
        worker.ack_all()
        net.run(SECOND)


def test_nothing_is_stored_before_a_sibling_has_told_how_far_copies_go():
    net, (a, b, c) = lost_life(("topic", "queue"))
    commits = len(a.disk.commits)
    net.cut(a, b)
    net.cut(a, c)
    start(net, a)
    net.worker(a).work("more")
    net.run(3 * SECOND)
    assert len(a.disk.commits) == commits
    net.heal()
    assert net.run(2 * SECOND, lambda: a.node.site.copies.own.behind is not None)
    net.run(SECOND)
    assert a.disk.state.behind.began == commits + 1


def test_one_that_starts_alone_stores_what_waited_once_the_wait_is_over():
    net, (a, b, c) = lost_life(())
    commits = len(a.disk.commits)
    for other in (b, c):
        net.kill(other)
    start(net, a)
    assert net.worker(a).command("group.create", group="jobs", kind="queue")[:2] == ("", "")
    assert len(a.disk.commits) > commits


def test_nobody_copies_a_log_that_is_behind_however_far_it_grows():
    net, (a, b, c) = lost_life(("topic", "queue"))
    at = holder(net, a)
    lost = copy_of(at, a)
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    maker = net.worker(b)
    for i in range(30):  # copies of others' logs, and queues that it hears of
        maker.put("of-b", b"%d" % i)
        maker.command("group.create", group=f"queue-{i % 4}", kind="queue")
        net.run(100 * MS)
    net.run(5 * SECOND)
    assert a.disk.state.next_lsn > at.disk.state.mirrors[a.origin].lsn
    assert any(row not in lost for row in own_log(a))
    assert copy_of(at, a) == lost
    other = c if at is b else b
    assert not [row for row in copy_of(other, a) if row not in lost]


def test_a_node_that_is_behind_takes_no_other_one_over():
    net, (a, b, _c) = lost_life(("topic",))
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(SECOND)
    code, message, _ = net.worker(a).command("node.takeover", name=b.name, assume_dead=True)
    assert (code, message) == (
        "command-failed", "the log of this node is behind its copies: renew it first"
    )  # fmt: skip


def test_what_producers_with_names_had_numbered_is_known_of_what_was_put_back():
    named = producer_of("plant", "import")
    net, (a, *_) = site_of(3, kind=WorkNet, copies=2)
    data = codec.encode_batch([b"1"], None, None, None, 0)
    maker = net.worker(a)
    maker.put("old", b"0")
    net.run(SECOND)
    backup = copy.deepcopy(a.disk)
    stream = a.node.topics.by_name["old"].entry.stream
    backup.commit([BatchEntry(stream, 1, 1, data, zlib.crc32(data), named, 7)], 0, net.decode)
    old = backup.state.origin
    backup.renew(b"x" * 16, a.name)
    net.kill(a)
    a.disk = backup
    start(net, a)
    known = a.node.site.copies.mirrors.producer_last("old", named)
    assert known[old.hex()]["last"] == 7


def test_a_copy_takes_nothing_of_a_stream_that_is_another_topic_than_it_has():
    net, (a, *_) = site_of(3, kind=WorkNet, copies=2)
    net.worker(a).put("old", b"0")
    net.run(SECOND)
    at = holder(net, a)
    mirrors = at.node.site.copies.mirrors
    mirror = mirrors.by_origin[a.origin]
    topic = mirror.topics.by_name["old"].entry
    place = mirror.place
    facts = CopiedTopic(topic.source, b"other" + bytes(11), "other", 0)
    assert not mirrors.on_fetched(mirror, Fetched(mirror.number, (facts,), (), 999, 0))
    assert mirror.place == place
    assert mirror.problem == f"stream {topic.source} is another topic there than here"


@pytest.mark.parametrize("renewed", ["renewed", "disk lost"])
def test_an_older_log_of_a_node_that_is_there_counts_and_is_not_away(renewed):
    net, nodes = lost_life(("topic", "old", "queue"))
    a = nodes[0]
    old, at = a.origin, holder(net, a)
    if renewed == "renewed":
        renew(a)
    else:
        a.disk = Disk(b"new disk".ljust(16))
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    at = a if renewed == "renewed" else at
    net.run(3 * SECOND)
    code, message, _ = net.worker(at).command("node.takeover", name=a.name, assume_dead=True)
    assert (code, message) == ("", "")
    maker = net.worker(a)
    maker.put("old", b"in the new log")
    net.run(SECOND)
    for node in nodes:
        asker = net.worker(node)
        _, _, shown = asker.command("topic.show", topic="old")
        streams = {s["origin"]: (s["owner"], s["older"], s["records"]) for s in shown["streams"]}
        assert streams == {old.hex(): (a.name, True, 2), a.origin.hex(): (a.name, False, 1)}
        assert (shown["records"], shown["away"]) == (3, [])
        _, _, found = asker.command("topic.list")
        assert found["away"] == []
        assert {row["topic"]: row["records"] for row in found["topics"]}.items() >= {
            ("old", 3), ("late", 3),
        }  # fmt: skip
        assert not [row for row in found["topics"] if "older" in row or "away" in row]
        _, _, found = asker.command("group.list")
        assert (found["away"], [g["group"] for g in found["groups"]]) == ([], ["jobs"])
    other = next(node for node in nodes if node is not a)
    code, why, _ = net.worker(other).command("queue.cancel", job=str(JobId(old.hex(), 1, 0)))
    assert (code, "in an older log of node" in why) == ("owner-away", True)
    maker.die()
    net.run(100 * MS)
    net.kill(a)  # now it is away
    net.run(4 * SECOND)
    _, _, shown = net.worker(other).command("topic.show", topic="old")
    assert shown["away"] == [a.name]
    assert {s["away"] for s in shown["streams"]} == {True}
