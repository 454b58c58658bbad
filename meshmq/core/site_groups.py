"""Groups and queues across the nodes of a site.

Each node owns the state of a group over its own streams. A member belongs to a program at one node,
its home; that node joins on its behalf at all others, as their client over the data links, lends
its prefetch to one owner after the other (core/lending.py), and passes on what they and the program
say. A hand-out keeps its owner's number, which is drawn from 2**62 in each life of a node; frames
name the owner, and each owner answers the settles of its own.

Data: a Borrower for each member here; what of each group siblings have ready; what they were told
of ours.

Rules:
1. The program says what it holds of an owner when it is told that this is there (Owner), and joins
   there with that: so nothing is claimed for it that it does not have, whichever node it is at.
2. While an owner is away its settles go no further than here, where they only count against the
   prefetch no longer; the program says them again when the owner is back.
3. Siblings with members in a group are told when work becomes ready in it that no member has room
   for, when there is no more, and when it is twice as much or half of it; not oftener than every
   READY_NS.
4. A transaction is done at the owner of what it acks. If that is away, it is not done: what became
   of one that was on its way is not known, and it is told so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from meshmq import limits
from meshmq.core.consumer import CLAIM_BYTES_MAX, HOLDING_BYTES
from meshmq.core.group import Group
from meshmq.core.groups import Groups, describe
from meshmq.core.journal import GROUP
from meshmq.core.lending import ASKED, JOINED, JOINING, OWN, REFUSED, Borrower, Lending
from meshmq.core.sessions import Peer
from meshmq.core.sibling import Sibling
from meshmq.errors import Busy, OwnerAway
from meshmq.frames import (
    Body,
    Consume,
    Consumed,
    HandOut,
    Holding,
    Leave,
    Lend,
    Lent,
    Owner,
    Revoke,
    Settle,
    Settled,
    Transact,
    TransactAck,
    Transacted,
    WorkReady,
    WorkReadyRow,
)

MINOR = 6
"""Programs that speak an older protocol have only what their own node owns."""


class SiteGroups:
    """See the module's header.

    Args:
        origin: of our own log.
        groups: of this node.
        may_send: whether a link may be sent more records.

    Attributes:
        sends: frames for links; the owner takes them.
        fenced: why nothing is handed out here, as members are told; empty: it is.
    """

    def __init__(self, origin: bytes, groups: Groups, may_send: Callable[[bytes], bool]) -> None:
        self._origin = origin
        self._groups = groups
        groups.members.is_shared = True
        groups.pumped = set()
        self._siblings: dict[bytes, Sibling] = {}  # those with a data link
        self._lending = Lending(self._link_of, may_send)
        self._borrowers: dict[tuple[bytes, int], Borrower] = {}
        self._by_number: dict[int, Borrower] = {}
        self._by_group: dict[Group, dict[int, Borrower]] = {}
        self._last_number = 0
        self._last_transaction = 0
        self._new: list[Borrower] = []  # their join is not stored yet
        self._ready: dict[bytes, dict[str, int]] = {}  # by owner and group
        self._abroad: dict[Group, dict[bytes, tuple[int, int]]] = {}  # links: told, when
        self._transactions: dict[int, tuple[bytes, int, bytes]] = {}  # link, its id, owner
        self._dirty: set[Group] = set()
        self._due: dict[Group, int] = {}  # when to look at their credit ...
        self._untold: dict[Group, int] = {}  # ... and whether siblings are to be told
        self.sends: list[tuple[bytes, Body]] = []
        self.fenced = ""

    def tell_fenced(self, why: str) -> None:
        """Nothing is handed out here any more, or (empty) it is again: members are told."""
        self.fenced = why
        for b in self._borrowers.values():
            if b.is_told:
                self.sends.append((b.link, Owner(b.consumer, self._origin, fenced=why)))

    def _link_of(self, origin: bytes) -> bytes:
        sibling = self._siblings.get(origin)
        return sibling.link if sibling is not None else b""

    # -- nodes come and go ----------------------------------------------------------------------

    def join(self, sibling: Sibling, now_ns: int) -> None:
        """A data link is open."""
        self._siblings[sibling.origin] = sibling
        self._ready[sibling.origin] = {}
        for b in self._borrowers.values():
            if b.is_told:
                self._ask(b, sibling)

    def leave(self, sibling: Sibling, now_ns: int) -> None:
        """It is over."""
        if self._siblings.get(sibling.origin) is not sibling:
            return
        del self._siblings[sibling.origin]
        del self._ready[sibling.origin]
        for told in self._abroad.values():
            told.pop(sibling.link, None)
        for number, (link, said, origin) in list(self._transactions.items()):
            if origin == sibling.origin:
                del self._transactions[number]
                self.sends.append((link, _away(said, sibling.name)))
        for b in self._borrowers.values():
            part = b.parts.get(sibling.origin)
            if part is None:
                continue
            part.is_away()
            if b.lender == sibling.origin:
                self._lending.take_back(b, now_ns)
            self._dirty.add(b.group)
            self.sends.append((b.link, Owner(b.consumer, sibling.origin, sibling.name)))

    def _ask(self, b: Borrower, sibling: Sibling) -> None:
        """Have the program join at an owner, with what it holds."""
        b.part(sibling.origin).state = ASKED
        self.sends.append((b.link, Owner(b.consumer, sibling.origin, sibling.name, True)))

    # -- from our programs ----------------------------------------------------------------------

    def on_program(self, peer: Peer, body: Body, now_ns: int) -> bool:
        """A frame of one of our programs, if it is not for our own log alone."""
        match body:
            case Consume():
                if body.origin and body.origin != self._origin:
                    self._consume_of(peer, body)
                else:
                    self._consume(peer, body, now_ns)
            case Settle() if body.origin and body.origin != self._origin:
                self._settle(peer.link, body)
            case Leave():
                self._drop((peer.link, body.consumer), False)
                return False
            case Transact() if body.origin and body.origin != self._origin:
                self._transact(peer, body)
            case _:
                return False
        return True

    def _consume(self, peer: Peer, frame: Consume, now_ns: int) -> None:
        key = (peer.link, frame.consumer)
        self._drop(key, True)
        mine = [h._replace(origin=b"") for h in frame.holdings if h.origin in (b"", self._origin)]
        own = replace(frame, holdings=tuple(mine), origin=b"")
        members = self._groups.members
        members.consume(peer.link, peer.hello, own, now_ns)
        found = members.find(*key)
        if found is None or peer.hello.minor < MINOR:
            return
        group, member = found
        self._last_number += 1
        b = Borrower(self._last_number, *key, group, member, replace(frame, holdings=()))
        others = {h.origin for h in frame.holdings} - {b"", self._origin}
        for origin in sorted(others)[: limits.SITE_NODES_MAX]:
            b.part(origin).claim(h for h in frame.holdings if h.origin == origin)
        self._borrowers[key] = self._by_number[b.number] = b
        self._by_group.setdefault(group, {})[b.number] = b
        self._new.append(b)
        self._lending.grant(b, now_ns)

    def _consume_of(self, peer: Peer, frame: Consume) -> None:
        """It joins at another owner; rule 1."""
        b = self._borrowers.get((peer.link, frame.consumer))
        sibling = self._siblings.get(frame.origin)
        if b is None:
            return
        if sibling is None and frame.origin not in b.parts:
            return
        part = b.part(frame.origin)
        part.claim(frame.holdings)
        if sibling is None:
            self.sends.append((b.link, Owner(b.consumer, frame.origin)))
        elif part.state == ASKED:
            part.state = JOINING
            mine = _claims(frame.holdings)
            hello = peer.hello
            asked = replace(
                b.frame, consumer=b.number, create=_create(b), holdings=mine, origin=b"",
                instance=hello.instance, name=hello.name, member=b.consumer,
            )  # fmt: skip
            self.sends.append((sibling.link, asked))
        self._dirty.add(b.group)

    def _settle(self, link: bytes, frame: Settle) -> None:
        b = self._borrowers.get((link, frame.consumer))
        if b is None:
            return
        part = b.parts.get(frame.origin)
        if part is None:
            return
        part.close(frame.rows)
        self._dirty.add(b.group)
        sibling = self._siblings.get(frame.origin)
        if sibling is not None and part.state == JOINED:
            self.sends.append((sibling.link, replace(frame, consumer=b.number, origin=b"")))

    def drop_link(self, link: bytes) -> None:
        """A program's session is over; it may come back, here or elsewhere."""
        for key in [key for key in self._borrowers if key[0] == link]:
            self._drop(key, True)
        for number in [n for n, t in self._transactions.items() if t[0] == link]:
            del self._transactions[number]

    def _drop(self, key: tuple[bytes, int], is_lost: bool) -> None:
        b = self._borrowers.pop(key, None)
        if b is None:
            return
        del self._by_number[b.number]
        others = self._by_group.get(b.group, {})
        others.pop(b.number, None)
        if not others:
            self._by_group.pop(b.group, None)
        self._dirty.add(b.group)
        for origin, part in b.parts.items():
            link = self._link_of(origin)
            if link and part.state in (JOINING, JOINED):
                self.sends.append((link, Leave(b.number, is_lost)))

    def _transact(self, peer: Peer, frame: Transact) -> None:
        sibling = self._siblings.get(frame.origin)
        acks = []
        for ack in frame.acks:
            b = self._borrowers.get((peer.link, ack.consumer))
            part = b.parts.get(frame.origin) if b is not None else None
            if b is None or part is None or part.state != JOINED:
                sibling = None
                break
            acks.append(TransactAck(b.number, *ack[1:]))
        if len(self._transactions) >= limits.TRANSACTIONS_PASSED_MAX:
            why = f"{limits.TRANSACTIONS_PASSED_MAX} transactions wait for other nodes, the limit"
            self.sends.append((peer.link, Transacted(frame.id, Busy.code, why)))
            return
        if sibling is None:
            self.sends.append((peer.link, _away(frame.id, frame.origin.hex()[:8])))
            return
        # Its own number goes on: by that an owner knows one that is said again.
        self._last_transaction += 1
        self._transactions[self._last_transaction] = peer.link, frame.id, frame.origin
        self.sends.append(
            (
                sibling.link,
                replace(
                    frame, acks=tuple(acks), origin=b"", instance=peer.hello.instance,
                    tag=self._last_transaction,
                ),
            )
        )  # fmt: skip

    # -- from other nodes -----------------------------------------------------------------------

    def on_sibling(self, peer: Peer, body: Body, now_ns: int) -> bool:
        """A frame of another node, if it is not handled as a program's is."""
        sibling = peer.sibling
        assert sibling is not None
        match body:
            case HandOut():
                self._on_hand_out(sibling.origin, body)
            case Settled() | Revoke():
                self._pass_on(sibling.origin, body)
            case Consumed():
                self._on_consumed(sibling.origin, body, now_ns)
            case Lent(number, version):
                b = self._by_number.get(number)
                part = b.parts.get(sibling.origin) if b is not None else None
                if b is not None and part is not None and part.waits <= version:
                    part.waits = part.old_records = part.old_bytes = 0
                    self._dirty.add(b.group)
            case WorkReady():
                self._on_ready(sibling, body)
            case Transacted():
                self._on_transacted(sibling.origin, body)
            case Consume():
                members = self._groups.members
                members.consume(peer.link, peer.hello, body, now_ns, sibling.name)
                found = members.find(peer.link, body.consumer)
                if found is not None:
                    self._abroad.setdefault(found[0], {})[peer.link] = 0, 0
                    self._untold[found[0]] = now_ns
            case Lend():
                self._groups.members.lend(peer.link, body)
            case _:
                return False
        return True

    def _on_hand_out(self, origin: bytes, frame: HandOut) -> None:
        b = self._by_number.get(frame.consumer)
        if b is None:
            return  # it has left, and its owner is told so
        b.part(origin).hand_out(frame.rows)
        self._dirty.add(b.group)
        self.sends.append((b.link, replace(frame, consumer=b.consumer, origin=origin)))

    def _pass_on(self, origin: bytes, frame: Settled | Revoke) -> None:
        b = self._by_number.get(frame.consumer)
        if b is None:
            return
        if isinstance(frame, Revoke):
            b.part(origin).close(frame.rows)
            self._dirty.add(b.group)
        self.sends.append((b.link, replace(frame, consumer=b.consumer, origin=origin)))

    def _on_consumed(self, origin: bytes, frame: Consumed, now_ns: int) -> None:
        b = self._by_number.get(frame.consumer)
        if b is None:
            return
        part = b.part(origin)
        if frame.code:
            part.is_away()
            part.forget()
            part.state = REFUSED
            if b.lender == origin:
                self._lending.take_back(b, now_ns)
        else:
            part.state = JOINED
        self._dirty.add(b.group)
        answer = replace(frame, consumer=b.consumer, origin=origin, shared=False)
        self.sends.append((b.link, answer))

    def _on_ready(self, sibling: Sibling, frame: WorkReady) -> None:
        ready = self._ready.get(sibling.origin)
        if ready is None:
            return
        for name, records in frame.rows:
            if records:
                ready[name] = records
            else:
                ready.pop(name, None)
            group = self._groups.by_name.get(name)
            if group is None:
                continue
            self._dirty.add(group)
            for b in self._by_group.get(group, {}).values():
                if b.is_told and b.part(sibling.origin).state == REFUSED:
                    self._ask(b, sibling)  # it was deleted there, and is there again

    def _on_transacted(self, origin: bytes, frame: Transacted) -> None:
        found = self._transactions.pop(frame.tag, None)
        if found is None:
            return
        link, said, _ = found
        self.sends.append((link, replace(frame, id=said, origin=origin, tag=0)))

    # -- the end of a turn ----------------------------------------------------------------------

    def end_turn(self, now_ns: int) -> None:
        """Our own groups have handed out what they can: let the rest of the credit go where it is
        needed, and tell of what nobody had room for."""
        for _ in range(3):  # credit that comes back is used at once
            if not self._pump(now_ns):
                break
            self._groups.pump(now_ns)

    def _pump(self, now_ns: int) -> bool:
        """Whether our own groups have to be looked at again."""
        groups = self._groups
        for group in [g for g, due_ns in self._due.items() if due_ns <= now_ns]:
            del self._due[group]
            self._dirty.add(group)
        if self._new:
            self._tell_owners()
        pumped, groups.pumped = groups.pumped or set(), set()
        if self._abroad:
            for group in [g for g, due_ns in self._untold.items() if due_ns <= now_ns]:
                del self._untold[group]
                pumped.add(group)
            self._announce(pumped, now_ns)
        dirty = self._dirty | {g for g in pumped if self._may_move(g)}
        if self._lending.denied:
            dirty |= self._lending.denied
            self._lending.denied.clear()
        self._dirty = set()
        for group in sorted(dirty & self._by_group.keys(), key=lambda g: g.settings.id):
            self._steer(group, now_ns)
        self.sends += self._lending.sends
        self._lending.sends.clear()
        if self._lending.moved:
            groups.pumped = self._lending.moved.copy()
            self._lending.moved.clear()
            return True
        return False

    def _may_move(self, group: Group) -> bool:
        """Whether what our own log has ready may change where members' credit is."""
        here = self._by_group.get(group)
        if not here:
            return False
        name = group.settings.name
        if self._groups.by_name.get(name) is not group:
            return True
        if any(name in ready for ready in self._ready.values()):
            return True
        return any(b.lender != OWN for b in here.values())

    def _tell_owners(self) -> None:
        waiting = []
        for b in self._new:
            if self._by_number.get(b.number) is not b:
                continue
            if not b.member.is_active:
                waiting.append(b)
                continue
            b.is_told = True
            if self.fenced:
                self.sends.append((b.link, Owner(b.consumer, self._origin, fenced=self.fenced)))
            for sibling in self._siblings.values():
                self._ask(b, sibling)
        self._new = waiting

    def _steer(self, group: Group, now_ns: int) -> None:
        name = group.settings.name
        if self._groups.by_name.get(name) is not group:
            for b in list(self._by_group[group].values()):  # it was deleted
                self._drop((b.link, b.consumer), False)
            return
        wants = {o: ready[name] for o, ready in self._ready.items() if name in ready}
        own = group.unmet
        if own:
            wants[OWN] = own
        due_ns = self._lending.steer(list(self._by_group[group].values()), wants, now_ns)
        if due_ns is not None:
            self._due[group] = min(due_ns, self._due.get(group, due_ns))

    def _announce(self, pumped: Iterable[Group], now_ns: int) -> None:
        """Rule 3."""
        rows: dict[bytes, list[WorkReadyRow]] = {}
        for group in pumped:
            links = self._abroad.get(group)
            if not links:
                continue
            name = group.settings.name
            if self._groups.by_name.get(name) is not group:
                del self._abroad[group]
                continue
            records = group.unmet
            for link, (told, at_ns) in links.items():
                if records == told or (records and told / 2 < records < told * 2):
                    continue
                if told and now_ns < at_ns + limits.READY_NS:
                    due_ns = at_ns + limits.READY_NS
                    self._untold[group] = min(due_ns, self._untold.get(group, due_ns))
                    continue
                links[link] = records, now_ns
                rows.setdefault(link, []).append(WorkReadyRow(name, records))
        for link, some in rows.items():
            for i in range(0, len(some), limits.FRAME_BATCHES_MAX):
                part = tuple(some[i : i + limits.FRAME_BATCHES_MAX])
                self.sends.append((link, WorkReady(part)))

    def next_deadline_ns(self) -> int | None:
        """When ``end_turn`` has something to do though nothing happens."""
        if self._dirty or self._lending.sends:
            return 0
        return min([*self._due.values(), *self._untold.values()], default=None)

    # -- what is shown --------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Counts, for ``status``."""
        abroad = [b for b in self._borrowers.values() if b.lender != OWN]
        return {"members": len(self._borrowers), "lent": len(abroad)}


def _create(b: Borrower) -> bytes:
    """The group as an owner makes it where it has none."""
    settings = b.group.settings
    wish: dict[str, Any] = {"group": settings.name, "kind": settings.kind, "order": settings.order}
    if settings.kind == GROUP:
        wish["pattern"] = settings.pattern
    wish.update({k: v for k, v in describe(settings).items() if v})
    try:
        asked = json.loads(b.frame.create) if b.frame.create else {}
    except ValueError:
        asked = {}
    if "start" in asked and settings.kind == GROUP:
        wish["start"] = asked["start"]
    return json.dumps(wish).encode()


def _claims(holdings: Iterable[Holding]) -> tuple[Holding, ...]:
    """As one frame takes them, whatever the program has put into its own."""
    found, room = [], CLAIM_BYTES_MAX
    for holding in holdings:
        room -= HOLDING_BYTES + len(holding.topic.encode()) + 8 * len(holding.offsets)
        if room < 0:
            break
        found.append(holding._replace(origin=b""))
    return tuple(found)


def _away(number: int, name: str) -> Transacted:
    return Transacted(
        number, OwnerAway.code,
        f"node {name}, which has what the transaction acks, cannot be reached: nothing of it is "
        f"done now, but if it was on its way, what became of it is not known",
    )  # fmt: skip
