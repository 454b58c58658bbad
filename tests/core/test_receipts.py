"""What receipts and errors say of records whose end is not known: no less than what is."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from meshmq.client.receipt import Promise
from meshmq.core.publisher import Publisher
from meshmq.errors import DONE as APPLIED
from meshmq.errors import NOT_DONE, UNKNOWN, ClosedError, DurabilityUnavailable
from meshmq.frames import REPLICATED, SYNCED
from tests.core.helpers import encode
from tests.core.publishing import add, answer, outcome, take, yes


@pytest.fixture
def pub():
    return Publisher(encode, nullcontext())


def stored(sequence, topic="a"):
    return yes(topic, sequence, 1)._replace(durability=SYNCED, more=True)


def test_what_waits_for_its_copies_says_where_it_is_stored_and_is_done(pub):
    record = add(pub, "a", b"1")
    assert repr(Promise(*record)) == "Promise(topic='a', waiting)"
    take(pub)
    answer(pub, stored(1))
    promise = Promise(*record)
    assert repr(promise) == (
        f"Promise({promise.stream}, offset={promise.offset}, durability='synced', waiting to be "
        f"replicated)"
    )
    told = promise._in_time(1.0)
    assert (told.outcome, told.receipt) == (APPLIED, promise)
    answer(pub, yes("a", 1, 1)._replace(durability=REPLICATED))
    assert repr(promise).endswith(f"offset={promise.offset}, durability='replicated')")


def test_a_record_that_is_stored_is_never_said_to_be_not_done(pub):
    """Whatever becomes of the connection while it waits for its copies."""
    batch, _ = add(pub, "a", b"1")
    sent, _ = add(pub, "b", b"1")
    take(pub)
    answer(pub, stored(1))
    lone, _ = add(pub, "c", b"1")
    pub.fail_all(ClosedError("the connection is closed"))
    assert outcome(batch) == ("durability-timeout", APPLIED)
    assert "do not resend" in str(batch.error)
    assert outcome(sent) == ("closed", UNKNOWN)
    assert outcome(lone) == ("closed", NOT_DONE)


def test_what_was_sent_before_the_link_was_lost_is_unknown_when_the_connection_ends(pub):
    sent, _ = add(pub, "a", b"1")
    take(pub)
    pub.on_session_lost()
    lone, _ = add(pub, "a", b"2")
    pub.fail_all(ClosedError("the connection is closed"))
    assert outcome(sent) == ("closed", UNKNOWN)
    assert outcome(lone) == ("closed", NOT_DONE)


def test_a_receipt_of_less_than_was_asked_for_is_done(pub):
    batch, index = add(pub, "a", b"1", wanted=REPLICATED)
    batch.lane.owner = SimpleNamespace(told=lambda error: None)
    take(pub)
    answer(pub, yes("a", 1, 1))
    with pytest.raises(DurabilityUnavailable, match="never replicated") as caught:
        Promise(batch, index)._judge()
    assert caught.value.outcome == APPLIED
    assert "Promise(" in repr(Promise(batch, index))


@pytest.mark.parametrize("moves", [False, True])
def test_what_was_said_of_missing_copies_is_not_said_again_when_the_node_is_gone(pub, moves):
    told, _ = add(pub, "a", b"1")
    untold, _ = add(pub, "b", b"1")
    take(pub)
    answer(pub, stored(1), stored(1, "b"))
    Promise(told, 0)._in_time(1.0)
    if moves:
        pub.on_session_lost()
        pub.on_origin(b"another log     ", 0, "node-2")
    else:
        pub.fail_all(ClosedError("the connection is closed"))
    assert [(b.error.code, b.is_told) for b in (told, untold)] == [
        ("durability-timeout", True), ("durability-timeout", False)
    ]  # fmt: skip


def test_flush_says_of_what_is_stored_that_its_copies_are_missing_and_close_says_it_once(pub):
    first, _ = add(pub, "a", b"1")
    second, _ = add(pub, "b", b"1", b"2")
    take(pub)
    answer(pub, stored(1), yes("b", 1, 2)._replace(more=True))
    Promise(first, 0)._in_time(1.0)
    assert [b.is_told for b in (first, second)] == [True, False]
    told = pub.not_copied(5)
    assert str(told).startswith(
        "all is stored and synced, do not resend; 3 records not replicated within 5 s: too few"
    )
    assert told.outcome == APPLIED
    assert second.is_told
    answer(pub, yes("a", 1, 1)._replace(durability=REPLICATED))
    assert first.error is None
