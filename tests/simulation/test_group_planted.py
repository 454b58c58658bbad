"""Planted bugs of groups and queues: each is a change of the core that some seed must catch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshmq.core import node as node_module
from meshmq.core.dead_letters import Undertaker
from meshmq.core.group_hands import Hands
from meshmq.core.group_journal import Journaling
from meshmq.core.group_waiting import Waiting
from meshmq.core.groups import Groups
from meshmq.core.hand_out import Member
from meshmq.core.intake import Intake
from meshmq.core.key_order import KeyOrder
from meshmq.core.members import Members
from meshmq.core.schedule import Schedule
from meshmq.frames import Settled
from meshmq.testing import play_groups
from tests.planting import Planted

SEEDS_MAX = 120

PLANTED = Planted("groups", lambda seed, _: play_groups(seed), range(SEEDS_MAX))
planted = PLANTED.register


# -- what is stored ------------------------------------------------------------------------------


@planted(Groups, "entries")
def tell_of_acks_before_they_are_stored(real: Any, self: Any, entries: Any) -> None:
    real(self, entries)
    self.sends += [answer for answer in self.answers if isinstance(answer[1], Settled)]
    self.answers = [answer for answer in self.answers if not isinstance(answer[1], Settled)]


@planted(Journaling, "_take_cursors")
def put_the_cursor_past_what_is_not_settled(real: Any, self: Any) -> Any:
    for source in self.sources:
        source.trail.clear()
    return real(self)


@planted(Waiting, "_resume")
def lose_marks_at_restart(real: Any, self: Any) -> None:
    self.state.marks.clear()
    real(self)


@planted(Journaling, "note_dedup")
def keep_ids_in_memory_only(
    real: Any, self: Any, dedup: bytes, stream: int, offset: int, now_ms: int
) -> None:
    self.state.dedups[dedup] = (stream, offset, now_ms)


@planted(Journaling, "reset")
def keep_the_reset_of_a_seek_in_memory_only(real: Any, self: Any) -> None:
    real(self)
    self._resets = False


@planted(Groups, "entries")
def bury_in_two_commits(real: Any, self: Any, entries: Any) -> None:
    late = self.__dict__.setdefault("late", [])
    for move in late:
        self.append_own(move.topic, move.payload, move.count)
    late.clear()
    for group in self.by_name.values():
        late += group.undertaker.moves
        group.undertaker.moves.clear()
    real(self, entries)


@planted(node_module, "transact")
def ack_without_the_outputs(real: Any, link: Any, instance: Any, frame: Any, *rest: Any) -> Any:
    return real(link, instance, replace(frame, batches=(), payload=b""), *rest)


# -- who has what --------------------------------------------------------------------------------


@planted(Members, "_settle_row")
def take_any_word_for_a_members_own(
    real: Any, self: Any, group: Any, member: Any, row: Any, stale: Any, now_ns: int
) -> None:
    real(self, group, member, row, [], now_ns)


@planted(Members, "drop_link")
def hand_out_what_an_orphan_holds(real: Any, self: Any, link: bytes, now_ns: int) -> None:
    real(self, link, now_ns)
    self._end_orphans(1 << 62)


@planted(Hands, "may_adopt")
def adopt_without_a_check(real: Any, self: Any, stream: int, offset: int, attempt: int) -> bool:
    return True


@planted(Hands, "extend")
def forget_extensions(
    real: Any, self: Any, h: Any, first: int, count: int, deadline_ns: int
) -> None:
    pass


@planted(Member, "room")
def give_more_than_was_asked_for(real: Any, self: Any, record_bytes: float) -> int:
    return 2 + int(real(self, record_bytes))


@planted(Hands, "give_back")
def hand_out_again_and_keep(
    real: Any, self: Any, h: Any, bits: int, suspect: bool, alone: bool = False
) -> None:
    """What is given back is in line twice."""
    real(self, h, bits, suspect, alone)
    for index in h.indices(bits):
        self._push_again(h.stream, h.offset_of(index), h.priority)
    for fetcher in self._fetchers:
        fetcher.pushes = self._pushes


# -- when, in which order, how often -------------------------------------------------------------


@planted(KeyOrder, "fail")
def forget_the_key_of_what_failed(
    real: Any, self: Any, stream: int, key: bytes, offset: int
) -> None:
    pass


@planted(Schedule, "pop_due")
def hand_out_before_it_is_due(real: Any, self: Any, now_ms: int, most: int) -> Any:
    return real(self, now_ms + 300, most)


@planted(Waiting, "_queue")
def hand_out_what_has_outlived_its_time(real: Any, self: Any, ready: Any) -> None:
    ready.expires_ms = 0
    real(self, ready)


@planted(Journaling, "set_mark")
def forget_attempts(real: Any, self: Any, stream: int, offset: int, mark: Any) -> None:
    real(self, stream, offset, mark._replace(attempts=max(mark.attempts - 1, 0)))


@planted(Waiting, "_is_suspect")
def do_not_say_that_it_may_be_a_duplicate(
    real: Any, self: Any, source: Any, b: Any, records: int
) -> bool:
    return False


@planted(Intake, "judge")
def accept_a_job_twice(real: Any, self: Any, *args: Any) -> Any:
    verdict = real(self, *args)
    return None if verdict is not None and not verdict.code else verdict


@planted(Intake, "accepted")
def count_jobs_when_they_are_synced(real: Any, self: Any, topic: Any, *args: Any) -> None:
    real(self, topic, *args)
    group = self._lanes.get(topic.entry.name)
    if group is not None:
        group.unsynced = 0


@planted(Undertaker, "_bury")
def bury_twice(real: Any, self: Any, b: Any, offsets: Any) -> None:
    real(self, b, offsets)
    self.moves.append(self.moves[-1])


@planted(Undertaker, "_bury")
def bury_nothing(real: Any, self: Any, b: Any, offsets: Any) -> None:
    real(self, b, offsets)
    self.moves.pop()


# -- counting and forgetting ---------------------------------------------------------------------


@planted(Journaling, "_count_down")
def never_count_down(real: Any, self: Any, n: int) -> None:
    pass


@planted(Journaling, "lift")
def never_pass_a_batch(real: Any, self: Any, entry: Any, n: int) -> None:
    pass


@planted(KeyOrder, "release")
def never_release_a_key(real: Any, self: Any, stream: int, key: bytes) -> Any:
    return []


def test_there_are_at_least_twenty() -> None:
    assert len(PLANTED) >= 20


CASES = [(name, "") for name in PLANTED]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_caught(name: str) -> None:
    assert PLANTED.noticing(name) is not None, f"{SEEDS_MAX} seeds did not notice the bug"
