"""Damages messages and reads them, again and again; run by test_mutated.py in its own process.

    python mutate.py SEED COUNT

Whatever the bytes, reading must end in BadFrame or in a value that can be written and read again.
A reader that loops is ended by a timer of this process's own CPU time, one that takes memory by a
limit on its address space, and one that aborts ends the process: all that the parent sees.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

from meshmq import codec, codec_log, codec_lone, limits
from meshmq.errors import BadFrame
from meshmq.frames import Confirm, Confirmation, Envelope, Publish, PublishBatch

GOLDEN = Path(__file__).with_name("golden")
CPU_SECONDS_MAX = 2.0  # for one message; the largest takes a few milliseconds
MEMORY_BYTES_MAX = 256 << 20  # beyond what the process has when it begins
SENTENCE_MAX = 400
EXTREMES = [0, 1, 2, 7, 2**29 - 1, 2**31, 2**32 - 1, 2**61, 2**63, 2**64 - 1]


def load():
    """kind -> messages, each a list of parts."""
    found = {"frame": [], "batch": [], "headers": [], "commit": [], "snapshot": []}
    for path in sorted(GOLDEN.glob("*.bin")):
        name = path.name.split(".")[0]
        if path.name.endswith(".payload.bin"):
            continue
        kind = name.split("_")[0]
        parts = [path.read_bytes()]
        payload = GOLDEN / f"{name}.payload.bin"
        if payload.exists():
            parts.append(payload.read_bytes())
        found[kind if kind in found else "frame"].append(parts)
    return found


def large():
    """Messages near their bounds, of which a few damages can ask for the most work."""
    count = limits.FRAME_BATCHES_MAX
    topic = "t" * limits.TOPIC_BYTES_MAX
    rows = tuple(PublishBatch(topic, i + 1, i, 1, 8, 0) for i in range(count))
    publish = Envelope(1, 1, 1, Publish(rows, bytes(8 * count)))
    confirm = Envelope(1, 1, 1, Confirm((Confirmation(topic, 1, 1, "busy", "full"),) * count))
    values = [b"value"] * limits.BATCH_RECORDS_MAX
    batch = codec.encode_batch(values, values, values, range(len(values)), 0)
    return {"frame": [codec.encode(publish), codec.encode(confirm)], "batch": [[batch]]}


def damage(rng, data, others):
    """One change of ``data``; ``others`` are messages to take pieces from."""
    changed = bytearray(data)
    words = len(changed) // 8
    match rng.randrange(9):
        case 0 | 1 if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        case 2 if changed:
            changed[rng.randrange(len(changed))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        case 3 if words:
            at = 8 * rng.randrange(words)
            changed[at : at + 8] = rng.choice(EXTREMES).to_bytes(8, "little")
        case 4 if words:
            at = 8 * rng.randrange(words) + rng.choice([0, 4])
            changed[at : at + 4] = (rng.choice(EXTREMES) & 0xFFFF_FFFF).to_bytes(4, "little")
        case 5:
            del changed[rng.randrange(len(changed) + 1) :]
        case 6:
            changed += rng.randbytes(rng.choice([1, 7, 8, 64]))
        case 7 if words > 1:
            one, other = (8 * rng.randrange(words) for _ in range(2))
            changed[one : one + 8] = changed[other : other + 8]
        case 8:
            other = rng.choice(others)[0]
            at = 8 * rng.randrange(min(len(other), len(changed)) // 8 + 1)
            changed[at:] = other[at:]
    return bytes(changed)


def fit(data):
    """``data`` with a segment table that fits its size, so that the damage inside is met."""
    whole = len(data) // 8 * 8
    if whole < 16:
        return data
    return b"\0\0\0\0" + (whole // 8 - 1).to_bytes(4, "little") + data[8:whole]


def outcome(read, *arguments):
    """("read", value) or ("refused", None); a refusal must be one sentence."""
    try:
        return "read", read(*arguments)
    except BadFrame as error:
        said = str(error)
        assert said
        assert len(said) <= SENTENCE_MAX, said
        assert "\n" not in said, said
        return "refused", None


def read_frame(rng, parts):
    short = codec_lone.decode
    found = outcome(codec.decode, parts)
    try:
        codec_lone.decode = lambda header, payload: None
        general = outcome(codec.decode, parts)
    finally:
        codec_lone.decode = short
    assert found == general, f"the short cut: {found}, the general path: {general}"
    if found[0] == "read":
        body = found[1].body
        silent = isinstance(body, Confirm) and any(
            c.message and not c.code for c in body.confirmations
        )
        again = codec.encode(found[1])  # a message without a code is not written
        assert silent or codec.decode(again) == found[1]
    return found[0]


def read_batch(rng, parts):
    counts = {1, 2, 3, len(parts[0]) // 8, rng.choice(EXTREMES), limits.BATCH_RECORDS_MAX}
    found = Counter()
    for count in sorted(counts):
        checked, _ = outcome(codec.check_batch, parts[0], count)
        how, records = outcome(codec.decode_batch, parts[0], count)
        found[how] += 1
        assert how == "read" or checked == "refused", "what cannot be read was let in"
        if how == "read":
            assert len(records.values) == count
            for column in (records.keys, records.headers, records.times):
                assert column is None or len(column) == count
            assert all(type(v) is bytes for v in records.values)
    return "read" if found["read"] else "refused"


def read_headers(rng, parts):
    how, headers = outcome(codec.decode_headers, parts[0])
    if how == "read":
        assert all(type(k) is str and type(v) is str for k, v in headers.items())
    return how


def read_commit(rng, parts):
    how, meta = outcome(codec_log.decode_commit, parts[0])
    if how == "read":
        assert len(list(meta.batches)) == len(meta.batches)
        meta.without_bytes()
        general = codec_log._read_commit(parts[0])
        assert meta._replace(batches=tuple(meta.batches)) == general
    return how


def read_snapshot(rng, parts):
    how, found = outcome(codec_log.decode_snapshot, parts[0])
    if how == "read":
        codec_log.encode_snapshot(*found)
    return how


READERS = {
    "frame": read_frame,
    "batch": read_batch,
    "headers": read_headers,
    "commit": read_commit,
    "snapshot": read_snapshot,
}
KINDS = ["frame"] * 6 + ["batch"] * 2 + ["headers", "commit", "snapshot"]


def bound():
    """From here on the process dies of what takes too long or too much."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = held + MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def play(rng, count):
    """Damage and read ``count`` messages; what became of them, by kind."""
    small, big = load(), large()
    everything = [parts for kind in small.values() for parts in kind]
    found = Counter()
    bound()
    for number in range(count):
        kind = rng.choice(KINDS)
        source = big if kind in big and rng.random() < 0.01 else small
        parts = list(rng.choice(source[kind]))
        for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
            at = rng.randrange(len(parts)) if rng.random() < 0.1 else 0
            parts[at] = damage(rng, parts[at], everything)
        if rng.random() < 0.3:
            parts[0] = fit(parts[0])
        if rng.random() < 0.02:
            parts.append(rng.choice(everything)[0])
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS_MAX)
        try:
            found[f"{kind} {READERS[kind](rng, parts)}"] += 1
        except BaseException:
            traceback.print_exc()
            shown = [part[:2000].hex() for part in parts]
            sys.exit(f"message {number}, a damaged {kind}: {shown}")
    return found


if __name__ == "__main__":
    seed, wanted = map(int, sys.argv[1:])
    json.dump(play(random.Random(seed), wanted), sys.stdout)
