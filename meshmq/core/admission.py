"""What the log takes: room on the disk, and bytes that wait for their sync.

Data: ``_waiting`` bytes accepted and not yet synced, per link and in all; ``_room`` what the disk
has left above its reserve, as it was measured last.

Rules:
1. No record is accepted into the reserve, not even a copy of the node's own making: what was
   accepted can be stored, and acks, deletions and retention go on when publishers get StorageFull.
2. What goes on takes from the reserve, so it is kept small there (``is_low``), and most of all not
   begun when little of it is left (``is_tight``): what nobody has in hand nobody acks.
3. Over half of the budget every producer's window shrinks (fewer unconfirmed bytes); over the
   budget, or over its own window, a producer gets Busy and a time to wait.
"""

from __future__ import annotations

from meshmq import limits
from meshmq.frames import Window


class Admission:
    """See the module's header.

    Attributes:
        waiting_bytes: accepted for the log and not yet synced.
        is_full: StorageFull is the answer now.
        is_low: the disk has no room above its reserve.
        is_tight: and little of the reserve is left.
        refusal: (code, message) of all records, whatever room there is; set by the owner.
        is_draining: programs are to leave: nothing more is handed out; set by the owner.
    """

    def __init__(self, budget_bytes: int = limits.UNSYNCED_BYTES_MAX) -> None:
        self._budget_bytes = budget_bytes
        self._room: int | None = None
        self._reserve = 0
        self._waiting: dict[bytes, int] = {}
        self.waiting_bytes = 0
        self.is_full = self.is_low = self.is_tight = self.is_draining = False
        self.refusal = ("", "")
        self.window_bytes = limits.PRODUCER_IN_FLIGHT_BYTES_MAX

    def on_measured(self, free_bytes: int, reserve_bytes: int) -> None:
        """The disk has so much free, of which ``reserve_bytes`` are not for records."""
        self._room = free_bytes - reserve_bytes
        self._reserve = reserve_bytes
        self.is_low = self._room <= 0
        tight = reserve_bytes // limits.TIGHT_SHARE
        self.is_tight = free_bytes < (tight + tight // 2 if self.is_tight else tight)
        # A little more than just enough, or it would flicker with every record.
        if self.is_full and self._room > self.waiting_bytes + reserve_bytes // 8:
            self.is_full = False

    def judge(self, link: bytes, size: int) -> tuple[str, str]:
        """(code, message) of the refusal of ``size`` bytes more, or two empty strings."""
        if self.refusal[0]:
            return self.refusal
        after = self.waiting_bytes + size
        if self.is_full or (self._room is not None and after > self._room):
            self.is_full = True
            return "storage-full", (
                f"the node's disk has no room left above its reserve of {self._reserve >> 20} MiB: "
                f"free some, or shorten the retention of topics; publishing goes on by itself then"
            )
        if after > self._budget_bytes and self.waiting_bytes:
            return "busy", f"{self.waiting_bytes} bytes wait for the node's disk, its limit"
        mine = self._waiting.get(link, 0)
        if mine and mine + size > limits.PRODUCER_UNSYNCED_BYTES_MAX:
            return "busy", f"{mine} bytes of this producer wait for the node's disk, its limit"
        return "", ""

    def takes(self, size: int) -> bool:
        """Whether there is room for ``size`` bytes of the node's own: copies of records, which can
        wait and do while publishers are refused."""
        if self.is_full or self.is_tight:
            return False
        return self._room is None or self.waiting_bytes + size <= self._room

    def accepted(self, link: bytes, size: int) -> None:
        """A batch is on its way to the log."""
        self.waiting_bytes += size
        self._waiting[link] = self._waiting.get(link, 0) + size

    def synced(self, link: bytes, size: int) -> None:
        """It is there."""
        self.waiting_bytes -= size
        left = self._waiting[link] - size
        if left:
            self._waiting[link] = left
        else:
            del self._waiting[link]

    def new_window(self) -> Window | None:
        """What to tell all producers, if what they may have unconfirmed has changed."""
        most = limits.PRODUCER_IN_FLIGHT_BYTES_MAX
        window = most
        if self.waiting_bytes * 2 > self._budget_bytes:
            share = self._budget_bytes // (2 * len(self._waiting))
            window = max(limits.BATCH_BYTES_MAX, min(most, share))
            if self.window_bytes < most:
                window = self.window_bytes  # not with every batch
        elif self.waiting_bytes * 4 > self._budget_bytes:
            window = self.window_bytes  # wide again only when there is ample room
        if window == self.window_bytes:
            return None
        self.window_bytes = window
        return Window(window, 0)
