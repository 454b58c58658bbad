"""Requests in a site under faults, by seeds; what must hold is in ``site_requests_world``."""

from __future__ import annotations

import pytest

from tests.core.site_requests_world import play


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens(seed):
    assert play(seed) == []


@pytest.mark.parametrize("seed", range(100, 110))
def test_without_faults(seed):
    assert play(seed, faults=False) == []
