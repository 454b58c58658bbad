"""``python -m meshmq.testing --seed N`` or ``--seeds A..B``: play histories and judge them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from meshmq.limits import SECOND
from meshmq.testing import (
    CopiesWorld,
    DirectWorld,
    GroupWorld,
    HybridWorld,
    LinksWorld,
    LostSitesWorld,
    RequestWorld,
    SiteWorld,
    World,
    play,
    play_copies,
    play_direct,
    play_groups,
    play_hybrid,
    play_links,
    play_lost,
    play_requests,
    play_site,
)

PLAYS = {
    "streams": play, "groups": play_groups, "requests": play_requests, "direct": play_direct,
    "hybrid": play_hybrid, "site": play_site, "copies": play_copies, "links": play_links,
    "lost": play_lost,
}  # fmt: skip
SITES = {"site": play_site, "copies": play_copies}


def show(world: str, seed: int, nodes: int | None) -> str:
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
    elif world in ("site", "copies", "links", "lost"):
        kinds: dict[str, type[SiteWorld]] = {
            "site": SiteWorld, "copies": CopiesWorld, "links": LinksWorld,
            "lost": LostSitesWorld,
        }  # fmt: skip
        site = kinds[world](seed, nodes).run()
        took = ", ".join([f"{took_ns / SECOND:.2f}" for took_ns in site.heals])
        what, count = (
            f"frames between {site.size} nodes, one view {took} s after heals",
            site.frames,
        )
        kills, events, digest = site.kills, site.events, site.digest
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
    parser.add_argument("--nodes", type=int, help="of a site; else as the seed says")
    parser.add_argument("--world", choices=(*PLAYS, "all"), default="all")
    given = parser.parse_args()
    out = sys.stdout.write
    worlds = list(PLAYS) if given.world == "all" else [given.world]
    if given.nodes and (len(worlds) > 1 or worlds[0] not in SITES):
        parser.error("--nodes is for --world site and --world copies")
    if given.seed is not None:
        for world in worlds:
            out(show(world, given.seed, given.nodes))
        seeds = range(given.seed, given.seed + 1)
    else:
        seeds = range(*map(int, given.seeds.split("..")))
    bad: set[int] = set()
    with ProcessPoolExecutor(given.jobs) as pool:
        plays: list[Callable[[int], list[str]]] = [PLAYS[world] for world in worlds]
        if given.nodes:
            plays = [partial(SITES[worlds[0]], nodes=given.nodes)]
        for one, world in zip(plays, worlds, strict=True):
            for seed, faults in zip(seeds, pool.map(one, seeds, chunksize=20), strict=True):
                if faults:
                    bad.add(seed)
                    told = "".join(f"  {fault}\n" for fault in faults[:20])
                    out(f"seed {seed} ({world})\n{told}")
                    sys.stdout.flush()
    out(f"{len(seeds) - len(bad)} of {len(seeds)} seeds kept every promise\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
