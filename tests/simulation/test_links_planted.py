"""Planted bugs of sites that mirror each other's logs: each is a change of the core that a seed
named with it must catch.

For each checker one is named that it notices by itself.
"""

from __future__ import annotations

from typing import Any

import pytest

from meshmq.core import claims, link_live, mirror_progress, mirrors, replication
from meshmq.core.copy_waiting import CopyWaiting
from meshmq.core.delivery import Delivery
from meshmq.core.far_log import FarSender
from meshmq.core.instances import NO_ROOM, Service
from meshmq.core.link_live import LinkLive
from meshmq.core.link_pauses import LinkPauses
from meshmq.core.link_services import LinkServices
from meshmq.core.mirror import Mirror
from meshmq.core.mirror_feed import MirrorFeed
from meshmq.core.mirror_progress import Fetching, MirrorProgress
from meshmq.core.mirrors import Mirrors
from meshmq.core.replication import Replication
from meshmq.core.services import Services
from meshmq.core.site import Site
from meshmq.core.site_reads import SiteReads
from meshmq.core.strands import BEGIN
from meshmq.testing import LinksWorld
from meshmq.testing.disk import Disk
from meshmq.testing.links_checkers import LINKS_CHECKERS
from tests.core import test_link_retention as kept_scenes
from tests.core import test_link_services as service_scenes
from tests.core import test_mirrored as progress_scenes
from tests.core import test_replication as scenes
from tests.core import test_strands as strand_scenes
from tests.planting import Planted

PLANTED = Planted()
planted = PLANTED.register  # with the name of a checker that notices it by itself, and seeds; or
# with none, and the test of a scene that seeds seldom come to


# -- what is mirrored ------------------------------------------------------------------------------


@planted(claims, "is_wished", "mirrored", 0, 1)
def mirror_what_is_left_out(real: Any, name: str, topics: Any, exclude: Any, *more: Any) -> bool:
    return bool(real(name, topics, (), *more))


@planted(
    MirrorFeed, "_read", "",
    scenes.test_who_reads_a_mirror_has_the_first_batch_of_a_topic_that_is_stored_meanwhile,
)  # fmt: skip
def pass_over_topics_that_are_new(real: Any, self: Any, reader: Any) -> bool:
    return Delivery._read(self, reader)


@planted(
    Replication, "_turns", "",
    scenes.test_a_log_comes_the_other_way_round_when_where_it_came_by_is_cut_off,
)  # fmt: skip
def stay_where_nothing_comes(real: Any, self: Any, *args: Any) -> bool:
    return False


@planted(Replication, "_path", "shared", 1, 3)
def say_nothing_of_where_it_comes_by(real: Any, self: Any, mirror: Any) -> Any:
    return ()


@planted(Mirrors, "_store", "stable", 0, 1)
def forget_whose_a_batch_was(real: Any, self: Any, mirror: Any, row: Any, *rest: Any) -> bool:
    return bool(real(self, mirror, row._replace(producer=bytes(16)), *rest))


# -- who has it ------------------------------------------------------------------------------------


@planted(Mirrors, "open", "single", 6)
def begin_a_mirror_anew_at_each_start(
    real: Any, self: Any, origin: bytes, name: str, place: Any = (1, 0)
) -> Any:
    mirror = real(self, origin, name)
    mirror.topics.load = lambda *args: None
    return mirror


@planted(Replication, "_wish_for", "single", 0, 1)
def pull_ones_own_log_back(real: Any, self: Any, far: Any, row: Any) -> Any:
    return self._wishes.get(far.site)


@planted(Replication, "_puller", "shared", 0, 1)
def pull_what_another_node_pulls(real: Any, self: Any, origin: bytes) -> bytes:
    return bytes(self._copies.origin)


@planted(Replication, "_leave_to", "shared", 0, 1)
def keep_what_another_node_has(real: Any, self: Any, puller: bytes, mirror: Any, *_: Any) -> None:
    self._copies.end_fetch(mirror)


# -- by strands ---------------------------------------------------------------------------------


@planted(
    MirrorFeed, "end_of", "",
    strand_scenes.test_a_reader_of_all_has_the_log_in_its_order_while_it_comes_in_another_one,
)  # fmt: skip
def read_on_where_a_strand_has_not_come(real: Any, self: Any, reader: Any) -> Any:
    return self.end


@planted(Disk, "_in_its_order", "ordered", 1, 3)
def read_strands_as_they_came(real: Any, self: Any, origin: bytes) -> Any:
    return [(c, commit) for commit in self.commits for c in self._of(origin, commit)]


@planted(
    Mirror, "_had", "",
    strand_scenes.test_topics_that_are_wished_again_come_from_where_they_were_left,
)  # fmt: skip
def say_nothing_of_what_is_here(real: Any, self: Any) -> Any:
    return ()


@planted(
    mirrors, "rewish", "",
    strand_scenes.test_topics_that_are_wished_again_come_from_where_they_were_left,
)  # fmt: skip
def begin_nothing_anew(real: Any, had: Any, old: Any, new: Any, *rest: Any) -> Any:
    return real(had, new, new, *rest)


@planted(
    Mirror, "has_all_of", "",
    strand_scenes.test_who_pulls_more_than_a_mirror_is_to_have_by_now_is_refused_and_loses_nothing,
)  # fmt: skip
def send_on_what_has_come_to_be_less(real: Any, self: Any, strands: Any) -> bool:
    return True


@planted(
    Mirror, "begin_strands", "",
    strand_scenes.test_what_is_wished_anew_counts_as_lacking_until_that_is_stored,
)  # fmt: skip
def tell_of_the_strands_before_until_those_that_are_new_are_stored(
    real: Any, self: Any, strands: Any
) -> None:
    if not self.stored:
        real(self, strands)


@planted(
    Mirror, "on_strands", "",
    strand_scenes.test_the_number_of_a_strand_that_is_given_anew_takes_no_place_of_the_one_before,
)  # fmt: skip
def take_a_number_for_the_strand_that_had_it(real: Any, self: Any, said: Any) -> None:
    self.unstored = 0
    real(self, said)


@planted(
    Mirror, "take_passed", "",
    strand_scenes.test_priorities_that_come_and_go_change_nothing_of_what_is_read,
)  # fmt: skip
def store_no_place_of_a_strand(real: Any, self: Any) -> Any:
    real(self)
    return []


@planted(Mirrors, "_pass", "", scenes.test_sites_at_rest_write_nothing)
def store_each_place(real: Any, self: Any, mirror: Any) -> bool:
    return False


# -- from a time on --------------------------------------------------------------------------------


@planted(FarSender, "_is_to_go", "mirrored", 20)
def send_what_is_too_old(real: Any, self: Any, batch: Any) -> bool:
    return True


@planted(Replication, "_since", "mirrored", 20)
def begin_with_all_there_is(real: Any, self: Any, *args: Any) -> int:
    return 0


@planted(Replication, "_begun", "mirrored", 29)
def begin_anew_at_another_node(real: Any, self: Any, origin: bytes) -> Any:
    return {}


@planted(
    Fetching, "look", "",
    progress_scenes.test_a_site_does_not_count_for_what_is_older_than_its_mirror_is_to_be,
)  # fmt: skip
def count_a_site_from_where_it_fetches(real: Any, self: Any) -> None:
    for sender in self.log.senders:
        if sender.strand.place > BEGIN:
            sender.began = sender.strand.place
    real(self)


# -- pauses ----------------------------------------------------------------------------------------


@planted(LinkPauses, "left_of", "paused", 34)
def pull_on_from_what_is_paused(real: Any, self: Any, wishes: Any) -> Any:
    return tuple(wishes)


@planted(LinkPauses, "left_of", "paused", 35)
def pause_nothing_but_its_topics(real: Any, self: Any, wishes: Any) -> Any:
    left = real(self, wishes)
    return tuple(
        [w._replace(live=h.live, services=h.services) for w, h in zip(left, wishes, strict=True)]
    )


@planted(LinkPauses, "left_of", "shared", 34)
def never_go_on(real: Any, self: Any, wishes: Any) -> Any:
    paused = self.__dict__.setdefault("paused", set())
    paused.update(wish.to for wish in wishes if self.shown(wish.to) is not None)
    left = real(self, wishes)
    return tuple([wish._replace(topics=()) if wish.to in paused else wish for wish in left])


# -- who reads it ----------------------------------------------------------------------------------


@planted(SiteReads, "on_subscribed", "read", 8, 15)
def read_on_where_nothing_is_kept(real: Any, self: Any, link: bytes, frame: Any) -> None:
    if frame.code != "not-found":
        real(self, link, frame)


# -- who waits for it ------------------------------------------------------------------------------


@planted(Mirror, "follows", "kept", 28, 114)
def trim_what_we_keep_longer_as_its_node_does(real: Any, self: Any, name: str) -> bool:
    return True


@planted(
    Mirror, "note", "",
    kept_scenes.test_a_mirror_that_may_have_less_is_no_source_for_others_which_go_to_the_log_itself,
)  # fmt: skip
def be_a_source_of_what_is_kept_shorter(real: Any, self: Any, linked: Any) -> None:
    real(self, linked)
    self.topics.is_partial = False


@planted(MirrorProgress, "note", "waited", 0, 1)
def take_what_was_sent_for_synced(real: Any, self: Any, far: Any, log: Any) -> None:
    for sender in log.senders:
        sender.copied = max(sender.copied, sender.sent)
    real(self, far, log)


@planted(CopyWaiting, "_drop_gone", "waited", 19, 22, 38)
def take_what_retention_took_for_mirrored(real: Any, self: Any) -> None:
    return None


@planted(mirror_progress, "takes", "waited", 4, 5, 1)
def count_sites_that_do_not_wish_it(real: Any, *args: Any) -> bool:
    return True


@planted(MirrorProgress, "tell", "waited", 0, 1)
def tell_nobody_of_sites_behind(real: Any, self: Any, mirrors: Any, nodes: Any) -> list[Any]:
    return []


@planted(Fetching, "is_all", "waited", 24, 31, 3)
def take_the_least_of_the_strands_for_all(real: Any, self: Any, row: Any) -> bool:
    least = min([sender.copied for sender in self.log.senders])
    return bool((row.lsn, row.slot) >= least)


# -- what is live over links, and requests ---------------------------------------------------------


@planted(LinkLive, "_choose", "crossed", 2, 4)
def send_it_to_all_nodes_of_a_site(real: Any, self: Any, topic: str) -> Any:
    return tuple([t.subscription for t in self._theirs.values() if t.patterns.match(topic)])


@planted(Site, "take", "crossed", 2, 4)
def send_on_what_a_sibling_brought(real: Any, self: Any, sibling: Any, body: Any) -> Any:
    for row, data, abroad in real(self, sibling, body):
        more = () if sibling.site else self.live.wanting(row.topic)
        yield row, data, abroad + more


@planted(LinkLive, "take", "heard", 2, 7)
def say_nothing_of_whose_it_is(real: Any, self: Any, link: bytes, frame: Any) -> Any:
    for row, data in real(self, link, frame):
        yield row._replace(site=""), data


@planted(Delivery, "_takers", "heard", 2, 7)
def give_it_to_who_wants_the_own_site(real: Any, self: Any, topic: Any, site: str) -> Any:
    return real(self, topic, "")


@planted(link_live, "meet", "live", 2, 8)
def tell_of_all_that_a_link_lets_in(real: Any, pattern: str, live: str) -> str:
    return live


@planted(LinkServices, "wished", "asked", 2, 4)
def ask_for_what_no_link_lets_in(real: Any, self: Any, site: str) -> Any:
    return (">",)


@planted(
    Services, "_lose_one", "",
    service_scenes.test_what_was_there_when_the_link_ends_is_told_at_once_and_not_done_again,
)  # fmt: skip
def ask_again_what_may_have_been_done(real: Any, self: Any, asked: Any, *args: Any) -> None:
    asked.idempotent = True
    real(self, asked, *args)


@planted(Service, "choose_remote", "answered", 0, 2)
def ask_no_other_site(real: Any, self: Any) -> Any:
    taker = real(self)
    return None if taker is not None and taker.is_far else taker


@planted(Service, "choose", "answered", 2, 15)
def ask_the_other_site_first(real: Any, self: Any) -> Any:
    return None if self._far_levels and self._far_levels.first().level < NO_ROOM else real(self)


def faults_of(seed: int, only: str = "") -> list[str]:
    return PLANTED.faults_of(LinksWorld(seed), LINKS_CHECKERS, only)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_noticed_by_its_checker(name: str) -> None:
    PLANTED.check(name, faults_of)


def test_each_checker_has_a_bug_that_it_notices() -> None:
    elsewhere = {"views", "belonging", "alarms", "rest"}  # test_site_planted.py
    noticed = {about[0] for about in PLANTED.about.values()}
    assert noticed - {""} == {c.__name__ for c in LINKS_CHECKERS} - elsewhere


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_site_that_pulls_from_who_has_less_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pulls and who is asked each see to it, so both are to be wrong."""
    monkeypatch.setattr(replication, "has_all", lambda wide, narrow: True)
    monkeypatch.setattr(Mirror, "has_all_of", lambda self, strands: True)
    assert any(faults_of(seed, "mirrored") for seed in (2, 20))
