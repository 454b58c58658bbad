"""A node that was taken over is back: it works as before; and what becomes of its dead letters."""

from __future__ import annotations

import pytest

from meshmq import codec, limits
from meshmq.core.takeover import Takeovers
from meshmq.frames import REJECT
from meshmq.frames_copies import AskCopy
from meshmq.limits import MS, SECOND
from meshmq.names import dead_letters_of, lane_of
from meshmq.testing.disk import Disk
from tests.core.site_workers import WorkNet
from tests.core.sites import WALL, joined, site_of
from tests.core.test_copies import holder, is_copied, problems
from tests.core.test_forgetting import forget
from tests.core.test_own_log import renew
from tests.core.test_takeover import begun, killed_often, member, take_over

QUEUE = "thumbs"


def put_later(net, maker, delay_ns, *values):
    """Jobs that wait for their time."""
    due_ms = (WALL + net.now_ns + delay_ns) // MS
    maker.client.publisher.add_many(
        lane_of(QUEUE, delayed=True), list(values), None, None, None, lambda: WALL + net.now_ns,
        -1, codec.JobOptions(due_ms=due_ms),
    )  # fmt: skip
    maker.flush()


def back(net, a, others, wait_ns=3 * SECOND):
    a.start([n.address for n in others])
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(wait_ns)


def counts(worker, group=QUEUE):
    shown = worker.show(group, here=True)
    names = ("records", "ready", "in_flight", "delayed", "retrying", "held")
    return {name: shown[name] for name in names if shown[name]}


@pytest.mark.parametrize("kind", ["group", "queue"])
def test_what_was_taken_over_is_neither_lost_nor_old_where_it_was(kind):
    topic, group = ("orders.eu", "billing") if kind == "group" else (QUEUE, QUEUE)
    net, (a, *others), _ = begun(kind=kind, topic=topic, group=group)
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, kind, group)
    net.run(2 * SECOND)
    worker.ack_all()
    net.run(SECOND)
    worker.die()
    back(net, a, others)  # and nobody is a member there, for whom it would look at what it read
    shown = net.worker(a).show(group, here=True)
    assert [shown[n] for n in ("records", "ready", "oldest_seconds", "overtaken")] == [0, 0, 0.0, 0]
    net.worker(a).put(topic, b"new", priority=None if kind == "group" else 0)
    net.run(2 * SECOND)
    assert 1.0 < net.worker(a).show(group, here=True)["oldest_seconds"] < 3.0


@pytest.mark.parametrize("wait_s", [5, 30])
def test_work_of_a_node_that_is_back_comes_to_members_anywhere(wait_s):
    net, (a, *others), left = begun(kind="queue", topic=QUEUE, group=QUEUE)
    maker = net.worker(a)
    put_later(net, maker, 20 * SECOND, b"later 1", b"later 2")
    net.run(SECOND)
    maker.die()
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, "queue", QUEUE)
    net.run(2 * SECOND)
    assert worker.got == left
    worker.ack_all()
    back(net, a, others, wait_s * SECOND)
    maker = net.worker(a)
    assert counts(maker) == {}
    maker.put(QUEUE, b"new 1", b"new 2", priority=0)
    net.run(2 * SECOND)
    maker.put(QUEUE, b"new 3", priority=0)
    net.run(2 * SECOND)
    assert [v for v in worker.got if v.startswith(b"new")] == [b"new 1", b"new 2", b"new 3"]
    assert counts(maker) == {"records": 3, "in_flight": 3}
    worker.ack_all()
    net.run(20 * SECOND)
    assert sorted(worker.got[len(left) :])[:2] == [b"later 1", b"later 2"]
    assert len(worker.got) == len(left) + 5


def test_what_a_member_holds_of_a_node_that_was_taken_over_is_no_longer_its_own():
    net, (a, *others), left = begun(kind="queue", topic=QUEUE, group=QUEUE)
    at = holder(net, a)
    holds = member(net, a, "queue", QUEUE)
    net.run(2 * SECOND)
    assert holds.got == left
    for other in others:
        net.cut(a, other)
    net.run(5 * SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, "queue", QUEUE)
    net.run(2 * SECOND)
    assert worker.got == left
    worker.ack_all()
    net.heal()
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    assert counts(net.worker(a)) == {}
    assert (holds.got, holds.in_hands()) == (left, 0)


def back_while_it_is_moved(monkeypatch, kind):
    """A node that is back, and has given away what its taker is still moving."""
    monkeypatch.setattr(limits, "TAKEOVER_BYTES", 1)
    monkeypatch.setattr(Takeovers, "on_commit", lambda self, commit: None)  # one batch a tick
    topic, group = (QUEUE, QUEUE) if kind == "queue" else ("orders.eu", "billing")
    net, (a, *others), left = begun(kind=kind, topic=topic, group=group)
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    a.start([n.address for n in others])
    assert net.run(8 * SECOND, lambda: a.origin in a.disk.state.takeovers)
    net.run(500 * MS)
    assert at.node.site.copies.takeovers.is_moving(a.origin)
    return net, a, at, left


@pytest.mark.parametrize("kind", ["group", "queue"])
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_node_that_is_back_while_its_work_is_moved_takes_nothing_of_it_away(
    monkeypatch, kind, is_killed
):
    net, a, at, left = back_while_it_is_moved(monkeypatch, kind)
    assert "it copies on when all is moved" in problems(net, a)[0][0]
    if is_killed:
        net.kill(at)
        at.start([n.address for n in net.nodes if n is not at])
    worker = member(net, at, kind, QUEUE if kind == "queue" else "billing")
    net.run(20 * SECOND)
    assert sorted(worker.got) == sorted(left)
    assert is_copied(net, a)
    assert problems(net, a)[0] == [""]


def test_a_copy_that_is_needed_no_more_stays_until_the_work_in_it_is_moved(monkeypatch):
    net, a, at, left = back_while_it_is_moved(monkeypatch, "group")
    copies = at.node.site.copies
    assert copies.on_body(at.node.site.siblings[a.origin], AskCopy(0), net.now_ns)
    worker = member(net, at)
    assert net.run(20 * SECOND, lambda: a.origin not in copies.mirrors.by_origin)
    net.run(SECOND)
    assert sorted(worker.got) == sorted(left)


def test_what_was_moved_is_not_looked_at_again_after_a_restart():
    net, (a, *others), left = begun()
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    net.run(2 * SECOND)
    net.kill(at)
    at.start([n.address for n in others if n is not at])
    net.run(MS)
    assert not at.node.site.copies.takeovers.is_moving(a.origin)
    worker = member(net, at)
    net.run(3 * SECOND)
    assert worker.got == left


def test_a_delayed_job_that_is_acked_by_who_held_it_before_a_restart_is_counted_no_more():
    net, (a, *others), _ = begun(kind="queue", topic=QUEUE, group=QUEUE, acked=20)
    maker = net.worker(a)
    put_later(net, maker, SECOND, b"later")
    worker = net.worker(a).work(QUEUE)
    net.run(3 * SECOND)
    assert worker.got == [b"later"]
    for other in others:
        net.cut(a, other)
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    net.run(SECOND)
    assert a.node.groups.is_fenced
    assert counts(maker) == {"records": 1, "in_flight": 1}
    worker.ack_all()
    net.run(limits.RETURN_WAIT_NS + SECOND)
    assert counts(maker) == {}
    assert worker.got == [b"later"]


# -- dead letters ------------------------------------------------------------------------------


def rejected(monkeypatch, kind="queue", topic=QUEUE):
    """A site whose node 0 was killed: it had dead letters 8 to 11, of which 8 was purged and 9 put
    back, and 12 was rejected and to become one."""
    net, (a, *others), left = begun(kind=kind, topic=topic, group=QUEUE)
    worker = member(net, a, kind, QUEUE)
    net.run(SECOND)
    assert worker.got == left
    for one in worker.hands[:4]:
        worker.settle(one, REJECT)
    net.run(SECOND)
    asker = net.worker(a)
    assert dead(asker) == 4
    assert asker.command("dlq.purge", group=QUEUE, ranges=[[0, 1]])[2]["purged"] == 1
    assert asker.command("dlq.replay", group=QUEUE, ranges=[[1, 1]])[2]["replaying"] == 1
    net.run(SECOND)
    monkeypatch.setattr(a.node.groups.shared.admission, "takes", lambda size: False)
    worker.settle(next(one for one in worker.hands if one[2] == b"12"), REJECT)
    net.run(SECOND)
    assert (dead(asker), a.node.groups.by_name[QUEUE].undertaker.dying) == (2, 1)
    worker.die()
    asker.die()
    net.run(SECOND)
    assert is_copied(net, a)
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    return net, a, at, others, [b"9", *left[5:]]


def dead(asker):
    code, message, body = asker.command("dlq.show", group=QUEUE, here=True)
    assert code == "", message
    return body["records"]


def letters(node):
    """Headers and values of what a node has as dead letters."""
    topic = node.node.topics.by_name[dead_letters_of(QUEUE)].entry.stream
    settled = node.node.groups.by_name[QUEUE].state.settled(topic)
    found = {}
    for commit in node.disk.commits:
        for b in commit.batches:
            if b.stream == topic:
                records = codec.TOOLS.decode(b.payload, b.count)
                for i in range(b.count):
                    if b.base_offset + i not in settled:
                        had = codec.decode_headers(records.headers[i])
                        found[records.values[i]] = had
    return found


@pytest.mark.parametrize(("kind", "topic"), [("queue", QUEUE), ("group", "orders.eu")])
def test_dead_letters_of_a_node_are_the_taker_s(monkeypatch, kind, topic):
    net, a, at, others, left = rejected(monkeypatch, kind, topic)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, kind, QUEUE)
    net.run(3 * SECOND)
    assert sorted(worker.got) == sorted(left)
    worker.ack_all()
    (row,) = at.node.site.describe(net.now_ns)["copies"]["takeovers"]
    assert (row["moved"], row["dead_letters"]) == (len(left), 3)
    found = letters(at)
    assert sorted(found) == [b"10", b"11", b"12"]
    for value, had in found.items():
        told = (had["$reason"], had["$topic"], had["$offset"], had["$attempts"])
        assert told == ("rejected", topic, value.decode(), "1")
        assert (had["$group"], had["$taken-from"]) == (QUEUE, a.name)
        assert had["$stream"] == a.origin.hex()
    back(net, a, others)
    asker = net.worker(a)
    assert dead(asker) == 0
    assert asker.command("dlq.show", group=QUEUE)[2]["records"] == 3
    assert asker.command("dlq.replay", group=QUEUE)[2]["replaying"] == 3
    net.run(2 * SECOND)
    assert sorted(worker.got[len(left) :]) == [b"10", b"11", b"12"]
    worker.ack_all()
    net.run(2 * SECOND)
    assert asker.command("dlq.show", group=QUEUE)[2]["records"] == 0
    assert counts(asker) == counts(net.worker(at)) == {}


def test_a_taker_that_is_killed_in_the_middle_has_each_dead_letter_once(monkeypatch):
    net, a, at, others, _ = rejected(monkeypatch)
    monkeypatch.setattr(limits, "TAKEOVER_BYTES", 1)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    killed_often(net, at, others)
    assert dead(net.worker(at)) == 3
    assert sorted(letters(at)) == [b"10", b"11", b"12"]


def test_what_is_copied_nowhere_stays_with_the_node_that_is_back():
    net, (a, b) = site_of(2, kind=WorkNet)
    asker = net.worker(a)
    policy = {"pattern": "orders.eu", "durability": "durable", "copies": 2}
    assert asker.command("topic.create", **policy)[0] == ""
    assert asker.command("group.create", group="billing", pattern="orders.>")[0] == ""
    asker.put("orders.eu", b"copied")
    asker.put("orders.us", b"not copied")
    worker = member(net, a)
    net.run(SECOND)
    one = next(one for one in worker.hands if one[2] == b"not copied")
    worker.settle(one, REJECT)
    asker.put("orders.us", b"neither")
    net.run(4 * SECOND)
    assert asker.command("dlq.show", group="billing", here=True)[2]["records"] == 1
    worker.die()
    net.run(SECOND)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, b, a, assume_dead=True)[0] == ""
    worker = member(net, b)
    net.run(2 * SECOND)
    assert worker.got == [b"copied"]
    worker.ack_all()
    back(net, a, [b])
    assert worker.got == [b"copied", b"neither"]
    assert asker.command("dlq.show", group="billing", here=True)[2]["records"] == 1


# -- what is said --------------------------------------------------------------------------------


def test_what_another_node_that_lives_has_taken_over_is_not_taken_over_again():
    net, (a, b, c), left = begun(copies=3)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, b, a, assume_dead=True)[0] == ""
    net.run(2 * SECOND)
    said = take_over(net, c, a, assume_dead=True)[1]
    assert f"were taken over by node {b.name!r} (epoch 1), which is alive" in said
    assert "nothing left" in said
    net.kill(b)
    net.run(SECOND)
    said = take_over(net, c, a)[1]
    assert "which is not there: if that is lost too" in said
    assert take_over(net, c, a, assume_dead=True)[0] == ""
    worker = member(net, c)
    net.run(3 * SECOND)
    assert worker.got == left


@pytest.mark.parametrize("marks", [False, True])
def test_what_a_further_copy_has_is_taken_over_by_who_has_taken_over_the_rest(marks):
    net, (a, b, c), left = begun(copies=3)
    if not marks:  # else its member's failure is noted where the first taker has no copy of it
        net.run(2 * SECOND)
    net.cut(a, b)
    net.cut(b, c)
    maker = net.worker(a)
    maker.put("orders.eu", b"further 1", b"further 2")
    net.run(SECOND)
    maker.die()
    net.kill(a)
    net.run(4 * SECOND)
    assert take_over(net, b, a, assume_dead=True)[0] == ""
    worker = member(net, b)
    net.run(2 * SECOND)
    assert worker.got == left
    worker.ack_all()
    net.run(SECOND)
    net.heal()
    told = "which is alive: this copy goes further than that one did"
    assert net.run(
        8 * SECOND, lambda: b.name in c.siblings() and a.origin in c.disk.state.takeovers
    )
    for wait_ns in (0, 2 * SECOND):
        net.run(wait_ns)
        said = take_over(net, c, a, assume_dead=True)[1]
        assert told in said
        assert f"say it to {b.name!r}" in said
    (problem,) = [p for p in b.node.status()["problems"] if p["problem"] == "left-over"]
    assert problem["about"] == f"{a.name} at {b.name}"
    assert take_over(net, b, a, assume_dead=True)[0] == ""
    net.run(2 * SECOND)
    assert worker.got == [*left, b"further 1", b"further 2"]
    assert "left-over" not in [p["problem"] for p in b.node.status()["problems"]]
    assert "nothing left" in take_over(net, c, a, assume_dead=True)[1]


def test_a_log_that_was_renewed_before_it_heard_of_its_takeover_leaves_the_taker_what_it_took():
    net, (a, b), left = begun(count=2)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, b, a, assume_dead=True)[0] == ""
    worker = member(net, b)
    net.run(2 * SECOND)
    assert worker.got == left
    net.cut(a, b)
    a.start([b.address])
    net.run(limits.RETURN_WAIT_NS + SECOND)
    maker = net.worker(a)
    maker.put("orders.eu", b"late 1", b"late 2")
    net.run(SECOND)
    maker.die()
    net.kill(a)
    renew(a)
    net.heal()
    back(net, a, [b])
    assert take_over(net, a, a, assume_dead=True)[0] == ""
    net.run(2 * SECOND)
    assert worker.got == [*left, b"late 1", b"late 2"]
    net.kill(a)  # and it goes on so
    back(net, a, [b])
    assert worker.got == [*left, b"late 1", b"late 2"]


def test_what_a_node_had_after_it_was_back_is_taken_over_when_its_log_is_renewed():
    net, (a, *others), left = begun()
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == left
    worker.ack_all()
    net.run(SECOND)
    worker.die()
    back(net, a, others)
    maker = net.worker(a)
    maker.put("orders.eu", b"late 1", b"late 2")
    net.run(SECOND)
    maker.die()
    net.run(SECOND)
    assert is_copied(net, a)
    net.kill(a)
    renew(a)
    back(net, a, others)
    for node in (a, at):  # the node is there, with another log
        shown = node.node.site.copies.of_topic(None, "orders.eu", node.name)
        assert [(s["owner"], s["away"]) for s in shown["streams"]] == [(a.name, False)]
    said = take_over(net, a, a)[1]
    assert f"by node {at.name!r} (epoch 1), and {a.name!r} was back since" in said
    assert "--assume-dead" in said
    code, message, _ = take_over(net, a, a, assume_dead=True)
    assert (code, message) == ("", "")
    worker = member(net, a)
    net.run(2 * SECOND)
    assert worker.got == [b"late 1", b"late 2"]
    for sure in (False, True):  # said to a node that has a copy of the older log
        said = take_over(net, at, a, assume_dead=sure)[1]
        assert f"node {a.name!r} is alive, and has taken over itself" in said


def test_each_takeover_says_what_it_has_moved():
    net, (a, *others), left = begun()
    at = holder(net, a)

    def moved():
        assert take_over(net, at, a, assume_dead=True)[0] == ""
        net.run(2 * SECOND)
        (row,) = at.node.site.describe(net.now_ns)["copies"]["takeovers"]
        return row["moved"]

    net.kill(a)
    net.run(SECOND)
    assert (moved(), moved()) == (len(left), 0)
    back(net, a, others)
    maker = net.worker(a)
    maker.put("orders.eu", b"late 1", b"late 2")
    net.run(SECOND)
    assert is_copied(net, a)
    net.kill(a)
    net.run(SECOND)
    assert moved() == 2


def test_a_refusal_says_how_long_to_wait_and_which_nodes_there_are():
    net, (a, *others), _ = begun()
    at = holder(net, a)
    (other,) = [n for n in others if n is not at]
    net.kill(a)
    net.run(4500 * MS)
    assert "seen 4 s ago" in take_over(net, at, a)[1]
    assert "try again in 6 s, or say --assume-dead" in take_over(net, at, a)[1]
    assert "try again in 6 s, or say --assume-dead" in forget(net, at, a.name)[1]
    assert f"kept here: say it to {at.name}, which has one" in take_over(net, other, a)[1]
    said = net.worker(at).command("node.takeover", name="onne")[1]
    kept = ", ".join(sorted(m.name for m in at.node.site.copies.mirrors.by_origin.values()))
    assert (
        said == f"there is no node 'onne' in the site; the copies that are kept here are of {kept}"
    )
    assert f"known here that is away, but {a.name}" in forget(net, at, "onne")[1]


def test_a_forget_tells_the_logs_that_it_drops():
    net, (a, *others), _ = begun()
    net.kill(a)
    net.run(SECOND)
    first = a.origin.hex()
    assert forget(net, others[0], a.name, assume_dead=True)[2]["origins"] == [first]
    a.disk = Disk(b"another disk".ljust(16))
    back(net, a, others)
    net.kill(a)
    net.run(SECOND)
    for node in others:  # the second one has heard of it
        told = forget(net, node, a.name, assume_dead=True)[2]
        assert told["origins"] == [a.origin.hex()]
        net.run(SECOND)


# -- what was never copied -----------------------------------------------------------------------


def raised(net, node, topic, copies=2):
    settings = {"pattern": topic, "durability": "durable", "copies": copies}
    code, message, _ = net.worker(node).command("topic.create", **settings)
    assert (code, message) == ("", "")
    net.run(SECOND)


@pytest.mark.parametrize("is_away", [False, True])
@pytest.mark.parametrize("kind", ["group", "queue"])
def test_a_node_that_is_back_works_on_what_a_topic_had_before_its_copies_were_raised(kind, is_away):
    topic, group = ("orders.eu", "billing") if kind == "group" else (QUEUE, QUEUE)
    net, (a, *others) = site_of(3, kind=WorkNet, copies=1)
    first = member(net, a, kind, group)
    net.run(SECOND)
    first.die()
    priority = 0 if kind == "queue" else None
    raised(net, a, "other")
    maker = net.worker(a)
    maker.put(topic, b"old 1", b"old 2", priority=priority)
    net.run(SECOND)
    maker.put("other", b"copied from the beginning")
    net.run(SECOND)
    at = holder(net, a)
    new = []
    if not is_away:
        raised(net, a, topic)
        maker.put(topic, b"new 1", b"new 2", priority=priority)
        new = [b"new 1", b"new 2"]
        net.run(SECOND)
    maker.die()
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    if is_away:
        a.copies = 2
    worker = member(net, at, kind, group)
    net.run(3 * SECOND)
    assert worker.got == new
    back(net, a, others)
    assert worker.got == [*new, b"old 1", b"old 2"]
    worker.ack_all()
    net.run(SECOND)
    net.kill(a)
    back(net, a, others)
    assert len(worker.got) == len(new) + 2
