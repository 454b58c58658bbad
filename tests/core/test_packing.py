"""Batches as one block for a link: whole or refused, and never more memory than was said."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import zstandard

from meshmq import codec, limits
from meshmq.core.packing import Packer, opened
from meshmq.errors import BadFrame
from meshmq.frames import Envelope
from meshmq.frames_copies import CopiedBatch, Fetched

NOISE = random.Random(1).randbytes(20_000)


def frame(*parts):
    rows = tuple([CopiedBatch(5, i, 1, len(p), 0, 0, 9, i, False, bytes(16), 0)
                  for i, p in enumerate(parts)])  # fmt: skip
    return Fetched(3, (), rows, 9, len(parts), b"".join(parts))


def test_small_batches_are_one_block_and_come_out_as_they_were():
    before = frame(*[b"order %d of the same kind" % i for i in range(50)])
    packed = Packer(codec.TOOLS).packed(before)
    assert len(packed.payload) < len(before.payload) // 3
    assert packed.size == len(before.payload)
    came = codec.decode(codec.encode(Envelope(1, 1, 0, packed))).body
    assert opened(came, codec.TOOLS) == before


@pytest.mark.parametrize("data", [b"", b"a" * (limits.PACK_BYTES_MIN - 1), NOISE])
def test_what_does_not_shrink_goes_as_it_is(data):
    before = frame(data)
    assert Packer(codec.TOOLS).packed(before) is before
    assert opened(before, codec.TOOLS) is before


def test_what_never_shrinks_is_hardly_tried_and_what_shrinks_again_always():
    tried = []

    def pack(data):
        tried.append(data)
        return codec.TOOLS.pack(data)

    packer = Packer(codec.TOOLS._replace(pack=pack))
    for _ in range(1000):
        packer.packed(frame(NOISE))
    assert len(tried) < 25
    for _ in range(limits.PACK_SKIPPED_MAX + 1):
        packer.packed(frame(b"a" * 1000))
    tried.clear()
    for _ in range(10):
        assert packer.packed(frame(b"a" * 1000)).size == 1000
    assert len(tried) == 10


BLOCK = codec.TOOLS.pack(b"a" * 5000)
UNSAID = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 5000)


@pytest.mark.parametrize(
    ("block", "size", "why"),
    [
        (b"no block at all", 5000, "not zstd, or damaged"),
        (BLOCK[:-3], 5000, "not zstd, or damaged"),
        (BLOCK[:6] + b"\xff" * 8 + BLOCK[14:], 5000, "the frame says 5000"),
        (BLOCK, 4999, "has 5000 bytes, the frame says 4999"),
        (BLOCK, 5001, "has 5000 bytes, the frame says 5001"),
        (UNSAID, 5000, "has no length, the frame says 5000"),
        (BLOCK + b"more", 5000, "not zstd, or damaged"),
        (BLOCK + BLOCK, 5000, "not zstd, or damaged"),
    ],
)
def test_a_block_that_is_garbage_or_lies_is_refused_in_words(block, size, why):
    with pytest.raises(BadFrame, match=why):
        codec.TOOLS.unpack(block, size)


def test_every_bit_of_a_block_that_is_changed_is_refused_or_changes_the_bytes():
    data = b"".join([b"order %d of the same kind" % i for i in range(50)])
    block = codec.TOOLS.pack(data)
    for i in range(8 * len(block)):
        bad = bytearray(block)
        bad[i // 8] ^= 1 << i % 8
        try:
            assert len(codec.TOOLS.unpack(bytes(bad), len(data))) == len(data)
        except BadFrame:
            continue


@pytest.mark.parametrize(
    ("size", "lengths", "why"),
    [
        (limits.FRAME_PAYLOAD_BYTES_MAX + 1, (limits.FRAME_PAYLOAD_BYTES_MAX + 1,), "exceeds"),
        (900, (899,), "batches of 899 bytes in a block of 900"),
        (900, (), "batches of 0 bytes in a block of 900"),
    ],
)
def test_a_frame_that_says_too_much_is_refused_before_its_block_is_opened(size, lengths, why):
    rows = tuple([CopiedBatch(5, 0, 1, n, 0, 0, 9, 0, False, bytes(16), 0) for n in lengths])
    sent = Fetched(3, (), rows, 9, 1, b"block", size=size)
    with pytest.raises(BadFrame, match=why):
        codec.decode(codec.encode(Envelope(1, 1, 0, sent)))


BOMB = """
import resource
import sys
from meshmq import codec
from meshmq.errors import BadFrame
import zstandard
compress = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 30)
piece = bytes(1 << 20)
bomb = b"".join([compress.compress(piece) for _ in range(1 << 10)]) + compress.flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for size in (1000, 1 << 20):
    for block in (bomb, bomb[:5] + size.to_bytes(4, "little") + bomb[9:]):
        try:
            codec.TOOLS.unpack(block, size)
        except BadFrame:
            continue
        sys.exit("it was taken")
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
sys.exit(f"it took {more} KiB" if more > 4096 else 0)
"""


def test_a_block_of_a_gibibyte_takes_no_memory():
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
