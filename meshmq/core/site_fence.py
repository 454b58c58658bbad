"""Which other sites are there, and whether ours may hand out what its groups have.

Data: when each other site was seen last, by any node of ours; what other sites see; how long each
goes on without links (``fence_after`` of its settings).

Rules:
1. A site with a fence hands out nothing once it has been without any link for that long, by the
   monotonic clock. Its node says so, and goes on when another site has told what it knows.
2. A node with groups and links that starts hands out nothing before another site has told what it
   knows: it may have been taken over. Without a fence that waits RETURN_WAIT_NS at most.
3. What a node of ours sees counts for all of them. A node that hears of no other one counts alone.
4. A site that was told to take another one over is the one that goes on: it is fenced no more until
   that is back. So one that is fenced takes over only if told that the other one is dead.
5. A site is surely fenced when nobody has seen it for its fence and FENCE_MARGIN_NS: neither we,
   nor any site that it was linked with when it was heard last. Of one of these that is not linked
   with us nothing is sure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshmq import limits
from meshmq.core.groups import Groups
from meshmq.core.sibling import Sibling
from meshmq.frames_site_words import SeenRow, SiteWords

Told = dict[str, tuple[bool, int]]
"""Of other sites: whether they are linked, and when they were seen last."""


WAITS = "the node was started: it waits to hear from another site whether that has taken it over"


class SiteFence:
    """See the module's header.

    Args:
        groups: of this node.
        tell: is told of a fence: why nothing is handed out; empty: it is again.

    Attributes:
        fence_ns: of our own site; 0: none.
        is_fenced: it hands out nothing because of that.
        sites_taken: those that ours has taken over.
        news: sentences for people.
    """

    def __init__(self, groups: Groups, tell: Callable[[str], None]) -> None:
        self.site = ""
        self.fence_ns = 0
        self.news: list[str] = []
        self.sites_taken: Callable[[], set[str]] = set
        self._were_back: set[str] = set()
        self._groups = groups
        self._tell = tell
        self._had_groups = bool(groups.by_name)
        self._has_links = False
        self._has_heard = False
        self.is_fenced = False
        self._start_ns = 0
        self._seen: dict[str, int] = {}  # other sites, by us
        self._links: dict[bytes, str] = {}  # sites of far nodes that are linked
        self._by_sibling: dict[bytes, Told] = {}
        self._by_far: dict[bytes, Told] = {}
        self._fences: dict[str, tuple[int, tuple[str, ...]]] = {}  # and whom it was linked with

    def set(self, fence_ns: int, has_links: bool, now_ns: int) -> None:
        """What the configuration says."""
        self.fence_ns = fence_ns
        self._has_links = has_links
        self._start_ns = self._start_ns or now_ns
        self.tick(now_ns)

    # -- what is seen ---------------------------------------------------------------------------

    def join(self, node: Sibling, now_ns: int) -> None:
        """A data link is open."""
        if node.site:
            self._links[node.origin] = node.site
            self._were_back.add(node.site)
            self._seen[node.site] = now_ns

    def leave(self, node: Sibling, now_ns: int) -> None:
        """It is over."""
        self._by_far.pop(node.origin, None)
        if node.site:
            self._links.pop(node.origin, None)
            self._seen[node.site] = now_ns
            return
        for site, (is_linked, seen_ns) in self._by_sibling.pop(node.origin, {}).items():
            self._seen[site] = max(self._seen.get(site, 0), now_ns if is_linked else seen_ns)

    def gone(self, site: str) -> None:
        """Ours takes it over."""
        self._were_back.discard(site)

    def on_words(self, node: Sibling, words: SiteWords, now_ns: int) -> None:
        """A node says what it sees, or its site."""
        told = {
            row.site: (row.is_linked, now_ns - row.ms * limits.MS)
            for row in words.seen if row.site != self.site
        }  # fmt: skip
        if not node.site:
            self._by_sibling[node.origin] = told
            self._has_heard = self._has_heard or any(linked for linked, _ in told.values())
            return
        self._by_far[node.origin] = told
        self._fences[node.site] = (
            words.fence_ms * limits.MS, tuple(sorted(s for s, (up, _) in told.items() if up))
        )  # fmt: skip
        self._has_heard = True

    def _here(self, by_site: bool = True) -> Told:
        """What this node sees itself. Its siblings go on when it sees a site: it has to have heard
        first what that knows."""
        linked = {site for o, site in self._links.items() if by_site or o in self._by_far}
        return {site: (site in linked, ns) for site, ns in self._seen.items()}

    def told(self, by_site: bool, now_ns: int) -> tuple[SeenRow, ...]:
        """What others are told of it: of this node, or of the whole site."""
        found = self._here(by_site)
        for told in self._by_sibling.values() if by_site else ():
            for site, (is_linked, seen_ns) in told.items():
                was_linked, was_ns = found.get(site, (False, 0))
                found[site] = (is_linked or was_linked, max(seen_ns, was_ns))
        rows = [
            SeenRow(site, is_linked, 0 if is_linked else max(0, now_ns - ns) // limits.MS)
            for site, (is_linked, ns) in sorted(found.items())
        ]
        return tuple(rows[: limits.SITES_MAX])

    def is_linked(self, site: str) -> bool:
        """Whether a node of ours has a link with another site."""
        return any(row.site == site and row.is_linked for row in self.told(True, 0))

    def is_up(self, site: str) -> bool:
        """Whether another site is linked with us, or with one that we are linked with."""
        if self.is_linked(site):
            return True
        return any(told.get(site, (False, 0))[0] for told in self._by_far.values())

    def unheard(self, named: Iterable[str]) -> list[str]:
        """Of sites that are ``named`` or were ever heard of: those that are not up."""
        told = [self._here(), *self._by_sibling.values(), *self._by_far.values()]
        others = {*named, *[site for rows in told for site in rows]} - {self.site, ""}
        return sorted(site for site in others if not self.is_up(site))

    # -- ours -----------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Rules 1 and 2."""
        for site in self._links.values():
            self._seen[site] = now_ns
        seen = self.told(True, now_ns)
        if self.fence_ns and not any(row.is_linked for row in seen):
            last_ns = max([self._start_ns, *(now_ns - row.ms * limits.MS for row in seen)])
            if now_ns - last_ns >= self.fence_ns and self._has_heard:
                self._has_heard = False
                self._had_groups = True
        is_shut = self._has_to_wait(now_ns)
        words = (self.words if self.fence_ns else WAITS) if is_shut else ""
        if words != self._groups.held_by:
            self._groups.held_by = words
            if not words:
                self._groups.wake_all()
        is_fenced = is_shut and bool(self.fence_ns)
        if is_fenced != self.is_fenced:
            self.is_fenced = is_fenced
            self._tell(words)
            is_linked = any(row.is_linked for row in seen)
            why = "a link is back" if is_linked else f"site {self.site} is the one that goes on"
            self.news.append(words or f"{why}: what groups have is handed out again")

    def _has_to_wait(self, now_ns: int) -> bool:
        if self.fence_ns and self.sites_taken() - self._were_back:
            return False  # rule 4
        if self._has_heard or not (self._has_links or self.fence_ns) or not self._start_ns:
            return False
        is_late = now_ns - self._start_ns >= (self.fence_ns or limits.RETURN_WAIT_NS)
        if not self._had_groups:
            return bool(self.fence_ns) and is_late
        return bool(self.fence_ns) or not is_late

    @property
    def words(self) -> str:
        """What is said while our own site is fenced."""
        return (
            f"site {self.site} has no link with any other site: its groups hand out nothing, as "
            f"fence_after = {self.fence_ns / limits.SECOND:g}s of [site] says, until there is one"
        )

    # -- others ---------------------------------------------------------------------------------

    def doubt(self, site: str, now_ns: int) -> str:
        """Why another site may hand out its groups still; empty: it surely does not."""
        if self.is_fenced:
            return (
                f"site {self.site} has no link with any other site either: which of the two goes "
                f"on, people have to say"
            )
        fence_ns, linked = self._fences.get(site, (0, ()))
        if not fence_ns:
            return (
                f"site {site} has told no fence_after since this node was started: if it is alive "
                f"behind a cut it goes on, and what it hands out from now on may be worked on twice"
            )
        need_ns = fence_ns + limits.FENCE_MARGIN_NS
        ages = [row.ms * limits.MS for row in self.told(True, now_ns) if row.site == site]
        age_ns = min(ages, default=now_ns - self._start_ns)
        others = []
        for other in linked:
            by = [t for o, t in self._by_far.items() if self._links.get(o) == other]
            if not by:
                return (
                    f"site {site} was linked with {other}, which is not linked here: whether it "
                    f"is still, and so goes on, cannot be known"
                )
            others += [t[site] for t in by if site in t]
        if any(up for up, _ in others):
            return f"site {site} is linked with another one, so it goes on"
        age_ns = min([age_ns, *(now_ns - seen_ns for _, seen_ns in others)])
        if age_ns >= need_ns:
            return ""
        left_s = -((age_ns - need_ns) // limits.SECOND)
        return (
            f"site {site} was seen {age_ns // limits.SECOND} s ago, and hands out its groups for "
            f"{fence_ns / limits.SECOND:g} s after that (its fence_after): it is certain in "
            f"{left_s} s that it does not"
        )
