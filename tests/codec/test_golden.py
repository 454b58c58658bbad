"""The bytes in ``golden/``, both ways: a change of the wire or of the log shows here.

A change that is meant: ``python -m tests.codec.make_golden``.
"""

from __future__ import annotations

from typing import get_args

import pytest

from meshmq import codec, codec_log, codec_lone
from meshmq.frames import Body
from tests.codec import make_golden
from tests.codec.make_golden import BATCHES, COMMITS, DIRECTORY, FRAMES, HEADERS, SNAPSHOTS

EARLIER = DIRECTORY.with_name("golden_earlier")


def stored(name):
    return (DIRECTORY / f"{name}.bin").read_bytes()


def parts(name):
    """The parts of a frame, from its files."""
    payload = DIRECTORY / f"{name}.payload.bin"
    return [stored(name), *([payload.read_bytes()] if payload.exists() else [])]


def test_every_kind_of_frame_is_there():
    assert {type(frame.body) for frame in FRAMES.values()} == set(get_args(Body))


def test_there_is_a_file_for_each_message_and_no_other():
    assert {path.name for path in DIRECTORY.iterdir()} == set(make_golden.encoded())


@pytest.mark.parametrize("name", make_golden.encoded())
def test_what_is_written_is_what_was_written(name):
    assert make_golden.encoded()[name].hex(" ", 8) == (DIRECTORY / name).read_bytes().hex(" ", 8)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_read_as_it_was_meant(name):
    assert codec.decode(parts(name)) == FRAMES[name]


@pytest.mark.parametrize("path", sorted(EARLIER.iterdir()), ids=lambda path: path.stem)
def test_a_frame_of_an_earlier_version_is_read_as_it_was_meant(path):
    """As nodes sent it that knew of no links between sites, or of nothing live over these: fewer
    fields, the same words."""
    header, *payload = parts(path.stem)
    assert path.read_bytes() != header
    assert codec.decode([path.read_bytes(), *payload]) == FRAMES[path.stem]


@pytest.mark.parametrize("name", FRAMES)
def test_the_general_path_reads_and_writes_the_same(name, monkeypatch):
    monkeypatch.setattr(codec_lone, "encode", lambda envelope: None)
    monkeypatch.setattr(codec_lone, "decode", lambda header, payload: None)
    assert codec.decode(parts(name)) == FRAMES[name]
    assert codec.encode(FRAMES[name]) == parts(name)


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_read_as_it_was_meant(name):
    values, keys, headers, times, time_ns = BATCHES[name]
    codec.check_batch(stored(name), len(values))
    found = codec.decode_batch(stored(name), len(values))
    assert (found.values, found.keys, found.headers) == (values, keys, headers)
    assert (found.times and list(found.times), found.time_ns) == (times, time_ns)


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_read_as_they_were_meant(name):
    assert codec.decode_headers(stored(name)) == HEADERS[name]


@pytest.mark.parametrize("name", COMMITS)
def test_a_commit_is_read_as_it_was_meant(name):
    commit, start, inline = COMMITS[name]
    found = codec_log.decode_commit(stored(name))
    positions = [start + sum(len(b.payload) for b in commit.batches[:i])
                 for i in range(len(commit.batches))]  # fmt: skip
    assert found.inline is inline
    assert [b.position for b in found.batches] == positions
    assert [b.length for b in found.batches] == [len(b.payload) for b in commit.batches]
    assert found.without_bytes() == commit._replace(
        batches=tuple(b._replace(payload=b"") for b in commit.batches)
    )


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_snapshot_is_read_as_it_was_meant(name):
    assert codec_log.decode_snapshot(stored(name)) == SNAPSHOTS[name]


def test_a_frame_is_the_words_the_specification_says():
    """One frame by hand, so that reader and writer cannot be wrong together."""
    by_hand = (
        "0000000009000000"  # one segment of nine words
        "0000000004000100"  # the frame: four words, one pointer
        "efcdab8967452301"  # session
        "2a00000000000000"  # sequence 42
        "2900000000000000"  # ack 41
        "0b00000000000000"  # kind 11, credit
        "0000000003000000"  # the body: three words
        "0300000000000000"  # subscription 3
        "0000100000000000"  # 1 MiB
        "0040000000000000"  # 16,384 records
    )
    assert codec.encode(FRAMES["credit"])[0].hex() == by_hand
