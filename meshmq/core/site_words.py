"""What sites tell each other of their groups: who is seen, who was taken over, what comes back.

Rules:
1. All that is known is told when a data link opens, and again when it has changed: by each node to
   those of its own site as it sees it, to those of other sites as its site does. A node tells its
   own site of another one as linked once that has said what it knows, and tells of that with it.
2. Nothing is handed out after a link has brought a site back before what was told first by it is
   noted: what was taken over is given away in the same turn.
3. A command is for all nodes of the site (core/site_listings.py): each has mirrors of its own. None
   refuses by itself what others do: each says what is in the way, and ``check`` does nothing else.
4. What is handed back goes from the node that has it to the one whose it is, over a link of the
   two: a third site would have to keep what is on its way, and both would have to wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from meshmq import limits
from meshmq.core.link_wish import LinkWish
from meshmq.core.mirror import Mirror
from meshmq.core.sibling import Sibling
from meshmq.core.site_copies import SiteCopies
from meshmq.core.site_fence import SiteFence
from meshmq.core.site_identity import SiteIdentity
from meshmq.core.site_takeover import SiteTakeovers
from meshmq.errors import CommandFailed
from meshmq.frames import Body
from meshmq.frames_copies import CopiesRow
from meshmq.frames_site_words import HandBack, HandedBack, SiteTaken, SiteWords


class SiteWordsPart:
    """See the module's header. Frames gather in ``sends``.

    Args:
        me, name: our own.
        tell_fenced: tells members why groups hand out nothing, or (empty) that they do again.
    """

    def __init__(
        self, me: SiteIdentity, name: str, copies: SiteCopies, tell_fenced: Callable[[str], None]
    ) -> None:
        self._site = site = me.site
        self._name, self._fence_ns = name, me.fence_ns
        self._copies = copies
        copies.own.ask_sites(me.far_nodes)
        self.fence = SiteFence(copies.groups, tell_fenced)
        self.taken: SiteTakeovers = copies.far
        self.fence.site = self.taken.site = site
        self.taken.has_heard = self._has_heard
        self.fence.sites_taken = self.taken.sites_taken
        self._nodes: dict[bytes, Sibling] = {}
        self._heard: dict[bytes, dict[bytes, SiteTaken]] = {}  # by node: what it knows
        self._told: dict[bytes, SiteWords] = {}
        self._linked_to: tuple[str, ...] = ()
        self._due_ns = 0
        self.sends: list[tuple[bytes, Body]] = []

    def set_links(self, wishes: tuple[LinkWish, ...], now_ns: int) -> None:
        """What the configuration says."""
        self._linked_to = tuple([wish.to for wish in wishes])
        self.fence.set(self._fence_ns, bool(wishes), now_ns)
        self._due_ns = 0

    def join(self, node: Sibling, now_ns: int) -> None:
        """A data link with a node, of our site or another one, is open."""
        self._nodes[node.origin] = node
        self.fence.join(node, now_ns)
        self._tell(node, now_ns)
        self.sends += [(node.link, frame) for frame in self.taken.frames_for(node.origin)]

    def leave(self, node: Sibling, now_ns: int) -> None:
        """It is over."""
        if self._nodes.pop(node.origin, None) is not None:
            self.fence.leave(node, now_ns)
            self._told.pop(node.origin, None)
            self._heard.pop(node.origin, None)

    def on_body(self, node: Sibling, body: Body, now_ns: int) -> bool:
        """What a node says, if it is of this. Raises BadFrame."""
        match body:
            case SiteWords():
                self._heard[node.origin] = {row.origin: row for row in body.taken}
                if node.site:
                    self._copies.takeovers.on_far_rows(body.inside)
                self.taken.on_taken(body.taken)
                self.fence.on_words(node, body, now_ns)
                self.fence.tick(now_ns)
                self._due_ns = 0
            case HandBack():
                answer = self.taken.on_hand_back(body)
                if answer is not None:
                    self._copies.groups.answers.append((node.link, answer))
            case HandedBack():
                self.taken.on_handed_back(node.origin, body)
                self._due_ns = 0
            case _:
                return False
        return True

    def _has_heard(self, entry: SiteTaken) -> bool:
        """Whether all who are linked know a takeover, or a greater one."""
        for node in self._nodes.values():
            row = self._heard.get(node.origin, {}).get(entry.origin)
            if row is None or row.rank < entry.rank:
                return False
        return True

    # -- commands -------------------------------------------------------------------------------

    def command(self, verb: str, arguments: dict[str, Any], now_ns: int) -> dict[str, Any]:
        """``site takeover`` or ``handback`` of a site, at this node. Raises CommandFailed."""
        site = arguments["name"]
        if site == self._site:
            raise CommandFailed(f"{site!r} is this node's own site: another one is meant")
        mirrors = [m for m in self._copies.mirrors.of_others if _site_of(m) == site]
        if verb == "site.handback":
            return self._hand_back(site, bool(arguments.get("check")))
        why = "" if not mirrors else self._refusal(site, mirrors, arguments, now_ns)
        doubt = "" if not mirrors else self._doubt(site, now_ns)
        if arguments.get("check") or why or (doubt and not arguments.get("assume_dead")):
            logs = [self.taken.plan(mirror) for mirror in mirrors]
            is_done = False
        else:
            logs = [self._take(mirror, now_ns) for mirror in mirrors]
            is_done = True
        row = {"node": self._name, "refused": why, "logs": logs, "done": is_done}
        return {
            "site": site, "by": self._site, "doubt": doubt, "unheard": self._unheard(site),
            "nodes": [row],
        }  # fmt: skip

    def _doubt(self, site: str, now_ns: int) -> str:
        """Why what is taken over may be worked on elsewhere too; empty: it surely is not."""
        doubts = [self.fence.doubt(site, now_ns)]
        for known in self.taken.known.values():
            is_other_s = known.site == site and known.by != self._site
            if is_other_s and not (known.is_back or self.fence.is_up(known.by)):
                doubts.append(
                    f"groups of {site} were taken over by site {known.by} before (epoch "
                    f"{known.epoch}), which is not linked: what it does of them is not known here, "
                    f"and is worked on here again"
                )
        return ". ".join([doubt for doubt in dict.fromkeys(doubts) if doubt])

    def _unheard(self, site: str) -> list[str]:
        """Other sites that may take it over as well, and not hear of us; those that ours has taken
        over itself people said to be dead."""
        named = [*self._linked_to, *[_site_of(m) for m in self._copies.mirrors.of_others]]
        gone = {site, *self.taken.sites_taken()}
        return [other for other in self.fence.unheard(named) if other not in gone]

    def _take(self, mirror: Mirror, now_ns: int) -> dict[str, Any]:
        self.fence.gone(_site_of(mirror))
        taken = self.taken.take(mirror, now_ns)
        self._copies.end_fetch(mirror)
        mirror.link = b""
        self._due_ns = 0
        return taken

    def _refusal(
        self, site: str, mirrors: Iterable[Mirror], arguments: dict[str, Any], now_ns: int
    ) -> str:
        if self._copies.own.behind is not None:
            return f"the log of node {self._name} is behind its copies: renew it first"
        if self.fence.is_linked(site):
            return f"site {site} is linked: it hands out its groups itself, stop its nodes first"
        for mirror in mirrors:
            node = self._nodes.get(mirror.origin)
            if node is not None:
                return (
                    f"node {mirror.shown} is linked, as {node.site}/{node.name} now: it hands out "
                    f"its groups itself, stop it first"
                )
            known = self.taken.known.get(mirror.origin)
            is_other_s = known is not None and not known.is_back and known.by != self._site
            if known is not None and is_other_s and self.fence.is_up(known.by):
                return (
                    f"groups of {site} were taken over by site {known.by} (epoch {known.epoch}), "
                    f"which is there"
                )
            if mirror.lacks and not arguments.get("may_repeat"):
                return (
                    f"the mirror of {mirror.shown} at node {self._name} lacks part of what its "
                    f"groups had done: records would be worked on again; say --may-repeat if that "
                    f"is no harm"
                )
        return ""

    def _hand_back(self, site: str, is_check: bool) -> dict[str, Any]:
        logs, why = [], ""
        for origin, entry in self.taken.known.items():
            if entry.site != site or not self.taken.is_taker(origin) or entry.is_over:
                continue
            node = self._nodes.get(origin)
            if node is None:
                why = self._no_link(site, entry)
                left = self.taken.left(origin)
            elif is_check:
                left = self.taken.left(origin)
            else:
                left = self.taken.hand_back(origin)
            logs.append({
                "name": f"{site}/{entry.name}", "origin": origin.hex(), "epoch": entry.epoch,
                "records": left,
            })  # fmt: skip
        self._due_ns = 0
        row = {"node": self._name, "refused": why, "logs": logs, "done": not (why or is_check)}
        return {"site": site, "by": self._site, "doubt": "", "nodes": [row]}

    def _no_link(self, site: str, entry: SiteTaken) -> str:
        """Why what a node took over cannot go back now; rule 4."""
        said = (
            f"node {site}/{entry.name} is not linked with node {self._name}, which has its work "
            f"and hands it back to that node itself"
        )
        if self.fence.is_linked(site) or not self.fence.is_up(site):
            return f"{said}: start it, or see to the network, then say this again"
        return (
            f"{said}, not over a third site: put a [[link]] to {site} into the settings of site "
            f"{self._site}, with all its nodes as endpoints and the topics that are mirrored now, "
            f"send the nodes SIGHUP, then say this again"
        )

    # -- time, and what is told -----------------------------------------------------------------

    def _words(self, is_far: bool, now_ns: int) -> SiteWords:
        known = tuple([entry.told() for entry in self.taken.told(is_far)])
        takeovers = self._copies.takeovers.known
        mine = {self._copies.origin, *self._copies.names}
        inside = [
            CopiesRow(o, "", 0, 0, t.epoch, t.taker, t.lsn, t.slot)
            for o, t in sorted(takeovers.items()) if is_far and o in mine
        ]  # fmt: skip
        fence_ms = self.fence.fence_ns // limits.MS
        seen = self.fence.told(is_far, now_ns)
        return SiteWords(fence_ms, seen, known[: limits.MIRRORS_MAX], tuple(inside))

    def _tell(self, node: Sibling, now_ns: int) -> None:
        words = self._words(bool(node.site), now_ns)
        was = self._told.get(node.origin)
        if was is None and words == SiteWords(0) and not node.site:
            return  # there is nothing
        if was is None or _lasting(was) != _lasting(words):
            self._told[node.origin] = words
            self.sends.append((node.link, words))

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        if now_ns < self._due_ns:
            return
        self._due_ns = now_ns + limits.COPIES_TOLD_NS
        self.fence.tick(now_ns)
        self.taken.tick(now_ns)
        for node in self._nodes.values():
            self._tell(node, now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        is_busy = self._nodes or self.taken.known or self.fence.fence_ns
        return self._due_ns if is_busy or self._copies.groups.held_by else None

    def take_sends(self) -> list[tuple[bytes, Body]]:
        """Frames for links."""
        parts, self.taken.parts = self.taken.parts, []
        for origin in parts:
            node = self._nodes.get(origin)
            if node is not None:
                self.sends += [(node.link, frame) for frame in self.taken.frames_for(origin)]
        sends, self.sends = self.sends, []
        return sends

    def take_news(self) -> list[str]:
        """Sentences for people."""
        news = [*self.fence.news, *self.taken.news]
        self.fence.news, self.taken.news = [], []
        return news

    def describe(self) -> dict[str, Any]:
        """As ``status`` shows it."""
        nodes = {o: node.name for o, node in self._nodes.items()}
        names = {**self._copies.names, **nodes, self._copies.origin: self._name}
        return {
            "fence_seconds": self.fence.fence_ns / limits.SECOND,
            "held_by": self._copies.groups.held_by,
            "taken": self.taken.describe(names),
        }


def _lasting(words: SiteWords) -> tuple[Any, ...]:
    """What of it is news when it changes: not how long ago a site was seen."""
    seen = [(row.site, row.is_linked) for row in words.seen]
    return words.fence_ms, seen, words.taken, words.inside


def _site_of(mirror: Mirror) -> str:
    return mirror.linked.site if mirror.linked is not None else ""
