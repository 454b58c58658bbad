"""Groups and queues whose members and records are at several nodes of a site."""

from __future__ import annotations

import random

import pytest

from meshmq import limits
from meshmq.core.events import LinkClosed
from meshmq.frames import ACK, EXTEND, NACK, REJECT, Settle, SettleRow
from meshmq.limits import MS, SECOND
from tests.core.site_workers import works_of


def values(*numbers):
    return [b"%d" % n for n in numbers]


def settle_down(net, span_ns=SECOND):
    net.run(span_ns)


@pytest.fixture
def pair():
    return works_of(2)


def test_a_member_works_for_the_owner_of_the_records_wherever_it_is(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t.>", prefetch=4)
    net.run(SECOND)
    net.worker(b).put("t.1", *values(1, 2, 3))
    net.run(SECOND)
    assert worker.got == values(1, 2, 3)
    assert {one[0].origin for one in worker.hands} == {b.origin}
    worker.ack_all()
    net.run(SECOND)
    assert worker.member.is_idle
    assert worker.member.held == {}
    there = net.worker(b).show("g")
    assert (there["acked"], there["records"], there["in_flight"]) == (3, 0, 0)


def test_what_both_have_is_worked_on_and_the_prefetch_is_kept(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4)
    net.run(SECOND)
    net.worker(a).put("t", *values(*range(10)))
    net.worker(b).put("t", *values(*range(10, 20)))
    for _ in range(40):
        net.run(50 * MS)
        worker.ack_all()
    assert sorted(worker.got) == sorted(values(*range(20)))
    assert worker.peak == 4


def test_a_refill_by_a_remote_owner_needs_no_more_than_two_round_trips(pair):
    """Credit that is free elsewhere: announced, taken back and answered, lent, handed out."""
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4)
    there, here = net.worker(b), net.worker(a)
    net.run(SECOND)
    there.put("t", b"1")
    net.run(SECOND)
    worker.ack_all()
    net.run(SECOND)
    assert worker.member is not None  # the credit rests at b
    here.put("t", b"2")
    began = net.now_ns
    net.run(SECOND, lambda: b"2" in worker.got)
    assert net.now_ns - began < 2 * 2 * MS + 4 * MS  # and the sync of it


def test_credit_goes_on_where_there_is_work_while_a_long_job_runs(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=64)
    net.run(SECOND)
    net.worker(a).put("t", b"long")
    net.run(SECOND)
    (long,) = worker.hands
    net.worker(b).put("t", *values(*range(300)))
    for _ in range(20):
        net.run(20 * MS)
        for one in [h for h in worker.hands if h is not long]:
            worker.settle(one)
    assert len(worker.got) == 301
    assert worker.peak == 64
    assert long in worker.hands


def test_no_owner_starves_while_another_has_work_without_end():
    net, (a, b, c) = works_of(3)
    worker = net.worker(a).consume("g", "t", prefetch=2)
    net.run(SECOND)
    for n, node in enumerate((a, b, c)):
        net.worker(node).put("t", *values(*range(1000 * n, 1000 * n + 1000)))
    for _ in range(2000):
        net.run(5 * MS)
        worker.ack_all()
    shares = [sum(int(v) // 1000 == n for v in worker.got) for n in range(3)]
    assert min(shares) > 100
    assert worker.peak == 2


def test_one_at_a_time_with_jobs_longer_than_a_turn_takes_of_all_owners(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=1)
    net.run(SECOND)
    net.worker(a).put("t", *values(*range(20)))
    net.worker(b).put("t", *values(*range(100, 120)))
    for _ in range(10):
        net.run(2 * SECOND)
        worker.ack_all()
    assert {int(v) // 100 for v in worker.got[:4]} == {0, 1}
    assert worker.peak == 1


def test_members_at_all_nodes_share_what_one_owner_has():
    net, nodes = works_of(3)
    workers = [net.worker(node).consume("g", "t", prefetch=5) for node in nodes]
    net.run(SECOND)
    net.worker(nodes[1]).put("t", *values(*range(60)))
    for _ in range(20):
        net.run(20 * MS)
        for worker in workers:
            worker.ack_all()
    assert all(worker.got for worker in workers)
    assert sorted(v for w in workers for v in w.got) == sorted(values(*range(60)))


def test_a_lone_job_moves_one_members_credit_not_all(pair):
    net, (a, b) = pair
    workers = [net.worker(a).consume("g", "t", prefetch=5) for _ in range(8)]
    net.run(SECOND)
    net.worker(b).put("t", b"1")
    net.run(SECOND)
    assert [v for w in workers for v in w.got] == [b"1"]
    assert a.node.site.groups.describe()["lent"] == 1


def test_nack_reject_and_the_ack_timeout_are_judged_by_the_owner(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume(
        "g", "t", prefetch=10, timeout_ns=2 * SECOND, max_deliveries=3, backoff_ns=100 * MS
    )
    net.run(SECOND)
    net.worker(b).put("t", *values(1, 2, 3))
    net.run(SECOND)
    one, two, three = worker.hands
    worker.settle(one, NACK)
    worker.settle(two, REJECT)
    net.run(SECOND)
    assert worker.got == values(1, 2, 3, 1)
    net.run(2 * SECOND)  # nobody has settled 3 in time
    assert worker.got.count(b"3") == 2
    assert not worker.settle(three)
    shown = net.worker(b).show("g", here=True)
    assert shown["dead"] == 1
    assert shown["expired"] >= 1


def test_retries_that_are_due_get_credit_though_no_more_may_fail(pair):
    """As many have failed as may wait, so nothing more is read; the credit is elsewhere by then."""
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=1, max_held=2, max_deliveries=3)
    net.run(SECOND)
    net.worker(b).put("t", *values(1, 2))
    for _ in range(2):
        net.run(100 * MS)
        worker.settle(worker.hands[0], NACK, 2 * SECOND)
    net.worker(a).put("t", b"3")
    for _ in range(60):
        net.run(100 * MS)
        worker.ack_all()
    assert sorted(worker.got) == values(1, 1, 2, 2, 3)


def test_a_stale_ack_is_told(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", timeout_ns=SECOND)
    net.run(SECOND)
    net.worker(b).put("t", b"1")
    net.run(500 * MS)
    (one,) = worker.hands
    net.cut(a, b)
    net.run(200 * MS)
    worker.settle(one)
    net.run(10 * SECOND)
    assert worker.member.stale == 1
    assert one[0].refused


def test_who_begins_what_was_under_way_for_too_long_is_told_that_it_is_another_s(pair):
    net, (a, b) = pair
    far = net.worker(a).consume("g", "t", timeout_ns=500 * MS)
    net.run(SECOND)
    publisher = net.worker(b)
    publisher.put("t", b"0")
    net.run(200 * MS)
    far.ack_all()  # its credit rests at b
    net.run(100 * MS)
    net.cut(b, a, one_way=True)
    publisher.put("t", b"1")
    net.run(200 * MS)
    near = net.worker(b).consume("g", "t", prefetch=100)
    net.run(700 * MS)
    ((held, _, _),) = near.hands
    assert (near.got, held.row.maybe_duplicate) == ([b"1"], True)
    near.ack_all()
    net.run(100 * MS)
    net.heal()
    assert net.run(2 * SECOND, lambda: far.got == [b"0", b"1"])  # as it was sent
    ((late, index, _),) = far.hands
    far.settle((late, index, b"1"))
    net.run(SECOND)
    assert late.refused
    assert (far.member.stale, near.member.stale) == (1, 0)


def test_order_by_key_holds_over_members_at_many_nodes():
    net, nodes = works_of(3)
    workers = [net.worker(node).consume("g", "t", prefetch=3, order="key") for node in nodes]
    net.run(SECOND)
    seen, busy = {}, {}

    def given(worker, held, index, value):
        key, number = value.split(b":")
        place = (held.origin, key)
        assert int(number) > seen.get(place, -1), "it overtook one before it"
        holder = busy.get(place)
        assert holder in (None, worker), "its key is with another member"
        busy[place] = worker
        seen[place] = int(number)

    net.on_given = given
    for i, node in enumerate(nodes):
        source = net.worker(node)
        for n in range(40):
            key = b"k%d" % (n % 4)
            source.put("t", b"%s:%d" % (key, n), keys=[key])
        net.run(i * MS)
    done = 0
    for _ in range(400):
        net.run(20 * MS)
        for worker in workers:
            for one in list(worker.hands):
                if worker.rng.random() < 0.5:
                    key = one[2].split(b":")[0]
                    worker.settle(one)
                    done += 1
                    if not any(
                        h[0].origin == one[0].origin and h[2].startswith(key + b":")
                        for h in worker.hands
                    ):
                        busy.pop((one[0].origin, key), None)
        if done == 120:
            break
    assert done == 120


def test_priorities_hold_per_owner(pair):
    net, (a, b) = pair
    source = net.worker(b)
    worker = net.worker(a).work("q", prefetch=1)
    net.run(SECOND)
    source.put("q", b"busy", priority=0)
    net.run(SECOND)
    source.put("q", b"low", priority=0)
    source.put("q", b"high", priority=9)
    net.run(SECOND)
    for _ in range(3):
        worker.ack_all()
        net.run(SECOND)
    assert worker.got == [b"busy", b"high", b"low"]


def test_a_worker_made_after_the_jobs_gets_them_of_all_nodes():
    net, nodes = works_of(3)
    assert net.worker(nodes[0]).work("q", prefetch=1) is not None
    net.run(SECOND)
    for n, node in enumerate(nodes):
        net.worker(node).put("q", b"%d" % n, priority=0)
    net.run(SECOND)
    late = net.worker(nodes[2]).work("q", prefetch=10)
    net.run(SECOND)
    assert len(late.got) == 2


def test_who_leaves_gives_back_what_it_holds_of_all(pair):
    net, (a, b) = pair
    first = net.worker(a).consume("g", "t", prefetch=10)
    net.run(SECOND)
    net.worker(b).put("t", *values(1, 2, 3))
    net.run(SECOND)
    first.leave()
    second = net.worker(a).consume("g", "t", prefetch=10)
    net.run(SECOND)
    assert second.got == values(1, 2, 3)
    assert all(one[0].row.attempt == 1 for one in second.hands)


def test_a_key_in_flight_does_not_bind_records_to_a_member_whose_credit_is_elsewhere(pair):
    net, (a, b) = pair
    first = net.worker(a).consume("g", "t", prefetch=2, order="key")
    net.run(SECOND)
    source = net.worker(a)
    source.put("t", b"k1", keys=[b"k"])
    net.run(SECOND)
    net.worker(b).put("t", b"b1", keys=[b"x"])
    net.run(SECOND)
    assert first.got == [b"k1", b"b1"]
    second = net.worker(a).consume("g", "t", prefetch=5, order="key")
    net.run(SECOND)
    source.put("t", b"k2", b"j1", keys=[b"k", b"j"])
    net.run(SECOND)
    assert second.got == [b"j1"], "k2 waits for k1, and nothing for k2"
    first.settle(first.hands[0])
    net.run(SECOND)
    assert second.got == [b"j1", b"k2"]


def test_what_an_owner_takes_back_leaves_room_for_others(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=1, timeout_ns=2 * SECOND)
    net.run(SECOND)
    net.worker(b).put("t", b"late")
    net.run(SECOND)
    net.worker(a).put("t", b"next")
    net.run(SECOND)
    assert worker.got == [b"late"]
    net.run(SECOND)
    assert worker.got == [b"late", b"late"], "it is handed out again, to whoever has room"
    worker.ack_all()
    net.run(SECOND)
    assert worker.got == [b"late", b"late", b"next"]


def test_room_that_one_owner_leaves_is_another_s_only_behind_the_word_of_it(pair):
    """The turn of the node's own log had begun before there was room for it."""
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=1, timeout_ns=2 * SECOND)
    net.run(SECOND)
    net.worker(b).put("t", b"late", b"more")
    net.run(SECOND)
    net.worker(a).put("t", b"own")
    net.run(5 * SECOND)
    assert worker.got[:2] == [b"late", b"own"]
    assert worker.peak == 1


def test_a_frame_of_one_program_that_is_all_wrong_costs_no_link_of_all(pair):
    """Its node passes it on; the owner answers, and does not take it for the other node's fault."""
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4096)
    net.run(SECOND)
    net.worker(b).put("t", *values(*range(4096)))
    net.run(SECOND)
    held = worker.hands[0][0]
    worker.settle(worker.hands[0])
    net.run(SECOND)
    number = held.row.number
    for n in range(1, 4000, 2):  # so that what is said again has gaps
        worker.settle((held, n, b""))
    net.run(SECOND)
    rows = tuple(SettleRow(number, 1, 4095, EXTEND, SECOND) for _ in range(40))
    session, link = worker.client._session, worker.link
    opened = a.node.site.siblings[b.origin].link
    session.send(Settle(worker.member.id, 1 << 40, rows, b.origin), net.now_ns)
    worker.flush()
    net.run(SECOND)
    assert a.node.site.siblings[b.origin].link == opened
    assert worker.link == link


# -- what is lost ----------------------------------------------------------------------------------


def test_what_is_held_of_an_owner_that_is_away_is_claimed_when_it_is_back(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4)
    net.run(SECOND)
    net.worker(b).put("t", *values(*range(4)))
    net.run(SECOND)
    one = worker.hands[0]
    net.kill(b)
    net.run(100 * MS)
    assert worker.member.away == ["node-1"]
    worker.settle(one)
    net.run(100 * MS)
    assert not one[0].is_closed(one[1]), "nobody has it on disk"
    assert not worker.member.is_idle
    b.start([a.address])
    net.run(4 * SECOND)
    assert one[0].is_closed(one[1])
    assert not one[0].refused
    worker.ack_all()
    net.run(SECOND)
    assert worker.got == values(*range(4))
    assert worker.member.stale == 0
    assert net.worker(b).show("g", here=True)["records"] == 0


def test_what_is_settled_of_an_owner_that_is_away_leaves_room_for_others(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4)
    net.run(SECOND)
    net.worker(b).put("t", *values(*range(4)))
    net.run(SECOND)
    assert len(worker.hands) == 4
    net.kill(b)
    net.run(100 * MS)
    net.worker(a).put("t", *values(10, 11, 12))
    net.run(SECOND)
    assert len(worker.hands) == 4, "what is held of it counts"
    worker.settle(worker.hands[0])
    worker.settle(worker.hands[0])
    net.run(SECOND)
    assert worker.got[4:] == values(10, 11)
    assert worker.peak == 4


def test_after_a_claim_what_is_settled_frees_as_much_as_before(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4)
    net.run(SECOND)
    net.worker(b).put("t", *values(*range(4)))
    net.run(SECOND)
    worker.settle(worker.hands[0])
    worker.settle(worker.hands[0])
    net.run(SECOND)
    net.cut(a, b)
    net.run(limits.LINK_SILENT_NS + SECOND)
    net.heal()
    net.run(3 * SECOND)
    worker.ack_all()
    net.run(SECOND)
    net.worker(a).put("t", *values(*range(10, 20)))
    net.run(SECOND)
    assert len(worker.hands) == 4


def test_settles_for_an_owner_that_stays_away_are_given_up_after_the_ack_timeout(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4, timeout_ns=5 * SECOND)
    net.run(SECOND)
    net.worker(b).put("t", b"1")
    net.run(SECOND)
    (one,) = worker.hands
    net.kill(b)
    worker.settle(one)
    net.run(4 * SECOND)
    assert not one[0].is_closed(one[1])
    net.run(2 * SECOND)
    assert one[0].is_closed(one[1])
    assert "node-1" in one[0].refused[one[1]]
    assert worker.member.is_idle


def test_a_cut_that_heals_soon_gives_all_back_to_the_member(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4)
    other = net.worker(b).consume("g", "t", prefetch=4)
    net.run(SECOND)
    other.leave()
    net.run(SECOND)
    net.worker(b).put("t", *values(*range(4)))
    net.run(SECOND)
    assert len(worker.hands) == 4
    net.cut(a, b)
    net.run(limits.LINK_SILENT_NS + SECOND)
    net.heal()
    net.run(3 * SECOND)
    worker.ack_all()
    net.run(SECOND)
    assert worker.member.stale == 0
    assert worker.got == values(*range(4))


def test_a_program_that_moves_to_another_node_keeps_what_it_holds():
    net, (a, b, c) = works_of(3)
    worker = net.worker(a).consume("g", "t", prefetch=6)
    net.run(SECOND)
    net.worker(b).put("t", *values(1, 2))
    net.worker(a).put("t", *values(3, 4))
    net.run(SECOND)
    assert len(worker.hands) == 4
    net.kill(a)
    net.run(limits.SECOND)
    worker.settle(worker.hands[0])
    worker.lose(c)
    net.run(2 * SECOND)
    a.start([b.address, c.address])
    net.run(3 * SECOND)
    worker.ack_all()
    net.run(3 * SECOND)
    assert sorted(worker.got) == values(1, 2, 3, 4)
    assert worker.member.stale == 0
    assert worker.member.is_idle
    assert net.worker(b).show("g")["records"] == 0


def test_a_program_that_moves_while_its_node_lives_is_known_at_once():
    net, (a, b, c) = works_of(3)
    worker = net.worker(a).consume("g", "t", prefetch=6)
    net.run(SECOND)
    net.worker(a).put("t", *values(1, 2))
    net.worker(b).put("t", *values(3))
    net.run(SECOND)
    assert len(worker.hands) == 3
    # The old node does not hear of it.
    net.programs.pop(worker.link)
    worker.at = c
    worker.handle(LinkClosed(worker.link, "cut"))
    net.run(SECOND)
    worker.ack_all()
    net.run(SECOND)
    assert worker.member.stale == 0
    assert worker.member.is_idle
    assert net.worker(b).show("g")["records"] == 0


def test_a_killed_program_s_records_go_to_others(pair):
    net, (a, b) = pair
    first = net.worker(a).consume("g", "t", prefetch=4)
    net.run(SECOND)
    net.worker(b).put("t", *values(1, 2, 3))
    net.run(SECOND)
    first.die()
    second = net.worker(a).consume("g", "t", prefetch=4)
    net.run(3 * SECOND)
    assert sorted(second.got) == values(1, 2, 3)


# -- transactions ----------------------------------------------------------------------------------


def test_a_transaction_is_done_where_what_it_acks_is(pair):
    net, (a, b) = pair
    worker = net.worker(a).consume("g", "t", prefetch=4)
    net.run(SECOND)
    net.worker(b).put("t", *values(1, 2))
    net.run(SECOND)
    one, two = worker.hands
    worker.client.transact([one[:2]], (), b"", net.now_ns)
    worker.flush()
    net.run(SECOND)
    (answer,) = worker.transactions
    assert (answer.code, answer.origin) == ("", b.origin)
    assert one[0].is_closed(one[1])
    net.kill(b)
    net.run(100 * MS)
    worker.client.transact([two[:2]], (), b"", net.now_ns)
    worker.flush()
    net.run(SECOND)
    assert len(worker.transactions) == 1, "it waits for its owner"
    b.start([a.address])
    net.run(4 * SECOND)
    assert worker.transactions[1].code == ""


@pytest.mark.parametrize("seed", range(20))
def test_without_faults_each_record_goes_to_one_member_once_and_the_prefetch_is_exact(seed):
    """Members of all sizes at all nodes, jobs short and long, settled in any order."""
    net, nodes = works_of(3, seed)
    rng = random.Random(seed)
    seen = set()

    def given(worker, held, index, value):
        place = (held.origin, held.offset(index))
        assert place not in seen
        seen.add(place)
        assert worker.in_hands() <= worker.prefetch

    net.on_given = given
    workers = []
    for _ in range(rng.randint(1, 6)):
        worker = net.worker(rng.choice(nodes))
        worker.prefetch = rng.choice([1, 1, 2, 3, 10, 64])
        workers.append(worker.consume("g", "t", prefetch=worker.prefetch))
        net.run(rng.randrange(3) * MS)
    net.run(SECOND)
    sources = [net.worker(node) for node in nodes]
    total = 0
    for _ in range(150):
        if rng.random() < 0.3:
            count = rng.choice([1, 2, 30])
            rng.choice(sources).put("t", *values(*range(count)))
            total += count
        net.run(int(rng.choice([0.2, 1, 3, 20, 150]) * MS))
        for worker in workers:
            for one in list(worker.hands):
                if rng.random() < 0.4:
                    worker.settle(one)
    for _ in range(2000):
        net.run(20 * MS)
        for worker in workers:
            worker.ack_all()
        if len(seen) == total and all(w.member.is_idle for w in workers):
            break
    assert len(seen) == total
    for node in nodes:
        assert node.node.groups.by_name["g"].backlog == 0


# -- whatever happens ------------------------------------------------------------------------------


class Chaos:
    """Nodes are cut and killed, programs move, settle and are slow; then all heals, and whatever
    was confirmed must have been acked."""

    def __init__(self, seed, keyed=False):
        self.net, self.nodes = net, nodes = works_of(3, seed)
        self.rng = rng = random.Random(seed)
        self.acked, self.told = set(), []
        self.batches = []
        self.healed = False
        order = {"order": "key"} if keyed else {}
        self.prefetch = {}
        net.on_given = self.given
        for i in range(4):
            worker = net.worker(nodes[i % 3], f"w{i}")
            prefetch = rng.choice([1, 2, 5, 40])
            worker.consume("g", "t", prefetch=prefetch, timeout_ns=8 * SECOND, backoff_ns=50 * MS,
                           max_deliveries=1000, **order)  # fmt: skip
            self.prefetch[worker] = prefetch
        self.sources = [net.worker(node, f"s{i}") for i, node in enumerate(nodes)]
        net.run(SECOND)
        self.counts = dict.fromkeys(range(3), 0)
        for _ in range(120):
            self.step()
        self.heal()

    def given(self, worker, held, index, value):
        place = (held.origin, held.row.topic, held.offset(index))
        assert place not in self.acked, f"{value!r} was confirmed as done and came again"
        assert worker.in_hands() <= self.prefetch[worker], "more than its prefetch"

    def note(self):
        rest = []
        for worker, held, index in self.told:
            if not held.is_closed(index):
                rest.append((worker, held, index))
            elif index not in held.refused:
                self.acked.add((held.origin, held.row.topic, held.offset(index)))
        self.told = rest

    def step(self):
        rng, net = self.rng, self.net
        what = rng.random()
        up = [n for n in self.nodes if n.node is not None]
        if what < 0.4:
            i = rng.randrange(3)
            count = rng.choice([1, 3, 20])
            first = self.counts[i]
            self.counts[i] += count
            data = [b"%d.%d" % (i, n) for n in range(first, first + count)]
            keys = [b"k%d" % rng.randrange(4) for _ in data]
            self.batches.append(self.sources[i].put("t", *data, keys=keys))
        elif what < 0.5:
            net.cut(*rng.sample(self.nodes, 2), one_way=rng.random() < 0.3)
        elif what < 0.62:
            net.heal()
        elif what < 0.65 and len(up) == 3:
            net.kill(rng.choice(up))
        elif what < 0.75:
            for node in self.nodes:
                if node.node is None:
                    node.start([n.address for n in self.nodes if n is not node])
        elif what < 0.8:
            worker = rng.choice(list(self.prefetch))
            worker.lose(rng.choice(up))
        for worker in self.prefetch:
            for one in list(worker.hands):
                if rng.random() < 0.3:
                    kind = rng.choice([ACK] * 6 + [NACK, 4])
                    if worker.settle(one, kind) and kind == ACK:
                        self.told.append((worker, one[0], one[1]))
        net.run(int(rng.choice([5, 50, 400, 1500]) * MS))
        self.note()

    def heal(self):
        net = self.net
        net.heal()
        for node in self.nodes:
            if node.node is None:
                node.start([n.address for n in self.nodes if n is not node])
        for _ in range(400):
            net.run(200 * MS)
            for worker in self.prefetch:
                for one in list(worker.hands):
                    if worker.settle(one):
                        self.told.append((worker, one[0], one[1]))
            self.note()
            if self.is_done():
                return
        raise AssertionError(self.left())

    def left(self):
        found = {}
        for node in self.nodes:
            group = node.node.groups.by_name["g"]
            found[node.name] = (group.backlog, group.in_flight, group.unmet)
        return found

    def is_done(self):
        idle = all(w.member.is_idle and not w.member.held for w in self.prefetch)
        return idle and all(row[0] == 0 for row in self.left().values())


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_doubled_or_too_much_whatever_happens(seed):
    Chaos(seed)


@pytest.mark.parametrize("seed", range(100, 104))
def test_nor_in_order_of_keys(seed):
    Chaos(seed, keyed=True)


def test_a_node_that_drains_asks_for_no_credit_of_other_nodes_members(pair):
    net, (a, b) = pair
    worker = net.worker(b).consume("g", "t", prefetch=4)
    asker, held = net.worker(a), net.worker(a)
    net.run(SECOND)
    asker.client.command("node.drain", b'{"timeout_ns": 60000000000}', net.now_ns)
    asker.flush()
    held.put("t", *values(*range(20)))
    net.run(50 * MS)
    assert a.node.admission.is_draining
    group = a.node.groups.by_name["g"]
    assert (group.backlog, group.unmet) == (20, 0)
    assert worker.got == []


def test_a_node_that_was_drained_and_stays_hands_out_to_members_of_other_nodes(pair):
    net, (a, b) = pair
    worker = net.worker(b).consume("g", "t", prefetch=4)
    held = net.worker(a)
    net.run(SECOND)
    asker = net.worker(a)
    asker.client.command("node.drain", b'{"timeout_ns": 500000000, "stay": true}', net.now_ns)
    asker.flush()
    held.put("t", *values(*range(20)))
    net.run(50 * MS)
    assert a.node.admission.is_draining
    assert worker.got == []
    for _ in range(40):
        net.run(100 * MS)
        worker.ack_all()
    assert a.node.drain.is_over
    assert sorted(worker.got) == sorted(values(*range(20)))
