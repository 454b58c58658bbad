"""What a node of a site tells of what is not well, and of whose streams are where."""

from __future__ import annotations

import json

import pytest

from meshmq import limits
from meshmq.core.site_copies import FULL
from meshmq.core.site_problems import problems
from meshmq.frames import Command, Result
from meshmq.limits import DAY, MS, SECOND
from tests.core.sites import WALL, Net, Program, joined, site_of
from tests.core.test_copies import confirmations, fill, holder, is_copied, policy
from tests.core.test_own_log import backed_up, start


def ask(node, verb, **arguments):
    """What a program is answered."""
    program = Program(node.net, node)
    program.send(Command(1, verb, json.dumps(arguments).encode()))
    assert node.net.run(3 * SECOND, lambda: program.find(Result))
    (result,) = program.take(Result)
    assert not result.code, result.message
    return json.loads(result.body)


def told(node):
    """(problem, about, level) of what the node itself finds wrong."""
    found = node.node.status()["problems"]
    assert all(row["seen"] and row["remedy"] for row in found)
    return [(row["problem"], row["about"], row["level"]) for row in found]


def test_where_all_is_well_nothing_is_told():
    net, nodes = site_of(3, copies=2)
    program = Program(net, nodes[0])
    program.publish("orders", b"1")
    net.run(2 * SECOND)
    assert [told(node) for node in nodes] == [[], [], []]
    assert [row["problems"] for row in ask(nodes[0], "status")["nodes"]] == [[], [], []]
    alone = Net().add()
    alone.start_alone()
    assert told(alone) == []


def test_a_node_that_is_away_is_named_until_it_is_back_or_forgotten():
    net, (a, b, c) = site_of(3)
    net.run(2 * SECOND)
    net.kill(b)
    net.run(6 * SECOND)
    assert told(a) == told(c) == [("away", b.name, "warning")]
    assert "for 5 s" in a.node.status()["problems"][0]["seen"]
    net.kill(a)
    net.run(100 * MS)
    a.start([c.address])  # it has not seen it in this life, and knows all the same
    assert net.run(6 * SECOND, lambda: joined(net))
    assert told(a) == [("away", b.name, "warning")]
    (row,) = a.node.status()["site"]["away"]
    assert (row["name"], row["origin"], row["seconds"]) == (b.name, b.origin.hex(), None)
    start(net, b)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(SECOND)
    assert told(a) == told(b) == told(c) == []
    net.kill(b)
    net.run(limits.TAKEOVER_SEEN_NS + SECOND)
    ask(a, "node.forget", name=b.name)
    net.run(3 * SECOND)
    assert told(a) == told(c) == []


def test_an_older_log_of_a_node_that_is_there_is_no_node():
    net, (a, b) = site_of(2)
    net.run(SECOND)
    net.kill(b)
    b.disk = type(b.disk)(b"n" * 16)  # its disk was lost
    start(net, b)
    assert net.run(6 * SECOND, lambda: joined(net))
    assert told(a) == []


def test_who_was_refused_is_named():
    net = Net()
    a, b = net.add(), net.add(name="node-0")
    a.start()
    b.start([a.address])
    net.run(2 * SECOND)
    assert told(a) == [("refused", b.name, "warning")]
    assert told(b) == [("refused", a.address, "warning")]
    assert "two nodes are named" in a.node.status()["problems"][0]["seen"]


def test_a_node_that_is_behind_says_so_at_all_nodes():
    net, (a, b, c), _ = backed_up()
    start(net, a)
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(SECOND)
    assert a.node.status()["state"] == "behind"
    assert told(a) == [("behind", a.name, "failure")]
    (row,) = a.node.status()["problems"]
    copies = a.node.status()["site"]["copies"]
    renew = f"meshmq log renew --name {a.name} --data /there"
    assert copies["behind"]["renew"] == renew
    assert f"run '{renew}'" in row["remedy"]
    assert f"run `{renew}`" in a.node.admission.refusal[1]  # which publishers are told
    for node in (b, c):
        rows = {row["node"]: row for row in ask(node, "status")["nodes"]}
        assert [rows[n.name]["state"] for n in (a, b, c)] == ["behind", "ok", "ok"]
        assert [p["problem"] for p in rows[a.name]["problems"]] == ["behind"]


def test_a_node_that_drains_says_so_at_the_others():
    net, (a, b) = site_of(2)
    Program(net, a)  # which does not go
    Program(net, a).send(Command(1, "node.drain", b'{"timeout_ns": 60000000000}'))
    net.run(SECOND)
    assert a.node.status()["state"] == "draining"
    rows = {row["node"]: row["state"] for row in ask(b, "status")["nodes"]}
    assert rows == {a.name: "draining", b.name: "ok"}


def test_too_few_nodes_for_copies_is_a_failure_where_receipts_wait():
    net, (a, b) = site_of(2, copies=3)
    net.run(SECOND)
    assert told(a) == told(b) == [("too-few-nodes", "3 copies", "warning")]
    assert a.node.status()["site"]["there"] == 2
    program = Program(net, a)
    program.publish("orders", b"1", replicated=True)
    net.run(SECOND)
    assert told(a) == [("too-few-nodes", "3 copies", "failure")]
    assert told(b) == [("too-few-nodes", "3 copies", "warning")]
    policy(b, "bills", confirm="replicated")
    assert told(b) == [("too-few-nodes", "3 copies", "failure")]
    ask(b, "topic.delete", topic="bills")
    assert told(b) == [("too-few-nodes", "3 copies", "warning")]
    net.add().copies = 3
    start(net, net.nodes[2])
    assert net.run(6 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)
    assert told(a) == told(b) == []
    assert confirmations(program)[-1].count == 1


def test_a_policy_that_is_deleted_asks_for_no_copies_any_more():
    net, nodes = site_of(3)
    policy(nodes[0], "orders", copies=5)
    policy(nodes[0], "bills.>", copies=4)
    net.run(2 * SECOND)
    assert [n.node.status()["site"]["copies"]["wanted"] for n in nodes] == [5, 5, 5]
    ask(nodes[0], "topic.delete", topic="orders")
    net.run(2 * SECOND)
    assert [n.node.status()["site"]["copies"]["wanted"] for n in nodes] == [4, 4, 4]
    ask(nodes[1], "topic.delete", topic="bills.>")
    net.run(2 * SECOND)
    assert [n.node.status()["site"]["copies"]["wanted"] for n in nodes] == [1, 1, 1]


def test_a_copy_that_stands_still_is_a_failure_where_receipts_wait():
    net, (a, b) = site_of(2, copies=2)
    program = Program(net, a)
    program.publish("orders", b"1")
    assert net.run(SECOND, lambda: is_copied(net, a))
    fill(b, 0)
    program.publish("orders", b"2")
    net.run(2 * SECOND)
    assert told(a) == [("copy", f"{a.name} at {b.name}", "warning")]
    assert FULL in a.node.status()["problems"][0]["seen"]
    program.publish("orders", b"3", replicated=True)
    net.run(SECOND)
    assert told(a) == [("copy", f"{a.name} at {b.name}", "failure")]


def test_copies_that_have_not_begun_are_told():
    net, (a, b) = site_of(2, copies=2)
    net.run(SECOND)
    net.cut(a, b)
    a.node.site.copies._senders.clear()  # as where the other one has no room for one more copy
    assert told(a) == [("copy", a.name, "warning")]


def test_a_clock_that_is_ahead_is_told():
    net, (a, b) = site_of(2)
    net.run(SECOND)
    b.node.registrar.set_wall(WALL + DAY, net.now_ns)
    ask(b, "topic.create", pattern="orders", durability="durable")
    net.run(100 * MS)
    assert told(a) == [("clock", b.name, "warning")]
    assert "by 23 h" in a.node.status()["problems"][0]["seen"]


def test_what_nobody_can_read_is_told():
    _, (a, b) = site_of(2)
    report = a.node.status()
    copies = report["site"]["copies"]
    copies["not_mended"] = 2
    skipped = [{"topic": "orders", "first_offset": 5, "records": n} for n in (3, 4)]
    row = {"of": b.name, "by": a.name, "origin": b.origin.hex(), "skipped": [], "left": False}
    copies["takeovers"] = [row, {**row, "skipped": skipped}]
    found = problems(a.name, report["site"], report["directory"])
    assert [(r["problem"], r["about"]) for r in found] == [
        ("unreadable", f"{b.name} at {a.name}"), ("not-mended", a.name),
    ]  # fmt: skip
    assert "7 records" in found[0]["seen"]
    report["site"]["refused"] = {f"node-{n}": "another mesh" for n in range(limits.PROBLEMS_MAX)}
    found = problems(a.name, report["site"], report["directory"])
    assert len(found) == limits.PROBLEMS_MAX


# -- whose streams are where ----------------------------------------------------------------------


@pytest.fixture
def three():
    """A site with copies, records of all nodes, and what each is copied to."""
    net, nodes = site_of(3, copies=2)
    for number, node in enumerate(nodes, 1):
        Program(net, node).publish("mails", *[b"%d" % i for i in range(number)])
    assert net.run(3 * SECOND, lambda: all(is_copied(net, node) for node in nodes))
    net.run(SECOND)
    return net, nodes, {node.name: holder(net, node).name for node in nodes}


def streams(node, topic="mails"):
    shown = ask(node, "topic.show", topic=topic)
    return {
        row["owner"]: (row["away"], row["records"], [
            (copy["name"], copy["caught_up"], copy["lag_commits"]) for copy in row["copied_to"]
        ])
        for row in shown["streams"]
    }  # fmt: skip


def test_each_stream_is_shown_with_its_copies_at_whatever_node(three):
    _, nodes, held = three
    wanted = {
        node.name: (False, number, [(held[node.name], True, 0)])
        for number, node in enumerate(nodes, 1)
    }
    assert [streams(node) for node in nodes] == [wanted] * 3
    assert ask(nodes[0], "topic.show", topic="mails")["copies"] == 2


def test_the_stream_of_a_node_that_is_away_is_shown_by_those_that_copy_it(three):
    net, nodes, held = three
    a = nodes[0]
    Program(net, a).publish("only", b"1", b"2")
    assert net.run(3 * SECOND, lambda: is_copied(net, a))
    net.run(SECOND)
    at = holder(net, a)
    (other,) = [n for n in nodes[1:] if n is not at]
    net.kill(a)
    net.run(SECOND)
    for node in (at, other):
        assert streams(node)[a.name] == (True, 1, [(held[a.name], True, 0)])
        assert streams(node, "only") == {a.name: (True, 2, [(held[a.name], True, 0)])}


def test_a_copy_that_is_late_is_shown_as_such(three):
    net, (a, *_), held = three
    copier = next(n for n in net.nodes if n.name == held[a.name])
    fill(copier, 0)
    Program(net, a).publish("mails", b"1")
    net.run(2 * SECOND)
    rows = {row["owner"]: row for row in ask(copier, "topic.show", topic="mails")["streams"]}
    (copy,) = rows[a.name]["copied_to"]
    assert (copy["name"], copy["caught_up"], copy["problem"]) == (copier.name, False, FULL)


def test_of_copies_of_a_node_that_is_away_the_shorter_ones_are_late():
    from meshmq.core.site_merges import Part, topic

    def part(name, lsn, records, away=True):
        copy = {"name": name, "caught_up": True, "lag_commits": 0, "lsn": lsn}
        row = {"owner": "a", "origin": "0a", "away": away, "records": records, "copied_to": [copy]}
        return Part(name, name, {"topic": "t", "streams": [row], "elsewhere": True})

    (row,) = topic([part("b", 7, 5), part("c", 9, 6)])["streams"]
    assert row["records"] == 6
    assert [(c["name"], c["caught_up"], c["lag_commits"]) for c in row["copied_to"]] == [
        ("b", False, 2), ("c", True, 0),
    ]  # fmt: skip
    (row,) = topic([part("b", 7, 5), part("a", 9, 6, away=False)])["streams"]  # one sees it
    assert (row["away"], [c["name"] for c in row["copied_to"]]) == (False, ["a"])


def test_a_topic_that_asks_for_more_copies_than_nodes_is_made_with_a_note():
    _, (a, b, _) = site_of(3)
    made = policy(a, "orders", copies=5, confirm="replicated")[2]
    assert made["created"]
    assert made["note"].startswith("3 nodes are there, and it is to be on 5: receipts wait until")
    assert ask(b, "topic.show", topic="orders")["note"] == made["note"]
    made = policy(a, "bills", copies=4)[2]
    assert "receipts that ask for 'replicated' wait" in made["note"]
    for quiet in ({"copies": 3, "confirm": "replicated"}, {"copies": 0, "confirm": "synced"}):
        assert "note" not in policy(a, "bills", **quiet)[2]
    assert "note" not in ask(a, "topic.show", topic="bills")


def test_a_lone_node_says_that_it_makes_no_copies():
    alone = Net().add()
    alone.start_alone()
    assert "belongs to no site" in policy(alone, "orders", copies=2)[2]["note"]
    assert "note" not in policy(alone, "bills")[2]
    assert "streams" not in ask(alone, "topic.show", topic="orders")
