"""Percentiles from buckets."""

from __future__ import annotations

import pytest

from meshmq import limits
from meshmq.core.latency import Latencies


@pytest.mark.parametrize("us", [0, 1, 2, 3, 4, 5, 7, 8, 100, 999, 12_345, 10**6, 10**9])
def test_a_value_is_at_most_a_quarter_under_its_bucket_s_end(us):
    found = Latencies(0)
    found.add(us * 1000, 0)
    (value,) = found.percentiles_us((0.5,), 0)
    assert us < value <= us * 1.25 + 1


def test_shares_of_many():
    found = Latencies(0)
    for us in range(1, 1001):
        found.add(us * 1000, 0)
    p50, p99 = found.percentiles_us((0.5, 0.99), 0)
    assert 500 <= p50 <= 640
    assert 990 <= p99 <= 1280


def test_what_is_old_is_forgotten():
    found = Latencies(0)
    assert found.percentiles_us((0.5,), 0) == [None]
    found.add(1000, 0)
    assert found.percentiles_us((0.5,), limits.LATENCY_SPAN_NS)[0] is not None
    assert found.percentiles_us((0.5,), 2 * limits.LATENCY_SPAN_NS) == [None]
    found.add(1000, 2 * limits.LATENCY_SPAN_NS)
    assert found.percentiles_us((0.5,), 10 * limits.LATENCY_SPAN_NS) == [None]


def test_a_long_one_is_in_the_last_bucket():
    found = Latencies(0)
    found.add(10**20, 0)
    assert found.percentiles_us((1.0,), 0)[0] > 10**12
