"""A group that is set to go on elsewhere, at all nodes of a site; see core/registrar.py."""

from __future__ import annotations

import pytest

from meshmq.core.events import ListenerCut
from meshmq.limits import MS, SECOND
from tests.core.site_workers import WALL, works_of
from tests.core.sites import joined


def values(*numbers):
    return [b"%d" % n for n in numbers]


@pytest.fixture
def two():
    """Two nodes, each with three records that a worker at the first one has acked."""
    net, (a, b) = works_of(2)
    worker = net.worker(a).consume("g", "t", prefetch=20)
    net.run(SECOND)
    net.worker(a, "here").put("t", *values(1, 2, 3))
    net.worker(b, "there").put("t", *values(11, 12, 13))
    net.run(SECOND)
    finish(net, worker)
    assert len(worker.got) == 6
    worker.got.clear()
    return net, a, b, worker


def finish(net, worker):
    for _ in range(5):
        worker.ack_all()
        net.run(200 * MS)


def seek(net, at, start):
    code, message, body = net.worker(at).command("group.seek", group="g", start=start)
    assert code == "", message
    return body


def apart(net, a, b):
    net.cut(a, b)
    net.run(4 * SECOND)


def heal(net):
    net.heal()
    assert net.run(10 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)


def resets(node):
    """How often the node's group went on elsewhere, as its log says."""
    return sum(
        record.resets
        for commit in node.disk.commits
        for record in commit.journal
        if hasattr(record, "resets")
    )


def floor(node):
    (group,) = node.disk.state.journal.groups.values()
    return group.settled(node.disk.state.topics["t"].topic.stream).floor


def test_a_seek_is_done_at_all_nodes_once(two):
    net, a, b, worker = two
    body = seek(net, b, "earliest")
    assert sorted(row["node"] for row in body["nodes"]) == ["node-0", "node-1"]
    assert (body["away"], body["start"]) == ([], "earliest")
    assert "sought" not in body
    finish(net, worker)
    assert sorted(worker.got) == values(1, 11, 12, 13, 2, 3)
    assert [resets(node) for node in (a, b)] == [1, 1]


def test_a_seek_to_a_time_waits_for_the_logs_and_is_done_once(two):
    net, a, b, worker = two
    net.run(SECOND)
    since = WALL + net.now_ns
    net.worker(a).put("t", b"4")
    net.worker(b).put("t", b"14")
    net.run(SECOND)
    finish(net, worker)
    worker.got.clear()
    seek(net, a, {"time_ns": since})
    finish(net, worker)
    assert sorted(worker.got) == values(14, 4)
    assert [resets(node) for node in (a, b)] == [1, 1]


def test_the_answer_comes_when_it_is_done_everywhere(two):
    net, a, b, _worker = two
    for start in ("earliest", {"time_ns": WALL + net.now_ns}, "new"):
        before = resets(a), resets(b)
        seek(net, b, start)
        assert (resets(a), resets(b)) == (before[0] + 1, before[1] + 1)


def test_who_was_away_does_it_when_it_is_back_and_not_again_after_its_next_start(two):
    net, a, b, worker = two
    apart(net, a, b)
    body = seek(net, a, "earliest")
    assert body["away"] == ["node-1"]
    finish(net, worker)
    assert worker.got == values(1, 2, 3)
    heal(net)
    finish(net, worker)
    assert worker.got == values(1, 2, 3, 11, 12, 13)
    net.kill(b)
    net.run(SECOND)
    b.start([a.address])
    net.run(5 * SECOND)
    finish(net, worker)
    assert len(worker.got) == 6
    assert [resets(node) for node in (a, b)] == [1, 1]


def test_who_was_dead_does_it_after_its_start(two):
    net, a, b, worker = two
    net.kill(b)
    net.run(4 * SECOND)
    seek(net, a, {"time_ns": 1})
    seek(net, a, "earliest")
    b.start([a.address])
    net.run(5 * SECOND)
    finish(net, worker)
    assert worker.got[-3:] == values(11, 12, 13)
    assert resets(b) == 1


def test_one_that_dies_before_the_log_has_said_where_does_it_after_its_start(two):
    net, a, b, _worker = two
    b.disk.survey = lambda effect: ListenerCut()  # its answer never comes
    net.worker(a).command("group.seek", group="g", start={"time_ns": WALL + net.now_ns})
    net.run(SECOND)
    assert (resets(a), resets(b)) == (1, 0)
    net.kill(b)
    del b.disk.survey
    net.run(4 * SECOND)
    b.start([a.address])
    net.run(5 * SECOND)
    assert resets(b) == 1


def test_new_is_the_end_of_the_log_where_it_is_heard_at_once_and_the_time_where_late(two):
    net, a, b, worker = two
    net.worker(b).put("t", b"14")
    seek(net, a, "new")
    assert (floor(a), floor(b)) == (3, 4)
    apart(net, a, b)
    there = net.worker(b)
    there.put("t", b"15")
    net.run(SECOND)
    seek(net, a, "new")
    net.run(SECOND)
    there.put("t", b"16")
    net.run(SECOND)
    worker.got.clear()
    heal(net)
    finish(net, worker)
    assert worker.got == values(16)


def test_the_later_of_two_seeks_counts_whichever_is_heard_first(two):
    net, a, b, worker = two
    apart(net, a, b)
    seek(net, a, "earliest")
    net.run(SECOND)
    seek(net, b, "new")
    heal(net)
    finish(net, worker)
    assert worker.got == values(1, 2, 3), "a went there at once, b has never"
    assert (floor(a), floor(b)) == (3, 3)
    assert [resets(node) for node in (a, b)] == [2, 1]


def test_an_offset_is_of_one_node_s_stream(two):
    net, a, b, worker = two
    here = net.worker(a)
    code, message, _ = here.command("group.seek", group="g", start={"offset": 1})
    assert code == "command-failed"
    assert "of one node's stream" in message
    seek(net, a, {"offset": 1, "origin": b.origin.hex()})
    finish(net, worker)
    assert worker.got == values(12, 13)
    seek(net, a, {"offset": 2, "origin": a.origin.hex()})
    finish(net, worker)
    assert worker.got == values(12, 13, 3)
    far = {"offset": 9, "origin": b.origin.hex()}
    assert here.command("group.seek", group="g", start=far)[0] == "offset-out-of-range"
    nobody = {"offset": 1, "origin": "ab" * 16}
    assert here.command("group.seek", group="g", start=nobody)[0] == "command-failed"
    net.kill(b)
    net.run(100 * MS)
    code, message, _ = here.command("group.seek", group="g", start=far)
    assert code == "owner-away"
    assert "node-1" in message
    assert [resets(node) for node in (a, b)] == [1, 1]


def test_an_offset_sought_later_than_a_seek_that_was_not_heard_yet_stays(two):
    net, a, b, worker = two
    apart(net, a, b)
    seek(net, a, "earliest")
    net.run(SECOND)
    code, message, _ = net.worker(b).command(
        "group.seek", group="g", start={"offset": 2, "origin": b.origin.hex()}
    )
    assert code == "", message
    heal(net)
    finish(net, worker)
    assert sorted(worker.got) == values(1, 13, 2, 3)
    assert resets(b) == 1


def test_a_group_made_anew_does_not_do_what_the_one_before_it_was_told(two):
    net, a, b, _worker = two
    apart(net, a, b)
    seek(net, a, "earliest")
    here = net.worker(a)
    assert here.command("group.delete", group="g")[0] == ""
    here.command("group.create", group="g", pattern="t", start="new")
    net.run(SECOND)
    heal(net)
    assert resets(b) == 0
    assert (floor(a), floor(b)) == (3, 3)


def test_a_new_node_does_what_was_sought_before_it_came(two):
    net, a, b, worker = two
    seek(net, a, "earliest")
    late = net.add()
    late.start([a.address, b.address])
    net.run(5 * SECOND)
    net.worker(late).put("t", b"21")
    net.run(SECOND)
    finish(net, worker)
    assert b"21" in worker.got


def test_a_stamp_that_is_none_is_refused(two):
    net, a, _b, _worker = two
    here = net.worker(a)
    for sought in (7, "zz", "f" * 47):
        code, _, _ = here.command("group.seek", group="g", start="new", here=True, sought=sought)
        assert code == "command-failed"
