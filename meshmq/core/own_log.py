"""Whether a node's own log is what it was: a backup that was put back is behind its own copies.

Data: from where on this life of the node writes; what copies of its log were said to have.

Rules:
1. A node with copies that starts takes no records before a sibling has told how far they go, or
   OWN_LOG_WAIT_NS are over: publishers wait, as for a slow disk.
2. A copy that goes further than the log did at its start, or does now if it was served since, shows
   that the log is an older state of its disk. From then on, over restarts too, it takes no records
   and its groups hand out nothing: offsets would be given a second time, to other records. What it
   has is read as before, and copied no more: a copy of the one would get records of the other.
3. The way on is another identity for what comes (shell/store_renew.py). What was is then a copy as
   any other, and is made whole from those that go further.
"""

from __future__ import annotations

from meshmq import limits
from meshmq.core.admission import Admission
from meshmq.core.groups import Groups
from meshmq.core.log import Entry, LogState
from meshmq.core.mirror_log import BehindEntry
from meshmq.errors import LogBehind
from meshmq.frames_copies import CopiesRow

_WAITS = "the node has just started and asks the others how far the copies of its log go"


class OwnLog:
    """See the module's header. What is to be stored gathers in ``entries``, sentences for people
    in ``news``.

    Attributes:
        behind: which copy showed it, as far as that goes.
    """

    def __init__(
        self, state: LogState, admission: Admission, groups: Groups, has_copies: bool
    ) -> None:
        self._origin = state.origin
        self._admission = admission
        self._groups = groups
        self._began = state.next_lsn
        self._is_served = False
        self._until_ns = 0
        self.behind = state.behind
        self.entries: list[Entry] = []
        self.news: list[str] = []
        if self.behind is not None:
            self._close(self.behind)
        elif has_copies and state.next_lsn > 1:
            admission.refusal = "busy", _WAITS

    def is_short_of(self, place: tuple[int, int], committed_lsn: int) -> bool:
        """Whether a copy that goes up to there is not to go on with this log."""
        return self.behind is not None or place > (committed_lsn + 1, 0)

    def served(self) -> None:
        """Part of what this life has written may be in copies."""
        self._is_served = True

    def on_rows(self, name: str, rows: tuple[CopiesRow, ...], committed_lsn: int) -> None:
        """A sibling tells of copies."""
        end = (committed_lsn + 1 if self._is_served else self._began, 0)
        for row in rows:
            place = max((row.lsn, row.slot), (row.furthest, row.furthest_slot))
            if row.origin == self._origin and place > end and self.behind is None:
                self.behind = BehindEntry(self._origin, *place, self._began, name)
                self.entries.append(self.behind)
                self._close(self.behind)
        self._open()

    def _close(self, behind: BehindEntry) -> None:
        sentence = (
            f"the log of this node ends at commit {behind.began - 1}, and node {behind.name} knows "
            f"of a copy of it up to commit {behind.lsn}: an older state of its disk was put back. "
            f"It takes no records, for their offsets were given before: stop it, run `meshmq log "
            f"renew`, and start it again"
        )
        self._admission.refusal = LogBehind.code, sentence
        self._groups.is_fenced = True
        self.news.append(sentence)

    def _open(self) -> None:
        if self.behind is None:
            self._admission.refusal = "", ""

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        if not self._until_ns:
            self._until_ns = now_ns + limits.OWN_LOG_WAIT_NS
        if now_ns >= self._until_ns:
            self._open()
