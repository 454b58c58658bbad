"""The order of keys: what a seed of the groups' world found, by hand."""

from __future__ import annotations

from meshmq.core.hand_out import Member
from meshmq.core.key_order import KeyOrder


def test_what_is_held_before_a_failed_record_goes_before_it() -> None:
    order = KeyOrder()
    order.fail(1, b"k", 5)
    for offset in (3, 7):
        order.hold(1, b"k", offset)
    assert order.release(1, b"k") == [3]
    assert order.held == 1


def test_a_record_that_is_cancelled_while_it_is_fetched_frees_its_key() -> None:
    order = KeyOrder()
    for offset in (3, 4):
        order.hold(1, b"k", offset)
    assert order.release(1, b"k") == [3, 4]
    assert order.leave(1, 3) == b"k"
    assert order.state(1, b"k").released == 1
    assert order.arrived(1, 4) == b"k"
    assert order.release(1, b"k") == []
    assert not order.known
    assert not order.fetching


def test_what_is_with_a_member_no_more_leaves_its_key_to_anybody() -> None:
    books = KeyOrder().of(1)
    member = Member(b"", 1, b"", "", 1, 1, 1)
    books.bind((b"k", b"k"), member)
    assert books.unbind((b"k",)) == []
    assert books.member == {b"k": member}
    assert books.unbind((b"k", b"never bound")) == []
    assert not books.member


def test_a_free_key_that_holds_something_back_is_told() -> None:
    order = KeyOrder()
    books = order.of(1)
    books.bind((b"k", b"l"), Member(b"", 1, b"", "", 1, 1, 1))
    order.hold(1, b"k", 7)
    assert order.release(1, b"k") == []
    assert books.unbind((b"k", b"l")) == [b"k"]
    assert order.release(1, b"k") == [7]


def test_a_deleted_topic_leaves_nothing() -> None:
    order = KeyOrder()
    order.of(1).bind((b"j",), Member(b"", 1, b"", "", 1, 1, 1))
    order.hold(1, b"k", 7)
    order.hold(1, b"l", 8)
    order.release(1, b"l")
    order.forget_stream(1)
    assert (order.held, order.known, order.fetching) == (0, 0, {})
