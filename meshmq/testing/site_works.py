"""Groups and queues in the history of a site: members at any node, records in the logs of all.

What programs do is that of the world of one node: see ``workers``. There a referee knows all that
its node does; here it is judged by what programs are given, and by what nodes say at rest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from meshmq import codec
from meshmq.core.effects import (
    ClientEffect,
    CommandAnswered,
    HandedOut,
    SettlesAnswered,
    TransactionAnswered,
)
from meshmq.core.held import Held
from meshmq.core.site_merges import GROUP_PARTS
from meshmq.frames import ACK, RETURN, Consumed, Envelope, HandOut, Revoke
from meshmq.limits import MS, SECOND
from meshmq.names import dead_letters_of
from meshmq.testing.group_audit import audit, leftovers
from meshmq.testing.site_part import Part
from meshmq.testing.site_program import Player, SiteProgram
from meshmq.testing.stage import WALL_NS
from meshmq.testing.workers import GroupProgram, Published, Worker, Workplace, choose_wishes

if TYPE_CHECKING:
    from meshmq.testing.site_host import Host, Wire
    from meshmq.testing.site_world import SiteWorld

TOPICS = ["w.a", "w.b"]
LISTED_NS = 2 * SECOND
Place = tuple[str, bytes, str, int]  # group, log, topic, offset
Standing = tuple[object, ...]


class Hand(Player, GroupProgram):
    """A program of the site, as far as it publishes for groups and works in them."""

    def __init__(self, part: Works, program: SiteProgram) -> None:
        self.at = program
        super().__init__(part, program.name, program.run, program.client)


def at(worker: Worker) -> SiteProgram:
    """The program that a member is of."""
    assert isinstance(worker.program, Hand)
    return worker.program.at


class Sent(NamedTuple):
    """A hand-out that has left its owner.

    Attributes:
        at_ns: when it did.
        link: the program's, in which its own node sent it on; empty: that has not had it yet.
    """

    at_ns: int
    link: bytes


class Begun(NamedTuple):
    """A record that a program has begun.

    Attributes:
        standing: what its being in these hands rests on: sessions, links; None: not all is there.
    """

    worker: Worker
    held: Held
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    standing: Standing | None


class Works(Part, Workplace):
    """See the module's header. Retries and delays go by clocks: these are not set here. What is
    done is not undone: nobody runs a copy of a disk.

    Attributes:
        counts: by place, how often it was begun.
        acked: by place of what was confirmed as done, the hand-out of it that was.
        wrong: what was in hands and may not be. audits: what does not add up at a node.
        leftovers: what nodes at rest have in memory.
        listings: what each node says of each group, when its lag is not nothing.
    """

    def __init__(self, world: SiteWorld) -> None:
        super().__init__(world)
        self.has_jumps = self.has_copies = False
        more = world.more
        self.rng = world.rng
        self.wall_ns = WALL_NS
        self.wishes = choose_wishes(more)
        self.queues = [n for n, w in self.wishes.items() if w["kind"] == "queue"]
        self.topics = TOPICS + self.queues
        self.trouble = more.choice([0.2, 1.0, 1.0, 3.0])
        self.keyed = more.choice([0.0, 0.5, 0.9])
        self.pace_ns = more.choice([400, 800, 1600]) * MS
        self.published: list[Published] = []
        self.transactions: list[tuple[str, str, int, bytes]] = []
        self.outputs_told: Counter[bytes] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.hands: dict[str, Hand] = {}
        self.counts: Counter[Place] = Counter()
        self.acked: dict[Place, Held] = {}
        self.wrong: list[str] = []
        self.audits: list[str] = []
        self.leftovers: list[str] = []
        self.listings: dict[str, dict[str, dict[str, Any]]] = {}
        self._begun: dict[Place, list[Begun]] = {}  # and not given back as not begun
        self._sent: dict[int, Sent] = {}  # by hand-out ...
        self._revoked: dict[int, int] = {}  # ... and when its owner took something of it back
        self._lost: dict[tuple[SiteProgram, int], set[int]] = {}
        self._told: list[tuple[Place, Held, int]] = []
        self._asked: dict[tuple[SiteProgram, int], str] = {}

    # -- what programs need ---------------------------------------------------------------------

    @property
    def now_ns(self) -> int:  # type: ignore[override]
        """The world's."""
        return self.world.now_ns

    @property
    def healed(self) -> bool:  # type: ignore[override]
        """The world's."""
        return self.world.healed

    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        self.world.after(delay_ns, work)

    def settle(self, program: GroupProgram) -> None:
        assert isinstance(program, Hand)
        program.at.settle()

    # -- moments of the history -----------------------------------------------------------------

    def begin(self, program: SiteProgram) -> None:
        rng = self.rng
        hand = self.hands[program.name] = Hand(self, program)
        for queue in self.queues:
            hand.tell("group.create", self.wishes[queue])
        self.after(int(rng.random() * 500 * MS), hand.publish)
        for _ in range(rng.choice([0, 1, 2])):
            group = rng.choice(sorted(self.wishes))
            self.after(int(rng.random() * SECOND), partial(hand.join, group))

    def break_down(self) -> None:
        for hand in self.hands.values():
            self.after(int(self.rng.random() * 500 * MS), hand.publish)
        for _ in range(self.rng.choice([0, 1, 3])):
            self.after(int(self.rng.random() * self.world.faults.span_ns), self._leave)

    def _leave(self) -> None:
        workers = [w for h in self.hands.values() for w in h.workers.values() if not w.ended]
        if workers and not self.healed:
            worker = self.rng.choice(workers)
            worker.program.leave(worker)

    def heal(self) -> None:
        for name in self.wishes:  # every group has a member that takes what comes
            self.hands["p0"].join(name)

    def find_unrest(self) -> list[str]:
        found = []
        for hand in self.hands.values():
            if hand.commands or self._waits(hand):
                found.append(f"{hand.at!r} waits for answers")
            found += [
                f"{hand.at!r} has settled in {worker.group} what is not answered"
                for worker in hand.workers.values()
                if hand.alive and not worker.ended and not worker.member.is_idle
            ]
        for host in self.world.members:
            groups = host.node.groups.by_name if host.node is not None else {}
            for name, group in groups.items():
                if group.backlog or group.in_flight or len(group.undertaker):
                    found.append(
                        f"{name} at {host}: {group.backlog} left, {group.in_flight} in flight, "
                        f"{group.delayed} delayed, {group.retrying} retrying"
                    )
            if host.node is not None and host.node.has_unsynced:
                found.append(f"{host} waits for its disk")
        return found

    def _waits(self, hand: Hand) -> bool:
        """Whether it has a transaction under way, of an owner that there is: of one whose disk is
        gone it waits for ever."""
        transaction = hand.transaction
        live = {host.origin for host in self.world.members}
        return transaction is not None and transaction[2].origin in live

    # -- what happens -----------------------------------------------------------------------------

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        hand = self.hands.get(program.name)
        match effect:
            case CommandAnswered(number, _, _, body) if (program, number) in self._asked:
                group = self._asked.pop((program, number))
                self.listings.setdefault(group, {})[program.host.name] = json.loads(body)
            case _ if hand is None or hand.at is not program:
                pass
            case HandedOut(number):
                worker = hand.workers.get(number)
                if worker is not None:
                    self.after(1 + int(self.rng.random() * MS), partial(hand.work, worker))
            case SettlesAnswered():
                self._note_acked()
            case TransactionAnswered(_, code):
                hand.transacted(code)
            case CommandAnswered(number, code, _, body):
                hand.on_answer(number, code, json.loads(body))

    def on_told(self, host: Host, link: bytes, envelope: Envelope) -> None:
        self._note_sent(envelope, link)

    def on_carried(self, host: Host, wire: Wire, envelope: Envelope) -> None:
        self._note_sent(envelope, b"")

    def _note_sent(self, envelope: Envelope, link: bytes) -> None:
        body = envelope.body
        if isinstance(body, HandOut):
            for row in body.rows:
                sent = self._sent.setdefault(row.number, Sent(self.now_ns, link))
                if link and not sent.link:
                    self._sent[row.number] = sent._replace(link=link)
        elif isinstance(body, Revoke):
            for settled in body.rows:
                self._revoked.setdefault(settled.number, self.now_ns)

    def on_heard(self, program: SiteProgram, envelope: Envelope) -> None:
        body = envelope.body
        if isinstance(body, Consumed):
            self._lost.setdefault((program, body.consumer), set()).update(body.lost)

    def on_turn_ended(self, host: Host) -> None:
        if not self.audits and host.node is not None:
            found = [f"{host}: {text}" for text in audit(host.node)]
            self.audits = [f"{text} (at {self.now_ns / SECOND:.4f} s)" for text in found]

    # -- what programs are given ------------------------------------------------------------------

    def begun(self, worker: Worker, held: Held, index: int) -> None:
        place: Place = (worker.group, held.origin, held.row.topic, held.offset(index))
        self.counts[place] += 1
        begun = Begun(worker, held, index, self._standing(worker, held))
        done = self.acked.get(place)
        if done is not None and self._sent_of(done).at_ns <= self._sent_of(held).at_ns:
            self._wrong(begun, place, "had been confirmed as done, and came again")
        others = self._begun.setdefault(place, [])
        for other in others:
            if other.held is not held:
                self._check_two(place, other, begun)
        prefetch = worker.member._consume.prefetch_records
        count = self._in_hands(worker)
        if count > prefetch:
            self._wrong(begun, place, f"is one of {count}, its prefetch is {prefetch}")
        others.append(begun)

    def _check_two(self, place: Place, before: Begun, begun: Begun) -> None:
        """A record is begun that another has begun before. What counts is which hand-out its owner
        sent first: that one may have been under way for longer than its time, and is begun when
        the record is another's already, or done. Nobody can say so to who has it."""
        is_late = self._sent_of(begun.held).at_ns < self._sent_of(before.held).at_ns
        first, then = (begun, before) if is_late else (before, begun)
        row = then.held.row
        if row.attempt == 1 and not row.maybe_duplicate:
            self._wrong(then, place, "may be a duplicate and does not say so")
        until_ns = self._sent_of(first.held).at_ns + first.worker.timeout_ns
        if self.wishes[place[0]].get("order") == "key":  # an earlier one of its key may have failed
            until_ns = min(until_ns, self._revoked.get(first.held.row.number, until_ns))
        if self._sent_of(then.held).at_ns < until_ns and self._has_stood(first, is_late):
            self._wrong(then, place, f"is in the hands of {at(first.worker)!r}, too")

    def _sent_of(self, held: Held) -> Sent:
        return self._sent[held.row.number]

    def _has_stood(self, begun: Begun, since_sent: bool) -> bool:
        """Whether nothing has happened since a program has begun a record (``since_sent``: since
        its owner has sent it) by which the owner may have given it to another."""
        program, held = at(begun.worker), begun.held
        now = self._standing(begun.worker, held)
        if now is None or held.is_settled(begun.index):
            return False
        if not since_sent:
            return now == begun.standing
        sent = self._sent_of(held)
        owner = next(h for h in self.world.members if h.origin == held.origin)
        home = program.host
        if home is not owner:
            opened_ns = max(home.since[owner.origin][1], owner.since[home.origin][1])
            if opened_ns > sent.at_ns:
                return False
        return program.link == sent.link

    def _standing(self, worker: Worker, held: Held) -> Standing | None:
        """What a record in somebody's hands depends on, if all of it is there."""
        program = at(worker)
        home, node = program.host, program.host.node
        owner = next((h for h in self.world.members if h.origin == held.origin), None)
        if owner is None or owner.node is None or node is None or worker.ended:
            return None
        if not (program.is_alive and program.client.is_connected) or program.link not in node.peers:
            return None
        links: tuple[object, ...] = ()
        if home is not owner:
            if not self.world.are_linked(home, owner):
                return None
            links = (home.since[owner.origin], owner.since[home.origin])
        return (program.link, owner.epoch, home.epoch, *links)

    def _in_hands(self, worker: Worker) -> int:
        """How many records it has and has not settled, as their owners know."""
        program = at(worker)
        lost = self._lost.get((program, worker.member.id), set())
        mine = [h for h in worker.member.held.values() if h.row.number not in lost]
        count = sum([not h.is_settled(i) for h in mine for i in range(h.row.count)])
        transaction = worker.program.transaction
        if transaction is not None and transaction[1] is worker:
            count -= not transaction[2].is_settled(transaction[3])  # its owner knows it before
        return count

    def finished(self, worker: Worker, held: Held, index: int, kind: int) -> None:
        place: Place = (worker.group, held.origin, held.row.topic, held.offset(index))
        if held.is_settled(index):
            return
        if kind == ACK:
            self._told.append((place, held, index))
        elif kind == RETURN:
            self._give_back(place, held)

    def left(self, worker: Worker) -> None:
        for held in worker.member.held.values():
            for i in range(held.row.count):
                place = (worker.group, held.origin, held.row.topic, held.offset(i))
                self._give_back(place, held)

    def _give_back(self, place: Place, held: Held) -> None:
        self._begun[place] = [b for b in self._begun.get(place, ()) if b.held is not held]

    def _note_acked(self) -> None:
        rest = []
        for place, held, index in self._told:
            if not held.is_closed(index):
                rest.append((place, held, index))
            elif index not in held.refused:
                self.acked[place] = held
        self._told = rest

    def _wrong(self, begun: Begun, place: Place, what: str) -> None:
        group, origin, topic, offset = place
        program = at(begun.worker)
        self.wrong.append(
            f"{group}: {topic} {offset} of {origin.hex()[:6]}, begun by {program!r} at "
            f"{program.host}, {what} (at {self.now_ns / SECOND:.4f} s)"
        )

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """When nobody works and there is something to do, all nodes are asked how much."""
        world = self.world
        world.play(world.now_ns + SECOND)  # who was lost last may be waited for
        self.leftovers = [
            f"{host}: {text}"
            for host in world.members
            if host.node is not None
            for text in leftovers(host.node)
        ]
        for hand in self.hands.values():
            for worker in hand.workers.values():
                if hand.alive and not worker.ended:
                    worker.ended = True
                    hand.client.leave(worker.member.id, self.now_ns)
            for topic in self.topics:
                if topic not in self.queues or topic in hand.queues:
                    self._publish_one(hand, topic)
            hand.at.settle()
        probes = [world.add_program(f"q{host.index}", host) for host in world.members]
        world.play(world.now_ns + LISTED_NS)
        for probe in probes:
            for group in self.wishes:
                wish = json.dumps({"group": group}).encode()
                number = probe.client.command("group.show", wish, self.now_ns)
                self._asked[probe, number] = group
            probe.settle()
        world.play(world.now_ns + LISTED_NS)

    def _publish_one(self, hand: Hand, topic: str) -> None:
        clock = lambda: self.wall_ns + self.now_ns  # noqa: E731
        for n in range(self.rng.randrange(4)):
            value = f"{hand.at!r}|last|{topic}|{n}".encode()
            hand.client.publisher.add(topic, value, None, None, None, clock, -1, None)

    def lags(self, group: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What each node says of a group: in sum, and of each owner."""
        for node, body in self.listings.get(group, {}).items():
            said: dict[str, Any] = {name: body.get(name) for name in GROUP_PARTS}
            for row in body.get("nodes", ()):
                said[row["node"]] = [row.get(name) for name in GROUP_PARTS]
            yield node, said

    # -- what is judged -------------------------------------------------------------------------

    def stored(self, group: str) -> Iterator[tuple[Place, bytes]]:
        """Records of a group in the logs of nodes that there are; those that may expire are not
        among them."""
        for place, value, expires in self._records(group, self.sources_of(group)):
            if not expires:
                yield place, value

    def dead(self, group: str) -> set[bytes]:
        """Values of what was given up: some of it nobody had come to in time, again and again."""
        letters = dead_letters_of(group)
        return {value for _, value, _ in self._records(group, lambda topic: topic == letters)}

    def _records(
        self, group: str, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[Place, bytes, bool]]:
        for host in self.world.members:
            names = {alias: s.topic.name for alias, s in host.disk.state.streams.items()}
            for commit in host.disk.commits:
                for batch in commit.batches:
                    name = names[batch.stream]
                    if not wanted(name):
                        continue
                    options = codec.job_options(batch.payload)
                    expires = options is not None and options.expires_ms > 0
                    values = codec.decode_batch(batch.payload, batch.count).values
                    for i, value in enumerate(values):
                        place = (group, host.origin, name, batch.base_offset + i)
                        yield place, bytes(value), expires
