"""Planted bugs of what crosses a site: durable reads, groups and queues, requests.

Each is a change of the core that the checker it names must notice by itself, in a history of the
parts and the seed it names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from meshmq.core import site_merges
from meshmq.core.dedup import Dedup
from meshmq.core.group import Group
from meshmq.core.remotes import Remote
from meshmq.core.services import Services
from meshmq.core.site_groups import SiteGroups
from meshmq.core.site_reads import Reading, SiteReads
from meshmq.core.site_services import SiteServices
from meshmq.core.streams import Streams
from meshmq.frames import ACK, EACH, Settle, SettleRow, Subscribe
from meshmq.limits import MS
from meshmq.testing import SiteWorld
from meshmq.testing.site_durable_checkers import CHECKERS as OF_DURABLES
from meshmq.testing.site_work_checkers import CHECKERS as OF_WORKS
from tests.planting import Planted

CHECKERS = (*OF_DURABLES, *OF_WORKS)
PLANTED = Planted()


def planted(
    owner: Any, name: str, checker: str, seed: int, *features: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A bug, the checker that notices it, and the history in which it does."""
    return PLANTED.register(owner, name, checker, seed, features)


# -- durable topics --------------------------------------------------------------------------------


@planted(Streams, "_repeat", "logs", 21, "durables")
def leave_a_hole_for_what_is_sent_again(
    real: Any, self: Any, link: bytes, topic: Any, *rest: Any
) -> Any:
    if topic.entry.durable:
        topic.next_offset += 1
    return real(self, link, topic, *rest)


@planted(SiteReads, "on_deliver", "deliveries", 5, "durables")
def drop_what_has_no_credit(real: Any, self: Any, link: bytes, frame: Any) -> None:
    reading = self._by_number.get((link, frame.subscription))
    if reading is not None and frame.batches and not self._may_pass(reading.across):
        last = frame.batches[-1]
        reading.lsn, reading.slot = last.lsn, last.slot + 1
        return
    real(self, link, frame)


@planted(SiteReads, "_open", "beginnings", 13, "durables")
def begin_with_what_is_new(real: Any, self: Any, reading: Reading, is_new: bool = False) -> None:
    real(self, reading, True)


@planted(SiteReads, "subscribe", "positions", 13, "durables")
def forget_the_places_of_others(
    real: Any, self: Any, link: bytes, frame: Subscribe, wall_ns: int, now_ns: int
) -> None:
    real(self, link, replace(frame, places=()), wall_ns, now_ns)


@planted(Dedup, "take", "confirmed", 8, "durables")
def drop_what_has_moved(
    real: Any, self: Any, topic: str, origin: bytes, published: Any, count: int
) -> int:
    return count if published.moved else real(self, topic, origin, published, count)


@planted(Dedup, "take", "doubles", 3, "durables")
def know_copies_by_their_log(
    real: Any, self: Any, topic: str, origin: bytes, published: Any, count: int
) -> int:
    return real(self, topic, origin, published._replace(moved=b""), count)


@planted(SiteReads, "_tell", "away", 4, "durables")
def tell_nobody_who_is_away(real: Any, self: Any, across: Any, readings: Any) -> None:
    real(self, across, [r for r in readings if r.number])


# -- groups and queues -----------------------------------------------------------------------------


@planted(Group, "give_back", "hands", 8, "works")
def take_what_was_lost_for_not_begun(
    real: Any, self: Any, h: Any, bits: int, suspect: bool, alone: bool = False
) -> Any:
    return real(self, h, bits, False, alone)


@planted(Group, "_hold", "hands", 3, "works")
def take_back_what_has_time(real: Any, self: Any, h: Any) -> None:
    h.deadline_ns -= h.member.ack_timeout_ns * 3 // 4
    real(self, h)


@planted(Group, "ack", "hands", 4, "works")
def hand_out_what_is_done(real: Any, self: Any, h: Any, bits: int) -> None:
    if h.attempt > 1:
        real(self, h, bits)
    else:
        self.nack(h, bits, 300 * MS, "", self.shared.now_ns)


@planted(Group, "give_back", "sums", 8, "works")
def count_what_was_lost_as_in_hands(
    real: Any, self: Any, h: Any, bits: int, suspect: bool, alone: bool = False
) -> Any:
    self.in_flight += suspect
    return real(self, h, bits, suspect, alone)


@planted(SiteGroups, "_on_hand_out", "worked", 1, "works")
def ack_what_others_hand_out(real: Any, self: Any, origin: bytes, frame: Any) -> None:
    b = self._by_number.get(frame.consumer)
    if b is None or self.__dict__.get("acked", 0) > 2:
        real(self, origin, frame)
        return
    self.__dict__["acked"] = self.__dict__.get("acked", 0) + 1
    rows = tuple([SettleRow(row.number, 0, row.count, ACK) for row in frame.rows])
    self.sends.append((self._link_of(origin), Settle(frame.consumer, 1, rows)))


@planted(site_merges, "_sum", "lags", 1, "works")
def count_the_first_node_alone(real: Any, bodies: Any, names: Any) -> Any:
    return real(list(bodies)[:1], names)


# -- requests --------------------------------------------------------------------------------------


@planted(Services, "_pass_on", "answers", 4, "calls")
def answer_twice(real: Any, self: Any, asked: Any, instance: Any, row: Any, data: bytes) -> None:
    link, number = asked.link, asked.their_id
    real(self, asked, instance, row, data)
    if link and instance.is_remote and asked.parent is None:
        self._reply(link, row._replace(id=number), data)


@planted(Services, "_hand_out", "handlers", 4, "calls")
def begin_it_at_two_nodes(real: Any, self: Any, asked: Any, instance: Any, now_ns: int) -> None:
    real(self, asked, instance, now_ns)
    others = [r for r in asked.service.instances.values() if not r.draining]
    if others and instance.is_remote and asked.kind != EACH:
        row, data, _ = self.outgoing.boxes[instance.link].requests[-1]
        registration = others[0].registration
        self.outgoing.request(others[0].link, row._replace(registration=registration), data)


@planted(SiteServices, "_has_moved", "answered", 9, "calls")
def tell_nobody_what_is_served(real: Any, self: Any, name: str) -> bool:
    return False


@planted(Remote, "free", "kept", 4, "calls")
def forget_no_weight_of_what_is_done(real: Any, self: Any, asked: Any) -> None:
    real(self, asked)
    self.held_bytes += asked.weight


def faults_of(seed: int, features: tuple[str, ...], only: str = "") -> list[str]:
    return PLANTED.faults_of(SiteWorld(seed, features=features), CHECKERS, only)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_noticed(name: str) -> None:
    checker, seed, features = PLANTED.about[name]
    with PLANTED[name]():
        assert faults_of(seed, features, checker), f"{checker} does not notice {name}"


def test_each_checker_notices_one() -> None:
    assert {c.__name__ for c in CHECKERS} == {about[0] for about in PLANTED.about.values()}
