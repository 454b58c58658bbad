"""A node with groups and queues, and their members, on virtual time; see ``world`` for the rest.

A history has two parts here as well: faults (lost and repeated frames, cut links, kills, crashes
of programs, workers that are too slow, forget, settle twice or say no), then healing, after which
every group must have nothing left but dead letters.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from functools import partial
from typing import Any

from meshmq import codec
from meshmq.core.effects import (
    ClientEffect,
    CommandAnswered,
    HandedOut,
    SettlesAnswered,
    SurveyLog,
    TransactionAnswered,
)
from meshmq.core.events import FrameReceived, NodeEvent, Surveyed
from meshmq.core.held import Held
from meshmq.core.log import Commit
from meshmq.frames import Envelope
from meshmq.limits import MS, SECOND
from meshmq.names import JobId, topic_key
from meshmq.testing.faults import FAULTS_NS, Faults
from meshmq.testing.group_audit import audit
from meshmq.testing.referee import Referee
from meshmq.testing.scene import Scene
from meshmq.testing.stage import ORIGIN
from meshmq.testing.workers import GroupProgram, Published, Worker, Workplace, choose_wishes

HEALED_NS = 90 * SECOND
TOPICS = ["w.a", "w.b"]


class GroupWorld(Scene[GroupProgram], Workplace):
    """One history of groups and queues, from one seed. ``run`` plays it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, codec.TOOLS, lambda payload: [])
        rng = self.rng
        self.loss = rng.choice([0.0, 0.0, 0.01, 0.1])
        self.repeat = rng.choice([0.0, 0.02, 0.1])
        self.late = rng.choice([0.0, 0.05, 0.2])
        self.kill_count = rng.choice([0, 0, 1, 2, 4])
        self.cuts = rng.choice([0, 0, 1, 3])
        self.stall = rng.choice([0.0, 0.0, 0.1])
        self.swizzle = rng.random() < 0.1
        self.recent_bytes = rng.choice([0, 2_000, 1 << 24])
        self.trouble = rng.choice([0.2, 1.0, 1.0, 3.0])
        self.keyed = rng.choice([0.0, 0.5, 0.9])
        self.pace_ns = rng.choice([100, 400, 800]) * MS
        self.retention = rng.random() < 0.15
        self.seeking = rng.random() < 0.2
        # By a source of their own: what a seed did before there were these it does still.
        more = random.Random(~seed)
        self.full_count = more.choice([0, 0, 0, 1, 2])  # how often the disk has no room for a while
        self.flips = more.choice([0, 0, 0, 0, 2])  # bytes that change on the disk
        self.wishes = choose_wishes(rng)
        self.queues = [n for n, w in self.wishes.items() if w["kind"] == "queue"]
        for name in self.queues:
            self.wishes[name]["max_records"] = more.choice([0, 0, 0, 12])
        self.topics = TOPICS + self.queues
        self.published: list[Published] = []
        self.transactions: list[tuple[str, str, int, bytes]] = []
        self.outputs_told: Counter[bytes] = Counter()
        self.moved: set[tuple[str, int]] = set()
        self.referee = Referee(self)
        self.refused: Counter[tuple[str, str]] = Counter()
        self.trims = False
        self.audits: list[str] = []
        self.unrest: list[str] = []
        self._sent: dict[tuple[bytes, int], int] = {}
        self._digest = hashlib.sha256()
        self.faults = Faults(self)

    # -- the play -----------------------------------------------------------------------------

    def run(self) -> GroupWorld:
        """Play the history: faults, healing, rest."""
        self.start_node()
        for i in range(self.rng.choice([2, 3, 4])):
            self._start_program(f"p{i}", 0)
        self.faults.plan()
        for _ in range(self.rng.choice([0, 3, 10])):
            self.after(int(self.rng.random() * FAULTS_NS), self._command)
        self.play(self.now_ns + FAULTS_NS)
        self._heal()
        end = self.now_ns + HEALED_NS
        self.play(self.now_ns + 6 * SECOND)
        while self.now_ns < end and self._unrest():
            self.play(self.now_ns + 500 * MS)
        self.unrest = self._unrest()
        return self

    def note(self, *what: object) -> None:
        self._digest.update(repr((self.now_ns, what)).encode())

    @property
    def digest(self) -> str:
        """Of every event in order: equal for equal seeds."""
        return self._digest.hexdigest()

    def _heal(self) -> None:
        self.heal_links()
        self.faults.make_room()
        # Every group has a member that takes what comes.
        for name in self.wishes:
            self.programs["p0"].join(name)
            self.programs["p0"].tell("group.resume", {"group": name})

    # -- the node -----------------------------------------------------------------------------

    def on_node_started(self) -> None:
        self.referee.restarted()
        self.faults.measure()

    def on_synced(self, commit: Commit) -> None:
        self.referee.synced(commit)

    def plan_trims(self) -> list[tuple[int, int]]:
        trims: list[tuple[int, int]] = []
        if self.retention and not self.healed:
            for alias, stream in self.disk.state.streams.items():
                kept = stream.next_offset - stream.first_offset
                if stream.topic.name in TOPICS and kept > 20 and self.rng.random() < 0.3:
                    trims.append((alias, stream.first_offset + kept // 2))
                    self.trims = True
        return trims

    def node_event(self, event: NodeEvent) -> None:
        peer = self.taker(event)
        if peer is not None and isinstance(event, FrameReceived):
            self.referee.accepted(event.link, peer.hello.instance, event.envelope.body)
        elif self.node is not None and isinstance(event, Surveyed):
            self.referee.surveyed(event.number)
        super().node_event(event)

    def _survey(self, order: SurveyLog) -> None:
        if order.time_ns is not None:
            self.referee.surveying(order.number, order.time_ns)
        super()._survey(order)

    def to_client(self, link: bytes, envelope: Envelope) -> None:
        key = (link, envelope.session)
        if envelope.sequence > self._sent.get(key, 0):
            self._sent[key] = envelope.sequence
            self.referee.sent(link, envelope.body)
        super().to_client(link, envelope)

    def on_link_dropped(self, link: bytes) -> None:
        self.referee.dropped_link(link)

    def on_turn_ended(self) -> None:
        if self.node is not None and not self.audits:
            self.audits = [f"{text} (at {self.now_ns / 1e9:.4f} s)" for text in audit(self.node)]

    # -- programs -----------------------------------------------------------------------------

    def _start_program(self, name: str, run: int) -> None:
        program = self.programs[name] = GroupProgram(self, name, run)
        self.open_link(program)
        rng = self.rng
        for queue in self.queues:
            program.tell("group.create", self.wishes[queue])
        if name in ("p0", "p1"):
            self.after(int(rng.random() * 100 * MS), program.publish)
        for _ in range(rng.choice([0, 1, 2, 3])):
            group = rng.choice(sorted(self.wishes))
            self.after(int(rng.random() * SECOND), partial(program.join, group))

    def restart(self, name: str) -> None:
        old = self.programs[name]
        if self.healed:
            return
        self.note("restart", name)
        old.alive = False
        self._start_program(name, old.run + 1)

    def on_effect(self, program: GroupProgram, effect: ClientEffect) -> None:
        match effect:
            case HandedOut(number):
                worker = program.workers.get(number)
                if worker is not None:
                    self.after(1 + int(self.rng.random() * MS), partial(program.work, worker))
            case SettlesAnswered():
                pass
            case TransactionAnswered(_, code, _, _):
                program.transacted(code)
            case CommandAnswered(number, code, _, body):
                program.on_answer(number, code, json.loads(body))
            case _:
                pass

    def begun(self, worker: Worker, held: Held, index: int) -> None:
        self.referee.begun(worker.group, (held.row.topic, held.offset(index)))

    def _command(self) -> None:
        """Somebody steers."""
        if self.healed:
            return
        rng = self.rng
        program = self.programs[rng.choice(sorted(self.programs))]
        group = rng.choice(sorted(self.wishes))
        verbs = ["dlq.replay", "dlq.replay", "group.pause", "leave", "group.show", "group.set"]
        if group in self.queues:
            verbs += ["queue.cancel", "queue.cancel", "queue.reschedule", "queue.reschedule"]
            verbs += ["queue.purge"]
        elif self.seeking:
            verbs += ["group.seek", "group.seek"]
        verb = rng.choice(verbs)
        if verb == "leave":
            workers = [w for w in program.workers.values() if not w.ended]
            if workers:
                program.leave(rng.choice(workers))
        elif verb == "group.seek":
            end = self.referee.ends.get("w.a", 0)
            starts: list[Any] = ["earliest", "earliest", "new"]
            starts += [{"time_ns": self.wall_ns + self.now_ns - rng.randrange(2 * SECOND)}]
            if self.wishes[group]["pattern"] == "w.a":
                starts += [{"offset": rng.randrange(end + 1)}]
            program.tell(verb, {"group": group, "start": rng.choice(starts)})
        elif verb in ("queue.cancel", "queue.reschedule"):
            self._steer_job(program, group, verb)
        elif verb == "queue.purge":
            if rng.random() < 0.5:
                program.tell(verb, {"queue": group})
        elif verb == "dlq.replay":
            program.tell("dlq.show", {"group": group})
        elif verb == "group.set":
            program.tell(verb, {"group": group, "rate": rng.choice([0, 1000])})
        else:
            program.tell(verb, {"group": group})
            if verb == "group.pause":
                resume = partial(program.tell, "group.resume", {"group": group})
                self.after(int(rng.random() * SECOND), resume)

    def _steer_job(self, program: GroupProgram, queue: str, verb: str) -> None:
        wanted = self.sources_of(queue)
        places = [p for p in self.referee.log if wanted(p[0])]
        if not places:
            return
        topic, offset = self.rng.choice(places)
        job = str(JobId(ORIGIN.hex(), self.topic_key(topic), offset))
        arguments: dict[str, Any] = {"queue": queue, "job": job}
        if verb == "queue.reschedule":
            wall_ms = (self.wall_ns + self.now_ns) // MS
            arguments["due_ms"] = wall_ms + self.rng.randrange(2000)
        program.tell(verb, arguments)

    def topic_key(self, topic: str) -> int:
        """Of a topic on disk, as job ids have it."""
        return topic_key(self.disk.state.topics[topic].topic.topic_id)

    # -- rest ---------------------------------------------------------------------------------

    def _unrest(self) -> list[str]:
        """What has not come to rest yet, in words; empty when all has."""
        found = []
        for program in self.programs.values():
            if not program.client.publisher.is_idle:
                found.append(f"{program.name}: publishes without an outcome")
            if not program.client.is_connected:
                found.append(f"{program.name}: {program.client.state}")
            if program.commands:
                found.append(f"{program.name}: commands without an answer")
            if program.transaction is not None:
                found.append(f"{program.name}: a transaction without an answer")
            found += [
                f"{program.name}: settles in {worker.group} without an answer"
                for worker in program.workers.values()
                if not worker.ended and not worker.member.is_idle
            ]
        assert self.node is not None
        for name, group in self.node.groups.by_name.items():
            if group.backlog or group.in_flight or len(group.undertaker):
                found.append(
                    f"{name}: {group.backlog} left, {group.in_flight} in flight, "
                    f"{group.delayed} delayed, {group.retrying} retrying, "
                    f"{len(group.undertaker)} dying"
                )
        if self.node.has_unsynced:
            found.append("the node waits for its disk")
        return found
