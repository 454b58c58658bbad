"""What ``tests.chaos.links`` says of linked sites can fail: each kind of difference is noticed."""

from __future__ import annotations

import copy

import pytest

from tests.chaos import ring
from tests.chaos.links import judge


def seen():
    one = {
        "name": "read-1", "count": 4, "records": 4, "missed": 0, "doubled": [], "faults": [],
        "sites": {"eu": 2, "us": 2}, "sums": {"eu a flights.AA": "1", "us b flights.AA": "2"},
    }  # fmt: skip
    published = {"confirmed": 2, "refused": {}}
    return {
        "published": [published, dict(published)], "rate": 1, "published_after_heal_s": 0,
        "caught_up_s": 0, "wire": {}, "live": [copy.deepcopy(one)],
        "stored": [copy.deepcopy(one), {**copy.deepcopy(one), "name": "read-2"}],
    }  # fmt: skip


def test_what_is_well_is_found_so():
    assert judge(seen(), 4)[1] == []


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("published", {"confirmed": 1}, "3 of 4 were confirmed"),
        ("live", {"count": 3, "records": 3}, "3 records in 3 of 4"),
        ("stored", {"count": 5, "doubled": ["p 1"]}, "has records twice"),
        ("live", {"missed": 1}, "1 missed"),
        ("stored", {"sums": {"eu a flights.AA": "1", "us b flights.AA": "9"}}, "differs from"),
        ("stored", {"sums": {"eu a flights.AA": "1"}}, "differs from"),
        ("stored", {"faults": ["offset 2 where 1 was to come"]}, "offset 2 where 1"),
    ],
)
def test_what_is_wrong_is_said(part, change, said):
    found = seen()
    found[part][-1].update(change)
    assert any(said in fault for fault in judge(found, 4)[1])


# -- a ring, of which one is lost ------------------------------------------------------------------


def ring_seen():
    return {
        "confirmed": ["eu-feed-1 0", "eu-feed-1 1", "us-feed-2 0"], "mirrored": {"eu-feed-1 0"},
        "before": {"eu-feed-1 0"}, "said": "",
        "begun": [
            ("eu-feed-1 0", False, "us-work-0"), ("us-feed-2 0", False, "us-work-1"),
            ("eu-feed-1 1", False, "eu-work-0"),
        ],
    }  # fmt: skip


def test_a_ring_that_is_well_is_found_so():
    counts, faults = ring.judge(ring_seen())
    assert faults == []
    assert (counts["mirrored"], counts["tail"], counts["tail_worked_after_return"]) == (1, 1, 1)


def test_what_is_lost_and_what_is_worked_again_without_a_word_is_said():
    found = ring_seen()
    found["begun"].pop()
    assert "never worked, {'mirrored': 0, 'tail': 1}" in ring.judge(found)[1][0]
    for is_said in (True, False):
        found = ring_seen()
        found["begun"].append(("eu-feed-1 0", is_said, "asia-work-0"))
        faults = ring.judge(found)[1]
        assert bool(faults) != is_said
        assert is_said or "worked again, unsaid, {'mirrored': 1" in faults[0]
