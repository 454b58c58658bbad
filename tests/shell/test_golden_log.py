"""Every later version opens the data directories of the earlier ones, or says what to do.

One archive a log format is kept beside this file; ``make_golden_log`` wrote it.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from pathlib import Path

import pytest

from meshmq.core.log import BatchEntry
from meshmq.shell.store import LogStore
from tests.shell.make_golden_log import DIRECTORY, contents


@pytest.mark.parametrize("archive", sorted(DIRECTORY.glob("log-*.tar.gz")), ids=lambda p: p.stem)
def test_a_log_of_an_earlier_version_opens_and_goes_on(archive, tmp_path):
    with tarfile.open(archive) as packed:
        # Python 3.11.0 to 3.11.3 have no filters.
        packed.extractall(
            tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    directory: Path = tmp_path / "data"
    directory.chmod(0o700)
    wanted = json.loads(archive.with_name(archive.name.replace("tar.gz", "json")).read_text())
    store = LogStore.open(directory)
    assert json.loads(json.dumps(contents(store))) == wanted
    assert store.check() == []
    stream = store.state.topics["orders.eu"]
    end = stream.next_offset
    store.append([BatchEntry(stream.topic.stream, end, 1, b"x", zlib.crc32(b"x"), b"q" * 16, 1)])
    store.close()
    store = LogStore.open(directory)
    assert store.state.topics["orders.eu"].next_offset == end + 1
    assert store.state.next_lsn == wanted["next_lsn"] + 1
    store.close()


def test_there_is_a_golden_log():
    assert list(DIRECTORY.glob("log-*.tar.gz"))
