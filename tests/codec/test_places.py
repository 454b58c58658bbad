"""Places of a log that none can have are refused as a frame is read: nodes count on from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshmq import codec
from meshmq.errors import BadFrame
from meshmq.frames import Envelope
from meshmq.frames_copies import (
    Copied,
    CopiedBatch,
    CopiedTopic,
    Copies,
    CopiesRow,
    Fetch,
    Fetched,
    LogOffer,
    LogOffers,
    Mirrored,
    MirroredRow,
    Strand,
    StrandPlace,
)
from meshmq.frames_verify import CheckRange, RangeChecked
from meshmq.limits import LOG_NUMBER_MAX, LOG_SLOT_MAX

ID = bytes(16)
CLAIMS = ((("a",), ()),)
TOPIC = CopiedTopic(1, ID, "a", 0)
BATCH = CopiedBatch(1, 0, 1, 0, 0, 0, 1, 0, True, ID, 1)
ROW = LogOffer(ID, "eu-1", "eu", 1, 0)
COPIES = CopiesRow(ID, "eu-1", 1, 0)
MIRRORED = MirroredRow("us", CLAIMS, 1, 0, 1, 0)
STRAND = Strand(0, 0, 1, 0, CLAIMS)
PLACE = StrandPlace(0, 1, 0)


def frames(lsn, slot):
    """Each frame that has a place, with this one."""
    at = {"lsn": lsn, "slot": slot}
    return [
        Fetch(1, ID, lsn, slot), Fetch(1, ID, strands=(STRAND._replace(**at),)),
        Fetch(1, ID, whole=(lsn, slot)), Fetched(1, lsn=lsn, slot=slot),
        Fetched(1, batches=(BATCH._replace(**at),)), Fetched(1, places=(PLACE._replace(**at),)),
        Copied(ID, lsn, slot, 0), Copied(ID, 1, 0, 0, places=(PLACE._replace(**at),)),
        Copies((COPIES._replace(**at),)), Copies((COPIES._replace(taken=lsn, taken_slot=slot),)),
        Copies((COPIES._replace(furthest=lsn, furthest_slot=slot),)),
        LogOffers((ROW._replace(**at),)),
        LogOffers((ROW._replace(strands=(STRAND._replace(**at),)),)),
        Mirrored(ID, (MIRRORED._replace(**at),)),
    ]  # fmt: skip


def offsets(number):
    """Each frame that has an offset of a stream, or a producer's number, with this one."""
    return [
        Fetched(1, topics=(TOPIC._replace(first_offset=number),)),
        Fetched(1, topics=(TOPIC._replace(end=number),)),
        Fetched(1, topics=(TOPIC._replace(begins=number),)),
        Fetched(1, batches=(BATCH._replace(base_offset=number),)),
        Fetched(1, batches=(BATCH._replace(first=number),)),
        CheckRange(1, ID, ID, number), CheckRange(1, ID, ID, 0, (number,)),
        RangeChecked(1, number, 0), RangeChecked(1, 0, number),
    ]  # fmt: skip


def last(**changes):
    """A batch that is the last that there can be, or behind it."""
    row = BATCH._replace(lsn=LOG_NUMBER_MAX, slot=LOG_SLOT_MAX - 1, base_offset=LOG_NUMBER_MAX - 1)
    return Fetched(1, batches=(row._replace(first=LOG_NUMBER_MAX - 1)._replace(**changes),))


def test_what_comes_behind_a_batch_is_a_place_too():
    assert read(last()) == last()
    for changes in ({"slot": LOG_SLOT_MAX}, {"count": 2}, {"base_offset": LOG_NUMBER_MAX}):
        with pytest.raises(BadFrame, match="a place at"):
            read(last(**changes))


def read(body):
    return codec.decode(codec.encode(Envelope(1, 1, 0, body))).body


@pytest.mark.parametrize("body", [*frames(1 << 60, 1 << 30), *offsets(1 << 60)])
def test_places_of_a_very_long_log_are_read(body):
    assert replace(read(body)) == body


@pytest.mark.parametrize(
    "body",
    [*frames(1 << 62, 0), *frames((1 << 64) - 1, 0), *frames(1, (1 << 32) - 1), *offsets(1 << 62)],
)
def test_places_that_no_log_can_have_are_refused_in_words(body):
    with pytest.raises(BadFrame, match="a place at"):
        read(body)


@pytest.mark.parametrize("clock", [-1, 1 << 62])
def test_a_clock_that_nobody_could_count_on_from_is_refused(clock):
    frame = LogOffers((ROW._replace(clock=clock),))
    with pytest.raises(BadFrame, match="a clock at"):
        codec.decode(codec.encode(Envelope(1, 1, 0, frame)))
