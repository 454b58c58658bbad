"""What was confirmed survives a power cut: a few of the cycles that ``tests.chaos.power`` runs."""

from __future__ import annotations

import os
import subprocess

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


def test_the_disk_comes_back_whatever_namespaces_were_made(disk):
    (disk.point / "kept").mkdir()
    os.sync()
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo made; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"made\n"
        disk.cut()
        disk.again()
        (disk.point / "kept" / "new").mkdir()
        other.communicate(b"\n")


def test_confirmed_survives_power_cuts(disk):
    assert power.cut_the_store(disk, 20, seed=11) > 500


def test_a_node_survives_power_cuts(disk):
    assert power.cut_the_node(disk, 5, seed=3)["confirmed"] > 1000
