"""The wall clock jumps an hour under a running node; nobody but timestamps notices."""

from __future__ import annotations

import os
import time
from pathlib import Path

import nodes
import pytest

import meshmq

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime")
def test_an_hour_either_way_loses_nothing_and_takes_nothing_early(tmp_path, monkeypatch):
    stamp = tmp_path / "time"
    stamp.write_text("+0\n")
    for name, value in {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    node = nodes.ProcessNode(tmp_path / "data")
    for name in ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE"):
        monkeypatch.delenv(name)
    states = []
    try:
        with meshmq.connect(node.url, on_state=lambda change: states.append(change.state)) as mesh:
            mesh.admin.topics.create("short", retention="30m")
            times = []
            with mesh.subscribe("short") as sub:
                for jump in ("+0", "+1h", "-1h", "+0", "+1h"):
                    stamp.write_text(f"{jump}\n")
                    for _ in range(20):
                        mesh.publish("short", os.urandom(1000)).wait(20)
                    until = time.monotonic() + 2.5  # retention plans once a second
                    while time.monotonic() < until:
                        mesh.publish("other", b"tick").wait(20)
                    shown = mesh.admin.topics.show("short")
                    assert shown["first_offset"] == 0, jump
                while len(times) < 100:
                    times += [m.append_time_ns for m in sub.fetch(100, timeout=20)]
            assert len(times) == 100
            assert times == sorted(times)
            assert times[20] - times[19] > 3000 * 10**9, "the clock was not moved"
            with mesh.subscribe("short", start="earliest") as sub:
                got = []
                while len(got) < 100:
                    more = sub.fetch(100, timeout=20)
                    assert more, f"{len(got)} of 100 came"
                    got += more
        assert states.count("reconnecting") == 0
    finally:
        node.stop()
