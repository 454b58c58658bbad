"""Which way a program reads each log: by its own node, or directly at the node that has it.

Data: a Branch for each subscription and log of another node that has brought something. It is in
one of four states:

* HOME: our node reads it for us.
* ASKED: our node was told to send nothing more of it, and has not answered yet.
* OPENING: nothing more comes of it by our node; its owner was asked to read it from there on.
* DIRECT: the owner has answered; what it sends is taken.

Rules:
1. A log that brings much (DIRECT_READ_*) is worth a link to its owner. There is one link for all
   subscriptions, and DIRECT_READ_LINKS_MAX in all; it is dialled while everything goes on by our
   node. Who does not answer, or whose link breaks, is dialled again after a pause, longer each
   time, if its log still brings much. Nobody is told: where the network does not reach, all stays
   as it is.
2. A log never comes by two ways: the one ends, with a word behind its last batch, before the other
   begins where that ended; the place is known here (core/subscriber.py).
3. A branch whose link is lost, refused or drained, or that has brought nothing for
   DIRECT_READ_IDLE_NS, is our node's again, from where reading goes on. What may still come of it
   directly is not taken: each opening has a number of its own.
4. While our node is lost, and at the next one, what is read directly goes on so; that node is told.
   But for its own log, and where it does not know of this.
5. A word to our node and its answer are in order in one session; as long as an answer is awaited no
   other word is said of the same branch but that it is our node's again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum

from meshmq import limits
from meshmq.core.effects import CloseLink, OpenLink, Send
from meshmq.core.owner_links import OwnerLink, OwnerLinks
from meshmq.core.subscriber import Share, Subscriber
from meshmq.errors import BadFrame
from meshmq.frames import (
    DIRECT_READS_MINOR,
    Body,
    Credit,
    Deliver,
    Drained,
    Envelope,
    Streams,
    Subscribed,
    Unsubscribe,
)


class Route(Enum):
    HOME = "home"
    ASKED = "asked"
    OPENING = "opening"
    DIRECT = "direct"


class Branch:
    """One log of another node, as one subscription has it.

    Attributes:
        number: of the subscription at the owner, while it is OPENING or DIRECT.
        share: of the window, asked for or used.
        asked: shares that our node has not answered about yet.
        since_ns, frames, bytes: what it has brought by our node since then.
        is_wanted: it has brought much.
        came_ns: when it has last brought something directly, or was opened.
    """

    __slots__ = (
        "asked", "bytes", "came_ns", "frames", "is_wanted", "number", "origin", "route", "share",
        "since_ns", "sub",
    )  # fmt: skip

    def __init__(self, sub: Subscriber, origin: bytes) -> None:
        self.sub = sub
        self.origin = origin
        self.route = Route.HOME
        self.number = 0
        self.share = Share(0, 0)
        self.asked: list[Share] = []
        self.since_ns = self.came_ns = 0
        self.frames = self.bytes = 0
        self.is_wanted = False


class Retry:
    """An owner that could not be reached: when it may be dialled again, and where."""

    def __init__(self) -> None:
        self.at_ns = 0
        self.failures = 0


class DirectReads:
    """See the module's header. One for each connection.

    Args:
        said: mesh, name and software, as we say at owners.
        addresses_of: where a node can be dialled, by its origin; none where it is away.
        entropy: of links, and for the spread of pauses.

    Attributes:
        is_on: the program wants it.
        to_node: frames for our node, in order; the client takes them.
    """

    def __init__(
        self,
        said: tuple[str, str, str],
        addresses_of: Callable[[bytes], tuple[str, ...]],
        entropy: random.Random,
    ) -> None:
        self.is_on = False
        self.links = OwnerLinks(*said, entropy)
        self.to_node: list[Body] = []
        self._addresses_of = addresses_of
        self._entropy = entropy
        self._branches: dict[tuple[int, bytes], Branch] = {}
        self._by_number: dict[tuple[bytes, int], Branch] = {}  # by link and number there
        self._retries: dict[bytes, Retry] = {}
        self._at_node = False  # there is a session, with one that knows of this
        self._last_number = 0
        self._look_ns = 0  # when to look for what brings nothing

    # -- our node -------------------------------------------------------------------------------

    def attach(self, origin: bytes, minor: int, now_ns: int) -> None:
        """There is a session with our node, and nothing was said in it yet."""
        self._at_node = minor >= DIRECT_READS_MINOR
        for branch in list(self._branches.values()):
            if branch.origin == origin or not self._at_node:
                self._end(branch, now_ns)
        link = self.links.by_origin.get(origin)
        if link is not None:
            self.links.close(link, now_ns)

    def detach(self) -> None:
        """It is over, and with it all that our node was to answer."""
        self._at_node = False
        self.to_node.clear()
        for branch in self._branches.values():
            branch.asked.clear()
            if branch.route is Route.ASKED:
                branch.route = Route.HOME

    def on_home(self, sub: Subscriber, frame: Deliver, now_ns: int) -> None:
        """Our node has delivered of another one's log."""
        if not (self.is_on and self._at_node):
            return
        origin = frame.batches[0].origin
        branch = self._branches.get((sub.id, origin))
        if branch is None:
            branch = self._branches[sub.id, origin] = Branch(sub, origin)
        if branch.route is not Route.HOME:
            return
        if now_ns - branch.since_ns > limits.DIRECT_READ_SPAN_NS:
            branch.since_ns, branch.frames, branch.bytes = now_ns, 0, 0
        branch.frames += 1
        branch.bytes += len(frame.payload)
        if branch.frames >= limits.DIRECT_READ_FRAMES or branch.bytes >= limits.DIRECT_READ_BYTES:
            branch.since_ns, branch.frames, branch.bytes = now_ns, 0, 0
            branch.is_wanted = True
            self._want(branch, now_ns)

    def on_streams(self, number: int, frame: Streams, now_ns: int) -> None:
        """Our node has answered: nothing more comes of these logs by it."""
        for row in frame.rows:
            branch = self._branches.get((number, row.origin))
            if not row.direct or branch is None or not branch.asked:
                continue
            branch.sub.take_back(branch.asked.pop(0))
            if branch.route is Route.ASKED and not branch.asked:
                self._open(branch, now_ns)
            self.grant(branch.sub, now_ns)

    def closed(self, sub: Subscriber, now_ns: int) -> None:
        """A subscription is over."""
        for key in [key for key in self._branches if key[0] == sub.id]:
            branch = self._branches.pop(key)
            self._leave_owner(branch, now_ns)

    def grant(self, sub: Subscriber, now_ns: int) -> None:
        """The program has consumed something, or there are other shares than before."""
        if not sub.shares:
            credit = sub.credit()
            if credit is not None:
                self.to_node.append(credit)
            return
        for origin, size, records in sub.grants():
            if not origin:
                self.to_node.append(Credit(sub.id, size, records))
                continue
            branch, link = self._branches[sub.id, origin], self.links.by_origin[origin]
            self.links.send(link, Credit(branch.number, size, records), now_ns)

    # -- links to owners ------------------------------------------------------------------------

    def on_frame(self, name: bytes, envelope: Envelope, now_ns: int) -> Deliver | None:
        """A frame of an owner; return what it delivers, as if it came by our node. That is to be
        taken before anything else happens here."""
        got = self.links.receive(name, envelope, now_ns)
        if got is not None:
            try:
                came = self._on_body(*got, now_ns)
            except BadFrame:
                self.links.fail(name, now_ns)
            else:
                return came
        self._note_links(now_ns)
        return None

    def on_failed(self, name: bytes, now_ns: int) -> None:
        """A link was cut, or brought what is no frame."""
        self.links.fail(name, now_ns)
        self._note_links(now_ns)

    def _on_body(self, link: OwnerLink, body: Body, now_ns: int) -> Deliver | None:
        match body:
            case Subscribed(number):
                branch = self._by_number.get((link.name, number))
                if branch is not None and body.code:
                    self._delay(link.origin, now_ns)
                    self._return(branch, now_ns)
                elif branch is not None:
                    branch.route, branch.came_ns = Route.DIRECT, now_ns
            case Deliver(number) if body.batches:
                branch = self._by_number.get((link.name, number))
                if branch is not None and branch.route is Route.DIRECT:
                    return self._delivered(branch, body, now_ns)
            case Drained():
                self._delay(link.origin, now_ns, limits.AVOIDED_NS)
                self._leave(link, now_ns)
        return None

    def _delivered(self, branch: Branch, frame: Deliver, now_ns: int) -> Deliver:
        for row in frame.batches:
            if not row.lsn or row.origin or row.source:
                raise BadFrame(f"a node delivers of topic {row.topic!r} what is not of its log")
        branch.came_ns = now_ns
        origin = branch.origin
        self._retries.pop(origin, None)  # it is of use
        rows = tuple([row._replace(origin=origin) for row in frame.batches])
        return Deliver(branch.sub.id, rows, 0, frame.payload)

    def _note_links(self, now_ns: int) -> None:
        links = self.links
        while links.opened or links.lost:
            opened, links.opened = links.opened, []
            lost, links.lost = links.lost, []
            for link in lost:
                self._delay(link.origin, now_ns)
                for branch in list(self._branches.values()):
                    if branch.origin == link.origin:
                        self._return(branch, now_ns)
            for link in opened:
                for branch in list(self._branches.values()):
                    if branch.origin == link.origin and branch.is_wanted:
                        self._ask(branch, now_ns)

    def _delay(self, origin: bytes, now_ns: int, at_least_ns: int = 0) -> None:
        """Do not dial it for a while."""
        retry = self._retries.get(origin)
        if retry is None:
            if len(self._retries) >= limits.SITE_NODES_MAX:
                del self._retries[next(iter(self._retries))]
            retry = self._retries[origin] = Retry()
        pause_ns = min(
            limits.DIRECT_READ_RETRY_NS_MAX,
            limits.DIRECT_READ_RETRY_NS_MIN << min(retry.failures, 10),
        )
        retry.failures += 1
        pause_ns = max(at_least_ns, int(pause_ns * (0.5 + self._entropy.random())))
        retry.at_ns = now_ns + pause_ns

    # -- from way to way ------------------------------------------------------------------------

    def _want(self, branch: Branch, now_ns: int) -> None:
        """A log brings much: rule 1."""
        origin = branch.origin
        retry = self._retries.get(origin)
        if (retry is not None and now_ns < retry.at_ns) or self._share_for(branch) is None:
            return
        link = self.links.by_origin.get(origin)
        if link is not None:
            if link.is_open:
                self._ask(branch, now_ns)
            return
        addresses = self._addresses_of(origin)
        if not addresses or len(self.links) >= limits.DIRECT_READ_LINKS_MAX:
            return
        tried = retry.failures if retry is not None else 0
        self.links.open(origin, addresses[tried % len(addresses)], now_ns)

    def _ask(self, branch: Branch, now_ns: int) -> None:
        """Have our node send nothing more of it."""
        sub, share = branch.sub, self._share_for(branch)
        if share is None:
            return
        branch.route, branch.share, branch.is_wanted = Route.ASKED, share, False
        branch.asked.append(share)
        row = sub.resume(branch.origin)._replace(
            direct=True, bytes=share.most_bytes, records=share.most_records
        )
        self.to_node.append(Streams(sub.id, (row,)))

    def _share_for(self, branch: Branch) -> Share | None:
        """What a log would have of the window; None: it cannot be read directly now."""
        sub = branch.sub
        if branch.route is not Route.HOME or branch.asked or not self._at_node:
            return None
        if not (sub.is_active and sub.has_place(branch.origin)):
            return None
        mine = [b for (number, _), b in self._branches.items() if number == sub.id]
        return sub.share(sum([b.route is not Route.HOME for b in mine]))

    def _open(self, branch: Branch, now_ns: int) -> None:
        """Nothing more comes by our node: read on at the owner."""
        link = self.links.by_origin[branch.origin]  # a lost one has made it our node's again
        self._last_number = self._last_number % 0xFFFF_FFFF + 1
        branch.number, branch.route = self._last_number, Route.OPENING
        branch.came_ns = now_ns
        self._by_number[link.name, branch.number] = branch
        frame = branch.sub.begin_direct(branch.origin, branch.share, branch.number)
        self.links.send(link, frame, now_ns)

    def _return(self, branch: Branch, now_ns: int) -> None:
        """Rule 3: it is our node's again."""
        if branch.route is Route.HOME:
            return
        self._end(branch, now_ns)
        if self._at_node:
            self.to_node.append(Streams(branch.sub.id, (branch.sub.resume(branch.origin),)))
        self.grant(branch.sub, now_ns)

    def _end(self, branch: Branch, now_ns: int) -> None:
        """It is not read directly any more; our node is told by others."""
        self._leave_owner(branch, now_ns)
        branch.sub.end_direct(branch.origin)
        branch.route, branch.is_wanted = Route.HOME, False
        branch.frames = branch.bytes = 0

    def _leave_owner(self, branch: Branch, now_ns: int) -> None:
        if branch.route not in (Route.OPENING, Route.DIRECT):
            return
        for key in [k for k, b in self._by_number.items() if b is branch]:
            del self._by_number[key]
        link = self.links.by_origin.get(branch.origin)
        if link is not None:
            self.links.send(link, Unsubscribe(branch.number), now_ns)

    def _leave(self, link: OwnerLink, now_ns: int) -> None:
        """Read nothing there any more."""
        for branch in list(self._branches.values()):
            if branch.origin == link.origin:
                self._return(branch, now_ns)
        self.links.close(link, now_ns)

    # -- time, and what goes out ----------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        self.links.tick(now_ns)
        self._note_links(now_ns)
        if not self.links.by_origin or now_ns < self._look_ns:
            return
        self._look_ns = now_ns + limits.DIRECT_READ_IDLE_NS // 4
        used = set()
        for branch in list(self._branches.values()):
            is_idle = now_ns - branch.came_ns >= limits.DIRECT_READ_IDLE_NS
            if branch.route in (Route.OPENING, Route.DIRECT) and is_idle:
                self._return(branch, now_ns)
            if branch.route is not Route.HOME:
                used.add(branch.origin)
        for link in list(self.links.by_origin.values()):
            if link.is_open and link.origin not in used:
                self.links.close(link, now_ns)

    def next_deadline_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        if not self.links.by_origin:
            return None
        at = self.links.next_deadline_ns()
        return self._look_ns if at is None else min(at, self._look_ns)

    def take_effects(self, now_ns: int) -> list[OpenLink | CloseLink | Send]:
        """What to do with links to owners. There may be more for our node then."""
        links = self.links
        links.flush(now_ns)
        while links.lost or links.opened:
            self._note_links(now_ns)
            links.flush(now_ns)
        effects, self.links.effects = self.links.effects, []
        return effects

    def goodbye(self, now_ns: int) -> None:
        """The program ends."""
        for link in list(self.links.by_origin.values()):
            self.links.close(link, now_ns)
        for branch in self._branches.values():
            branch.sub.end_direct(branch.origin)
        self._branches.clear()
        self._by_number.clear()

    def read_directly(self, number: int) -> tuple[str, ...]:
        """Names of nodes at which a subscription reads."""
        found = [
            b.sub.name_of(b.origin) or b.origin.hex()[:8]
            for (of, _), b in tuple(self._branches.items())
            if of == number and b.route is Route.DIRECT
        ]
        return tuple(sorted(found))
