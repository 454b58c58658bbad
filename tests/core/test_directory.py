"""What a site's nodes agree on: words in any order, lost links, deletions, clocks, restarts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import limits
from meshmq.core.directory import CHECK, DIGEST, ROWS
from meshmq.core.directory_rows import (
    NEVER,
    Forgotten,
    GroupRow,
    LinkRow,
    RuleRow,
    Stamp,
    TopicRow,
    merge,
    pack,
    pack_row,
    unpack,
)
from meshmq.core.directory_table import Policy, Table
from meshmq.errors import BadFrame
from meshmq.frames import DirectoryFrame
from tests.core.directories import MS, SECOND, WALL, Machines

DAY = limits.DAY

# --- rows ------------------------------------------------------------------------------------

stamps = st.just(NEVER) | st.builds(
    Stamp, st.integers(1, 5), st.sampled_from([b"a" * 16, b"b" * 16]), st.sampled_from(["", "n"])
)
set_stamps = stamps.filter(bool).filter(lambda s: s.time > 0)
sizes = st.integers(0, 3)
rules = st.builds(
    RuleRow, st.sampled_from(["a", "a.>", ">"]), set_stamps, st.booleans(), sizes, sizes,
    st.booleans(), st.integers(0, limits.COPIES_MAX),
)  # fmt: skip
topics = st.builds(
    lambda i, d, made, deleted, kept, age, size: merge(
        TopicRow(bytes([i]) * 16, "a.b", d, made),
        TopicRow(bytes([i]) * 16, "a.b", d, made, deleted, kept, age, size),
    ),
    st.integers(1, 2), st.booleans(), stamps, stamps, stamps, sizes, sizes,
)  # fmt: skip
groups = st.builds(
    lambda born, later, settings_, gone, sought, to: merge(
        GroupRow("g", born, max(born, later), settings_, gone, sought, to),
        GroupRow("g", NEVER, NEVER, ""),
    ),
    stamps, stamps, st.sampled_from(["{}", '{"rate":1}']), stamps, stamps,
    st.sampled_from(['"new"', '"earliest"']),
)  # fmt: skip
links = st.builds(LinkRow, st.sampled_from(["eu", "us"]), set_stamps, st.booleans())
rows = rules | topics | groups | links


@settings(max_examples=400, deadline=None)
@given(st.lists(rules.map(lambda r: r._replace(pattern="a")), min_size=3, max_size=3)
       | st.lists(topics.map(lambda t: t._replace(topic_id=b"t" * 16)), min_size=3, max_size=3)
       | st.lists(links.map(lambda r: r._replace(to="eu")), min_size=3, max_size=3)
       | st.lists(groups, min_size=3, max_size=3))  # fmt: skip
def test_words_on_one_thing_come_to_the_same_in_any_order_and_any_number(three):
    a, b, c = three
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)


@settings(max_examples=200, deadline=None)
@given(st.lists(rows | st.builds(Forgotten, st.binary(min_size=1, max_size=9)), max_size=6))
def test_rows_read_back_as_they_were(many):
    assert unpack(pack(many)) == many


def test_a_row_of_a_later_version_is_passed_over():
    row = RuleRow("a", Stamp(1, b"o" * 16, ""), True, 0, 0)
    assert unpack(b"\x09\x03\x00abc" + pack_row(row)) == [row]


@pytest.mark.parametrize(
    "row",
    [
        RuleRow("a..b", Stamp(1, b"o" * 16, ""), True, 0, 0),
        RuleRow("a", NEVER, True, 0, 0),
        RuleRow("a", Stamp(1, b"o" * 16, ""), True, 0, 0, copies=limits.COPIES_MAX + 1),
        RuleRow("a", Stamp(1, b"o" * 16, ""), True, 1 << 62, 0),
        RuleRow("a", Stamp(limits.STAMP_MS_MAX + 1 << 16, b"o" * 16, ""), True, 0, 0),
        RuleRow("a", Stamp(1, b"o" * 16, "n" * 256), True, 0, 0),
        TopicRow(b"t" * 16, "$a", True, NEVER),
        TopicRow(b"t" * 16, "a.>", True, NEVER),
        TopicRow(b"t" * 16, "a" * 256, True, NEVER),
        TopicRow(b"t" * 9, "abc", True, NEVER),
        LinkRow("a b", Stamp(1, b"o" * 16, ""), True),
        LinkRow("eu", NEVER, True),
        GroupRow("a b", NEVER, NEVER, ""),
        GroupRow("a", NEVER, NEVER, "x" * 5000),
        GroupRow("a", NEVER, NEVER, "", NEVER, Stamp(1, b"o" * 16, ""), "x" * 5000),
    ],
)
def test_a_malformed_row_is_a_bad_frame(row):
    with pytest.raises(BadFrame):
        unpack(pack_row(row))


@settings(max_examples=300, deadline=None)
@given(st.lists(rows, max_size=3), st.data())
def test_mutated_rows_decode_or_are_a_bad_frame(many, data):
    packed = bytearray(pack(many))
    for _ in range(data.draw(st.integers(1, 3))):
        if packed:
            packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        unpack(bytes(packed))
    except BadFrame:
        pass


# --- many nodes ------------------------------------------------------------------------------

NAMES = ["a.b", "a.c", "d"]
PATTERNS = ["a.b", "a.*", ">"]


@st.composite
def histories(draw):
    """What happens at, and between, a few nodes."""
    count = draw(st.integers(2, 4))
    node = st.integers(0, count - 1)
    pair = st.tuples(node, node).filter(lambda p: p[0] != p[1])
    step = st.one_of(
        st.tuples(st.just("rule"), node, st.sampled_from(PATTERNS), st.booleans(), sizes),
        st.tuples(st.just("unrule"), node, st.sampled_from(PATTERNS)),
        st.tuples(st.just("topic"), node, st.sampled_from(NAMES), st.booleans()),
        st.tuples(st.just("untopic"), node, st.sampled_from(NAMES)),
        st.tuples(st.just("group"), node, st.sampled_from("gh"), st.sampled_from("12")),
        st.tuples(st.just("ungroup"), node, st.sampled_from("gh")),
        st.tuples(st.just("cut"), pair),
        st.tuples(st.just("link"), pair),
        st.tuples(st.just("deliver"), pair),
        st.tuples(st.just("settle")),
        st.tuples(st.just("tick"), st.sampled_from([MS, SECOND, 3600 * SECOND])),
        st.tuples(st.just("restart"), node),
        st.tuples(st.just("skew"), node, st.sampled_from([-DAY, -SECOND, 0, SECOND, 20 * DAY])),
    )
    return count, draw(st.lists(step, max_size=30)), draw(st.booleans())


def do(machines, steps):
    made = 0
    for step in steps:
        match step:
            case ("rule", i, pattern, durable, size):
                machines[i].set_rule(pattern, durable, size, 0, machines.now_ns)
            case ("unrule", i, pattern):
                machines[i].remove_rule(pattern, machines.now_ns)
            case ("topic", i, name, durable):
                if machines[i].table.topic_id(name, durable) is None:
                    made += 1
                    machines[i].add_topic(made.to_bytes(16, "big"), name, durable, machines.now_ns)
            case ("untopic", i, name):
                machines[i].delete_topic(name, machines.now_ns)
            case ("group", i, name, said):
                machines[i].set_group(name, said, machines.now_ns)
            case ("ungroup", i, name):
                machines[i].delete_group(name, machines.now_ns)
            case ("cut", (a, b)):
                machines.cut(a, b)
            case ("link", (a, b)):
                machines.link(a, b)
            case ("deliver", (a, b)):
                machines.deliver(a, b)
            case ("settle",):
                machines.settle()
            case ("tick", ns):
                machines.tick(ns)
            case ("restart", i):
                machines.restart(i)
            case ("skew", i, ns):
                machines.set_skew(i, ns)


@settings(max_examples=300, deadline=None)
@given(histories())
def test_after_every_heal_all_nodes_have_the_same(history):
    count, steps, repeats = history
    machines = Machines(count)
    machines.repeats = repeats
    do(machines, steps)
    machines.heal()
    first = machines[0].table
    for i, one in enumerate(machines.all):
        assert one.table.rows == first.rows
        assert [one.table.policy(name) for name in NAMES] == [first.policy(name) for name in NAMES]
        assert [one.table.topic_id(name, True) for name in NAMES] == [
            first.topic_id(name, True) for name in NAMES
        ]
        machines.keep(i)
        assert machines.logs[i] == one.table.rows
        assert Table(machines.logs[i]).root == one.table.root


@settings(max_examples=150, deadline=None)
@given(histories(), st.integers(0, 3), st.sampled_from(NAMES))
def test_what_is_deleted_stays_deleted_and_what_is_made_anew_lives(history, at, name):
    count, steps, repeats = history
    machines = Machines(count)
    machines.repeats = repeats
    do(machines, steps)
    at %= count
    machines[at].add_topic(b"old" + b"0" * 13, name, True, machines.now_ns)
    machines.heal()
    away = (at + 1) % count
    for other in range(count):
        if other != away:
            machines.cut(away, other)
    machines[at].delete_topic(name, machines.now_ns)
    machines[at].delete_group("g", machines.now_ns)
    machines[at].add_topic(b"new" + b"0" * 13, name, True, machines.now_ns)
    machines[at].set_group("g", "again", machines.now_ns)
    machines[away].set_group("h", "meanwhile", machines.now_ns)
    machines.heal()
    for one in machines.all:
        assert [t.topic_id[:3] for t in one.table.topics(name)] == [b"new"]
        assert one.table.is_deleted(b"old" + b"0" * 13)
        assert one.table.group("g").settings == "again"
        assert one.table.group("h").settings == "meanwhile"


# --- who said it last ------------------------------------------------------------------------


def test_the_last_writer_wins_and_is_named():
    machines = Machines(3)
    machines[0].set_rule("a.>", True, 1, 0, machines.now_ns)
    machines.settle()
    machines.tick(SECOND)
    machines[1].set_rule("a.>", True, 7, 0, machines.now_ns)
    machines.settle()
    for one in machines.all:
        policy = one.table.policy("a.b")
        assert (policy.retention_ns, policy.set.by) == (7, "node-2")
        assert policy.set.unix_ms == (WALL + machines.now_ns) // MS


def test_the_newest_rule_that_matches_counts_wherever_it_was_set():
    machines = Machines(2)
    machines[0].add_topic(b"t" * 16, "a.b", True, machines.now_ns)
    machines[0].set_rule("a.b", True, 1, 0, machines.now_ns)
    machines.settle()
    machines[1].set_rule(">", True, 2, 0, machines.now_ns)
    machines.settle()
    assert [one.table.policy("a.b").retention_ns for one in machines.all] == [2, 2]
    machines[0].set_rule("a.*", False, 3, 0, machines.now_ns)  # for transient topics
    machines.settle()
    assert [one.table.policy("a.b").retention_ns for one in machines.all] == [2, 2]
    assert [one.table.policy("a.x").durable for one in machines.all] == [False, False]


def test_topics_keep_what_a_removed_rule_gave_them_and_new_ones_do_not_have_it():
    machines = Machines(2)
    machines[0].add_topic(b"t" * 16, "a.b", True, machines.now_ns)
    machines[0].set_rule("a.>", True, 5, 6, machines.now_ns)
    machines.settle()
    machines[1].remove_rule("a.>", machines.now_ns)
    machines.heal()
    for one in machines.all:
        assert one.table.policy("a.b")[:3] == (True, 5, 6)
        assert one.table.policy("a.b").set.by == "node-1"
        assert one.table.policy("a.new") == Policy(True, 0, 0, NEVER)
    machines[0].delete_topic("a.b", machines.now_ns)
    machines.settle()
    machines[0].add_topic(b"u" * 16, "a.b", True, machines.now_ns)
    machines.settle()
    assert [one.table.policy("a.b").retention_ns for one in machines.all] == [0, 0]


def test_topics_keep_what_a_rule_gave_them_that_is_now_for_the_other_kind():
    machines = Machines(2)
    machines[0].add_topic(b"t" * 16, "a.b", True, machines.now_ns)
    machines[0].set_rule("a.>", True, 5, 6, machines.now_ns)
    machines.settle()
    machines[1].set_rule("a.>", False, 0, 0, machines.now_ns)
    machines.heal()
    assert [one.table.policy("a.b")[:3] for one in machines.all] == [(True, 5, 6)] * 2
    assert not machines[0].table.policy("a.c").durable


def test_a_later_word_of_a_node_whose_clock_is_behind_is_the_later_one():
    machines = Machines(2)
    machines.set_skew(1, -DAY)
    machines[0].set_rule("a", True, 1, 0, machines.now_ns)
    machines[0].set_group("g", "1", machines.now_ns)
    machines.settle()
    machines[1].set_rule("a", True, 2, 0, machines.now_ns)
    machines[1].set_rule(">", True, 3, 0, machines.now_ns)
    machines[1].set_group("g", "2", machines.now_ns)
    machines.settle()
    for one in machines.all:
        assert one.table.policy("a").retention_ns == 3
        assert one.table.rule("a").retention_ns == 2
        assert one.table.group("g").settings == "2"


def test_a_clock_far_ahead_moves_no_other_and_is_told():
    machines = Machines(3)
    machines.set_skew(0, 400 * DAY)
    machines[0].set_rule("a", True, 1, 0, machines.now_ns)
    machines[0].set_group("g", "1", machines.now_ns)
    machines.settle()
    assert machines[1].ahead["node-1"] == 400 * DAY // MS
    machines[1].set_group("h", "1", machines.now_ns)
    assert machines[1].table.group("h").born.unix_ms == (WALL + machines.now_ns) // MS
    # The next word on the same thing counts, at the node with the bad clock as well.
    machines[1].set_rule("a", True, 2, 0, machines.now_ns)
    machines[2].set_group("g", "2", machines.now_ns)
    machines.settle()
    for one in machines.all:
        assert one.table.rule("a").retention_ns == 2
        assert one.table.group("g").settings == "2"
    machines[1].delete_group("g", machines.now_ns)
    machines.settle()
    machines[2].set_group("g", "3", machines.now_ns)
    machines.settle()
    assert [one.table.group("g").settings for one in machines.all] == ["3"] * 3


def test_a_clock_that_was_set_back_goes_on_from_where_it_is():
    machines = Machines(1)
    machines.set_skew(0, 400 * DAY)
    machines[0].set_group("g", "1", machines.now_ns)
    machines.set_skew(0, 0)
    machines[0].set_group("h", "1", machines.now_ns)
    assert machines[0].table.group("h").born.unix_ms == (WALL + machines.now_ns) // MS
    machines.restart(0)
    machines[0].set_group("i", "1", machines.now_ns)
    assert machines[0].table.group("i").born > machines[0].table.group("h").born


# --- what travels ----------------------------------------------------------------------------


def with_topics(machines, i, count):
    for n in range(count):
        machines[i].add_topic(n.to_bytes(16, "big"), f"t.{n}", True, machines.now_ns)


def test_nodes_that_agree_compare_in_a_hundred_bytes():
    machines = Machines(2)
    with_topics(machines, 0, 10_000)
    machines.heal()
    machines.cut(0, 1)
    machines.bytes = machines.frames = 0
    machines.link(0, 1)
    machines.settle()
    assert machines.frames == 1
    assert machines.bytes < 100


def test_of_what_differs_only_its_buckets_travel():
    machines = Machines(2)
    with_topics(machines, 0, 10_000)
    machines.heal()
    machines.cut(0, 1)
    machines[1].set_group("g", "{}", machines.now_ns)
    machines.bytes = 0
    machines.link(0, 1)
    machines.settle()
    assert machines[0].table.rows == machines[1].table.rows
    assert machines.bytes < 16_000


def test_a_rule_over_many_topics_travels_alone():
    machines = Machines(2)
    with_topics(machines, 0, 1000)
    machines.heal()
    machines.cut(0, 1)
    machines[0].set_rule("t.>", True, 5, 0, machines.now_ns)
    before = machines[0].rows_told
    machines.link(0, 1)
    machines.settle()
    assert machines[1].table.policy("t.9").retention_ns == 5
    assert machines[0].rows_told - before < 20


def test_frames_of_rows_are_bounded_and_few_are_on_their_way():
    machines = Machines(2, linked=False)
    with_topics(machines, 0, 5000)
    machines.link(0, 1)
    most = 0
    while machines.deliver(0, 1) or machines.deliver(1, 0):
        on_way = [f for f in machines.ways[0, 1] if f.kind == ROWS]
        most = max(most, len(on_way))
        assert all(len(f.data) <= limits.DIRECTORY_FRAME_BYTES_MAX for f in on_way)
    assert most == limits.DIRECTORY_FRAMES_IN_FLIGHT
    assert machines[1].table.rows == machines[0].table.rows


def test_while_a_newcomer_is_told_it_does_not_tell_the_same_back():
    machines = Machines(2, linked=False)
    with_topics(machines, 0, 5000)
    machines.link(0, 1)
    while machines.deliver(0, 1) or machines.deliver(1, 0):
        machines.tick(limits.DIRECTORY_CHECK_NS // 10)
    assert machines[1].table.rows == machines[0].table.rows
    assert machines[1].rows_told == 0


# --- one at a time ---------------------------------------------------------------------------


def told(machines):
    """How many rows all have told."""
    return sum(one.rows_told for one in machines.all)


def link_all(machines, i):
    for other in range(len(machines.all)):
        if other != i:
            machines.link(min(i, other), max(i, other))


@pytest.mark.parametrize("newcomer", [0, 4, 8])  # it begins with those whose origins are greater
def test_a_newcomer_is_told_the_directory_once_however_many_there_are(newcomer):
    machines = Machines(9)
    link_none(machines, newcomer)
    with_topics(machines, 1, 3000)
    machines.settle()
    machines.tick(limits.DIRECTORY_CHECK_NS)
    machines.settle()
    before, machines.bytes = told(machines), 0
    link_all(machines, newcomer)
    machines.settle()
    assert machines[newcomer].table.rows == machines[1].table.rows
    assert told(machines) - before == 3000
    assert machines.bytes < 3000 * 100 + 8 * 2 * 2300
    machines.frames = 0
    for _ in range(3):
        machines.tick(limits.DIRECTORY_CHECK_NS)
        machines.settle()
    assert machines.frames <= 8 + 1  # once it says to each that they agree, and so does who told it


def link_none(machines, i):
    for other in range(len(machines.all)):
        machines.cut(i, other)


@pytest.mark.parametrize("is_cut", [True, False])
def test_another_one_goes_on_where_one_is_gone_or_silent(is_cut):
    machines = Machines(3)
    link_none(machines, 2)
    with_topics(machines, 0, 3000)
    machines.settle()
    before = told(machines)
    link_all(machines, 2)
    while not machines[2].table.rows:
        for pair in list(machines.ways):
            machines.deliver(*pair)
    teller = machines.origins.index(machines[2]._teller)
    if is_cut:
        machines.cut(teller, 2)
    else:
        machines[teller].take_sends = list
        machines.collect()
        for pair in list(machines.ways):
            if teller in pair:
                machines.ways[pair].clear()
        machines.tick(limits.DIRECTORY_TELLER_NS)
    machines.settle()
    assert machines[2].table.rows == machines[1 - teller].table.rows
    assert told(machines) - before < 3000 + 800  # two frames of some 350 rows are lost


def test_who_asks_is_answered_by_one_that_asks_another():
    machines = Machines(3, linked=False)
    for i in range(3):
        machines[i].add_topic(bytes([i]) * 16, f"t.{i}", True, machines.now_ns)
    for i in range(3):
        link_all(machines, i)
    for a, b in ((0, 1), (1, 2), (2, 0)):  # each has asked the next one before it is asked
        digest = DirectoryFrame(CHECK, b"another1")
        machines[a].on_frame(machines.origins[b], digest, machines.now_ns)
    assert [one._teller for one in machines.all] == [machines.origins[i] for i in (1, 2, 0)]
    machines.settle()
    assert len(machines[0].table.rows) == 3
    assert machines[0].table.rows == machines[1].table.rows == machines[2].table.rows


def test_two_halves_tell_each_other_little_more_than_each_node_lacks():
    machines = Machines(10)
    with_topics(machines, 0, 5000)
    machines.heal()
    pairs = [(a, b) for a in range(5) for b in range(5, 10)]
    for pair in pairs:
        machines.cut(*pair)
    for half in (0, 5):
        for n in range(20):
            name = f"h{half}.{n}"
            machines[half].add_topic(name.encode().ljust(16), name, True, machines.now_ns)
    machines.settle()
    before = told(machines)
    for pair in pairs:
        machines.link(*pair)
    machines.settle()
    machines.heal()
    # 20 rows in as many buckets of 20; there are 25 pairs, and ten nodes.
    assert told(machines) - before < 3 * 10 * 40 * 20


def test_news_beyond_a_bound_are_told_by_their_buckets(monkeypatch):
    monkeypatch.setattr(limits, "DIRECTORY_NEWS_MAX", 10)
    machines = Machines(2)
    machines.settle()
    with_topics(machines, 0, 1000)
    sibling = machines[0]._siblings[machines.origins[1]]
    assert len(sibling.keys) <= 10
    machines.settle()
    assert machines[1].table.rows == machines[0].table.rows


def test_what_a_node_learned_while_another_was_away_it_passes_on():
    machines = Machines(3)
    machines.settle()
    machines.cut(0, 2)
    machines[0].set_rule("a", True, 1, 0, machines.now_ns)
    machines.settle()
    assert machines[2].table.rule("a") is None  # no relay: it may be on its way from the first one
    machines.tick(limits.DIRECTORY_CHECK_NS)
    machines.settle()
    assert machines[2].table.rule("a").retention_ns == 1


def test_who_agrees_says_nothing_more():
    machines = Machines(3)
    machines[0].set_rule("a", True, 1, 0, machines.now_ns)
    machines.heal()
    machines.tick(limits.DIRECTORY_CHECK_NS)
    machines.settle()
    machines.frames = 0
    for _ in range(5):
        machines.tick(limits.DIRECTORY_CHECK_NS)
        machines.settle()
    assert machines.frames == 0


def test_a_malformed_frame_changes_nothing():
    machines = Machines(2)
    machines.settle()
    good = RuleRow("a", Stamp(1, b"o" * 16, ""), True, 0, 0)
    bad = TopicRow(b"t" * 16, "$x", True, NEVER)
    for frame in (
        DirectoryFrame(ROWS, pack([good, bad])),
        DirectoryFrame(CHECK, b"short"),
        DirectoryFrame(DIGEST, b"short"),
        DirectoryFrame(9, b""),
    ):
        with pytest.raises(BadFrame):
            machines[0].on_frame(machines.origins[1], frame, machines.now_ns)
    assert machines[0].table.rows == {}


def test_a_stranger_is_not_heard():
    machines = Machines(1)
    good = RuleRow("a", Stamp(1, b"o" * 16, ""), True, 0, 0)
    machines[0].on_frame(b"x" * 16, DirectoryFrame(ROWS, pack([good])), machines.now_ns)
    assert machines[0].table.rows == {}


# --- bounds ----------------------------------------------------------------------------------


def test_what_is_deleted_is_forgotten_after_its_time_and_not_taken_again():
    machines = Machines(2)
    with_topics(machines, 0, 3)
    machines[0].set_rule("a", True, 1, 0, machines.now_ns)
    machines[0].set_group("g", "1", machines.now_ns)
    machines.heal()
    machines[0].delete_topic("t.1", machines.now_ns)
    machines[0].remove_rule("a", machines.now_ns)
    machines[0].delete_group("g", machines.now_ns)
    machines.heal()
    assert [one.table.dead for one in machines.all] == [3, 3]
    kept = dict(machines[0].table.rows)
    machines.tick(limits.TOMBSTONE_NS)
    machines.tick(limits.TOMBSTONE_SWEEP_NS)
    assert [one.table.dead for one in machines.all] == [0, 0]
    machines[1].on_frame(
        machines.origins[0], DirectoryFrame(ROWS, pack(kept.values())), machines.now_ns
    )
    assert machines[1].table.dead == 0
    for i in range(2):
        machines.keep(i)
        assert machines.logs[i] == machines[i].table.rows
        assert len(machines.logs[i]) == 2


def test_the_oldest_deletions_are_forgotten_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(limits, "TOMBSTONES_MAX", 20)
    machines = Machines(1)
    with_topics(machines, 0, 30)
    for n in range(30):
        machines.tick(MS)
        machines[0].delete_topic(f"t.{n}", machines.now_ns)
    assert machines[0].table.dead <= 20
    assert machines[0].table.is_deleted((29).to_bytes(16, "big"))
    assert not machines[0].table.is_deleted((0).to_bytes(16, "big"))


def test_rows_beyond_the_bound_are_refused_and_counted():
    machines = Machines(2)
    for n in range(limits.GROUPS_MAX):
        machines[0].set_group(f"g{n}", "{}", machines.now_ns)
    machines.heal()
    machines[1].set_group("more", "{}", machines.now_ns)
    assert machines[1].table.group("more") is None
    assert machines[1].describe()["refused"] == 1
    machines[1].delete_group("g0", machines.now_ns)
    machines[1].set_group("more", "{}", machines.now_ns)
    machines.heal()
    assert machines[0].table.group("more") is not None
