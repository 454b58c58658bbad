"""A large simulated site through faults: ``python -m tests.chaos.site_simulated [--nodes 50]``.

One history of ``meshmq.testing --world site``, with figures that are kept: how long after each
heal all nodes had one view and had agreed on the same, and what programs did meanwhile. It ends
with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from meshmq.limits import SECOND
from meshmq.testing import SiteWorld, check_site
from meshmq.testing.site_checkers import VIEW_NS
from meshmq.testing.site_directory import Agreements
from meshmq.testing.site_directory_checkers import AGREED_NS
from meshmq.testing.site_transients import Transients
from tests.bench import about

KINDS = ("kill", "cut", "stop", "break", "join", "intrude")


class Recorded(SiteWorld):
    """It counts what goes wrong."""

    def __init__(self, seed, nodes):
        super().__init__(seed, nodes)
        self.faults_by_kind = Counter()

    def note(self, *what):
        super().note(*what)
        if what[0] in KINDS:
            self.faults_by_kind[what[0]] += 1


def seconds(times_ns):
    return [round(took_ns / SECOND, 3) if took_ns >= 0 else None for took_ns in times_ns]


def play(seed, nodes):
    begun = time.monotonic()
    world = Recorded(seed, nodes)
    world.run()
    broken = check_site(world)
    transients = next(part for part in world.parts if isinstance(part, Transients))
    agreements = next(part for part in world.parts if isinstance(part, Agreements))
    return {
        "what": "a simulated site through faults",
        "commit": about.commit(),
        "date": about.date(),
        "seed": seed,
        "nodes": nodes,
        "nodes_at_the_end": len(world.members),
        "knowing": world.knowing,
        "virtual_seconds": round(world.now_ns / SECOND, 1),
        "one_view_after_heals_s": seconds(world.heals),
        "one_view_bound_s": VIEW_NS / SECOND,
        "one_directory_after_heals_s": seconds(world.agreed),
        "one_directory_bound_s": AGREED_NS / SECOND,
        "faults": dict(world.faults_by_kind),
        "frames_between_nodes": world.frames,
        "transient_records": len(transients.sent),
        "expected_of_them": transients.probes,
        "durable_records": len(agreements.stored),
        "policies_set_or_removed": len(agreements.words),
        "topics_deleted": len(agreements.gone),
        "events": world.events,
        "digest": world.digest[:16],
        "broken_promises": broken,
        "took_s": round(time.monotonic() - begun, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for the result")
    given = parser.parse_args()
    result = play(given.seed, given.nodes)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    about.keep(f"site-simulated-{given.nodes}", result, given.out)
    return 1 if result["broken_promises"] else 0


if __name__ == "__main__":
    sys.exit(main())
