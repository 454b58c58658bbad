"""What the judge of groups makes of words that only later ones explain."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshmq import limits
from meshmq.frames import (
    NACK,
    Body,
    Command,
    Consume,
    Consumed,
    HandOut,
    HandOutRow,
    Holding,
    Result,
    Revoke,
    Settle,
    SettleRow,
    Transact,
    TransactAck,
    Transacted,
)
from meshmq.limits import MS
from meshmq.testing.cases import Stored
from meshmq.testing.group_world import GroupWorld

LINK = b"p0/0/1"
OTHER = b"p1/0/1"
DELAYED = "$delayed.g"
TIMEOUT_NS = 200 * MS


class Court:
    """A judge, and a member of whom it is told."""

    def __init__(self) -> None:
        self.world = GroupWorld(0)
        self.world.wishes["g"] = {
            "group": "g", "kind": "group", "pattern": "a", "order": "any", "max_deliveries": 5,
            "backoff_ns": MS, "backoff_max_ns": MS,
        }  # fmt: skip
        self.world.start_node()
        self.referee = self.world.referee
        for offset in range(4):
            self.referee.log["a", offset] = Stored(b"", b"", {}, 0, 0, 0, b"", 0, 1, 0)

    def orders_by_key(self, topic: str) -> None:
        """Two jobs of one key lie in a lane of the queue."""
        self.world.wishes["g"] |= {"kind": "queue", "order": "key"}
        for offset in range(2):
            self.referee.log[topic, offset] = Stored(b"", b"k", {}, 0, 0, 0, b"", 0, 1, 0)
        self.referee.by_key[topic, b"k"] = [0, 1]

    def says(self, body: Body, link: bytes = LINK) -> None:
        """The member, to the node."""
        self.referee.accepted(link, b"instance" + link, body)

    def consumes(self, *holdings: Holding, link: bytes = LINK) -> None:
        self.says(Consume(1, "g", "a", b"", 1, 1 << 20, TIMEOUT_NS, holdings), link)

    def hears(self, body: Body, link: bytes = LINK) -> None:
        """The member, of the node."""
        self.referee.sent(link, body)

    def gets(
        self, number: int, offset: int, attempt: int = 1, is_suspect: bool = False,
        topic: str = "a", link: bytes = LINK,
    ) -> None:  # fmt: skip
        row = HandOutRow(topic, number, offset, 1, 0, 1, 0, 0, 0, 1, 0, attempt, is_suspect)
        self.hears(HandOut(1, (row,), b""), link)

    @property
    def faults(self) -> list[str]:
        return [fault.split(" (at ")[0] for fault in self.referee.faults]


@pytest.fixture
def court() -> Court:
    return Court()


@pytest.mark.parametrize("revoked", [7, 8])
def test_one_record_claimed_twice_is_gone_when_either_claim_is_revoked(
    court: Court, revoked: int
) -> None:
    court.consumes(Holding(7, "a", (0,), 1), Holding(8, "a", (0,), 2))
    court.world.now_ns += TIMEOUT_NS
    court.hears(Revoke(1, (SettleRow(revoked, 0, 1, 0),)))
    court.hears(Consumed(1, lost=(15 - revoked,)))
    court.gets(9, 1)
    assert court.faults == []
    court.gets(10, 2)
    assert court.faults == ["g: a 2 over the prefetch 1: 2"]


def test_a_claim_is_not_revoked_before_its_time(court: Court) -> None:
    court.consumes(Holding(7, "a", (0,), 1), Holding(8, "a", (0,), 2))
    court.hears(Revoke(1, (SettleRow(8, 0, 1, 0),)))
    assert court.faults == ["g: a 0 is taken back without a cause"]


def _seek(court: Court, start: Any) -> None:
    court.consumes()
    court.hears(Consumed(1))
    court.gets(7, 0)
    arguments = {"group": "g", "start": start}
    court.says(Command(1, "group.seek", json.dumps(arguments).encode()))


def test_until_the_log_has_answered_a_seek_by_time_changes_nothing(court: Court) -> None:
    _seek(court, {"time_ns": 5})
    court.referee.surveying(1, 5)
    court.says(Settle(1, 1, (SettleRow(7, 0, 1, NACK, 0),)))
    court.gets(8, 0, 2)
    assert court.faults == []
    court.gets(9, 0, 2)
    assert court.faults == ["g: a 0 (attempt 2) is handed out and in b'p0/0/1''s hands"]


def test_once_it_has_all_begins_anew(court: Court) -> None:
    _seek(court, {"time_ns": 5})
    court.referee.surveying(1, 5)
    court.says(Settle(1, 1, (SettleRow(7, 0, 1, NACK, 0),)))
    court.referee.surveyed(1)
    court.gets(8, 0, 1, True)
    assert court.faults == []


def test_any_other_seek_is_done_at_once(court: Court) -> None:
    _seek(court, "earliest")
    court.gets(8, 0, 2)
    assert court.faults == ["g: a 0 (attempt 2) has attempt 2, not 1 to 1"]


def _cancel(court: Court, topic: str) -> None:
    """Of the older job of a key, while nobody has it."""
    court.orders_by_key(topic)
    court.consumes(link=OTHER)
    court.referee._job_place = lambda arguments: (topic, 0)  # type: ignore[method-assign]
    court.says(Command(1, "queue.cancel", b'{"queue": "g", "job": "0"}'))


def test_what_is_cancelled_is_gone_before_that_is_stored(court: Court) -> None:
    _cancel(court, "g")
    court.gets(7, 1, topic="g", link=OTHER)
    court.hears(Result(1, "", "", b"{}"))
    assert court.faults == []


def test_a_claim_to_what_is_cancelled_holds_nobody_up(court: Court) -> None:
    _cancel(court, DELAYED)
    court.consumes(Holding(5, DELAYED, (0,), 1))
    court.gets(7, 1, topic=DELAYED, link=OTHER)
    court.hears(Consumed(1, lost=(5,)))
    assert court.faults == []


def test_what_was_not_cancelled_is_not_overtaken(court: Court) -> None:
    _cancel(court, "g")
    court.hears(Result(1, "job-not-found", "it is with a member", b"{}"))
    court.gets(7, 1, topic="g", link=OTHER)
    assert court.faults == ["g: g 1 (attempt 1) overtakes 0 of its key, which waits"]


def test_a_cancel_that_is_refused_because_of_a_purge_leaves_it_purged(court: Court) -> None:
    court.orders_by_key("g")
    court.says(Command(2, "queue.purge", b'{"queue": "g"}'))
    _cancel(court, "g")
    court.hears(Result(1, "job-not-found", "it is done", b"{}"))
    court.hears(Result(2, "", "", b"{}"))
    court.gets(7, 0, topic="g", link=OTHER)
    assert court.faults == [
        "g: g 0 (attempt 1) is handed out again and its end was confirmed: purged"
    ]


def test_a_cancel_that_no_disk_has_is_over_with_the_nodes_life(court: Court) -> None:
    _cancel(court, "g")
    court.referee.restarted()
    court.consumes(link=OTHER)
    court.gets(7, 1, topic="g", link=OTHER)
    assert court.faults == ["g: g 1 (attempt 1) overtakes 0 of its key, which waits"]


def _claim_of_an_earlier_life(court: Court, topic: str) -> None:
    """The older job of a key is claimed, and the later one handed to somebody else."""
    court.orders_by_key(topic)
    court.consumes(link=OTHER)
    court.consumes(Holding(5, topic, (0,), 1))
    court.gets(7, 1, topic=topic, link=OTHER)


def test_what_an_earlier_life_handed_out_is_nobodys_until_its_claim_is_answered(
    court: Court,
) -> None:
    _claim_of_an_earlier_life(court, DELAYED)
    court.hears(Consumed(1, lost=(5,)))
    assert court.faults == []


def test_it_is_not_left_to_who_claimed_it_when_a_later_one_of_its_key_is_out(court: Court) -> None:
    _claim_of_an_earlier_life(court, DELAYED)
    court.hears(Consumed(1))
    assert court.faults == [
        "g: $delayed.g 0 was left to who claimed it, a later one of its key b'p1/0/1' has"
    ]


def test_it_waits_in_its_lane_until_then(court: Court) -> None:
    _claim_of_an_earlier_life(court, "g")
    assert court.faults == ["g: g 1 (attempt 1) overtakes 0 of its key, which waits"]


def test_what_somebody_has_in_this_life_is_not_overtaken_while_it_is_claimed(court: Court) -> None:
    court.orders_by_key(DELAYED)
    court.consumes(link=OTHER)
    court.consumes()
    court.gets(5, 0, topic=DELAYED)
    court.consumes(Holding(5, DELAYED, (0,), 1))
    court.gets(7, 1, topic=DELAYED, link=OTHER)
    assert court.faults == [
        "g: $delayed.g 1 (attempt 1) overtakes 0 of its key, which b'p0/0/1' has"
    ]


@pytest.mark.parametrize("passed_ns", [0, limits.ORPHANED_NS])
def test_a_purge_takes_what_a_lost_session_had_once_its_time_is_over(
    court: Court, passed_ns: int
) -> None:
    court.orders_by_key("g")
    court.consumes()
    court.gets(5, 0, topic="g")
    court.referee.dropped_link(LINK)
    court.world.now_ns += passed_ns
    court.says(Command(1, "queue.purge", b'{"queue": "g"}'), OTHER)
    (case,) = [c for p, c in court.referee.cases["g"].items() if p == ("g", 0)]
    assert bool(case.excuse) == bool(passed_ns)


def _ack_of_a_claim(court: Court) -> None:
    """By a transaction, which does not wait for the answer."""
    court.consumes(link=OTHER)
    court.consumes(Holding(5, "a", (0,), 1))
    court.says(Transact(1, (TransactAck(1, 5, 0, 1),), (), b""))


def test_a_claim_that_is_lost_may_be_handed_out_before_that_is_told(court: Court) -> None:
    _ack_of_a_claim(court)
    court.gets(7, 0, is_suspect=True, link=OTHER)
    court.hears(Consumed(1, lost=(5,)))
    court.hears(Transacted(1, "transaction-failed", "it was taken back", (), ()))
    assert court.faults == []


def test_what_was_left_to_who_has_acked_it_is_not_handed_out(court: Court) -> None:
    _ack_of_a_claim(court)
    court.hears(Consumed(1))
    court.gets(7, 0, is_suspect=True, link=OTHER)
    assert court.faults == [
        "g: a 0 (attempt 1) is handed out again and its end was accepted: acked"
    ]
