"""Admin commands: each verb, what it stores first, and what it says to a wrong call."""

from __future__ import annotations

import json

import pytest

from meshmq.core.commands import OF_COPIES, VERBS
from meshmq.frames import Command, Result
from tests.core.helpers import LINK, ORIGIN, OTHER_LINK, B
from tests.core.nodes import NodeBench, hello


@pytest.fixture
def bench():
    found = NodeBench()
    found.connect()
    return found


def refused(bench, verb, **arguments):
    """The code of a command that must be refused; nothing is stored and the message helps."""
    code, message, body = bench.command(verb, **arguments)
    assert code
    assert len(message) > 10
    assert body == {}
    assert bench.disk.commits == []
    return code


def topics(bench, pattern=">"):
    return [t["topic"] for t in bench.done("topic.list", pattern=pattern)["topics"]]


def create(bench, pattern, durability="durable", **options):
    return bench.done("topic.create", pattern=pattern, durability=durability, **options)


# -- what any command does -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff\xfe", b"[" * 60_000, b'{"topic": }'],
    ids=repr,
)
@pytest.mark.parametrize("verb", VERBS)
def test_arguments_that_are_no_json_object_are_refused(bench, verb, arguments):
    bench.send(Command(5, verb, arguments))
    (result,) = bench.take(kind=Result)
    assert (result.id, result.code, result.body) == (5, "command-failed", b"{}")


def test_a_verb_nobody_knows_is_refused_by_name(bench):
    code, message, _ = bench.command("topic.burn")
    assert code == "command-failed"
    assert "topic.burn" in message


def test_what_changes_something_is_answered_after_its_sync(bench):
    bench.send(Command(5, "topic.create", b'{"pattern": "a", "durability": "durable"}'))
    assert bench.take(kind=Result) == []
    bench.sync()
    assert [r.code for r in bench.take(kind=Result)] == [""]


def test_an_answer_waits_for_its_own_sync_only(bench):
    bench.send(Command(1, "topic.create", b'{"pattern": "a", "durability": "durable"}'))
    first, bench.appends = bench.appends, []
    bench.send(Command(2, "topic.create", b'{"pattern": "b", "durability": "durable"}'))
    second, bench.appends = bench.appends, first
    bench.sync()
    assert [r.id for r in bench.take(kind=Result)] == [1]
    bench.appends = second
    bench.sync()
    assert [r.id for r in bench.take(kind=Result)] == [2]


def test_what_only_looks_is_answered_at_once(bench):
    bench.send(Command(5, "topic.list", b"{}"))
    assert len(bench.take(kind=Result)) == 1
    assert bench.appends == []


def test_the_answer_of_a_client_that_went_is_dropped(bench):
    bench.send(Command(5, "topic.create", b'{"pattern": "a", "durability": "durable"}'))
    bench.lose()
    bench.sync()
    assert bench.take(kind=Result) == []
    bench.connect()
    assert topics(bench) == ["a"]


def test_commands_that_came_in_one_turn_are_answered_by_one_sync(bench):
    calls = [json.dumps({"pattern": p, "durability": "durable"}).encode() for p in ("a", "b")]
    bench.turn(*(Command(i, "topic.create", call) for i, call in enumerate(calls, 1)))
    assert len(bench.appends) == 1
    assert bench.take(kind=Result) == []
    bench.sync()
    assert [r.id for r in bench.take(kind=Result)] == [1, 2]


def test_an_answer_too_large_says_what_to_do(bench, monkeypatch):
    create(bench, "a")
    monkeypatch.setattr("meshmq.limits.RESULT_BYTES_MAX", 50)
    code, message, _ = bench.command("topic.list")
    assert code == "command-failed"
    assert "pattern" in message


# -- topic.create ----------------------------------------------------------------------------------


def test_a_topic_is_created_with_its_policy(bench):
    assert create(bench, "a", retention_ns=5, retention_bytes=6)["pattern"] == "a"
    shown = bench.done("topic.show", topic="a")
    assert (shown["durability"], shown["retention_ns"], shown["retention_bytes"]) == (
        "durable", 5, 6
    )  # fmt: skip
    assert (shown["first_offset"], shown["next_offset"], shown["records"]) == (0, 0, 0)
    assert len(bytes.fromhex(shown["topic_id"])) == 16


def test_creating_twice_is_creating_once(bench):
    create(bench, "a")
    before = bench.done("topic.show", topic="a")
    bench.publish("a", 1, b"1")
    bench.sync()
    create(bench, "a")
    after = bench.done("topic.show", topic="a")
    assert after["topic_id"] == before["topic_id"]
    assert after["next_offset"] == 1


def test_a_pattern_is_a_policy_for_topics_to_come_and_those_there(bench):
    create(bench, "x.old")
    create(bench, "x.>", retention_ns=7)
    assert topics(bench) == ["x.old"]
    assert bench.done("topic.show", topic="x.old")["retention_ns"] == 7
    bench.publish("x.new", 1, b"1")
    bench.sync()
    assert bench.done("topic.show", topic="x.new")["retention_ns"] == 7


def test_the_newest_policy_that_matches_decides(bench):
    create(bench, "x.>", retention_ns=1)
    create(bench, "x.*", retention_ns=2)
    create(bench, "x.>", retention_ns=3)
    bench.publish("x.a", 1, b"1")
    bench.sync()
    assert bench.done("topic.show", topic="x.a")["retention_ns"] == 3


def test_policies_and_topics_are_there_after_a_restart(bench):
    create(bench, "t.>", durability="transient")
    create(bench, "a", retention_ns=9)
    bench.start()
    bench.connect()
    assert bench.done("topic.show", topic="a")["retention_ns"] == 9
    bench.publish("t.x", 1, b"1")
    assert bench.done("topic.show", topic="t.x")["durability"] == "transient"


def test_a_topic_cannot_change_its_kind(bench):
    create(bench, "a")
    code, message, _ = bench.command("topic.create", pattern="a", durability="transient")
    assert code == "command-failed"
    assert "a" in message
    assert bench.done("topic.show", topic="a")["durability"] == "durable"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "command-failed"),
        ({"pattern": "a"}, "command-failed"),
        ({"pattern": 5, "durability": "durable"}, "command-failed"),
        ({"pattern": "a", "durability": "for-ever"}, "command-failed"),
        ({"pattern": "a..b", "durability": "durable"}, "invalid-name"),
        ({"pattern": "", "durability": "durable"}, "invalid-name"),
        ({"pattern": "a", "durability": "durable", "retention_ns": -1}, "command-failed"),
        ({"pattern": "a", "durability": "durable", "retention_ns": "7d"}, "command-failed"),
        ({"pattern": "a", "durability": "durable", "retention_ns": True}, "command-failed"),
        ({"pattern": "a", "durability": "durable", "retention_ns": 1.5}, "command-failed"),
        ({"pattern": "a", "durability": "durable", "retention_bytes": 1 << 62}, "command-failed"),
        ({"pattern": "a", "durability": "durable", "retention_bytes": None}, "command-failed"),
    ],
)
def test_a_topic_is_not_created_from_wrong_arguments(bench, arguments, code):
    assert refused(bench, "topic.create", **arguments) == code
    assert topics(bench) == []


def test_policies_are_bounded(bench, monkeypatch):
    monkeypatch.setattr("meshmq.limits.TOPICS_MAX", 2)
    create(bench, "a.>")
    create(bench, "b.>")
    code, message, _ = bench.command("topic.create", pattern="c.>", durability="durable")
    assert code == "command-failed"
    assert "2 policies" in message


@pytest.mark.parametrize("name", ["$SYS.x", "$", "$SYS.>", "$SYS.*"])
def test_the_meshs_own_names_cannot_be_created(bench, name):
    code, _, _ = bench.command("topic.create", pattern=name, durability="durable")
    assert code == "invalid-name"
    assert name not in bench.node.topics.by_name


# -- topic.list, show, delete ----------------------------------------------------------------------


def test_a_list_is_sorted_and_follows_its_pattern(bench):
    for name in ("b", "a.x", "a.y"):
        create(bench, name)
    assert topics(bench) == ["a.x", "a.y", "b"]
    assert topics(bench, "a.*") == ["a.x", "a.y"]
    assert topics(bench, "b") == ["b"]
    assert topics(bench, "") == ["a.x", "a.y", "b"]
    assert bench.command("topic.list", pattern="a..b")[0] == "invalid-name"


@pytest.mark.parametrize("pattern", [5, ["a"], {"a": 1}, True])
def test_a_list_by_something_that_is_no_pattern_is_refused(bench, pattern):
    bench.send(Command(5, "topic.list", json.dumps({"pattern": pattern}).encode()))
    (result,) = bench.take(kind=Result)
    assert result.code in ("invalid-name", "command-failed")


def test_a_list_shows_the_policies(bench):
    create(bench, "t.>", durability="transient", retention_ns=1, retention_bytes=2)
    assert bench.done("topic.list")["policies"] == [
        {"pattern": "t.>", "durability": "transient", "retention_ns": 1, "retention_bytes": 2}
    ]


def test_a_topic_shows_its_figures(bench):
    bench.subscribe("a")
    bench.subscribe(">", number=2)
    bench.subscribe("b", number=3)
    bench.publish("a", 1, b"1", b"2")
    before = bench.command("topic.show", sync=False, topic="a")[2]
    assert (before["published"], before["next_offset"]) == (2, 0)  # accepted, not yet synced
    bench.sync()
    shown = bench.done("topic.show", topic="a")
    assert (shown["published"], shown["records"], shown["producers"]) == (2, 2, 1)
    assert shown["subscriptions"] == 2


def test_a_transient_topic_shows_no_offsets(bench):
    create(bench, "t", durability="transient")
    shown = bench.done("topic.show", topic="t")
    assert shown["durability"] == "transient"
    assert "next_offset" not in shown


def test_a_topic_nobody_knows_is_not_found(bench):
    assert refused(bench, "topic.show", topic="a") == "topic-not-found"
    assert refused(bench, "topic.delete", topic="a") == "topic-not-found"
    assert refused(bench, "topic.show") == "command-failed"
    assert refused(bench, "topic.delete", topic=None) == "command-failed"


def test_a_deleted_topic_is_gone_and_one_of_its_name_is_another(bench):
    create(bench, "a")
    bench.publish("a", 1, b"1")
    bench.sync()
    old = bench.done("topic.show", topic="a")["topic_id"]
    assert bench.done("topic.delete", topic="a") == {"deleted": "a"}
    assert topics(bench) == []
    assert bench.done("topic.list")["policies"] == []
    bench.publish("a", 2, b"2")
    assert "a" not in bench.node.topics.by_name  # the producer must begin anew
    bench.publish("a", 1, b"2")
    bench.sync()
    new = bench.done("topic.show", topic="a")
    assert new["topic_id"] != old
    assert (new["first_offset"], new["next_offset"]) == (0, 1)


def test_a_policy_is_deleted_by_its_pattern_and_topics_stay(bench):
    create(bench, "x.a")
    create(bench, "x.>", retention_ns=7)
    bench.done("topic.delete", topic="x.>")
    assert topics(bench) == ["x.a"]
    assert [p["pattern"] for p in bench.done("topic.list")["policies"]] == ["x.a"]


def test_a_deleted_topic_stays_deleted_after_a_restart(bench):
    create(bench, "a")
    bench.done("topic.delete", topic="a")
    bench.start()
    bench.connect()
    assert topics(bench) == []


# -- producer.last, status -------------------------------------------------------------------------


def test_a_producer_learns_its_own_last_number(bench):
    assert bench.done("producer.last", topic="a") == {"last": 0}
    bench.publish("a", 1, b"1", b"2")
    bench.sync()
    assert bench.done("producer.last", topic="a") == {"last": 2}
    bench.connect(OTHER_LINK, 7, hello(B, b"2" * 16))
    assert bench.done("producer.last", link=OTHER_LINK, topic="a") == {"last": 0}
    assert bench.command("producer.last")[0] == "command-failed"


def test_status_is_the_nodes(bench):
    status = bench.done("status")
    assert status["node"]["origin"] == ORIGIN.hex()
    now = json.loads(json.dumps(bench.node.status()))
    assert now.pop("undelivered_bytes") > status.pop("undelivered_bytes")  # that answer, unacked
    assert now == status


def test_every_verb_may_be_repeated(bench):
    """Its answer can be lost with the session: the same command again must give the same."""
    bench.publish("a", 1, b"1")
    bench.sync()
    calls = {
        "topic.create": {"pattern": "b", "durability": "durable"},
        "topic.list": {},
        "topic.show": {"topic": "a"},
        "producer.last": {"topic": "a"},
        "producer.known": {"topics": [["a", 7, "00"]]},
        "route.list": {},
        "status": {},
        "service.list": {},
    }
    for verb, arguments in calls.items():
        first = bench.done(verb, **arguments)
        assert first.keys() == bench.done(verb, **arguments).keys()
        first.pop("created", None)  # which the first has done
        if verb != "status":
            assert first.items() <= bench.done(verb, **arguments).items()
    bench.done("topic.delete", topic="b")
    assert bench.command("topic.delete", topic="b")[0] == "topic-not-found"  # and it is gone
    others = {"topic.delete", *OF_COPIES}  # see test_takeover.py, test_site_takeover.py
    assert calls.keys() | others == VERBS.keys()
    assert bench.closed == []
    assert list(bench.node.peers) == [LINK]


def test_a_topic_that_is_there_keeps_the_policy_that_is_not_given(bench):
    made = create(bench, "a", retention_ns=7)
    assert (made["created"], made["retention_ns"]) == (True, 7)
    again = create(bench, "a")
    assert (again["created"], again["changed"], again["retention_ns"]) == (False, False, 7)
    more = create(bench, "a", retention_bytes=9)
    assert (more["changed"], more["retention_ns"], more["retention_bytes"]) == (True, 7, 9)
    assert create(bench, "a", retention_ns=0)["retention_ns"] == 0
    create(bench, "b.>", retention_ns=7)
    assert create(bench, "b.>")["retention_ns"] == 7
