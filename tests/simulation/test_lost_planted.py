"""Planted bugs of sites that are lost and taken over: each is a change of the core that the
scene named with it must catch."""

from __future__ import annotations

from typing import Any

import pytest

from meshmq.core.site_fence import SiteFence
from meshmq.core.site_takeover import SiteTakeovers
from meshmq.core.site_words import SiteWordsPart
from tests.core import test_site_fence as fences
from tests.core import test_site_takeover as scenes
from tests.planting import Planted, play_test

PLANTED = Planted()
planted = PLANTED.register  # with no checker, and the test of a scene


@planted(SiteWordsPart, "_has_heard", "", scenes.test_of_two_sites_that_take_over_at_once_one_does)
def move_before_others_know(real: Any, self: Any, entry: Any) -> bool:
    return True


@planted(SiteTakeovers, "_untake", "", scenes.test_what_is_handed_back_may_be_taken_over_again)
def keep_what_was_handed_back(real: Any, self: Any, origin: bytes, runs: Any) -> None:
    pass


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


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_noticed_by_its_scene(name: str) -> None:
    _, scene = PLANTED.about[name]
    with PLANTED[name](), pytest.raises(AssertionError):
        play_test(scene)
