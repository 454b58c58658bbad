"""Topics, policies and groups of several nodes: set at one, so at all; see core/registrar.py."""

from __future__ import annotations

import json

import pytest

from meshmq.core.directory import ROWS
from meshmq.core.directory_rows import NEVER, GroupRow, Stamp, TopicRow, pack
from meshmq.frames import (
    Command,
    Confirm,
    Consume,
    Consumed,
    DeliverBatch,
    DirectoryFrame,
    Envelope,
    Ping,
    Result,
)
from meshmq.limits import DAY, MS, SECOND
from tests.core.sites import Net, Program, joined, site_of


class Admin(Program):
    """A program that gives admin commands, for as long as its node lives."""

    def __init__(self, net, at):
        super().__init__(net, at)
        self.life = at.life
        net.at(SECOND, self.ping)

    def ping(self):
        if self.at.life == self.life:
            self.raw(Envelope(self.session, 0, self.heard, Ping()))
            self.net.at(SECOND, self.ping)

    def ask(self, verb, **arguments):
        """The answer, or the error's code and message."""
        self.send(Command(1, verb, json.dumps(arguments).encode()))
        self.net.run(20 * MS)
        (result,) = self.take(Result)
        return (result.code, result.message) if result.code else json.loads(result.body)

    def create(self, pattern, durability="durable", **policy):
        return self.ask("topic.create", pattern=pattern, durability=durability, **policy)

    def put(self, topic, *values):
        """Publish and be confirmed."""
        self.publish(topic, *values)
        self.net.run(20 * MS)
        (confirm,) = self.take(Confirm)
        (row,) = confirm.confirmations
        assert not row.code, row
        return row.topic_id

    def show(self, topic):
        return self.ask("topic.show", topic=topic)


def admins(net):
    return [Admin(net, node) for node in net.nodes if node.node is not None]


def site_with_admins(count):
    net, nodes = site_of(count)
    net.run(2 * SECOND)
    return net, nodes, admins(net)


def apart(net, node):
    """Cut a node off from all others, until they have noticed."""
    for other in net.nodes:
        if other is not node:
            net.cut(node, other)
    net.run(5 * SECOND)


def heal(net):
    """Until all nodes have the same."""
    net.heal()
    assert net.run(10 * SECOND, lambda: joined(net) and is_agreed(net))
    net.run(2 * SECOND)
    assert is_agreed(net)


def is_agreed(net):
    up = [n.node for n in net.nodes if n.node is not None]
    return len({n.registrar.directory.table.root for n in up}) == 1


def restart(net, node):
    """Start it from its disk, with the others to dial."""
    if node.node is not None:
        net.kill(node)
    node.start([n.address for n in net.nodes if n is not node])
    assert net.run(5 * SECOND, lambda: joined(net))
    net.run(2 * SECOND)


# --- topics and their policies -----------------------------------------------------------------


def test_a_topic_made_at_one_node_is_known_at_all_with_who_set_its_policy_and_when():
    net, nodes, (a, b, c) = site_with_admins(3)
    at_ms = (1_700_000_000 * SECOND + net.now_ns) // MS
    a.create("orders", retention_ns=7 * DAY)
    for admin in (a, b, c):
        shown = admin.show("orders")
        assert (shown["retention_ns"], shown["set_by"]) == (7 * DAY, "node-0")
        assert abs(shown["set_at_ms"] - at_ms) < 10
        (row,) = admin.ask("topic.list")["topics"]
        assert row["topic_id"] == a.show("orders")["topic_id"]
    assert nodes[1].node.topics.by_name == {}  # it is made by the first publish there


def test_a_node_takes_the_id_that_the_site_has_for_a_topic():
    net, _nodes, (a, b) = site_with_admins(2)
    assert a.put("orders", b"1") == b.put("orders", b"2")
    assert is_agreed(net)


def test_a_policy_set_at_one_node_is_applied_and_stored_at_all():
    net, nodes, (a, b, c) = site_with_admins(3)
    for admin in (a, b):
        admin.put("orders.eu", b"1")
    c.create("orders.>", retention_bytes=1000)
    net.run(100 * MS)
    for node in nodes[:2]:
        assert node.disk.state.topics["orders.eu"].topic.retention_bytes == 1000
    for node in nodes:
        assert node.disk.state.rules["orders.>"].retention_bytes == 1000
    c.put("orders.us", b"1")
    assert nodes[2].disk.state.topics["orders.us"].topic.retention_bytes == 1000
    (shown,) = [t for t in a.ask("topic.list")["topics"] if t["topic"] == "orders.us"]
    assert [(row["node"], row["records"]) for row in shown["nodes"]] == [("node-2", 1)]
    (policy,) = a.ask("topic.list")["policies"]
    assert (policy["pattern"], policy["set_by"]) == ("orders.>", "node-2")


def test_whether_a_topic_becomes_durable_is_decided_by_the_rules_of_the_site():
    net, _nodes, (a, b) = site_with_admins(2)
    a.create("ticks.>", "transient")
    b.publish("ticks.eu", b"1")
    net.run(20 * MS)
    assert b.take(Confirm)[0].confirmations[0].durability == 0
    assert a.show("ticks.eu")["durability"] == "transient"
    code, message = a.create("ticks.eu")
    assert (code, "exists and is transient" in message) == ("command-failed", True)


def test_what_was_not_given_stays_as_another_node_has_set_it():
    _net, _nodes, (a, b) = site_with_admins(2)
    a.create("orders", retention_ns=7 * DAY)
    made = b.create("orders", retention_bytes=5)
    assert (made["retention_ns"], made["created"]) == (7 * DAY, False)
    assert a.show("orders")["retention_bytes"] == 5


def test_a_topic_deleted_at_one_node_is_deleted_at_all_and_made_anew_is_another():
    net, nodes, (a, b, c) = site_with_admins(3)
    old = a.put("orders", b"1")
    b.put("orders", b"1")
    assert c.ask("topic.delete", topic="orders") == {"deleted": "orders"}
    net.run(100 * MS)
    for node, admin in zip(nodes, (a, b, c), strict=True):
        assert "orders" not in node.disk.state.topics
        assert admin.show("orders")[0] == "topic-not-found"
    a.first.clear()
    assert a.put("orders", b"2") != old
    net.run(2 * SECOND)
    assert is_agreed(net)
    assert c.show("orders")["topic_id"] != old.hex()
    assert c.ask("topic.delete", topic="invoices")[0] == "topic-not-found"


def test_a_node_that_was_away_deletes_what_was_deleted_and_keeps_what_was_made_anew():
    net, nodes, (a, b) = site_with_admins(2)
    a.put("orders", b"1")
    b.put("orders", b"1")
    net.run(100 * MS)
    net.kill(nodes[1])
    net.run(4 * SECOND)
    a.ask("topic.delete", topic="orders")
    a.first.clear()
    new = a.put("orders", b"2")
    restart(net, nodes[1])
    assert "orders" not in nodes[1].disk.state.topics
    assert Admin(net, nodes[1]).put("orders", b"3") == new
    assert nodes[0].disk.state.topics["orders"].topic.topic_id == new


def test_two_nodes_that_make_a_topic_at_once_keep_both_and_both_are_deleted():
    net, nodes, (a, b, c) = site_with_admins(3)
    apart(net, nodes[0])
    ids = {a.put("orders", b"1"), b.put("orders", b"2", b"3")}
    assert len(ids) == 2
    heal(net)
    for node in nodes[:2]:
        assert node.disk.state.topics["orders"].topic.topic_id in ids
    assert nodes[0].disk.state.topics["orders"].next_offset == 1
    assert nodes[1].disk.state.topics["orders"].next_offset == 2
    assert c.put("orders", b"4") in ids
    c.ask("topic.delete", topic="orders")
    net.run(100 * MS)
    assert all("orders" not in node.disk.state.topics for node in nodes)


def test_a_topic_durable_here_and_transient_there_becomes_durable_and_keeps_its_records():
    net, nodes, (a, b) = site_with_admins(2)
    apart(net, nodes[0])
    durable = a.put("orders", b"1")
    b.create("orders", "transient")
    b.put("orders", b"2")
    heal(net)
    b.first.clear()
    assert b.put("orders", b"3") == durable
    assert nodes[1].disk.state.topics["orders"].topic.durable
    assert nodes[0].disk.state.topics["orders"].next_offset == 1
    assert b.show("orders")["durability"] == "durable"


def test_a_topic_that_only_passes_through_has_the_id_of_who_publishes_it():
    net, nodes, (a, b) = site_with_admins(2)
    a.create("ticks.>", "transient")
    b.subscribe("ticks.>")
    net.run(100 * MS)
    a.publish("ticks.eu", b"1")
    net.run(SECOND)
    assert b.values() == [("ticks.eu", b"1")]
    rows = nodes[0].node.registrar.directory.table.rows.values()
    (row,) = [row for row in rows if isinstance(row, TopicRow)]
    assert nodes[1].disk.state.topics["ticks.eu"].topic.topic_id == row.topic_id
    a.ask("topic.delete", topic="ticks.eu")
    net.run(100 * MS)
    assert "ticks.eu" not in nodes[1].node.topics.by_name


def test_what_is_not_given_stays_as_a_rule_has_it_for_a_topic_of_another_node():
    _net, _nodes, (a, b) = site_with_admins(2)
    a.create("orders.>", retention_ns=DAY)
    a.put("orders.eu", b"1")
    assert b.create("orders.eu", retention_bytes=5)["retention_ns"] == DAY


def test_a_command_is_answered_when_what_it_did_is_synced():
    net, nodes, (a, b) = site_with_admins(2)
    a.put("orders", b"1")
    net.run(100 * MS)
    b.send(Command(1, "topic.delete", b'{"topic": "orders"}'))
    net.run(MS)
    assert b.take(Result) == []
    net.run(20 * MS)
    assert [r.code for r in b.take(Result)] == [""]
    assert any(row.died.time for row in nodes[1].disk.state.directory.values())


OTHER = b"x" * 16
"""A sibling of which only what it says is there."""


def stamp(ms):
    return Stamp((1_700_000_000_000 + ms) << 16, OTHER, "node-x")


def hear(node, *rows):
    registrar = node.node.registrar
    registrar.join(OTHER, node.net.now_ns)
    registrar.on_frame(OTHER, DirectoryFrame(ROWS, pack(rows)), node.net.now_ns)
    registrar.take_sends()
    registrar.leave(OTHER, node.net.now_ns)
    node.end_turn()


def rows_of(node, kind=TopicRow):
    rows = node.node.registrar.directory.table.rows.values()
    return [row for row in rows if isinstance(row, kind)]


def test_records_that_come_before_word_of_their_topic_make_none_of_their_own():
    net, (node,) = site_of(1)
    row = DeliverBatch("ticks.eu", 0, 1, 1, 0, 0, 0, 0, False, False, b"")
    node.node._pass_on_from(row, b"1", ())
    assert rows_of(node) == []
    hear(node, TopicRow(b"t" * 16, "ticks.eu", False, stamp(0)))
    assert node.node.topics.by_name["ticks.eu"].entry.topic_id == b"t" * 16
    net.run(100 * MS)
    assert node.disk.state.topics["ticks.eu"].topic.topic_id == b"t" * 16


def queue_row(born, gone=NEVER):
    settings = '{"kind":"queue","pattern":"mail","start":"earliest"}'
    return GroupRow("mail", born, born, settings, gone)


def test_a_queue_made_anew_keeps_its_jobs_where_word_of_its_topic_comes_first():
    net, (node,) = site_of(1)
    admin = Admin(net, node)
    hear(node, queue_row(stamp(0)), TopicRow(b"1" * 16, "mail", True, stamp(0)))
    admin.put("mail", b"old")
    hear(node, TopicRow(b"1" * 16, "mail", True, stamp(0), stamp(10)),
         TopicRow(b"2" * 16, "mail", True, stamp(20)))  # fmt: skip
    admin.first.clear()
    admin.put("mail", b"new")
    hear(node, queue_row(stamp(20), stamp(10)))
    net.run(100 * MS)
    held = node.disk.state.topics["mail"]
    assert (held.topic.topic_id, held.next_offset) == (b"2" * 16, 1)
    assert admin.ask("group.show", group="mail")["ready"] == 1


def test_a_queue_made_anew_is_not_deleted_with_the_old_one_where_word_of_that_comes_first():
    net, (node,) = site_of(1)
    admin = Admin(net, node)
    hear(node, queue_row(stamp(0)), TopicRow(b"1" * 16, "mail", True, stamp(0)))
    admin.put("mail", b"old")
    hear(node, queue_row(stamp(20), stamp(10)), TopicRow(b"2" * 16, "mail", True, stamp(20)))
    net.run(100 * MS)
    alive = {row.topic_id for row in rows_of(node) if row.deleted == NEVER}
    assert b"2" * 16 in alive
    assert b"1" * 16 not in alive
    assert node.disk.state.topics["mail"].next_offset == 0


# --- groups and queues ---------------------------------------------------------------------------


def definitions(net, name):
    found = []
    for node in net.nodes:
        group = node.node.groups.by_name.get(name)
        found.append(None if group is None else group.settings._replace(id=0, made=(0, 0)))
    return found


def test_a_group_is_made_changed_and_deleted_at_all_nodes():
    net, nodes, (a, b, c) = site_with_admins(3)
    a.ask("group.create", group="billing", pattern="orders.>", order="key", rate=7)
    net.run(100 * MS)
    first, *others = definitions(net, "billing")
    assert (first.pattern, first.order, first.rate) == ("orders.>", "key", 7)
    assert others == [first, first]
    b.ask("group.set", group="billing", rate=9)
    c.ask("group.pause", group="billing")
    net.run(100 * MS)
    assert [(s.rate, s.paused) for s in definitions(net, "billing")] == [(9, True)] * 3
    shown = a.ask("group.show", group="billing")
    assert (shown["set_by"], shown["conflict"], shown["state"]) == ("node-2", "", "paused")
    for node in nodes:
        (group,) = node.disk.state.journal.groups.values()
        assert (group.settings.rate, group.settings.paused) == (9, True)
    b.ask("group.delete", group="billing")
    net.run(100 * MS)
    assert definitions(net, "billing") == [None] * 3
    assert all(node.disk.state.journal.groups == {} for node in nodes)


def test_a_member_can_join_anywhere_what_was_made_elsewhere():
    net, _nodes, (a, b) = site_with_admins(2)
    a.send(Consume(1, "billing", "orders.>", b'{"pattern": "orders.>"}', 10, 1000, SECOND, ()))
    net.run(100 * MS)
    b.send(Consume(1, "billing", "", b"", 10, 1000, SECOND, ()))
    net.run(100 * MS)
    assert [answer.code for answer in b.take(Consumed)] == [""]


def test_a_queue_keeps_its_jobs_at_every_node_and_is_deleted_with_them():
    net, nodes, (a, b) = site_with_admins(2)
    a.create("work.>", retention_bytes=10)
    a.ask("group.create", group="work.mail", kind="queue", max_records=5)
    net.run(100 * MS)
    topics = [node.disk.state.topics["work.mail"].topic for node in nodes]
    assert topics[0].topic_id == topics[1].topic_id
    assert [(t.durable, t.retention_bytes) for t in topics] == [(True, 0)] * 2
    b.put("work.mail", b"job")
    a.ask("group.delete", group="work.mail")
    net.run(100 * MS)
    assert all("work.mail" not in node.disk.state.topics for node in nodes)
    assert b.show("work.mail")[0] == "topic-not-found"


def test_a_rule_of_another_node_does_not_take_jobs_away():
    net, nodes, (a, b) = site_with_admins(2)
    apart(net, nodes[1])
    a.ask("group.create", group="work.mail", kind="queue")
    a.put("work.mail", b"job")
    net.run(SECOND)
    b.create("work.>", retention_bytes=10)
    heal(net)
    for node in nodes:
        entry = node.disk.state.topics["work.mail"].topic
        assert (entry.retention_ns, entry.retention_bytes) == (0, 0)


def test_rules_are_listed_in_the_order_in_which_they_count():
    net, _nodes, (a, b) = site_with_admins(2)
    b.create("z.>")
    net.run(MS)
    a.create("a.>")
    net.run(20 * MS)
    b.create("m.>")
    net.run(20 * MS)
    for admin in (a, b):
        assert [p["pattern"] for p in admin.ask("topic.list")["policies"]] == ["z.>", "a.>", "m.>"]


def test_where_a_group_begins_is_kept_when_its_settings_change():
    net, nodes, (a, b) = site_with_admins(2)
    a.ask("group.create", group="billing", pattern="orders.>", start="new")
    net.run(100 * MS)
    b.ask("group.set", group="billing", rate=3)
    for node in nodes:
        (row,) = rows_of(node, GroupRow)
        assert "time_ns" in json.loads(row.settings)["start"]


def test_settings_that_come_before_a_group_has_its_place_are_kept():
    net, nodes, (a, _b) = site_with_admins(2)
    start = json.dumps({"group": "billing", "pattern": "orders.>", "start": {"time_ns": 5}})
    a.send(Command(1, "group.create", start.encode()))
    a.send(Command(2, "group.set", b'{"group": "billing", "rate": 3}'))
    net.run(100 * MS)
    assert [s.rate for s in definitions(net, "billing")] == [3, 3]
    restart(net, nodes[0])
    assert [s.rate for s in definitions(net, "billing")] == [3, 3]


def test_a_group_deleted_and_made_anew_while_a_node_was_away_begins_anew_there():
    net, nodes, (a, b) = site_with_admins(2)
    a.ask("group.create", group="billing", pattern="orders.>", rate=1)
    a.ask("group.create", group="mail", kind="queue")
    net.run(100 * MS)
    b.put("orders.eu", b"1", b"2")
    b.put("mail", b"old")
    net.run(100 * MS)
    net.kill(nodes[1])
    net.run(4 * SECOND)
    for name, more in (("billing", {"pattern": "orders.*"}), ("mail", {"kind": "queue"})):
        a.ask("group.delete", group=name)
        net.run(SECOND)
        a.ask("group.create", group=name, start="earliest", **more)
    kept = a.put("mail", b"new")
    restart(net, nodes[1])
    assert [s.pattern for s in definitions(net, "billing")] == ["orders.*"] * 2
    assert [s.kind for s in definitions(net, "mail")] == ["queue"] * 2
    assert nodes[0].disk.state.topics["mail"].topic.topic_id == kept
    assert nodes[0].disk.state.topics["mail"].next_offset == 1
    mail = nodes[1].disk.state.topics["mail"]
    assert (mail.topic.topic_id, mail.next_offset) == (kept, 0)
    assert is_agreed(net)


def test_a_group_that_begins_with_what_is_new_does_so_at_every_node():
    net, nodes, (a, b) = site_with_admins(2)
    b.put("orders.eu", b"1", b"2")
    net.run(SECOND)
    apart(net, nodes[1])
    a.ask("group.create", group="billing", pattern="orders.>", start="new")
    net.run(SECOND)
    b.put("orders.eu", b"3")
    heal(net)
    stream = nodes[1].disk.state.topics["orders.eu"].topic.stream
    (group,) = nodes[1].disk.state.journal.groups.values()
    assert group.settled(stream).floor == 2


def test_groups_of_one_name_with_other_patterns_are_both_kept_and_told():
    net, nodes, (a, b) = site_with_admins(2)
    apart(net, nodes[0])
    a.ask("group.create", group="billing", pattern="orders.>")
    net.run(SECOND)
    b.ask("group.create", group="billing", pattern="invoices.>")
    heal(net)
    assert [s.pattern for s in definitions(net, "billing")] == ["orders.>", "invoices.>"]
    assert "takes 'orders.>'" in a.ask("group.show", group="billing")["conflict"]
    shown = b.ask("group.show", group="billing")
    assert shown["conflict"] == ""
    assert ["takes 'orders.>'" in row["conflict"] for row in shown["nodes"]] == [False, True]
    a.ask("group.set", group="billing", rate=3)  # of its own one
    net.run(100 * MS)
    assert [s.rate for s in definitions(net, "billing")] == [3, 0]
    assert b.ask("group.show", group="billing")["conflict"] == ""
    assert "takes 'orders.>'" in a.ask("group.show", group="billing")["conflict"]
    a.ask("group.delete", group="billing")  # gives way to the other
    net.run(100 * MS)
    assert [s.pattern for s in definitions(net, "billing")] == ["invoices.>"] * 2
    assert a.ask("group.show", group="billing")["conflict"] == ""


def test_of_two_groups_of_one_name_the_one_is_not_deleted_with_the_other():
    net, nodes, (a, b) = site_with_admins(2)
    apart(net, nodes[0])
    a.ask("group.create", group="billing", pattern="orders.>")
    net.run(SECOND)
    b.ask("group.create", group="billing", pattern="invoices.>")
    heal(net)
    b.ask("group.delete", group="billing")
    net.run(2 * SECOND)
    assert [s.pattern for s in definitions(net, "billing")] == ["orders.>"] * 2
    assert is_agreed(net)


# --- restarts, and nodes that were alone ---------------------------------------------------------


def test_all_of_it_is_there_after_a_restart():
    net, nodes, (a, b) = site_with_admins(2)
    a.create("orders.>", retention_ns=DAY)
    a.put("orders.eu", b"1")
    b.ask("group.create", group="billing", pattern="orders.>", rate=1)
    b.create("old")
    b.ask("topic.delete", topic="old")
    net.run(2 * SECOND)
    before = nodes[1].node.registrar.directory.table
    net.kill(nodes[1])
    nodes[1].start()
    after = nodes[1].node.registrar.directory.table
    assert (after.rows, after.root) == (before.rows, before.root)
    assert nodes[1].disk.state.directory == before.rows


def test_a_group_that_was_not_yet_placed_when_its_node_died_is_made_after_its_start():
    net, nodes, (a, b) = site_with_admins(2)
    b.put("orders.eu", b"1")
    a.ask("group.create", group="billing", pattern="orders.>", start="new")
    net.run(100 * MS)
    net.kill(nodes[1])
    nodes[1].disk.state.journal.groups.clear()  # as if that commit had not come to it
    restart(net, nodes[1])
    assert definitions(net, "billing")[1] is not None
    assert len(nodes[1].disk.state.journal.groups) == 1


def test_a_node_without_a_site_keeps_no_directory():
    net = Net()
    node = net.add()
    node.start_alone()
    admin = Admin(net, node)
    admin.create("orders.>", retention_ns=DAY)
    admin.put("orders.eu", b"1")
    admin.ask("group.create", group="billing", pattern="orders.>")
    assert "set_by" not in admin.show("orders.eu")
    net.run(SECOND)
    assert node.disk.state.directory == {}
    assert node.node.registrar is None
    assert not any(commit.directory for commit in node.disk.commits)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_what_a_node_had_before_it_joined_comes_along_and_gives_way(is_deleted):
    net = Net()
    node = net.add()
    node.start_alone()
    admin = Admin(net, node)
    admin.create("orders.>", retention_ns=DAY)
    admin.create("own.>", retention_ns=3 * DAY)
    admin.put("orders.eu", b"1")
    admin.ask("group.create", group="billing", pattern="orders.>", rate=1)
    admin.ask("group.create", group="mail", kind="queue")
    admin.put("mail", b"job")
    net.run(SECOND)
    net.kill(node)
    other = net.add()
    other.start()
    there = Admin(net, other)
    there.create("orders.>", retention_ns=2 * DAY)
    there.ask("group.create", group="billing", pattern="orders.>", rate=2)
    if is_deleted:  # another queue of this name, long before
        there.ask("group.create", group="mail", kind="queue")
        there.ask("group.delete", group="mail")
    net.run(SECOND)
    restart(net, node)
    assert is_agreed(net)
    assert [s.rate for s in definitions(net, "billing")] == [2, 2]
    assert [s.kind for s in definitions(net, "mail")] == ["queue"] * 2
    assert node.disk.state.topics["mail"].next_offset == 1
    assert node.disk.state.topics["orders.eu"].topic.retention_ns == 2 * DAY
    there = Admin(net, other)
    assert there.show("orders.eu")["topic_id"] == (
        node.disk.state.topics["orders.eu"].topic.topic_id.hex()
    )
    by_pattern = {p["pattern"]: p for p in there.ask("topic.list")["policies"]}
    assert by_pattern["own.>"]["retention_ns"] == 3 * DAY
    assert (by_pattern["own.>"]["set_by"], by_pattern["own.>"]["set_at_ms"]) == ("node-0", 0)


def test_what_a_member_of_a_site_does_without_it_is_known_when_it_is_back():
    net, nodes, (a, b) = site_with_admins(2)
    b.put("old", b"1")
    net.run(SECOND)
    net.kill(nodes[1])
    nodes[1].start_alone()
    admin = Admin(net, nodes[1])
    admin.create("orders.>", retention_ns=DAY)
    admin.ask("topic.delete", topic="old")
    net.run(SECOND)
    net.kill(nodes[1])
    restart(net, nodes[1])
    assert a.ask("topic.list")["policies"][0]["retention_ns"] == DAY
    assert a.show("old")[0] == "topic-not-found"
