"""One segment of the log: a diskcache of commits, and the bytes of the large ones beside it.

Rows: ``"snapshot"`` (the live state before the first commit, written when the segment is made), one
row per commit keyed by its lsn, ``"index"`` once the segment is closed (a shortcut: it is built
again by a scan where it is missing or damaged), and ``"rewritten"`` in one that was copied without
what was dead: there, a commit without a row has nothing that is kept.

Rules:
1. diskcache is a cache, and its defaults lose data: ``SETTINGS`` turn that off, and every
   connection is asked what it really uses before it is trusted.
2. One thread, one connection.
3. A directory with a segment's final name always holds a synced snapshot: it is made under another
   name and renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from diskcache import Cache

from meshmq import codec_log
from meshmq.codec_log import CommitMeta
from meshmq.core.log import Commit
from meshmq.core.retention import SegmentInfo
from meshmq.errors import BadFrame, ConfigError, StoreDamaged, StoreFailed
from meshmq.shell import store_files
from meshmq.shell.store_disk import (
    VALUES,
    CommitValue,
    SegmentDisk,
    SyncFailed,
    payload_start,
    seal,
    unseal,
)
from meshmq.shell.store_index import SegmentIndex, decode_index, encode_index

SNAPSHOT = "snapshot"
INDEX = "index"
REWRITTEN = "rewritten"
DATABASE = "cache.db"
PAGE_BYTES = 4096  # small commits write two pages; larger pages made them slower, large no faster

SETTINGS: dict[str, Any] = {
    "eviction_policy": "none",  # nothing is ever thrown away
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "tag_index": 0,
    "disk_min_file_size": 2**31 - 1,  # never diskcache's own value files: they are not synced
    "sqlite_auto_vacuum": 0,
    "sqlite_cache_size": 256,  # pages: 1 MiB
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 2,  # FULL: a commit is on disk when it returns
}
_PRAGMAS = {
    "synchronous": 2,
    "journal_mode": "wal",
    "auto_vacuum": 0,
    "mmap_size": 0,
    "cache_size": 256,
    "page_size": PAGE_BYTES,
}

# What diskcache would make itself, with two differences: no index entry for rows that never
# expire, and no counting of rows. Each would be one more page written per commit.
_BOOTSTRAP = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA synchronous = OFF;
CREATE TABLE Cache (
 rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, store_time REAL, expire_time REAL,
 access_time REAL, access_count INTEGER DEFAULT 0, tag BLOB, size INTEGER DEFAULT 0,
 mode INTEGER DEFAULT 0, filename TEXT, value BLOB);
CREATE INDEX Cache_expire_time ON Cache (expire_time) WHERE expire_time IS NOT NULL;
CREATE TRIGGER Settings_count_insert AFTER INSERT ON Cache WHEN 0 BEGIN SELECT 1; END;
CREATE TRIGGER Settings_size_insert AFTER INSERT ON Cache WHEN 0 BEGIN SELECT 1; END;
"""
_ROWS = (
    "SELECT key, value FROM Cache WHERE key >= ? AND key <= ? AND raw = 1 AND mode = 1 ORDER BY key"
)
_LAST = "SELECT max(key) FROM Cache WHERE key >= 0 AND key <= ? AND raw = 1"

_DAMAGE = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,  # a table or column is not what it was
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_CONSTRAINT,
    )
)


class _Cache(Cache):  # type: ignore[misc]
    """Writes no setting that is there already, as diskcache does with each opening: on a full disk
    there is no room for that."""

    _SETTING = ("INSERT OR REPLACE INTO Settings", "INSERT OR IGNORE INTO Settings")
    _UPDATE = "UPDATE Settings SET value = ? WHERE key = ?"

    @property
    def _sql_retry(self) -> Any:
        run = super()._sql_retry

        def execute(statement: str, *args: Any, **options: Any) -> Any:
            if statement == self._UPDATE:
                value, key = args[0]
            elif statement.startswith(self._SETTING):
                key, value = args[0]
            else:
                return run(statement, *args, **options)
            found = run("SELECT value FROM Settings WHERE key = ?", (key,)).fetchall()
            if found and (found[0][0] == value or "IGNORE" in statement):
                return found
            return run(statement, *args, **options)

        return execute


class Segment:
    """One open segment.

    Attributes:
        number: its number, from 1.
        index: where its batches are.
        is_rewritten: commits may have no row.
    """

    def __init__(self, log: Path, number: int) -> None:
        self.number = number
        self.path = store_files.segment_path(log, number)
        self.index = SegmentIndex(0)
        self.is_rewritten = False
        # Made in two steps, so that a constructor that fails leaves a connection we can close.
        self._cache = _Cache.__new__(_Cache)
        try:
            Cache.__init__(self._cache, str(self.path), timeout=5, disk=SegmentDisk, **SETTINGS)
        except sqlite3.Error as error:
            self._cache.close()
            raise damage(self.path, error) from error
        except (KeyError, TypeError, ValueError) as error:  # settings in the file make no sense
            self._cache.close()
            raise StoreDamaged(f"{self.path / DATABASE} is damaged: {error!r}") from error
        self.disk: SegmentDisk = self._cache.disk
        self.connect()

    @classmethod
    def create(
        cls, log: Path, number: int, snapshot: bytes, first_lsn: int, spare: Segment | None = None
    ) -> Segment:
        """Make a segment that opens with ``snapshot``; it is durable when this returns.

        Out of ``spare``, which ``prepare`` made, this takes two syncs, else four.
        """
        path = store_files.segment_path(log, number)
        making = path.with_name(path.name + store_files.NEW) if spare is None else spare.path
        try:
            if spare is None:
                segment = cls._make(making, snapshot)
            else:
                segment = spare
                segment._write_snapshot(snapshot)
            segment._rename(path)
            store_files.sync_directory(log)
            segment.number = number
            segment.index = SegmentIndex(first_lsn)
            segment.is_rewritten = False
            segment.connect()
        except (OSError, sqlite3.Error) as error:
            if spare is not None:
                spare.close()
            shutil.rmtree(making, ignore_errors=True)  # on a full disk others need its bytes
            raise StoreFailed(f"segment {path} could not be made: {error}") from error
        return segment

    @classmethod
    def prepare(cls, log: Path) -> Segment:
        """Make what ``create`` needs, without a snapshot; any thread may, one at a time."""
        return cls._make(log / store_files.SPARE, None)

    @classmethod
    def _make(cls, making: Path, snapshot: bytes | None) -> Segment:
        if making.exists():
            shutil.rmtree(making)  # an earlier try met a full disk, or was given up
        making.mkdir(mode=0o700)
        os.close(os.open(making / VALUES, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.close(os.open(making / DATABASE, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(making / DATABASE, isolation_level=None)
        connection.executescript(_BOOTSTRAP)
        connection.close()
        # diskcache writes its settings one by one. Nobody needs this directory before it is
        # renamed, so they are not synced one by one, but all at once below.
        segment = cls.__new__(cls)
        cache = Cache(
            str(making), timeout=5, disk=SegmentDisk, **{**SETTINGS, "sqlite_synchronous": 0}
        )
        cache.reset("sqlite_synchronous", SETTINGS["sqlite_synchronous"])
        if snapshot is not None:
            cache.set(SNAPSHOT, seal(snapshot))
        cache.close()
        _sync_all(making)
        segment.path = making
        segment._cache = cache
        segment.disk = cache.disk
        return segment

    def _write_snapshot(self, snapshot: bytes) -> None:
        """As in ``_make``: synced once, when the connection is closed."""
        self._cache._sql("PRAGMA synchronous = 0")
        self._cache.set(SNAPSHOT, seal(snapshot))
        self._cache.close()
        if (self.path / f"{DATABASE}-wal").exists():
            _sync_all(self.path)  # closing could not empty it, and does not say so
        else:
            store_files.sync_file(self.path / DATABASE)

    def _rename(self, path: Path) -> None:
        """Give the directory its final name; the next connection is made under that."""
        self.path.rename(path)
        self._cache._directory = str(path)
        self.disk.move(path)
        self.path = path

    @classmethod
    def begin_copy(cls, making: Path, snapshot: bytes) -> Segment:
        """A segment in the directory ``making``, to be filled by ``append_copies``."""
        try:
            segment = cls._make(making, snapshot)
            segment.connect()
        except (OSError, sqlite3.Error) as error:
            raise StoreFailed(f"segment {making} could not be made: {error}") from error
        return segment

    def append_copies(self, commits: Sequence[Commit]) -> None:
        """Write commits in one synced transaction, without indexing them."""
        if not commits:
            return
        with self._cache.transact():
            for commit in commits:
                self._cache.set(commit.lsn, CommitValue(commit, copied=True))
            self.disk.sync_values()

    def end_copy(self) -> None:
        """All is copied: make it durable; the next connection is made under another name."""
        self._cache.set(INDEX, encode_index(self.index))
        self._cache.set(REWRITTEN, b"1")
        self._cache.close()
        self.disk.close()
        _sync_all(self.path)

    def connect(self) -> None:
        """Open this thread's connection and refuse it unless SQLite uses what was asked for."""
        sql = self._cache._sql
        for pragma, wanted in _PRAGMAS.items():
            found = sql(f"PRAGMA {pragma}").fetchone()[0]
            if found != wanted:
                self._cache.close()
                raise ConfigError(
                    f"{self.path / DATABASE}: SQLite uses {pragma}={found}, the log needs {wanted}"
                )

    def reconnect(self) -> None:
        """A new connection: in which state SQLite left the old one after an error is not said."""
        self._cache.close()
        self.connect()

    def disconnect(self) -> None:
        """Close this thread's connection; the next use, maybe by another thread, opens one."""
        self._cache.close()

    def close(self) -> None:
        self._cache.close()
        self.disk.close()

    # --- writing ---------------------------------------------------------------------------

    def append(self, commit: Commit) -> None:
        """Write one commit in one synced transaction and index it.

        sqlite3.Error, diskcache.Timeout and OSError pass through: whether it was stored is unknown.
        """
        self._cache.set(commit.lsn, CommitValue(commit))
        self.index.add_written(commit.append_time_ns, commit.batches)

    def take_back(self, commit: Commit, end: int) -> None:
        """A commit met a full disk: give back what was written of it, behind ``end``. Raises
        StoreFailed if its row is there: nobody knows whether it was synced."""
        self.disk.cut_values(self.disk.end)
        self.reconnect()
        if self.row(commit.lsn) is not None:
            raise StoreFailed(f"{self.path / DATABASE}: commit {commit.lsn} met a full disk")
        self.disk.cut_values(end)

    def write_index(self) -> None:
        """Keep the index beside the rows, for when this segment is opened again to read."""
        self._cache.set(INDEX, encode_index(self.index))

    # --- reading ---------------------------------------------------------------------------

    def snapshot(self) -> bytes | None:
        """The state this segment opens with, or None if there is no such row.

        Raises StoreDamaged if it is there and fails its checksum.
        """
        try:
            row = self._cache.get(SNAPSHOT)
            return None if row is None else unseal(row)
        except (BadFrame, ValueError, sqlite3.DatabaseError) as error:
            raise StoreDamaged(f"{self.path / DATABASE}: the snapshot: {error}") from error

    def last_lsn(self) -> int:
        """Of the newest commit, 0 if there is none."""
        return self._cache._sql(_LAST, (2**63 - 1,)).fetchone()[0] or 0

    def row(self, lsn: int) -> bytes | None:
        """The row of one commit, or None if it is missing or its page cannot be read."""
        try:
            found: bytes | None = self._cache.get(lsn)
        except sqlite3.Error as error:
            failure = damage(self.path, error)
            if isinstance(failure, StoreFailed):
                raise failure from error
            return None
        except ValueError:
            return None
        return found

    def forget_pages(self) -> None:
        """What is read next comes from the file, not from what was read of it before."""
        self._cache._sql("PRAGMA shrink_memory")

    def rows(self, first_lsn: int, last_lsn: int) -> Generator[tuple[int, bytes], None, None]:
        """Rows of commits in order; use it up or close it before anything is written."""
        cursor = self._cache._con.cursor()
        try:
            yield from cursor.execute(_ROWS, (first_lsn, last_lsn))
        finally:
            cursor.close()

    def load_index(self, info: SegmentInfo) -> int:
        """Load the index of this closed segment, by a scan where its row does not do.

        Returns the number of commits that could not be read.
        """
        try:
            self.is_rewritten = self._cache.get(REWRITTEN) is not None
            row = self._cache.get(INDEX)
            if row is not None:
                index = decode_index(row)
                if index.first_lsn == info.first_lsn and index.last_lsn == info.last_lsn:
                    self.index = index
                    return 0
        except (BadFrame, ValueError, sqlite3.DatabaseError):
            pass
        return self._scan_index(info)

    def _scan_index(self, info: SegmentInfo) -> int:
        index = SegmentIndex(info.first_lsn)
        time_ns, lost = info.first_time_ns, 0
        for lsn in range(info.first_lsn, info.last_lsn + 1):
            row = self.row(lsn)
            found = decode_row(lsn, row)
            if row is None and self.is_rewritten:
                index.add_time(time_ns)
            elif found is None:
                lost += 1
                index.add_time(time_ns)
            else:
                time_ns = found.append_time_ns
                index.add_read(time_ns, found.batches)
        self.index = index
        return lost

    def problems(self) -> list[str]:
        """What SQLite itself finds wrong with the file."""
        try:
            found = self._cache._sql("PRAGMA integrity_check(10)").fetchall()
        except sqlite3.DatabaseError as error:
            return [f"{self.path / DATABASE}: {error}"]
        return [f"{self.path / DATABASE}: {text}" for (text,) in found if text != "ok"]

    def disk_bytes(self) -> int:
        """Bytes of all files of this segment."""
        return disk_bytes(self.path)


def damage(path: Path, error: sqlite3.Error) -> StoreDamaged | StoreFailed:
    """The store's error for SQLite's: the file at ``path`` is damaged, or the system failed."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGE:
        return StoreDamaged(f"{path / DATABASE} is damaged: {error}")
    return StoreFailed(f"{path / DATABASE}: {error}")


def is_disk_full(error: BaseException) -> bool:
    """Whether a write, not a sync, found no room."""
    if isinstance(error, SyncFailed):
        return False
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _sync_all(path: Path) -> None:
    """Make the segment at ``path``, which nobody has open, durable."""
    for file in path.iterdir():
        store_files.sync_file(file)
    store_files.sync_directory(path)


def disk_bytes(path: Path) -> int:
    """Bytes of all files of the segment at ``path``."""
    with os.scandir(path) as entries:
        return sum(entry.stat().st_size for entry in entries)


def decode_row(lsn: int, row: bytes | None) -> CommitMeta | None:
    """The meta of commit ``lsn``, or None if ``row`` is not that, whole and unchanged."""
    if type(row) is not bytes:
        return None
    try:
        meta = codec_log.decode_commit(unseal(row))
    except BadFrame:
        return None
    if meta.lsn != lsn:
        return None
    if meta.inline and meta.batches:
        last = meta.batches[len(meta.batches) - 1]
        if payload_start(row) + last.position + last.length > len(row):
            return None
    return meta
