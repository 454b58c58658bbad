"""Short ways to feed a publisher and to answer it, for tests."""

from __future__ import annotations

import zlib

from meshmq.core.lanes import FAILED
from meshmq.core.publisher import TOPIC_DEFAULT
from meshmq.frames import SYNCED, Confirmation
from tests.core.helpers import ORIGIN, decode


def add(pub, topic, *values, sequence=None, wanted=TOPIC_DEFAULT):
    """Add plain records; return the batch of the last and its index there."""
    for value in values:
        held = pub.add(topic, value, None, None, None, lambda: 5, wanted, sequence)
        sequence = None if sequence is None else sequence + 1
    return held


def rows(frames):
    """(topic, first, after, values) of each batch of each frame; checks lengths and checksums."""
    found = []
    for frame in frames:
        at = 0
        for b in frame.batches:
            data = frame.payload[at : at + b.length]
            at += b.length
            assert zlib.crc32(data) == b.checksum
            values = decode(data)
            assert len(values) == b.count
            found.append((b.topic, b.first, b.after, values))
        assert at == len(frame.payload)
    return found


def take(pub, origin=ORIGIN):
    return rows(pub.take(origin))


def yes(topic, first, count, base=0, **changes):
    answer = Confirmation(
        topic, first, count, base_offset=base, append_time_ns=77, topic_id=b"t" * 16,
        durability=SYNCED, last=first + count - 1, has_offset=True,
    )  # fmt: skip
    return answer._replace(**changes)


def no(topic, first, code, last=0, count=1):
    return Confirmation(topic, first, count, code, f"told {code}", last=last)


def answer(pub, *confirmations):
    for c in confirmations:
        pub.on_confirmation(c, ORIGIN)


def reconnect(pub, origin=ORIGIN, away_ns=0):
    pub.on_session_lost()
    pub.on_origin(origin, away_ns)


def outcome(batch):
    assert batch.state == FAILED
    return batch.error.code, batch.error.outcome
