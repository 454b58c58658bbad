"""What the journal keeps of groups: offset sets, packed bytes, sums of deltas."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count as counting

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshmq import limits
from meshmq.core import journal_sum
from meshmq.core.copied_journal import CopiedJournal
from meshmq.core.journal import (
    CHUNK,
    Delta,
    GroupState,
    JournalState,
    Mark,
    OffsetSet,
    Settings,
    Summed,
    TransactionDelta,
    forget_dedups,
    pack_deltas,
    pack_state,
    unpack_deltas,
    unpack_state,
)
from meshmq.core.journal_sum import sum_of

SETTINGS = Settings(1, "billing", "group", "orders.>")
runs = st.tuples(
    st.integers(0, 4 * CHUNK), st.sampled_from([1, 2, 7, 300, CHUNK, CHUNK + 1, 2 * CHUNK])
)
steps = st.lists(
    st.tuples(st.sampled_from(["add", "many", "at floor", "floor", "discard"]), runs), max_size=30
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_an_offset_set_is_a_set_of_offsets(todo):
    found, plain = OffsetSet(), set()
    for what, (first, count) in todo:
        if what == "floor":
            new = found.raise_floor(first)
            added = set(range(first)) - plain
        elif what == "discard":
            first, count = max(first, found.floor), min(count, 5)
            found.discard(first, count)
            plain -= set(range(first, first + count))
            continue
        elif what == "many":
            many = [(first, count), *[(first + count + 3 * i, 1 + i % 3) for i in range(1, 60)]]
            new = found.add_runs(many)
            added = {o for f, n in many for o in range(f, f + n)} - plain
        else:
            first = found.floor if what == "at floor" else first
            new = found.add(first, count)
            added = set(range(first, first + count)) - plain
        assert new == len(added)
        plain |= added
    floor = next(i for i in counting() if i not in plain)
    assert found.floor == floor
    assert found.above == sum(offset > floor for offset in plain)
    missing = [o for f, n in found.missing(0, 6 * CHUNK) for o in range(f, f + n)]
    assert missing == [o for o in range(6 * CHUNK) if o not in plain]
    assert all((o in found) == (o in plain) for o in range(0, 6 * CHUNK, 37))


def test_an_offset_set_costs_a_bit_an_offset_and_nothing_below_its_floor():
    found = OffsetSet()
    for offset in range(0, 100_000, 2):
        found.add(offset, 1)
    assert len(found.chunks) == -(-100_000 // CHUNK)
    for offset in range(1, 100_000, 2):
        found.add(offset, 1)
    assert (found.floor, found.above, found.chunks) == (100_000, 0, {})


u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)
small = st.integers(0, 255)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
marks = st.builds(
    Mark,
    st.integers(0, 1000),
    u64,
    small,
    u64,
    u64,
    st.integers(0, 9),
    st.binary(max_size=8),
    texts,
)


def rows(*parts):
    return st.lists(st.tuples(*parts), max_size=3).map(tuple)


ids = st.binary(min_size=16, max_size=16)
deltas = st.builds(
    Delta, u32, st.none() | st.just(SETTINGS), st.booleans(), rows(small, u64, u32),
    rows(u32, u64), rows(u32, u64, u32), rows(u32, u64, marks), rows(u32, u64),
    rows(ids, u32, u64, u64), rows(small, u64, u32), u64,
) | st.builds(TransactionDelta, ids, u64, st.lists(u64, max_size=4).map(tuple))  # fmt: skip
deltas |= st.builds(
    Summed, st.booleans(), st.booleans(), st.none() | deltas.filter(lambda d: isinstance(d, Delta))
)


@settings(max_examples=100, deadline=None)
@given(st.lists(deltas, max_size=5))
def test_deltas_read_back_as_they_were(records):
    assert unpack_deltas(pack_deltas(records)) == records


@settings(max_examples=50, deadline=None)
@given(st.lists(deltas, max_size=3), st.integers(1, 40))
def test_cut_off_deltas_are_refused_or_end_at_a_record(records, cut):
    data = pack_deltas(records)[:-cut]
    try:
        found = unpack_deltas(data)
    except (ValueError, TypeError, IndexError, OverflowError):
        return
    except Exception as error:
        assert type(error).__module__ == "struct"  # noqa: PT017 (any other error is a fault)
        return
    assert found == records[: len(found)]


def state_of(*records):
    state = JournalState()
    state.apply(records, 0)
    return state


def test_a_state_reads_back_as_it_was_and_goes_on_alike():
    begin = Delta(1, SETTINGS, cursors=((0, 9, 2),), ahead=65_536)
    more = Delta(
        1, settled=((7, 3, 2), (7, 9, 1)), marks=((7, 5, Mark(2, 77, 1, 5, 6, 3, b"k", "why")),),
        dedups=((b"d" * 16, 7, 9, 5),), reached=((0, 10, 1),),
    )  # fmt: skip
    state = state_of(begin, more, TransactionDelta(b"i" * 16, 4, (1, 2)))
    again = unpack_state(pack_state(state))
    assert again == state
    last = Delta(1, settled=((7, 0, 3),), unmarked=((7, 5),))
    for one in (state, again):
        one.apply([last], 0)
    assert again == state
    assert state.groups[1].streams[7].floor == 6  # 0 to 4 settled, 5 was marked
    assert state.groups[1].marks == {}
    assert unpack_state(b"") == JournalState()


def test_a_reset_forgets_records_and_keeps_settings():
    state = state_of(
        Delta(1, SETTINGS, settled=((7, 0, 3),), marks=((7, 5, Mark(1, 1)),), cursors=((0, 9, 0),)),
        Delta(1, resets=True, floors=((7, 2),)),
    )
    group = state.groups[1]
    assert (group.settings, group.marks, group.cursors) == (SETTINGS, {}, {})
    assert group.streams == {7: OffsetSet(2)}


def test_a_deleted_group_is_gone_and_its_number_is_not_given_again():
    state = state_of(Delta(3, SETTINGS._replace(id=3)))
    state.apply([Delta(3, SETTINGS._replace(id=3, deleted=True))], 0)
    assert (state.groups, state.next_id) == ({}, 4)


def test_deleted_streams_leave_nothing_behind():
    state = state_of(
        Delta(1, SETTINGS, settled=((7, 0, 3), (8, 0, 1)), marks=((7, 5, Mark(1, 1)),))
    )
    state.forget_streams({7})
    assert set(state.groups[1].streams) == {8}
    assert state.groups[1].marks == {}


def test_the_sum_says_all_that_there_is_to_copies_and_nothing_to_the_log_itself(monkeypatch):
    monkeypatch.setattr(journal_sum, "SUM_ROWS", 3)
    monkeypatch.setattr(journal_sum, "SUM_MARKS", 2)
    state = state_of(
        Delta(1, SETTINGS, cursors=((0, 9, 2), (1, 3, 0)), floors=((8, 5),), ahead=65_536),
        Delta(2, SETTINGS._replace(id=2, name="other"), reached=((0, 10, 1),)),
        Delta(
            1, settled=tuple([(7, i * 2, 1) for i in range(1, 2000)]),
            marks=tuple([(7, i, Mark(2, 77, 1, 5, 6, 3, b"k", "why")) for i in range(5, 18, 2)]),
            dedups=tuple([(bytes([i]) * 16, 7, i, 5) for i in range(8)]),
        ),
    )  # fmt: skip
    words = unpack_deltas(pack_deltas(list(sum_of(state.groups.values()))))
    assert max(len(pack_deltas([word])) for word in words) < 1000
    copy = CopiedJournal()
    had = Delta(1, SETTINGS, settled=((9, 0, 3),), marks=((9, 1, Mark(1, 7)),))
    copy.say([had, Delta(3, SETTINGS._replace(id=3, name="deleted"))], 0)
    copy.say(words, 0)
    assert copy.groups == state.groups
    before = unpack_state(pack_state(state))
    state.apply(words, 0)
    assert state == before


def taken_of(*said, taken=((7, 0, 4), (7, 6, 2))):
    """A copied journal whose group had done nothing, of which these runs were taken over, and that
    was told more then."""
    copy = CopiedJournal()
    copy.say([Delta(1, SETTINGS)], 0)
    copy.take(Delta(1, settled=taken))
    copy.say(said, 0)
    return copy, copy.undone(copy.groups[1], 7, 0, 9)


@pytest.mark.parametrize(
    "said",
    [
        (Delta(1, marks=((7, 2, Mark(1, 1)),)),),
        (Delta(1, resets=True, floors=((7, 0),)),),
        (Delta(1, settled=((7, 0, 4),)), Delta(1, resets=True)),  # some it did not know as done
        (
            Delta(1, settled=((7, 0, 8),), marks=((7, 6, Mark(1, 1)),)),
            Delta(1, resets=True),
        ),
        (Summed(True, False), Summed(False, True, Delta(1, SETTINGS))),
    ],
    ids=["marked", "sought", "sought-after-some", "sought-after-a-failure", "summed"],
)
def test_what_was_taken_over_stays_so_whatever_the_owner_said_who_did_not_know(said):
    assert taken_of(*said)[1] == [4, 5, 8]


def test_a_seek_by_an_owner_who_gave_them_away_means_them_too():
    given = Delta(1, floors=((7, 9),))
    assert taken_of(given)[1] == []
    assert taken_of(given, Delta(1, resets=True))[1] == [*range(9)]


def test_what_was_taken_over_of_a_group_goes_with_the_group_and_the_stream():
    copy, _ = taken_of()
    copy.say([Delta(1, SETTINGS._replace(deleted=True))], 0)
    assert copy.taken.groups == {}
    copy, _ = taken_of()
    copy.forget_streams({7})
    assert copy.undone(copy.groups[1], 7, 0, 2) == [0, 1]


def test_ids_are_remembered_for_the_queues_window():
    window = 10 * limits.SECOND
    dedups = OrderedDict({bytes([i]) * 16: (1, i, i * 1000) for i in range(20)})
    forget_dedups(dedups, window, 19_000)
    assert [row[1] for row in dedups.values()] == list(range(9, 20))


def test_transactions_are_remembered_for_a_bounded_number_of_programs():
    state = JournalState()
    for i in range(limits.TRANSACTIONS_REMEMBERED_MAX + 5):
        state.apply([TransactionDelta(i.to_bytes(16, "big"), 1, ())], 0)
    assert len(state.transactions) == limits.TRANSACTIONS_REMEMBERED_MAX
    assert (4).to_bytes(16, "big") not in state.transactions


def test_a_copy_is_independent():
    group = GroupState(SETTINGS)
    group.apply(Delta(1, settled=((7, 1, 1),), marks=((7, 5, Mark(1, 1)),)))
    copied = group.copy()
    group.apply(Delta(1, settled=((7, 0, 1),), unmarked=((7, 5),)))
    assert copied.streams[7].floor == 0
    assert (7, 5) in copied.marks


@pytest.mark.parametrize("data", [b"\x00", b"\x01" + bytes(10), bytes(60)[:41]])
def test_bytes_that_end_early_are_refused(data):
    with pytest.raises(Exception, match=r"unpack|early|buffer"):
        unpack_deltas(data)


def test_a_delta_in_parts_says_what_it_says_in_one():
    marks = tuple([(2, 10 + i, Mark(1, 5)) for i in range(60)])
    delta = Delta(
        1, None, True, ((2, 7, 0),), ((2, 3),), ((2, 5, 2), (3, 0, 4)), marks, ((2, 11), (2, 12)),
        ((b"d" * 16, 2, 20, 9),), ((2, 8, 1),), 6,
    )  # fmt: skip
    parts = list(journal_sum.parts_of(delta))
    assert max(len(part.marks) for part in parts) == journal_sum.SUM_MARKS
    whole, made = GroupState(SETTINGS), GroupState(SETTINGS)
    for state in (whole, made):
        state.apply(Delta(1, marks=((2, 1, Mark(2, 1)),), settled=((4, 0, 9),)))
    whole.apply(delta)
    for part in parts:
        made.apply(part)
    assert _said(made) == _said(whole)


def _said(state):
    streams = {n: (s.floor, list(s.runs())) for n, s in state.streams.items()}
    return streams, state.marks, state.cursors, state.dedups, state.reached, state.ahead
