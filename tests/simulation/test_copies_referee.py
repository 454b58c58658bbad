"""What disks of the world of copies keep."""

from __future__ import annotations

import pytest

from meshmq.core.effects import Append
from meshmq.core.log import TopicEntry
from meshmq.limits import SECOND
from meshmq.testing import CopiesWorld

TOPIC_ID = b"t" * 16


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
