"""A disk for the simulator: group commits that take time, and crashes that forget the rest.

It keeps the promises of the real store (the shell's LogStore), which tests/shell holds to the same
contract: what is committed is in order, dense and whole; reads stop at their bounds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from meshmq.core.effects import MendLog, ReadLog, SurveyLog
from meshmq.core.events import ReadDone, Surveyed
from meshmq.core.log import (
    BatchEntry,
    Commit,
    Entry,
    LogState,
    StoredBatch,
    split_entries,
)
from meshmq.core.mirror_log import BEHIND_ALL, Copied
from meshmq.core.own_log import give_up

SCAN_COMMITS_MAX = 50  # small, so that reads end in the middle of nothing


class Disk:
    """What survives.

    Attributes:
        state: the sum of ``commits``, as recovery would find it.
        commits: all synced commits, from lsn 1.
        synced: (stream, offset) -> record, of what is synced and was ever stored.
        flipped: (lsn, slot) of batches whose bytes on disk are no longer what was written.
    """

    def __init__(self, origin: bytes) -> None:
        self.state = LogState(origin)
        self.commits: list[Commit] = []
        self.synced: dict[tuple[int, int], bytes] = {}
        self.flipped: set[tuple[int, int]] = set()
        self._began = LogState(origin)  # what commits add up from

    def commit(
        self, entries: Sequence[Entry], wall_ns: int, records: Callable[[bytes], list[bytes]]
    ) -> Commit:
        """Sync one group of entries."""
        commit = Commit(
            self.state.next_lsn,
            max(wall_ns, self.state.append_time_ns),
            *split_entries(list(entries)),
        )
        self.state.apply(commit)
        self.commits.append(commit)
        for batch in commit.batches:
            for i, record in enumerate(records(batch.payload)):
                # The first record an offset had stays, so that a reuse is seen as a difference.
                self.synced.setdefault((batch.stream, batch.base_offset + i), record)
        return commit

    def renew(self, origin: bytes, name: str) -> None:
        """As ``meshmq log renew`` does of node ``name`` (shell/store_renew.py)."""
        lsn, before = self.state.next_lsn, self.state
        if self.state.behind is not None:
            lsn, before = self.state.behind.began, copy.deepcopy(self._began)
            for commit in self.commits[before.next_lsn - 1 : lsn - 1]:
                before.apply(commit)
        give_up(self.state, origin, name, lsn, before)
        self._began = copy.deepcopy(self.state)

    def ends(self) -> dict[int, int]:
        """Offset behind the last record of each stream that can still be read."""
        if not self.flipped:
            return {number: one.next_offset for number, one in self.state.streams.items()}
        found = {number: one.first_offset for number, one in self.state.streams.items()}
        for commit in self.commits:
            for slot, batch in enumerate(commit.batches):
                if batch.stream in found and (commit.lsn, slot) not in self.flipped:
                    end = batch.base_offset + batch.count
                    found[batch.stream] = max(found[batch.stream], end)
        return found

    def read(self, order: ReadLog) -> ReadDone:
        """Answer a read as the store does."""
        if order.origin:
            return self._read_copies(order)
        lsn, slot = self._begin(order)
        found: list[StoredBatch] = []
        size = 0
        last = min(order.end_lsn, len(self.commits), lsn + SCAN_COMMITS_MAX - 1)
        while lsn <= last:
            commit = self.commits[lsn - 1]
            for at in range(slot, len(commit.batches)):
                batch = commit.batches[at]
                if not self._is_wanted(batch, order):
                    continue
                if found and size + len(batch.payload) > order.bytes_max:
                    return ReadDone(order.reader, tuple(found), lsn, at)
                size += len(batch.payload)
                is_damaged = (lsn, at) in self.flipped
                found.append(
                    StoredBatch(
                        batch.stream, batch.base_offset, batch.count,
                        b"" if is_damaged else batch.payload,
                        batch.checksum, commit.append_time_ns, lsn, at, is_damaged,
                        batch.producer, batch.first, batch.moved,
                        next((c[2:] for c in commit.copied if c.index == at), None),
                    )
                )  # fmt: skip
            lsn, slot = lsn + 1, 0
        return ReadDone(order.reader, tuple(found), max(lsn, 1), 0)

    def mend(self, order: MendLog) -> None:
        """Write a damaged batch in its place."""
        for lsn, slot in list(self.flipped):
            batch = self.commits[lsn - 1].batches[slot]
            if (batch.stream, batch.base_offset) == (order.stream, order.offset):
                assert batch.payload == order.payload
                self.flipped.discard((lsn, slot))

    def _read_copies(self, order: ReadLog) -> ReadDone:
        mirror = self.state.mirrors.get(order.origin)
        if mirror is None:
            return ReadDone(order.reader, (), 1, 0)
        kind, value, slot = order.start
        found: list[StoredBatch] = []
        size = 0
        for c, commit in self._in_its_order(order.origin):
            batch = commit.batches[c.index]
            if c.origin != order.origin or not self._is_wanted(batch, order):
                continue
            if (
                (kind == "position" and (c.lsn, c.slot) < (value, slot))
                or (kind == "time" and c.append_time_ns < value)
                or (kind == "offset" and batch.base_offset + batch.count <= value)
            ):
                continue
            if found and (
                size + len(batch.payload) > order.bytes_max or len(found) == SCAN_COMMITS_MAX
            ):
                return ReadDone(order.reader, tuple(found), found[-1].lsn, found[-1].slot + 1)
            size += len(batch.payload)
            bad = (commit.lsn, c.index) in self.flipped or not batch.payload
            found.append(
                StoredBatch(
                    batch.stream, batch.base_offset, batch.count,
                    b"" if bad else batch.payload, batch.checksum,
                    c.append_time_ns, c.lsn, c.slot, bad, batch.producer, batch.first,
                    batch.moved, c[2:],
                )
            )  # fmt: skip
        return ReadDone(order.reader, tuple(found), *BEHIND_ALL)

    def _in_its_order(self, origin: bytes) -> list[tuple[Copied, Commit]]:
        """What there is of a log, in the order it has there."""
        rows = [(c, commit) for commit in self.commits for c in self._of(origin, commit)]
        if len({held.topic.strand for held in self.state.streams.values()}) > 1:
            rows.sort(key=lambda row: (row[0].lsn, row[0].slot))
        return rows

    def _of(self, origin: bytes, commit: Commit) -> Sequence[Copied]:
        """What of a log a commit has; before it was renewed this one was it."""
        mirror = self.state.mirrors[origin]
        if commit.lsn >= mirror.own_until:
            return commit.copied
        return [
            Copied(slot, origin, commit.lsn, slot, commit.append_time_ns)
            for slot, batch in enumerate(commit.batches)
            if batch.stream in mirror.streams
        ]

    def survey(self, order: SurveyLog) -> Surveyed:
        """Answer a survey as the store does."""
        lsn = 0
        if order.time_ns is not None:
            lsn = self.state.next_lsn
            for commit in self.commits:
                if commit.append_time_ns >= order.time_ns:
                    lsn = commit.lsn
                    break
        rows = []
        for stream, floor in order.floors:
            state = self.state.streams.get(stream)
            if state is None:
                continue
            mine = [(c, b) for c in self.commits for b in c.batches if b.stream == stream]
            if order.place is not None:
                later = [b.base_offset for c in self.commits for slot, b in enumerate(c.batches)
                         if b.stream == stream and (c.lsn, slot) >= order.place]  # fmt: skip
                floor = later[0] if later else state.next_offset
            if order.time_ns is not None:
                later = [b.base_offset for c, b in mine if c.lsn >= lsn]
                floor = later[0] if later else state.next_offset
            floor = max(floor, state.first_offset)
            size = sum(len(b.payload) for _, b in mine if b.base_offset + b.count > floor)
            rows.append((stream, floor, size))
        return Surveyed(order.number, lsn, tuple(rows))

    def _begin(self, order: ReadLog) -> tuple[int, int]:
        kind, value, slot = order.start
        if kind == "position":
            return max(1, value), slot
        for commit in self.commits:
            if kind == "time" and commit.append_time_ns >= value:
                return commit.lsn, 0
            if kind in ("offset", "fresh"):
                for at, batch in enumerate(commit.batches):
                    if batch.stream in order.streams and batch.base_offset + batch.count > value:
                        return commit.lsn, at
        return order.end_lsn + 1, 0

    def _is_wanted(self, batch: BatchEntry, order: ReadLog) -> bool:
        stream = self.state.streams.get(batch.stream)
        return (
            stream is not None
            and batch.stream in order.streams
            and batch.base_offset + batch.count > stream.first_offset
        )
