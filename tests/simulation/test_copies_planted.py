"""Planted bugs of a site whose nodes copy each other's logs, take over from each other, and whose
programs move: each is a change of the core that a seed named with it must catch.

For each checker one is named that it notices by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshmq.core.copied_journal import CopiedJournal
from meshmq.core.dedup import Dedup
from meshmq.core.mending import Mender
from meshmq.core.mirrors import Mirrors
from meshmq.core.moving import Moving
from meshmq.core.site_copies import SiteCopies
from meshmq.core.site_links import SiteLinks
from meshmq.core.subscriber import Subscriber
from meshmq.core.takeover import Takeovers
from meshmq.testing import CopiesWorld, disk
from meshmq.testing.copies_checkers import COPIES_CHECKERS
from tests.planting import Planted

PLANTED = Planted()
planted = PLANTED.register  # with the name of a checker that notices it by itself, and seeds


# -- copies ----------------------------------------------------------------------------------------


@planted(SiteCopies, "_reached", "said", 1, 2)
def say_replicated_when_it_is_synced_here(real: Any, self: Any, copies: int) -> Any:
    return (self._delivery.committed_lsn + 1, 0)


@planted(SiteCopies, "source", "kept", 0, 3)
def read_no_copy(real: Any, self: Any, origin: bytes) -> bytes:
    return b""


@planted(Mirrors, "_store", "same", 1, 2)
def forget_whose_a_batch_was(
    real: Any, self: Any, mirror: Any, row: Any, data: bytes, strand: int
) -> bool:
    return real(self, mirror, row._replace(producer=bytes(16)), data, strand)


@planted(Mender, "_mend", "mended", 105, 56)
def mend_nothing(real: Any, self: Any, whose: Any, reader: Any, batch: Any) -> bool:
    return False


@planted(SiteCopies, "_on_copied", "same", 56)
def believe_that_a_copy_is_whole(
    real: Any, self: Any, sibling: Any, frame: Any, now_ns: int
) -> None:
    real(self, sibling, replace(frame, holes=False), now_ns)


@planted(SiteLinks, "_impostor", "refused", 10, 33)
def link_with_copied_disks(real: Any, self: Any, origin: bytes, name: str, node: Any) -> Any:
    return None


# -- backups ---------------------------------------------------------------------------------------


@planted(disk, "give_up", "same", 47, 14)
def renew_with_what_came_after(
    real: Any, state: Any, origin: bytes, name: str, lsn: int, before: Any
) -> None:
    real(state, origin, name, lsn, state)


@planted(SiteCopies, "_on_fetch", "same", 14, 78)
def copy_a_log_that_is_behind(real: Any, self: Any, sibling: Any, frame: Any) -> None:
    self.own.behind, behind = None, self.own.behind
    real(self, sibling, frame)
    self.own.behind = behind


# -- takeover --------------------------------------------------------------------------------------


@planted(Takeovers, "move", "worked", 12, 58)
def note_what_was_not_moved(real: Any, self: Any, *args: Any) -> bool:
    append = self._groups.append_own
    self._groups.append_own = lambda topic, payload, count, moved: 0
    try:
        return real(self, *args)
    finally:
        self._groups.append_own = append


@planted(Takeovers, "_give_away", "fenced", 12, 29)
def give_nothing_away(real: Any, self: Any, entry: Any) -> None:
    self._note(entry)
    self._unfence()


@planted(CopiedJournal, "undone", "taken", 81, 118, 70)
def take_over_what_was_done(
    real: Any, self: Any, state: Any, source: int, first: int, count: int
) -> list[int]:
    return list(range(first, first + count))


# -- moving ----------------------------------------------------------------------------------------


@planted(Subscriber, "_place", "offsets", 2, 84, 113)
def read_the_last_batch_again(real: Any, self: Any, log: Any, b: Any) -> int:
    skip: int = real(self, log, b)
    log.lsn, log.slot = b.lsn, b.slot
    log.next_offset.pop(b.topic, None)
    return skip


@planted(Dedup, "take", "once", 2, 84, 113)
def know_no_copy_again(real: Any, self: Any, *args: Any) -> int:
    return 0


@planted(Moving, "next", "waiting", 2, 84, 108)
def go_although_one_is_to_wait(real: Any, self: Any, now_ns: int) -> Any:
    self.stays = False
    return real(self, now_ns)


def faults_of(seed: int, only: str = "") -> list[str]:
    return PLANTED.faults_of(CopiesWorld(seed), COPIES_CHECKERS, only)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_noticed_by_its_checker(name: str) -> None:
    PLANTED.check(name, faults_of)


def test_each_checker_has_a_bug_that_it_notices() -> None:
    elsewhere = {"views", "belonging", "words", "alarms", "rest"}  # test_site_planted.py
    noticed = {about[0] for about in PLANTED.about.values()}
    assert noticed == {c.__name__ for c in COPIES_CHECKERS} - elsewhere
