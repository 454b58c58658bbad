"""What was confirmed survives a power cut: a few of the cycles that ``tests.chaos.power`` runs."""

from __future__ import annotations

import pytest

from tests.chaos import power
from tests.chaos.disks import LoopDisk, Unavailable

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def disk(tmp_path):
    try:
        made = LoopDisk(tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))
    yield made
    made.close()


def test_confirmed_survives_power_cuts(disk):
    assert power.cut_the_store(disk, 20, seed=11) > 500


def test_a_node_survives_power_cuts(disk):
    assert power.cut_the_node(disk, 5, seed=3)["confirmed"] > 1000
