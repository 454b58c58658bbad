"""What the judge of groups makes of words that only later ones explain."""

from __future__ import annotations

import pytest

from meshmq.frames import (
    Body,
    Consume,
    Consumed,
    HandOut,
    HandOutRow,
    Holding,
    Revoke,
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
