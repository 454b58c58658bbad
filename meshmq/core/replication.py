"""Logs of other sites, mirrored here, and ours on their way there.

Data: what the configuration wishes of each site; of each far node, one of another site with an open
data link, the logs that it offers; logs on their way to one are
the business of core/far_log.py.

Rules:
1. A node offers its own log and its mirrors. Not the copies it keeps of its siblings' logs: they
   lack topics that have none.
2. A log of another site is pulled from its own node, where that is linked, else from a mirror that
   has all that is wished: what a narrower one passes over would be missing for good. Of those one
   that has more than we have goes first, then one that is pulled itself. One that comes by our own
   site is none, so nothing goes round in a circle. What is pulled goes on until that is over, the
   own node is there, or nothing has come for LINK_STALE_NS while another one has more. A log of our
   own site never comes back; but one batch does that is damaged here (core/mending.py).
3. Of the nodes of our site that see a log the one with the greatest hash of (origin, node) pulls
   it. Another one that has a mirror keeps it until that one has as much of what is wished; what
   that one lacks comes from there (core/site_copies.py), and not over the link.
4. What is wished of a log is what the link to its own site says, if there is one, else the link
   it comes by. It is pulled by strands (core/strands.py): who goes first over a thin link, and what
   was wished later, with its past.
5. A mirror that begins at a time has nothing that was stored before; it is no source for who wants
   that. Who takes over from another node of ours begins where that one did; of two that have begun
   at different times, as each was without the other, that one pulls that has begun earlier.
6. What our site keeps of a log is what the link of rule 4 says of that, if anything, for as long as
   there is that link. Such a mirror is partial, and no source for other sites.
7. Groups' journals are mirrored with what is wished (core/wished.py). Of a journal that was trimmed
   before it came the sum is asked for: by the log's own site, of who mirrors a mirror in its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from meshmq import limits
from meshmq.core.claims import has_all
from meshmq.core.copy_rows import weight
from meshmq.core.copy_sender import LogTopics
from meshmq.core.copy_waiting import Span
from meshmq.core.delivery import Delivery
from meshmq.core.feed import Feed
from meshmq.core.link_budget import LinkBudget
from meshmq.core.link_rates import LinkRates
from meshmq.core.link_rows import LACKS_PAST, LACKS_SOME, LACKS_TOPICS, link_row, log_row
from meshmq.core.link_verify import LinkVerify, Log
from meshmq.core.link_wish import Endpoint, LinkWish
from meshmq.core.mirror import Mirror
from meshmq.core.mirror_log import LinkedEntry
from meshmq.core.mirror_progress import MirrorProgress
from meshmq.core.packing import opened
from meshmq.core.sibling import Sibling
from meshmq.core.site_copies import NO_COPY, PUT_BACK, SiteCopies
from meshmq.core.strands import BEGIN, furthest, have_more
from meshmq.core.streams import Needs
from meshmq.core.topics import Topics
from meshmq.core.wished import patterns_in, patterns_of
from meshmq.errors import BadFrame, CommandFailed
from meshmq.frames import Body
from meshmq.frames_copies import (
    NO_LEVEL,
    Copied,
    CopiesRow,
    Fetch,
    Fetched,
    LogOffer,
    LogOffers,
    Mirrored,
    Strand,
)
from meshmq.frames_verify import CheckRange, RangeChecked

TOO_MANY = (
    "what is wished has changed too often: it goes on with what was wished before until that has "
    "caught up, or less of its topics is kept"
)


class Source(NamedTuple):
    """Where a log can be had."""

    far: Sibling
    row: LogOffer
    has_more: bool

    @property
    def is_owner(self) -> bool:
        """Whether it is the log's own node."""
        return self.row.origin == self.far.origin

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """The greater the better."""
        return self.is_owner, self.has_more, bool(self.row.path)

    @property
    def rank(self) -> tuple[tuple[bool, bool, bool], int, int, int, bytes]:
        """The greater the better, also of one kind."""
        row = self.row
        return self.kind, row.lsn, row.slot, -len(row.path), self.far.origin


class Replication:
    """See the module's header. Frames gather in ``sends``.

    Args:
        site, name: our own.
        topics, delivery: of our own log.
        now: what time it is.
    """

    def __init__(
        self, site: str, name: str, copies: SiteCopies, topics: Topics, delivery: Delivery,
        now: Callable[[], int],
    ) -> None:  # fmt: skip
        self._tools = copies.tools
        self._now = now
        copies.logs.now, copies.logs.tools = now, copies.tools
        self._rates = LinkRates()
        self._budgets: dict[str, LinkBudget] = {}  # by site that is pulled from
        self._shares: dict[str, tuple[int, int]] = {}  # by site: logs that we pull of all of them
        self._round_trips: dict[bytes, int] = {}  # by far node: of the last pulse
        self._site = site
        self._name = name
        self._copies = copies
        self._topics = topics
        self._delivery = delivery
        self._wishes: dict[str, LinkWish] = {}
        self._far: dict[bytes, Sibling] = {}
        self._siblings: dict[bytes, Sibling] = {}
        self._offers: dict[bytes, dict[bytes, LogOffer]] = {}  # by far node, and origin
        self._seen: dict[bytes, dict[bytes, LogOffer]] = {}  # by sibling: logs that it can pull
        self._wall_offset_ns = 0  # unix time less the monotonic; 0: unknown
        self._offered: list[LogOffer] = []  # as far nodes were told last
        self._told: tuple[LogOffer, ...] = ()
        self._due_ns = 0
        self._moved: dict[bytes, tuple[list[Strand], int]] = {}  # where each log is, since when
        self.sends: list[tuple[bytes, Body]] = []
        copies.links_far = self._links_with
        copies.paced = self._paced
        self.progress = MirrorProgress(site, self._end_of)
        copies.logs.on_end = self.progress.end
        self.verify = LinkVerify(self, copies, topics, delivery, self.sends, now)
        copies.waiting.sites_with = lambda topic: self.progress.spans(copies.origin, topic)
        copies.waiting.why_sites = self._why_sites
        copies.waiting.kept_from = self._kept_from

    def _end_of(self, origin: bytes) -> tuple[int, int]:
        """The place behind all that is synced here of a log."""
        if origin == self._copies.origin:
            return self._delivery.committed_lsn + 1, 0
        mirror = self._copies.mirrors.by_origin.get(origin)
        return (0, 0) if mirror is None else mirror.synced

    def _why_sites(self, needs: Needs, span: Span) -> str:
        linked = {far.site for far in self._far.values()}
        return self.progress.why(self._copies.origin, needs, span, linked)

    def _kept_from(self, name: str) -> tuple[bytes, int]:
        topic = self._topics.by_name.get(name)
        return (b"", 0) if topic is None else (topic.entry.topic_id, topic.first_offset)

    def set_wishes(self, wishes: tuple[LinkWish, ...]) -> None:
        """What is pulled from other sites from now on."""
        self._wishes = {wish.to: wish for wish in wishes}
        self._set_budgets()
        for mirror in self._copies.mirrors.of_others:
            self._keep(mirror)
        self._due_ns = 0

    # -- who is there ---------------------------------------------------------------------------

    def join(self, far: Sibling, now_ns: int) -> None:
        """The data link with a node of another site is open."""
        self._far[far.origin] = far
        self._copies.logs.flow(far.link, self._round_trips.get(far.origin, 0))
        self.sends.append((far.link, _for(far, self._all_offers())))

    def leave(self, far: Sibling) -> None:
        """It is over."""
        if self._far.pop(far.origin, None) is None:
            return
        self._offers.pop(far.origin, None)
        self._copies.logs.drop_link(far.link)
        self._rates.on_left(far.site, far.name, far.link, self._now())
        self._copies.drop_link(far.link)
        self.verify.leave(far)
        self._due_ns = 0

    def join_sibling(self, sibling: Sibling) -> None:
        """The data link with another node of our site is open."""
        self._siblings[sibling.origin] = sibling
        if reach := self._reach():
            self.sends.append((sibling.link, LogOffers(reach)))

    def leave_sibling(self, sibling: Sibling) -> None:
        """It is over."""
        self._siblings.pop(sibling.origin, None)
        self._seen.pop(sibling.origin, None)
        self._due_ns = 0

    def on_sibling(self, sibling: Sibling, frame: LogOffers) -> None:
        """Which logs of other sites another node of ours can pull."""
        self._seen[sibling.origin] = {row.origin: row for row in frame.rows}
        self._due_ns = 0

    def on_mirrored(self, node: Sibling, frame: Mirrored) -> None:
        """Which sites have what of a log that another node has from here, or is ours."""
        self.progress.hear(node, frame)
        if frame.origin == self._copies.origin:
            self._copies.waiting.release()

    def on_body(self, far: Sibling, body: Body, now_ns: int) -> None:
        """A node of another site says something. Raises BadFrame for what is not of copies."""
        match body:
            case LogOffers(rows):
                self._offers[far.origin] = {r.origin: _heard(r, self._now()) for r in rows}
                self._due_ns = 0
                mine = tuple(
                    [CopiesRow(r.origin, r.name, *max((r.lsn, r.slot), furthest(r.strands)))
                     for r in rows if r.origin == self._copies.origin]
                )  # fmt: skip
                # Whether a backup was put back: any strand may be what shows it.
                self._copies.own.on_far_rows(far, mine, self._delivery.committed_lsn)
            case Fetch():
                self._on_fetch(far, body)
            case Fetched():
                self._on_fetched(far, body, now_ns)
            case Copied():
                log = self._copies.on_copied(far, body, now_ns)
                if log is not None:
                    self.progress.note(far, log)
                if body.origin == self._copies.origin:
                    self._copies.waiting.release()
            case Mirrored():
                self.on_mirrored(far, body)
            case CheckRange():
                self.verify.on_check(far, body)
            case RangeChecked():
                self.verify.on_checked(far, body)
            case _:
                raise BadFrame(f"a link between sites is not for {type(body).__name__}")

    # -- what others pull -----------------------------------------------------------------------

    def _all_offers(self) -> tuple[LogOffer, ...]:
        end = self._delivery.committed_lsn + 1
        own = LogOffer(self._copies.origin, self._name, self._site, end, 0)
        rows = [own._replace(clock=self._wall_ns)]
        for mirror in self._copies.mirrors.of_others:
            assert mirror.linked is not None
            linked, place = mirror.linked, mirror.synced
            row = LogOffer(mirror.origin, mirror.name, linked.site, *place, *linked.claim)
            is_partial = mirror.topics.is_partial  # who takes it is told where it begins
            rows.append(row._replace(
                path=self._path(mirror), strands=mirror.stored, partial=is_partial,
                since=0 if is_partial else linked.since, clock=self._clock_of(mirror.origin),
            ))  # fmt: skip
        return tuple(rows[: limits.MIRRORS_MAX])

    def shared_with(self, site: str) -> list[Log]:
        """Logs that are here and at a node of another site. Raises CommandFailed."""
        there = [far for far in self._far.values() if far.site == site]
        if not there:
            known = sorted({far.site for far in self._far.values()})
            linked = f"it is with {', '.join(known)}" if known else "it is with none"
            raise CommandFailed(f"this node is not linked with site {site!r} now; {linked}")
        found: dict[bytes, Log] = {}
        for far in there:
            for origin, row in self._offers.get(far.origin, {}).items():
                mirror = self._copies.mirrors.by_origin.get(origin)
                if origin == self._copies.origin:
                    found.setdefault(origin, Log(origin, self._name, far))
                elif mirror is None or mirror.linked is None:
                    continue
                elif origin not in found or row.origin == far.origin:  # best its own node
                    found[origin] = Log(origin, mirror.shown, far)
        return list(found.values())

    def _links_with(self, origin: bytes) -> list[bytes]:
        """Far nodes that have a log, or what is mirrored of it, ours among these."""
        return [
            far.link for far in self._far.values() if origin in self._offers.get(far.origin, {})
        ]

    def _path(self, mirror: Mirror) -> tuple[str, ...]:
        """Sites by which a log comes here now."""
        found = self._source_by(mirror.origin, mirror.link) if mirror.number else None
        if found is None or not (found.is_owner or found.row.path):
            return ()
        path = (*found.row.path, found.far.site)
        return path if len(path) <= limits.LINK_PATH_MAX else ()

    def _on_fetch(self, far: Sibling, frame: Fetch) -> None:
        if frame.topic_id:
            self._copies.fetch_one(far.link, frame)
            return
        copies = self._copies
        copies.logs.end((far.link, frame.origin))
        if frame.level == NO_LEVEL or not frame.strands:
            return
        place = max(BEGIN, furthest(frame.strands))
        feed: Feed
        topics: LogTopics
        if frame.origin == copies.origin:
            if copies.own.is_short_of(place, self._delivery.committed_lsn):
                self.sends.append(
                    (far.link, Fetched(frame.number, code="copy-ahead", message=PUT_BACK))
                )
                return
            copies.own.served()
            feed, topics = self._delivery, self._topics
            pattern_of = patterns_of(copies.groups)
        else:
            mirror = copies.mirrors.by_origin.get(frame.origin)
            if mirror is None or mirror.linked is None or mirror.topics.is_partial or (
                not mirror.has_all_of(frame.strands)
            ):  # fmt: skip
                self.sends.append(
                    (far.link, Fetched(frame.number, code="not-found", message=NO_COPY))
                )
                return
            feed, topics, pattern_of = mirror.feed, mirror.topics, patterns_in(mirror)
        log = copies.logs.begin(far.link, frame, feed, topics, pattern_of)
        self.progress.begin(far, log)

    def _on_fetched(self, far: Sibling, frame: Fetched, now_ns: int) -> None:
        size = len(frame.payload) + len(frame.batches) * limits.LINK_ROW_BYTES
        if far.site in self._budgets:
            self._budgets[far.site].on_came(size, frame.size or len(frame.payload))
        self._rates.on_crossed(far.site, far.link, frame, now_ns)
        mirror = self._copies.fetching(far.link, frame.number)
        try:
            frame = opened(frame, self._tools)
        except BadFrame as error:
            if mirror is not None:
                mirror.refused += 1
                mirror.problem = str(error)
                self._copies.stop(mirror, now_ns)
            return
        self._copies.on_fetched(far, frame, now_ns)
        if mirror is not None and frame.batches and mirror.number == frame.number:
            self._rates.on_taken(mirror, frame, now_ns)

    # -- what we pull ---------------------------------------------------------------------------

    def _wish_for(self, far: Sibling, row: LogOffer) -> LinkWish | None:
        """Rule 4."""
        by = self._wishes.get(far.site)
        # Our own log may be known there by the name that our site had before.
        is_ours = row.site == self._site or row.origin == self._copies.origin
        if is_ours or by is None or not by.topics:
            return None
        return self._wishes.get(row.site, by)

    def _source(self, far: Sibling, row: LogOffer) -> Source | None:
        """A log at a far node, if it may be pulled there; rule 2."""
        wish = self._wish_for(far, row)
        if wish is None or not wish.topics or self._site in row.path or self._lacks(row, wish):
            return None
        had = self._copies.mirrors.by_origin.get(row.origin)
        if row.topics and had is not None:
            return Source(far, row, have_more(row.strands, tuple(had.strands.values())))
        return Source(far, row, (row.lsn, row.slot) > (had.place if had else BEGIN))

    def _lacks(self, row: LogOffer, wish: LinkWish) -> str:
        """Why a mirror at a far node is no source: what it has not would be passed over for good.
        Empty: it is one, or it is the log itself."""
        if not row.topics:
            return ""
        if not has_all((row.topics, row.exclude), (wish.topics, wish.exclude)):
            return LACKS_TOPICS
        had = self._copies.mirrors.by_origin.get(row.origin)
        linked = None if had is None else had.linked
        begun = self._begun(row.origin) if linked is None else {b"": linked.since}
        if row.since > (min(begun.values()) if begun else wish.begins(self._wall_ns)):
            return LACKS_PAST
        return LACKS_SOME if row.partial else ""

    def _begun(self, origin: bytes) -> dict[bytes, int]:
        """By node of ours that mirrors a log: from which time on, unix ns."""
        held = self._copies.held.items()
        rows = {node: rows[origin] for node, rows in held if origin in rows}
        begun = {node: row.since for node, row in rows.items() if row.topics}
        mirror = self._copies.mirrors.by_origin.get(origin)
        if mirror is not None and mirror.linked is not None:
            begun[self._copies.origin] = mirror.linked.since
        return begun

    def _since(self, row: LogOffer, wish: LinkWish) -> int:
        """From which time on a new mirror begins, unix ns; rule 5. What is older than we keep
        is not had at all. What we keep longer than its node is gone there: who has begun first has
        most, so there is a time also where all is kept."""
        begun = self._begun(row.origin)
        if begun:
            return min(begun.values())
        return max(row.since, wish.begins(self._wall_ns, self._clock_of(row.origin)))

    @property
    def _wall_ns(self) -> int:
        """What time it is, unix ns; 0: unknown."""
        return self._wall_offset_ns and self._wall_offset_ns + self._now()

    def _clock_of(self, origin: bytes) -> int:
        """What time it is at a log's node, by its own word if that is linked; 0: unknown."""
        told = {node: rows[origin].clock for node, rows in self._offers.items() if origin in rows}
        ahead_ns = told.get(origin) or max(told.values(), default=0)
        return max(1, ahead_ns + self._now()) if ahead_ns else 0

    def _keep(self, mirror: Mirror, wish: LinkWish | None = None) -> None:
        """Rule 6."""
        assert mirror.linked is not None
        links = [far.site for far in self._far.values() if far.link == mirror.link]
        links = [mirror.linked.site, *links, *(mirror.linked.retention or ())[:1]]
        wish = wish or next((self._wishes[to] for to in links if to in self._wishes), None)
        was_partial = mirror.topics.is_partial
        self._copies.mirrors.keep(mirror, None if wish is None else wish.site_retention)
        if mirror.topics.is_partial and not was_partial:
            self._copies.logs.refuse(mirror.origin, "not-found", NO_COPY)

    def _source_by(self, origin: bytes, link: bytes) -> Source | None:
        """The same by the far node's link."""
        for far in self._far.values():
            if far.link == link:
                row = self._offers.get(far.origin, {}).get(origin)
                return self._source(far, row) if row is not None else None
        return None

    def _sources(self) -> dict[bytes, Source]:
        """Where each log is pulled best; rule 2."""
        found: dict[bytes, Source] = {}
        for origin, rows in self._offers.items():
            for row in rows.values():
                source = self._source(self._far[origin], row)
                if source is None or not any(source.kind):
                    continue
                if row.origin not in found or source.rank > found[row.origin].rank:
                    found[row.origin] = source
        return found

    def _reach(self) -> tuple[LogOffer, ...]:
        """Logs that this node can pull, for its siblings."""
        rows = [s.row._replace(lsn=1, slot=0, topics=(), exclude=(), path=(), clock=0)
                for s in self._sources().values()]  # fmt: skip
        return tuple(sorted(rows)[: limits.MIRRORS_MAX])

    def _puller(self, origin: bytes) -> bytes:
        """Which node of ours pulls a log that this one sees; rules 3 and 5."""
        nodes = [self._copies.origin, *[n for n, rows in self._seen.items() if origin in rows]]
        begun = self._begun(origin)
        since = min(begun.values(), default=0)
        first = [node for node in nodes if begun.get(node, since) == since]
        return max(first or nodes, key=lambda node: weight(origin, node))

    def _choose(self, now_ns: int) -> None:
        sources, taken = self._sources(), self._copies.far
        over = [far.link for far in self._far.values()]
        for mirror in self._copies.mirrors.of_others:
            if mirror.link in over and mirror.origin not in sources:  # nobody wishes it any more
                self._copies.end_fetch(mirror)
                mirror.link = b""
        self._shares = {}
        for origin, source in sources.items():
            ours, count = self._shares.get(source.far.site, (0, 0))
            is_ours = self._puller(origin) == self._copies.origin
            self._shares[source.far.site] = ours + is_ours, count + 1
        self._set_budgets()
        for origin, source in sources.items():
            had = self._copies.mirrors.by_origin.get(origin)
            if had is not None and had.linked is None:
                continue  # it was of our site
            if taken.is_moving(origin):
                continue  # until all is moved nothing comes
            puller = taken.puller(origin, self._siblings) or self._puller(origin)
            if puller == self._copies.origin:
                self._pull(had, source, now_ns)
            elif had is not None:
                self._leave_to(puller, had, source)

    def _leave_to(self, puller: bytes, mirror: Mirror, source: Source) -> None:
        """Another node of ours pulls a log from now on; what is here goes by what is wished now,
        which may be less than when it was pulled here."""
        if mirror.link in [far.link for far in self._far.values()]:
            self._copies.end_fetch(mirror)
            mirror.link = b""
        row = self._copies.held.get(puller, {}).get(mirror.origin)
        assert mirror.linked is not None
        if (
            row is not None
            and row.since <= mirror.linked.since
            and has_all((row.topics, row.exclude), self._linked(source).claim)
            and not have_more(mirror.stored, row.strands)
        ):
            self._copies.drop(mirror.origin)
            self._moved.pop(mirror.origin, None)

    def _pull(self, mirror: Mirror | None, source: Source, now_ns: int) -> None:
        copies = self._copies
        if mirror is not None and mirror.number and mirror.link != source.far.link:
            now = self._source_by(mirror.origin, mirror.link)
            if mirror.link not in [far.link for far in self._far.values()]:
                if not self._is_rewished(mirror, self._linked(source)):
                    return  # it comes from a sibling, until that is over
            elif now is not None and not self._turns(mirror, now, source, now_ns):
                source = now
        far, row, _ = source
        linked = self._linked(source)
        if mirror is None:
            is_full = len(copies.mirrors.by_origin) >= limits.MIRRORS_MAX
            if is_full or row.origin in copies.mirrors.dropping:
                return
            mirror = copies.mirrors.open_linked(row.name, linked)
            copies.version += 1
        elif self._is_rewished(mirror, linked):
            if copies.mirrors.rewish(mirror, linked):
                copies.end_fetch(mirror)
                has = mirror.has_all_of  # else who wants more would be told that it has all
                copies.logs.refuse(
                    row.origin, "not-found", NO_COPY, lambda log: not has(log.frame.strands)
                )
            else:
                mirror.problem = TOO_MANY
        by = self._wishes[far.site]
        terms = by.compression != "none", by.bytes_per_second
        if mirror.number and mirror.link == far.link and mirror.terms != terms:
            copies.end_fetch(mirror)  # the link is another one now
        if (mirror.number and mirror.link == far.link) or mirror.again_ns > now_ns:
            return
        if not mirror.number and copies.ahead_of(mirror) is not None:
            return  # a sibling has more of it
        mirror.name = row.name
        mirror.credit = limits.LINK_CREDIT_BYTES  # who sends bounds all logs of a link together
        if far.site in self._budgets:
            way_ns = self._round_trips.get(far.origin, 0)
            mirror.credit = self._budgets[far.site].first(row.origin, way_ns)
        mirror.terms = terms
        wish = self._wish_for(far, row)
        self._keep(mirror, wish)
        if wish is not None and wish.retention is not None and mirror.place == BEGIN:
            # It has nothing of a sibling.
            begins = wish.begins(self._wall_ns, self._clock_of(row.origin))
            copies.mirrors.begin_at(mirror, begins)
        copies.mirrors.split(mirror, row.strands)
        self._moved[row.origin] = list(mirror.strands.values()), now_ns
        copies.fetch(mirror, far)

    def _linked(self, source: Source) -> LinkedEntry:
        """What a mirror of what is there is to be."""
        row, wish = source.row, self._wish_for(source.far, source.row)
        assert wish is not None
        since = self._since(row, wish)
        return LinkedEntry(
            row.origin, row.site, wish.topics, wish.exclude, wish.priority, since,
            wish.site_retention,
        )  # fmt: skip

    @staticmethod
    def _is_rewished(mirror: Mirror, linked: LinkedEntry) -> bool:
        return mirror.linked is not None and mirror.linked[1:5] != linked[1:5]

    def _turns(self, mirror: Mirror, now: Source, other: Source, now_ns: int) -> bool:
        """Whether what comes from one is to come from another one; rule 2."""
        places = list(mirror.strands.values())
        before, since_ns = self._moved.get(mirror.origin, (places, now_ns))
        if before != places:
            since_ns = now_ns
        self._moved[mirror.origin] = places, since_ns
        is_stale = now_ns - since_ns >= limits.LINK_STALE_NS
        return other.kind > now.kind and (other.is_owner or is_stale)

    # -- how fast -------------------------------------------------------------------------------

    def _set_budgets(self) -> None:
        """Rule 4 of core/link_budget.py."""
        for wish in self._wishes.values():
            ours, all_logs = self._shares.get(wish.to, (1, 1))
            rate = wish.bytes_per_second * max(1, ours) // max(1, all_logs)
            if not wish.bytes_per_second:
                self._budgets.pop(wish.to, None)
            elif wish.to in self._budgets:
                self._budgets[wish.to].rate = max(1, rate)
            else:
                self._budgets[wish.to] = LinkBudget(max(1, rate), self._now())
        for to in self._budgets.keys() - self._wishes.keys():
            del self._budgets[to]

    def _paced(self, mirror: Mirror, credit: int) -> int:
        """What its sender gets now of the room for so much; the rest is for later."""
        for far in self._far.values():
            if far.link == mirror.link and far.site in self._budgets:
                self._budgets[far.site].hold(mirror.origin, credit)
                return 0
        return credit

    def _grant(self, now_ns: int) -> None:
        for budget in self._budgets.values():
            for origin, credit in budget.grant(now_ns):
                mirror = self._copies.mirrors.by_origin.get(origin)
                if mirror is not None and mirror.link:
                    self._copies.tell(mirror, credit)

    def on_round_trip(self, far: Sibling, ns: int) -> None:
        """A pulse came back from a node of another site."""
        self._round_trips[far.origin] = ns
        if far.link:
            self._copies.logs.flow(far.link).on_round_trip(ns)

    # -- time, and what is shown ----------------------------------------------------------------

    def tick(self, now_ns: int, wall_ns: int) -> None:
        """Time has passed; ``wall_ns`` is unix time."""
        self._grant(now_ns)
        if now_ns < self._due_ns:
            return
        self._wall_offset_ns = wall_ns - now_ns
        self._due_ns = now_ns + limits.COPIES_TOLD_NS
        self._choose(now_ns)
        self._rates.tick(self._copies.mirrors.of_others, now_ns)
        self._tell_mirrored(self._copies.mirrors.of_others)
        self._copies.waiting.tell_sites(now_ns)
        self.verify.tick()
        self._copies.waiting.release()
        offered = self._all_offers()
        untimed = [row._replace(clock=0) for row in offered]  # that changes always
        if untimed != self._offered:
            self._offered = untimed
            for far in self._far.values():
                self.sends.append((far.link, _for(far, offered)))
        reach = self._reach()
        if reach != self._told:
            self._told = reach
            self.sends += [(s.link, LogOffers(reach)) for s in self._siblings.values()]

    def _tell_mirrored(self, mirrors: list[Mirror]) -> None:
        nodes = (*self._far.values(), *self._siblings.values())
        self.sends += self.progress.tell(mirrors, nodes)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        if not self._far:
            return None
        granted = [budget.next_deadline_ns() for budget in self._budgets.values()]
        return min([self._due_ns, *[due for due in granted if due is not None]])

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames for links, since the last time."""
        if news := self.progress.take_news():
            self._tell_mirrored([m for m in self._copies.mirrors.of_others if m.origin in news])
        sends, self.sends[:] = list(self.sends), []
        return sends

    def describe(self, now_ns: int, endpoints: Mapping[str, Endpoint]) -> list[dict[str, Any]]:
        """As ``status`` shows it: each link, and the logs that come by it, or else are of its site.

        Args:
            endpoints: by address that is dialled, how that goes.
        """
        at = {node.link: node for node in (*self._far.values(), *self._siblings.values())}
        logs: dict[str, list[dict[str, Any]]] = {to: [] for to in self._wishes}
        for mirror in self._copies.mirrors.of_others:
            assert mirror.linked is not None
            node = at.get(mirror.link)
            to = node.site if node is not None and node.site else mirror.linked.site
            if to in logs:
                logs[to].append(log_row(mirror, node, self._rates.log(mirror, now_ns)))
        not_pulled, rows = self._not_pulled(), []
        for to, wish in self._wishes.items():
            there = [far for far in self._far.values() if far.site == to]
            flow = self._rates.link(to, [far.link for far in there], logs[to], now_ns)
            names = [far.name for far in there]
            rows.append(link_row(wish, names, endpoints, flow, logs[to], not_pulled[to].values()))
        return rows

    def _not_pulled(self) -> dict[str, dict[bytes, dict[str, Any]]]:
        """By link, mirrors that are offered there, and have less than is wished here, of logs that
        no node of ours can pull anywhere else."""
        found: dict[str, dict[bytes, dict[str, Any]]] = {to: {} for to in self._wishes}
        had = set(self._sources()).union(*self._seen.values())
        for origin, rows in self._offers.items():
            far = self._far[origin]
            for row in rows.values():
                wish = self._wish_for(far, row)
                if row.origin in had or wish is None or self._site in row.path:
                    continue
                if wish.topics and (lacks := self._lacks(row, wish)):
                    name = f"{row.site}/{row.name}"
                    found[far.site][row.origin] = {"name": name, "lacks": lacks}
        return found


def _for(far: Sibling, rows: tuple[LogOffer, ...]) -> LogOffers:
    """What a far node may have of them, and how far the mirror of its own log goes."""
    may_have = [r for r in rows if r.site != far.site]
    return LogOffers((*may_have, *[r for r in rows if r.origin == far.origin]))


def _heard(row: LogOffer, now_ns: int) -> LogOffer:
    """As it is kept: with how far the clock of the log's node is ahead of our monotonic one."""
    return row._replace(clock=row.clock - now_ns) if row.clock else row
