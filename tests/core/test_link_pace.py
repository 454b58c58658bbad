"""Links whose batches come compressed, or no faster than a budget says, between real machines."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest

from meshmq.frames_copies import Fetched
from meshmq.limits import KIB, MS, SECOND
from tests.core.sites import Program
from tests.core.test_replication import begin, fill, linked, of, read


def pulling(*sites, nodes=1, **terms):
    """Two sites that pull from each other on such terms."""
    net, found = linked(*sites, nodes=nodes)
    for node in [node for members in found.values() for node in members]:
        change(net, node, **terms)
    return net, found


def change(net, node, **terms):
    net.links_of[node] = tuple([wish._replace(**terms) for wish in net.links_of[node]])
    node.node.site.set_links(net.links_of[node], net.now_ns)
    node.end_turn()


def watch(net, take):
    """Show ``take`` each Fetched that is sent; it may give back another one."""
    send = net.send

    def shown(node, link, envelope):
        if isinstance(envelope.body, Fetched):
            envelope = replace(envelope, body=take(node, envelope.body) or envelope.body)
        send(node, link, envelope)

    net.send = shown


def publish(net, node, count, size, values=None):
    program = Program(net, node)
    for i in range(count):
        program.publish("orders.eu", b"%06d" % i + (values or bytes(size - 6)))
        if i % 20 == 19:
            net.run(3 * MS)


def shorter(batches):
    return (*batches[:-1], batches[-1]._replace(length=batches[-1].length - 1))


def stored(net, node, origin):
    """What a node has of a log: (place of each batch, its bytes)."""
    disk = node.disk
    return [
        (copied.lsn, copied.slot, commit.batches[copied.index].payload)
        for commit in disk.commits for copied in commit.copied if copied.origin == origin
    ]  # fmt: skip


def test_batches_cross_compressed_and_are_stored_as_they_were():
    net, sites = pulling("eu", "us", compression="zstd")
    (eu,), (us,) = sites["eu"], sites["us"]
    frames = []
    watch(net, lambda node, frame: frames.append(frame) if node is eu else None)
    net.run(2 * SECOND)
    publish(net, eu, 100, 500)
    net.run(2 * SECOND)
    blocks = [frame for frame in frames if frame.size]
    assert blocks
    assert sum(len(f.payload) for f in blocks) * 5 < sum(f.size for f in blocks)
    there = [(c.lsn, i, b.payload) for c in eu.disk.commits for i, b in enumerate(c.batches)
             if eu.node.topics.by_stream[b.stream].entry.name == "orders.eu"]  # fmt: skip
    assert stored(net, us, eu.origin) == there
    assert len(read(net, us)) == 100


def test_what_nobody_asked_for_compressed_comes_as_it_is():
    net, sites = pulling("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    frames = []
    watch(net, lambda node, frame: frames.append(frame) if node is eu else None)
    net.run(2 * SECOND)
    publish(net, eu, 40, 500)
    net.run(2 * SECOND)
    assert {frame.size for frame in frames} == {0}
    change(net, us, compression="zstd")
    net.run(2 * SECOND)
    publish(net, eu, 40, 500)
    net.run(2 * SECOND)
    assert any(frame.size for frame in frames)
    assert len(read(net, us)) == 80


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: replace(frame, payload=b"garbage" + frame.payload),
        lambda frame: replace(frame, payload=frame.payload[:-1]),
        lambda frame: replace(frame, size=frame.size - 1, batches=shorter(frame.batches)),
    ],
)
def test_a_block_that_cannot_be_read_is_refused_in_words_and_had_again(spoil):
    net, sites = pulling("eu", "us", compression="zstd")
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(2 * SECOND)
    left = [3]

    def spoiled(node, frame):
        if node is eu and frame.size and left[0]:
            left[0] -= 1
            return spoil(frame)
        return None

    watch(net, spoiled)
    publish(net, eu, 20, 500)
    net.run(500 * MS)
    mirror = us.node.site.copies.mirrors.by_origin[eu.origin]
    assert "block" in mirror.problem
    assert mirror.refused
    net.run(8 * SECOND)
    assert (left, mirror.problem) == ([0], "")
    assert [row[2] for row in read(net, us)] == list(range(20))


def test_a_block_of_other_bytes_is_refused_by_the_batches_checksums():
    net, sites = pulling("eu", "us", compression="zstd")
    (eu,), (us,) = sites["eu"], sites["us"]
    net.run(2 * SECOND)
    left = [1]

    def swapped(node, frame):
        if node is eu and frame.size and left[0]:
            left[0] -= 1
            data = bytes(frame.size)
            assert zlib.crc32(data) not in [row.checksum for row in frame.batches]
            return replace(frame, payload=us.node.site.copies.tools.pack(data))
        return None

    watch(net, swapped)
    publish(net, eu, 20, 500)
    net.run(8 * SECOND)
    assert us.node.site.copies.mirrors.by_origin[eu.origin].refused == 1
    assert len(read(net, us)) == 20


def rate_of(net, node, span_ns):
    """Bytes per second that come to a node of another site meanwhile, with their rows."""
    came = []
    watch(net, lambda _, frame: came.append(len(frame.payload) + 96 * len(frame.batches)))
    net.run(span_ns)
    return sum(came) * SECOND // span_ns


def test_a_budget_is_kept_and_changed_while_the_node_runs():
    net, sites = pulling("eu", "us", bytes_per_second=50_000)
    (eu,), (us,) = sites["eu"], sites["us"]
    publish(net, eu, 1000, 2 * KIB)
    net.run(2 * SECOND)
    assert 40_000 < rate_of(net, us, 8 * SECOND) < 55_000
    change(net, us, bytes_per_second=200_000)
    net.run(SECOND)
    assert 160_000 < rate_of(net, us, 3 * SECOND) < 220_000
    change(net, us, bytes_per_second=0)
    net.run(10 * SECOND)
    assert len(read(net, us)) == 1000


def test_a_budget_is_the_sites_not_each_nodes():
    net, sites = pulling("eu", "us", nodes=2, bytes_per_second=60_000)
    for node in sites["eu"]:
        publish(net, node, 600, 2 * KIB)
    net.run(3 * SECOND)
    assert 45_000 < rate_of(net, sites["us"][0], 8 * SECOND) < 66_000


def test_a_node_that_starts_again_goes_on_within_its_budget():
    net, sites = pulling("eu", "us", bytes_per_second=50_000, compression="zstd")
    (eu,), (us,) = sites["eu"], sites["us"]
    publish(net, eu, 300, 2 * KIB, random.Random(1).randbytes(2 * KIB))
    net.run(3 * SECOND)
    net.kill(us)
    net.run(50 * MS)
    begin(us)
    net.run(20 * SECOND)
    assert len(read(net, us)) == 300


def test_a_line_that_is_filled_by_one_log_is_shared_with_another():
    net, sites = pulling("eu", "us", nodes=1)
    (eu,), (us,) = sites["eu"], sites["us"]
    fill(net, eu, 5)
    net.run(2 * SECOND)
    assert read(net, us) == of(eu, 5)
    (flow,) = eu.node.site.copies.logs._flows.values()
    assert flow.in_flight == 0
    assert flow.round_trip_ns > 0
