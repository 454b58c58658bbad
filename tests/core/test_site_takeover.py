"""Groups of a site that is lost are finished at another one; what is left goes back."""

from __future__ import annotations

import json

import pytest

from meshmq import limits
from meshmq.core.claims import takes
from meshmq.core.log import TrimEntry
from meshmq.frames import NACK, REJECT
from meshmq.limits import MS, SECOND
from tests.core.test_links_groups import FENCE_NS, begin, far_sites, filled, mirror_at


def command(net, at, verb="site.takeover", name="us", **arguments):
    """(code, message, answer) of a command."""
    return net.worker(at).command(verb, name=name, **arguments)


def take_over(net, at, **arguments):
    code, message, answer = command(net, at, assume_dead=True, **arguments)
    assert (code, message) == ("", "")
    assert [row["refused"] for row in answer["nodes"]] == [""] * len(answer["nodes"])
    return answer


def hand_back(net, at):
    code, message, answer = command(net, at, "site.handback")
    assert (code, message) == ("", "")
    return answer


def member(net, at, kind="group", group="billing", topic="orders.us"):
    pattern = topic if kind == "group" else ""
    return net.worker(at).consume(group, pattern, prefetch=100, kind=kind)


def status(net, node):
    return node.node.site.describe(net.now_ns)


def lost(kind="group", topic="orders.us", group="billing", **more):
    """Site us is gone, with records that were not done: (net, eu, us, values)."""
    net, sites = far_sites("eu", "us", **more)
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, us, kind=kind, topic=topic, group=group)
    net.kill(us)
    net.run(2 * SECOND)
    return net, eu, us, left


def worked(net, *workers):
    """Values that they get, and ack."""
    net.run(2 * SECOND)
    found = [value for worker in workers for value in worker.got]
    for worker in workers:
        worker.ack_all()
    net.run(SECOND)
    return found


@pytest.mark.parametrize(
    ("kind", "topic", "group"), [("group", "orders.us", "billing"), ("queue", "thumbs", "thumbs")]
)
def test_what_had_arrived_and_was_not_done_is_worked_on_at_the_other_site(kind, topic, group):
    net, eu, us, left = lost(kind, topic, group)
    answer = take_over(net, eu)
    (log,) = answer["nodes"][0]["logs"]
    assert (log["name"], log["epoch"], log["groups"]) == (f"us/{us.name}", 1, [group])
    worker = member(net, eu, kind, group, topic)
    assert worked(net, worker) == left
    assert all(held.row.maybe_duplicate for held, *_ in worker.hands)
    net.run(5 * SECOND)
    (row,) = status(net, eu)["taken"]
    assert (row["log"], row["by"], row["left"], row["over"]) == (f"us/{us.name}", "eu", 0, True)


@pytest.mark.parametrize("kind", ["group", "queue"])
def test_a_batch_of_which_the_first_records_are_gone_is_taken_with_the_rest(kind):
    """Those of a queue go as they are done, those of a topic with its retention."""
    net, sites = far_sites("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    topic, group = ("orders.us", "billing") if kind == "group" else ("thumbs", "thumbs")
    left = filled(net, us, acked=9, kind=kind, topic=topic, group=group)
    us.node._entries.append(TrimEntry(us.node.topics.by_name[topic].entry.stream, 9))
    us.end_turn()
    net.run(3 * SECOND)
    assert mirror_at(eu, us.origin).topics.by_name[topic].first_offset == 9
    net.kill(us)
    net.run(2 * SECOND)
    take_over(net, eu)
    assert worked(net, member(net, eu, kind, group, topic)) == left


def test_a_site_that_is_back_hands_out_only_what_had_not_arrived():
    net, eu, us, left = lost()
    begin(us)
    net.run(6 * SECOND)
    net.cut(us, eu)
    maker = net.worker(us)
    for i in range(5):
        maker.put("orders.us", b"tail %d" % i)
    net.run(5 * SECOND)
    maker.die()
    net.kill(us)
    net.heal()
    take_over(net, eu)
    worker = member(net, eu)
    net.run(3 * SECOND)
    assert worker.got == left
    begin(us)
    back = member(net, us)
    net.run(10 * SECOND)
    assert back.got == [b"tail %d" % i for i in range(5)]
    assert worker.got == left
    (row,) = status(net, us)["taken"]
    assert (row["by"], row["epoch"], row["here"]) == ("eu", 1, False)


@pytest.mark.parametrize("wait_ms", [0, 1500])
def test_a_node_that_hears_of_a_takeover_by_its_sibling_alone_hands_out_nothing_before(wait_ms):
    net, sites = far_sites("eu", "us", nodes=2)
    us, sibling = sites["us"]
    filled(net, us)
    net.kill(us)
    net.kill(sibling)
    net.run(2 * SECOND)
    take_over(net, sites["eu"][0])
    net.run(3 * SECOND)
    for far in sites["eu"]:
        net.cut(us, far)
    begin(us, [sibling.address])
    back = member(net, us)
    net.run(wait_ms * MS)
    begin(sibling, [us.address])
    net.run(10 * SECOND)
    assert back.got == []


@pytest.mark.parametrize(
    ("kind", "topic", "group"), [("group", "orders.us", "billing"), ("queue", "thumbs", "thumbs")]
)
def test_what_is_left_goes_back_once(kind, topic, group):
    net, eu, us, left = lost(kind, topic, group)
    take_over(net, eu)
    net.run(3 * SECOND)
    worker = net.worker(eu).consume(group, topic if kind == "group" else "", prefetch=5, kind=kind)
    net.run(2 * SECOND)
    done = worker.got[:3]
    for one in worker.hands[:3]:
        worker.settle(one)
    net.run(SECOND)
    done = worker.got[:3]
    begin(us)
    back = member(net, us, kind, group, topic)
    net.run(8 * SECOND)
    assert back.got == []
    answer = hand_back(net, eu)
    assert answer["nodes"][0]["logs"][0]["records"] == len(left) - 3
    net.run(5 * SECOND)
    assert sorted(back.got) == sorted(set(left) - set(done))
    assert all(held.row.maybe_duplicate for held, *_ in back.hands)
    (row,) = status(net, eu)["taken"]
    assert (row["left"], row["back"], row["over"]) == (0, True, True)
    again = member(net, eu, kind, group, topic)
    net.run(2 * SECOND)
    assert again.got == []
    back.ack_all()
    net.run(SECOND)
    net.kill(us)
    begin(us)
    last = member(net, us, kind, group, topic)
    net.run(8 * SECOND)
    assert last.got == []


@pytest.mark.parametrize("victim", ["eu", "us"])
@pytest.mark.parametrize("wait_ms", [0, 1, 2, 3, 4, 6, 8, 12, 600, 603])
def test_a_handback_is_done_once_whoever_is_killed(victim, wait_ms, monkeypatch):
    monkeypatch.setattr(limits, "HANDED_BACK_MAX", 1)
    net, eu, us, left = lost()
    take_over(net, eu)
    net.run(3 * SECOND)
    begin(us)
    net.run(8 * SECOND)
    hand_back(net, eu)
    net.run(wait_ms * 1_000_000)
    killed = eu if victim == "eu" else us
    net.kill(killed)
    begin(killed)
    net.run(30 * SECOND)
    workers = [member(net, node) for node in (eu, us)]
    assert sorted(worked(net, *workers)) == sorted(left)


@pytest.mark.parametrize("wait_ms", [0, 1, 3, 5, 2000, 5010, 5020])
def test_a_taker_that_is_killed_moves_each_record_once(wait_ms):
    net, eu, us, left = lost()
    take_over(net, eu)
    net.run(wait_ms * 1_000_000)
    net.kill(eu)
    begin(eu)
    net.run(10 * SECOND)
    assert sorted(worked(net, member(net, eu))) == sorted(left)
    begin(us)
    net.run(10 * SECOND)
    assert worked(net, member(net, us)) == []


def test_of_two_sites_that_take_over_at_once_one_does():
    net, sites = far_sites("asia", "eu", "us")
    (asia,), (eu,), (us,) = sites["asia"], sites["eu"], sites["us"]
    left = filled(net, us)
    net.kill(us)
    net.run(2 * SECOND)
    one, other = net.worker(eu), net.worker(asia)
    for worker in (one, other):
        arguments = json.dumps({"name": "us", "assume_dead": True}).encode()
        worker.client.command("site.takeover", arguments, net.now_ns)
        worker.flush()
    net.run(8 * SECOND)
    workers = [member(net, node) for node in (eu, asia)]
    assert sorted(worked(net, *workers)) == sorted(left)
    (loser,) = [node for node in (eu, asia) if not status(net, node)["taken"][0]["here"]]
    _, _, answer = command(net, loser, assume_dead=True)
    (row,) = answer["nodes"]
    assert "groups of us were taken over by site eu" in row["refused"]
    begin(us)
    net.run(10 * SECOND)
    assert worked(net, member(net, us)) == []


def take_at(net, *nodes):
    """All of them take us over at once."""
    for node in nodes:
        worker = net.worker(node)
        arguments = json.dumps({"name": "us", "assume_dead": True}).encode()
        worker.client.command("site.takeover", arguments, net.now_ns)
        worker.flush()


def unheard_of_each_other(monkeypatch):
    """Site us is gone, and the two others are cut: (network, asia, eu, us, values). Of the two eu
    counts for more."""
    monkeypatch.setattr(limits, "TAKEOVER_BYTES", 1)  # a batch at a time
    net, sites = far_sites("asia", "eu", "us")
    (asia,), (eu,), (us,) = sites["asia"], sites["eu"], sites["us"]
    left = filled(net, us)
    net.kill(us)
    net.cut(asia, eu)
    net.run(5 * SECOND)
    return net, asia, eu, us, left


def heal(net, asia):
    """Until the two have a link; how long that took."""
    net.heal()
    begin_ns = net.now_ns
    while not asia.node.site.words.fence.is_linked("eu"):
        net.run(MS)
    return net.now_ns - begin_ns


def test_who_is_beaten_is_told_and_finishes_what_it_had_moved(monkeypatch):
    net, asia, eu, us, left = unheard_of_each_other(monkeypatch)
    assert command(net, asia, check=True)[2]["unheard"] == ["eu"]
    assert command(net, eu, check=True)[2]["unheard"] == ["asia"]
    take_at(net, asia, eu)
    net.run(8 * SECOND)
    net.heal()
    net.run(10 * SECOND)
    (news,) = [news for news in asia.node.site.links.news if "has taken over" in news]
    assert f"site eu has taken over us/{us.name} too (epoch 1)" in news
    assert f"{len(left)} records that were moved to this node are finished here" in news
    (row,) = status(net, asia)["taken"]
    assert (row["by"], row["here"], row["beaten"]) == ("eu", False, len(left))
    assert status(net, eu)["taken"][0]["beaten"] == 0
    (problem,) = [p for p in asia.node.status()["problems"] if p["problem"] == "taken-twice"]
    assert problem["level"] == "warning"
    net.kill(asia)
    begin(asia)
    net.run(10 * SECOND)
    assert status(net, asia)["taken"][0]["beaten"] == len(left)
    members = [member(net, node) for node in (asia, eu)]
    net.run(2 * SECOND)
    assert all(held.row.maybe_duplicate for one in members for held, *_ in one.hands)
    assert [sorted(worked(net, one)) for one in members] == [sorted(left)] * 2
    assert "taken-twice" not in [p["problem"] for p in asia.node.status()["problems"]]
    begin(us)
    net.run(10 * SECOND)
    assert worked(net, member(net, us)) == []


def test_two_hear_of_each_other_in_the_middle_of_a_move(monkeypatch):
    heal_ns = heal(*unheard_of_each_other(monkeypatch)[:2])
    moved = set()
    for before_ms in (0, 1, 3, 4, 6, 8, 20):
        net, asia, eu, us, left = unheard_of_each_other(monkeypatch)
        net.heal()
        net.run(heal_ns - before_ms * MS)
        take_at(net, asia, eu)
        net.run(20 * SECOND)
        assert worked(net, member(net, eu)) == left
        beaten = status(net, asia)["taken"][0]["beaten"]
        worker = member(net, asia)
        assert worked(net, worker) == left[:beaten]
        assert all(held.row.maybe_duplicate for held, *_ in worker.hands)
        begin(us)
        net.run(10 * SECOND)
        assert worked(net, member(net, us)) == []
        moved.add(beaten)
    assert {0, len(left)} < moved, "none was in the middle"


def test_what_only_the_beaten_one_had_is_worked_on_at_its_own_site_too_and_marked():
    net, sites = far_sites("asia", "eu", "us")
    (asia,), (eu,), (us,) = sites["asia"], sites["eu"], sites["us"]
    left = filled(net, us)
    net.cut(eu, us)
    net.cut(asia, eu)
    net.run(5 * SECOND)
    maker = net.worker(us)
    maker.put("orders.us", b"tail")
    net.run(30 * SECOND)
    maker.die()
    net.run(30 * SECOND)
    net.kill(us)
    net.run(5 * SECOND)
    take_at(net, asia, eu)
    net.run(8 * SECOND)
    net.heal()
    net.run(8 * SECOND)
    assert worked(net, member(net, eu)) == left
    assert worked(net, member(net, asia)) == [*left, b"tail"]
    begin(us)
    worker = member(net, us)
    net.run(10 * SECOND)
    assert worker.got == [b"tail"]
    assert all(held.row.maybe_duplicate for held, *_ in worker.hands)


def test_what_another_site_took_that_is_not_heard_is_taken_only_if_people_say_so():
    net, sites = far_sites("asia", "eu", "us", fences=("us",))
    (asia,), (eu,), (us,) = sites["asia"], sites["eu"], sites["us"]
    filled(net, us)
    net.kill(us)
    net.run(FENCE_NS + limits.FENCE_MARGIN_NS + 5 * SECOND)
    assert command(net, eu)[2]["nodes"][0]["done"]
    net.run(5 * SECOND)
    net.cut(asia, eu)
    net.run(5 * SECOND)
    _, _, answer = command(net, asia)
    assert "taken over by site eu before (epoch 1), which is not linked" in answer["doubt"]
    assert not answer["nodes"][0]["done"]
    assert take_over(net, asia)["nodes"][0]["logs"][0]["epoch"] == 2
    net.run(5 * SECOND)
    net.heal()
    net.run(10 * SECOND)
    assert any("site asia has taken over" in news for news in eu.node.site.links.news)


def test_what_had_arrived_is_worked_on_though_its_past_is_awaited_by_a_later_wish():
    """Its topic was taken out of the wish and put back: what that brings lies before it."""
    net, sites = far_sites("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, us)
    (wish,) = net.links_of[eu]
    for topics in (("thumbs",), wish.topics):
        eu.node.site.set_links((wish._replace(topics=topics),), net.now_ns)
        eu.end_turn()
        net.run(5 * SECOND if topics != wish.topics else MS)
    net.kill(us)
    net.run(2 * SECOND)
    mirror = mirror_at(eu, us.origin)
    held = [s for s in mirror.stored if s.place == (1, 0) and takes(s.claims, "orders.us")]
    assert held, "nothing is awaited"
    assert take_over(net, eu)["nodes"][0]["logs"][0]["records"] == len(left)
    assert sorted(worked(net, member(net, eu))) == sorted(left)


def test_dead_letters_are_the_takers_once():
    net, sites = far_sites("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    worker = member(net, us)
    maker = net.worker(us)
    maker.put("orders.us", b"bad", b"good")
    net.run(SECOND)
    bad, good = worker.hands
    worker.settle(bad, REJECT)
    worker.settle(good, NACK)
    net.run(3 * SECOND)
    worker.die()
    net.kill(us)
    net.run(2 * SECOND)
    take_over(net, eu)
    net.run(3 * SECOND)
    assert worked(net, member(net, eu)) == [b"good"]
    begin(us)
    net.run(10 * SECOND)
    dead = [node.node.groups.by_name["billing"] for node in (eu, us)]
    topics = [node.node.topics.by_name["$dlq.billing"] for node in (eu, us)]
    counts = [
        topic.synced_offset
        - group.state.settled(topic.entry.stream).floor
        - group.state.settled(topic.entry.stream).above
        for group, topic in zip(dead, topics, strict=True)
    ]
    assert counts == [1, 0]


def test_a_site_that_is_linked_is_not_taken_over():
    net, sites = far_sites("eu", "us")
    (eu,) = sites["eu"]
    filled(net, sites["us"][0])
    _, _, answer = command(net, eu, assume_dead=True)
    (row,) = answer["nodes"]
    assert row["refused"].startswith("site us is linked")
    assert not row["done"]
    assert status(net, eu)["taken"] == []


def test_without_a_fence_it_says_what_may_repeat_and_does_nothing():
    net, eu, _, left = lost()
    code, _, answer = command(net, eu)
    assert code == ""
    assert "has told no fence_after" in answer["doubt"]
    assert not answer["nodes"][0]["done"]
    assert answer["nodes"][0]["logs"][0]["records"] == len(left)
    assert command(net, eu, name="nowhere")[2]["nodes"][0]["logs"] == []


def test_what_is_handed_back_may_be_taken_over_again():
    net, eu, us, left = lost()
    take_over(net, eu)
    net.run(3 * SECOND)
    begin(us)
    net.run(8 * SECOND)
    hand_back(net, eu)
    net.run(8 * SECOND)
    net.kill(us)
    net.run(2 * SECOND)
    assert take_over(net, eu)["nodes"][0]["logs"][0]["epoch"] == 2
    assert sorted(worked(net, member(net, eu))) == sorted(left)


def test_much_that_is_handed_back_at_once_comes_to_mirrors():
    """What its node notes of that is longer than a frame may be."""
    net, sites = far_sites("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    filled(net, us, kind="queue", topic="thumbs", group="thumbs", acked=20)
    maker = net.worker(us)
    for i in range(30):
        maker.put("thumbs", *[b"%d" % (1000 * i + j) for j in range(1000)], priority=0)
        net.run(100 * MS)
    net.run(3 * SECOND)
    net.kill(us)
    net.run(2 * SECOND)
    take_over(net, eu)
    net.run(5 * SECOND)
    begin(us)
    net.run(8 * SECOND)
    hand_back(net, eu)
    net.run(8 * SECOND)
    (answer,) = command(net, eu, check=True)[2]["nodes"]
    assert [log["records"] for log in answer["logs"]] == [30_000]
    assert [node["state"] for node in status(net, eu)["far"]] == ["linked"]


def test_what_its_node_had_done_does_not_come_back():
    net, sites = far_sites("eu", "us")
    (eu,), (us,) = sites["eu"], sites["us"]
    left = filled(net, us)
    net.cut(eu, us)
    net.run(5 * SECOND)
    late = member(net, us)
    net.run(SECOND)
    for one in late.hands[:4]:
        late.settle(one)
    net.run(SECOND)
    done = late.got[:4]
    late.die()
    net.kill(us)
    net.heal()
    take_over(net, eu)
    net.run(8 * SECOND)
    begin(us)
    net.run(8 * SECOND)
    hand_back(net, eu)
    net.run(8 * SECOND)
    assert sorted(worked(net, member(net, us))) == sorted(set(left) - set(done))


def test_in_a_chain_what_is_left_goes_back_over_a_link_of_the_two():
    net, sites = far_sites("ap", "eu", "us", shape={"ap": ["us"], "us": ["ap", "eu"], "eu": ["us"]})
    (ap,), (eu,) = sites["ap"], sites["eu"]
    left = filled(net, eu)
    net.run(5 * SECOND)
    net.kill(eu)
    net.run(2 * SECOND)
    assert take_over(net, ap, name="eu")["nodes"][0]["logs"][0]["records"] == len(left)
    net.run(8 * SECOND)
    (row,) = command(net, ap, "site.handback", name="eu")[2]["nodes"]
    why = f"node eu/{eu.name} is not linked with node {ap.name}, which has its work"
    assert row["refused"].startswith(why)
    assert row["refused"].endswith("start it, or see to the network, then say this again")
    begin(eu)
    net.run(8 * SECOND)
    (row,) = command(net, ap, "site.handback", name="eu")[2]["nodes"]
    assert (row["done"], row["logs"][0]["records"]) == (False, len(left))
    assert row["refused"].startswith(why)
    assert "put a [[link]] to eu into the settings of site ap" in row["refused"]
    assert status(net, eu)["taken"][0]["by"] == "ap"  # it was told over the chain
    (wish,) = net.links_of[ap]
    links = (wish, wish._replace(to="eu", endpoints=(eu.address,)))
    ap.node.site.set_links(links, net.now_ns)
    ap.end_turn()
    net.run(5 * SECOND)
    assert command(net, ap, "site.handback", name="eu")[2]["nodes"][0]["done"]
    net.run(5 * SECOND)
    got = [member(net, node) for node in (ap, eu)]
    assert sorted(worked(net, got[1])) == sorted(left)
    assert got[0].got == []
