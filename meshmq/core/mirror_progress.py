"""Which other sites have synced what of the logs of this node, and of those that it mirrors.

Data: of each log that a far node fetches from here a Fetching, which its Copied frames move on;
what others have told of sites that have a log from elsewhere (Mirrored frames), by who told it.

Rules:
1. A site has what lies before the place that its node has synced, of the topics of each strand. Of
   a mirror that began at a time only from the first batch on that its node is sent, by this fetch
   or the one before that it goes on with: what was passed over is older; or from where its node
   says that it has all. So it is where that node has passed something over. Where something came
   damaged, or is not kept here, only what is behind that.
2. When all was sent that is wished, and is synced there, a site has the log up to its end: what
   lies there is none of its topics.
3. What is known of who has a log is told to the node that this one has it from, and so comes to
   the log's own: in a chain, a star or a ring it knows of each site that has it, whoever that has
   it from. Of sites behind one that has all it is to have those that have as much have it up to the
   end too.
4. What was so once is true still when a link is cut: the site counts until its node says
   otherwise. It is forgotten with this process; the far nodes tell it again when they fetch.
5. Two nodes of one site count as one; our own site does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from meshmq import limits
from meshmq.core.claims import OF_GROUPS, are_disjoint, have_all, takes
from meshmq.core.copy_waiting import Place, Span
from meshmq.core.far_log import FarLog
from meshmq.core.mirror import Mirror
from meshmq.core.mirror_log import BEHIND_ALL
from meshmq.core.sibling import Sibling
from meshmq.core.streams import Needs
from meshmq.frames import Body
from meshmq.frames_copies import Claim, Mirrored, MirroredRow, Strand

START: Place = (1, 0)


@dataclass(slots=True, eq=False)
class Fetching:
    """A log that a far node fetches, or has fetched.

    Attributes:
        site: of that node.
        log: sends it; None: that is over.
        rows: by strand: it has synced all that is wished of that.
        since: from which time on it has the log, unix ns; 0: all.
        begun: by claims of strands, where that began with the fetch before.
    """

    site: str
    log: FarLog | None
    rows: tuple[MirroredRow, ...] = ()
    since: int = 0
    begun: dict[tuple[Claim, ...], Place] = field(default_factory=dict)

    @property
    def is_caught_up(self) -> bool:
        """Rule 2."""
        return self.log is not None and all(
            sender.is_live and sender.copied >= sender.sent for sender in self.log.senders
        )

    def is_all(self, row: MirroredRow) -> bool:
        """Whether a site behind it, which has what a row says, has all that there is of that, if
        this one has: each strand goes as far as its own topics do. Not so where some was passed
        over, as it was there already or is too old."""
        if self.log is None or self.log.had or self.since:
            return False
        strands = [(s.strand.claims, s.copied) for s in self.log.senders]
        # Those of what groups do have all that is wished (core/strands.py).
        wished = [[c for c in claims if c != OF_GROUPS] for claims, _ in strands
                  if OF_GROUPS in claims]  # fmt: skip
        return any(have_all(claims, row.claims) for claims in wished) and all(
            (row.lsn, row.slot) >= copied or are_disjoint(claims, row.claims)
            for claims, copied in strands
        )

    def look(self) -> None:
        """How far it has come."""
        assert self.log is not None
        rows: list[MirroredRow] = []
        for i, sender in enumerate(self.log.senders):
            strand, until, since = sender.strand, sender.copied, START
            # A topic of both is in the first one.
            first = self.log.senders[:i]
            until = min([until, *[s.copied for s in first if _share(s.strand, strand)]])
            if self.log.frame.whole > START:
                since = self.log.frame.whole
            elif self.since:
                goes_on = strand.place > START
                before = self.begun.get(strand.claims, BEHIND_ALL) if goes_on else BEHIND_ALL
                since = min(before, sender.began)
            lsn, slot = sender.damaged_at
            since = max(since, (lsn, slot + 1 if lsn else 0), sender.gap_at)
            if OF_GROUPS not in strand.claims:
                rows.append(MirroredRow(self.site, strand.claims, *since, *until))
        self.rows = tuple(rows)


def _share(one: Strand, other: Strand) -> bool:
    return not are_disjoint(one.claims, other.claims)


class MirrorProgress:
    """See the module's header.

    Args:
        site: our own.
        end_of: of a log, the place behind all that is synced here.
    """

    def __init__(self, site: str, end_of: Callable[[bytes], Place]) -> None:
        self._site = site
        self._end_of = end_of
        self._fetching: dict[tuple[bytes, bytes], Fetching] = {}  # by far node, and origin of a log
        self._heard: dict[bytes, dict[bytes, tuple[MirroredRow, ...]]] = {}  # by log, and node
        self._told: dict[bytes, tuple[bytes, int, tuple[MirroredRow, ...]]] = {}  # by log
        self._news: set[bytes] = set()  # logs of which there may be something to tell

    # -- what is known ------------------------------------------------------------------------

    def begin(self, far: Sibling, log: FarLog) -> None:
        """A far node fetches a log."""
        key = (far.origin, log.frame.origin)
        before = self._fetching.pop(key, None)
        for old in [k for k, f in self._fetching.items() if f.log is None]:
            if len(self._fetching) >= limits.MIRRORS_MAX:
                del self._fetching[old]
        self._fetching[key] = new = Fetching(far.site, log, since=log.frame.since)
        if before is not None and before.since == new.since:
            new.begun = {row.claims: (row.since_lsn, row.since_slot) for row in before.rows}

    def note(self, far: Sibling, log: FarLog) -> None:
        """A far node has synced more of what it fetches."""
        fetching = self._fetching.get((far.origin, log.frame.origin))
        if fetching is not None and fetching.log is log:
            fetching.look()
            self._news.add(log.frame.origin)

    def end(self, log: FarLog) -> None:
        """It is sent no more."""
        for fetching in self._fetching.values():
            if fetching.log is log:
                fetching.log = None

    def hear(self, node: Sibling, frame: Mirrored) -> None:
        """Another node tells of sites that have a log."""
        heard = self._heard.setdefault(frame.origin, {})
        heard.pop(node.origin, None)
        heard[node.origin] = frame.rows
        while len(heard) > limits.MIRRORED_ROWS_MAX:
            del heard[next(iter(heard))]
        while len(self._heard) > limits.MIRRORS_MAX:
            del self._heard[next(iter(self._heard))]
        self._news.add(frame.origin)

    def _rows(self, origin: bytes, besides: bytes = b"") -> list[MirroredRow]:
        """All that is known of who has a log, but for what one node has told; rules 2 and 3."""
        end = self._end_of(origin)
        rows: list[MirroredRow] = []
        full: dict[bytes, Fetching] = {}  # by far node that has all it is to have
        for (far, log), f in self._fetching.items():
            if log != origin:
                continue
            is_caught_up = f.is_caught_up
            if is_caught_up:
                full[far] = f
            for row in f.rows if far != besides else ():
                until = max(end, (row.lsn, row.slot)) if is_caught_up else (row.lsn, row.slot)
                rows.append(row._replace(lsn=until[0], slot=until[1]))
        for node, told in self._heard.get(origin, {}).items():
            for row in told if node != besides else ():
                if node in full and full[node].is_all(row):
                    lsn, slot = max(end, (row.lsn, row.slot))
                    row = row._replace(lsn=lsn, slot=slot)
                rows.append(row)
        return rows

    def spans(self, origin: bytes, topic: str) -> dict[str, list[Span]]:
        """By other site, what it has synced of a topic's records in a log."""
        found: dict[str, list[Span]] = {}
        for row in self._rows(origin):
            if row.site != self._site and takes(row.claims, topic):
                span = (row.since_lsn, row.since_slot), (row.lsn, row.slot)
                found.setdefault(row.site, []).append(span)
        return found

    # -- what is told -------------------------------------------------------------------------

    def tell(self, mirrors: Iterable[Mirror], nodes: Iterable[Sibling]) -> list[tuple[bytes, Body]]:
        """Frames for the nodes that this one has logs from, where there is news; rule 3."""
        sends: list[tuple[bytes, Body]] = []
        origins = {node.link: node.origin for node in nodes}
        for mirror in mirrors:
            origin, link = mirror.origin, mirror.link
            if not mirror.number or link not in origins:
                continue
            rows = _merged(self._rows(origin, origins[link]), self._site)
            told = (link, mirror.number, rows)
            before = self._told.get(origin)
            if told == before or not (rows or (before and before[2])):
                continue
            self._told[origin] = told
            sends.append((link, Mirrored(origin, rows)))
        return sends

    def take_news(self) -> set[bytes]:
        """Logs of which something has come since the last time."""
        news, self._news = self._news, set()
        return news

    def why(self, origin: bytes, needs: Needs, span: Span, linked: Iterable[str]) -> str:
        """Who has a record that lies somewhere between two places of a log, and why others have it
        not. ``linked``: sites that are."""
        first, last = span
        spans = self.spans(origin, needs.topic)
        far = {site: [a for a, b in rows if last < b] for site, rows in spans.items()}
        have = sorted(site for site, begun in far.items() if any(a <= first for a in begun))
        linked = set(linked) - {self._site}
        names = f": {', '.join(have)}" if have else ""
        words = [f"{len(have)} of {needs.sites} sites {_has(len(have))} it{names}"]
        heard = {row.site for rows in self._heard.get(origin, {}).values() for row in rows}
        for site in sorted({*linked, *spans} - {*have}):
            if site not in spans:
                words.append(f"site {site!r} does not mirror topic {needs.topic!r} from here")
            elif far[site]:
                words.append(
                    f"site {site!r} has part of the log only, and where what was sent again lies "
                    f"there is not known"
                )
            elif site in linked or site in heard:
                words.append(f"site {site!r} has not come so far")
            else:
                words.append(f"site {site!r} is not linked")
        if not (linked or spans):
            words.append("no other site is linked")
        return "; ".join(words)


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _merged(rows: Iterable[MirroredRow], site: str) -> tuple[MirroredRow, ...]:
    """Each once, as far as any says; not those of our own ``site``, whose node says it itself."""
    found: dict[tuple[object, ...], MirroredRow] = {}
    for row in rows:
        key = row[:4]
        if row.site != site and (key not in found or row > found[key]):
            found[key] = row
    return tuple(sorted(found.values()))[: limits.MIRRORED_ROWS_MAX]
