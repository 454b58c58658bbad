"""``python -m meshmq.testing --seed N`` or ``--seeds A..B``: play histories and judge them."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

from meshmq.testing import World, play


def main() -> int:
    """Run the seeds asked for; 1 if any broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m meshmq.testing", description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed, with its figures")
    parser.add_argument("--seeds", default="0..100", help="a range A..B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes to share the seeds")
    given = parser.parse_args()
    out = sys.stdout.write
    if given.seed is not None:
        history = World(given.seed).run()
        out(
            f"seed {given.seed}: {len(history.published)} published, {history.kills} kills, "
            f"{history.events} events, digest {history.digest[:16]}\n"
        )
        seeds = range(given.seed, given.seed + 1)
    else:
        seeds = range(*map(int, given.seeds.split("..")))
    bad = 0
    with ProcessPoolExecutor(given.jobs) as pool:
        for seed, faults in zip(seeds, pool.map(play, seeds, chunksize=50), strict=True):
            if faults:
                bad += 1
                out(f"seed {seed}\n" + "".join(f"  {fault}\n" for fault in faults[:20]))
                sys.stdout.flush()
    out(f"{len(seeds) - bad} of {len(seeds)} seeds kept every promise\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
