"""Groups of a node that is gone are worked on by another: nothing is left, nothing comes again."""

from __future__ import annotations

import zlib

from meshmq import codec, limits
from meshmq.core.events import RetentionPlanned
from meshmq.frames import NACK, REJECT
from meshmq.limits import MS, SECOND
from meshmq.testing.disk import Disk
from tests.core.site_workers import WorkNet
from tests.core.sites import joined, site_of
from tests.core.test_copies import flip, holder, is_copied


def begun(
    count=3, records=20, acked=8, kind="group", topic="orders.eu", group="billing", copies=2
):  # fmt: skip
    """A site in which node 0 has records of which some are acked, all of it copied, and whose
    member is gone; values that are left."""
    net, nodes = site_of(count, kind=WorkNet, copies=copies)
    a = nodes[0]
    worker = member(net, a, kind, group)
    net.run(SECOND)
    maker = net.worker(a)
    for i in range(0, records, 2):
        maker.put(topic, b"%d" % i, b"%d" % (i + 1), priority=0 if kind == "queue" else None)
        net.run(10 * MS)
    net.run(SECOND)
    assert worker.got == [b"%d" % i for i in range(records)]
    for one in worker.hands[:acked]:
        worker.settle(one)
    net.run(SECOND)
    worker.die()
    maker.die()
    net.run(200 * MS)
    assert net.run(2 * SECOND, lambda: is_copied(net, a))
    return net, nodes, worker.got[acked:]


def member(net, at, kind="group", group="billing"):
    pattern = "orders.>" if kind == "group" else ""
    return net.worker(at).consume(group, pattern, prefetch=100, kind=kind)


def take_over(net, at, gone, **arguments):
    """Sends the command to a node; (code, message, answer)."""
    return net.worker(at).command("node.takeover", name=gone.name, **arguments)


def killed_often(net, at, others):
    """Kills a taker again and again while it moves records; then it gets done."""
    for wait in (3, 7, 5, 11):
        net.run(wait * MS)
        net.kill(at)
        at.start([n.address for n in others if n is not at])
        net.run(700 * MS)
    net.run(5 * SECOND)


def lineage(worker):
    """Headers that the worker's records have."""
    found = []
    for held, index, _ in worker.hands:
        found.append(codec.decode_headers(held.records.headers[index]))
    return found


def test_what_was_not_acked_is_worked_on_and_what_was_is_not():
    net, (a, *_), left = begun()
    at = holder(net, a)
    net.kill(a)
    net.run(limits.TAKEOVER_SEEN_NS + SECOND)
    code, message, told = take_over(net, at, a)
    assert (code, message) == ("", "")
    assert (told["epoch"], told["groups"], told["skipped"]) == (1, ["billing"], [])
    assert take_over(net, at, a)[2] == told  # the answer may have been lost
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == left
    assert {h["$topic"] for h in lineage(worker)} == {"orders.eu"}
    assert {h["$taken-from"] for h in lineage(worker)} == {a.name}
    worker.ack_all()
    net.run(SECOND)
    again = member(net, at)
    net.run(2 * SECOND)
    assert again.got == []


def test_members_at_any_node_work_on_what_was_taken_over():
    net, (a, *others), left = begun()
    at = holder(net, a)
    (other,) = [n for n in others if n is not at]
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, other)
    net.run(3 * SECOND)
    assert worker.got == left


def test_jobs_of_a_queue_are_taken_over_in_their_lane():
    net, (a, *_), left = begun(kind="queue", topic="thumbs", group="thumbs")
    at = holder(net, a)
    net.kill(a)
    net.run(100 * MS)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at, "queue", "thumbs")
    net.run(2 * SECOND)
    assert worker.got == left
    assert {held.row.topic for held, *_ in worker.hands} == {"thumbs"}


def test_of_a_node_that_had_two_logs_the_work_of_both_is_taken_over():
    net, (a, b), left = begun(count=2)
    logs = [a.origin]
    net.kill(a)
    a.disk = Disk(b"new disk".ljust(16))  # the first one was lost, and soon this one is, too
    a.start([b.address])
    assert net.run(6 * SECOND, lambda: joined(net))
    logs.append(a.origin)
    maker = net.worker(a)
    for i in range(20):
        maker.put("orders.eu", b"later %d" % i)
        net.run(10 * MS)
    net.run(2 * SECOND)
    maker.die()
    net.kill(a)
    net.run(SECOND)
    worker = member(net, b)
    code, message, told = take_over(net, b, a, assume_dead=True)
    assert (code, message) == ("", "")
    assert sorted(told["origins"]) == sorted(origin.hex() for origin in logs)
    assert told["groups"] == ["billing"]
    net.run(3 * SECOND)
    assert sorted(worker.got) == sorted([*left, *(b"later %d" % i for i in range(20))])


def test_it_is_refused_while_the_node_lives_or_was_just_seen_or_no_copy_is_here():
    net, (a, *others), _ = begun()
    at = holder(net, a)
    (other,) = [n for n in others if n is not at]
    assert "is alive" in take_over(net, at, a)[1]
    assert "is alive" in take_over(net, at, a, assume_dead=True)[1]
    net.kill(a)
    net.run(SECOND)
    assert "--assume-dead" in take_over(net, at, a)[1]
    assert "no copy of a node named" in take_over(net, other, a)[1]
    assert not at.disk.state.takeovers


def test_the_node_that_is_back_hands_out_only_what_had_not_been_copied():
    net, (a, *others), left = begun()
    at = holder(net, a)
    for other in others:
        net.cut(a, other)
    maker = net.worker(a)
    maker.put("orders.eu", b"tail 1", b"tail 2")  # no copy gets it
    net.run(SECOND)
    maker.die()
    net.run(100 * MS)
    net.kill(a)
    net.run(4 * SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == left
    net.heal()
    a.start([n.address for n in others])
    back = member(net, a)
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    assert back.got + worker.got[len(left) :] == [b"tail 1", b"tail 2"]
    # So it is after another restart, which finds that in its log.
    back.die()
    worker.ack_all()
    net.run(SECOND)
    worker.die()
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    again = member(net, a)
    net.run(8 * SECOND)
    assert set(again.got) <= {b"tail 1", b"tail 2"}
    assert a.disk.state.takeovers[a.origin].taker == at.origin
    for node in (a, at):
        (row,) = node.node.site.describe(net.now_ns)["copies"]["takeovers"]
        assert (row["of"], row["by"]) == (a.name, at.name)
    net.worker(a).put("orders.eu", b"new")
    net.run(2 * SECOND)
    assert again.got[-1] == b"new"


def test_the_node_that_is_back_keeps_what_a_group_has_that_its_copy_did_not_know():
    net, (a, *others) = site_of(3, kind=WorkNet, copies=2)
    maker = net.worker(a)
    maker.put("orders.eu", b"1", b"2")
    net.run(SECOND)
    at = holder(net, a)
    assert is_copied(net, a)
    for other in others:
        net.cut(a, other)
    own = member(net, a)  # with it the group is made, of which no copy hears
    net.run(SECOND)
    assert own.got == [b"1", b"2"]
    for one in (own, maker):
        one.die()
    net.run(100 * MS)
    net.kill(a)
    net.run(4 * SECOND)
    code, _, told = take_over(net, at, a, assume_dead=True)
    assert (code, told["groups"]) == ("", [])
    worker = member(net, at)
    net.run(2 * SECOND)
    net.heal()
    a.start([n.address for n in others])
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    assert worker.got == [b"1", b"2"]
    assert a.disk.state.takeovers[a.origin].taker == at.origin
    worker.ack_all()
    net.run(SECOND)
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    net.run(8 * SECOND)
    assert worker.got == [b"1", b"2"]


def test_where_no_copies_are_it_is_refused_in_words():
    net, (a, b) = site_of(2, kind=WorkNet)
    name = a.name
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, b, a)[1] == (
        f"no copy of a node named {name!r} is kept here, nor at a node that is there: its work "
        f"waits until it is started again"
    )
    said = net.worker(b).command("node.takeover", name="onne")[1]
    assert said == "there is no node 'onne' in the site"


def test_a_taker_that_is_killed_in_the_middle_moves_each_record_once(monkeypatch):
    monkeypatch.setattr(limits, "TAKEOVER_BYTES", 1)  # one batch a commit
    net, (a, *others), left = begun(records=40)
    at = holder(net, a)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    killed_often(net, at, others)
    worker = member(net, at)
    net.run(3 * SECOND)
    assert sorted(worker.got) == sorted(left)


def test_a_node_that_starts_alone_hands_out_after_a_bounded_wait():
    net, (a, *others), left = begun()
    net.kill(a)
    for other in others:
        net.kill(other)
    a.start()
    worker = member(net, a)
    net.run(limits.RETURN_WAIT_NS - SECOND)
    assert worker.got == []
    net.run(3 * SECOND)
    assert worker.got == left


def test_a_restart_with_siblings_there_waits_no_longer_than_it_takes_to_meet_them():
    net, (a, *others), left = begun()
    net.kill(a)
    net.run(100 * MS)
    a.start([n.address for n in others])
    worker = member(net, a)
    net.run(2500 * MS)
    assert worker.got == left


def test_a_copy_that_is_behind_another_one_catches_up_before_it_takes_over(monkeypatch):
    net, (a, b, c), left = begun(copies=3)
    net.cut(a, b)
    maker = net.worker(a)
    maker.put("orders.eu", b"behind", b"the cut")
    net.run(SECOND)
    assert is_copied(net, a)
    assert not is_copied(net, a, by=2)
    monkeypatch.setattr(limits, "COPIES_TOLD_NS", 20 * SECOND)  # nobody fetches
    net.run(SECOND)
    net.kill(a)
    net.heal()
    assert net.run(5 * SECOND, lambda: a.name not in b.siblings())
    _, said, _ = take_over(net, b, a, assume_dead=True)
    assert f"the copy of node {a.name!r} at node {c.name!r} goes further" in said
    assert not b.disk.state.takeovers
    monkeypatch.undo()
    net.run(30 * SECOND)
    assert is_copied(net, a, by=2)
    assert take_over(net, b, a)[0] == ""
    worker = member(net, b)
    net.run(3 * SECOND)
    assert sorted(worker.got) == sorted([*left, b"behind", b"the cut"])


def test_a_takeover_is_known_to_all():
    net, nodes, _ = begun(4)
    a = nodes[0]
    at = holder(net, a)
    net.kill(a)
    net.run(limits.TAKEOVER_SEEN_NS + SECOND)
    assert take_over(net, at, a)[0] == ""
    net.run(2 * SECOND)
    for node in nodes[1:]:
        assert node.disk.state.takeovers[a.origin].taker == at.origin
    (row,) = at.node.site.describe(net.now_ns)["copies"]["takeovers"]
    assert (row["of"], row["epoch"], row["moving"]) == (a.name, 1, False)


# -- what nobody can read ----------------------------------------------------------------------


def skipped(net, at):
    (row,) = at.node.site.describe(net.now_ns)["copies"]["takeovers"]
    assert not row["moving"]
    return [(s["topic"], s["first_offset"], s["records"]) for s in row["skipped"]]


def test_a_damaged_batch_is_told_and_passed_over_and_the_others_are_moved():
    net, (a, *_), left = begun()
    at = holder(net, a)
    flip(at.disk, "orders.eu", 10, a.origin)
    flip(at.disk, "orders.eu", 2, a.origin)  # all of it was acked
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at)
    net.run(4 * SECOND)
    assert worker.got == [v for v in left if v not in (b"10", b"11")]
    assert skipped(net, at) == [("orders.eu", 10, 2)]
    at.disk.flipped.clear()  # the disk gives it back after all
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    net.run(SECOND)
    assert sorted(worker.got) == sorted(left)
    assert skipped(net, at) == []


def test_a_damaged_batch_is_had_from_another_copy():
    net, (a, *others), left = begun(copies=3)
    at = others[0]
    flip(at.disk, "orders.eu", 10, a.origin)
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at)
    net.run(3 * SECOND)
    assert sorted(worker.got) == sorted(left)
    assert skipped(net, at) == []
    assert not at.disk.flipped


def test_records_with_headers_that_nobody_can_read_are_moved_without_them():
    net, (a, *_), _ = begun(records=2, acked=2)
    at = holder(net, a)
    maker = net.worker(a)
    good = codec.encode_headers({"trace": "1"})
    batch = maker.client.publisher.add_many(
        "orders.eu", [b"x", b"y"], None, [b"\xff" * 24, good], None, lambda: 1, -1
    )
    maker.flush()
    assert net.run(SECOND, lambda: batch.state)
    assert net.run(SECOND, lambda: is_copied(net, a))
    net.kill(a)
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == [b"x", b"y"]
    assert [h.get("trace") for h in lineage(worker)] == [None, "1"]
    assert {h["$offset"] for h in lineage(worker)} == {"2", "3"}
    assert skipped(net, at) == []


def test_a_batch_that_is_none_is_told_and_passed_over():
    net, (a, *_), left = begun()
    at = holder(net, a)
    for commit in at.disk.commits:  # its checksum was made of what it is
        for slot, b in enumerate(commit.batches):
            if commit.copied and b.base_offset == 10 and b.count == 2:
                others = list(commit.batches)
                others[slot] = b._replace(payload=b"no batch", checksum=zlib.crc32(b"no batch"))
                at.disk.commits[commit.lsn - 1] = commit._replace(batches=tuple(others))
    net.kill(a)
    net.kill(at)
    at.start([n.address for n in net.nodes if n not in (a, at)])
    net.run(SECOND)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == [v for v in left if v not in (b"10", b"11")]
    assert skipped(net, at) == [("orders.eu", 10, 2)]


def test_dead_letters_of_a_queue_that_were_put_back_are_taken_over():
    net, (a, *_), left = begun(kind="queue", topic="thumbs", group="thumbs")
    worker = member(net, a, "queue", "thumbs")
    net.run(SECOND)
    worker.settle(next(one for one in worker.hands if one[2] == b"12"), REJECT)
    net.run(SECOND)
    worker.die()
    net.run(SECOND)
    assert net.worker(a).command("dlq.replay", group="thumbs", rate=0)[0] == ""
    assert net.run(2 * SECOND, lambda: "$retry.thumbs" in a.node.topics.by_name)
    net.run(2 * SECOND)
    at = holder(net, a)
    net.kill(a)
    net.run(100 * MS)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    other = member(net, at, "queue", "thumbs")
    net.run(3 * SECOND)
    assert sorted(other.got) == sorted(left)


# -- a journal that was trimmed ----------------------------------------------------------------


def trim_journal(node):
    """As retention does, of a node that runs: all that the journal has by now."""
    journal = node.node.topics.by_name["$journal"]
    node.handle(RetentionPlanned(((journal.entry.stream, journal.next_offset),)))


def test_a_copy_that_begins_after_the_journal_was_trimmed_knows_what_groups_did():
    net, (a, b) = site_of(2, kind=WorkNet)
    worker = member(net, a)
    keyed = net.worker(a).consume("keyed", "orders.>", prefetch=100, order="key")
    net.run(SECOND)
    maker = net.worker(a)
    for i in range(0, 20, 2):
        maker.put("orders.eu", b"%d" % i, b"%d" % (i + 1), keys=[b"k%d" % i, b"l"])
    net.run(SECOND)
    for one in worker.hands[:8] + worker.hands[11:13]:
        worker.settle(one)
    worker.settle(worker.hands[0], NACK, 3600 * SECOND)
    for one in list(keyed.hands):
        keyed.settle(one)
    net.run(SECOND)
    for one in (worker, keyed, maker):
        one.die()
    trim_journal(a)
    net.run(SECOND)
    net.kill(a)
    a.copies = 2
    a.start([b.address])
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(3 * SECOND)
    mirror = b.disk.state.mirrors[a.origin]
    assert not mirror.lacks
    have, want = mirror.journal.groups, a.disk.state.journal.groups
    assert [g.settings for g in have.values()] == [g.settings for g in want.values()]
    assert [g.streams for g in have.values()] == [g.streams for g in want.values()]
    assert [g.marks for g in have.values()] == [g.marks for g in want.values()]
    net.kill(a)
    net.run(100 * MS)
    assert take_over(net, b, a, assume_dead=True)[0] == ""
    again = member(net, b)
    keyed = net.worker(b).consume("keyed", "orders.>", prefetch=100, order="key")
    net.run(2 * SECOND)
    assert again.got == worker.got[8:11] + worker.got[13:]
    assert keyed.got == []


def test_a_copy_that_was_cut_off_while_the_journal_was_trimmed_gets_its_sum():
    net, (a, b, c), left = begun()
    at = holder(net, a)
    (other,) = [n for n in (b, c) if n is not at]
    net.cut(a, at)
    net.run(4 * SECOND)
    worker = member(net, a)
    net.run(SECOND)
    for one in worker.hands[:4]:
        worker.settle(one)
    net.run(SECOND)
    worker.die()
    trim_journal(a)
    net.run(SECOND)
    net.heal()
    assert net.run(8 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    assert not at.disk.state.mirrors[a.origin].lacks
    net.kill(a)
    net.run(100 * MS)
    assert take_over(net, at, a, assume_dead=True)[0] == ""
    again = member(net, other)
    net.run(3 * SECOND)
    assert sorted(again.got) == sorted(left[4:])


def test_a_copy_without_what_groups_did_is_not_taken_over_unasked():
    net, (a, *_), left = begun()
    at = holder(net, a)
    flipped = at.node.site.copies.mirrors.by_origin[a.origin]
    flipped.lacks = True  # the sum has not come yet
    net.kill(a)
    net.run(100 * MS)
    code, message, _ = take_over(net, at, a, assume_dead=True)
    assert code == "command-failed"
    assert "--may-repeat" in message
    assert take_over(net, at, a, assume_dead=True, may_repeat=True)[2]["lacks_groups"]
    worker = member(net, at)
    net.run(2 * SECOND)
    assert worker.got == left
