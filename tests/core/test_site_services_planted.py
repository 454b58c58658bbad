"""Planted bugs of requests in a site: each is a change of the core that a test it names must
catch, or a seed of the world."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from meshmq.core import services as services_module
from meshmq.core.comeback import Comeback
from meshmq.core.instances import NO_ROOM, Service
from meshmq.core.levels import Levels
from meshmq.core.outgoing import Outgoing
from meshmq.core.remotes import Outpost, Remote
from meshmq.core.services import Services
from meshmq.core.site_services import SiteServices
from meshmq.errors import Busy
from meshmq.frames import EACH, Grant
from tests.core import test_site_services as rules
from tests.core.site_requests_world import play
from tests.planting import Planted, play_test

SEEDS_MAX = 40
WORLD = "a seed of the world"

PLANTED = Planted()
planted = PLANTED.register  # with the test that catches it


def planted_property(owner: Any, name: str, test: str) -> Any:
    """As ``planted``, of a property: the decorated function takes its place."""

    def add(bug: Any) -> Any:
        PLANTED[bug.__name__] = lambda: patch.object(owner, name, property(bug))
        PLANTED.about[bug.__name__] = (test,)
        return bug

    return add


# -- which node -----------------------------------------------------------------------------------


@planted(Service, "choose", "test_the_own_node_comes_first_and_others_when_it_has_no_room")
def siblings_first(real: Any, self: Any) -> Any:
    return self.choose_remote() if self._remote_levels else real(self)


@planted_property(Remote, "rank", "test_the_least_loaded_sibling_gets_it_and_equals_take_turns")
def any_sibling(self: Any) -> int:
    return -1 if self.draining or self.is_stuck else NO_ROOM - 1


@planted(Levels, "turn", "test_the_least_loaded_sibling_gets_it_and_equals_take_turns")
def the_same_one_always(real: Any, self: Any, item: Any) -> None:
    pass


@planted(Remote, "follow", "test_load_that_others_bring_is_told_and_counts")
def load_of_the_beginning(real: Any, self: Any, offer: Any) -> None:
    if not self.places:
        real(self, offer)


@planted(SiteServices, "_is_news", "test_load_that_others_bring_is_told_and_counts")
def no_load_is_news(real: Any, self: Any, name: str) -> bool:
    return False


@planted_property(Remote, "rank", "test_who_asks_where_nobody_serves_has_a_share_of_a_busy_sibling")
def no_share_of_who_is_busy(self: Any) -> int:
    spare = self.concurrency - len(self.held)
    return -1 if self.draining or self.is_stuck or spare <= 0 else NO_ROOM - spare.bit_length()


@planted(Service, "next_here",
         "test_who_asks_where_nobody_serves_has_a_share_of_a_busy_sibling")  # fmt: skip
def own_clients_before_guests(real: Any, self: Any) -> Any:
    """As long as there are any."""
    return (self.waiting or self.guests).popitem(last=False)[1]


# -- who is asked ---------------------------------------------------------------------------------


@planted_property(
    Service, "is_served_here",
    "test_a_request_never_goes_round_between_two_that_believe_the_other_serves_it",
)  # fmt: skip
def take_what_only_another_serves(self: Any) -> bool:
    return self.is_served


@planted(Services, "_refuse", "test_what_a_sibling_has_nobody_for_goes_to_another_one")
def tell_a_sibling_as_a_program(real: Any, self: Any, link: bytes, number: int, error: Any) -> None:
    self._answer(link, number, error)


@planted(Services, "_leave",
         "test_what_waits_at_a_node_whose_last_instance_stops_goes_elsewhere")  # fmt: skip
def forget_guests_that_wait(real: Any, self: Any, instance: Any, now_ns: int) -> None:
    guests, instance.service.guests = instance.service.guests, {}
    real(self, instance, now_ns)
    instance.service.guests = guests


@planted(Services, "_again", "test_of_one_of_each_a_sibling_without_instances_says_nothing")
def a_sibling_without_instances_is_an_error(real: Any, self: Any, asked: Any, now_ns: int) -> None:
    instance = asked.instance
    if asked.parent is not None and instance.is_remote:
        self._finish(asked, Busy("nobody"))
    else:
        real(self, asked, now_ns)


@planted(Services, "_spread", "test_one_of_each_comes_from_all_instances_of_all_nodes")
def each_of_this_node_only(real: Any, self: Any, asked: Any, now_ns: int) -> None:
    asked.is_guest = True
    real(self, asked, now_ns)


@planted(Services, "_pass_on_one", "test_one_of_each_comes_from_all_instances_of_all_nodes")
def one_reply_of_each_sibling(real: Any, self: Any, part: Any, row: Any, data: bytes) -> None:
    if not part.any:
        real(self, part, row, data)
    part.any = True


# -- a node is lost -------------------------------------------------------------------------------


@planted(Services, "_lose_one", "test_what_a_lost_node_had_is_told_with_its_name")
def ask_again_whatever_it_is(real: Any, self: Any, asked: Any, *rest: Any) -> None:
    asked.idempotent = True
    real(self, asked, *rest)


@planted(Services, "_lose_one", "test_a_stream_that_has_begun_is_lost_with_its_node")
def ask_a_stream_again(real: Any, self: Any, asked: Any, *rest: Any) -> None:
    asked.any = False
    real(self, asked, *rest)


@planted(Services, "_lose_one", "test_three_nodes_may_lose_it_and_no_more")
def ask_as_often_as_it_is_lost(real: Any, self: Any, asked: Any, *rest: Any) -> None:
    asked.attempts = 0
    real(self, asked, *rest)


@planted(Services, "_lose_one", "test_three_instances_of_a_sibling_may_lose_it_and_no_more")
def a_guest_is_tried_again_here(real: Any, self: Any, asked: Any, *rest: Any) -> None:
    asked.is_guest, was = False, asked.is_guest
    real(self, asked, *rest)
    asked.is_guest = was


@planted(services_module, "lost", "test_what_a_lost_node_had_is_told_with_its_name")
def not_say_which_node(real: Any, asked: Any) -> Any:
    asked.lost_at = ""
    return real(asked)


@planted(Services, "drop_link", WORLD)
def forget_what_a_lost_sibling_had(real: Any, self: Any, link: bytes, now_ns: int) -> None:
    for taker in self._takers(link):
        if taker.is_remote:
            taker.held.clear()
    real(self, link, now_ns)


# -- what goes back, and on -----------------------------------------------------------------------


@planted(Services, "_pass_on", WORLD)
def answer_twice(real: Any, self: Any, asked: Any, instance: Any, row: Any, data: bytes) -> None:
    link, number = asked.link, asked.their_id
    real(self, asked, instance, row, data)
    if link and instance.is_remote and asked.parent is None:
        self._reply(link, row._replace(id=number), data)


@planted(services_module, "_who", "test_a_request_at_one_node_is_served_at_another")
def answer_in_the_nodes_name(real: Any, instance: Any, row: Any) -> str:
    return str(instance.name)


@planted(Services, "_stop", "test_a_cancel_goes_on_and_the_place_is_free_for_what_waits")
def keep_the_place_of_what_is_cancelled(real: Any, self: Any, asked: Any) -> bool:
    instance = asked.instance
    if asked.handed_ns and instance is not None and instance.is_remote:
        self.outgoing.cancel(instance.link, asked.id)
        return True
    return bool(real(self, asked))


@planted(Outgoing, "cancel", "test_at_its_deadline_the_requester_is_told_and_the_work_stopped")
def tell_nobody_of_a_cancel(real: Any, self: Any, link: bytes, number: int) -> None:
    pass


@planted(Services, "on_grant", "test_a_stream_over_two_hops_goes_as_far_as_it_is_granted")
def keep_grants_here(real: Any, self: Any, link: bytes, frame: Any) -> None:
    if link not in self.siblings:
        real(self, link, frame)


@planted(Services, "on_grant", "test_a_stream_over_two_hops_goes_as_far_as_it_is_granted")
def grant_twice(real: Any, self: Any, link: bytes, frame: Any) -> None:
    real(self, link, Grant(frame.id, 2 * frame.bytes))


@planted(Services, "_hand_out", WORLD)
def begin_it_at_two_nodes(real: Any, self: Any, asked: Any, instance: Any, now_ns: int) -> None:
    """Once is not enough."""
    real(self, asked, instance, now_ns)
    others = [r for r in asked.service.remotes.values() if r is not instance and not r.draining]
    if others and instance.is_remote and asked.kind != EACH:
        row, data, _ = self.outgoing.boxes[instance.link].requests[-1]
        self.outgoing.request(others[0].link, row, data)


@planted_property(Outpost, "is_full", "test_a_sibling_has_its_share_of_a_node_and_the_rest_waits")
def ask_without_a_share(self: Any) -> bool:
    return False


# -- who may be on the way ------------------------------------------------------------------------


@planted(Comeback, "expect", "test_while_another_node_joins_a_request_waits_for_what_it_serves")
def wait_for_no_sibling(real: Any, self: Any, origin: bytes, now_ns: int) -> None:
    pass


@planted(Comeback, "lost", "test_the_programs_of_a_lost_node_may_be_on_their_way_to_another")
def wait_for_no_programs(real: Any, self: Any, name: str, now_ns: int) -> None:
    pass


@planted(Comeback, "is_due", "test_they_are_waited_for_a_second_and_no_longer")
def wait_for_whatever_is_asked(real: Any, self: Any, name: str, now_ns: int) -> bool:
    return bool(self._lost) or bool(real(self, name, now_ns))


# -- what is told ---------------------------------------------------------------------------------


@planted(SiteServices, "_has_moved", "test_a_service_that_begins_or_ends_is_known_at_once")
def never_tell_that_one_ends(real: Any, self: Any, name: str) -> bool:
    return name not in self._told and bool(real(self, name))


@planted(SiteServices, "_is_news", "test_who_is_idle_tells_nothing_and_a_lone_request_neither")
def everything_is_news(real: Any, self: Any, name: str) -> bool:
    return name in self._told


@planted(SiteServices, "end_turn", "test_load_is_told_no_more_often_than_it_may_be")
def tell_load_at_once(real: Any, self: Any, now_ns: int) -> None:
    if self._services.changed:
        self._due_ns = now_ns
    real(self, now_ns)


@planted(SiteServices, "_tell_all",
         "test_a_thousand_services_are_told_in_a_few_frames_and_a_change_alone")  # fmt: skip
def tell_nobody_who_joins(real: Any, self: Any, sibling: Any, asks: bool = False) -> None:
    told, self._told = self._told, {}
    real(self, sibling, asks)
    self._told = told


@planted(SiteServices, "on_offers", "test_a_frame_that_is_missing_is_asked_for")
def never_ask_again(real: Any, self: Any, sibling: Any, frame: Any, now_ns: int) -> None:
    heard = self._heard.get(sibling.origin)
    if heard is not None and not frame.whole:
        heard.version = frame.version - 1
    real(self, sibling, frame, now_ns)


def test_there_are_enough() -> None:
    assert len(PLANTED) >= 30


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_caught(name: str) -> None:
    (test,) = PLANTED.about[name]
    with PLANTED[name]():
        if test == WORLD:
            assert any(_faults(seed) for seed in range(SEEDS_MAX)), "no seed noticed the bug"
            return
        with pytest.raises(AssertionError):
            play_test(getattr(rules, test))


def _faults(seed: int) -> list[str]:
    try:
        return play(seed)
    except (AssertionError, KeyError, ValueError) as error:
        return [repr(error)]
