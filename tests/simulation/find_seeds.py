"""``python -m tests.simulation.find_seeds``: look for seeds that notice planted bugs, and note them
in ``planted_seeds.txt``.

Without ``--all`` a seed that is known, and still notices its bug quickly, stays. Short histories
are played first, so that the tests which play them are quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.planting import SEEDS_FILE, Planted, known_seeds

MODULES = {
    "streams": "test_planted", "groups": "test_group_planted", "requests": "test_request_planted",
    "direct": "test_direct_planted", "hybrid": "test_hybrid_planted", "site": "test_site_planted",
}  # fmt: skip

QUICK_S = 1.0  # of this machine's time: with a bug a history may take many times what it takes
FEW = 6
MEASURED = 20
"""So many seeds are sorted by how long they take; most bugs are noticed by one of them."""


def planted_of(world: str) -> tuple[Planted, list[tuple[str, str]]]:
    """The bugs of a world, and what is looked for: each bug, and each checker with its bug."""
    module = importlib.import_module(f"tests.simulation.{MODULES[world]}")
    return module.PLANTED, module.CASES


def seconds_of(world: str, seed: int) -> float:
    """How long its history takes without a bug."""
    planted, _ = planted_of(world)
    before = time.process_time()
    planted.faults(seed, "")
    return time.process_time() - before


def find(world: str, seeds: list[int], case: tuple[str, str]) -> int | None:
    """The first of ``seeds`` that notices it and is played quickly with it in the core; else the
    quickest of the first FEW that notice it."""
    planted, _ = planted_of(world)
    found: dict[int, float] = {}
    for seed in seeds:
        before = time.process_time()
        if planted.noticing(*case, [seed]) is not None:
            found[seed] = time.process_time() - before
            if found[seed] < QUICK_S or len(found) == FEW:
                break
    return min(found, key=found.__getitem__, default=None)


def look(world: str, pool: ProcessPoolExecutor, most: int, is_all: bool, only: str) -> bool:
    """Look for all bugs of a world, or those that have ``only`` in their names; whether each has a
    seed."""
    known = known_seeds()
    planted, cases = planted_of(world)
    old = known.setdefault(world, {})
    mine = known[world] = {k: old[k] for case in cases if (k := planted.key(*case)) in old}
    some = range(min(most, MEASURED))
    took = dict(zip(some, pool.map(partial(seconds_of, world), some), strict=True))
    quick_first = [*sorted(took, key=took.__getitem__), *range(len(some), most)]
    wanted = [case for case in cases if only in planted.key(*case)]
    plays = []
    for case in wanted:
        first = mine.get(planted.key(*case))
        seeds = quick_first if is_all or first is None else [first, *quick_first]
        plays.append(pool.submit(find, world, seeds, case))
    is_done = True
    for case, play in zip(wanted, plays, strict=True):
        key, seed = planted.key(*case), play.result()
        sys.stdout.write(f"{world} {key} {seed}\n")
        sys.stdout.flush()
        is_done = is_done and seed is not None
        if seed is not None:
            mine[key] = seed
            note(known)
    return is_done


def note(known: dict[str, dict[str, int]]) -> None:
    """Write what is known."""
    head = [line for line in SEEDS_FILE.read_text().splitlines(True) if line.startswith("#")]
    rows = [f"{w} {key} {seed}\n" for w in MODULES for key, seed in known.get(w, {}).items()]
    SEEDS_FILE.write_text("".join([*head, *rows]))


def main() -> int:
    """Look for what is asked for; 1 if a bug has no seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.find_seeds")
    parser.add_argument("--world", choices=MODULES, action="append", help="else all")
    parser.add_argument("--seeds", type=int, default=150, help="how many to look at")
    parser.add_argument("--only", default="", help="bugs with this in their names")
    parser.add_argument("--all", action="store_true", help="look again for those that are known")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.jobs) as pool:
        found = [
            look(world, pool, given.seeds, given.all, given.only)
            for world in given.world or MODULES
        ]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
