"""Whether a node's own log is what it was: a backup that was put back is behind its own copies.

Data: from where on this life of the node writes; what copies of its log were said to have.

Rules:
1. A node with copies that starts takes no records before a sibling has told how far they go, or
   OWN_LOG_WAIT_NS are over: publishers wait, as for a slow disk. Nothing is stored meanwhile. A
   node whose settings name nodes of other sites waits so for all of these: each may have a mirror.
2. A copy that goes further than the log did at its start, or does now if it was served since, shows
   that the log is an older state of its disk. From then on, over restarts too, it takes no records
   and its groups hand out nothing: offsets would be given a second time, to other records. What it
   has is read as before, but nobody copies it: what it stores from now on has places, and numbers
   of streams and groups, that other things have in its copies.
3. The way on is another identity for what comes (shell/store_renew.py). What was there before this
   life is then a copy as any other, and is made whole from those that go further; what this life
   has stored of its own is nobody's.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.copied_journal import CopiedJournal
from meshmq.core.groups import Groups
from meshmq.core.journal import JournalState
from meshmq.core.log import Entry, LogState
from meshmq.core.mirror_log import BehindEntry, MirrorState
from meshmq.core.sibling import Sibling
from meshmq.errors import LogBehind
from meshmq.frames_copies import CopiesRow
from meshmq.names import is_named

_WAITS = "the node has just started and asks the others how far the copies of its log go"


class OwnLog:
    """See the module's header. What is to be stored gathers in ``entries``, sentences for people
    in ``news``.

    Attributes:
        behind: which copy showed it, as far as that goes.
        is_asking: nothing is to be stored yet.
    """

    def __init__(
        self, state: LogState, admission: Admission, groups: Groups, has_copies: bool, command: str
    ) -> None:
        self._command = command
        self._origin = state.origin
        self._admission = admission
        self._groups = groups
        self._began = state.next_lsn
        self._is_served = False
        self._until_ns = 0
        self.is_asking = False
        self._has_copies = has_copies
        self._far_asked = 0  # nodes of other sites that are to tell
        self._far_heard: set[bytes] = set()
        self.behind = state.behind
        self.entries: list[Entry] = []
        self.news: list[str] = []
        if self.behind is not None:
            self._close(self.behind)
        elif has_copies:
            self._ask()

    def ask_sites(self, nodes: int) -> None:
        """The node is about to start, and its settings name so many ``nodes`` of other sites."""
        self._far_asked = nodes
        if nodes and self.behind is None:
            self._ask()

    def _ask(self) -> None:
        if self._began > 1:
            self._admission.refusal = "busy", _WAITS
            self.is_asking = True

    def is_short_of(self, place: tuple[int, int], committed_lsn: int) -> bool:
        """Whether a copy that goes up to there is not to go on with this log."""
        return self.behind is not None or place > (committed_lsn + 1, 0)

    def served(self) -> None:
        """Part of what this life has written may be in copies."""
        self._is_served = True

    def on_far_rows(self, node: Sibling, rows: tuple[CopiesRow, ...], committed_lsn: int) -> None:
        """A node of another site tells of its mirror, if it has one."""
        self._far_heard.add(node.origin)
        self._look(f"{node.site}/{node.name}", rows, committed_lsn)

    def on_rows(self, name: str, rows: tuple[CopiesRow, ...], committed_lsn: int) -> None:
        """A sibling tells of copies."""
        self._has_copies = False
        self._look(name, rows, committed_lsn)

    def _look(self, name: str, rows: tuple[CopiesRow, ...], committed_lsn: int) -> None:
        end = (committed_lsn + 1 if self._is_served else self._began, 0)
        for row in rows:
            place = max((row.lsn, row.slot), (row.furthest, row.furthest_slot))
            if row.origin == self._origin and place > end and self.behind is None:
                self.behind = BehindEntry(self._origin, *place, self._began, name)
                self.entries.append(self.behind)
                self._close(self.behind)
        if not self._has_copies and len(self._far_heard) >= self._far_asked:
            self._open()

    def _close(self, behind: BehindEntry) -> None:
        self.is_asking = False
        sentence = (
            f"the log of this node ends at commit {behind.began - 1}, and node {behind.name} knows "
            f"of a copy of it up to commit {behind.lsn}: an older state of its disk was put back. "
            f"It takes no records, for their offsets were given before, and what only the copies "
            f"have is not read until it is renewed: stop it, run `{self._command}`, and start it "
            f"again"
        )
        self._admission.refusal = LogBehind.code, sentence
        self._groups.is_fenced = True
        self.news.append(sentence)

    def describe(self) -> dict[str, Any] | None:
        """As ``status`` shows it; None: all is well."""
        if self.behind is None:
            return None
        return {"lsn": self.behind.lsn, "told_by": self.behind.name, "renew": self._command}

    def _open(self) -> None:
        if self.behind is None:
            self._admission.refusal = "", ""
            self.is_asking = False

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        if not self._until_ns:
            self._until_ns = now_ns + limits.OWN_LOG_WAIT_NS
        if now_ns >= self._until_ns:
            self._open()


def give_up(
    state: LogState, origin: bytes, name: str, lsn: int, before: LogState, lacks: bool = False
) -> None:
    """The log of ``state`` goes on as ``origin``: all that was its own before commit ``lsn``, when
    it was as in ``before``, is a copy of the log of node ``name`` that it was. ``lacks``: what its
    groups had done then is not known. What it has of its own from then on is nobody's: the log
    that it was has something else at these places, and under the numbers of these streams."""
    ends = {number: s.next_offset for number, s in before.streams.items() if not s.topic.origin}
    old, state.origin = state.origin, origin
    journal = CopiedJournal() if lacks else CopiedJournal.of(before.journal)
    copy = MirrorState(name, lsn, 0, journal=journal, lacks=lacks, own_until=lsn)
    for held in [s for s in state.topics.values() if s.topic.stream]:
        number = held.topic.stream
        del state.topics[held.topic.name]
        if number not in ends:
            del state.streams[number]
            continue
        # Its policy was for its owner: it is kept until the old log is forgotten.
        held.topic = held.topic._replace(
            origin=old, source=number, retention_ns=0, retention_bytes=0, copies=0
        )
        held.first_offset = min(held.first_offset, ends[number])
        held.next_offset = ends[number]
        copy.streams[number] = number
    journal.forget_streams(ends.keys() - copy.streams.keys())
    state.mirrors[old] = copy
    state.journal = JournalState(next_id=state.journal.next_id)
    producers = {k: p for k, p in state.producers.items() if k[1] not in copy.streams}
    producers |= {k: p for k, p in before.producers.items() if k[1] in copy.streams}
    state.producers = OrderedDict(
        sorted(
            [(k, p) for k, p in producers.items() if k[1] in state.streams and is_named(k[0])],
            key=lambda item: item[1].last_time_ns,
        )
    )
    state.behind = None
