"""``mesh.admin.groups``, ``queues`` and ``dlq``: what they ask, and how dead letters are found."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import meshmq
from meshmq import codec, errors
from meshmq.client.dead_letters import (
    DeadLetter,
    after,
    in_order,
    overlap,
    pace_of,
    portions,
    ranges_of,
)
from meshmq.frames import Deliver, DeliverBatch, Subscribe, Subscribed
from tests.client.fake_node import ORIGIN, FakeNode, fake_mesh


@pytest.fixture
def node():
    return FakeNode()


@pytest.fixture
def mesh(node):
    return fake_mesh(node)[0]


def test_groups_ask_as_the_node_reads(mesh, node):
    groups = mesh.admin.groups
    groups.create("g", "a.>", order="key", start="new", rate=9, backoff="2s")
    groups.set("g", max_deliveries=3)
    groups.show("g")
    groups.pause("g")
    groups.resume("g")
    groups.seek("g", datetime(2024, 1, 1, tzinfo=UTC))
    groups.delete("g")
    assert node.commands() == [
        ("group.create", {"group": "g", "kind": "group", "pattern": "a.>", "order": "key",
                          "start": "new", "rate": 9, "backoff_ns": 2 * 10**9}),
        ("group.set", {"group": "g", "max_deliveries": 3}),
        ("group.show", {"group": "g"}),
        ("group.pause", {"group": "g"}),
        ("group.resume", {"group": "g"}),
        ("group.seek", {"group": "g", "start": {"time_ns": 1_704_067_200 * 10**9}}),
        ("group.delete", {"group": "g"}),
    ]  # fmt: skip


def test_queues_ask_as_the_node_reads(mesh, node):
    node.answers["queue.purge"] = {"purged": 4}
    node.answers["group.show"] = {"group": "q", "kind": "queue"}
    queues = mesh.admin.queues
    queues.create("q", order="key", max_records=10, max_bytes="1MB", dedup_window="1h")
    assert queues.show("q")["kind"] == "queue"
    assert queues.purge("q") == 4
    queues.set("q", rate=0)
    queues.pause("q")
    queues.resume("q")
    queues.delete("q")
    assert [verb for verb, _ in node.commands()] == [
        "group.create", "group.show", "queue.purge", "group.set", "group.pause", "group.resume",
        "group.delete",
    ]  # fmt: skip
    assert node.commands()[2][1] == {"queue": "q"}
    assert node.commands()[0][1] == {
        "group": "q", "kind": "queue", "order": "key", "max_records": 10, "max_bytes": 10**6,
        "dedup_ns": 3600 * 10**9,
    }  # fmt: skip
    node.answers["group.show"] = {"group": "q", "kind": "group"}
    with pytest.raises(errors.GroupMismatch, match="is a group, not a queue"):
        queues.show("q")


def test_groups_and_queues_are_listed_apart(mesh, node):
    node.answers["group.list"] = {
        "groups": [
            {"group": "b", "kind": "group"}, {"group": "q", "kind": "queue"},
            {"group": "a", "kind": "group"},
        ]
    }  # fmt: skip
    assert [g["group"] for g in mesh.admin.groups.list()] == ["a", "b"]
    assert [g["group"] for g in mesh.admin.queues.list()] == ["q"]


def test_what_cannot_be_is_not_asked(mesh, node):
    with pytest.raises(errors.InvalidArgument, match="needs a setting"):
        mesh.admin.groups.set("g")
    for call in (mesh.admin.groups.set, mesh.admin.queues.create):
        with pytest.raises(errors.InvalidArgument, match="no setting 'colour'; there are backoff"):
            call("g", colour="red")
    with pytest.raises(errors.InvalidName):
        mesh.admin.queues.show("$q")
    with pytest.raises(errors.InvalidArgument):
        mesh.admin.dlq.list("g", limit=0)
    with pytest.raises(errors.InvalidArgument):
        mesh.admin.dlq.replay("g", ["x"])
    with pytest.raises(errors.InvalidArgument):
        mesh.admin.dlq.replay("g", rate=0)
    with pytest.raises(errors.InvalidArgument):
        mesh.admin.dlq.purge("g", [(0, 0)])
    assert node.commands() == []


# -- dead letters ----------------------------------------------------------------------------


def letters(node, *numbers):
    """The node has dead letters of these numbers; each is a batch."""
    headers = {
        "$reason": "rejected", "$error": "no", "$attempts": "3", "$topic": "jobs",
        "$first-time": "2024-01-01T00:00:00+00:00", "$last-time": "soon", "$offset": "17",
        "$stream": "ab", "$group": "g", "$replays": "1", "mine": "yes",
    }  # fmt: skip
    ranges = ranges_of(sorted(numbers))
    node.answers["dlq.show"] = {"topic": "$dlq.g", "records": len(numbers), "ranges": ranges}

    def subscribe(frame):
        assert frame.pattern == "$dlq.g"
        found = [Subscribed(frame.subscription, "", "", ORIGIN, 1, 0, 1)]
        for n in sorted(numbers):
            if frame.value <= n < frame.value + 5000:
                coded = [codec.encode_headers(headers)]
                data = codec.encode_batch([b"v%d" % n], None, coded, None, 5)
                row = DeliverBatch("$dlq.g", n, 1, len(data), 0, 7, n + 1, 0)
                found.append(Deliver(frame.subscription, (row,), 0, data))
        return found

    node.on[Subscribe] = subscribe


def test_a_dead_letter_tells_what_happened(mesh, node):
    letters(node, 5)
    (letter,) = mesh.admin.dlq.list("g")
    assert (letter.number, letter.value, letter.headers) == (5, b"v5", {"mine": "yes"})
    assert (letter.reason, letter.error, letter.attempts) == ("rejected", "no", 3)
    assert (letter.topic, letter.stream, letter.offset) == ("jobs", "ab", 17)
    assert (letter.group, letter.replays) == ("g", 1)
    assert letter.first_time == datetime(2024, 1, 1, tzinfo=UTC)
    assert letter.last_time is None


def test_listing_reads_what_is_wanted_and_skips_wide_gaps(mesh, node):
    letters(node, 1, 2, 9, 50_000, 50_001, 99_999)
    assert [x.number for x in mesh.admin.dlq.list("g")] == [1, 2, 9, 50_000, 50_001, 99_999]
    assert [s.value for s in node.of(Subscribe)] == [1, 50_000, 99_999]
    assert [x.number for x in mesh.admin.dlq.list("g", limit=4)] == [1, 2, 9, 50_000]
    letters(node)
    assert mesh.admin.dlq.list("g") == []


def test_what_was_removed_while_it_was_listed_is_left_out(mesh, node):
    letters(node, 1, 3)
    node.answers["dlq.show"]["ranges"] = [(1, 4)]
    assert [x.number for x in mesh.admin.dlq.list("g")] == [1, 3]


def replayed(node):
    return [arguments["ranges"] for verb, arguments in node.commands() if verb == "dlq.replay"]


def test_replay_moves_what_it_is_told(mesh, node):
    letters(node, 1, 2, 9)
    node.answers["dlq.replay"] = lambda a: {"replaying": sum(n for _, n in a["ranges"])}
    dlq = mesh.admin.dlq
    assert dlq.replay("g") == 3
    assert dlq.replay("g", dlq.list("g", limit=2)) == 2
    assert dlq.replay("g", [9, (20, 3)]) == 4
    assert replayed(node) == [[[1, 2], [9, 1]], [[1, 2]], [[9, 1], [20, 3]]]


A, B = "0a" * 16, "0b" * 16


def letters_of_two(node, a, b, away=()):
    """Two nodes of a site have dead letters of these numbers."""
    node.answers["dlq.show"] = {
        "topic": "$dlq.g", "records": len(a) + len(b), "ranges": ranges_of(a), "away": list(away),
        "nodes": [
            {"node": "one", "origin": A, "records": len(a), "ranges": ranges_of(a)},
            {"node": "two", "origin": B, "records": len(b), "ranges": ranges_of(b)},
        ],
    }  # fmt: skip
    node.answers["dlq.replay"] = lambda a: {"replaying": sum(n for _, n in a["ranges"])}
    node.answers["dlq.purge"] = lambda a: {"purged": sum(n for _, n in a.get("ranges", [[0, 9]]))}


def asked(node, verb):
    return [(a.get("origin"), a.get("ranges")) for v, a in node.commands() if v == verb]


def test_numbers_are_taken_where_they_are(mesh, node):
    letters_of_two(node, [0, 1], [2, 3])
    assert mesh.admin.dlq.replay("g", [3, (1, 2)]) == 3
    assert asked(node, "dlq.replay") == [(A, [[1, 1]]), (B, [[2, 2]])]
    assert mesh.admin.dlq.purge("g", [2]) == 1
    assert asked(node, "dlq.purge") == [(B, [[2, 1]])]
    assert mesh.admin.dlq.replay("g", [7]) == 0


def test_numbers_that_two_nodes_have_need_the_node(mesh, node):
    letters_of_two(node, [0, 1], [1, 2])
    with pytest.raises(errors.CommandFailed, match="one and two each have a dead letter of number"):
        mesh.admin.dlq.purge("g", [(0, 3)])
    assert asked(node, "dlq.purge") == []
    assert mesh.admin.dlq.purge("g", [1], node="two") == 1
    assert mesh.admin.dlq.purge("g", [1], node=A) == 1
    assert mesh.admin.dlq.purge("g", node="two") == 9
    assert asked(node, "dlq.purge") == [(B, [[1, 1]]), (A, [[1, 1]]), (B, None)]
    with pytest.raises(errors.InvalidArgument, match="no node 'six' in the site, but one, two"):
        mesh.admin.dlq.purge("g", [1], node="six")
    with pytest.raises(errors.InvalidArgument, match="name of a node"):
        mesh.admin.dlq.purge("g", [1], node=6)


def test_a_node_that_is_away_is_named(mesh, node):
    letters_of_two(node, [0], [1], away=["three"])
    with pytest.raises(errors.OwnerAway, match="node three cannot be reached"):
        mesh.admin.dlq.replay("g", [0], node="three")
    with pytest.raises(errors.OwnerAway, match=r"no node that answers has such .* three"):
        mesh.admin.dlq.replay("g", [5])
    assert mesh.admin.dlq.replay("g", [1]) == 1
    with pytest.raises(errors.OwnerAway, match="2 were put back, but none of three"):
        mesh.admin.dlq.replay("g")
    assert asked(node, "dlq.replay")[-2:] == [(A, [[0, 1]]), (B, [[1, 1]])]


def test_a_listing_is_of_all_nodes_the_oldest_first(mesh, node):
    letters_of_two(node, [0, 4], [0, 1, 2])
    rows = [(B, 0, 3), (A, 0, 5), (B, 1, 4), (A, 1, 9), (B, 2, 8), (A, 4, 6)]

    def subscribe(frame):
        found = [Subscribed(frame.subscription, "", "", bytes.fromhex(A), 1, 0, 1)]
        for origin, n, second in rows:
            lineage = {"$last-time": f"2024-01-01T00:00:0{second}+00:00"}
            data = codec.encode_batch([b"v"], None, [codec.encode_headers(lineage)], None, 5)
            whose = b"" if origin == A else bytes.fromhex(origin)
            row = DeliverBatch("$dlq.g", n, 1, len(data), 0, 7, second + 1, 0, origin=whose)
            found.append(Deliver(frame.subscription, (row,), 0, data))
        return found

    node.on[Subscribe] = subscribe
    dlq = mesh.admin.dlq
    assert [(x.node, x.number) for x in dlq.list("g")] == [
        ("two", 0), ("two", 1), ("one", 0), ("one", 4), ("two", 2),
    ]  # fmt: skip
    assert [(x.node, x.number) for x in dlq.list("g", limit=3)] == [
        ("two", 0), ("two", 1), ("one", 0),
    ]  # fmt: skip
    assert [(x.origin, x.number) for x in dlq.list("g", wanted=[0])] == [(B, 0), (A, 0)]
    assert dlq.replay("g", dlq.list("g", node="one")) == 2
    assert asked(node, "dlq.replay") == [(A, [[0, 1], [4, 1]])]


def test_replay_at_a_rate_takes_its_time(mesh, node):
    node.answers["dlq.replay"] = lambda a: {"replaying": sum(n for _, n in a["ranges"])}
    channel = mesh._connection
    before = channel.now_ns
    assert mesh.admin.dlq.replay("g", [(0, 35)], rate=100) == 35
    assert replayed(node) == [[[0, 10]], [[10, 10]], [[20, 10]], [[30, 5]]]
    assert (channel.now_ns - before) / 1e9 == pytest.approx(0.3)


def test_replay_of_all_goes_on_behind_what_a_node_names_at_once(mesh, node):
    left = [(2 * n, 1) for n in range(10_003)]

    def replay(arguments):
        for first, _ in arguments["ranges"]:
            left.remove((first, 1))
        return {"replaying": len(arguments["ranges"])}

    node.answers["dlq.show"] = lambda a: {"records": len(left), "ranges": left[:10_000]}
    node.answers["dlq.replay"] = replay
    assert mesh.admin.dlq.replay("g") == 10_003
    assert left == []


def test_purge_removes_what_it_is_told_or_all(mesh, node):
    node.answers["dlq.purge"] = {"purged": 2}
    assert mesh.admin.dlq.purge("g") == 2
    assert mesh.admin.dlq.purge("g", [4, 5]) == 2
    assert [a for verb, a in node.commands() if verb == "dlq.purge"] == [
        {"group": "g"}, {"group": "g", "ranges": [[4, 2]]},
    ]  # fmt: skip


def test_ranges_join_and_are_cut_into_commands():
    assert ranges_of([1, 2, 3, (7, 2), 9]) == [(1, 3), (7, 3)]
    assert list(portions([(0, 5), (9, 1)], None)) == [[(0, 5), (9, 1)]]
    assert list(portions([(0, 5), (9, 3)], 4)) == [[(0, 4)], [(4, 1), (9, 3)]]
    assert [len(p) for p in portions([(3 * n, 1) for n in range(2500)], None)] == [1000, 1000, 500]
    assert list(portions([], 5)) == []
    assert after([(0, 5), (9, 2)], 3) == [(4, 1), (9, 2)]
    assert pace_of(None) == (None, 0.0)
    assert pace_of(0.5) == (1, 2.0)
    for wrong in ([True], [-1], [(1, 0)], [(1, 2, 3)], [None]):
        with pytest.raises(errors.InvalidArgument):
            ranges_of(wrong)
    assert DeadLetter.__doc__
    assert in_order([(5, 2), (0, 3), (1, 1), (7, 1)]) == [(0, 3), (5, 3)]
    assert overlap([(0, 3), (5, 9)], [(1, 1), (2, 4), (13, 9)]) == [(1, 1), (2, 1), (5, 1), (13, 1)]


def test_the_answer_of_a_seek_to_a_time_shows_the_time(node, mesh):
    node.answers["group.seek"] = lambda arguments: {"group": "g", "start": arguments["start"]}
    told = mesh.admin.groups.seek("g", datetime(2024, 1, 1, tzinfo=UTC))
    assert told["start"] == "2024-01-01T00:00:00+00:00"
    assert mesh.admin.groups.seek("g", 5)["start"] == {"offset": 5}


@pytest.mark.parametrize("name", [3, None, b"x", "", "\ud800"])
def test_a_node_is_named_by_a_text(mesh, name):
    for call in (mesh.admin.takeover, mesh.admin.forget):
        with pytest.raises(errors.InvalidArgument, match="a node is named by a text"):
            call(name)
    if name:
        with pytest.raises(errors.InvalidArgument, match="a node is named by a text"):
            mesh.admin.groups.seek("g", 5, node=name)


def test_a_name_that_is_too_long_is_not_repeated(mesh):
    calls = [
        lambda: mesh.admin.takeover("x" * 5000),
        lambda: mesh.admin.forget("x" * 5000),
        lambda: mesh.admin.forget(b"x" * 5000),
        lambda: mesh.admin.groups.seek("g", 5, node="x" * 5000),
    ]
    for call in calls:
        with pytest.raises(errors.InvalidArgument) as found:
            call()
        assert len(str(found.value)) < 200


def test_what_says_yes_or_no_is_true_or_false(node, mesh):
    with pytest.raises(errors.InvalidArgument, match="assume_dead is True or False, not 'yes'"):
        mesh.admin.takeover("n", assume_dead="yes")
    with pytest.raises(errors.InvalidArgument, match="may_repeat is True or False, not 3"):
        mesh.admin.takeover("n", may_repeat=3)
    with pytest.raises(errors.InvalidArgument, match="assume_dead"):
        mesh.admin.forget("n", assume_dead=None)
    assert node.commands() == []


def test_a_producer_without_a_name_is_refused():
    with pytest.raises(errors.InvalidArgument, match="producer is a name"):
        meshmq.connect("tcp://127.0.0.1:1", producer="")
