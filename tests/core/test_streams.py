"""What a node accepts, numbers and confirms; then a producer and a node in a loop with losses."""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.lanes import DONE
from meshmq.core.log import (
    BatchEntry,
    LogState,
    ProducerState,
    RuleEntry,
    StreamState,
    TopicEntry,
)
from meshmq.core.publisher import Publisher
from meshmq.core.streams import Streams
from meshmq.core.topics import Topics
from meshmq.frames import SENT, SYNCED, Confirmation
from meshmq.testing.disk import Disk
from tests.core.helpers import (
    LINK,
    ORIGIN,
    OTHER_LINK,
    SECOND,
    A,
    B,
    batch_of,
    check_batch,
    decode,
    encode,
)

NOW = 1_700_000_000 * SECOND


class Shelf:
    """The streams of a node with a disk beside them, whose syncs the test decides."""

    def __init__(self):
        self.disk = Disk(ORIGIN)
        self.start()

    def start(self):
        """Begin from what the disk holds, as after a crash."""
        self.entries = []
        self.topics = Topics(self.disk.state, random.Random(1))
        self.streams = Streams(self.disk.state, self.topics, check_batch, Admission())

    def make(self, name, durable=True):
        self.topics.create(name, self.entries, RuleEntry(name, durable, 0, 0))

    def publish(self, row_and_data, producer=A, link=LINK):
        accepted, answer = self.streams.publish(link, producer, *row_and_data, self.entries)
        return accepted.batch.base_offset if accepted is not None else None, answer

    def sync(self, wall_ns=NOW):
        """Commit what gathered; return the answers with their links."""
        entries, self.entries = self.entries, []
        return self.streams.on_commit(self.disk.commit(entries, wall_ns, decode))

    def log(self, name):
        """The records of a durable topic on disk, by offset."""
        names = {alias: s.topic.name for alias, s in self.disk.state.streams.items()}
        batches = [b for c in self.disk.commits for b in c.batches if names.get(b.stream) == name]
        assert [b.base_offset for b in batches] == [
            sum(b.count for b in batches[:i]) for i in range(len(batches))
        ]
        return [v for b in batches for v in decode(b.payload)]


@pytest.fixture
def shelf():
    return Shelf()


def batches(entries):
    return [e for e in entries if isinstance(e, BatchEntry)]


# -- rule 2: offsets, and nothing confirmed before the sync ----------------------------------------


def test_a_first_publish_makes_the_topic_and_is_answered_by_the_sync(shelf):
    assert shelf.publish(batch_of("a", 1, b"x", b"y")) == (0, None)
    topic, batch = shelf.entries
    assert (topic.name, topic.durable, topic.stream) == ("a", True, batch.stream)
    assert (batch.base_offset, batch.count, batch.producer, batch.first) == (0, 2, A, 1)
    assert shelf.streams.has_unsynced
    assert (shelf.streams.published, shelf.streams.confirmed) == (2, 0)
    expected = Confirmation(
        "a", 1, 2, base_offset=0, append_time_ns=NOW, topic_id=topic.topic_id,
        durability=SYNCED, last=2, has_offset=True,
    )  # fmt: skip
    assert shelf.sync() == [(LINK, expected)]
    assert not shelf.streams.has_unsynced
    assert shelf.streams.confirmed == 2


def test_offsets_have_no_gaps_whoever_publishes(shelf):
    assert shelf.publish(batch_of("a", 1, b"1", b"2"))[0] == 0
    assert shelf.publish(batch_of("a", 1, b"3"), producer=B)[0] == 2
    shelf.sync()
    assert shelf.publish(batch_of("a", 3, b"4", b"5", b"6"))[0] == 3
    assert shelf.publish(batch_of("b", 1, b"1"))[0] == 0
    assert shelf.publish(batch_of("a", 2, b"7"), producer=B)[0] == 6
    shelf.sync()
    assert shelf.log("a") == [b"1", b"2", b"3", b"4", b"5", b"6", b"7"]


def test_each_answer_goes_to_the_link_that_published(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    shelf.publish(batch_of("b", 1, b"2"), producer=B, link=OTHER_LINK)
    found = [(link, c.topic, c.base_offset) for link, c in shelf.sync()]
    assert found == [(LINK, "a", 0), (OTHER_LINK, "b", 0)]


def test_a_sync_confirms_its_own_batches_only(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    first, shelf.entries = shelf.entries, []
    shelf.publish(batch_of("a", 2, b"2"))
    commit = shelf.disk.commit(first, NOW, decode)
    assert [c.first for _, c in shelf.streams.on_commit(commit)] == [1]
    assert shelf.streams.has_unsynced
    assert [c.first for _, c in shelf.sync()] == [2]


def test_offsets_and_sequences_go_on_after_a_restart(shelf):
    shelf.publish(batch_of("a", 1, b"1", b"2"))
    shelf.sync()
    shelf.publish(batch_of("a", 3, b"lost"))
    shelf.start()
    assert shelf.publish(batch_of("a", 3, b"3"))[0] == 2
    shelf.sync()
    assert shelf.log("a") == [b"1", b"2", b"3"]


def test_transient_batches_are_answered_at_once_without_offset_and_not_stored(shelf):
    shelf.make("t", durable=False)
    shelf.entries.clear()
    base, told = shelf.publish(batch_of("t", 1, b"1", b"2"))
    assert base == 0
    assert (told.code, told.first, told.count, told.last) == ("", 1, 2, 2)
    assert (told.durability, told.has_offset) == (SENT, False)
    assert shelf.entries == []
    assert not shelf.streams.has_unsynced


# -- rule 1: what follows, what repeats, what leaves a gap -----------------------------------------


def test_a_repeat_is_confirmed_with_its_first_offset_and_stored_once(shelf):
    shelf.publish(batch_of("a", 1, b"0"), producer=B)
    shelf.publish(batch_of("a", 1, b"1", b"2"))
    shelf.sync()
    base, told = shelf.publish(batch_of("a", 1, b"1", b"2", resent=True), link=OTHER_LINK)
    assert base is None
    assert (told.code, told.base_offset, told.has_offset, told.duplicate) == ("", 1, True, True)
    assert (told.durability, told.last) == (SYNCED, 2)
    assert shelf.entries == []
    assert shelf.streams.repeated == 2
    assert shelf.log("a") == [b"0", b"1", b"2"]


def test_a_repeat_is_known_after_a_restart(shelf):
    shelf.publish(batch_of("a", 1, b"1", b"2"))
    shelf.sync()
    shelf.start()
    _, told = shelf.publish(batch_of("a", 1, b"1", b"2", resent=True))
    assert (told.duplicate, told.base_offset, told.has_offset) == (True, 0, True)


def test_a_repeat_of_what_is_not_synced_waits_for_the_sync(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    assert shelf.publish(batch_of("a", 1, b"1", resent=True), link=OTHER_LINK) == (None, None)
    first, second = shelf.sync()
    assert (first[0], first[1].duplicate) == (LINK, False)
    assert (second[0], second[1].duplicate, second[1].base_offset) == (OTHER_LINK, True, 0)


def test_a_repeat_under_way_is_not_answered_by_the_sync_of_something_older(shelf):
    shelf.publish(batch_of("other", 1, b"0"))
    older, shelf.entries = shelf.entries, []
    shelf.publish(batch_of("a", 1, b"1"))
    shelf.publish(batch_of("a", 1, b"1", resent=True))
    commit = shelf.disk.commit(older, NOW, decode)
    assert [c.topic for _, c in shelf.streams.on_commit(commit)] == ["other"]
    assert [(c.topic, c.duplicate) for _, c in shelf.sync()] == [("a", False), ("a", True)]


def test_a_repeat_of_which_only_the_first_record_is_synced_waits_for_the_last(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    shelf.sync()
    shelf.publish(batch_of("a", 2, b"2"))
    again = batch_of("a", 1, b"1", b"2", resent=True)
    assert shelf.publish(again, link=OTHER_LINK) == (None, None)
    assert [c.duplicate for _, c in shelf.sync()] == [False, True]


def test_a_repeat_of_what_is_synced_is_answered_while_others_wait(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    shelf.sync()
    shelf.publish(batch_of("a", 2, b"2"))
    _, told = shelf.publish(batch_of("a", 1, b"1", resent=True))
    assert (told.duplicate, told.base_offset) == (True, 0)


def test_a_repeat_whose_offset_is_forgotten_waits_too_and_names_none(shelf, monkeypatch):
    monkeypatch.setattr("meshmq.limits.PRODUCER_RECENT_RANGES_MAX", 2)
    for first in range(1, 5):
        shelf.publish(batch_of("a", first, b"mine"))
        shelf.publish(batch_of("a", first, b"theirs"), producer=B)
    shelf.sync()
    _, told = shelf.publish(batch_of("a", 1, b"mine", resent=True))
    assert (told.code, told.duplicate, told.has_offset) == ("", True, False)
    shelf.publish(batch_of("a", 5, b"next"))
    assert shelf.publish(batch_of("a", 1, b"mine", resent=True)) == (None, None)
    assert [c.duplicate for _, c in shelf.sync()] == [False, True]


def test_a_batch_that_overlaps_is_told_where_to_go_on(shelf):
    shelf.publish(batch_of("a", 1, b"1", b"2"))
    shelf.sync()
    base, told = shelf.publish(batch_of("a", 1, b"1", b"2", b"3"))
    assert (base, told.code, told.last) == (None, "sequence-overlap", 2)
    assert shelf.publish(batch_of("a", 3, b"3"))[0] == 2


def test_a_gap_is_refused_and_so_are_its_successors(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    assert shelf.publish(batch_of("a", 3, b"3"))[1].code == "sequence-gap"
    base, told = shelf.publish(batch_of("a", 4, b"4"))
    assert (base, told.code, told.last) == (None, "sequence-gap", 1)
    shelf.sync()
    assert shelf.log("a") == [b"1"]
    assert shelf.streams.refused == {"sequence-gap": 2}


def test_a_malformed_batch_refuses_its_successors(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    assert shelf.publish(batch_of("a", 2, b"malformed"))[1].code == "batch-refused"
    assert shelf.publish(batch_of("a", 3, b"3"))[1].code == "sequence-gap"
    assert shelf.publish(batch_of("a", 3, b"3", after=1))[0] == 1


def test_sequences_may_be_skipped_when_the_batch_says_what_it_follows(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    assert shelf.publish(batch_of("a", 9, b"9", after=1))[0] == 1
    assert shelf.publish(batch_of("a", 10, b"10"))[0] == 2
    assert [c.last for _, c in shelf.sync()] == [1, 9, 10]


def test_producers_and_topics_are_counted_apart(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    assert shelf.publish(batch_of("a", 1, b"1"), producer=B)[0] == 1
    assert shelf.publish(batch_of("b", 1, b"1"))[0] == 0
    assert shelf.publish(batch_of("b", 2, b"2"), producer=B)[1].code == "producer-unknown"


def test_a_producer_nobody_knows_begins_at_one(shelf):
    base, told = shelf.publish(batch_of("a", 5, b"5"))
    assert (base, told.code, told.last) == (None, "producer-unknown", 0)
    assert "a" not in shelf.topics.by_name
    assert shelf.publish(batch_of("a", 1, b"1", resent=True))[0] == 0


def test_a_resent_transient_batch_of_an_unknown_producer_may_be_a_double(shelf):
    shelf.make("t", durable=False)
    _, told = shelf.publish(batch_of("t", 1, b"1", resent=True))
    assert told.code == "producer-unknown"
    assert shelf.publish(batch_of("t", 1, b"1"))[1].code == ""


def test_a_rule_makes_a_topic_transient_before_its_first_publish(shelf):
    shelf.topics.set_policy(RuleEntry("t.>", False, 0, 0), shelf.entries)
    assert shelf.publish(batch_of("t.x", 1, b"1", resent=True))[1].code == "producer-unknown"
    assert shelf.publish(batch_of("t.x", 1, b"1"))[1].durability == SENT
    assert not shelf.topics.by_name["t.x"].entry.durable


# -- rule 3: refused before anything changes -------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "value", "code"),
    [
        ("a", b"malformed", "batch-refused"),
        ("$SYS.x", b"1", "invalid-name"),
        ("a.*", b"1", "invalid-name"),
        ("", b"1", "invalid-name"),
        ("a..b", b"1", "invalid-name"),
    ],
)
def test_what_is_refused_leaves_no_trace(shelf, topic, value, code):
    base, told = shelf.publish(batch_of(topic, 1, value))
    assert (base, told.code) == (None, code)
    assert told.message
    assert shelf.entries == []
    assert shelf.topics.by_name == {}
    assert shelf.streams.published == 0
    assert shelf.streams.refused == {code: 1}


def test_bytes_that_do_not_match_their_checksum_are_refused(shelf):
    row, data = batch_of("a", 1, b"1")
    assert shelf.publish((row, data[:-1] + b"2"))[1].code == "batch-refused"
    assert shelf.publish((row._replace(checksum=0), data))[1].code == "batch-refused"
    shelf.make("t", durable=False)
    assert shelf.publish((row._replace(topic="t"), data[:-1] + b"2"))[1].code == "batch-refused"
    assert batches(shelf.entries) == []


def test_a_node_full_of_topics_says_so_and_takes_the_known_ones(shelf, monkeypatch):
    monkeypatch.setattr("meshmq.limits.TOPICS_MAX", 2)
    shelf.publish(batch_of("a", 1, b"1"))
    shelf.publish(batch_of("b", 1, b"1"))
    assert shelf.publish(batch_of("c", 1, b"1"))[1].code == "limit"
    assert shelf.publish(batch_of("a", 2, b"2"))[0] == 1


# -- forgetting ------------------------------------------------------------------------------------


def test_a_producer_is_forgotten_after_seven_silent_days_and_not_before(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    shelf.sync(NOW)
    shelf.publish(batch_of("a", 1, b"1"), producer=B)
    shelf.sync(NOW + limits.PRODUCER_FORGET_NS)
    assert shelf.publish(batch_of("a", 1, b"1", resent=True))[1].duplicate
    shelf.publish(batch_of("a", 2, b"2"), producer=B)
    shelf.sync(NOW + limits.PRODUCER_FORGET_NS + 2 * limits.PRODUCER_SWEEP_NS)
    assert shelf.publish(batch_of("a", 2, b"2"))[1].code == "producer-unknown"
    assert shelf.publish(batch_of("a", 2, b"2", resent=True), producer=B)[1].duplicate


def test_a_producer_on_its_way_to_disk_is_not_forgotten(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    first, shelf.entries = shelf.entries, []
    shelf.publish(batch_of("b", 1, b"1"), producer=B)
    later = shelf.disk.commit(first, NOW, decode)
    shelf.streams.on_commit(later)
    assert shelf.publish(batch_of("b", 2, b"2"), producer=B)[0] == 1


def test_producers_of_a_transient_topic_are_bounded_the_oldest_goes(shelf, monkeypatch):
    monkeypatch.setattr("meshmq.limits.TRANSIENT_PRODUCERS_MAX", 2)
    shelf.make("t", durable=False)
    for producer in (A, B, b"c" * 16):
        shelf.publish(batch_of("t", 1, b"1"), producer=producer)
    assert shelf.publish(batch_of("t", 2, b"2"), producer=A)[1].code == "producer-unknown"
    assert shelf.publish(batch_of("t", 2, b"2"), producer=B)[1].code == ""


def test_producers_of_durable_topics_are_bounded(shelf, monkeypatch):
    monkeypatch.setattr("meshmq.limits.PRODUCERS_MAX", 3)
    for i in range(10):
        shelf.publish(batch_of("a", 1, b"1"), producer=bytes([i]) * 16)
    assert len(shelf.topics.by_name["a"].producers) == 3
    assert shelf.publish(batch_of("a", 2, b"2"), producer=b"\x09" * 16)[0] == 10


def test_the_state_at_start_is_copied_not_shared():
    state = LogState(ORIGIN)
    entry = TopicEntry(1, b"t" * 16, "a", True, 0, 0)
    state.topics["a"] = state.streams[1] = StreamState(entry, 3, 1)
    state.next_stream = 2
    state.producers[A, 1] = ProducerState(3, NOW, [(1, 0, 3)])
    topics = Topics(state, random.Random(1))
    streams = Streams(state, topics, check_batch, Admission())
    entries = []
    streams.publish(LINK, A, *batch_of("a", 4, b"x"), entries)
    assert entries[0].base_offset == 3
    assert topics.by_name["a"].first_offset == 1
    assert state.producers[A, 1] == ProducerState(3, NOW, [(1, 0, 3)])
    assert state.streams[1].next_offset == 3


def test_a_topic_deleted_under_way_still_confirms_what_was_stored(shelf):
    shelf.publish(batch_of("a", 1, b"1"))
    shelf.topics.delete("a", shelf.entries)
    ((_, told),) = shelf.sync()
    assert (told.topic, told.code, told.topic_id) == ("a", "", b"")


# -- producer and node in a loop -------------------------------------------------------------------

OPS = ["add", "add", "add", "full", "send", "frame", "frame", "sync", "answer", "answer",
       "cut", "crash"]  # fmt: skip
steps = st.lists(
    st.tuples(st.sampled_from(OPS), st.integers(0, 2), st.integers(1, 3)), max_size=120
)


class Loop:
    """A publisher and a node's streams. Frames and answers come in order within a session, which
    may end at any moment; a crash of the node forgets what is not synced."""

    def __init__(self):
        self.shelf = Shelf()
        self.pub = Publisher(encode, nullcontext())
        self.made = {topic: [] for topic in "abc"}
        self.held = {topic: [] for topic in "abc"}  # (batch, index) of each record
        self.frames, self.answers = [], []

    def add(self, topic, count):
        for _ in range(count):
            value = b"%s%d" % (topic.encode(), len(self.made[topic]))
            self.made[topic].append(value)
            self.held[topic].append(
                self.pub.add(topic, value, None, None, None, lambda: 0, -1, None)
            )

    def step(self, op, which, count):
        topic = "abc"[which]
        match op:
            case "add":
                self.add(topic, count)
            case "full":
                batch = self.pub.lane(topic).open
                if batch is not None:
                    self.pub.close(batch)
            case "send":
                self.frames += self.pub.take(ORIGIN)
            case "frame" if self.frames:
                self.arrive(self.frames.pop(0))
            case "sync":
                self.answers += [c for _, c in self.shelf.sync()]
            case "answer" if self.answers:
                self.pub.on_confirmation(self.answers.pop(0), ORIGIN)
            case "cut":
                self.cut()
            case "crash":
                self.shelf.start()
                self.cut()

    def arrive(self, frame):
        at = 0
        for row in frame.batches:
            data = frame.payload[at : at + row.length]
            at += row.length
            _, told = self.shelf.publish((row, data))
            if told is not None:
                self.answers.append(told)

    def cut(self):
        self.frames.clear()
        self.answers.clear()
        self.pub.on_session_lost()
        self.pub.on_origin(ORIGIN, 0)

    def heal(self):
        for _ in range(10_000):
            if self.pub.is_idle:
                return
            for op in ("send", "frame", "sync", "answer"):
                self.step(op, 0, 0)
        raise AssertionError("the producer never came to rest")


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_is_lost_the_log_equals_what_was_published(steps):
    loop = Loop()
    for step in steps:
        loop.step(*step)
    loop.step("cut", 0, 0)
    loop.heal()
    for topic, made in loop.made.items():
        assert loop.shelf.log(topic) == made
        for offset, (batch, index) in enumerate(loop.held[topic]):
            assert batch.state == DONE
            assert batch.base_offset + index == offset
    assert loop.shelf.streams.refused == {}
