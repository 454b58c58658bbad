"""A program of a world with groups: it publishes, works in groups and queues, and misbehaves."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from meshmq import codec
from meshmq.core.client import Client, ClientIdentity
from meshmq.core.consumer import Member
from meshmq.core.held import Held, Told
from meshmq.core.lanes import Batch
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.frames import (
    ACK,
    BACKOFF,
    EXTEND,
    NACK,
    REJECT,
    RETURN,
    Consume,
    PublishBatch,
)
from meshmq.limits import MS, SECOND
from meshmq.names import lane_of, matches, queue_of, retries_of
from meshmq.testing.scene import Program

RECORDS_MAX = 400
KEYS = [b"k0", b"k1", b"k2", b"k3", b"k4"]


def decode(held: Held) -> None:
    """Hang the records of a hand-out on it, as the clients do."""
    row = held.row
    records = codec.decode_batch(held.data, row.held)
    places, keys = row.places(), records.keys
    held.records = [bytes(records.values[i]) for i in places]
    held.keys = None if keys is None else [bytes(keys[i]) for i in places]


class Workplace(ABC):
    """A world, as far as its programs work in groups.

    Attributes:
        wishes: groups and queues, and how they are made.
        topics: what is published to, names of queues among them.
        keyed: how often a record has a key. trouble: how often work goes wrong.
        pace_ns: between two times that a program publishes, at most.
        published, transactions, outputs_told, refused: what happened.
    """

    rng: random.Random
    now_ns: int
    wall_ns: int
    healed: bool
    wishes: dict[str, dict[str, Any]]
    queues: list[str]
    topics: list[str]
    keyed: float
    trouble: float
    pace_ns: int
    published: list[Published]
    transactions: list[tuple[str, str, int, bytes]]
    outputs_told: Counter[bytes]
    refused: Counter[tuple[str, str]]

    @abstractmethod
    def after(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Do ``work`` so much later."""

    @abstractmethod
    def settle(self, program: GroupProgram) -> None:
        """Send what a call of the program brought about."""

    @abstractmethod
    def begun(self, worker: Worker, held: Held, index: int) -> None:
        """A program begins to work on a record."""

    def finished(self, worker: Worker, held: Held, index: int, kind: int) -> None:  # noqa: B027
        """A program is about to say what becomes of a record; -1: nothing, it has forgotten it."""

    def left(self, worker: Worker) -> None:  # noqa: B027
        """A member is about to go in order."""

    def sources_of(self, group: str) -> Callable[[str], bool]:
        """Whether a topic is one that the group reads."""
        wish = self.wishes[group]
        if wish["kind"] == "queue":
            return lambda topic: (
                topic == group or queue_of(topic) == group or topic == retries_of(group)
            )
        return lambda topic: matches(wish["pattern"], topic) or topic == retries_of(group)


def choose_wishes(rng: random.Random) -> dict[str, dict[str, Any]]:
    """Some groups and queues."""

    def wish(kind: str, **more: Any) -> dict[str, Any]:
        return {
            "kind": kind,
            "order": rng.choice(["any", "key"]),
            "max_deliveries": rng.choice([1, 2, 3, 5]),
            "backoff_ns": rng.choice([10, 100, 400]) * MS,
            "backoff_max_ns": 1 * SECOND,
            "max_held": rng.choice([2, 10, 1_000_000]),
            "rate": rng.choice([0, 0, 0, 500]),
            **more,
        }

    made = {
        "ga": wish("group", pattern=rng.choice(["w.>", "w.a"]), order="any"),
        "gk": wish("group", pattern=rng.choice(["w.>", "w.*", "w.b"]), order="key"),
        "gn": wish("group", pattern="w.>", start="new"),
        "qa": wish("queue"),
        "qb": wish("queue"),
    }
    names = rng.sample(sorted(made), rng.choice([1, 2, 3]))
    return {name: {"group": name, **made[name]} for name in names}


class Worker:
    """One member of one group, and the records its program works on."""

    def __init__(
        self, program: GroupProgram, group: str, member: Member, concurrency: int, timeout_ns: int
    ) -> None:
        self.program = program
        self.group = group
        self.member = member
        self.concurrency = concurrency
        self.timeout_ns = timeout_ns
        self.busy = 0
        self.current: tuple[Held, Iterator[tuple[bytes, int]]] | None = None
        self.done: list[tuple[Held, int]] = []  # settled lately, to be said again
        self.ended = False

    def next(self) -> tuple[Held, int] | None:
        """The next record to begin."""
        while True:
            if self.current is not None:
                held, rest = self.current
                for _, index in rest:
                    return held, index
                self.current = None
                self.member.finished(held)
            begun = self.member.begin(decode)
            if begun is None:
                return None
            values = [begun.records[i] for i in begun.picks]
            begun.feed = values
            self.current = begun, zip(values, begun.cursor, strict=False)


class GroupProgram(Program):
    """See the module's header.

    Attributes:
        published: (topic, value, batch, index, dedup id) of all it sent.
    """

    def __init__(self, world: Workplace, name: str, run: int, client: Client | None = None) -> None:
        identity = ClientIdentity(
            "local",
            hashlib.sha256(f"{name}/{run}".encode()).digest()[:16],
            hashlib.sha256(f"{name}/{run}".encode()).digest()[:16],
            name,
        )
        client = client or Client(
            identity, codec.encode_batch, world.rng, encode_jobs=codec.encode_jobs  # type: ignore[arg-type]
        )  # fmt: skip
        super().__init__(name, run, client)
        self.world = world
        self.workers: dict[int, Worker] = {}
        self.numbers = 0
        self.queues: set[str] = set()
        self.commands: dict[int, tuple[str, dict[str, Any]]] = {}
        self.transaction: tuple[int, Worker, Held, int] | None = None

    # -- publishing ---------------------------------------------------------------------------

    def publish(self) -> None:
        """A few records to one topic, or jobs to one queue."""
        world, rng = self.world, self.world.rng
        if world.healed or not self.alive or len(world.published) > RECORDS_MAX:
            return
        # As the clients do: nothing for a queue before the node has it.
        topic = rng.choice([t for t in world.topics if t not in world.queues or t in self.queues])
        options: codec.JobOptions | None = None
        if topic in world.queues:
            options = self._options(topic)
            if options is not None:
                topic = lane_of(topic, options.priority, bool(options.due_ms))
        single = options is not None and bool(options.dedup)
        for _ in range(1 if single else rng.choice([1, 1, 2, 5, 12])):
            self.numbers += 1
            value = f"{self.name}.{self.run}|{self.numbers}|".encode()
            value = value.ljust(rng.choice([20, 20, 20, 300]), b".")
            key = rng.choice(KEYS) if rng.random() < world.keyed else None
            batch, index = self.client.publisher.add(
                topic, value, key, None, None, lambda: world.wall_ns + world.now_ns,
                TOPIC_DEFAULT, None, options, single,
            )  # fmt: skip
            dedup = options.dedup if options else b""
            world.published.append((topic, value, batch, index, dedup))
        world.settle(self)
        world.after(int(rng.random() ** 2 * world.pace_ns), self.publish)

    def _options(self, queue: str) -> codec.JobOptions | None:
        world, rng = self.world, self.world.rng
        if rng.random() < 0.4:
            return None
        wall_ms = (world.wall_ns + world.now_ns) // MS
        keyed = world.wishes[queue].get("order") == "key"
        return codec.JobOptions(
            due_ms=wall_ms + rng.randrange(1, 3000) if rng.random() < 0.4 else 0,
            expires_ms=wall_ms + rng.randrange(200, 4000) if rng.random() < 0.1 else 0,
            priority=rng.choice([0, 0, 3, 9]) if not keyed else 0,
            dedup=bytes([rng.randrange(6)]) * 16 if rng.random() < 0.2 else b"",
        )

    # -- commands -----------------------------------------------------------------------------

    def tell(self, verb: str, arguments: dict[str, Any]) -> None:
        """Give the node a command."""
        if self.alive:
            data = json.dumps(arguments).encode()
            number = self.client.command(verb, data, self.world.now_ns)
            self.commands[number] = verb, arguments
            self.world.settle(self)

    def on_answer(self, number: int, code: str, body: dict[str, Any]) -> None:
        """A command was answered."""
        verb, arguments = self.commands.pop(number)
        if code:
            self.world.refused[verb, code] += 1
        elif verb == "group.create":
            self.queues.add(arguments["group"])
            self.client.publisher.queues.add(arguments["group"])
        elif verb == "dlq.show" and body["ranges"]:
            rng = self.world.rng
            ranges = rng.sample(body["ranges"], rng.randint(1, len(body["ranges"])))
            verb = "dlq.replay" if rng.random() < 0.8 else "dlq.purge"
            wanted = {"group": arguments["group"], "ranges": ranges}
            self.world.after(1, partial(self.tell, verb, wanted))

    # -- working ------------------------------------------------------------------------------

    def join(self, group: str) -> None:
        """One more member."""
        world, rng = self.world, self.world.rng
        if not self.alive:
            return
        wish = world.wishes[group]
        pattern = group if wish["kind"] == "queue" else wish["pattern"]
        create = {k: v for k, v in wish.items() if k != "group"}
        frame = Consume(
            0, group, pattern, json.dumps(create).encode(), rng.choice([1, 2, 5, 40]),
            rng.choice([100, 2_000, 1 << 20]), rng.choice([200 * MS, 500 * MS, 2 * SECOND]),
        )  # fmt: skip
        member = self.client.consume(frame, None, world.now_ns)
        self.workers[member.id] = Worker(
            self, group, member, rng.choice([1, 1, 3]), frame.ack_timeout_ns
        )
        world.settle(self)

    def leave(self, worker: Worker) -> None:
        """A member goes in order."""
        if self.alive and not worker.ended:
            self.world.left(worker)
            worker.ended = True
            self.client.leave(worker.member.id, self.world.now_ns)
            self.world.settle(self)
            self.world.after(SECOND, partial(self.join, worker.group))

    def work(self, worker: Worker) -> None:
        """Begin what can be begun."""
        world = self.world
        while self.alive and not worker.ended and worker.busy < worker.concurrency:
            found = worker.next()
            if found is None:
                break
            held, index = found
            worker.busy += 1
            world.begun(worker, held, index)
            self._work_on(worker, held, index)
        world.settle(self)

    def _work_on(self, worker: Worker, held: Held, index: int) -> None:
        """Decide what becomes of one record, and when."""
        world, rng = self.world, self.world.rng
        timeout = worker.timeout_ns
        if world.healed:
            world.after(MS, partial(self._finish, worker, held, index, ACK))
            return
        luck = rng.random() / world.trouble
        delay = int(rng.random() ** 2 * 50 * MS)
        kind = ACK
        if luck < 0.08:
            kind = NACK
        elif luck < 0.11:
            kind = REJECT
        elif luck < 0.13:
            kind = RETURN
        elif luck < 0.16:
            delay = timeout + int(rng.random() * timeout)  # late
        elif luck < 0.18:
            delay = -1  # forgotten
        elif luck < 0.21:
            world.after(timeout // 2, partial(self._extend, worker, held, index, timeout))
            delay = timeout + timeout // 4
        elif luck < 0.26 and self.transaction is None:
            world.after(delay, partial(self._transact, worker, held, index))
            return
        if delay < 0:
            world.after(timeout, partial(self._finish, worker, held, index, -1))
        else:
            world.after(delay, partial(self._finish, worker, held, index, kind))

    def _extend(self, worker: Worker, held: Held, index: int, timeout: int) -> None:
        if self.alive and not worker.ended:
            worker.member.settle(held, index, EXTEND, timeout)
            self.world.settle(self)

    def _finish(self, worker: Worker, held: Held, index: int, kind: int) -> None:
        world, rng = self.world, self.world.rng
        if not self.alive or worker.ended:
            return
        worker.busy -= 1
        world.finished(worker, held, index, kind)
        if kind == ACK and rng.random() < 0.5 and held.next == index and not held.is_settled(index):
            held.next = index + 1  # as a program's thread does
            if held.is_quiet:
                worker.member.touch(held)
        elif kind == ACK:
            worker.member.settle(held, index, ACK)
        elif kind == NACK:
            delay = rng.choice([BACKOFF, BACKOFF, 0, int(rng.random() * SECOND)])
            worker.member.settle(held, index, NACK, delay, "it failed")
        elif kind in (REJECT, RETURN):
            worker.member.settle(held, index, kind, 0, "it is bad")
        if rng.random() < 0.05 and not world.healed:
            worker.done.append((held, index))
        if worker.done and rng.random() < 0.2:
            self._say_again(worker)
        self.work(worker)

    def _say_again(self, worker: Worker) -> None:
        """A program with a mistake: it says once more what it has settled long ago."""
        held, index = worker.done.pop()
        if held.is_closed(index):
            kind = self.world.rng.choice([ACK, NACK, RETURN])
            held.account.ready.append(Told(held, index, 1, kind))

    # -- transactions -------------------------------------------------------------------------

    def _transact(self, worker: Worker, held: Held, index: int) -> None:
        world = self.world
        if not self.alive or worker.ended:
            return
        if self.transaction is not None or held.is_settled(index):
            self._finish(worker, held, index, ACK)
            return
        output = b"out|%s|%s|%d" % (
            worker.group.encode(), held.row.topic.encode(), held.offset(index),
        )  # fmt: skip
        data = codec.encode_batch([output], None, None, None, 0)
        batch = PublishBatch("out.x", 1, 0, 1, len(data), zlib.crc32(data))
        number = self.client.transact(((held, index),), (batch,), data, world.now_ns)
        self.transaction = number, worker, held, index
        world.transactions.append((worker.group, held.row.topic, held.offset(index), output))
        world.settle(self)

    def transacted(self, code: str) -> None:
        """The node has answered."""
        assert self.transaction is not None
        _, worker, held, index = self.transaction
        self.transaction = None
        if worker.ended:
            return
        if code:
            self.world.after(MS, partial(self._finish, worker, held, index, NACK))
            return
        self.world.outputs_told[
            b"out|%s|%s|%d" % (worker.group.encode(), held.row.topic.encode(), held.offset(index))
        ] += 1
        worker.busy -= 1
        self.world.after(1, partial(self.work, worker))


Published = tuple[str, bytes, Batch, int, bytes]
