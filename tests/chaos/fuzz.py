"""Hostile bytes: ``python -m tests.chaos.fuzz node --seconds 600``, ``... codec --runs 1000000``.

``node`` sends garbage, cut-off, oversized, mutated and forged frames to one node in a process of
its own, over plain sockets, while a client beside it publishes and reads: the node must stay up,
its memory flat, and the client must lose nothing and be cut off only where the memory breaker says
so. ``codec`` has atheris look for bytes that end a reader in anything but BadFrame (it is in the
extra ``fuzz``; the same readers are damaged at random in CI, see tests/codec).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import meshmq
from meshmq import codec
from meshmq import frames as f
from meshmq.core import group_commands
from tests.bench import about
from tests.chaos import hostile
from tests.chaos.power import Node
from tests.codec import mutate

RESIDENT_MIB_MAX = 64  # more than at the start, after the breaker's work if any
WHOLE = 2**64 - 1
EDGES = [0, 1, 2, 2**16, 2**31, 2**32 - 1, 2**62, 2**63 - 1]


def forged(rng: random.Random) -> f.Body:
    """A body of every kind, with values at their edges and beyond."""
    edge = rng.choice(EDGES)
    text = rng.choice(["a", "", ">", "*.>", "$x", "a..b", "x" * 300, "\0", "é" * 120, "t.1"])
    data = rng.randbytes(rng.choice([0, 1, 16, 17, 300]))
    checks: list[Callable[[], f.Body]] = [
        lambda: f.Hello(rng.choice([1, 1, 0, 2, 65_535]), 0, text, data, data, text, text),
        lambda: f.Welcome(1, 0, data, text, text, edge),
        lambda: f.Refuse(text, text),
        f.Nothing,
        f.Gap,
        f.Ping,
        f.Bye,
        lambda: _publish(rng, text, edge),
        lambda: f.Confirm((f.Confirmation(text, edge, 1, text, text, edge),)),
        lambda: f.Subscribe(
            edge % 2**32, text, rng.randrange(256), edge % 2**62, data, edge, 1, WHOLE, edge
        ),
        lambda: f.Subscribed(1, text, text, data, edge, 1, 1),
        lambda: f.Unsubscribe(edge % 2**32),
        lambda: f.Credit(rng.choice([1, 2, edge % 2**32]), edge, edge),
        lambda: f.Deliver(1, (f.DeliverBatch(text, edge, 1, len(data), 0, 0, 1, 1),), edge, data),
        lambda: f.Command(edge, rng.choice([text, *VERBS]), _arguments(rng, text)),
        lambda: f.Result(edge, text, text, data),
        lambda: f.Window(edge, edge),
        *_of_groups(rng, text, edge, data),
    ]
    return rng.choice(checks)()


def _of_groups(
    rng: random.Random, text: str, edge: int, data: bytes
) -> list[Callable[[], f.Body]]:  # fmt: skip
    name = rng.choice(["g", "q", "k", text])
    number = rng.choice([1, 2, edge % 2**32])
    hand_out = rng.choice([LEARNED, LEARNED + 1, 0, edge, WHOLE]) % 2**64
    small = edge % 2**32
    delay = rng.choice([0, -1, -2, -(2**63), 2**63 - 1, 10**9])

    def row() -> f.SettleRow:
        first, count = rng.choice([(0, 1), (0, small), (small, 1), (small, small), (1, 2)])
        return f.SettleRow(hand_out, first, count, rng.randrange(6), delay, text)

    def holding() -> f.Holding:
        offsets = rng.choice([(0,), (), (edge,), (WHOLE,), (0, 0), tuple(range(5000))])
        topic = rng.choice(["t.1", "$journal", "$dlq.g", "q", text])
        return f.Holding(hand_out, topic, offsets, edge % 2**16)

    rows = tuple(row() for _ in range(rng.choice([0, 1, 3, 1024])))
    holdings = tuple(holding() for _ in range(rng.choice([0, 0, 1, 30])))
    return [
        lambda: f.Consume(
            number, name, text, _settings(rng, text), small, edge, edge, holdings
        ),
        lambda: f.Consume(
            rng.choice([1, 2]), name, "t.>", _settings(rng, text), 100, 1 << 20, 10**9, ()
        ),
        lambda: f.Consumed(number, text, text, small % 256, (edge,)),
        lambda: f.HandOut(number, (), b""),
        lambda: f.Settle(number, edge, rows),
        lambda: f.Settle(1, edge, rows),
        lambda: f.Settled(number, edge, rows),
        lambda: f.Revoke(number, rows),
        lambda: f.Leave(number),
        lambda: _transact(rng, text, edge, number, hand_out),
        lambda: f.Transacted(edge, text, text, (edge,)),
        lambda: f.Command(edge, rng.choice(GROUP_VERBS), _group_arguments(rng, text, edge)),
    ]  # fmt: skip


LEARNED = 1  # no hand-out has such a number: who guesses one has to guess 62 bits
VERBS = (
    "topic.create",
    "topic.list",
    "topic.show",
    "topic.delete",
    "producer.last",
    "route.list",
    "status",
)
GROUP_VERBS = tuple(group_commands.VERBS)


def _transact(
    rng: random.Random, topic: str, edge: int, consumer: int, hand_out: int
) -> f.Transact:  # fmt: skip
    acks = tuple(
        f.TransactAck(consumer, hand_out, edge % 2**32, rng.choice([0, 1, 2**32 - 1]))
        for _ in range(rng.choice([0, 0, 1, 100]))
    )
    published = _publish(rng, rng.choice([topic, *OWN_TOPICS]), edge)
    return f.Transact(edge, acks, published.batches, published.payload)


OWN_TOPICS = ("q", "$delayed.q", "$priority.3.q", "$journal", "$dlq.g", "$retry.g")


def _settings(rng: random.Random, text: str) -> bytes:
    return rng.choice(
        [
            b"", b"{", b"[]", b"null", b'{"start":' + b"[" * 990 + b"]" * 990 + b"}",
            b'{"kind":"group","pattern":"t.>"}', b'{"kind":"queue"}',
            b'{"kind":"group","pattern":"t.>","order":"key","max_held":1}',
            json.dumps({"kind": rng.choice(["group", "queue", text]), "pattern": text,
                        "rate": rng.choice([0, -1, 1e308, 2**70, "x"])}).encode(),
        ]
    )  # fmt: skip


def _group_arguments(rng: random.Random, text: str, edge: int) -> bytes:
    name = rng.choice(["g", "q", "k", text])
    found = {
        "group": name, "queue": name, "pattern": rng.choice(["t.>", text]), "job": text,
        "kind": rng.choice(["group", "queue"]),
        "start": rng.choice(["new", "earliest", {"offset": edge}, {"time_ns": edge}, [], text]),
        "ranges": rng.choice([None, [[0, 2**61]] * 500, [[edge, edge]], [[1]], text]),
        "due_ms": edge, "max_held": edge, "rate": rng.choice([0, 1, edge]), "dedup_ns": edge,
    }  # fmt: skip
    return json.dumps(found).encode()


def _publish(rng: random.Random, topic: str, edge: int) -> f.Publish:
    if rng.random() < 0.25:
        values = [b"job"] * rng.choice([1, 3])
        low, high = -(2**63), 2**63 - 1
        options = codec.JobOptions(
            rng.choice([0, 1, low, high]), rng.choice([0, 1, low, high, 2**40]),
            rng.choice([0, 9, 255]), rng.choice([b"", b"d" * 16, b"short"]),
        )  # fmt: skip
        data = codec.encode_jobs(values, None, None, None, 0, options)
        topic = rng.choice([topic, *OWN_TOPICS])
    elif rng.random() < 0.5:
        values = [rng.randbytes(rng.choice([0, 1, 100])) for _ in range(rng.choice([1, 3]))]
        data = codec.encode_batch(values, None, None, None, 0)
    else:
        data, values = rng.randbytes(rng.choice([0, 8, 64, 4096])), [b""]
    checksum = rng.choice([codec.checksum(data), edge % 2**32])
    first = rng.choice([1, 2, edge])
    return f.Publish((f.PublishBatch(topic, first, first - 1 if first else 0, len(values),
                                     len(data), checksum, rng.random() < 0.5),), data)  # fmt: skip


def _arguments(rng: random.Random, text: str) -> bytes:
    return rng.choice(
        [
            b"", b"{", b"[]", b"null", b'{"pattern":' + b"[" * 5000, b"\xff\xfe",
            json.dumps({"pattern": text, "topic": text, "durability": "transient"}).encode(),
            json.dumps({"pattern": f"z.{rng.randrange(50)}", "durability": "durable",
                        "retention_ns": rng.choice([0, -1, 1e308, 2**70, "x"])}).encode(),
        ]
    )  # fmt: skip


def parts_of(
    rng: random.Random, messages: list[list[bytes]], order: Iterator[int]
) -> tuple[str, list[bytes]]:
    """(kind, parts) of one hostile message; ``order`` counts those that come as they should."""
    kind = rng.choice(["forged", "forged", "mutated", "mutated", "garbage", "shuffled"])
    if kind == "forged":
        envelope = f.Envelope(
            rng.choice([7, 7, 7, 0, rng.getrandbits(64)]),
            rng.choice([0, 1, 2, 3, rng.getrandbits(64)]),
            rng.choice([0, 1, WHOLE]),
            forged(rng),
        )
        if rng.random() < 0.6:
            envelope = f.Envelope(7, next(order), 0, forged(rng))
        with contextlib.suppress(Exception):  # what cannot even be written is not sent
            return kind, codec.encode(envelope)
        kind = "garbage"
    if kind == "garbage":
        sizes = [rng.choice([0, 1, 8, 64, 4096]) for _ in range(rng.choice([1, 2, 5]))]
        return kind, [rng.randbytes(size) for size in sizes]
    parts = list(rng.choice(messages))
    if kind == "mutated":
        for _ in range(rng.choice([1, 1, 2, 4])):
            parts[0] = mutate.damage(rng, parts[0], messages)
        return kind, parts
    return kind, [*parts, *rng.choice(messages)]


class Beside:
    """A well-behaved client beside the hostile ones: publishes, reads, counts."""

    def __init__(self, url: str) -> None:
        self.states: Counter[str] = Counter()
        self.mesh = meshmq.connect(
            url, timeout=60, on_state=lambda change: self.states.update([change.state])
        )
        self.sub = self.mesh.subscribe("beside.durable")
        self.sent = self.seen = 0

    def step(self) -> None:
        receipts = [self.mesh.publish("beside.durable", b"%d" % (self.sent + i)) for i in range(20)]
        self.sent += 20
        receipts[-1].wait(60)
        while self.seen < self.sent:
            messages = self.sub.fetch(100, timeout=60)
            assert messages, f"{self.seen} of {self.sent} came"
            for message in messages:
                assert message.value == b"%d" % self.seen, (message.value, self.seen)
                self.seen += 1
        assert self.sub.missed == 0


def attack_node(seconds: float, seed: int, breaker: bool) -> dict[str, Any]:
    """Send hostile bytes for so long; what was sent and how the node bore it."""
    rng = random.Random(seed)
    messages = mutate.load()["frame"]
    sent: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        node = Node(Path(temporary) / "data")
        node.start()
        assert node.process is not None
        try:
            beside = Beside(node.url)
            beside.step()
            begin = beside.mesh.admin.status()["memory_bytes"]
            until = time.monotonic() + seconds
            broke = False
            while time.monotonic() < until:
                sent += _one_connection(node.url, rng, messages)
                beside.step()
                if breaker and not broke and time.monotonic() > until - seconds / 2:
                    hostile.endless_multipart(node.url, 400 << 20, 10)
                    broke = True
                assert node.process.poll() is None, "the node is gone"
            status = beside.mesh.admin.status()
            grown = (status["memory_bytes"] - begin) >> 20
            assert grown < RESIDENT_MIB_MAX, f"the node grew by {grown} MiB"
            lost, allowed = beside.states["reconnecting"], status["memory_breaks"]
            assert lost <= allowed, f"{lost} reconnects, {allowed} allowed"
            assert status["bad_frames"] > 0
            beside.mesh.close()
            node.stop()
            assert node.process.returncode == 0
        finally:
            node.stop()
    return {
        "seconds": round(seconds), "sent": dict(sent), "bad_frames": status["bad_frames"],
        "sessions_opened": status["sessions"]["opened"], "beside_sent": beside.sent,
        "beside_reconnects": lost, "memory_breaks": status["memory_breaks"],
        "memory_grown_mib": grown, "topics": status["topics"],
    }  # fmt: skip


def _one_connection(url: str, rng: random.Random, messages: list[list[bytes]]) -> Counter[str]:
    """One hostile connection: a session or none, then what it likes."""
    sent: Counter[str] = Counter()
    with contextlib.suppress(OSError), hostile.connect(url, 5) as sock:
        how = rng.random()
        if how < 0.05:
            sock.sendall(rng.randbytes(rng.choice([1, 64, 5000])))  # not even ZeroMQ
            sent["raw"] += 1
            return sent
        hostile.greet(sock)
        if how < 0.1:
            sock.sendall(hostile.part(bytes(2 << 20)))
            sent["oversized"] += 1
            return sent
        if how < 0.8:
            hello = f.Envelope(7, 0, 0, hostile.hello(rng))
            sock.sendall(hostile.message(codec.encode(hello)))
        order = itertools.count(1)
        if 0.1 <= how < 0.4:  # well-formed frames in order, of a member that lies
            for _ in range(rng.choice([5, 50, 200])):
                body = rng.choice(_of_groups(rng, "t.1", rng.choice(EDGES), b""))()
                with contextlib.suppress(Exception):  # what cannot even be written is not sent
                    parts = codec.encode(f.Envelope(7, next(order), 0, body))
                    sock.sendall(hostile.message(parts))
                    sent["lies"] += 1
            return sent
        for _ in range(rng.choice([1, 5, 50])):
            kind, parts = parts_of(rng, messages, order)
            whole = hostile.message(parts or [b""])
            if rng.random() < 0.02:
                whole = whole[: rng.randrange(len(whole))]
                kind = "cut off"
            sock.sendall(whole)
            sent[kind] += 1
            if kind == "cut off":
                break
    return sent


def attack_codec(runs: int, seed: int) -> dict[str, Any]:
    """Let atheris do it in a process of its own, which it ends; what it said at the end."""
    argv = ["-m", "tests.chaos.fuzz", "atheris", "--runs", str(runs), "--seed", str(seed)]
    child = subprocess.Popen([sys.executable, *argv], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    done, features = None, 0
    for line in child.stderr:
        sys.stderr.write(line)
        done = re.search(r"Done (\d+) runs in (\d+) second", line) or done
        found = re.search(r"\bft: (\d+)", line)
        features = int(found[1]) if found else features
    if child.wait() != 0 or done is None:
        sys.exit(f"fuzz: atheris ended with {child.returncode}: see above")
    return {"runs": int(done[1]), "seconds": int(done[2]), "features": features, "failures": 0}


def hand_to_atheris(runs: int, seed: int) -> None:
    """It ends the process."""
    import atheris

    atheris.instrument_all()
    rng = random.Random(seed)
    readers = list(mutate.READERS.items())

    def one(data: bytes) -> None:
        if len(data) < 2:
            return
        _, reader = readers[data[0] % len(readers)]
        cut = 1 + data[1] * 8
        parts = [data[2:cut], data[cut:]] if data[1] % 3 == 0 else [data[2:]]
        reader(rng, parts)

    corpus = Path(tempfile.mkdtemp())
    for number, (kind, _) in enumerate(readers):
        for index, parts in enumerate(mutate.load()[kind]):
            head = bytes([number, 1])
            (corpus / f"{kind}-{index}").write_bytes(head + parts[0])
    atheris.Setup(
        [sys.argv[0], f"-runs={runs}", f"-seed={seed}", "-timeout=5", "-rss_limit_mb=2048",
         str(corpus)], one,
    )  # fmt: skip
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description="Hostile bytes for a node and for the codec.")
    parser.add_argument("what", choices=["node", "codec", "atheris"])
    parser.add_argument("--seconds", type=float, default=60, help="node: for how long")
    parser.add_argument("--runs", type=int, default=100_000, help="codec: executions")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path, help="directory for the result as JSON")
    options = parser.parse_args()
    if options.what == "atheris":
        hand_to_atheris(options.runs, options.seed)
        return
    if options.what == "codec":
        found = attack_codec(options.runs, options.seed)
    else:
        found = attack_node(options.seconds, options.seed, breaker=True)
    result = {"what": f"fuzz of the {options.what}", "commit": about.commit(), "date": about.date(),
              "seed": options.seed, **found}  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        (options.out / f"fuzz-{options.what}-{about.stamp()}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
