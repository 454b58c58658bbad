"""What disks of the world of copies keep, and what its judge asks of them."""

from __future__ import annotations

import copy
import zlib

import pytest

from meshmq.core.effects import Append
from meshmq.core.log import BatchEntry, CopiedEntry, Entry, TopicEntry, TrimEntry
from meshmq.core.mirror_log import MirrorEntry
from meshmq.limits import SECOND
from meshmq.testing import CopiesWorld
from meshmq.testing.copies_faults import Doom

TOPIC_ID, PRODUCER = b"t" * 16, b"p" * 16


def _batch(stream: int) -> BatchEntry:
    return BatchEntry(stream, 0, 1, b"job", zlib.crc32(b"job"), PRODUCER, 1)


@pytest.mark.parametrize("seed", range(6))
def test_a_sync_under_way_at_a_kill_is_not_of_the_disk_that_is_put_in_then(seed: int) -> None:
    world = CopiesWorld(seed)
    host = world.add_host("n0")
    host.start_node()
    host._perform_node([Append(1, (TopicEntry(1, TOPIC_ID, "q", True, 0, 0),))])
    assert host.syncing
    host.kill(is_silent=False)
    host.disk = world.fresh_disk()
    world.play(world.now_ns + 5 * SECOND)
    assert host.disk.commits == []


@pytest.mark.parametrize("is_trimmed", [True, False])
def test_an_old_log_need_not_have_again_what_it_had_trimmed(is_trimmed: bool) -> None:
    world = CopiesWorld(0)
    host, other = world.add_host("n0"), world.add_host("n1")
    origin = host.origin
    made: list[Entry] = [TopicEntry(1, TOPIC_ID, "q", True, 0, 0)]
    host.disk.commit(made, 1, world.records)
    backup = copy.deepcopy(host.disk)
    host.disk.commit([_batch(1)], 2, world.records)
    if is_trimmed:
        host.disk.commit([TrimEntry(1, 1)], 3, world.records)
    made = [
        TopicEntry(1, TOPIC_ID, "q", True, 0, 0, origin=origin, source=1),
        CopiedEntry(_batch(1), origin, 2, 0, 2),
        MirrorEntry(origin, "n0", 2, 1),
    ]
    other.disk.commit(made, 2, world.records)
    world.doom = Doom(host, host.disk, origin, "restored", 0)
    host.disk = backup
    host.disk.renew(b"n" * 16, "n0")
    world.members = [host, other]
    world.copying.compare()
    wanted = "round 0: n0 lacks q 0 of its old log, n1 has it"
    assert world.copying.unlike == ([] if is_trimmed else [wanted])
