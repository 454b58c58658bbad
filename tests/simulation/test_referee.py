"""What the judge of groups makes of words that only later ones explain."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshmq.frames import (
    NACK,
    Body,
    Command,
    Consume,
    Consumed,
    HandOut,
    HandOutRow,
    Holding,
    Revoke,
    Settle,
    SettleRow,
)
from meshmq.limits import MS
from meshmq.testing.cases import Stored
from meshmq.testing.group_world import GroupWorld

LINK = b"p0/0/1"
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

    def says(self, body: Body) -> None:
        """The member, to the node."""
        self.referee.accepted(LINK, b"instance", body)

    def consumes(self, *holdings: Holding) -> None:
        self.says(Consume(1, "g", "a", b"", 1, 1 << 20, TIMEOUT_NS, holdings))

    def hears(self, body: Body) -> None:
        """The member, of the node."""
        self.referee.sent(LINK, body)

    def gets(self, number: int, offset: int, attempt: int = 1, is_suspect: bool = False) -> None:
        row = HandOutRow("a", number, offset, 1, 0, 1, 0, 0, 0, 1, 0, attempt, is_suspect)
        self.hears(HandOut(1, (row,), b""))

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
