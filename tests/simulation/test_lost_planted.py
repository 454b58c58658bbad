"""Planted bugs of sites that are lost and taken over: each is a change of the core that the
scene, or a seed, named with it must catch.

For each checker one is named that it notices by itself.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from meshmq.core.group import Group
from meshmq.core.mirror_log import TakenEntry
from meshmq.core.site_fence import SiteFence
from meshmq.core.site_takeover import FarMover, SiteTakeovers
from meshmq.core.site_words import SiteWordsPart
from meshmq.core.takeover import Takeovers
from meshmq.frames_site_words import SiteTaken
from meshmq.testing import LostSitesWorld
from meshmq.testing.links_lost_checkers import LOST_CHECKERS
from tests.core import test_site_fence as fences
from tests.core import test_site_takeover as scenes
from tests.planting import Planted

PLANTED = Planted()
planted = PLANTED.register  # with the name of a checker that notices it by itself, and seeds; or
# with none, and the test of a scene


@planted(SiteWordsPart, "_has_heard", "", scenes.test_of_two_sites_that_take_over_at_once_one_does)
def move_before_others_know(real: Any, self: Any, entry: Any) -> bool:
    return True


@planted(SiteTakeovers, "_untake", "", scenes.test_what_is_handed_back_may_be_taken_over_again)
def keep_what_was_handed_back(real: Any, self: Any, origin: bytes, runs: Any) -> None:
    pass


@planted(
    SiteTaken, "has_some", "",
    scenes.test_a_batch_of_which_the_first_records_are_gone_is_taken_with_the_rest,
)  # fmt: skip
def pass_over_a_batch_that_is_not_whole(real: Any, self: Any, *which: int) -> bool:
    stream, first, _ = which
    return any(r.stream == stream and r.first <= first < r.end for r in self.ranges)


@planted(SiteTakeovers, "on_hand_back", "", scenes.test_what_its_node_had_done_does_not_come_back)
def take_back_what_was_done(real: Any, self: Any, frame: Any) -> Any:
    known = self.known[self._origin]
    self.known[self._origin] = known._replace(pending=frame.runs)
    return real(self, frame)


@planted(
    SiteFence, "_has_to_wait", "",
    fences.test_a_site_that_is_cut_off_hands_out_nothing_after_its_fence_and_goes_on_when_it_is_back,
)  # fmt: skip
def go_on_without_links(real: Any, self: Any, now_ns: int) -> bool:
    return False


@planted(SiteFence, "doubt", "", fences.test_a_site_that_a_third_one_sees_is_not_fenced)
def ask_nobody_else(real: Any, self: Any, site: str, now_ns: int) -> str:
    self._by_far.clear()
    self._fences = {s: (fence_ns, ()) for s, (fence_ns, _) in self._fences.items()}
    return str(real(self, site, now_ns))


# -- whose it is -----------------------------------------------------------------------------------


@planted(SiteTakeovers, "on_taken", "owned", 1, 8, 20, 16)
def keep_the_first_takeover(real: Any, self: Any, rows: Any) -> None:
    mine = self.known
    real(self, [row for row in rows if mine.get(row.origin, row).rank == row.rank])


@planted(SiteTakeovers, "_give_away", "given", 10)
def give_nothing_away(real: Any, self: Any, row: Any, known: Any) -> None:
    given, self._groups.by_name = self._groups.by_name, {}
    real(self, row, known)
    self._groups.by_name = given


@planted(SiteTakeovers, "on_hand_back", "given", 2)
def take_all_back_with_the_first_part(real: Any, self: Any, frame: Any) -> Any:
    known = self.known.get(self._origin)
    is_first = known is not None and known.epoch == frame.epoch and not known.part
    more = [run for run in known.pending if run not in frame.runs] if is_first else []
    answer = real(self, frame)
    for run in more:
        self._groups.by_name[run.group].make_ready(run)
    return answer


@planted(SiteFence, "_has_to_wait", "given", 5, 6, 7, 10)
def hand_out_before_anybody_was_heard(real: Any, self: Any, now_ns: int) -> bool:
    return False


@planted(
    SiteTakeovers, "told", "",
    scenes.test_a_node_that_hears_of_a_takeover_by_its_sibling_alone_hands_out_nothing_before,
)  # fmt: skip
def tell_siblings_of_it_when_it_is_stored(real: Any, self: Any, is_far: bool) -> Any:
    return real(self, True)


@planted(
    SiteFence, "_here", "",
    fences.test_siblings_are_told_of_a_site_as_linked_once_it_has_said_what_it_knows,
)  # fmt: skip
def tell_siblings_of_a_site_that_has_said_nothing(real: Any, self: Any, by_site: Any = True) -> Any:
    return real(self)


@planted(Group, "give_away", "buried", 10)
def keep_dead_letters_that_are_another_s(
    real: Any, self: Any, stream: int, first: int, before: int
) -> None:
    topic = self.topics.by_stream.get(stream)
    if topic is None or not self.buries_in(topic.entry.name):
        real(self, stream, first, before)


# -- what is moved, and comes back -----------------------------------------------------------------


@planted(FarMover, "take", "finished", 2, 8)
def move_less_than_had_arrived(real: Any, self: Any, batches: Any) -> None:
    real(self, batches[:-1])


@planted(SiteTakeovers, "_untake", "finished", 18, 2)
def forget_what_is_handed_back(real: Any, self: Any, origin: bytes, runs: Any) -> None:
    real(self, origin, runs)
    runs.clear()


@planted(SiteTakeovers, "_hand_part", "shared", 2, 1)
def keep_what_goes_back(real: Any, self: Any, entry: Any) -> Any:
    with patch.object(Group, "give_away", lambda *what: None):
        said = real(self, entry)
    for key in [key for key in self.runs if key[0] == entry.origin]:
        del self.runs[key]
    return said


@planted(Group, "make_ready", "again", 1, 2, 16)
def begin_anew_with_what_comes_back(real: Any, self: Any, run: Any) -> Any:
    stream, before = run.stream, run.first
    done = [o for o in range(before) if (stream, o) not in self.state.marks]
    for offset in done:
        real(self, run._replace(first=offset, count=1))
    return real(self, run)


@planted(SiteTakeovers, "on_handed_back", "returned", 2, 1)
def hand_back_twice(real: Any, self: Any, origin: bytes, frame: Any) -> None:
    entry = self.known.get(origin)
    real(self, origin, frame)
    if self.known.get(origin) is not entry and entry.part == 1:
        self._note(entry._replace(part=2))


@planted(Takeovers, "move", "moved", 10, 19, 21, 2)
def forget_what_was_moved(real: Any, self: Any, *args: Any, **more: Any) -> bool:
    found = bool(real(self, *args, **more))
    self.entries[:] = [said for said in self.entries if not isinstance(said, TakenEntry)]
    return found


@planted(Takeovers, "_move", "announced", 1, 5)
def say_nothing_of_repeats(real: Any, self: Any, *args: Any) -> None:
    real(self, *args[:-1], False)


def faults_of(seed: int, only: str = "") -> list[str]:
    return PLANTED.faults_of(LostSitesWorld(seed), LOST_CHECKERS, only)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_noticed(name: str) -> None:
    PLANTED.check(name, faults_of)


def test_each_checker_has_a_bug_that_it_notices() -> None:
    elsewhere = {"views", "belonging", "alarms", "rest", "stable", "single"}  # of sites, of links
    noticed = {about[0] for about in PLANTED.about.values()}
    assert noticed - {""} == {c.__name__ for c in LOST_CHECKERS} - elsewhere
