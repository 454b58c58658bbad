"""Planted bugs of discovery: each is a change of the machine that the test it names must catch."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest

from meshmq import limits
from meshmq.core import discovery as module
from meshmq.core.discovery import GOSSIP, MDNS, Discovery, GiveUp
from meshmq.core.peers import LINKED, WAITING, Lane
from tests.core import test_discovery as rules
from tests.planting import Planted, play_test

PLANTED = Planted()
planted = PLANTED.register  # with the test that catches it


# -- dials ----------------------------------------------------------------------------------------


@planted(Discovery, "_has_room", "test_dials_in_flight_are_bounded")
def dial_all_at_once(real: Any, self: Any, lane: Any) -> bool:
    return True


@planted(Lane, "free_ns", "test_new_dials_by_what_mdns_says_are_bounded_in_rate")
def dial_as_fast_as_they_come(real: Any, self: Any) -> int:
    return 0


@planted(Lane, "free_ns", "test_a_teller_cannot_make_us_knock_all_over")
def dial_as_fast_as_they_tell(real: Any, self: Any) -> int:
    return 0


@planted(Discovery, "_back_off", "test_addresses_back_off")
def never_back_off(real: Any, self: Any, address: Any, reason: str, now_ns: int) -> None:
    address.failures = 0
    real(self, address, reason, now_ns)


@planted(Discovery, "_back_off", "test_what_is_listed_is_dialled_for_ever")
def give_up_what_is_listed(real: Any, self: Any, address: Any, reason: str, now_ns: int) -> None:
    if address.failures < 20:
        real(self, address, reason, now_ns)


@planted(Discovery, "_back_off", "test_an_address_that_is_another_meshs_waits_long")
def knock_at_other_meshes(real: Any, self: Any, address: Any, reason: str, now_ns: int) -> None:
    real(self, address, "", now_ns)


@planted(Discovery, "_claim", "test_saying_it_again_does_not_shorten_the_back_off")
def new_sight_new_back_off(
    real: Any, self: Any, text: str, key: Any, lane: Any, now_ns: int
) -> None:
    if text in self._addresses and self._addresses[text].state == WAITING:
        self._addresses[text].due_ns = now_ns
    real(self, text, key, lane, now_ns)


@planted(Discovery, "_unclaim", "test_saying_it_again_does_not_shorten_the_back_off")
def forget_the_back_off_at_once(real: Any, self: Any, text: str, key: Any, now_ns: int) -> None:
    real(self, text, key, now_ns)
    if text in self._idle:
        del self._idle[text], self._addresses[text]


@planted(Discovery, "_expire", "test_a_dial_nobody_answers_for_is_given_up")
def wait_for_ever(real: Any, self: Any, now_ns: int) -> None:
    dialling, self._dialling = self._dialling, OrderedDict()
    real(self, now_ns)
    self._dialling = dialling


@planted(Discovery, "_on_up", "test_our_own_address_is_not_dialled_twice")
def link_to_oneself(real: Any, self: Any, facts: Any, text: str, now_ns: int) -> None:
    me, self._me = self._me, b""
    real(self, facts, text, now_ns)
    self._me = me


# -- links ----------------------------------------------------------------------------------------


@planted(Discovery, "_on_lost", "test_nothing_that_is_said_ends_a_link")
def a_goodbye_ends_the_link(
    real: Any, self: Any, source: str, instance: bytes, teller: bytes, now_ns: int
) -> None:
    peer = self._peers.get(instance)
    for text in peer.links if peer else ():
        self._effects.append(GiveUp(text))
    real(self, source, instance, teller, now_ns)


@planted(Discovery, "_on_lost", "test_a_goodbye_does_not_end_the_dials_at_once")
def a_goodbye_ends_the_dials(
    real: Any, self: Any, source: str, instance: bytes, teller: bytes, now_ns: int
) -> None:
    peer = self._peers.get(instance)
    if source == MDNS and peer and (source, teller) in peer.sights:
        self._lost.pop((instance, source, teller), None)
        self._forget_sight(instance, source, teller, now_ns)


@planted(Discovery, "_on_lost", "test_goodbyes_again_and_again_do_not_keep_it")
def the_last_goodbye_counts(
    real: Any, self: Any, source: str, instance: bytes, teller: bytes, now_ns: int
) -> None:
    self._lost.pop((instance, source, teller), None)
    real(self, source, instance, teller, now_ns)


@planted(Discovery, "_on_sighted", "test_nothing_that_is_said_ends_a_link")
def a_record_changes_who_is_linked(
    real: Any, self: Any, source: str, facts: Any, teller: bytes, now_ns: int
) -> None:
    real(self, source, facts, teller, now_ns)
    if facts.instance in self._peers:
        self._peers[facts.instance].facts = facts


@planted(Discovery, "_give_up_dials", "test_the_first_link_ends_the_other_dials")
def finish_all_dials(real: Any, self: Any, peer: Any) -> None:
    pass


@planted(Discovery, "_give_up_dials", "test_of_two_links_the_one_that_the_smaller_dialled_stays")
def keep_both_links(real: Any, self: Any, peer: Any) -> None:
    pass


@planted(Discovery, "_link", "test_two_that_dial_each_other_always_end_with_one_link")
def both_give_up_their_own(real: Any, self: Any, peer: Any, address: Any, now_ns: int) -> None:
    me, self._me = self._me, b"\xff" * 16
    real(self, peer, address, now_ns)
    self._me = me


@planted(Discovery, "_note_answer", "test_who_is_there_is_what_the_handshake_says")
def believe_the_record(real: Any, self: Any, address: Any, instance: bytes) -> None:
    address.answered = next(iter(address.claims))[0]


@planted(Discovery, "_lane_of", "test_one_who_dialled_us_is_not_dialled")
def dial_who_is_linked(real: Any, self: Any, address: Any) -> Any:
    if address.state != WAITING:
        return None
    return min(address.claims.values(), key=lambda lane: lane.rank, default=None)


@planted(Discovery, "_on_down", "test_a_link_that_does_not_last_backs_off")
def dial_again_at_once(
    real: Any, self: Any, instance: bytes, text: str, reason: str, now_ns: int
) -> None:
    if text in self._addresses:
        self._addresses[text].since_ns = -(1 << 62)
    real(self, instance, text, reason, now_ns)


@planted(Discovery, "_on_down", "test_a_lost_link_is_dialled_again_at_once")
def back_off_always(
    real: Any, self: Any, instance: bytes, text: str, reason: str, now_ns: int
) -> None:
    if text in self._addresses and self._addresses[text].state == LINKED:
        self._addresses[text].since_ns = now_ns
    real(self, instance, text, reason, now_ns)


# -- what is said ---------------------------------------------------------------------------------


@planted(module, "fault_of", "test_a_mesh_with_a_name_goes_beyond_the_host")
def any_mesh_will_do(real: Any, facts: Any, mesh: str, on_host: bool) -> str:
    fault: str = real(facts, facts.mesh, on_host)
    return fault


@planted(module, "fault_of", "test_a_mesh_with_a_name_does_not_leave_the_host_by_itself")
def leave_the_host(real: Any, facts: Any, mesh: str, on_host: bool) -> str:
    fault: str = real(facts, mesh, on_host and mesh == "local")
    return fault


@planted(module, "fault_of", "test_local_does_not_leave_the_host_whatever_is_allowed")
def local_leaves_the_host(real: Any, facts: Any, mesh: str, on_host: bool) -> str:
    fault: str = real(facts, mesh, False)
    return fault


@planted(module, "fault_of", "test_what_is_absurd_is_counted_and_ignored")
def anything_goes(real: Any, facts: Any, mesh: str, on_host: bool) -> str:
    return ""


@planted(
    Discovery,
    "_make_room",
    "test_a_flood_pushes_out_nobody_who_is_linked_and_grows_nothing",
)
def room_for_all(real: Any, self: Any, now_ns: int, count: int) -> None:
    pass


@planted(
    Discovery,
    "_make_room",
    "test_a_flood_pushes_out_nobody_who_is_linked_and_grows_nothing",
)
def any_may_be_pushed_out(real: Any, self: Any, now_ns: int, count: int) -> None:
    while len(self._fresh) + len(self._former) + count > limits.FOUND_PEERS_MAX:
        self.counters["pushed-out"] += 1
        self._forget(next(iter(self._peers)), now_ns)


@planted(
    Discovery,
    "_make_room",
    "test_a_flood_pushes_out_nobody_who_is_linked_and_grows_nothing",
)
def former_ones_first(real: Any, self: Any, now_ns: int, count: int) -> None:
    self._fresh, self._former = self._former, self._fresh
    real(self, now_ns, count)
    self._fresh, self._former = self._former, self._fresh


@planted(Discovery, "_make_room", "test_the_one_sighted_longest_ago_goes_first")
def the_newest_goes(real: Any, self: Any, now_ns: int, count: int) -> None:
    while len(self._fresh) + len(self._former) + count > limits.FOUND_PEERS_MAX:
        self._forget(next(reversed(self._fresh)), now_ns)


@planted(Discovery, "_sweep", "test_one_record_that_changes_again_and_again_grows_nothing")
def never_sweep(real: Any, self: Any, lane: Any) -> None:
    pass


# -- gossip ---------------------------------------------------------------------------------------


@planted(Discovery, "_gossip_fault", "test_what_others_tell_is_ignored")
def believe_anybody(real: Any, self: Any, *said: Any) -> str:
    fault: str = real(self, *said)
    return "" if fault == "gossip-unlinked" else fault


@planted(Discovery, "_tell", "test_dials_by_gossip_are_bounded_by_teller_and_in_all")
def gossip_is_as_good_as_sight(real: Any, self: Any, teller: bytes, instance: bytes) -> Any:
    real(self, teller, instance)
    return self._mdns


@planted(Discovery, "_on_down", "test_what_a_peer_told_goes_with_it")
def gossip_stays(
    real: Any, self: Any, instance: bytes, text: str, reason: str, now_ns: int
) -> None:
    told = self._told.pop(instance, None)
    real(self, instance, text, reason, now_ns)
    if told:
        self._told[instance] = told


@planted(Discovery, "_on_sighted", "test_own_sight_goes_before_gossip")
def the_last_word_counts(
    real: Any, self: Any, source: str, facts: Any, teller: bytes, now_ns: int
) -> None:
    real(self, source, facts, teller, now_ns)
    if source == GOSSIP and facts.instance in self._peers:
        self._peers[facts.instance].facts = facts


@planted(Discovery, "gossip", "test_only_who_is_linked_is_told_of")
def tell_of_all(real: Any, self: Any) -> Any:
    for peer in self._peers.values():
        peer.links.add("")
        peer.answered[next(iter(peer.addresses()), "")] = None
    return real(self)


@planted(Discovery, "gossip", "test_what_others_say_of_a_peer_is_not_told_on")
def tell_hearsay(real: Any, self: Any) -> Any:
    return tuple(
        replace(found, addresses=tuple(self._peers[found.instance].addresses()))
        for found in real(self)
    )


@planted(Discovery, "_gossip_fault", "test_a_teller_tells_of_so_many")
def hear_all_of_it(real: Any, self: Any, *said: Any) -> str:
    fault: str = real(self, *said)
    return "" if fault == "gossip-full" else fault


@planted(Discovery, "_gossip_fault", "test_so_many_tell_of_one")
def note_all_tellers(real: Any, self: Any, *said: Any) -> str:
    fault: str = real(self, *said)
    return "" if fault == "gossip-known" else fault


@planted(Discovery, "_has_room", "test_dials_by_gossip_are_bounded_by_teller_and_in_all")
def each_teller_for_itself(real: Any, self: Any, lane: Any) -> bool:
    return bool(lane.in_flight < lane.room)


@planted(Discovery, "_on_listed", "test_too_many_listed_are_counted")
def take_any_list(real: Any, self: Any, source: str, facts: Any, now_ns: int) -> None:
    self._listed_count = 0
    real(self, source, facts, now_ns)


@planted(Discovery, "_has_place", "test_a_flood_of_one_address_is_dialled_as_one_and_costs_no_more")
def remember_all_who_are_said_to_be_there(real: Any, self: Any, text: str, key: Any) -> bool:
    return True


@planted(Discovery, "_has_place", "test_a_flood_of_one_address_is_dialled_as_one_and_costs_no_more")
def ignore_who_is_at_a_crowded_address(real: Any, self: Any, text: str, key: Any) -> bool:
    return len(self._peers) < limits.ADDRESS_CLAIMS_MAX


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bugs_are_caught(name: str) -> None:
    (caught_by,) = PLANTED.about[name]
    with PLANTED[name](), pytest.raises((AssertionError, StopIteration)):
        play_test(getattr(rules, caught_by))
