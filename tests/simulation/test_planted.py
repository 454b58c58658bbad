"""Planted bugs: each is a change of the core that some seed must catch.

A checker that cannot fail would show here. A bug found by a seed joins the list when it is mended,
with a sentence that says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from meshmq.core import publisher as publisher_module
from meshmq.core import streams as streams_module
from meshmq.core.client import Client
from meshmq.core.delivery import Delivery
from meshmq.core.effects import Arrival, SubscriptionAnswered
from meshmq.core.lanes import Batch
from meshmq.core.log import Commit, split_entries
from meshmq.core.node import Node
from meshmq.core.publisher import Publisher
from meshmq.core.session import Session
from meshmq.core.streams import Streams
from meshmq.core.subscriber import Subscriber
from meshmq.core.topics import Topics
from meshmq.frames import SYNCED, Confirmation, Subscribed
from meshmq.testing import World, play
from meshmq.testing.checkers import CHECKERS
from meshmq.testing.disk import Disk
from tests.core import test_delivery, test_publisher, test_session, test_streams
from tests.core.helpers import encode
from tests.planting import Planted

SEEDS_MAX = 1500
ONCE_FAILED = [
    int(line.split()[0])
    for line in Path(__file__).with_name("seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def faults_of(seed: int, checker: str) -> list[str]:
    """What is wrong with a history, or what one checker says of it."""
    if not checker:
        return play(seed)
    (only,) = [one for one in CHECKERS if one.__name__ == checker]
    return list(only(World(seed).run()))


PLANTED = Planted("streams", faults_of, (*ONCE_FAILED, *range(SEEDS_MAX)))
planted = PLANTED.register


# -- the node: confirming, numbering, remembering ------------------------------------------------


@planted(Streams, "_accept")
def confirm_before_sync(real: Any, self: Any, link: Any, producer: Any, topic: Any, batch: Any,
                        data: Any, entries: Any) -> Any:  # fmt: skip
    accepted, answer = real(self, link, producer, topic, batch, data, entries)
    if answer is None:
        answer = Confirmation(
            batch.topic, batch.first, batch.count, base_offset=accepted.batch.base_offset,
            topic_id=topic.entry.topic_id, durability=SYNCED, has_offset=True,
        )  # fmt: skip
    return accepted, answer


@planted(Streams, "_repeat")
def answer_a_repeat_before_its_sync(
    real: Any, self: Any, link: Any, topic: Any, known: Any, batch: Any
) -> Any:
    waiting, self._unsynced = self._unsynced, deque()
    answer = real(self, link, topic, known, batch)
    self._unsynced = waiting
    return answer


@planted(Streams, "_repeat")
def judge_a_repeat_by_its_first_record(
    real: Any, self: Any, link: Any, topic: Any, known: Any, batch: Any
) -> Any:
    """The simulator found it: a kill took what was confirmed as stored already."""
    offset = known.offset_of(batch.first, batch.count)
    if offset is not None and offset < topic.synced_offset:
        waiting, self._unsynced = self._unsynced, deque()
        answer = real(self, link, topic, known, batch)
        self._unsynced = waiting
        return answer
    return real(self, link, topic, known, batch)


@planted(Topics, "__init__")
def forget_producers_at_restart(real: Any, self: Any, *args: Any) -> None:
    real(self, *args)
    for topic in self.by_name.values():
        topic.producers.clear()


@planted(Topics, "__init__")
def reuse_an_offset(real: Any, self: Any, *args: Any) -> None:
    real(self, *args)
    for topic in self.by_stream.values():
        topic.next_offset = max(0, topic.next_offset - 1)


@planted(Streams, "_judge")
def accept_what_leaves_a_gap(real: Any, self: Any, batch: Any, *args: Any) -> Any:
    code, message = real(self, batch, *args)
    return ("", "") if code == "sequence-gap" else (code, message)


@planted(Streams, "_judge")
def take_a_resent_transient_batch_for_new(real: Any, self: Any, batch: Any, *args: Any) -> Any:
    """The simulator found it: records of a transient topic were delivered twice after a kill."""
    return real(self, batch._replace(resent=False), *args)


@planted(Streams, "_inspect")
def store_a_malformed_batch(real: Any, self: Any, batch: Any, data: Any) -> Any:
    return "", ""


@planted(streams_module, "merge")
def merge_confirmations_that_do_not_join(real: Any, rows: Any) -> Any:
    merged: list[Confirmation] = []
    for c in rows:
        p = merged[-1] if merged else None
        if p is not None and p.topic == c.topic and not p.code and not c.code:
            merged[-1] = p._replace(count=c.first + c.count - p.first)
        else:
            merged.append(c)
    return merged


# -- the node: delivering ------------------------------------------------------------------------


@planted(Node, "end_turn")
def deliver_before_sync(real: Any, self: Any, now_ns: int) -> Any:
    if self._entries:
        commit = Commit(self.delivery.committed_lsn + 1, now_ns, *split_entries(self._entries))
        if commit.batches:
            self.delivery.on_commit(commit)
    return real(self, now_ns)


@planted(Delivery, "on_read")
def put_the_cursor_ahead_of_the_data(
    real: Any, self: Any, reader: int, batches: Any, lsn: int, slot: int
) -> None:
    real(self, reader, batches, lsn + 1, slot)


@planted(Delivery, "_place")
def begin_new_one_commit_late(real: Any, self: Any, sub: Any, frame: Any, origin: bytes) -> Any:
    refusal = real(self, sub, frame, origin)
    sub.lsn += sub.is_live
    sub.is_live = False
    return refusal


@planted(Delivery, "flush")
def drop_without_counting(real: Any, self: Any, sub: Any) -> None:
    before = sub.dropped
    real(self, sub)
    sub.dropped = min(sub.dropped, before)


@planted(Delivery, "unsubscribe")
def keep_a_subscription_that_ended(real: Any, self: Any, link: bytes, number: int) -> None:
    pass


# -- the session ---------------------------------------------------------------------------------


@planted(Session, "_on_numbered")
def accept_frames_behind_a_gap(real: Any, self: Any, sequence: int, body: Any, now_ns: int) -> Any:
    self.received = max(self.received, sequence - 1)
    return real(self, sequence, body, now_ns)


@planted(Session, "_on_numbered")
def accept_a_frame_twice(real: Any, self: Any, sequence: int, body: Any, now_ns: int) -> Any:
    taken = real(self, sequence, body, now_ns)
    return body if sequence <= self.received else taken


@planted(Session, "_on_ack")
def take_any_ack_for_all(real: Any, self: Any, ack: int, now_ns: int) -> None:
    real(self, self.sent if ack else 0, now_ns)


@planted(Session, "_is_forgotten")
def believe_who_has_forgotten(real: Any, self: Any, ack: int, now_ns: int) -> bool:
    """The simulator found it: a hello that came twice left two ends that only pinged."""
    return False


@planted(Session, "_resend")
def skip_a_resend(real: Any, self: Any, now_ns: int) -> None:
    self._resend_at = now_ns + 1_000_000_000


# -- the client ----------------------------------------------------------------------------------


@planted(Publisher, "on_session_lost")
def forget_what_was_sent(real: Any, self: Any) -> None:
    for lane in self.lanes.values():
        for batch in lane.in_flight:
            batch.sent_to = b""
    real(self)
    self._queue = deque(b for b in self._queue if not b.attempts)


@planted(publisher_module, "take_covered")
def take_a_confirmation_for_its_predecessor(
    real: Any, in_flight: deque[Batch], first: int, count: int
) -> list[Batch]:
    """The simulator found it: receipts had offsets of other records."""
    found = []
    while in_flight and in_flight[0].first < first + count:
        found.append(in_flight.popleft())
    return found


@planted(Subscriber, "_place")
def resume_one_batch_late(real: Any, self: Any, log: Any, batch: Any) -> Any:
    skip = real(self, log, batch)
    log.slot += 1
    return skip


@planted(Subscriber, "_place")
def resume_one_batch_early(real: Any, self: Any, log: Any, batch: Any) -> Any:
    real(self, log, batch)
    log.lsn, log.slot = batch.lsn, batch.slot
    log.next_offset[batch.topic] = batch.base_offset
    return 0


@planted(Subscriber, "on_deliver")
def pass_over_without_counting(real: Any, self: Any, frame: Any) -> list[Arrival]:
    before = self.missed
    arrivals: list[Arrival] = real(self, frame)
    self.missed = before
    return arrivals


@planted(Subscriber, "on_consumed")
def never_return_credit(real: Any, self: Any, size: int, records: int) -> None:
    pass


@planted(Client, "_on_subscribed")
def lose_credit_between_two_sessions(real: Any, self: Any, frame: Subscribed, now_ns: int) -> None:
    """The simulator found it: a subscription was never fed again after a reconnect."""
    sub = self.subscribers.get(frame.subscription)
    if sub is not None and not frame.code:
        sub.on_subscribed(frame)
        self._effects.append(SubscriptionAnswered(sub.id, "", "", frame.topics))


# -- full disks, budgets, what refusals do -------------------------------------------------------


@planted(Publisher, "_on_refusal")
def number_anew_what_is_not_the_oldest(real: Any, self: Any, lane: Any, c: Any, way: Any) -> None:
    """The simulator found it: receipts named the places of other records."""
    batch = next((b for b in lane.in_flight if b.first == c.first), None)
    if c.code == "producer-unknown" and batch is not None and not lane.explicit:
        self._hold(batch)
    else:
        real(self, lane, c, way)


@planted(publisher_module, "take_covered")
def take_a_confirmation_for_more_than_it_covers(
    real: Any, in_flight: deque[Batch], first: int, count: int
) -> list[Batch]:
    """The simulator found it: a record was confirmed and not stored."""
    found = [b for b in in_flight if first <= b.first < first + count]
    for batch in found:
        in_flight.remove(batch)
    return found


@planted(Publisher, "_on_refusal")
def match_a_refusal_by_its_first_sequence(
    real: Any, self: Any, lane: Any, c: Any, way: Any
) -> None:
    """The simulator found it: a batch said to be stored already was told to another one that
    began alike, which had failed then, though stored; the first was never answered."""
    alike = next((b.count for b in lane.in_flight if b.first == c.first), c.count)
    real(self, lane, c._replace(count=alike), way)


@planted(Publisher, "_on_refusal")
def follow_whatever_the_node_has(real: Any, self: Any, lane: Any, c: Any, way: Any) -> None:
    """The simulator found it: an explicit producer's refused records were taken for stored."""
    explicit, lane.explicit = lane.explicit, False
    real(self, lane, c, way)
    lane.explicit = explicit


@planted(Delivery, "feed_denied")
def forget_who_was_denied(real: Any, self: Any) -> None:
    self._denied.clear()


@planted(Delivery, "on_read")
def hand_out_damaged_bytes(real: Any, self: Any, reader: int, batches: Any, lsn: int,
                           slot: int) -> None:  # fmt: skip
    real(self, reader, [b._replace(damaged=False) for b in batches], lsn, slot)


@planted(Disk, "commit")
def let_time_go_back(real: Any, self: Any, entries: Any, wall_ns: int, records: Any) -> Any:
    self.state.append_time_ns = 0
    return real(self, entries, wall_ns, records)


SHOWN_BY = {
    "rest": "never_return_credit",
    "times": "let_time_go_back",
    "offsets": "reuse_an_offset",
    "streams": "forget_producers_at_restart",
    "receipts": "confirm_before_sync",
    "deliveries": "resume_one_batch_early",
    "beginnings": "put_the_cursor_ahead_of_the_data",
    "transient": "drop_without_counting",
}
"""For each checker a planted bug that it notices itself, whatever the others say."""


def test_each_checker_is_shown_to_fail() -> None:
    assert set(SHOWN_BY) == {checker.__name__ for checker in CHECKERS}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", SHOWN_BY)
def test_checker_fails_by_itself(checker: str) -> None:
    caught = PLANTED.noticing(SHOWN_BY[checker], checker)
    assert caught is not None, f"{checker} did not notice"
    assert not faults_of(caught, checker)  # it is the bug that it noticed


def test_there_are_at_least_twenty() -> None:
    assert len(PLANTED) >= 20


BY_HAND: dict[str, Callable[[], None]] = {
    "judge_a_repeat_by_its_first_record": lambda: (
        test_streams.test_a_repeat_of_which_only_the_first_record_is_synced_waits_for_the_last(
            test_streams.Shelf()
        )
    ),
    "take_a_resent_transient_batch_for_new": lambda: (
        test_streams.test_a_resent_transient_batch_of_an_unknown_producer_may_be_a_double(
            test_streams.Shelf()
        )
    ),
    "believe_who_has_forgotten": (
        test_session.test_a_peer_that_has_forgotten_the_session_is_noticed
    ),
    "answer_a_repeat_before_its_sync": lambda: (
        test_streams.test_a_repeat_of_what_is_not_synced_waits_for_the_sync(test_streams.Shelf())
    ),
    "begin_new_one_commit_late": (
        test_delivery.test_a_live_subscription_gets_each_commit_once_with_its_places
    ),
    "take_a_confirmation_for_more_than_it_covers": lambda: (
        test_publisher.test_a_confirmation_is_of_no_batch_that_goes_beyond_it(
            Publisher(encode, nullcontext())
        )
    ),
    "match_a_refusal_by_its_first_sequence": lambda: (
        test_publisher.test_a_refusal_is_that_of_the_batch_it_names_not_of_one_that_begins_alike(
            Publisher(encode, nullcontext())
        )
    ),
}
"""What few seeds have (of the first, one in 25,000): a test that makes it is broken by the bug."""


@pytest.mark.parametrize("name", BY_HAND)
def test_planted_bug_is_caught_by_hand(name: str) -> None:
    BY_HAND[name]()
    with PLANTED[name](), pytest.raises(AssertionError):
        BY_HAND[name]()


BY_SEEDS = [name for name in PLANTED if name not in BY_HAND]
CASES = [*[(name, "") for name in BY_SEEDS], *[(name, c) for c, name in SHOWN_BY.items()]]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BY_SEEDS)
def test_planted_bug_is_caught(name: str) -> None:
    assert PLANTED.noticing(name) is not None, f"{SEEDS_MAX} seeds did not notice the bug"
