"""The order of keys: what a seed of the groups' world found, by hand."""

from __future__ import annotations

from meshmq.core.key_order import KeyOrder


def test_what_is_held_before_a_failed_record_goes_before_it() -> None:
    order = KeyOrder()
    state = order.state(1, b"k")
    order.fail(1, b"k", 5)
    for offset in (3, 7):
        order.hold(state, offset)
    assert order.release(1, b"k") == [3]
    assert order.held == 1


def test_a_record_that_is_cancelled_while_it_is_fetched_frees_its_key() -> None:
    order = KeyOrder()
    state = order.state(1, b"k")
    for offset in (3, 4):
        order.hold(state, offset)
    assert order.release(1, b"k") == [3, 4]
    assert order.leave(1, 3) == b"k"
    assert state.released == 1
    assert order.arrived(1, 4) == b"k"
    assert order.release(1, b"k") == []
    assert not order.keys
    assert not order.fetching


def test_what_waits_at_a_member_no_more_leaves_its_key_to_anybody() -> None:
    order = KeyOrder()
    state = order.state(1, b"k")
    state.queued = 1
    order.unqueue(state)
    assert state.member is None
