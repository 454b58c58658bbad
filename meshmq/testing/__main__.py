"""``python -m meshmq.testing --seed N`` or ``--seeds A..B``: play histories and judge them."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

from meshmq.testing import GroupWorld, World, play, play_groups


def main() -> int:
    """Run the seeds asked for; 1 if any broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m meshmq.testing", description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed, with its figures")
    parser.add_argument("--seeds", default="0..100", help="a range A..B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes to share the seeds")
    parser.add_argument("--world", choices=("streams", "groups", "both"), default="both")
    given = parser.parse_args()
    out = sys.stdout.write
    if given.seed is not None:
        if given.world != "groups":
            history = World(given.seed).run()
            out(
                f"seed {given.seed}: {len(history.published)} published, {history.kills} kills, "
                f"{history.events} events, digest {history.digest[:16]}\n"
            )
        if given.world != "streams":
            groups = GroupWorld(given.seed).run()
            out(
                f"seed {given.seed}, groups: {len(groups.published)} published, {groups.kills} "
                f"kills, {groups.events} events, digest {groups.digest[:16]}\n"
            )
        seeds = range(given.seed, given.seed + 1)
    else:
        seeds = range(*map(int, given.seeds.split("..")))
    plays = {"streams": [play], "groups": [play_groups], "both": [play, play_groups]}
    bad: set[int] = set()
    with ProcessPoolExecutor(given.jobs) as pool:
        for one in plays[given.world]:
            for seed, faults in zip(seeds, pool.map(one, seeds, chunksize=20), strict=True):
                if faults:
                    bad.add(seed)
                    told = "".join(f"  {fault}\n" for fault in faults[:20])
                    out(f"seed {seed} ({one.__name__})\n{told}")
                    sys.stdout.flush()
    out(f"{len(seeds) - len(bad)} of {len(seeds)} seeds kept every promise\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
