"""``python -m meshmq.testing --seed N`` or ``--seeds A..B``: play histories and judge them."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

from meshmq.testing import (
    DirectWorld,
    GroupWorld,
    HybridWorld,
    RequestWorld,
    World,
    play,
    play_direct,
    play_groups,
    play_hybrid,
    play_requests,
)

PLAYS = {
    "streams": play, "groups": play_groups, "requests": play_requests, "direct": play_direct,
    "hybrid": play_hybrid,
}  # fmt: skip


def show(world: str, seed: int) -> str:
    """The figures of one history."""
    if world == "streams":
        history = World(seed).run()
        what, count = "published", len(history.published)
        kills, events, digest = history.kills, history.events, history.digest
    elif world == "groups":
        groups = GroupWorld(seed).run()
        what, count = "published", len(groups.published)
        kills, events, digest = groups.kills, groups.events, groups.digest
    elif world in ("direct", "hybrid"):
        direct = (DirectWorld if world == "direct" else HybridWorld)(seed).run()
        what, count = "published", sum(direct.published.values())
        kills, events, digest = direct.kill_count, direct.events, direct.digest
    else:
        requests = RequestWorld(seed).run()
        what, count = "asked", len(requests.askings)
        kills, events, digest = requests.kills, requests.events, requests.digest
    return (
        f"seed {seed}, {world}: {count} {what}, {kills} kills, {events} events, "
        f"digest {digest[:16]}\n"
    )


def main() -> int:
    """Run the seeds asked for; 1 if any broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m meshmq.testing", description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed, with its figures")
    parser.add_argument("--seeds", default="0..100", help="a range A..B, B not included")
    parser.add_argument("--jobs", type=int, default=1, help="processes to share the seeds")
    parser.add_argument("--world", choices=(*PLAYS, "all"), default="all")
    given = parser.parse_args()
    out = sys.stdout.write
    worlds = list(PLAYS) if given.world == "all" else [given.world]
    if given.seed is not None:
        for world in worlds:
            out(show(world, given.seed))
        seeds = range(given.seed, given.seed + 1)
    else:
        seeds = range(*map(int, given.seeds.split("..")))
    bad: set[int] = set()
    with ProcessPoolExecutor(given.jobs) as pool:
        for one in [PLAYS[world] for world in worlds]:
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
