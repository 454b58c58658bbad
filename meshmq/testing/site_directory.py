"""What a site agrees on, in its history: topics, policies, groups, set and deleted at any node.

Programs give admin commands and publish durable records while nodes fail. Every policy that is set
has a size of its own, so that whoever has it tells by whom it was set.
"""

from __future__ import annotations

import json
import random
from functools import partial
from typing import TYPE_CHECKING

from meshmq.core.directory_rows import NEVER, TopicRow
from meshmq.core.effects import ClientEffect, CommandAnswered
from meshmq.core.lanes import DONE, Batch
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.limits import MS, SECOND
from meshmq.testing.site_part import Part
from meshmq.testing.stage import WALL_NS

if TYPE_CHECKING:
    from meshmq.core.directory import Directory
    from meshmq.testing.site_host import Host
    from meshmq.testing.site_program import SiteProgram
    from meshmq.testing.site_world import SiteWorld

KEPT = ("k.a.x", "k.b.x", "k.0.x", "k.1.x", "k.2.x", "k.3.x", "k.4.x", "k.5.x")
"""Topics that nobody deletes: what is stored there stays. They are many so that some are made by
two nodes at once."""
DELETED = ("d.a.x", "d.b.x")
PATTERNS = ("k.>", "k.a.*", "d.>", *KEPT[:2], *DELETED)
GROUPS = ("g1", "g2", "q1")
SIZE = 1 << 40  # of the first policy; each next one is by one greater
APART_NS = 300 * MS  # in the calm a word is known at all nodes by then


class Word:
    """One command that sets a policy or takes it away.

    Attributes:
        at: the node that it was given to.
        size: of the policy; 0: there is to be none.
        topics: that its node had on disk then, and are deleted with it; by their ids.
        done_ns: when it was answered; 0: not yet, or nobody was there any more; -1: it was refused.
    """

    def __init__(self, program: SiteProgram, pattern: str, size: int) -> None:
        self.at = program.host
        self.pattern = pattern
        self.size = size
        self.said_ns = program.world.now_ns
        self.done_ns = 0
        self.is_calm = program.world.is_calm
        rows = program.host.disk.state.directory.values() if not size else ()
        self.topics = [
            row.topic_id
            for row in rows
            if isinstance(row, TopicRow) and (row.name, row.deleted) == (pattern, NEVER)
        ]
        self.is_void = False  # its node has lost its disk

    def __repr__(self) -> str:
        what = f"size {self.size - SIZE}" if self.size else "none"
        return f"{self.pattern}: {what} at {self.at}, {self.said_ns / SECOND:.3f} s"

    def follows(self, other: Word) -> bool:
        """Whether it was said by who knew of ``other``, and is known to be done."""
        if self.done_ns <= 0 or self.is_void or not 0 < other.done_ns < self.said_ns:
            return False
        if self.at is other.at and not other.is_void:
            return True
        return self.is_calm and other.is_calm and other.done_ns + APART_NS <= self.said_ns


class Stored:
    """A record that was published to a topic which may be durable."""

    def __init__(self, at: Host, topic: str, value: bytes, batch: Batch, index: int) -> None:
        self.at = at
        self.topic = topic
        self.value = value
        self.batch = batch
        self.index = index

    @property
    def offset(self) -> int | None:
        """Where it is, if it was confirmed to be on disk."""
        if self.batch.state != DONE or self.batch.base_offset is None:
            return None
        if self.index < self.batch.skipped:
            return None
        return self.batch.base_offset + self.index - self.batch.skipped


class Agreements(Part):
    """See the module's header.

    Attributes:
        words: that set policies, in the order in which they were said.
        stored: durable records; what was on a disk that is lost is not among them.
        gone: topics by their ids that somebody was told were deleted.
        odd: what came back, in words.
    """

    def __init__(self, world: SiteWorld) -> None:
        super().__init__(world)
        self.rng = random.Random(f"{world.seed}/directory")
        self.words: list[Word] = []
        self.stored: list[Stored] = []
        self.gone: dict[bytes, str] = {}
        self.odd: list[str] = []
        self._asked: dict[tuple[SiteProgram, int], tuple[str, Word | None]] = {}
        self._size = SIZE
        self._count = 0

    # -- what programs do -----------------------------------------------------------------------

    def begin(self, program: SiteProgram) -> None:
        self._act_later(program)

    def _act_later(self, program: SiteProgram) -> None:
        most = 1500 * MS if self.world.is_busy else 20 * SECOND
        delay = int(self.rng.random() ** 2 * most)
        self.world.after(delay, partial(self._act, program))

    def _act(self, program: SiteProgram) -> None:
        if not program.is_alive:
            return
        if not self.world.healed:
            act = self.rng.choice((
                self._set, self._set, self._unset, self._group, self._publish, self._publish,
            ))  # fmt: skip
            act(program)
        self._act_later(program)

    def _set(self, program: SiteProgram, pattern: str = "") -> None:
        pattern = pattern or self.rng.choice(PATTERNS)
        self._size += 1
        durability = "transient" if self.rng.random() < 0.3 else "durable"
        word = Word(program, pattern, self._size)
        self.words.append(word)
        self._ask(
            program, "topic.create", word,
            pattern=pattern, durability=durability, retention_bytes=self._size,
        )  # fmt: skip

    def _unset(self, program: SiteProgram) -> None:
        """Delete a topic with its policy, or a policy for many."""
        pattern = self.rng.choice(("k.>", "k.a.*", "d.>", *DELETED, *DELETED))
        word = Word(program, pattern, 0)
        self.words.append(word)
        self._ask(program, "topic.delete", word, topic=pattern)

    def _group(self, program: SiteProgram) -> None:
        name = self.rng.choice(GROUPS)
        if self.rng.random() < 0.3:
            self._ask(program, "group.delete", None, group=name)
        elif name == "q1":
            self._ask(program, "group.create", None, group=name, kind="queue")
        else:
            pattern = self.rng.choice(("k.>", "k.a.x"))
            self._ask(program, "group.create", None, group=name, pattern=pattern)

    def _ask(self, program: SiteProgram, verb: str, word: Word | None, **arguments: object) -> None:
        data = json.dumps(arguments).encode()
        number = program.client.command(verb, data, self.world.now_ns)
        self._asked[program, number] = verb, word
        program.settle()

    def _publish(self, program: SiteProgram, topic: str = "") -> None:
        topic = topic or self.rng.choice((*KEPT, *KEPT, *DELETED))
        self._count += 1
        value = f"stored|{self._count}".encode()
        batch, index = program.client.publisher.add(
            topic, value, None, None, None, lambda: WALL_NS + self.world.now_ns, TOPIC_DEFAULT, None
        )
        self.stored.append(Stored(program.host, topic, value, batch, index))
        program.settle()

    def calm(self) -> None:
        """One node after another says another thing of the same: what was said last must hold."""
        programs = [p for p in self.world.programs.values() if p.is_alive]
        for i, program in enumerate(self.rng.sample(programs, min(3, len(programs)))):
            self.world.after(i * 2 * APART_NS, partial(self._set, program, "k.>"))
        for program in programs:
            self.world.after(0, partial(self._publish, program, KEPT[0]))

    # -- what happens -----------------------------------------------------------------------------

    def on_effect(self, program: SiteProgram, effect: ClientEffect) -> None:
        if not isinstance(effect, CommandAnswered):
            return
        found = self._asked.pop((program, effect.id), None)
        if found is None:
            return
        _, word = found
        if word is None:
            return
        word.done_ns = -1 if effect.code else self.world.now_ns
        if not effect.code:
            self.gone.update(dict.fromkeys(word.topics, word.pattern))

    def on_disk_lost(self, host: Host) -> None:
        """What was said and stored at a node is not there any more; others may have heard."""
        for word in self.words:
            word.is_void |= word.at is host
            word.topics = [] if word.at is host else word.topics
        self.stored = [stored for stored in self.stored if stored.at is not host]
        others = [other for other in self.world.members if other is not host]
        for topic_id in list(self.gone):
            rows = [other.disk.state.directory.get(b"t" + topic_id) for other in others]
            if all(row is None or row.died == NEVER for row in rows):
                del self.gone[topic_id]

    # -- heals and rest ---------------------------------------------------------------------------

    def agrees(self) -> bool:
        found = [directory_of(host) for host in self.world.members]
        return len({d.table.root for d in found if d is not None}) == 1

    def rejoined(self) -> None:
        for topic_id, name in self.gone.items():
            for host in self.world.members:
                directory = directory_of(host)
                if directory is not None and topic_id in directory.table.ids.get(name, ()):
                    self.odd.append(f"{name} {topic_id.hex()[:6]} was deleted, and {host} has it")

    def find_unrest(self) -> list[str]:
        found = [
            f"{program!r} has no answer to {verb}"
            for (program, _), (verb, _) in self._asked.items()
            if program.is_alive
        ]
        if not self.agrees():
            found.append("nodes agree on different things")
        return found


def directory_of(host: Host) -> Directory | None:
    """What a node agrees on with others, while it runs."""
    node = host.node
    return node.registrar.directory if node is not None and node.registrar is not None else None
