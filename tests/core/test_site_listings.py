"""What is asked of a site at any of its nodes."""

from __future__ import annotations

import json

import pytest

from meshmq import limits
from meshmq.core.site_merges import MERGES, Part
from meshmq.frames import REJECT, Result
from meshmq.limits import MS, SECOND
from meshmq.names import JobId, topic_key
from tests.core.site_workers import works_of


def values(*numbers):
    return [b"%d" % n for n in numbers]


@pytest.fixture
def three():
    net, nodes = works_of(3)
    workers = [net.worker(node, f"w{i}") for i, node in enumerate(nodes)]
    net.run(10 * MS)
    return net, nodes, workers


def test_a_group_is_one_from_any_node_and_says_where_its_parts_are(three):
    net, _nodes, workers = three
    workers[0].consume("g", "t", prefetch=4)
    net.run(SECOND)
    workers[1].put("t", *values(1, 2, 3))
    workers[2].put("t", *values(*range(10)))
    net.run(SECOND)
    shown = [worker.show("g") for worker in workers]
    for one in shown:
        assert (one["records"], one["in_flight"], one["ready"]) == (13, 4, 9)
        assert sorted((row["node"], row["records"]) for row in one["nodes"]) == [
            ("node-0", 0), ("node-1", 3), ("node-2", 10),
        ]  # fmt: skip
        (member,) = one["members"]
        assert (member["client"], member["home"], member["in_flight"]) == ("w0", "node-0", 4)
        assert one["away"] == []
    assert [one["nodes"][0]["node"] for one in shown] == ["node-0", "node-1", "node-2"]
    code, _, listed = workers[1].command("group.list")
    assert code == ""
    assert [(g["group"], g["records"]) for g in listed["groups"]] == [("g", 13)]


def test_a_queue_that_only_another_node_has_is_found(three):
    net, _nodes, workers = three
    net.cut(_nodes[0], _nodes[1])
    net.cut(_nodes[0], _nodes[2])
    workers[0].work("q")
    net.run(SECOND)
    net.heal()
    net.run(5 * SECOND)
    workers[0].leave()
    # What another one's program sees depends on no node but the one that has it.
    code, message, body = workers[1].command("group.show", group="q")
    assert code == "", message
    assert body["kind"] == "queue"
    code, message, _ = workers[1].command("group.show", group="nothing")
    assert code == "group-not-found"


def test_topics_services_and_status_are_of_all_nodes(three):
    net, nodes, workers = three
    for i, worker in enumerate(workers):
        worker.put("t", *values(*range(i + 1)))
    workers[2].put("only", b"x")
    net.run(SECOND)
    _, _, body = workers[0].command("topic.list")
    by_name = {row["topic"]: row for row in body["topics"]}
    assert by_name["t"]["records"] == 6
    assert "next_offset" not in by_name["t"]
    assert by_name["only"]["records"] == 1
    _, _, one = workers[1].command("topic.show", topic="only")
    stored = {row["node"]: row["records"] for row in one["nodes"]}
    assert stored == {"node-2": 1}
    _, _, status = workers[1].command("status")
    assert status["node"]["name"] == "node-1"
    assert [row["node"] for row in status["nodes"]] == ["node-1", "node-0", "node-2"]
    _, _, served = workers[1].command("service.list")
    assert served == {"services": [], "away": []}
    assert nodes


def test_nodes_that_are_away_or_silent_are_named_in_time(three):
    net, nodes, workers = three
    workers[0].consume("g", "t")
    net.run(SECOND)
    net.kill(nodes[2])
    net.run(100 * MS)
    assert workers[0].show("g")["away"] == ["node-2"]
    assert workers[0].command("group.list")[2]["groups"][0]["away"] == ["node-2"]
    assert workers[0].command("status")[2]["away"] == ["node-2"]
    net.cut(nodes[0], nodes[1])  # nobody knows yet
    began = net.now_ns
    assert workers[0].show("g")["away"] == ["node-1", "node-2"]
    assert net.now_ns - began <= limits.LISTING_NS + 10 * MS


def test_an_owner_that_is_lost_meanwhile_ends_the_wait_for_it(three):
    net, nodes, workers = three
    workers[0].consume("g", "t")
    net.run(SECOND)
    net.cut(nodes[0], nodes[1])
    net.at(20 * MS, lambda: net.kill(nodes[1]))
    net.at(21 * MS, net.heal)
    began = net.now_ns
    assert workers[0].show("g")["away"] == ["node-1"]
    assert net.now_ns - began < limits.LISTING_NS


def test_a_job_is_cancelled_where_it_is(three):
    net, nodes, workers = three
    workers[0].work("q", prefetch=1)
    net.run(SECOND)
    workers[1].put("q", *values(1, 2), priority=0)
    net.run(SECOND)
    topic = nodes[1].node.topics.by_name["q"].entry.topic_id
    job = str(JobId(nodes[1].origin.hex(), topic_key(topic), 1))
    code, message, body = workers[2].command("queue.cancel", queue="q", job=job)
    assert (code, body) == ("", {"cancelled": job}), message
    net.kill(nodes[1])
    net.run(100 * MS)
    code, message, _ = workers[2].command("queue.cancel", queue="q", job=job)
    assert code == "owner-away"
    assert "node-1" in message


def test_a_purge_is_done_at_all_nodes_or_says_where_not(three):
    net, nodes, workers = three
    workers[0].work("q", prefetch=1)
    net.run(SECOND)
    for worker in workers:
        worker.put("q", *values(1, 2), priority=0)
    net.run(SECOND)
    code, message, body = workers[2].command("queue.purge", queue="q")
    assert (code, body["purged"]) == ("", 5), message  # one is in a worker's hands
    net.kill(nodes[1])
    net.run(100 * MS)
    code, message, _ = workers[2].command("queue.purge", queue="q")
    assert code == "owner-away"
    assert "not at node-1" in message


def test_chosen_dead_letters_are_put_back_or_purged_where_they_are(three):
    net, nodes, workers = three
    worker = workers[0].consume("g", "t", prefetch=10)
    net.run(SECOND)
    for one in workers:
        one.put("t", *values(1, 2, 3))
    net.run(SECOND)
    for one in list(worker.hands):
        worker.settle(one, REJECT)
    net.run(SECOND)
    origin = nodes[1].origin.hex()
    chosen = {"group": "g", "origin": origin, "ranges": [[0, 1]]}
    code, message, body = workers[2].command("dlq.purge", **chosen)
    assert (code, body) == ("", {"purged": 1}), message
    chosen["ranges"] = [[0, 2]]
    code, message, body = workers[2].command("dlq.replay", **chosen)
    assert (code, body) == ("", {"replaying": 1}), message
    net.run(SECOND)
    _, _, shown = workers[2].command("dlq.show", group="g")
    assert {row["node"]: row["ranges"] for row in shown["nodes"]} == {
        "node-0": [[0, 3]], "node-1": [[2, 1]], "node-2": [[0, 3]],
    }  # fmt: skip
    code, message, _ = workers[2].command("dlq.purge", group="g", origin="ab" * 16)
    assert code == "command-failed"
    code, message, _ = workers[2].command("dlq.purge", group="g", origin=7)
    assert code == "command-failed"
    net.kill(nodes[1])
    net.run(100 * MS)
    code, message, _ = workers[2].command("dlq.purge", **chosen)
    assert code == "owner-away"
    assert "these dead letters are in the log of node node-1" in message


def test_a_refusal_of_the_own_node_is_the_answer(three):
    _net, _nodes, workers = three
    code, message, _ = workers[0].command("topic.show")
    assert code == "command-failed", message


def test_who_has_gone_is_answered_nothing_and_nothing_is_kept(three):
    net, nodes, workers = three
    listings = nodes[0].node.site.listings
    net.cut(nodes[0], nodes[1])
    workers[0].client.command("topic.list", b"{}", net.now_ns)
    workers[0].flush()
    net.run(10 * MS)
    assert listings.next_deadline_ns() is not None
    workers[0].die()
    net.run(10 * MS)
    assert listings.next_deadline_ns() is None
    net.run(2 * SECOND)


def test_too_many_at_once_are_refused(three):
    net, nodes, workers = three
    net.cut(nodes[0], nodes[1])
    for _ in range(limits.LISTINGS_MAX + 1):
        workers[0].client.command("topic.list", b"{}", net.now_ns)
    workers[0].flush()
    net.run(20 * MS)
    assert [a.code for a in workers[0].answers] == ["busy"]
    net.run(2 * SECOND)
    assert len(workers[0].answers) == limits.LISTINGS_MAX + 1


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"groups": 7}', b'{"groups": [{}]}'])
def test_an_answer_that_fits_nothing_ends_in_one_sentence(three, body):
    net, nodes, workers = three
    listings = nodes[0].node.site.listings
    number = workers[0].client.command("group.list", b"{}", net.now_ns)
    workers[0].flush()
    net.run(2)
    (mine,) = [n for n, (_, origin) in listings._asked.items() if origin == nodes[1].origin]
    listings.on_result(Result(mine, "", "", body))
    net.run(2 * SECOND)
    (answer,) = [a for a in workers[0].answers if a.id == number]
    assert answer.code in ("", "command-failed")
    assert json.loads(answer.body) == {} or json.loads(answer.body)["groups"] == []


def test_sums_are_sums():
    one = {"topic": "t", "durability": "durable", "published": 2, "records": 2, "producers": 1,
           "first_offset": 0, "next_offset": 2}  # fmt: skip
    two = {**one, "published": 3, "records": 3, "next_offset": 3}
    merged = MERGES["topic.show"]([Part("a", "0a", one), Part("b", "0b", two)])
    assert (merged["published"], merged["records"], merged["producers"]) == (5, 5, 2)
