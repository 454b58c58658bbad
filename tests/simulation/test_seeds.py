"""Histories with faults, from seeds. MESHMQ_SEEDS says how many (tox: 100; `long`: 2,000)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshmq.testing import play

CHUNK = 100
COUNT = int(os.environ.get("MESHMQ_SEEDS", "100"))
FIRSTS = range(0, COUNT, CHUNK)
ONCE_FAILED = [
    int(line.split()[0])
    for line in Path(__file__).with_name("seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("first", FIRSTS)
def test_seeds_keep_every_promise(first: int) -> None:
    faults = {seed: found for seed in range(first, min(first + CHUNK, COUNT))
              if (found := play(seed))}  # fmt: skip
    assert not faults, f"replay with: python -m meshmq.testing --seed {min(faults)}"


@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_seed_that_failed_once(seed: int) -> None:
    assert play(seed) == []


def test_a_seed_replays_exactly_in_any_process() -> None:
    code = (
        "from meshmq.testing import World\n"
        "print([World(seed).run().digest for seed in range(12)])\n"
    )

    def digests(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True,
            text=True,
        )  # fmt: skip
        return done.stdout

    one, other = digests("1"), digests("2")
    assert one == other
    assert len(set(one.split(","))) == 12
