"""What the log takes: room above the reserve, bytes that wait, each producer's own."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.frames import Window

MIB = limits.MIB
ONE, TWO = b"one", b"two"


@pytest.fixture
def admission():
    return Admission(16 * MIB)


def test_everything_is_taken_until_the_disk_was_measured(admission):
    assert admission.judge(ONE, MIB) == ("", "")


def test_nothing_is_accepted_into_the_reserve(admission):
    admission.on_measured(20 * MIB, 16 * MIB)
    admission.accepted(ONE, 3 * MIB)
    assert admission.judge(TWO, MIB) == ("", "")
    code, message = admission.judge(TWO, MIB + 1)
    assert code == "storage-full"
    assert "reserve of 16 MiB" in message
    assert "retention" in message
    # Once full, full for all, however small, until there is a little more than just enough.
    assert admission.judge(TWO, 1)[0] == "storage-full"
    admission.synced(ONE, 3 * MIB)
    admission.on_measured(17 * MIB, 16 * MIB)
    assert admission.judge(TWO, 1)[0] == "storage-full"
    admission.on_measured(19 * MIB, 16 * MIB)
    assert admission.judge(TWO, 1) == ("", "")
    assert not admission.is_full


def test_over_the_budget_producers_are_told_busy(admission):
    for i in range(16):
        admission.accepted(b"%d" % i, MIB)
    code, message = admission.judge(ONE, 1)
    assert code == "busy"
    assert str(16 * MIB) in message
    admission.synced(b"3", MIB)
    assert admission.judge(ONE, MIB) == ("", "")


def test_one_producer_cannot_take_it_all():
    admission = Admission()
    admission.accepted(ONE, limits.PRODUCER_UNSYNCED_BYTES_MAX)
    assert admission.judge(ONE, 1)[0] == "busy"
    assert admission.judge(TWO, MIB) == ("", "")
    admission.synced(ONE, limits.PRODUCER_UNSYNCED_BYTES_MAX)
    assert admission.judge(ONE, 1) == ("", "")


def test_windows_shrink_over_half_of_the_budget_and_grow_under_a_quarter(admission):
    assert admission.new_window() is None
    links = [b"%d" % i for i in range(4)]
    for link in links:
        admission.accepted(link, 2 * MIB + 1)
    assert admission.new_window() == Window(2 * MIB, 0)
    assert admission.new_window() is None
    for link in links:
        admission.synced(link, MIB)
    assert admission.new_window() is None  # more than a quarter waits
    for link in links:
        admission.synced(link, MIB + 1)
    assert admission.waiting_bytes == 0
    assert admission.new_window() == Window(limits.PRODUCER_IN_FLIGHT_BYTES_MAX, 0)


def test_a_window_holds_at_least_one_largest_batch(admission):
    for i in range(9):
        admission.accepted(b"%d" % i, MIB)
    assert admission.new_window() == Window(limits.BATCH_BYTES_MAX, 0)


def test_copies_wait_while_publishers_are_refused(admission):
    admission.on_measured(20 * MIB, 16 * MIB)
    assert admission.takes(4 * MIB)
    admission.accepted(ONE, MIB)
    assert not admission.takes(4 * MIB)
    assert admission.judge(ONE, 4 * MIB)[0] == "storage-full"
    assert not admission.takes(1), "not before publishers"


def test_the_end_of_the_reserve_is_told_with_a_margin(admission):
    for free, low, tight in ((20, False, False), (16, True, False), (4, True, False),
                             (3, True, True), (5, True, True), (6, True, False)):  # fmt: skip
        admission.on_measured(free * MIB, 16 * MIB)
        assert (admission.is_low, admission.is_tight) == (low, tight), free
