"""``python -m meshmq.testing --seed N`` or ``--seeds A..B``: play histories and judge them."""

from __future__ import annotations

import argparse
import sys

from meshmq.testing import World, play


def main() -> int:
    """Run the seeds asked for; 1 if any broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m meshmq.testing", description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed, with its figures")
    parser.add_argument("--seeds", default="0..100", help="a range A..B, B not included")
    given = parser.parse_args()
    first, last = map(int, given.seeds.split(".."))
    seeds = range(first, last) if given.seed is None else [given.seed]
    bad = 0
    for seed in seeds:
        history = World(seed).run()
        faults = play(seed)
        if faults or given.seed is not None:
            out = sys.stdout.write
            out(
                f"seed {seed}: {len(history.published)} published, {history.kills} kills, "
                f"{history.events} events, digest {history.digest[:16]}\n"
            )
            out("".join(f"  {fault}\n" for fault in faults[:20]))
        bad += bool(faults)
    sys.stdout.write(f"{len(seeds) - bad} of {len(seeds)} seeds kept every promise\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
