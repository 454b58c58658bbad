"""What a node pulls from another site, as its people have configured it."""

from __future__ import annotations

from typing import NamedTuple

from meshmq import limits
from meshmq.core.mirror_log import SiteRetention

COMPRESSIONS = ("none", "zstd")


class LinkWish(NamedTuple):
    """What a node pulls from another site. Who makes one checks it (cli/config.py does).

    Attributes:
        to: name of the other site, never our own; no two wishes of a node have the same.
        endpoints: 1 to 16 addresses, ``tcp://host:port``, where nodes of that site may be dialled.
        topics: patterns of the topics that are pulled, 64 at most; empty: nothing is.
        exclude: patterns of the topics among those that are not, 64 at most.
        bytes_per_second: all nodes of our site together pull no more; 0: as much as there is.
        compression: ``none`` or ``zstd``: batches cross the link so.
        live: patterns of transient topics that come as they are published, 64 at most.
        services: patterns of the services that requests of ours may ask there, 64 at most.
        priority: patterns of topics that go first, those before the others, 8 at most.
        since_ns: a new mirror begins with what was stored at this time, unix ns; 0: with all.
        since_age_ns: instead of that, how long before it begins; 0: nobody says.
        retention: what our site keeps of each topic of each log, as a topic's policy says it: (ns,
            bytes), 0: no bound; None: what the log's own node keeps.
    """

    to: str
    endpoints: tuple[str, ...]
    topics: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    bytes_per_second: int = 0
    compression: str = "none"
    priority: tuple[str, ...] = ()
    since_ns: int = 0
    since_age_ns: int = 0
    retention: tuple[int, int] | None = None

    def begins(self, wall_ns: int, clock_ns: int = 0) -> int:
        """From which time on a mirror has what is stored, unix ns, that begins now.

        Records are stored by the clock of their node, which shows ``clock_ns`` (0: unknown), where
        ours shows ``wall_ns``. Where that one is behind, what is stored from now on comes all the
        same: only what is past may be left out. A time to come is meant as it is.
        """
        ages = [self.since_age_ns] if self.since_age_ns else []
        if self.retention is not None:
            ages.append(self.retention[0] or limits.LINK_EVER_NS)
        found = max([0, self.since_ns, *[int(wall_ns - age) for age in ages]])
        return min(found, clock_ns) if clock_ns and found <= wall_ns else found

    @property
    def site_retention(self) -> SiteRetention | None:
        """What our site keeps of a log by its own word, with who said so."""
        return None if self.retention is None else SiteRetention(self.to, *self.retention)


LINKED, REFUSED, CONNECTING, DOWN = "linked", "refused", "connecting", "down"


class Endpoint(NamedTuple):
    """How the dial to an endpoint of a link goes.

    Attributes:
        state: ``linked``; ``refused``: who is there is of another site or mesh, or says no;
            ``connecting``: the first dial is under way; ``down``: nobody answers.
        node: name of the node that is linked.
        why: of a refusal, for people.
    """

    state: str
    node: str = ""
    why: str = ""
