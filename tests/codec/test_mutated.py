"""Bytes that nobody who means well would send: read as something valid, or refused in a sentence.

Random damage runs in a process of its own, since a reader in C++ can end the process it is in.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meshmq import codec, codec_log, codec_lone, limits, schema
from meshmq.core import mirror_log
from meshmq.core.log import Commit, LogState
from meshmq.core.mirror_log import LinkedEntry, MirrorState, StrandsEntry
from meshmq.errors import BadFrame
from meshmq.frames import (
    Command,
    Confirm,
    Confirmation,
    Deliver,
    DeliverBatch,
    Envelope,
    Hello,
    NodeFacts,
    Nothing,
    Place,
    Publish,
    PublishBatch,
    Streams,
    StreamsRow,
    Subscribe,
    Welcome,
)
from meshmq.frames_copies import (
    Copied,
    Fetch,
    Fetched,
    LogOffer,
    LogOffers,
    Strand,
    StrandPlace,
)
from tests.codec import mutate

COUNT = 30_000
LIST_COUNT_MAX = 2**29 - 1  # what a pointer can say


def test_damaged_messages_are_read_or_refused_and_nothing_else():
    done = subprocess.run(
        [sys.executable, Path(mutate.__file__), "20240229", str(COUNT)],
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-4000:]}"
    found = json.loads(done.stdout)
    assert sum(found.values()) == COUNT
    for kind in mutate.READERS:
        # The damage is neither so mild that all is read nor so coarse that all is refused.
        assert found[f"{kind} read"] > 100
        assert found[f"{kind} refused"] > 100


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise ValueError('not BadFrame')", "not BadFrame"),
        ("__import__('os').abort()", ""),
        ("[None for _ in iter(int, 1)]", ""),
        ("bytes(1 << 30)", "MemoryError"),
        ("(_ for _ in ()).throw(BadFrame(''))", "AssertionError"),
    ],
    ids=["another error", "abort", "endless", "memory", "no sentence"],
)
def test_a_codec_that_does_wrong_would_be_noticed(fault, said, tmp_path):
    """The child with a fault in the decoder: each kind of misbehaviour must end it."""
    script = tmp_path / "faulty.py"
    script.write_text(
        "import random, runpy, sys\n"
        f"sys.path.insert(0, {str(Path(mutate.__file__).parent)!r})\n"
        "import mutate\n"
        "from meshmq.errors import BadFrame\n"
        "mutate.CPU_SECONDS_MAX = 0.2\n"
        f"mutate.codec.decode = lambda parts: {fault}\n"
        "mutate.play(random.Random(1), 100)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode != 0
    assert said in done.stderr


# -- parts and sizes -------------------------------------------------------------------------------


def refusal(read, *arguments):
    """What is said of bytes that must be refused: one sentence."""
    with pytest.raises(BadFrame) as caught:
        read(*arguments)
    said = str(caught.value)
    assert 10 < len(said) < 400
    assert "\n" not in said
    return said


def frame(body):
    return codec.encode(Envelope(1, 2, 3, body))


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_a_frame_has_one_part_or_two(count):
    parts = frame(Nothing()) * count
    assert f"frame of {count} parts" in refusal(codec.decode, parts)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 17, 4095])
def test_what_is_too_short_or_no_multiple_of_a_word_is_no_frame(size):
    refusal(codec.decode, [bytes(size)])
    refusal(codec.decode_batch, bytes(size), 1)
    refusal(codec.check_batch, bytes(size), 1)
    refusal(codec_log.decode_commit, bytes(size))
    refusal(codec_log.decode_snapshot, bytes(size))


def test_a_header_over_its_bytes_is_not_looked_at():
    header = bytes(limits.FRAME_HEADER_BYTES_MAX + 8)
    assert str(len(header)) in refusal(codec.decode, [header])


def test_a_payload_over_its_bytes_is_refused():
    payload = bytes(limits.FRAME_PAYLOAD_BYTES_MAX + 1)
    row = PublishBatch("a", 1, 0, 1, len(payload), 0)
    assert "payload of" in refusal(codec.decode, frame(Publish((row,), payload)))


@pytest.mark.parametrize("extra", [bytes(8), b"x" * 8, bytes(64)])
def test_bytes_behind_the_message_are_refused(extra):
    refusal(codec.decode, [frame(Nothing())[0] + extra])
    refusal(codec.decode_batch, codec.encode_batch([b"1"], None, None, None, 0) + extra, 1)
    refusal(codec.check_batch, codec.encode_batch([b"1"], None, None, None, 0) + extra, 1)


def test_a_payload_belongs_to_publish_and_deliver_only():
    assert "2 parts" in refusal(codec.decode, [*frame(Nothing()), b""])
    assert "1 parts" in refusal(codec.decode, frame(Publish((), b""))[:1])


@pytest.mark.parametrize("payload", [b"", b"1234", b"123456"])
def test_the_batches_lengths_must_be_the_payloads(payload):
    rows = (PublishBatch("a", 1, 0, 1, 2, 0), PublishBatch("a", 2, 1, 1, 3, 0))
    for body in (Publish(rows, payload), Publish(rows[:1], payload)):
        assert f"payload of {len(payload)}" in refusal(codec.decode, frame(body))
    row = DeliverBatch("a", 0, 1, 3, 0, 0, 0, 0)
    assert f"payload of {len(payload)}" in refusal(
        codec.decode, frame(Deliver(1, (row,), 0, payload))
    )


@pytest.mark.parametrize("count", [0, limits.BATCH_RECORDS_MAX + 1, 2**32 - 1])
def test_a_published_batch_has_a_bounded_number_of_records(count):
    row = PublishBatch("a", 1, 0, count, 0, 0)
    assert f"batch of {count} records" in refusal(codec.decode, frame(Publish((row,), b"")))


@pytest.mark.parametrize(("first", "after"), [(0, 0), (5, 5), (5, 6), (1, 2**64 - 1)])
def test_a_published_batch_follows_what_is_before_it(first, after):
    row = PublishBatch("a", first, after, 1, 0, 0)
    refusal(codec.decode, frame(Publish((row,), b"")))


@pytest.mark.parametrize(
    "body",
    [
        Publish((PublishBatch("a", 1, 0, 1, 0, 0),) * (limits.FRAME_BATCHES_MAX + 1), b""),
        Deliver(1, (DeliverBatch("a", *[0] * 7),) * (limits.FRAME_BATCHES_MAX + 1), 0, b""),
        Confirm((Confirmation("a", 1, 1),) * (limits.FRAME_BATCHES_MAX + 1)),
        Streams(1, (StreamsRow(bytes(16), "n", True),) * (limits.FRAME_BATCHES_MAX + 1)),
    ],
    ids=["publish", "deliver", "confirm", "streams"],
)  # fmt: skip
def test_a_frame_has_a_bounded_number_of_batches(body):
    assert "1025 batches, the limit is 1024" in refusal(codec.decode, frame(body))


def test_names_and_commands_are_bounded():
    long = "x" * 256
    some = bytes(16)
    for body in (
        Hello(1, 0, long, some, some),
        Hello(1, 0, "", some, some, long),
        Welcome(1, 0, some, "", long, 1),
        Command(1, long, b""),
        Command(1, "v", bytes(limits.COMMAND_BYTES_MAX + 1)),
    ):
        assert "limit" in (said := refusal(codec.decode, frame(body))) or "exceeds" in said
    assert codec.decode(frame(Command(1, "v", bytes(limits.COMMAND_BYTES_MAX))))


def test_a_subscription_has_a_bounded_number_of_places():
    place = Place(bytes(16), 1, 0)
    most = limits.PLACES_MAX
    body = Subscribe(1, "a", 4, 0, b"", 0, 0, 1, 1, 0, (place,) * most)
    assert codec.decode(frame(body)).body == body
    body = Subscribe(1, "a", 4, 0, b"", 0, 0, 1, 1, 0, (place,) * (most + 1))
    assert f"{most + 1} places" in refusal(codec.decode, frame(body))


def of_link(patterns, exclude=()):
    """Frames that name patterns of a link."""
    offer = LogOffer(bytes(16), "n", "eu", 1, 0, patterns, exclude)
    strand = Strand(0, 0, 1, 0, ((patterns, exclude),))
    return Fetch(1, bytes(16), strands=(strand,)), LogOffers((offer,))


def test_a_link_has_a_bounded_number_of_patterns():
    most = ("a.>",) * limits.LINK_PATTERNS_MAX
    for body in of_link(most, most):
        assert codec.decode(frame(body)).body == body
    more = (*most, "b")
    for body in (*of_link(more), *of_link(("a",), more)):
        assert f"{len(more)} patterns" in refusal(codec.decode, frame(body))


@pytest.mark.parametrize("bad", ["", "a..b", ".", "a.>.b", ">>", "a*", "a b", "a\n", "x" * 256])
def test_a_link_has_no_patterns_that_are_none(bad):
    for body in (*of_link(("a", bad)), *of_link(("a",), (bad, "b"))):
        refusal(codec.decode, frame(body))


def test_a_log_comes_by_a_bounded_number_of_strands():
    strand = Strand(0, 0, 1, 0, ((("a",), ()),) * limits.STRAND_CLAIMS_MAX)
    place, had = StrandPlace(1, 2, 3), (1, 2)
    most = limits.STRANDS_MAX
    for body, more, said in (
        (Fetch(1, bytes(16), strands=(strand,) * most), {"strands": (strand,) * (most + 1)},
         f"{most + 1} strands"),
        (Fetch(1, bytes(16), strands=(strand,)),
         {"strands": (strand._replace(claims=strand.claims + strand.claims[:1]),)},
         f"{limits.STRAND_CLAIMS_MAX + 1} claims"),
        (Fetch(1, bytes(16), strands=(strand,)), {"strands": (strand._replace(claims=()),)},
         "0 claims"),
        (Fetch(1, bytes(16), had=(had,) * limits.STRAND_HAD_MAX),
         {"had": (had,) * (limits.STRAND_HAD_MAX + 1)}, f"{limits.STRAND_HAD_MAX + 1} streams"),
        (Fetched(1, places=(place,) * most), {"places": (place,) * (most + 1)},
         f"{most + 1} strands"),
        (Copied(bytes(16), 1, 0, 0, places=(place,) * most), {"places": (place,) * (most + 1)},
         f"{most + 1} strands"),
    ):  # fmt: skip
        assert codec.decode(frame(body)).body == body
        assert said in refusal(codec.decode, frame(replace(body, **more)))


def test_a_node_offers_a_bounded_number_of_logs_and_sites_have_short_names():
    offer = LogOffer(bytes(16), "n", "eu", 1, 0)
    most = LogOffers((offer,) * limits.MIRRORS_MAX)
    assert codec.decode(frame(most)).body == most
    more = LogOffers((*most.rows, offer))
    assert f"{limits.MIRRORS_MAX + 1} logs" in refusal(codec.decode, frame(more))
    long = "x" * 256
    for body in (
        LogOffers((offer._replace(name=long),)),
        LogOffers((offer._replace(site=long),)),
        Hello(1, 0, "m", bytes(16), bytes(16), node=NodeFacts(1, "eu", link_to=long)),
    ):
        assert "limit" in (said := refusal(codec.decode, frame(body))) or "exceeds" in said


@pytest.mark.parametrize("size", [0, 15, 17])
def test_identities_are_sixteen_bytes(size):
    for body in (
        Hello(1, 0, "m", bytes(size), bytes(16)),
        Hello(1, 0, "m", bytes(16), bytes(size)),
        Welcome(1, 0, bytes(size), "", "", 1),
        Subscribe(1, "a", 4, 0, b"", 0, 0, 1, 1, 0, (Place(bytes(size), 1, 0),)),
        Streams(1, (StreamsRow(bytes(size), "n", True),)),
    ):
        assert "16 bytes" in refusal(codec.decode, frame(body))
    for body in (Fetch(1, bytes(size)), LogOffers((LogOffer(bytes(size), "n", "eu", 1, 0),))):
        assert "it must be 16" in refusal(codec.decode, frame(body))


@pytest.mark.parametrize(
    "torn", [b"x", bytes(39), b"p" * 16 + struct.pack("<IIQq", 1, 9, 1, 1)], ids=len
)
def test_a_snapshot_with_torn_producers_is_refused(torn, monkeypatch):
    monkeypatch.setattr(codec_log, "_pack_producers", lambda state: torn)
    data = codec_log.encode_snapshot(LogState(b"o" * 16), [])
    refusal(codec_log.decode_snapshot, data)


@pytest.mark.parametrize(
    "said",
    [
        b"", b"[", b"{}", b"5", b"[1]", b'["us", ["a"]]', b'["us", 5, []]', b'["us", ["a"], [], 1]',
        b'["us", [5], [], [], 0]', b'[7, ["a"], [], [], 0]', b'["us", "a", [], [], 0]',
        b'["us", ["a"], [], [1], 0]', b'["us", ["a"], [], [], -1]', b"\xff", b"[" * 100_000,
    ],
    ids=lambda said: repr(said[:20]),
)  # fmt: skip
def test_what_a_log_says_of_a_link_is_read_or_refused(said, monkeypatch):
    linked = LinkedEntry(b"o" * 16, "us", ("a",))
    monkeypatch.setattr(mirror_log, "_pack_linked", lambda row: said)
    commit = codec_log.encode_commit(Commit(1, 1, (), mirrors=(linked,)), 0, False)
    refusal(codec_log.decode_commit, commit)
    state = LogState(b"o" * 16, mirrors={b"o" * 16: MirrorState("n", linked=linked)})
    refusal(codec_log.decode_snapshot, codec_log.encode_snapshot(state, []))


@pytest.mark.parametrize(
    "said",
    [
        b"[", b"{}", b"5", b"[1]", b"[[1, 2, 3, 4]]", b'[[0, 0, 1, 0, [[["a"]]]]]',
        b'[[0, 0, 1, 0, [[["a"], [5]]]]]', b"[[0, 0, -1, 0, []]]", b'[["0", 0, 1, 0, []]]',
        b"[" * 100_000,
    ],
    ids=lambda said: repr(said[:20]),
)  # fmt: skip
def test_what_a_log_says_of_strands_is_read_or_refused(said, monkeypatch):
    strands = (Strand(0, 0, 1, 0, ((("a",), ()),)),)
    monkeypatch.setattr(mirror_log, "_pack_strands", lambda row: said)
    words = (StrandsEntry(b"o" * 16, strands),)
    refusal(
        codec_log.decode_commit, codec_log.encode_commit(Commit(1, 1, (), mirrors=words), 0, False)
    )
    state = LogState(b"o" * 16, mirrors={b"o" * 16: MirrorState("n", strands={0: strands[0]})})
    refusal(codec_log.decode_snapshot, codec_log.encode_snapshot(state, []))


# -- pointers that lie -----------------------------------------------------------------------------


def message(*words, segments=None):
    """A message of 64-bit words; ``segments`` overrides the segment table."""
    table = struct.pack("<II", 0, len(words)) if segments is None else segments
    return table + struct.pack(f"<{len(words)}Q", *words)


def struct_at(offset, data_words, pointers):
    return (offset & 0x3FFF_FFFF) << 2 | data_words << 32 | pointers << 48


def list_at(offset, element, count):
    return (offset & 0x3FFF_FFFF) << 2 | 1 | (element | count << 3) << 32


VOID, BYTES, POINTERS, STRUCTS = 0, 2, 6, 7
FRAME = [struct_at(0, 4, 1), 1, 2, 3]  # root, session, sequence, ack; a kind and a pointer follow
PUBLISH, CONFIRM, DELIVER, REFUSE, COMMAND = 6, 7, 12, 3, 13


def rows_of(kind, *words):
    """A frame of ``kind`` whose list of rows is what ``words`` say."""
    pointers = struct_at(0, 2, 1) if kind == DELIVER else struct_at(0, 0, 1)
    head = [0, 0] if kind == DELIVER else []
    return message(*FRAME, kind, pointers, *head, *words)


def both_ways(parts, monkeypatch):
    """A frame must be refused by the short cut and by the general path."""
    refusal(codec.decode, parts)
    monkeypatch.setattr(codec_lone, "decode", lambda header, payload: None)
    return refusal(codec.decode, parts)


@pytest.mark.parametrize("kind", [PUBLISH, CONFIRM, DELIVER])
@pytest.mark.parametrize(
    "words",
    [
        (list_at(0, VOID, LIST_COUNT_MAX),),
        (list_at(0, STRUCTS, 0), LIST_COUNT_MAX << 2),  # so many structs of no size
        (list_at(0, STRUCTS, 0), 1025 << 2),
        (list_at(0, STRUCTS, LIST_COUNT_MAX), 1 << 2 | 4 << 32),
        (list_at(0, POINTERS, LIST_COUNT_MAX),),
        (list_at(0, STRUCTS, 1), LIST_COUNT_MAX << 2 | 1 << 32, 0),
        (list_at(2**29 - 1, STRUCTS, 1),),
        (list_at(-40, STRUCTS, 1),),
        (3 | 1 << 32,),  # another kind of pointer: a capability
        (2 | 5 << 3 | 7 << 32,),  # far, to segment 7 of one
        (2 | 1 << 2 | 0 << 3,),  # far and double, to itself
    ],
    ids=["void", "empty structs", "1025 empty structs", "long", "pointers", "tag", "far away",
         "before", "capability", "no segment", "double far"],
)  # fmt: skip
def test_lists_that_claim_what_is_not_there_are_refused(kind, words, monkeypatch):
    parts = [rows_of(kind, *words), *([b""] if kind != CONFIRM else [])]
    both_ways(parts, monkeypatch)


def test_lists_of_rows_without_size_that_keep_the_bound_read_as_rows_of_zeros():
    parts = [rows_of(CONFIRM, list_at(0, STRUCTS, 0), 3 << 2)]
    assert codec.decode(parts).body == Confirm((Confirmation("", 0, 0),) * 3)
    refusal(codec.decode, [rows_of(PUBLISH, list_at(0, STRUCTS, 0), 3 << 2), b""])


@pytest.mark.parametrize(
    "text",
    [
        (BYTES, LIST_COUNT_MAX),
        (BYTES, 9),
        (BYTES, 8),  # without the zero at its end
        (VOID, 8),
        (POINTERS, 1),
        None,
    ],
    ids=repr,
)
def test_texts_that_are_none_are_refused(text, monkeypatch):
    one = struct_at(1, 1, 0) if text is None else list_at(1, *text)
    code = message(*FRAME, REFUSE, struct_at(0, 0, 2), one, 0, 0x6161_6161_6161_6161)
    both_ways([code], monkeypatch)
    monkeypatch.undo()
    two = struct_at(0, 1, 0) if text is None else list_at(0, *text)
    row = (1 << 2 | struct_at(0, 4, 1), 1, 0, 1, 0, two, 0x6161_6161_6161_6161)
    topic = rows_of(PUBLISH, list_at(0, STRUCTS, 5), *row)
    both_ways([topic, b""], monkeypatch)


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"a\x80"])
def test_texts_that_are_not_utf8_are_refused(raw, monkeypatch):
    header, payload = frame(Publish((PublishBatch("#" * len(raw), 1, 0, 1, 0, 0),), b""))
    both_ways([header.replace(b"#" * len(raw), raw), payload], monkeypatch)


@pytest.mark.parametrize("kind", [19, 255, 65_535])
def test_a_kind_nobody_knows_is_refused(kind):
    refusal(codec.decode, [message(*FRAME, kind, 0)])


@pytest.mark.parametrize("kind", range(19))
def test_a_frame_whose_body_is_itself_is_bounded(kind):
    """Pointers that lead back: as deep as you like, and read as far as the fields go."""
    looped = message(struct_at(0, 4, 1), 1, 2, 3, kind, struct_at(-6, 4, 1))
    for parts in ([looped], [looped, b""]):
        how, _ = mutate.outcome(codec.decode, parts)
        assert how in ("read", "refused")


def test_data_that_all_lies_at_one_place_is_not_copied_more_than_a_few_times():
    """A small message whose many pointers share one value would grow when it is copied out."""
    count, words = 4096, 8192
    pointers = [list_at(count - 1 - i, BYTES, 8 * words) for i in range(count)]
    bomb = message(
        struct_at(0, 1, 4), 0, list_at(3, POINTERS, count), 0, 0, 0, *pointers, *[0] * words
    )
    for read in (codec.decode_batch, codec.check_batch):
        refusal(read, bomb, count)


@pytest.mark.parametrize("count", [1, 4096, LIST_COUNT_MAX])
@pytest.mark.parametrize("element", [VOID, BYTES, STRUCTS])
def test_a_batch_of_another_kind_of_list_is_refused(element, count):
    size = 0 if element == STRUCTS else count
    body = [count << 2] if element == STRUCTS else []
    forged = message(struct_at(0, 1, 4), 0, list_at(3, element, size), 0, 0, 0, *body)
    for read in (codec.decode_batch, codec.check_batch):
        refusal(read, forged, count)


@pytest.mark.parametrize("field", range(7))
def test_a_commit_with_lists_of_nothing_is_refused(field):
    """Half a thousand million entries of no size, in a message of a few words."""
    pointers = [0, 0, 0, 0]
    tags = []
    if field < 4:
        pointers[field] = list_at(3 - field, STRUCTS, 0)
        tags = [LIST_COUNT_MAX << 2]
    forged = message(struct_at(0, 3, 4), 1, 1, 0, *pointers, *tags)
    if field < 4:
        refusal(codec_log.decode_commit, forged)
    else:
        assert codec_log.decode_commit(forged).lsn == 1


@pytest.mark.parametrize(
    "table",
    [
        struct.pack("<II", 2**32 - 1, 2),
        struct.pack("<II", 0, 2**32 - 1),
        struct.pack("<II", 0, 0),
        struct.pack("<II", 0, 1),
        struct.pack("<IIII", 2, 1, 1, 2**32 - 1),
        struct.pack("<II", schema.SEGMENTS_MAX, 0) + bytes(4 * schema.SEGMENTS_MAX),
    ],
)
def test_segment_tables_that_do_not_add_up_are_refused(table):
    forged = message(struct_at(0, 4, 1), 1, segments=table)
    refusal(codec.decode, [forged])
    refusal(codec.decode_batch, forged, 1)
    refusal(codec_log.decode_commit, forged)
    refusal(codec_log.decode_snapshot, forged)


def test_a_message_of_many_segments_is_read_while_they_are_bounded():
    """Another implementation may cut its messages; ours reads them by the general path."""
    count = 200
    values = [random.Random(i).randbytes(1000) for i in range(count)]
    built = codec._Batch.new_message()
    built.values = values
    cut = built.to_bytes()
    segments = int.from_bytes(cut[:4], "little") + 1
    assert segments > 1
    assert codec.decode_batch(cut, count).values == values
